"""The forwarding set of one gateway from changes: what `core.plan.forwarding_of` makes of all objects, at the cost of what changed.

Whatever comes out the same as the last time is the same object: a data plane need not look at what it has been given before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from core import names
from core.endpoints import told_once
from core.flows import Bound, Usable, forwarding, joined, usable_of
from core.lb.forwarding import Flow, Forwarding, Pool
from core.model import EndpointSlice, Gateway, KubeObject, ObjectRef, Pod
from core.objects import Objects, Rejected
from core.relations import Relations, ServiceName, gateway_ref

Part = TypeVar("Part", Flow, Pool)

_Key = tuple[str, str, int]
"""Namespace and name of a Service, and 4 or 6."""
_Identity = tuple[ObjectRef, str | None]
"""Route and listener."""


@dataclass(slots=True, eq=False)
class _Family:
    """The slices of one Service in one family, and what they give."""

    slices: dict[ObjectRef, EndpointSlice] = field(default_factory=dict)
    parts: dict[ObjectRef, tuple[EndpointSlice, Usable]] = field(default_factory=dict)
    """What each gave when it was looked at last."""
    usable: Usable = field(default_factory=Usable)

    def renew(self) -> bool:
        """Whether `usable` is another one now. O(endpoints), but only slices that are new are looked into."""
        parts: dict[ObjectRef, tuple[EndpointSlice, Usable]] = {}
        for slice_ in told_once(self.slices.values()):
            ref = slice_.meta.ref
            known = self.parts.get(ref)
            if known is None:
                parts[ref] = slice_, usable_of(slice_)
            elif known[0] is slice_:
                parts[ref] = known
            else:
                parts[ref] = slice_, _with_known_targets(usable_of(slice_), known[1])
        self.parts = parts
        usable = joined([part for _, part in parts.values()])
        if usable == self.usable:
            return False
        self.usable = usable
        return True


def _with_known_targets(usable: Usable, known: Usable) -> Usable:
    """The same, with the very Targets of `known` where they are equal."""
    by_slot = {target.slot: target for target in known.targets}
    targets = tuple(
        old if (old := by_slot.get(target.slot)) == target and old is not None else target for target in usable.targets
    )
    return Usable(targets=targets, pending=usable.pending, spoken=usable.spoken)


@dataclass(slots=True, eq=False)
class _Share:
    """What one route gives, narrowed by one listener or none."""

    bound: Bound
    forwarding: Forwarding


class ForwardingPlanner:
    """Makes the forwarding set of the gateway `namespace`/`name` of the objects that were put and not removed."""

    def __init__(self, namespace: str, name: str) -> None:
        self._ref = gateway_ref(namespace, name)
        self._written: dict[ObjectRef, KubeObject | Rejected] = {}
        self._families: dict[_Key, _Family] = {}
        self._family_of: dict[ObjectRef, _Key] = {}
        """Slice -> where it is."""
        self._stale: set[_Key] = set()
        """Whose slices have changed."""
        self._relations: Relations | None = None
        self._shares: list[_Share] = []
        self._shares_of: dict[ServiceName, list[_Share]] = {}
        self._forwarding: Forwarding | None = None

    @property
    def gateway(self) -> Gateway | None:
        """The Gateway, ours or not; None when it is not there."""
        found = self._written.get(self._ref)
        return found if isinstance(found, Gateway) else None

    def put(self, item: KubeObject | Rejected) -> None:
        """Adds an object, or replaces the one of its reference. Of Pods nothing is taken: the slices tell of them."""
        ref = item.meta.ref
        if isinstance(item, Pod) or self._written.get(ref) == item:
            return
        self.remove(ref)
        if not isinstance(item, EndpointSlice):
            self._written[ref] = item
            self._relations = None
        elif item.managed_by == names.SLICE_MANAGER:
            key = (item.meta.namespace, item.service, item.version)
            self._families.setdefault(key, _Family()).slices[ref] = item
            self._family_of[ref] = key
            self._stale.add(key)

    def remove(self, ref: ObjectRef) -> None:
        """Takes an object away; nothing happens when there is none."""
        if (key := self._family_of.pop(ref, None)) is not None:
            del self._families[key].slices[ref]
            self._stale.add(key)
        if self._written.pop(ref, None) is not None:
            self._relations = None

    def forwarding(self) -> Forwarding | None:
        """The forwarding set of the objects as they are now; None when the gateway is not there or not ours."""
        changed = {key[:2] for key in self._stale if self._families[key].renew()}
        for key in self._stale:
            if not self._families[key].slices:
                del self._families[key]
        self._stale.clear()
        relations = self._relations
        if relations is None:
            relations = self._relations = self._related()
            known = {_identity(share.bound): share.forwarding for share in self._shares}
            bound: dict[_Identity, Bound] = {}
            for one in relations.bound.get(self._ref, ()):
                bound.setdefault(_identity(one), one)
            self._shares = [_Share(one, known.get(identity, Forwarding())) for identity, one in bound.items()]
            self._shares_of = _by_service(self._shares)
            stale = self._shares
        elif changed:
            found = {id(share): share for service in changed for share in self._shares_of.get(service, ())}
            stale = list(found.values())
        else:
            return self._forwarding
        if self._ref not in relations.gateways:
            self._forwarding = None
            return None
        for share in stale:
            new = forwarding((share.bound,), relations.resolve, self._usable)
            share.forwarding = _with_known_parts([new], share.forwarding)
        self._forwarding = _with_known_parts([share.forwarding for share in self._shares], self._forwarding)
        return self._forwarding

    def _usable(self, service: ServiceName, version: int) -> Usable:
        family = self._families.get((*service, version))
        return family.usable if family is not None else Usable()

    def _related(self) -> Relations:
        objects = Objects.of(self._written.values())
        return Relations(
            classes=objects.gateway_classes,
            gateways=objects.gateways,
            routers=objects.routers,
            routes=objects.routes,
            services=objects.services,
            namespaces=objects.namespaces,
            grants=objects.grants,
        )


def _identity(bound: Bound) -> _Identity:
    """What its flows are named after: of two parentRefs that mean the same listener the first counts."""
    return bound.route.meta.ref, bound.listener.name if bound.listener is not None else None


def _by_service(shares: Iterable[_Share]) -> dict[ServiceName, list[_Share]]:
    found: dict[ServiceName, list[_Share]] = {}
    for share in shares:
        for backend in share.bound.route.backends:
            found.setdefault((backend.namespace, backend.name), []).append(share)
    return found


def _with_known_parts(sets: Iterable[Forwarding], known: Forwarding | None) -> Forwarding:
    """The sets as one, with the very objects of `known` where they are equal."""
    before = known if known is not None else Forwarding()
    found = list(sets)
    flows = _same((flow for one in found for flow in one.flows), before.flows)
    pools = _same((pool for one in found for pool in one.pools), before.pools)
    if known is not None and flows is before.flows and pools is before.pools:
        return known
    return Forwarding(flows=flows, pools=pools)


def _same(parts: Iterable[Part], known: tuple[Part, ...]) -> tuple[Part, ...]:
    """`parts`, those of `known` in the place of equal ones; `known` itself when all are."""
    by_name = {part.name: part for part in known}
    found = tuple(_one(part, by_name.get(part.name)) for part in parts)
    same = len(found) == len(known) and all(new is old for new, old in zip(found, known, strict=True))
    return known if same else found


def _one(part: Part, known: Part | None) -> Part:
    return known if known is not None and (part is known or part == known) else part
