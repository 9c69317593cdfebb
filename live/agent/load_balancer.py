"""The load balancer agent: programs the kernel of a gateway pod with what its Gateway's routes and endpoints say."""

from __future__ import annotations

import argparse
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

from core import kube
from core.errors import InputError, Problem
from core.forwarding_plan import ForwardingPlanner
from core.lb.fingerprint import fingerprint
from core.lb.forwarding import Forwarding, Pool, Target
from core.manifests import workloads
from core.model import Address, Gateway, Prefix, sorted_prefixes
from core.ports import Dataplane
from live import neighbours
from live.agent.metrics import Registry
from live.agent.process import AgentProcess, add_arguments
from live.agent.programmed import DEFAULT_ADDRESS, Programmed, serve_programmed
from live.changes import Changes
from live.dataplane.choose import Choice, choose

log = logging.getLogger(__name__)

READ = (
    kube.GATEWAY_CLASSES,
    kube.GATEWAYS,
    kube.L34_ROUTES,
    kube.TCP_ROUTES,
    kube.UDP_ROUTES,
    kube.SERVICES,
    kube.ENDPOINT_SLICES,
    kube.NAMESPACES,
    kube.REFERENCE_GRANTS,
)
"""All but the classes and namespaces may be in any namespace: a Gateway may allow routes from everywhere."""


VERIFY_S = 30.0
"""How often the kernel is given what it should have without a reason: somebody else may have changed it."""


class LoadBalancer:
    """One turn of the loop."""

    def __init__(
        self,
        planner: ForwardingPlanner,
        look: Callable[[], None],
        dataplane: Dataplane,
        programmed: Programmed,
        *,
        forget: Callable[[Collection[Address]], None] = neighbours.forget,
        doubt: Callable[[Collection[Address]], None] = neighbours.doubt,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`look` tells the planner what has changed. `forget` makes the kernel ask anew where addresses are, `doubt` makes it ask
        while it goes on to send where it thinks that they are.
        """
        self._planner = planner
        self._look = look
        self._dataplane = dataplane
        self._programmed = programmed
        self._forget = forget
        self._doubt = doubt
        self._now_s = now_s
        self._forwarding: Forwarding | None = None
        self._given: tuple[Forwarding, tuple[str, ...]] | None = None
        """What the kernel has, and on which interfaces; None: not known, for it refused something."""
        self._verify_at_s = 0.0
        self._announced: tuple[Prefix, ...] = ()
        self._vips: tuple[Prefix, ...] = ()
        self._pods = Pods()
        self._new: frozenset[Address] = frozenset()
        """Addresses with another Pod, which the kernel has not been made to ask for."""

    @property
    def forwarding(self) -> Forwarding | None:
        """What the kernel has been given; None before the first turn."""
        return self._forwarding

    def reconcile(self) -> float:
        """Makes the kernel agree with the objects, then tells the router what may be announced.

        Returns the seconds until it wants to look again. Objects that say nothing new leave the kernel alone until then: what a data
        plane looks at when it is given the same again may take longer than a change.

        A VIP is told to be usable only after the kernel forwards it, and no longer before the kernel stops doing so.
        """
        self._look()
        wanted = self._planner.forwarding() or _NOTHING
        given = wanted, interfaces_of(self._planner.gateway)
        now_s = self._now_s()
        if given == self._given and now_s < self._verify_at_s:
            return self._verify_at_s - now_s
        if wanted is not self._forwarding:
            self._announced = sorted_prefixes(wanted.usable_destinations())
            self._vips = sorted_prefixes(vip for flow in wanted.flows for vip in flow.destinations)
        self._programmed.retain(self._announced)
        self._ask_for_neighbours(wanted)
        self._given = None
        self._dataplane.apply(wanted, interfaces=given[1])
        self._given, self._forwarding, self._verify_at_s = given, wanted, now_s + VERIFY_S
        self._programmed.publish(announced=self._announced, vips=self._vips)
        return VERIFY_S

    def _ask_for_neighbours(self, wanted: Forwarding) -> None:
        """Of an address that comes back with another Pod the kernel may still know the old one's place.

        After a restart it is not known who was there before: then the kernel is made to ask whether all is as it was, while it
        goes on as before. What runs is not disturbed.
        """
        first = self._forwarding is None
        self._new |= self._pods.follow(wanted)
        if self._new:
            (self._doubt if first else self._forget)(self._new)
            self._new = frozenset()


_NOTHING: Final = Forwarding()


class Pods:
    """Which Pod is behind which address, as the pools say."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._uses: Counter[tuple[Address, str]] = Counter()
        """By how many pools a Pod is reached at an address."""

    def follow(self, forwarding: Forwarding) -> frozenset[Address]:
        """The addresses with another Pod behind them than the last time, or one where none was. O(targets of changed pools)."""
        before, self._pools = self._pools, {pool.name: pool for pool in forwarding.pools}
        gained: list[Target] = []
        lost: list[Target] = []
        for name in before.keys() | self._pools.keys():
            old, new = before.get(name), self._pools.get(name)
            if old is not new:
                was, is_ = _by_identity(old), _by_identity(new)
                gained += [target for number, target in is_.items() if number not in was]
                lost += [target for number, target in was.items() if number not in is_]
        found = frozenset(target.address for target in gained if (target.address, target.pod) not in self._uses)
        self._uses.update((target.address, target.pod) for target in gained)
        for target in lost:
            key = target.address, target.pod
            self._uses[key] -= 1
            if not self._uses[key]:
                del self._uses[key]
        return found


def _by_identity(pool: Pool | None) -> dict[int, Target]:
    return {id(target): target for target in pool.targets} if pool is not None else {}


def interfaces_of(gateway: Gateway | None) -> tuple[str, ...]:
    """The interfaces on which VIP traffic may arrive: those of the gateway's networks, named as Multus names them."""
    networks = gateway.networks if gateway is not None else ()
    return tuple(network.interface or f"net{i}" for i, network in enumerate(networks, start=1))


def main(argv: list[str]) -> int:
    """`tidegate agent load-balancer`."""
    parser = argparse.ArgumentParser(
        prog="tidegate agent load-balancer", description="Programs the kernel of a gateway pod: Maglev, no NAT."
    )
    add_arguments(parser, listen=f":{workloads.LOAD_BALANCER_PORT}")
    parser.add_argument("--gateway", required=True, type=namespaced_name, metavar="NAMESPACE/NAME")
    parser.add_argument("--dataplane", default="auto", choices=("auto", "tc", "nft"))
    parser.add_argument("--programmed", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help="for the router beside it")
    options = parser.parse_args(argv)
    with AgentProcess("load-balancer", options) as process:
        choice = choose(options.dataplane)
        log.info("data plane chosen", extra={"dataplane": choice.name, "reason": choice.reason})
        programmed = Programmed()
        process.exits.callback(serve_programmed(programmed, options.programmed).close)
        count_packets(process.metrics, choice.dataplane)
        planner = ForwardingPlanner(*options.gateway)
        changes = Changes([process.watch(resource) for resource in READ], planner)
        balancer = LoadBalancer(planner, changes.tell, choice.dataplane, programmed)
        tell_forwarding(process.metrics, balancer, choice)
        return process.run(balancer.reconcile)


def namespaced_name(text: str) -> tuple[str, str]:
    """("namespace", "name") of ``namespace/name``; raises InputError otherwise."""
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name):
        raise InputError(Problem(where="--gateway", what="not a name", found=repr(text), expected="NAMESPACE/NAME"))
    return namespace, name


