"""What changed in several informers since the last look, parsed, told to who plans from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from core.kube import Informer, Json, ObjectName
from core.manifests import parse_object
from core.model import KubeObject, ObjectRef
from core.objects import Rejected


class Planning(Protocol):
    """Who plans from objects that come and go."""

    def put(self, item: KubeObject | Rejected) -> None: ...

    def remove(self, ref: ObjectRef) -> None: ...


class Changes:
    """Each object is parsed once when it changes."""

    def __init__(self, informers: Sequence[Informer], planner: Planning) -> None:
        self._informers = tuple(informers)
        self._planner = planner
        self._seen: list[Mapping[ObjectName, Json]] = [{} for _ in self._informers]
        self._models: list[dict[ObjectName, KubeObject | Rejected]] = [{} for _ in self._informers]

    def tell(self) -> None:
        """Tells the planner of everything that is another object than at the last call. O(objects of the informers that changed)."""
        for i, informer in enumerate(self._informers):
            before, after = self._seen[i], informer.objects()
            if after is before:
                continue
            models = self._models[i]
            # Snapshots share unchanged objects, so identity tells.
            for name in [name for name, raw in after.items() if before.get(name) is not raw]:
                model = parse_object(after[name])
                if model is not None:
                    models[name] = model
                    self._planner.put(model)
                elif name in models:
                    self._planner.remove(models.pop(name).meta.ref)
            for name in before.keys() - after.keys():
                if name in models:
                    self._planner.remove(models.pop(name).meta.ref)
            self._seen[i] = after

    def models(self, informer: Informer) -> Mapping[ObjectName, KubeObject | Rejected]:
        """What was read of what `informer` held at the last call; the same object as long as it has not changed."""
        return next(models for one, models in zip(self._informers, self._models, strict=True) if one is informer)
