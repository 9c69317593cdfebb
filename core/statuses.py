"""The status of each kind of object, from the relations between them."""

from __future__ import annotations

from collections.abc import Iterable

from core import names, status
from core.binding import Binding, protocol_supported, supported_kinds
from core.flows import bound_matches
from core.manifests.gateways import UNSUPPORTED_ADDRESS_TYPE
from core.model import Gateway, GatewayClass, GatewayRouter, Listener, ParentRef, Pod, Prefix, Route
from core.objects import Rejected
from core.relations import Relations, gateway_ref

ROUTE_KINDS = ("L34Route", "TCPRoute", "UDPRoute")


def class_status(class_: GatewayClass) -> status.ClassStatus:
    """The status of a GatewayClass of ours."""
    return status.ClassStatus(ref=class_.meta.ref, generation=class_.meta.generation, conditions=(status.accepted(),))


def gateway_status(
    relations: Relations, gateway: Gateway, vips: tuple[Prefix, ...], pods: Iterable[Pod]
) -> status.GatewayStatus:
    """The status of a Gateway of ours. `pods` carry it."""
    addresses = tuple(vip.network_address for vip in vips)
    accepted = _gateway_accepted(relations, gateway)
    programmed = _gateway_programmed(relations, gateway, vips, pods) if accepted.status else _NOT_ACCEPTED
    return status.GatewayStatus(
        ref=gateway.meta.ref,
        generation=gateway.meta.generation,
        conditions=(accepted, programmed),
        addresses=addresses[: status.MOST_ADDRESSES],
        listeners=tuple(
            _listener_status(relations, gateway, listener, usable=accepted.status) for listener in gateway.listeners
        ),
    )


_NOT_ACCEPTED = status.Condition(
    type="Programmed", status=False, reason="Invalid", message="the Gateway is not accepted"
)


def _gateway_programmed(
    relations: Relations, gateway: Gateway, vips: tuple[Prefix, ...], pods: Iterable[Pod]
) -> status.Condition:
    live = [pod for pod in pods if not pod.meta.deleting]
    addresses = tuple(vip.network_address for vip in vips)
    taken = relations.taken[gateway.meta.ref]
    if taken:
        vip, owner = next(iter(taken.items()))
        count = f"{len(taken)} VIPs, {vip} first, are" if len(taken) > 1 else f"VIP {vip} is"
        what = "give one of them other addresses or another router"
        message = f"{count} announced to the same router by {owner}, which is older: {what}"
        return status.Condition(type="Programmed", status=False, reason="AddressNotUsable", message=message)
    # "the implementation MUST indicate this in an associated entry in GatewayStatus.Conditions" (GatewaySpec.addresses).
    missing = [address for address in gateway.addresses if not any(address in vip for vip in vips)]
    if addresses and missing:
        given = ", ".join(map(str, missing[:4])) + (" and more" if len(missing) > 4 else "")
        message = (
            f"no accepted route gives this Gateway {given} of spec.addresses: add a route, or take the address away"
        )
        return status.Condition(type="Programmed", status=False, reason="AddressNotAssigned", message=message)
    return status.programmed(addresses, len(live), sum(pod.ready for pod in live))


def _gateway_accepted(relations: Relations, gateway: Gateway) -> status.Condition:
    if gateway.parameters and relations.class_of(gateway) != names.ISTIO:
        # "refers to an unsupported kind, ... the Gateway SHOULD be rejected" (GatewayInfrastructure.parametersRef). Istio takes some.
        message = (
            f"spec.infrastructure.parametersRef: {gateway.parameters}: this class takes no parameters: take it away"
        )
        return status.accepted(False, "InvalidParameters", message)
    if not gateway.endpoint_networks:
        message = f"no network in the annotation {names.ENDPOINT_NETWORKS!r} of spec.infrastructure: no endpoints"
        return status.accepted(False, "Invalid", message)
    if not any(protocol_supported(listener) for listener in gateway.listeners):
        return status.accepted(False, "ListenersNotValid", "no listener has a protocol that this class serves")
    if not all(protocol_supported(listener) for listener in gateway.listeners):
        return status.accepted(True, "ListenersNotValid", "some listeners have a protocol that is not supported")
    return status.accepted()


def _listener_status(
    relations: Relations, gateway: Gateway, listener: Listener, *, usable: bool
) -> status.ListenerStatus:
    """`usable`: whether the Gateway is accepted."""
    # "Routes with any other value for the Accepted condition MUST NOT be included" (ListenerStatus.attachedRoutes).
    routes = {
        b.route.meta.ref
        for b in relations.bindings[gateway.meta.ref]
        if any(known is listener for known in b.listeners) and bound_matches(b)
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
            status.Condition(
                type="Programmed", status=good and usable, reason="Programmed" if good and usable else "Invalid"
            ),
            status.resolved_refs(resolved),
        ),
    )


