"""The load balancer agent: programs the kernel of a gateway pod with what its Gateway's routes and endpoints say."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Collection

from core import kube
from core.errors import InputError, Problem
from core.lb.fingerprint import fingerprint
from core.lb.forwarding import Forwarding
from core.manifests import workloads
from core.model import Address, Gateway, sorted_prefixes
from core.plan import forwarding_of, gateway_ref
from core.ports import Dataplane
from live import neighbours
from live.agent.metrics import Registry
from live.agent.process import AgentProcess, add_arguments
from live.agent.programmed import DEFAULT_ADDRESS, Programmed, serve_programmed
from live.dataplane.choose import Choice, choose
from live.store import ModelStore

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
        store: ModelStore,
        dataplane: Dataplane,
        programmed: Programmed,
        namespace: str,
        name: str,
        forget: Callable[[Collection[Address]], None] = neighbours.forget,
    ) -> None:
        """`forget` makes the kernel ask anew where addresses are."""
        self._forget = forget
        self._store = store
        self._dataplane = dataplane
        self._programmed = programmed
        self._namespace = namespace
        self._name = name
        self._forwarding: Forwarding | None = None
        self._pods: dict[Address, str] | None = None
        """Address of a target -> its Pod, as of the last turn; None before the first."""

    @property
    def forwarding(self) -> Forwarding | None:
        """What the kernel has been given; None before the first turn."""
        return self._forwarding

    def reconcile(self) -> float:
        """Makes the kernel agree with the objects, then tells the router what may be announced.

        Returns the seconds until it wants to look again.

        A VIP is told to be usable only after the kernel forwards it, and no longer before the kernel stops doing so.
        """
        objects = self._store.objects()
        ref = gateway_ref(self._namespace, self._name)
        gateway = next((g for g in objects.gateways if g.meta.ref == ref), None)
        wanted = forwarding_of(objects, self._namespace, self._name) or Forwarding()
        usable = sorted_prefixes(wanted.usable_destinations())
        vips = sorted_prefixes(vip for flow in wanted.flows for vip in flow.destinations)
        self._programmed.retain(usable)
        self._forget_former_pods(wanted)
        self._dataplane.apply(wanted, interfaces=interfaces_of(gateway))
        self._forwarding = wanted
        self._programmed.publish(announced=usable, vips=vips)
        return VERIFY_S

    def _forget_former_pods(self, wanted: Forwarding) -> None:
        """Of an address that comes back with another Pod the kernel may still know the old one's place.

        After a restart it is not known who was there before, and nothing is forgotten: what runs is not disturbed.
        """
        pods = {target.address: target.pod for pool in wanted.pools for target in pool.targets}
        if self._pods is not None:
            before = self._pods
            self._forget({address for address, pod in pods.items() if before.get(address) != pod})
        self._pods = pods


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
        store = ModelStore([process.watch(resource) for resource in READ])
        balancer = LoadBalancer(store, choice.dataplane, programmed, *options.gateway)
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
