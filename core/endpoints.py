"""EndpointSlices: the Pods that a Service selects, by their addresses on the gateway's endpoint networks, each with its slot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from operator import attrgetter, itemgetter
from types import MappingProxyType

from core import names, slots
from core.model import Address, Endpoint, EndpointSlice, Meta, NetworkSelection, ObjectRef, Pod, Prefix, Service

SLOTS_OF_A_SLICE = 100
"""So many endpoints a slice has at most: as many as Kubernetes gives its own.

Source: kube-controller-manager, --max-endpoints-per-slice; KEP-0752.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """A Pod that a Service selects, and its addresses on the endpoint networks, one a family; none while it is being set up."""

    pod: Pod
    addresses: Mapping[int, Address]
    age: tuple[str, str, str]
    """What the older Pod has less of."""
    made: dict[int, tuple[tuple[object, ...], Endpoint]] = field(default_factory=dict)
    """Family -> the endpoint that was made of it last, and from what."""

    def endpoint(self, version: int, slot: int, wanted: tuple[Prefix, ...] | None) -> Endpoint:
        """The endpoint; `wanted` are the VIPs that the Pod must hold, None when it need not. The same object while nothing changes."""
        known = self.made.get(version)
        if known is None or known[0] != (slot, wanted):
            known = self.made[version] = ((slot, wanted), _endpoint(self, version, slot, wanted))
        return known[1]


def select(
    service: Service, pods: Iterable[Pod], networks: Sequence[NetworkSelection], known: Iterable[Selected] = ()
) -> tuple[Selected, ...]:
    """The Pods behind `service`, oldest first, with their addresses on `networks`. `known` is the result for this very Service and
    these networks at another time: what has not changed since is taken from it.

    A Service without a selector selects nothing (its slices would be written by hand), and neither does one whose selector is
    empty but for the dummy.
    """
    if not service.selector:
        return ()
    wanted = {(network.namespace, network.name) for network in networks}
    unchanged = {id(one.pod): one for one in known}
    found = [
        unchanged.get(id(pod)) or Selected(pod, addresses_on(pod, wanted), _age(pod))
        for pod in pods
        if id(pod) in unchanged
        or (
            pod.meta.namespace == service.meta.namespace
            and not pod.terminal
            and service.selector.items() <= pod.meta.labels.items()
        )
    ]
    return tuple(sorted(found, key=attrgetter("age")))


def _age(pod: Pod) -> tuple[str, str, str]:
    return (pod.meta.created, pod.meta.name, pod.meta.uid)


def addresses_on(pod: Pod, networks: AbstractSet[tuple[str, str]]) -> dict[int, Address]:
    """The Pod's first address of each family on `networks` ((namespace, name) of a NetworkAttachmentDefinition): 4 or 6 -> address.

    The interface's name does not count, nor do addresses that no other host can use: the API server refuses a whole EndpointSlice for
    one of them. Source: Kubernetes, pkg/apis/core/validation, ValidateEndpointIP.
    """
    found: dict[int, Address] = {}
    for status in pod.networks:
        if (status.namespace, status.name) in networks:
            for address in status.addresses:
                if not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast):
                    found.setdefault(address.version, address)
    return found


