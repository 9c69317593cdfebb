"""Which routes attach to which gateways, by the rules of Gateway API; the outcome is a value with the API's own reason.

Source: gateway-api.sigs.k8s.io, API specification v1: Listener.allowedRoutes, ParentReference, RouteConditionReason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core import names
from core.model import BackendRef, FromNamespaces, Gateway, Listener, Meta, ParentRef, ReferenceGrant, Route, Service

OUR_CLASSES = (names.STATELESS_LOAD_BALANCER, names.KPNG, names.ISTIO)
_PROTOCOL_KINDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "TCP": ((names.GATEWAY_GROUP, "TCPRoute"), (names.L34_GROUP, "L34Route")),
    "UDP": ((names.GATEWAY_GROUP, "UDPRoute"), (names.L34_GROUP, "L34Route")),
    names.ALL_PORTS_PROTOCOL: ((names.L34_GROUP, "L34Route"),),
}


def supported_kinds(listener: Listener) -> tuple[tuple[str, str], ...]:
    """The (group, kind) of routes that a listener takes: of its protocol's, those that allowedRoutes.kinds names (none named: all)."""
    by_protocol = _PROTOCOL_KINDS.get(listener.protocol, ())
    return tuple(kind for kind in by_protocol if not listener.kinds or kind in listener.kinds)


def protocol_supported(listener: Listener) -> bool:
    """Whether we can serve the listener's protocol at all."""
    return listener.protocol in _PROTOCOL_KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One parentRef of one route. Without listeners it is not accepted, and `reason` and `message` say why."""

    route: Route
    parent: ParentRef
    gateway: Gateway
    listeners: tuple[Listener, ...]
    reason: str
    message: str

    @property
    def accepted(self) -> bool:
        return bool(self.listeners)


def bind(
    route: Route, parent: ParentRef, gateway: Gateway, namespace_labels: Mapping[str, Mapping[str, str]]
) -> Binding:
    """How `route` attaches to `gateway`, which `parent` names. `namespace_labels`: namespace -> its labels."""
    listeners = tuple(
        listener
        for listener in gateway.listeners
        if parent.section_name in ("", listener.name) and parent.port in (None, listener.port)
    )
    group = names.L34_GROUP if route.meta.ref.kind == "L34Route" else names.GATEWAY_GROUP
    kind = (group, route.meta.ref.kind)
    allowed = tuple(
        listener
        for listener in listeners
        if kind in supported_kinds(listener) and _namespace_allowed(listener, gateway, route.meta, namespace_labels)
    )
    if allowed:
        reason, message = "Accepted", "attached to " + ", ".join(listener.name for listener in allowed)
    elif not listeners:
        where = f"sectionName {parent.section_name!r}" if parent.section_name else f"port {parent.port}"
        reason, message = (
            "NoMatchingParent",
            f"no listener of {gateway.meta.ref} has {where}: there are {_names(gateway)}",
        )
    else:
        reason = "NotAllowedByListeners"
        what = f"a {kind[1]} from namespace {route.meta.namespace!r}"
        message = f"no listener of {gateway.meta.ref} allows {what}: see their protocol and allowedRoutes"
    return Binding(route=route, parent=parent, gateway=gateway, listeners=allowed, reason=reason, message=message)


def _names(gateway: Gateway) -> str:
    shown = [f"{listener.name} (port {listener.port})" for listener in gateway.listeners[:8]]
    return ", ".join(shown) + (", and more" if len(gateway.listeners) > 8 else "") if shown else "none"


def _namespace_allowed(
    listener: Listener, gateway: Gateway, route: Meta, namespace_labels: Mapping[str, Mapping[str, str]]
) -> bool:
    if listener.from_namespaces is FromNamespaces.SAME:
        return route.namespace == gateway.meta.namespace
    if listener.from_namespaces is FromNamespaces.SELECTOR:
        selector = listener.namespace_selector
        return selector is not None and selector.matches(namespace_labels.get(route.namespace, {}))
    return True


def resolve_backend(
    route: Route, backend: BackendRef, services: Mapping[tuple[str, str], Service], grants: tuple[ReferenceGrant, ...]
) -> tuple[Service | None, str, str]:
    """(service, "ResolvedRefs", "") or (None, reason, message) as the ResolvedRefs condition says it."""
    if (backend.group, backend.kind) != ("", "Service"):
        kind = f"{backend.group}/{backend.kind}" if backend.group else backend.kind
        return None, "InvalidKind", f"backend {backend.name!r} is a {kind}: only Service is supported"
    if backend.namespace != route.meta.namespace and not any(_grants(g, route, backend) for g in grants):
        what = f"no ReferenceGrant in namespace {backend.namespace!r} lets {route.meta.ref}"
        message = f"{what} refer to {backend.name!r}: create one there"
        return None, "RefNotPermitted", message
    service = services.get((backend.namespace, backend.name))
    if service is None:
        return (
            None,
            "BackendNotFound",
            f"Service {backend.namespace}/{backend.name} does not exist: create it, or correct backendRefs",
        )
    return service, "ResolvedRefs", ""


def _grants(grant: ReferenceGrant, route: Route, backend: BackendRef) -> bool:
    group = names.L34_GROUP if route.meta.ref.kind == "L34Route" else names.GATEWAY_GROUP
    return (
        grant.meta.namespace == backend.namespace
        and (group, route.meta.ref.kind, route.meta.namespace) in grant.sources
        and any(
            target_group == "" and kind == "Service" and name in ("", backend.name)
            for target_group, kind, name in grant.targets
        )
    )
