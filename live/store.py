"""The model of what informers hold: each object is parsed once, when it changes."""

from __future__ import annotations

from collections.abc import Sequence

from core.kube import Informer, Json, ObjectName
from core.manifests import parse_object
from core.model import KubeObject
from core.objects import Objects, Rejected


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
