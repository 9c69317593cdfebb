"""What belongs to what: routes to gateways, Services to gateways, VIPs to both. Everything that follows without looking at Pods.

Routes, Services and gateways change when a person changes them; Pods and their slices change all the time. So this is made anew when
one of the former changes, and kept while only the latter do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network

from core import names
from core.binding import OUR_CLASSES, Binding, bind, resolve_backend
from core.flows import Bound, bound_matches, precedence
from core.model import (
    BackendRef,
    Gateway,
    GatewayClass,
    GatewayRouter,
    Namespace,
    ObjectRef,
    Prefix,
    ReferenceGrant,
    Route,
    Service,
    sorted_prefixes,
)
from core.objects import Rejected
from core.overlaps import overtaken

ServiceName = tuple[str, str]
"""(namespace, name)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedService:
    """A Service as the gateways in front of it need it."""

    service: Service
    gateway: Gateway
    """Its endpoint networks give the Service's addresses."""
    vips: Mapping[ObjectRef, tuple[Prefix, ...]]
    """Gateway -> the VIPs through which it reaches the Service."""
    needs_attachment: bool
    """Whether its Pods must hold the VIPs themselves."""

    @property
    def all_vips(self) -> tuple[Prefix, ...]:
        return sorted_prefixes(vip for vips in self.vips.values() for vip in vips)


