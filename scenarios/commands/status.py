"""tidegate status: what the testbed is doing."""

from __future__ import annotations

from typing import Any

from scenarios.commands.options import parser, write_json


def main(arguments: list[str]) -> int:
    options = parser(
        "status",
        "Shows the hosts of the testbed, and what the routers outside know.",
        "  tidegate status\n  tidegate status -o json",
    )
    options.add_argument("-o", "--output", choices=("table", "json"), default="table")
    chosen = options.parse_args(arguments)

    from scenarios.testbed import ask

    status: dict[str, Any] = ask({"do": "status"})["status"]
    if chosen.output == "json":
        write_json(status)
        return 0
    from scenarios.tables import print_line, print_table

    print_line(f"{status['scenario']}: {status['missing'] or 'everything is as the plan says'}", "bold")
    print_line("")
    print_table(("host", "addresses"), [(host["name"], "  ".join(host["addresses"])) for host in status["hosts"]])
    print_line("")
    print_table(
        ("router outside", "route", "over"),
        [(route["router"], route["prefix"], "  ".join(route["over"])) for route in status["routes"]],
    )
    return 0
