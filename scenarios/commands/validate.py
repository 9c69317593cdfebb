"""tidegate validate: scenarios and manifests, every problem with file and line."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scenarios.commands.options import parser

if TYPE_CHECKING:
    from core.errors import Problem
    from scenarios.manifests import ManifestObject


def main(arguments: list[str]) -> int:
    options = parser(
        "validate",
        "Checks scenario files and manifests. Every problem is printed as FILE:LINE: what, found, expected. Manifests that are given\n"
        "together are looked at together: names of Gateways, Services and classes must lead to one of them.",
        "  tidegate validate examples/poc2/*.yaml\n  tidegate validate my-scenario.yaml poc2-stateless",
    )
    options.add_argument("files", metavar="FILE", nargs="+", help="a file, or the name of a scenario of the library")
    chosen = options.parse_args(arguments)

    from core.errors import InputError

    good, problems = validate(dict.fromkeys(chosen.files))
    for name, text in good.items():
        sys.stdout.write(f"{name}: {text}\n")
    if problems:
        sys.stdout.flush()
        raise InputError(*problems)
    return 0


def validate(names: Mapping[str, object]) -> tuple[dict[str, str], list[Problem]]:
    """What each good file holds, and every problem of the others."""
    from core.errors import InputError

    good: dict[str, str] = {}
    problems: list[Problem] = []
    manifests: dict[str, tuple[ManifestObject, ...]] = {}
    for name in names:
        try:
            text, found = _one(name)
        except InputError as error:
            problems.extend(problem for problem in error.problems if problem not in problems)
            continue
        good[name] = text
        manifests[name] = found
    doubts = _between([obj for found in manifests.values() for obj in found])
    for name, found in manifests.items():
        if {doubt.where.rpartition(":")[0] for doubt in doubts} & {obj.node.source for obj in found}:
            del good[name]
    return good, problems + doubts


def _one(name: str) -> tuple[str, tuple[ManifestObject, ...]]:
    """What a good file holds, and its objects when it is a manifest. Raises InputError."""
    from core.errors import InputError
    from scenarios.load import exists, find_scenario, load_scenario
    from scenarios.manifests import read_manifests
    from scenarios.rehearsal import rehearse
    from scenarios.yamlsource import scan_documents

    path = Path(name) if exists(name) else find_scenario(name)
    if any(_is_scenario(document.value) for document in scan_documents(path)[0]):
        loaded = load_scenario(str(path) if path.is_absolute() else f"./{path}")
        found = rehearse(loaded)
        if found.doubts:
            raise InputError(*found.doubts)
        return f"scenario {loaded.scenario.name} with {len(found.objects)} objects, good", ()
    objects = read_manifests([path])
    return f"{len(objects)} object{'s' if len(objects) > 1 else ''}, good{_unread(objects)}", objects


def _unread(objects: Sequence[ManifestObject]) -> str:
    """The kinds among them that nobody looked at: they are somebody else's, or their group is misspelt."""
    kinds = {f"{obj.ref.kind} of {obj.group or 'v1'}": obj.node.where for obj in reversed(objects) if not obj.known}
    if not kinds:
        return ""
    listed = ", ".join(f"{kind} ({where})" for kind, where in reversed(kinds.items()))
    return f"; not looked at, for Tidegate does not read these kinds: {listed}"


def _between(objects: Sequence[ManifestObject]) -> list[Problem]:
    """What is wrong between the objects of good manifests."""
    from scenarios.crosscheck import cross_problems
    from scenarios.manifests import by_line, desired
    from scenarios.predict import plan_of

    return sorted(cross_problems(plan_of(desired(objects)), objects, (), complete=False), key=by_line)


def _is_scenario(value: object) -> bool:
    """Whether a document is a scenario rather than a Kubernetes object: by the keys that only one of them has."""
    if not isinstance(value, Mapping) or "apiVersion" in value or "kind" in value:
        return False
    return bool({"manifests", "topology", "traffic", "expectations", "timeline"} & value.keys())
