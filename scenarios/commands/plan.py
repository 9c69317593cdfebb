"""tidegate plan: what the core makes of manifests."""

from __future__ import annotations

import sys

from scenarios.commands.options import add_manifests, parser, write_json


def main(arguments: list[str]) -> int:
    options = parser(
        "plan",
        "Shows what the core would program from these manifests, and every status it would write: virtual addresses, peers, flows,\n"
        "targets, conditions. Where an object is wrong, the others are planned all the same, and the exit code is 2.\n"
        "Without Pods or EndpointSlices in the files, the Pods of their Deployments and gateways are assumed.",
        "  tidegate plan -f examples/poc2/applications.yaml examples/poc2/gateway.yaml\n"
        "  tidegate plan -f examples/poc2/*.yaml -o yaml",
    )
    add_manifests(options)
    options.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
    chosen = options.parse_args(arguments)

    from core.errors import InputError
    from scenarios.inputs import plan_files

    planned = plan_files(chosen.files, assume_pods=not chosen.no_assumed_pods)
    if line := planned.assumed_line():
        sys.stderr.write(line + "\n")
    from scenarios.plan_view import plan_json, print_plan

    if chosen.output == "table":
        print_plan(planned.plan)
    elif chosen.output == "json":
        write_json(plan_json(planned.plan, planned.assumptions))
    else:
        import yaml

        value = plan_json(planned.plan, planned.assumptions)
        yaml.safe_dump(value, sys.stdout, sort_keys=False, allow_unicode=True, width=120)
    if planned.problems or planned.doubts:
        sys.stdout.flush()
        raise InputError(*planned.problems, *planned.doubts)
    return 0
