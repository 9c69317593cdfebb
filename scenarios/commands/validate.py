"""tidegate validate: scenarios and manifests, every problem with file and line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from scenarios.commands.options import parser


def main(arguments: list[str]) -> int:
    options = parser(
        "validate",
        "Checks scenario files and manifests. Every problem is printed as FILE:LINE: what, found, expected.",
        "  tidegate validate examples/poc2/*.yaml\n  tidegate validate my-scenario.yaml poc2-stateless",
    )
    options.add_argument("files", metavar="FILE", nargs="+", help="a file, or the name of a scenario of the library")
    chosen = options.parse_args(arguments)

    from core.errors import InputError, Problem

    problems: list[Problem] = []
    for name in chosen.files:
        try:
            sys.stdout.write(f"{name}: {validate(name)}\n")
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        sys.stdout.flush()
        raise InputError(*problems)
    return 0


def validate(name: str) -> str:
    """What a good file holds. Raises InputError."""
    from scenarios.load import find_scenario, load_scenario
    from scenarios.manifests import read_manifests
    from scenarios.yamlsource import scan_documents

    path = find_scenario(name) if not Path(name).exists() else Path(name)
    if any(_is_scenario(document.value) for document in scan_documents(path)[0]):
        loaded = load_scenario(str(path) if path.suffix else f"./{path}")
        objects = read_manifests([*loaded.manifests, *loaded.updates])
        return f"scenario {loaded.scenario.name} with {len(objects)} objects, good"
    objects = read_manifests([path])
    return f"{len(objects)} object{'s' if len(objects) > 1 else ''}, good"


def _is_scenario(value: object) -> bool:
    """Whether a document is a scenario rather than a Kubernetes object: by the keys that only one of them has."""
    if not isinstance(value, Mapping) or "apiVersion" in value or "kind" in value:
        return False
    return bool({"manifests", "topology", "traffic", "expectations", "timeline"} & value.keys())
