"""The model of what informers hold, each object parsed once when it changes; the plan of it; what was written and is not seen yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from core.kube import Informer, Json, ObjectName
from core.manifests import parse_object
from core.model import KubeObject
from core.objects import Objects, Rejected
from core.plan import Plan, Planner
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


OWN_WRITE_S = 5.0
"""How long a write of ours stands against what the informer says: much longer than a watch takes, and a write that somebody else undid
before we saw it is not believed for ever."""


class OwnWrites:
    """An informer that already has what this process wrote, before the watch has told of it."""

    def __init__(self, informer: Informer, now_s: Callable[[], float]) -> None:
        self._informer = informer
        self._now_s = now_s
        self._written: dict[ObjectName, tuple[Json, float]] = {}

    @property
    def synced(self) -> bool:
        return self._informer.synced

    def note(self, stored: Json) -> None:
        """What the API answered to a write."""
        metadata = stored["metadata"]
        self._written[metadata.get("namespace", ""), metadata["name"]] = (stored, self._now_s() + OWN_WRITE_S)

    def forget(self, name: ObjectName) -> None:
        """It was deleted."""
        self._written.pop(name, None)

    def objects(self) -> Mapping[ObjectName, Json]:
        """What the informer holds, with writes of ours over it that are newer, or the same: what we wrote is nobody's change."""
        seen, now_s = self._informer.objects(), self._now_s()
        self._written = {
            name: (stored, until_s)
            for name, (stored, until_s) in self._written.items()
            if _is_over(seen.get(name), stored, in_time=until_s > now_s)
        }
        return {**seen, **{name: stored for name, (stored, _) in self._written.items()}} if self._written else seen


def _is_over(seen: Json | None, stored: Json, *, in_time: bool) -> bool:
    """Whether `stored`, which we wrote, stands for what was `seen`."""
    if seen is None or _version(seen) < _version(stored):
        return in_time
    return bool(seen["metadata"].get("resourceVersion") == stored["metadata"].get("resourceVersion"))


def _version(obj: Json) -> int:
    """resourceVersion; comparable as a number (KEP-5504), 0 when it is none."""
    text = str(obj["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0