class Relations:
    """The relations between the objects given. Sequences may be in any order."""

    def __init__(
        self,
        *,
        classes: Iterable[GatewayClass],
        gateways: Iterable[Gateway],
        routers: Iterable[GatewayRouter],
        routes: Iterable[Route],
        services: Iterable[Service],
        namespaces: Iterable[Namespace],
        grants: Iterable[ReferenceGrant],
        rejected: Iterable[Rejected] = (),
    ) -> None:
        self._controllers = {c.meta.name: c.controller for c in classes}
        self._labels = {n.meta.name: n.meta.labels for n in namespaces}
        self._grants = tuple(grants)
        rejected, gateways = tuple(rejected), tuple(gateways)
        self._rejected = {item.meta.ref: item.message for item in rejected}
        self._class_names = {item.meta.ref: item.class_name for item in rejected if item.meta.ref.kind == "Gateway"}
        self._class_names |= {g.meta.ref: g.class_name for g in gateways}
        self._services = {(s.meta.namespace, s.meta.name): s for s in sorted(services, key=lambda s: s.meta.ref)}
        ours = (g for g in gateways if self.class_of(g) is not None)
        self.gateways = {g.meta.ref: g for g in sorted(ours, key=lambda g: g.meta.ref)}
        self.routers: dict[ObjectRef, list[GatewayRouter]] = {ref: [] for ref in self.gateways}
        for router in sorted(routers, key=lambda r: r.meta.ref):
            self.routers.get(gateway_ref(router.meta.namespace, router.gateway), []).append(router)
        self.bindings: dict[ObjectRef, list[Binding]] = {ref: [] for ref in self.gateways}
        self.bindings_of_route: dict[ObjectRef, list[Binding]] = {}
        for binding in self._bind(sorted(routes, key=lambda r: r.meta.ref)):
            self.bindings[binding.gateway.meta.ref].append(binding)
            self.bindings_of_route.setdefault(binding.route.meta.ref, []).append(binding)
        self.taken = self._taken()
        self.bound = {ref: tuple(self._bound(ref)) for ref in self.gateways}
        self.overtaken = {route: older for bound in self.bound.values() for route, older in overtaken(bound).items()}
        self.backends = {ref: self._backends(bound) for ref, bound in self.bound.items()}
        self.served = {served.service.meta.ref: served for served in self._serve()}
        self.vips = {ref: self._vips(gateway) for ref, gateway in self.gateways.items()}

    def class_of(self, gateway: Gateway) -> str | None:
        """The class of ours, by its name or by the controller of a GatewayClass object; None when it is somebody else's."""
        return self.our_class(gateway.class_name)

    def our_class(self, class_name: str) -> str | None:
        """The class of ours that `class_name` means; None when it is somebody else's."""
        name = self._controllers.get(class_name, class_name)
        return name if name in OUR_CLASSES else None

    def why_unusable(self, gateway: ObjectRef) -> str | None:
        """Why we cannot serve a Gateway of ours; None for any other."""
        if gateway not in self._rejected or self.our_class(self._class_names[gateway]) is None:
            return None
        return f"{gateway} cannot be used: {self._rejected[gateway]}"

    def why_unknown(self, gateway: ObjectRef) -> str | None:
        """Why that Gateway is nobody's, and what to do; None when it is ours, or may be some other controller's."""
        class_name = self._class_names.get(gateway)
        if class_name is None:
            return f"{gateway} does not exist: create it, or correct parentRefs"
        if self.our_class(class_name) is None and class_name not in self._controllers:
            if gateway in self._rejected:
                return f"{gateway} cannot be used: {self._rejected[gateway]}"
            ours = ", ".join(OUR_CLASSES)
            return f"{gateway} is of class {class_name!r}, which does not exist: of ours are {ours}"
        return None

    def controller_of(self, gateway: ObjectRef) -> str:
        """The controllerName for statuses: a domain-prefixed path."""
        class_ = self.our_class(self._class_names[gateway]) or ""
        return class_ if "/" in class_ else f"{names.DOMAIN}/{class_}"

    def resolve(self, route: Route, backend: BackendRef) -> Service | None:
        """The Service that a backendRef means and may refer to."""
        return self.why_unresolved(route, backend)[0]

    def why_unresolved(self, route: Route, backend: BackendRef) -> tuple[Service | None, str, str]:
        """(service, reason, message) as `core.binding.resolve_backend` has it."""
        found, reason, message = resolve_backend(route, backend, self._services, self._grants)
        ref = ObjectRef(kind="Service", namespace=backend.namespace, name=backend.name)
        if reason == "BackendNotFound" and ref in self._rejected:
            message = f"{ref} cannot be used: {self._rejected[ref]}"
        return found, reason, message

    def _bind(self, routes: Iterable[Route]) -> Iterator[Binding]:
        for route in routes:
            for parent in dict.fromkeys(route.parents):
                gateway = self.gateways.get(gateway_ref(parent.namespace, parent.name))
                if gateway is not None and (parent.group, parent.kind) == (names.GATEWAY_GROUP, "Gateway"):
                    yield bind(route, parent, gateway, self._labels)

    def _taken(self) -> dict[ObjectRef, dict[Prefix, ObjectRef]]:
        """Gateway -> VIP -> the older Gateway that announces the same VIP to the same router outside.

        That router would spread the VIP's packets over the pods of both, whose tables differ. Gateways that meet different routers
        may well have the same VIPs.
        """
        owners: dict[tuple[object, Prefix], ObjectRef] = {}
        taken: dict[ObjectRef, dict[Prefix, ObjectRef]] = {ref: {} for ref in self.gateways}
        for gateway in sorted(self.gateways.values(), key=lambda g: (g.meta.created, g.meta.ref)):
            ref = gateway.meta.ref
            networks = {n.interface: (n.namespace, n.name) for n in gateway.networks}
            meeting_points = {(r.address, networks.get(r.interface)) for r in self.routers[ref]}
            for vip in self._claimed(gateway):
                for point in meeting_points:
                    owner = owners.setdefault((point, vip), ref)
                    if owner != ref:
                        taken[ref].setdefault(vip, owner)
        return taken

    def _claimed(self, gateway: Gateway) -> Iterator[Prefix]:
        """The VIPs that routes and Services give to a gateway."""
        for binding in self.bindings[gateway.meta.ref]:
            for _, match in bound_matches(binding) if binding.accepted else ():
                yield from match.destinations
        if self.class_of(gateway) == names.STATELESS_LOAD_BALANCER:
            return
        for service in self._services.values():
            if service.meta.namespace == gateway.meta.namespace and service.gateway == gateway.meta.name:
                yield from (ip_network(address) for address in service.external_ips)

    def _vips(self, gateway: Gateway) -> tuple[Prefix, ...]:
        taken = self.taken[gateway.meta.ref]
        return sorted_prefixes(vip for vip in self._claimed(gateway) if vip not in taken)

    def _bound(self, ref: ObjectRef) -> Iterator[Bound]:
        """What the accepted routes say at a gateway, in the order of their precedence, without VIPs that are taken."""
        taken = self.taken[ref]
        for binding in sorted((b for b in self.bindings[ref] if b.accepted), key=precedence):
            for listener, match in bound_matches(binding):
                left = tuple(vip for vip in match.destinations if vip not in taken)
                if left:
                    kept = match if len(left) == len(match.destinations) else replace(match, destinations=left)
                    yield Bound(route=binding.route, listener=listener, match=kept)

    def _backends(self, bound: Iterable[Bound]) -> tuple[ObjectRef, ...]:
        """The Services, once each, that the routes at a gateway send packets to."""
        found = (self.resolve(one.route, backend) for one in bound for backend in one.route.backends)
        return tuple(dict.fromkeys(service.meta.ref for service in found if service is not None))

    def _serve(self) -> Iterator[ServedService]:
        vips: dict[ServiceName, dict[ObjectRef, list[Prefix]]] = {}
        for ref, bound in self.bound.items():
            for one in bound:
                for backend in one.route.backends:
                    if self.resolve(one.route, backend) is not None:
                        of_gateway = vips.setdefault((backend.namespace, backend.name), {})
                        of_gateway.setdefault(ref, []).extend(one.match.destinations)
        for name, service in self._services.items():
            of_gateway = vips.get(name, {})
            labelled = self.gateways.get(gateway_ref(service.meta.namespace, service.gateway))
            gateway = labelled or next((self.gateways[ref] for ref in of_gateway), None)
            if gateway is not None:
                yield ServedService(
                    service=service,
                    gateway=gateway,
                    vips={ref: sorted_prefixes(found) for ref, found in of_gateway.items()},
                    needs_attachment=self.class_of(gateway) == names.STATELESS_LOAD_BALANCER,
                )


def gateway_ref(namespace: str, name: str) -> ObjectRef:
    """The reference of a Gateway."""
    return ObjectRef(kind="Gateway", namespace=namespace, name=name)
