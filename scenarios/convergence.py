"""Is the cluster as the plan of its objects says, and do the routers outside know? Pure: what was seen in, what is missing out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from core import names
from core.kube import Json
from core.lb.fingerprint import fingerprint
from core.lb.forwarding import Forwarding
from core.manifests import parse, render
from core.model import Address, Attachment, Bgp, EndpointSlice, Pod, Prefix, Static
from core.objects import Objects
from core.plan import GatewayPlan, Plan, forwarding_of, gateway_pods, plan
from scenarios.spec import Router


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The objects of a cluster at one moment, and the plan that follows from them."""

    objects: Objects
    plan: Plan
    raw: tuple[Json, ...]

    @staticmethod
    def of(raw: Iterable[Json]) -> View:
        raw = tuple(raw)
        objects = parse(raw)[0]
        return View(objects=objects, plan=plan(objects), raw=raw)

    def balancers(self) -> Iterator[tuple[GatewayPlan, tuple[Pod, ...]]]:
        """The gateways that are carried by pods of our load balancer, with those pods."""
        for planned in self.plan.gateways:
            if planned.class_ == names.STATELESS_LOAD_BALANCER:
                yield planned, gateway_pods(planned.gateway, self.objects.pods)


def missing_in_api(view: View) -> Iterator[str]:
    """What the API's objects lack to be as the plan says: Pods, slices, attachments."""
    for obj in view.raw:
        if obj["kind"] == "Deployment":
            yield from _deployment(obj)
    for pod in view.objects.pods:
        if pod.meta.deleting:
            yield f"{pod.meta.ref} is being deleted"
    for planned, pods in view.balancers():
        ready = sum(pod.ready for pod in pods)
        if ready != planned.gateway.replicas or len(pods) != planned.gateway.replicas:
            yield f"{ready} of {planned.gateway.replicas} pods of {planned.gateway.meta.ref} are ready"
    yield from _slices(view)
    yield from _attachments(view)


def _deployment(obj: Json) -> Iterator[str]:
    metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    wanted, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
    name = f"Deployment {metadata['namespace']}/{metadata['name']}"
    if status.get("observedGeneration") != metadata.get("generation"):
        yield f"{name} has not been looked at"
    elif ready != wanted or status.get("replicas", 0) != wanted or status.get("updatedReplicas", 0) != wanted:
        yield f"{ready} of {wanted} pods of {name} are ready"


def _slices(view: View) -> Iterator[str]:
    def content(slices: Iterable[EndpointSlice]) -> dict[object, object]:
        return {s.meta.ref: (s.endpoints, dict(s.reserved)) for s in slices if s.managed_by == names.SLICE_MANAGER}

    stored, wanted = content(view.objects.slices), content(view.plan.slices)
    for ref in sorted(stored.keys() | wanted.keys(), key=str):
        if stored.get(ref) != wanted.get(ref):
            yield f"{ref} is not as the plan says"
    for slice_ in view.plan.slices:
        if slice_.vips == ():
            continue  # no VIP of this family leads here: there is nothing that a Pod could hold to become ready
        waiting = [e.pod for e in slice_.endpoints if not e.ready or e.pending_vips]
        if waiting:
            yield f"endpoints of {slice_.meta.ref} are not ready: {', '.join(waiting)}"


def _attachments(view: View) -> Iterator[str]:
    for pod in view.objects.pods:
        wanted = view.plan.attachments.get(pod.meta.ref, ())
        text = pod.meta.annotations.get(names.ATTACHMENT)
        if (render.attachment_text(wanted) if wanted else None) != text:
            yield f"the attachment of {pod.meta.ref} is not written"
        elif set(pod.attached) != {vip for one in wanted for vip in one.vips}:
            yield f"{pod.meta.ref} is not attached to {text or 'nothing'}"


def expected_fingerprint(view: View, planned: GatewayPlan) -> str:
    """What a load balancer of this gateway must have programmed."""
    meta = planned.gateway.meta
    return fingerprint(forwarding_of(view.objects, meta.namespace, meta.name) or Forwarding())


