"""What is wrong between the objects of manifests: names that nothing has, references that are not permitted, addresses taken twice.

A cluster says it in statuses and Events; here each stands with its file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

from core.binding import OUR_CLASSES
from core.errors import Problem
from core.model import ObjectRef
from core.names import GATEWAY_GROUP
from core.plan import Plan
from core.problems import Path
from core.status import ClassStatus, Condition, GatewayStatus, RouterStatus, RouteStatus, Status
from scenarios.decode import nearest
from scenarios.manifests import ManifestObject

NO_MISTAKES = frozenset({"Pending", "AddressNotAssigned", "Programmed"})
"""Reasons that speak of what is not there yet."""
_BACKENDS: tuple[Path, ...] = (("spec", "backendRefs"), ("spec", "rules", 0, "backendRefs"))
_PLACES: Mapping[str, tuple[Path, ...]] = {
    **dict.fromkeys(("BackendNotFound", "RefNotPermitted", "InvalidKind"), _BACKENDS),
    "NoMatchingParent": (("spec", "parentRefs"), ("metadata", "labels")),
    "NotAllowedByListeners": (("spec", "parentRefs"),),
    "Overtaken": (("spec", "priority"),),
    "InvalidParameters": (("spec", "infrastructure", "parametersRef"),),
}
"""By the reason of a condition: where its cause is written, the first place that an object has."""
_NAMED = {"BackendNotFound": "Service", "NoMatchingParent": "Gateway"}
"""By reason: the kind of object that a name did not lead to."""


def cross_problems(
    plan: Plan, objects: Sequence[ManifestObject], known: Sequence[Problem], *, complete: bool = True
) -> Iterator[Problem]:
    """What the statuses of `plan`, and the classes of Gateways, say is wrong between `objects`. `known` are the problems of the objects
    themselves: neither they nor what follows from them is told again. Unless `objects` are `complete`, names of kinds of which there is
    none are not looked for.
    """
    by_ref = {found.ref: found for found in objects if found.known}
    lines = [(found, set(_lines(found))) for found in objects] if known else []
    wheres = {problem.where for problem in known}
    broken = [found.ref for found, own in lines if found.known and own & wheres]
    elsewhere = set()
    if wheres - set().union(*(own for _, own in lines)):
        # What could not even be told apart as an object may have had the name.
        elsewhere = set(_NAMED)
    elif not complete:
        kinds = {found.ref.kind for found in by_ref.values()}
        elsewhere = {key for key, kind in _NAMED.items() if kind not in kinds}
    yield from _unknown_classes(objects)
    for status in plan.statuses:
        found = by_ref.get(status.ref)
        if found is None or found.ref in broken:
            continue
        for key, text in dict.fromkeys(_said(status, found)):
            if key not in elsewhere and not any(_speaks_of(text, ref) for ref in broken):
                place = next((path for path in _PLACES.get(key, ()) if _has(found, path)), ("metadata", "name"))
                yield Problem(where=found.node.line_at(place), what=f"{status.ref}: {text}")


def _said(status: Status, found: ManifestObject) -> Iterator[tuple[str, str]]:
    """(reason, text)."""
    match status:
        case RouteStatus():
            yield from (("NoMatchingParent", text) for text in status.nowhere)
            if not status.parents and not status.nowhere and not found.obj.get("spec", {}).get("parentRefs"):
                yield "Detached", "attaches to no Gateway: name one in spec.parentRefs"
            if status.overtaken_by is not None:
                text = f"{status.overtaken_by}, of the same priority, gets packets that both match"
                yield "Overtaken", f"{text}: give one of them another priority"
            for parent in status.parents:
                yield from _bad(parent.conditions)
        case GatewayStatus():
            yield from _bad(status.conditions)
            for listener in status.listeners:
                yield from ((key, f"listener {listener.name!r}: {text}") for key, text in _bad(listener.conditions))
        case RouterStatus() | ClassStatus():
            yield from _bad(status.conditions)
        case _:
            assert_never(status)


def _bad(conditions: Sequence[Condition]) -> Iterator[tuple[str, str]]:
    """(reason, text) of each mistake; that what is not accepted is not programmed follows from another."""
    for condition in conditions:
        follows = (condition.type, condition.reason) == ("Programmed", "Invalid")
        if not condition.status and condition.reason not in NO_MISTAKES and condition.message and not follows:
            yield condition.reason, condition.message


def _has(found: ManifestObject, path: Path) -> bool:
    value: object = found.obj
    for step in path:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value is not None


def _speaks_of(text: str, ref: ObjectRef) -> bool:
    return re.search(re.escape(str(ref)) + r"(?![-.\w])", text) is not None


def _lines(found: ManifestObject) -> Iterator[str]:
    waiting = [found.node]
    while waiting:
        node = waiting.pop()
        yield node.where
        if isinstance(node.value, tuple):
            waiting += node.value
        elif isinstance(node.value, Mapping):
            yield from (f"{entry.node.source}:{entry.line}" for entry in node.value.values())
            waiting += [entry.node for entry in node.value.values()]


def _unknown_classes(objects: Sequence[ManifestObject]) -> Iterator[Problem]:
    """Gateways of a class that is neither ours nor defined in `objects`."""
    defined = {found.ref.name for found in objects if found.known and found.ref.kind == "GatewayClass"}
    for found in objects:
        if (found.group, found.ref.kind) != (GATEWAY_GROUP, "Gateway"):
            continue
        spec = found.obj.get("spec")
        name = spec.get("gatewayClassName") if isinstance(spec, dict) else None
        if isinstance(name, str) and name and name not in OUR_CLASSES and name not in defined:
            yield Problem(
                where=found.node.line_at(("spec", "gatewayClassName")),
                what=f"{found.ref}: unknown class: no GatewayClass here has this name, and it is none of ours",
                found=repr(name),
                expected=nearest(name, OUR_CLASSES),
            )
