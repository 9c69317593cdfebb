"""The model of what informers hold, each object parsed once when it changes; the plan of it; what was written and is not seen yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from core.kube import Informer, Json, ObjectName
from core.manifests import parse_object
from core.model import KubeObject
from core.objects import Objects, Rejected
from core.plan import Plan, Planner
from core.reflector import version_number
from live.changes import Changes


class ModelStore:
    """Turns the snapshots of several informers into Objects."""

    def __init__(self, informers: Sequence[Informer]) -> None:
        self._informers = tuple(informers)
        self._parsed: list[dict[ObjectName, tuple[Json, KubeObject | Rejected | None]]] = [{} for _ in self._informers]

    def objects(self) -> Objects:
        """Everything that the informers hold now."""
        items: list[KubeObject | Rejected] = []
        for i, informer in enumerate(self._informers):
            before, after = self._parsed[i], {}
            for name, raw in informer.objects().items():
                known = before.get(name)
                # Snapshots share unchanged objects, so identity tells.
                after[name] = known if known is not None and known[0] is raw else (raw, parse_object(raw))
            self._parsed[i] = after
            items += [model for _, model in after.values() if model is not None]
        return Objects.of(items)


class PlanStore:
    """The Plan of what several informers hold, made from what changed since the last time."""

    def __init__(self, informers: Sequence[Informer]) -> None:
        self._planner = Planner()
        self._changes = Changes(informers, self._planner)

    def plan(self) -> Plan:
        """The Plan of everything that the informers hold now. What did not change is the same object as last time."""
        self._changes.tell()
        return self._planner.plan()

    def models(self, informer: Informer) -> Mapping[ObjectName, KubeObject | Rejected]:
        """What was read of what `informer` held when the last plan was made; the same object as long as it has not changed."""
        return self._changes.models(informer)


OWN_WRITE_S = 200.0
"""How long a write of ours stands while the watch has not come to it: longer than a watch may be silent, WATCH_READ_TIMEOUT_S, and the
next one takes to begin. Only the watch of a store that was restored from before the write never comes to it."""
LOOK_AGAIN_S = 5.0
"""While a write is not seen: a list that has nothing new wakes nobody, though its version says that the write was undone."""


class OwnWrites:
    """An informer that already has what this process wrote, before the watch has told of it."""

    def __init__(self, informer: Informer, now_s: Callable[[], float]) -> None:
        self._informer = informer
        self._now_s = now_s
        self._written: dict[ObjectName, tuple[Json, float]] = {}
        """What stands for what the informer holds, and until when, seen or not."""

    @property
    def synced(self) -> bool:
        return self._informer.synced

    @property
    def version(self) -> str | None:
        return self._informer.version

    def note(self, stored: Json) -> None:
        """What the API answered to a write."""
        metadata = stored["metadata"]
        self._written[metadata.get("namespace", ""), metadata["name"]] = (stored, self._now_s() + OWN_WRITE_S)

    def forget(self, name: ObjectName) -> None:
        """It was deleted."""
        self._written.pop(name, None)

    def look_again_s(self) -> float | None:
        """In how long to look at `objects` again although nothing is told: while a write is not seen."""
        now_s = self._now_s()
        return LOOK_AGAIN_S if any(until_s > now_s for _, until_s in self._written.values()) else None

    def objects(self) -> Mapping[ObjectName, Json]:
        """What the informer holds, under writes of ours that it has not come to, or the same: what we wrote is nobody's change."""
        # Before the objects: they may have more than this version, never less. It says of what is not there whether it is gone or
        # to come; what is there says so itself, even if events come out of order.
        told = _number(self._informer.version)
        seen, now_s = self._informer.objects(), self._now_s()
        for name, (stored, until_s) in list(self._written.items()):
            version, held = _version(stored), _version(seen.get(name))
            if held == version:
                self._written[name] = (stored, now_s)
            elif (told if held is None else _number(held)) >= _number(version) or until_s <= now_s:
                del self._written[name]
        return {**seen, **{name: stored for name, (stored, _) in self._written.items()}} if self._written else seen


def _version(obj: Json | None) -> str | None:
    return obj["metadata"]["resourceVersion"] if obj is not None else None


def _number(version: str | None) -> int:
    """Of what has no version that can be compared, 0."""
    return version_number(version) or 0
