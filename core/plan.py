"""plan(objects) -> Plan: everything that follows from the objects.

Pure, deterministic (the same objects in any order give an equal Plan) and total (a bad object gives a status, never an exception, and
never changes what a good one gets). A `Planner` makes the same Plan from changes, at the cost of what changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from types import MappingProxyType
from typing import TypeVar

from core import names, status, statuses
from core.attachments import attachment, next_hops
from core.binding import OUR_CLASSES
from core.endpoints import Selected, select, slices_of, told_once
from core.flows import Usable, forwarding, joined, usable_of
from core.inventory import Inventory
from core.lb.forwarding import Forwarding
from core.model import (
    Address,
    Attachment,
    EndpointSlice,
    Gateway,
    GatewayClass,
    GatewayRouter,
    KubeObject,
    Namespace,
    ObjectRef,
    Pod,
    Prefix,
    ReferenceGrant,
    Route,
    Service,
    sorted_prefixes,
)
from core.objects import Objects, Rejected
from core.ports import Peer
from core.relations import Relations, ServedService, ServiceName, gateway_ref

Written = TypeVar("Written", GatewayClass, Gateway, GatewayRouter, Route, Service, Namespace, ReferenceGrant, Rejected)

__all__ = ["GatewayPlan", "Plan", "Planner", "forwarding_of", "gateway_pods", "gateway_ref", "peers_of", "plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayPlan:
    """What follows for one Gateway of ours."""

    gateway: Gateway
    class_: str
    """The class as we know it: one of `core.binding.OUR_CLASSES`."""
    vips: tuple[Prefix, ...]
    announced: tuple[Prefix, ...]
    """The VIPs behind which a usable target stands."""
    forwarding: Forwarding
    peers: tuple[Peer, ...]
    """Without passwords: those are read where they are used."""
    next_hops: tuple[Address, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    gateways: tuple[GatewayPlan, ...] = ()
    slices: tuple[EndpointSlice, ...] = ()
    attachments: Mapping[ObjectRef, tuple[Attachment, ...]] = field(default_factory=dict)
    """Pod -> one attachment for each gateway that it serves, in the order of the gateways' names."""
    statuses: tuple[status.Status, ...] = ()

    def of(self, namespace: str, name: str) -> GatewayPlan | None:
        """The plan of one Gateway; None when it is not there or not ours."""
        return next((g for g in self.gateways if g.gateway.meta.ref == gateway_ref(namespace, name)), None)


def plan(objects: Objects) -> Plan:
    """The Plan of `objects`."""
    planner = Planner()
    for item in objects.all():
        planner.put(item)
    return planner.plan()


def forwarding_of(objects: Objects, namespace: str, name: str) -> Forwarding | None:
    """The forwarding set of one Gateway from the EndpointSlices as they are in `objects`; None when it is not there or not ours.

    This is what a load balancer programs: it equals `plan(objects).of(namespace, name).forwarding` once the slices that the plan
    wants are stored.
    """
    relations = Relations(
        classes=objects.gateway_classes,
        gateways=objects.gateways,
        routers=objects.routers,
        routes=objects.routes,
        services=objects.services,
        namespaces=objects.namespaces,
        grants=objects.grants,
    )
    ref = gateway_ref(namespace, name)
    if ref not in relations.gateways:
        return None
    slices: dict[tuple[str, str, int], list[EndpointSlice]] = {}
    for slice_ in objects.slices:
        if slice_.managed_by == names.SLICE_MANAGER:
            slices.setdefault((slice_.meta.namespace, slice_.service, slice_.version), []).append(slice_)
    usable = {key: joined([usable_of(slice_) for slice_ in told_once(found)]) for key, found in slices.items()}
    return forwarding(
        relations.bound[ref], relations.resolve, lambda service, version: usable.get((*service, version), Usable())
    )