def slices_of(
    service: Service,
    selected: Sequence[Selected],
    previous: Sequence[EndpointSlice],
    vips: Sequence[Prefix],
    *,
    needs_attachment: bool,
    known: Mapping[ObjectRef, EndpointSlice] = MappingProxyType({}),
) -> tuple[EndpointSlice, ...]:
    """The slices of `service`, IPv4 before IPv6, with the slots of `previous` kept. A family without addresses has no slice.

    Slice number k has the slots from k * SLOTS_OF_A_SLICE on, so an endpoint stays in its slice as long as its Pod lives, and what
    changes with it is that slice alone. It is there as long as a Pod has one of its slots, though none may have an address yet.

    A Pod has its slot from the moment at which it exists, so slots follow the order in which Pods were created, whatever the order
    in which they come up.

    `needs_attachment`: an endpoint is ready only when its Pod holds at least one of `vips`, the VIPs of the Service; those that it
    does not hold yet are `pending_vips`. `known`: slices of this very Service at another time; an equal one is given as that object.
    """
    before: dict[str, int] = {}
    for slice_ in previous:
        before |= slice_.reserved
    assigned = slots.assign([s.pod.meta.uid for s in selected], before, service.max_endpoints)
    parts: dict[int, list[tuple[int, Selected]]] = {}
    for one in selected:
        slot = assigned.get(one.pod.meta.uid)
        if slot is not None:
            parts.setdefault(slot // SLOTS_OF_A_SLICE, []).append((slot, one))
    for part in parts.values():
        part.sort(key=itemgetter(0))
    slices = []
    for version in (4, 6):
        wanted = tuple(vip for vip in vips if vip.version == version) if needs_attachment else None
        if any(version in one.addresses for part in parts.values() for _, one in part):
            made = (_slice(service, version, number, parts[number], wanted) for number in sorted(parts))
            slices += [_the_same(known.get(slice_.meta.ref), slice_) for slice_ in made]
    return tuple(slices)


def _the_same(known: EndpointSlice | None, made: EndpointSlice) -> EndpointSlice:
    return known if known == made and known is not None else made


def in_order_of_writing(
    changed: Iterable[EndpointSlice], planned: Iterable[EndpointSlice], stored: Mapping[ObjectRef, EndpointSlice]
) -> tuple[tuple[EndpointSlice, bool], ...]:
    """The slices that changed, in the order in which they are to be written, and whether a slice gives endpoints away: it is written
    last, after those that take them, so that every endpoint is in one slice at least at every moment.

    `planned`: all slices of the plan; `stored`: the slices as they are.
    """
    taken: dict[tuple[str, str, int], set[str]] = {}
    found = []
    planned = tuple(planned)
    for slice_ in changed:
        was = stored.get(slice_.meta.ref)
        given = {e.pod_uid for e in was.endpoints} - slice_.reserved.keys() if was is not None else set()
        if given:
            family = (slice_.meta.namespace, slice_.service, slice_.version)
            if family not in taken:
                same = (s for s in planned if (s.meta.namespace, s.service, s.version) == family)
                taken[family] = {uid for s in same for uid in s.reserved}
            given &= taken[family]
        found.append((slice_, bool(given)))
    return tuple(sorted(found, key=itemgetter(1)))


def told_once(slices: Iterable[EndpointSlice]) -> tuple[EndpointSlice, ...]:
    """The slices of one Service in one family, each endpoint and each slot in one of them only, in the order of their names. The same
    objects when that is so anyway.

    While endpoints move from one slice to another, both tell of them until the second is written. The slice whose name comes last is
    believed: slots only ever move to a slice that comes earlier, and the slice of an older version, which holds all, comes first.
    """
    ordered = sorted(slices, key=lambda slice_: slice_.meta.name)
    reserved = sum(len(slice_.reserved) for slice_ in ordered)
    uids: set[str] = set()
    taken: set[int] = set()
    for slice_ in ordered:
        uids.update(slice_.reserved)
        taken.update(slice_.reserved.values())
    if len(uids) == len(taken) == reserved:
        return tuple(ordered)
    uids, taken, found = set(), set(), []
    for slice_ in reversed(ordered):
        left = tuple(e for e in slice_.endpoints if e.pod_uid not in uids and e.slot not in taken)
        uids.update(slice_.reserved)
        taken.update(slice_.reserved.values())
        found.append(slice_ if len(left) == len(slice_.endpoints) else replace(slice_, endpoints=left))
    return tuple(reversed(found))


def _endpoint(selected: Selected, version: int, slot: int, wanted: tuple[Prefix, ...] | None) -> Endpoint:
    pod = selected.pod
    pending = tuple(vip for vip in wanted or () if vip not in pod.attached)
    in_place = wanted is None or len(pending) < len(wanted)
    return Endpoint(
        address=selected.addresses[version],
        pod=pod.meta.name,
        pod_uid=pod.meta.uid,
        node=pod.node,
        slot=slot,
        ready=pod.ready and in_place and not pod.meta.deleting,
        serving=pod.ready and in_place,
        terminating=pod.meta.deleting,
        pending_vips=pending if in_place else (),
    )


def _slice(
    service: Service,
    version: int,
    number: int,
    part: Sequence[tuple[int, Selected]],
    vips: tuple[Prefix, ...] | None,
) -> EndpointSlice:
    ref = ObjectRef(kind="EndpointSlice", namespace=service.meta.namespace, name=slice_name(service, version, number))
    labels = {names.SERVICE_NAME: service.meta.name, names.SLICE_MANAGED_BY: names.SLICE_MANAGER}
    return EndpointSlice(
        meta=Meta(ref=ref, labels=labels),
        service=service.meta.name,
        version=version,
        endpoints=tuple(one.endpoint(version, slot, vips) for slot, one in part if version in one.addresses),
        ports=tuple(
            (port.name, port.protocol, port.target_port) for port in service.ports if isinstance(port.target_port, int)
        ),
        reserved={one.pod.meta.uid: slot for slot, one in part},
        managed_by=names.SLICE_MANAGER,
        vips=vips,
    )


def slice_name(service: Service, version: int, number: int) -> str:
    """``<service>-ipv4``, then ``<service>-ipv4-1`` and so on: a Service of up to a hundred endpoints has the one of plain name."""
    plain = f"{service.meta.name}-ipv{version}"
    return f"{plain}-{number}" if number else plain