def route_status(relations: Relations, route: Route) -> status.RouteStatus:
    """The status of a route: one element for each parent that is a Gateway of ours."""
    refs = [relations.why_unresolved(route, backend) for backend in route.backends]
    resolved = status.resolved_refs([(reason, message) for found, reason, message in refs if found is None])
    by_parent = {binding.parent: binding for binding in relations.bindings_of_route.get(route.meta.ref, ())}
    accepted = {
        parent: _route_accepted(relations, by_parent[parent]) if parent in by_parent else _unusable(relations, parent)
        for parent in route.parents
    }
    return status.RouteStatus(
        ref=route.meta.ref,
        generation=route.meta.generation,
        parents=tuple(
            status.ParentStatus(
                parent=parent,
                controller=relations.controller_of(gateway_ref(parent.namespace, parent.name)),
                conditions=(condition, resolved),
            )
            for parent, condition in accepted.items()
            if condition is not None
        ),
        nowhere=_nowhere(relations, route.parents),
        overtaken_by=relations.overtaken.get(route.meta.ref),
    )


def _unusable(relations: Relations, parent: ParentRef) -> status.Condition | None:
    """What a route is told of a Gateway of ours that cannot be understood; None of any other parent."""
    if (parent.group, parent.kind) != (names.GATEWAY_GROUP, "Gateway"):
        return None
    why = relations.why_unusable(gateway_ref(parent.namespace, parent.name))
    return status.accepted(False, "NoMatchingParent", why) if why is not None else None


def _nowhere(relations: Relations, parents: Iterable[ParentRef]) -> tuple[str, ...]:
    gateways = (p for p in parents if (p.group, p.kind) == (names.GATEWAY_GROUP, "Gateway"))
    why = (relations.why_unknown(gateway_ref(parent.namespace, parent.name)) for parent in gateways)
    return tuple(dict.fromkeys(text for text in why if text is not None))


def _route_accepted(relations: Relations, binding: Binding) -> status.Condition:
    if binding.accepted and not bound_matches(binding):
        what = "spec.addresses of the Gateway" if binding.route.match is None else "the listener's protocol and port"
        return status.accepted(False, "UnsupportedValue", f"nothing is left to match: see {what}")
    older = relations.overtaken.get(binding.route.meta.ref)
    overtaken = ""
    if older:
        overtaken = (
            f"; {older}, of the same priority and older, gets the packets that match both: change one's priority"
        )
    return status.accepted(binding.accepted, binding.reason, binding.message + overtaken)


def router_status(relations: Relations, router: GatewayRouter) -> status.RouterStatus:
    """The status of a GatewayRouter; sessions are reported by the gateway pods."""
    if not router.gateway:
        message = f"the label {names.PROXY_NAME} names no Gateway: add it"
        condition = status.accepted(False, "NoMatchingParent", message)
    elif (gateway := gateway_ref(router.meta.namespace, router.gateway)) not in relations.gateways:
        why = relations.why_unusable(gateway) or f"no {gateway} of a class of ours: correct its label"
        condition = status.accepted(False, "NoMatchingParent", why)
    else:
        condition = status.accepted()
    return status.RouterStatus(ref=router.meta.ref, generation=router.meta.generation, conditions=(condition,))


def rejected_status(relations: Relations, rejected: Rejected) -> status.Status | None:
    """The status of an object that could not be understood; None when nobody is told by a status."""
    ref, generation = rejected.meta.ref, rejected.meta.generation
    if not ref.name:
        return None
    condition = status.accepted(False, "UnsupportedValue", rejected.message)
    if ref.kind == "Gateway" and relations.our_class(rejected.class_name) is not None:
        return _rejected_gateway(rejected)
    if ref.kind == "GatewayRouter":
        return status.RouterStatus(ref=ref, generation=generation, conditions=(condition,))
    if ref.kind not in ROUTE_KINDS:
        return None
    parents = tuple(
        status.ParentStatus(parent=parent, controller=relations.controller_of(gateway), conditions=(condition,))
        for parent in dict.fromkeys(rejected.parents)
        if (gateway := gateway_ref(parent.namespace, parent.name)) in relations.gateways
        or relations.why_unusable(gateway) is not None
    )
    return status.RouteStatus(
        ref=ref, generation=generation, parents=parents, nowhere=_nowhere(relations, rejected.parents)
    )


def _rejected_gateway(rejected: Rejected) -> status.GatewayStatus:
    # "UnsupportedAddress: ... an address that was provided is a type which is not supported" (GatewayConditionReason).
    unsupported = any(problem.what == UNSUPPORTED_ADDRESS_TYPE for problem in rejected.problems)
    reason = "UnsupportedAddress" if unsupported else "Invalid"
    return status.GatewayStatus(
        ref=rejected.meta.ref,
        generation=rejected.meta.generation,
        conditions=(status.accepted(False, reason, rejected.message), _NOT_ACCEPTED),
        addresses=(),
        listeners=(),
    )
