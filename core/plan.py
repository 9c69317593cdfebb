"""plan(objects) -> Plan: everything that follows from the objects.

Pure, deterministic (the same objects in any order give an equal Plan) and total (a bad object gives a status, never an exception, and
never changes what a good one gets).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from core import names, status
from core.attachments import attachment, next_hops
from core.binding import OUR_CLASSES, Binding, bind, protocol_supported, resolve_backend, supported_kinds
from core.endpoints import Selected, select, slices_of
from core.flows import forwarding, matches_of
from core.lb.forwarding import Forwarding
from core.model import (
    Address,
    Attachment,
    BackendRef,
    EndpointSlice,
    Gateway,
    GatewayRouter,
    Listener,
    ObjectRef,
    Pod,
    Prefix,
    Route,
    Service,
    sorted_prefixes,
)
from core.objects import Objects
from core.ports import Peer


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
    statuses: tuple[status.Status, ...] = ()

    def of(self, namespace: str, name: str) -> GatewayPlan | None:
        """The plan of one Gateway; None when it is not there or not ours."""
        return next((g for g in self.gateways if g.gateway.meta.ref == gateway_ref(namespace, name)), None)


def gateway_ref(namespace: str, name: str) -> ObjectRef:
    """The reference of a Gateway."""
    return ObjectRef(kind="Gateway", namespace=namespace, name=name)


def plan(objects: Objects) -> Plan:
    """The Plan of `objects`."""
    return _Planner(objects).plan()


def forwarding_of(objects: Objects, namespace: str, name: str) -> Forwarding | None:
    """The forwarding set of one Gateway from the EndpointSlices as they are in `objects`; None when it is not there or not ours.

    This is what a load balancer programs: it equals `plan(objects).of(namespace, name).forwarding` once the slices that the plan
    wants are stored.
    """
    planner = _Planner(objects)
    ref = gateway_ref(namespace, name)
    if ref not in planner.gateways:
        return None
    ours = {
        key: [slice_ for slice_ in slices if slice_.managed_by == names.SLICE_MANAGER]
        for key, slices in planner.slices.items()
    }
    return forwarding(planner.bindings[ref], planner.resolve, ours)


class _Planner:
    """The indexes that the parts of one plan share."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.services = {(s.meta.namespace, s.meta.name): s for s in objects.services}
        self.classes = {c.meta.name: c.controller for c in objects.gateway_classes}
        self.namespace_labels = {n.meta.name: n.meta.labels for n in objects.namespaces}
        self.gateways = {g.meta.ref: g for g in objects.gateways if self.class_of(g) is not None}
        self.bindings: dict[ObjectRef, list[Binding]] = {ref: [] for ref in self.gateways}
        self.bindings_of_route: dict[ObjectRef, list[Binding]] = {}
        for binding in self._bindings():
            self.bindings[binding.gateway.meta.ref].append(binding)
            self.bindings_of_route.setdefault(binding.route.meta.ref, []).append(binding)
        self.slices: dict[tuple[str, str], list[EndpointSlice]] = {}
        for slice_ in objects.slices:
            self.slices.setdefault((slice_.meta.namespace, slice_.service), []).append(slice_)

    def class_of(self, gateway: Gateway) -> str | None:
        """The class of ours, by its name or by the controller of a GatewayClass object; None when it is somebody else's."""
        name = self.classes.get(gateway.class_name, gateway.class_name)
        return name if name in OUR_CLASSES else None

    def _bindings(self) -> Iterator[Binding]:
        for route in self.objects.routes:
            for parent in dict.fromkeys(route.parents):
                gateway = self.gateways.get(gateway_ref(parent.namespace, parent.name))
                if gateway is not None and (parent.group, parent.kind) == (names.GATEWAY_GROUP, "Gateway"):
                    yield bind(route, parent, gateway, self.namespace_labels)

    def resolve(self, route: Route, backend: BackendRef) -> Service | None:
        return resolve_backend(route, backend, self.services, self.objects.grants)[0]

    def plan(self) -> Plan:
        vips_of_service = self._vips_of_services()
        pods_of_service: dict[tuple[str, str], tuple[Selected, ...]] = {}
        slices: list[EndpointSlice] = []
        for key, service in self.services.items():
            gateway = self._gateway_of(service)
            if gateway is None:
                continue
            pods_of_service[key] = select(service, self.objects.pods, gateway.endpoint_networks)
            slices += slices_of(
                service,
                pods_of_service[key],
                self.slices.get(key, ()),
                sorted_prefixes(vip for vips in vips_of_service.get(key, {}).values() for vip in vips),
                needs_attachment=self.class_of(gateway) == names.STATELESS_LOAD_BALANCER,
            )
        by_service: dict[tuple[str, str], list[EndpointSlice]] = {}
        for slice_ in slices:
            by_service.setdefault((slice_.meta.namespace, slice_.service), []).append(slice_)
        gateways = tuple(self._gateway_plan(gateway, by_service) for _, gateway in sorted(self.gateways.items()))
        return Plan(
            gateways=gateways,
            slices=tuple(sorted(slices, key=lambda s: s.meta.ref)),
            attachments=self._attachments(gateways, vips_of_service, pods_of_service),
            statuses=tuple(self._statuses(gateways)),
        )

    def _vips_of_services(self) -> dict[tuple[str, str], dict[ObjectRef, list[Prefix]]]:
        """Service -> Gateway -> the VIPs through which it is reached."""
        found: dict[tuple[str, str], dict[ObjectRef, list[Prefix]]] = {}
        for ref, bindings in sorted(self.bindings.items()):
            for binding in bindings:
                if not binding.accepted:
                    continue
                for backend in binding.route.backends:
                    if self.resolve(binding.route, backend) is None:
                        continue
                    vips = found.setdefault((backend.namespace, backend.name), {}).setdefault(ref, [])
                    vips += [vip for match in matches_of(binding) for vip in match.destinations]
        return found

    def _gateway_of(self, service: Service) -> Gateway | None:
        """The Gateway whose endpoint networks give the Service's addresses: the one that its label names, else the first whose
        routes refer to it."""
        labelled = self.gateways.get(gateway_ref(service.meta.namespace, service.gateway))
        if labelled is not None:
            return labelled
        for ref, bindings in sorted(self.bindings.items()):
            for binding in bindings:
                if binding.accepted and any(self.resolve(binding.route, b) is service for b in binding.route.backends):
                    return self.gateways[ref]
        return None

    def _gateway_plan(self, gateway: Gateway, slices: Mapping[tuple[str, str], list[EndpointSlice]]) -> GatewayPlan:
        ref = gateway.meta.ref
        wanted = forwarding(self.bindings[ref], self.resolve, slices)
        return GatewayPlan(
            gateway=gateway,
            class_=self.class_of(gateway) or "",
            vips=self._vips(gateway),
            announced=sorted_prefixes(wanted.usable_destinations()),
            forwarding=wanted,
            peers=peers_of(gateway, self.objects.routers),
            next_hops=next_hops(gateway, gateway_pods(gateway, self.objects.pods)),
        )

    def _vips(self, gateway: Gateway) -> tuple[Prefix, ...]:
        from_routes = (
            vip
            for binding in self.bindings[gateway.meta.ref]
            if binding.accepted
            for match in matches_of(binding)
            for vip in match.destinations
        )
        from_services = (
            ip_network(address)
            for service in self.objects.services
            if service.meta.namespace == gateway.meta.namespace and service.gateway == gateway.meta.name
            for address in service.external_ips
        )
        if self.class_of(gateway) == names.STATELESS_LOAD_BALANCER:
            return sorted_prefixes(from_routes)
        return sorted_prefixes([*from_routes, *from_services])

    def _attachments(
        self,
        gateways: tuple[GatewayPlan, ...],
        vips_of_service: Mapping[tuple[str, str], Mapping[ObjectRef, list[Prefix]]],
        pods_of_service: Mapping[tuple[str, str], tuple[Selected, ...]],
    ) -> dict[ObjectRef, tuple[Attachment, ...]]:
        vips: dict[ObjectRef, dict[ObjectRef, list[Prefix]]] = {}
        for key, selected in pods_of_service.items():
            for of_gateway, prefixes in vips_of_service.get(key, {}).items():
                for pod, _ in selected:
                    vips.setdefault(pod.meta.ref, {}).setdefault(of_gateway, []).extend(prefixes)
        hops = {g.gateway.meta.ref: g.next_hops for g in gateways if g.class_ == names.STATELESS_LOAD_BALANCER}
        return {
            pod: tuple(attachment(of[gateway], hops[gateway]) for gateway in sorted(of) if gateway in hops)
            for pod, of in sorted(vips.items())
        }

    def _statuses(self, gateways: tuple[GatewayPlan, ...]) -> Iterator[status.Status]:
        for class_ in self.objects.gateway_classes:
            if class_.controller in OUR_CLASSES:
                yield status.ClassStatus(
                    ref=class_.meta.ref, generation=class_.meta.generation, conditions=(status.accepted(),)
                )
        for planned in gateways:
            yield self._gateway_status(planned)
        for route in self.objects.routes:
            yield self._route_status(route)
        for router in self.objects.routers:
            yield self._router_status(router)
        yield from self._rejected_statuses()

    def _gateway_status(self, planned: GatewayPlan) -> status.GatewayStatus:
        gateway = planned.gateway
        pods = [pod for pod in gateway_pods(gateway, self.objects.pods) if not pod.meta.deleting]
        addresses = tuple(vip.network_address for vip in planned.vips)
        return status.GatewayStatus(
            ref=gateway.meta.ref,
            generation=gateway.meta.generation,
            conditions=(
                self._gateway_accepted(gateway),
                status.programmed(addresses, len(pods), sum(pod.ready for pod in pods)),
            ),
            addresses=addresses[: status.MOST_ADDRESSES],
            listeners=tuple(self._listener_status(gateway, listener) for listener in gateway.listeners),
        )

    @staticmethod
    def _gateway_accepted(gateway: Gateway) -> status.Condition:
        if not gateway.endpoint_networks:
            message = f"no network in the annotation {names.ENDPOINT_NETWORKS!r} of spec.infrastructure: no endpoints"
            return status.accepted(False, "Invalid", message)
        if not any(protocol_supported(listener) for listener in gateway.listeners):
            return status.accepted(False, "ListenersNotValid", "no listener has a protocol that this class serves")
        if not all(protocol_supported(listener) for listener in gateway.listeners):
            return status.accepted(True, "ListenersNotValid", "some listeners have a protocol that is not supported")
        return status.accepted()

    def _listener_status(self, gateway: Gateway, listener: Listener) -> status.ListenerStatus:
        routes = {
            b.route.meta.ref for b in self.bindings[gateway.meta.ref] if any(known is listener for known in b.listeners)
        }
        good = protocol_supported(listener)
        wrong = [f"{group}/{kind}" for group, kind in listener.kinds if (group, kind) not in supported_kinds(listener)]
        resolved = [("InvalidRouteKinds", f"unsupported route kinds: {', '.join(wrong)}")] if wrong else []
        protocol = f"protocol {listener.protocol!r} is not supported: TCP, UDP or {names.ALL_PORTS_PROTOCOL}"
        return status.ListenerStatus(
            name=listener.name,
            supported_kinds=supported_kinds(listener),
            attached_routes=len(routes),
            conditions=(
                status.accepted() if good else status.accepted(False, "UnsupportedProtocol", protocol),
                status.Condition(type="Programmed", status=good, reason="Programmed" if good else "Invalid"),
                status.resolved_refs(resolved),
            ),
        )

    def _route_status(self, route: Route) -> status.RouteStatus:
        refs = [resolve_backend(route, b, self.services, self.objects.grants) for b in route.backends]
        resolved = status.resolved_refs([(reason, message) for found, reason, message in refs if found is None])
        by_parent = {binding.parent: binding for binding in self.bindings_of_route.get(route.meta.ref, ())}
        return status.RouteStatus(
            ref=route.meta.ref,
            generation=route.meta.generation,
            parents=tuple(
                status.ParentStatus(
                    parent=parent,
                    controller=self._controller(by_parent[parent].gateway),
                    conditions=(self._route_accepted(by_parent[parent]), resolved),
                )
                for parent in dict.fromkeys(route.parents)
                if parent in by_parent
            ),
        )

    @staticmethod
    def _route_accepted(binding: Binding) -> status.Condition:
        if binding.accepted and not matches_of(binding):
            what = (
                "spec.addresses of the Gateway" if binding.route.match is None else "the listener's protocol and port"
            )
            return status.accepted(False, "UnsupportedValue", f"nothing is left to match: see {what}")
        return status.accepted(binding.accepted, binding.reason, binding.message)

    def _controller(self, gateway: Gateway) -> str:
        class_ = self.class_of(gateway) or ""
        return class_ if "/" in class_ else f"{names.DOMAIN}/{class_}"

    def _router_status(self, router: GatewayRouter) -> status.RouterStatus:
        if not router.gateway:
            condition = status.accepted(False, "NoMatchingParent", f"the label {names.PROXY_NAME} names no Gateway")
        elif gateway_ref(router.meta.namespace, router.gateway) not in self.gateways:
            where = f"{router.meta.namespace}/{router.gateway}"
            condition = status.accepted(False, "NoMatchingParent", f"no Gateway {where} of a class of ours")
        else:
            condition = status.accepted()
        return status.RouterStatus(ref=router.meta.ref, generation=router.meta.generation, conditions=(condition,))

    def _rejected_statuses(self) -> Iterator[status.Status]:
        for rejected in self.objects.rejected:
            ref, generation = rejected.meta.ref, rejected.meta.generation
            condition = status.accepted(False, "UnsupportedValue", rejected.message)
            if ref.kind == "GatewayRouter":
                yield status.RouterStatus(ref=ref, generation=generation, conditions=(condition,))
            parents = tuple(
                status.ParentStatus(parent=parent, controller=self._controller(gateway), conditions=(condition,))
                for parent in dict.fromkeys(rejected.parents)
                if (gateway := self.gateways.get(gateway_ref(parent.namespace, parent.name))) is not None
            )
            if ref.kind in ROUTE_KINDS:
                yield status.RouteStatus(ref=ref, generation=generation, parents=parents)


ROUTE_KINDS = ("L34Route", "TCPRoute", "UDPRoute")


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
