"""What the core says of connections before they are sent: objects of the cluster -> plan -> forwarding -> target of each 5-tuple."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from core.kube import Json
from core.lb.forwarding import Forwarding
from core.lb.placement import DROPPED, FiveTuples, Indices, Placement, place
from core.manifests import parse
from core.model import Address
from core.objects import Objects
from core.plan import GatewayPlan, Plan, forwarding_of, plan
from scenarios.spec import Router


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Where each connection goes, by the names of Pods; valid for connections that begin between two times of the world's clock."""

    from_s: float
    until_s: float
    names: tuple[str, ...]
    """Every Pod that connections of this kind may reach."""
    pod: Indices
    """Index into `names`, or `core.lb.placement.REJECTED` or `DROPPED`; shape (n,)."""
    settled: bool = True
    """Whether every gateway had this table when a change was over; else it is one that they may have had on the way."""


def plan_of(objects: Iterable[Json]) -> Plan:
    """The plan of Kubernetes objects; those that are wrong are left out, and their statuses say why."""
    return plan(parse(objects)[0])


def gateway_of(whole: Plan, destination: Address, router: Router | None = None) -> GatewayPlan | None:
    """The gateway to which `router` sends packets to `destination`, or any router outside when it is None: of those that meet it, the
    one that announces the longest prefix. None: nobody tells it of the destination."""
    found = [
        (vip.prefixlen, gateway)
        for gateway in whole.gateways
        if router is None or _meets((peer.address for peer in gateway.peers), router, destination)
        for vip in gateway.announced
        if destination in vip
    ]
    return max(found, key=itemgetter(0))[1] if found else None


def _meets(peers: Iterable[Address], router: Router, destination: Address) -> bool:
    """Whether a gateway with these peers tells `router` of VIPs of the family of `destination`."""
    own = {address.ip for address in router.addresses if address.version == destination.version}
    return not own.isdisjoint(peers)


def predict(
    objects: Iterable[Json], tuples: FiveTuples, *, from_s: float, until_s: float, router: Router | None = None
) -> Prediction:
    """Where the connections go that clients of `router` open, as the objects are now; of any router when it is None."""
    found = gateway_of(plan_of(objects), tuples.destination, router)
    forwarding = found.forwarding if found is not None else None
    return _prediction(forwarding, tuples, from_s=from_s, until_s=until_s, settled=True)


def predict_on_the_way(
    passed: Iterable[Objects], tuples: FiveTuples, *, from_s: float, until_s: float, router: Router | None = None
) -> Iterator[Prediction]:
    """Where the connections go by each table that `passed` says, in order; tables that say the same as the one before only once."""
    last: Forwarding | None = None
    for objects in passed:
        forwarding = _forwarding_for(objects, tuples.destination, router)
        if forwarding != last or last is None:
            last = forwarding
            yield _prediction(forwarding, tuples, from_s=from_s, until_s=until_s, settled=False)


def _forwarding_for(objects: Objects, destination: Address, router: Router | None) -> Forwarding | None:
    """What the load balancers that `router` sends packets to, when they know `objects`, do with those to `destination`; None: none of
    them has it. Those with a usable target go first: the others are about to withdraw it."""
    found: list[tuple[bool, int, Forwarding]] = []
    for gateway in objects.gateways:
        namespace, name = gateway.meta.namespace, gateway.meta.name
        peers = (r.address for r in objects.routers if (r.meta.namespace, r.gateway) == (namespace, name))
        if router is not None and not _meets(peers, router, destination):
            continue
        made = forwarding_of(objects, namespace, name)
        if made is not None:
            usable = set(made.usable_destinations())
            vips = {vip for flow in made.flows for vip in flow.destinations if destination in vip}
            found += [(vip in usable, vip.prefixlen, made) for vip in vips]
    return max(found, key=itemgetter(0, 1))[2] if found else None


def _prediction(
    forwarding: Forwarding | None, tuples: FiveTuples, *, from_s: float, until_s: float, settled: bool
) -> Prediction:
    if forwarding is None:
        placement = Placement(targets=(), target=np.full(len(tuples), DROPPED, np.int32))
    else:
        placement = place(forwarding, tuples)
    names = tuple(sorted({target.pod for target in placement.targets}))
    number = np.array([names.index(target.pod) for target in placement.targets] + [0, 0], np.int32)
    pod = np.where(placement.target >= 0, number[placement.target], placement.target).astype(np.int32)
    return Prediction(from_s=from_s, until_s=until_s, names=names, pod=pod, settled=settled)