@dataclass(slots=True, eq=False)
class _ServicePlan:
    """What follows for one Service, and from what it was made."""

    served: ServedService
    pods: int
    """The version of the Pods that it was made from; `stored` likewise of the slices."""
    stored: int
    selected: tuple[Selected, ...]
    slices: tuple[EndpointSlice, ...]
    usable: Mapping[ObjectRef, tuple[EndpointSlice, Usable]]
    """What each slice gives, and of them all by family: `joint`."""
    joint: Mapping[int, Usable]
    refs: frozenset[ObjectRef]
    """Of the Pods in `selected`."""


class Planner:
    """Makes the Plan of the objects that were put and not removed, from what changed since the last one. What comes out the same as in
    the last one is the same object.

    What a person writes (classes, gateways, routers, routes, Services, namespaces, grants) is related anew when any of it changes.
    What changes all the time (Pods, EndpointSlices) costs only the Services that select it and the gateways before these.
    """

    def __init__(self) -> None:
        self._written: dict[type, dict[ObjectRef, KubeObject | Rejected]] = {}
        self._pods = Inventory[Pod](lambda pod: [(pod.meta.namespace, *label) for label in pod.meta.labels.items()])
        self._slices = Inventory[EndpointSlice](lambda s: [(s.meta.namespace, s.service)])
        self._kinds: dict[ObjectRef, type] = {}
        self._relations: Relations | None = None
        self._services: dict[ObjectRef, _ServicePlan] = {}
        self._services_of_pod: dict[ObjectRef, set[ObjectRef]] = {}
        self._stale_pods: set[ObjectRef] = set()
        """Pods whose attachments may have changed."""
        self._attachments: Mapping[ObjectRef, tuple[Attachment, ...]] = MappingProxyType({})
        self._gateways: dict[ObjectRef, tuple[tuple[object, ...], GatewayPlan, status.GatewayStatus]] = {}
        self._route_statuses: tuple[status.Status, ...] = ()
        self._plan: Plan | None = None

    def put(self, item: KubeObject | Rejected) -> None:
        """Adds an object, or replaces the one of its reference."""
        ref = item.meta.ref
        if self._kinds.get(ref, type(item)) is not type(item):
            self.remove(ref)  # it could not be understood before, or cannot be now
        self._kinds[ref] = type(item)
        if isinstance(item, EndpointSlice) and _same_slots(self._slices.get(ref), item):
            return  # as after every write of ours: a plan is made from what slices reserve, and from nothing else of them
        self._plan = None
        if isinstance(item, Pod):
            self._pods.put(ref, item)
        elif isinstance(item, EndpointSlice):
            self._slices.put(ref, item)
        else:
            self._written.setdefault(type(item), {})[ref] = item
            self._relations = None

    def remove(self, ref: ObjectRef) -> None:
        """Takes an object away; nothing happens when there is none."""
        kind = self._kinds.pop(ref, None)
        if kind is None:
            return
        self._plan = None
        if kind is Pod:
            self._pods.remove(ref)
        elif kind is EndpointSlice:
            self._slices.remove(ref)
        else:
            del self._written[kind][ref]
            self._relations = None

    def plan(self) -> Plan:
        """The Plan of the objects as they are now."""
        if self._plan is None:
            relations = self._related()
            self._plan_services(relations)
            self._plan_gateways(relations)
            self._attach(relations)
            planned = [self._gateways[ref] for ref in relations.gateways]
            self._plan = Plan(
                gateways=tuple(one for _, one, _ in planned),
                slices=tuple(slice_ for ref in sorted(self._services) for slice_ in self._services[ref].slices),
                attachments=self._attachments,
                statuses=(*(found for _, _, found in planned), *self._route_statuses),
            )
        return self._plan

    def _related(self) -> Relations:
        if self._relations is None:
            relations = Relations(
                classes=self._of(GatewayClass),
                gateways=self._of(Gateway),
                routers=self._of(GatewayRouter),
                routes=self._of(Route),
                services=self._of(Service),
                namespaces=self._of(Namespace),
                grants=self._of(ReferenceGrant),
                rejected=self._of(Rejected),
            )
            self._relations = relations
            self._gateways = {}
            rejected = (statuses.rejected_status(relations, item) for item in self._of(Rejected))
            self._route_statuses = (
                *(statuses.class_status(c) for c in self._of(GatewayClass) if c.controller in OUR_CLASSES),
                *(statuses.route_status(relations, route) for route in self._of(Route)),
                *(statuses.router_status(relations, router) for router in self._of(GatewayRouter)),
                *(found for found in rejected if found is not None),
            )
        return self._relations

    def _of(self, kind: type[Written]) -> list[Written]:
        found = sorted(self._written.get(kind, {}).items())
        return [item for _, item in found if isinstance(item, kind)]

    def _plan_services(self, relations: Relations) -> None:
        for ref in self._services.keys() - relations.served.keys():
            self._forget_pods(ref)
            del self._services[ref]
        for ref, served in relations.served.items():
            service = served.service
            name = (service.meta.namespace, service.meta.name)
            pods, stored = self._pods.version(_candidates(service)), self._slices.version(name)
            known = self._services.get(ref)
            if known is not None and (known.pods, known.stored) == (pods, stored) and known.served == served:
                continue
            before = known.refs if known is not None else frozenset()
            planned = self._services[ref] = self._service_plan(served, pods, stored, known)
            for gone in before - planned.refs:
                self._services_of_pod[gone].discard(ref)
            for new in planned.refs - before:
                self._services_of_pod.setdefault(new, set()).add(ref)
            same = known is not None and known.served == served
            self._stale_pods |= before ^ planned.refs if same else before | planned.refs

    def _service_plan(self, served: ServedService, pods: int, stored: int, known: _ServicePlan | None) -> _ServicePlan:
        service = served.service
        before = known.selected if known is not None and known.served == served else ()
        selected = select(service, self._pods.at(_candidates(service)), served.gateway.endpoint_networks, before)
        slices = slices_of(
            service,
            selected,
            self._slices.at((service.meta.namespace, service.meta.name)),
            served.all_vips,
            needs_attachment=served.needs_attachment,
            known={slice_.meta.ref: slice_ for slice_ in known.slices} if known is not None else {},
        )
        if known is not None and _identical(known.slices, slices):
            # The same objects again, so that nobody compares what follows from them.
            slices, usable, joint = known.slices, known.usable, known.joint
        else:
            usable = _usable_of_each(slices, known.usable if known is not None else {})
            joint = {
                version: joined([part for slice_, part in usable.values() if slice_.version == version])
                for version in (4, 6)
            }
        return _ServicePlan(
            served=served,
            pods=pods,
            stored=stored,
            selected=selected,
            slices=slices,
            usable=usable,
            joint=joint,
            refs=_refs(selected, known),
        )

    def _forget_pods(self, service: ObjectRef) -> None:
        for ref in self._services[service].refs:
            self._services_of_pod[ref].discard(service)
            self._stale_pods.add(ref)

    def _plan_gateways(self, relations: Relations) -> None:
        for ref, gateway in relations.gateways.items():
            carriers = (ref.namespace, names.PROXY_NAME, ref.name)
            services = [
                self._services[service].joint for service in relations.backends[ref] if service in self._services
            ]
            inputs: tuple[object, ...] = (self._pods.version(carriers), *services)
            known = self._gateways.get(ref)
            if known is not None and known[0] == inputs:
                continue
            pods = gateway_pods(gateway, self._pods.at(carriers))
            planned = self._gateway_plan(relations, gateway, pods)
            self._gateways[ref] = (inputs, planned, statuses.gateway_status(relations, gateway, planned.vips, pods))
            if known is None or known[1].next_hops != planned.next_hops:
                for service in relations.backends[ref]:
                    if service in self._services:
                        self._stale_pods |= self._services[service].refs

    def _gateway_plan(self, relations: Relations, gateway: Gateway, pods: tuple[Pod, ...]) -> GatewayPlan:
        ref = gateway.meta.ref
        wanted = forwarding(relations.bound[ref], relations.resolve, self._usable)
        return GatewayPlan(
            gateway=gateway,
            class_=relations.class_of(gateway) or "",
            vips=relations.vips[ref],
            announced=sorted_prefixes(wanted.usable_destinations()),
            forwarding=wanted,
            peers=peers_of(gateway, relations.routers[ref]),
            next_hops=next_hops(gateway, pods),
        )

    def _usable(self, service: ServiceName, version: int) -> Usable:
        planned = self._services.get(ObjectRef(kind="Service", namespace=service[0], name=service[1]))
        return planned.joint.get(version, Usable()) if planned is not None else Usable()

    def _attach(self, relations: Relations) -> None:
        """Brings the attachments of stale Pods up to date. Pods of the same Services have the same, computed once."""
        of_services: dict[frozenset[ObjectRef], tuple[Attachment, ...] | None] = {}
        changed: dict[ObjectRef, tuple[Attachment, ...] | None] = {}
        for ref in sorted(self._stale_pods):
            services = frozenset(self._services_of_pod.get(ref, ()))
            if not services:
                self._services_of_pod.pop(ref, None)
            if services not in of_services:
                of_services[services] = self._attachments_of(services, relations)
            if self._attachments.get(ref) != of_services[services]:
                changed[ref] = of_services[services]
        self._stale_pods.clear()
        if changed:
            everything = {**self._attachments, **changed}
            self._attachments = MappingProxyType({ref: found for ref, found in everything.items() if found is not None})

    def _attachments_of(self, services: Iterable[ObjectRef], relations: Relations) -> tuple[Attachment, ...] | None:
        """What a Pod behind these Services needs; None when no gateway reaches it."""
        vips: dict[ObjectRef, list[Prefix]] = {}
        for service in services:
            for gateway, found in self._services[service].served.vips.items():
                vips.setdefault(gateway, []).extend(found)
        if not vips:
            return None
        return tuple(
            attachment(vips[gateway], self._gateways[gateway][1].next_hops)
            for gateway in sorted(vips)
            if relations.class_of(relations.gateways[gateway]) == names.STATELESS_LOAD_BALANCER
        )


