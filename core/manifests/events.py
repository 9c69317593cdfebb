"""Events: what a person must know of a change in a status, where `kubectl describe` and `kubectl get events` show it.

A condition that becomes False is a warning; one that becomes True again is normal. What was good from the beginning is no news.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from core.kube import Json
from core.manifests.render import API_VERSIONS, parent_ref
from core.manifests.stored import elements, named
from core.status import ClassStatus, Condition, GatewayStatus, RouterStatus, RouteStatus, Status

COMPONENT = "tidegate-controller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One piece of news about an object."""

    warning: bool
    reason: str
    message: str


def news(status: Status, current: Json) -> tuple[Event, ...]:
    """What changes for a person when `status` is written to the object `current`."""
    before = current.get("status") or {}
    match status:
        case GatewayStatus():
            known = named(before, "listeners", "name")
            found = [*_changes("", status.conditions, before)]
            for listener in status.listeners:
                found += _changes(f"listener {listener.name}: ", listener.conditions, known.get(listener.name, {}))
        case RouteStatus():
            parents = {_parent_key(item.get("parentRef")): item for item in elements(before, "parents")}
            found = []
            for parent in status.parents:
                where = f"{parent.parent.namespace}/{parent.parent.name}"
                old = parents.get(_parent_key(parent_ref(parent.parent)), {})
                found += _changes(f"parent {where}: ", parent.conditions, old)
            found += [Event(warning=True, reason="NoMatchingParent", message=text) for text in status.nowhere]
        case ClassStatus() | RouterStatus():
            found = [*_changes("", status.conditions, before)]
        case _:
            assert_never(status)
    return tuple(found)


def _parent_key(ref: Any) -> tuple[str, ...]:
    given: Mapping[str, Any] = ref if isinstance(ref, dict) else {}
    return tuple(str(given.get(key, "")) for key in ("namespace", "name", "sectionName", "port"))


def _changes(where: str, wanted: tuple[Condition, ...], before: Mapping[str, Any]) -> Iterator[Event]:
    known = named(before, "conditions", "type")
    for condition in wanted:
        old = known.get(condition.type)
        if condition.status:
            if old is not None and old.get("status") == "False":
                text = condition.message or f"{condition.type} again"
                yield Event(warning=False, reason=condition.reason, message=where + text)
        elif old is None or old.get("status") != "False" or old.get("reason") != condition.reason:
            text = condition.message or f"not {condition.type}"
            yield Event(warning=True, reason=condition.reason, message=where + text)


def event_object(event: Event, about: Json, existing: Json | None, now: str) -> Json:
    """The Event object; `existing` is the one of the same name, whose count goes up. `now` is an RFC 3339 time."""
    metadata = about["metadata"]
    kind = about["kind"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(event, about), "namespace": metadata.get("namespace") or "default"},
        "involvedObject": {
            "apiVersion": about.get("apiVersion") or API_VERSIONS[kind],
            "kind": kind,
            "name": metadata["name"],
            "namespace": metadata.get("namespace", ""),
            "uid": metadata.get("uid", ""),
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message,
        "source": {"component": COMPONENT},
        "firstTimestamp": (existing or {}).get("firstTimestamp") or now,
        "lastTimestamp": now,
        "count": int((existing or {}).get("count") or 0) + 1,
    }


def event_name(event: Event, about: Json) -> str:
    """The same news about the same object has the same name: it is counted, not repeated."""
    text = f"{about['kind']}/{about['metadata'].get('uid')}/{event.warning}/{event.reason}/{event.message}"
    return f"{about['metadata']['name']}.{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