def tell_forwarding(metrics: Registry, balancer: LoadBalancer, choice: Choice) -> None:
    """Adds the fingerprint of what is programmed to the metrics: whoever has the objects can tell whether it is what they say; and
    which data plane this is, and why.
    """
    chosen = metrics.gauge("tidegate_dataplane_info", "Always 1; the data plane, and why it was chosen.")
    chosen.set(1, dataplane=choice.name, reason=choice.reason)
    info = metrics.gauge(
        "tidegate_forwarding_info", "Always 1; the fingerprint of what the kernel has been given, and by which plane."
    )

    def collect() -> None:
        info.forget()
        if balancer.forwarding is not None:
            info.set(1, fingerprint=fingerprint(balancer.forwarding), dataplane=choice.name)

    metrics.before_render(collect)


def count_packets(metrics: Registry, dataplane: Dataplane) -> None:
    """Adds the data plane's counters to the metrics, read when somebody asks."""
    packets = metrics.counter("tidegate_flow_packets_total", "Packets by flow and target; no target: rejected.")
    octets = metrics.counter("tidegate_flow_bytes_total", "Bytes by flow and target; no target: rejected.")

    def collect() -> None:
        packets.forget()
        octets.forget()
        for counter in dataplane.counters():
            target = str(counter.target) if counter.target is not None else ""
            packets.set(counter.packets, flow=counter.flow, target=target)
            octets.set(counter.bytes, flow=counter.flow, target=target)

    metrics.before_render(collect)