def _candidates(service: Service) -> tuple[str, str, str]:
    """Where the Pods are found that the Service may select: those with one label of its selector."""
    return (service.meta.namespace, *min(service.selector.items(), default=("", "")))


def _refs(selected: Sequence[Selected], known: _ServicePlan | None) -> frozenset[ObjectRef]:
    """Of the Pods; the same object as in `known` when they are the same Pods."""
    if known is not None and len(known.selected) == len(selected):
        pairs = zip(known.selected, selected, strict=True)
        if all(one is other or one.pod.meta.ref == other.pod.meta.ref for one, other in pairs):
            return known.refs
    return frozenset(one.pod.meta.ref for one in selected)


def _same_slots(known: EndpointSlice | None, new: EndpointSlice) -> bool:
    return known is not None and known.service == new.service and known.reserved == new.reserved


def _identical(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))


def _usable_of_each(
    slices: Iterable[EndpointSlice], known: Mapping[ObjectRef, tuple[EndpointSlice, Usable]]
) -> dict[ObjectRef, tuple[EndpointSlice, Usable]]:
    """What each slice gives; `known`: the result for other slices, of which that is taken which did not change."""
    found = {}
    for slice_ in slices:
        same = known.get(slice_.meta.ref)
        found[slice_.meta.ref] = same if same is not None and same[0] is slice_ else (slice_, usable_of(slice_))
    return found


def gateway_pods(gateway: Gateway, pods: Iterable[Pod]) -> tuple[Pod, ...]:
    """The pods that carry `gateway`."""
    return tuple(
        pod
        for pod in pods
        if pod.meta.namespace == gateway.meta.namespace
        and not pod.terminal
        and pod.meta.labels.get(names.PROXY_NAME) == gateway.meta.name
    )


def peers_of(gateway: Gateway, routers: Iterable[GatewayRouter]) -> tuple[Peer, ...]:
    """The peers of the gateway's pods."""
    return tuple(
        Peer(
            name=router.meta.name,
            router=router.meta.ref,
            address=router.address,
            interface=router.interface,
            routing=router.routing,
        )
        for router in routers
        if router.meta.namespace == gateway.meta.namespace and router.gateway == gateway.meta.name
    )
