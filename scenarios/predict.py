"""What the core says of connections before they are sent: objects of the cluster -> plan -> forwarding -> target of each 5-tuple."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from core.kube import Json
from core.lb.forwarding import Forwarding
from core.lb.placement import DROPPED, FiveTuples, Indices, Placement, place
from core.manifests import parse
from core.model import Address
from core.objects import Objects
from core.plan import GatewayPlan, Plan, forwarding_of, plan


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


def gateway_of(whole: Plan, destination: Address) -> GatewayPlan | None:
    """The gateway that has `destination` among its VIPs."""
    return next((g for g in whole.gateways if any(destination in vip for vip in g.vips)), None)


def predict(objects: Iterable[Json], tuples: FiveTuples, *, from_s: float, until_s: float) -> Prediction:
    """Where the connections go, as the objects are now."""
    found = gateway_of(plan_of(objects), tuples.destination)
    forwarding = found.forwarding if found is not None else None
    return _prediction(forwarding, tuples, from_s=from_s, until_s=until_s, settled=True)


def predict_on_the_way(
    passed: Iterable[Objects], tuples: FiveTuples, *, from_s: float, until_s: float
) -> Iterator[Prediction]:
    """Where the connections go by each table that `passed` says, in order; tables that say the same as the one before only once."""
    last: Forwarding | None = None
    for objects in passed:
        forwarding = _forwarding_for(objects, tuples.destination)
        if forwarding != last or last is None:
            last = forwarding
            yield _prediction(forwarding, tuples, from_s=from_s, until_s=until_s, settled=False)


def _forwarding_for(objects: Objects, destination: Address) -> Forwarding | None:
    """What load balancers that know `objects` do with packets to `destination`; None: none of them has it."""
    for gateway in objects.gateways:
        found = forwarding_of(objects, gateway.meta.namespace, gateway.meta.name)
        if found is not None and any(destination in vip for flow in found.flows for vip in flow.destinations):
            return found
    return None


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
