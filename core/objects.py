"""All objects that a plan is made from, in one order whatever order they came in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from core.model import (
    EndpointSlice,
    Gateway,
    GatewayClass,
    GatewayRouter,
    KubeObject,
    Meta,
    Namespace,
    ObjectRef,
    ParentRef,
    Pod,
    ReferenceGrant,
    Route,
    Service,
)
from core.problems import FieldProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An object that could not be understood: it takes no part in the plan, but its status says why."""

    meta: Meta
    problems: tuple[FieldProblem, ...]
    parents: tuple[ParentRef, ...] = ()
    """Of a route, as far as they could be read."""
    class_name: str = ""
    """Of a Gateway, likewise."""

    @property
    def message(self) -> str:
        """The first problems, for a condition's message."""
        texts = [f"{p.field}: {p.what}: found {p.found}, expected {p.expected}" for p in self.problems[:3]]
        more = len(self.problems) - len(texts)
        return "; ".join(texts) + (f"; and {more} more" if more else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """Each tuple is sorted by reference, and no reference stands twice."""

    gateway_classes: tuple[GatewayClass, ...] = ()
    gateways: tuple[Gateway, ...] = ()
    routers: tuple[GatewayRouter, ...] = ()
    routes: tuple[Route, ...] = ()
    services: tuple[Service, ...] = ()
    pods: tuple[Pod, ...] = ()
    slices: tuple[EndpointSlice, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    grants: tuple[ReferenceGrant, ...] = ()
    rejected: tuple[Rejected, ...] = ()

    def all(self) -> Iterator[KubeObject | Rejected]:
        """Every object, kind by kind."""
        yield from self.gateway_classes
        yield from self.gateways
        yield from self.routers
        yield from self.routes
        yield from self.services
        yield from self.pods
        yield from self.slices
        yield from self.namespaces
        yield from self.grants
        yield from self.rejected

    @staticmethod
    def of(items: Iterable[KubeObject | Rejected]) -> Objects:
        """The objects sorted; of two with one reference the later one counts, as in the API."""
        by_type: dict[type, dict[ObjectRef, KubeObject | Rejected]] = {}
        for item in items:
            by_type.setdefault(type(item), {})[item.meta.ref] = item

        def sorted_(type_: type) -> tuple:  # type: ignore[type-arg]  # one element type a call, which a TypeVar cannot say of a dict of unions
            return tuple(item for _, item in sorted(by_type.get(type_, {}).items()))

        return Objects(
            gateway_classes=sorted_(GatewayClass),
            gateways=sorted_(Gateway),
            routers=sorted_(GatewayRouter),
            routes=sorted_(Route),
            services=sorted_(Service),
            pods=sorted_(Pod),
            slices=sorted_(EndpointSlice),
            namespaces=sorted_(Namespace),
            grants=sorted_(ReferenceGrant),
            rejected=sorted_(Rejected),
        )
