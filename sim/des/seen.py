"""What a client of the API knows by its watches: objects as JSON and as the model, each parsed once."""

from __future__ import annotations

from collections.abc import Iterator

from core.kube import Json
from core.manifests import parse_object
from core.model import (
    EndpointSlice,
    Gateway,
    GatewayClass,
    GatewayRouter,
    KubeObject,
    Namespace,
    Pod,
    ReferenceGrant,
    Route,
    Service,
)
from core.objects import Objects, Rejected
from core.plan import Plan, Planner

Key = tuple[str, str, str]
"""(kind, namespace, name)."""

_FIELDS = {
    GatewayClass: "gateway_classes",
    Gateway: "gateways",
    GatewayRouter: "routers",
    Route: "routes",
    Service: "services",
    Pod: "pods",
    EndpointSlice: "slices",
    Namespace: "namespaces",
    ReferenceGrant: "grants",
    Rejected: "rejected",
}


class Seen:
    """The objects, and `Objects` of them that are made anew only where something has changed."""

    def __init__(self) -> None:
        self._raw: dict[str, dict[Key, Json]] = {}
        self._models: dict[str, dict[Key, KubeObject | Rejected]] = {name: {} for name in _FIELDS.values()}
        self._sorted: dict[str, tuple[KubeObject | Rejected, ...]] = {}
        self._objects: Objects | None = None
        self._planner = Planner()

    def put(self, key: Key, obj: Json | None) -> None:
        """The object is now `obj`, or gone."""
        some = self._raw.setdefault(key[0], {})
        if obj is None:
            some.pop(key, None)
        else:
            some[key] = obj
        model = parse_object(obj) if obj is not None else None
        into = _FIELDS[type(model)] if model is not None else ""
        for name, known in self._models.items():
            if name != into and key in known:
                self._planner.remove(known.pop(key).meta.ref)
                self._stale(name)
        if model is not None and self._models[into].get(key) != model:
            self._models[into][key] = model
            self._planner.put(model)
            self._stale(into)

    def _stale(self, name: str) -> None:
        self._sorted.pop(name, None)
        self._objects = None

    def get(self, kind: str, namespace: str, name: str) -> Json | None:
        return self._raw.get(kind, {}).get((kind, namespace, name))

    def of_kind(self, kind: str) -> Iterator[Json]:
        """The objects of a kind, in the order in which they were first seen."""
        yield from self._raw.get(kind, {}).values()

    def raw(self) -> tuple[Json, ...]:
        """All objects."""
        return tuple(obj for some in self._raw.values() for obj in some.values())

    def plan(self) -> Plan:
        """What follows from the objects: the same value as long as nothing changes."""
        return self._planner.plan()

    def objects(self) -> Objects:
        """The model: the same value as long as nothing that it holds changes."""
        if self._objects is None:
            for name, known in self._models.items():
                if name not in self._sorted:
                    # Keys are references as tuples, which compare as references do.
                    self._sorted[name] = tuple(known[key] for key in sorted(known))
            self._objects = Objects(**self._sorted)  # type: ignore[arg-type]  # each field has the type that _FIELDS names
        return self._objects