def missing_in_kernels(view: View, programmed: Mapping[str, str]) -> Iterator[str]:
    """The gateway pods whose load balancer has another forwarding set; `programmed`: Pod -> fingerprint."""
    for planned, pods in view.balancers():
        wanted = expected_fingerprint(view, planned)
        for pod in pods:
            if programmed.get(pod.meta.name) != wanted:
                yield f"{pod.meta.ref} has not programmed {planned.gateway.meta.ref} yet"


def missing_in_pods(view: View, has: Callable[[str, tuple[Attachment, ...]], bool]) -> Iterator[str]:
    """The application Pods that do not have the VIPs and the ways back that are planned; `has`: whether the Pod of a UID has them."""
    for pod in view.objects.pods:
        wanted = view.plan.attachments.get(pod.meta.ref, ())
        if wanted and not has(pod.meta.uid, wanted):
            yield f"{pod.meta.ref} does not have its ways back yet"


class Known(Protocol):
    """What a router outside knows."""

    def next_hops(self, prefix: Prefix) -> frozenset[Address]:
        """The gateway pods over which it reaches `prefix`."""

    def prefixes(self) -> frozenset[Prefix]:
        """All prefixes that it has learned."""

    def established(self) -> frozenset[Address]:
        """The neighbours with which a BGP session is established."""

    def bfd_up(self) -> frozenset[Address]:
        """The neighbours with which BFD is up."""


def missing_in_router(view: View, router: Router, known: Known) -> Iterator[str]:
    """What a router outside lacks, or has too much of."""
    expected: dict[Prefix, set[Address]] = {}
    watched: set[Address] = set()
    spoken_to: set[Address] = set()
    networks = vlan_networks(view.raw, router.vlan)
    for planned, pods in view.balancers():
        for version, routing in _sessions(planned, router):
            hops = set(addresses_on(pods, networks, version))
            watched |= hops if routing.bfd is not None else set()
            spoken_to |= hops if isinstance(routing, Bgp) else set()
            for vip in planned.announced:
                if vip.version == version:
                    expected.setdefault(vip, set()).update(hops)
    for vip, hops in expected.items():
        has = known.next_hops(vip)
        if has != hops:
            yield f"{router.name} reaches {vip} over {len(has & hops)} of {len(hops)} gateway pods"
    for prefix in sorted(known.prefixes() - expected.keys(), key=str):
        yield f"{router.name} still has a route to {prefix}"
    for address in sorted(spoken_to - known.established(), key=str):
        yield f"BGP between {router.name} and {address} is not established"
    for address in sorted(watched - known.bfd_up(), key=str):
        yield f"BFD between {router.name} and {address} is not up"


def _sessions(planned: GatewayPlan, router: Router) -> Iterator[tuple[int, Bgp | Static]]:
    """The address families in which the gateway's pods talk to `router`, and how."""
    own = {address.ip for address in router.addresses}
    for peer in planned.peers:
        if peer.address in own:
            yield peer.address.version, peer.routing


def vlan_networks(raw: Iterable[Json], vlan: int) -> frozenset[tuple[str, str]]:
    """(namespace, name) of the NetworkAttachmentDefinitions of a VLAN."""
    found = set()
    for obj in raw:
        if obj["kind"] == "NetworkAttachmentDefinition":
            try:
                config = json.loads(obj["spec"]["config"])
            except (KeyError, TypeError, ValueError):
                continue  # the Pods that want it say so
            if isinstance(config, dict) and config.get("type") == "vlan" and config.get("vlanId") == vlan:
                found.add((obj["metadata"].get("namespace", "default"), obj["metadata"]["name"]))
    return frozenset(found)


def addresses_on(pods: Sequence[Pod], networks: frozenset[tuple[str, str]], version: int) -> Iterator[Address]:
    """The addresses of Pods on some networks, in one family."""
    for pod in pods:
        for status in pod.networks:
            if (status.namespace, status.name) in networks:
                yield from (address for address in status.addresses if address.version == version)
