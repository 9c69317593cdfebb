"""No packet of a VIP is ever on the primary network: not of a gateway pod, not of an application Pod, whatever comes and goes.

Every Pod's primary interface is watched, in both directions and both families, while clients never stop sending: to VIPs that come and
go, lose their targets, and lose the BGP routes of their replies.
"""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import ARP, Ether

from core import kube
from core.model import Address
from live.routes import GATEWAY_TABLE
from live.rtnetlink import RouteKind, RouteSocket
from scenarios.manifests import desired, read_manifests
from sim.net.namespaces import ip_batch, within
from tests.netns._converged import assert_converged
from tests.netns._lab import raw_socket
from tests.netns._leaks import PRIMARY, Watch
from tests.netns._world import ROUTER, World, l34_route, require_world

pytestmark = pytest.mark.shared_sandbox

VIPS = (ip_address("20.0.0.1"), ip_address("2000::1"))
CLIENTS = {4: "200.100.0.100", 6: "200:100::100"}
TCP_PORT, UDP_PORT = 4000, 4100
PACKETS_A_STATE = 400
BATCH_BYTES = 2000
LAST_METRIC = 50_000
PORTS = itertools.count(30_000)
"""Of clients: none twice, for a target may still hold the connection that was."""
ANSWER_S = 5.0


@pytest.fixture(scope="module", params=["tc", "nft"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require_world(request.param)
    world = World(request.param, tmp_path_factory.mktemp(f"world-{request.param}"), scenario="poc2-dualstack")
    world.start()
    yield world
    world.mininet.stop()


class Clients:
    """A client outside that connects, asks and sends datagrams all the time, of both families, and takes every failure."""

    def __init__(self, world: World) -> None:
        self._namespace = world.mininet.network.host(ROUTER).namespace
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(vip,)) for vip in VIPS]
        self.sent = dict.fromkeys(VIPS, 0)
        self.answers = dict.fromkeys(VIPS, 0)

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, vip: Address) -> None:
        family = socket.AF_INET if vip.version == 4 else socket.AF_INET6
        datagrams = within(self._namespace, lambda: socket.socket(family, socket.SOCK_DGRAM))
        connections: list[socket.socket] = []
        while not self._stop.is_set():
            if len(connections) < 8:
                connections.append(self._connected(vip, family))
            # To a port with a route, and to one without.
            for port in (UDP_PORT, TCP_PORT):
                self._count(vip, partial(datagrams.sendto, b"x", (str(vip), port)))
            broken = [each for each in connections if not self._count(vip, partial(self._ask, vip, each))]
            for each in broken:
                connections.remove(each)
                each.close()
            self._stop.wait(0.002)
        for each in (datagrams, *connections):
            each.close()

    def _connected(self, vip: Address, family: int) -> socket.socket:
        made = within(self._namespace, lambda: socket.socket(family, socket.SOCK_STREAM))
        made.setblocking(False)
        made.bind((CLIENTS[vip.version], next(PORTS)))
        made.connect_ex((str(vip), TCP_PORT))
        return made

    def _ask(self, vip: Address, connection: socket.socket) -> None:
        with suppress(BlockingIOError):
            if connection.recv(65_536):
                self.answers[vip] += 1
        with suppress(BlockingIOError):
            connection.send(b"." * BATCH_BYTES + b"\n")

    def _count(self, vip: Address, action: Callable[[], object]) -> bool:
        try:
            action()
        except OSError:
            return False
        self.sent[vip] += 1
        return True


@contextmanager
def static_routes(world: World) -> Iterator[None]:
    """The router outside sends to the gateway pods of now what BGP gives it no route for: VIPs that are withdrawn."""
    router = world.mininet.network.host(ROUTER).namespace
    networks = [n for pod in world.gateway_pods() for n in pod.networks if n.name == "vlan-200"]
    routes = []
    for vip in VIPS:
        hops = " ".join(f"nexthop via {a}" for n in networks for a in n.addresses if a.version == vip.version)
        routes.append(f"{vip}/{vip.max_prefixlen} metric {LAST_METRIC} {hops}")
    for route in routes:
        ip_batch(router, [f"route add {route}"])
    try:
        yield
    finally:
        for route in routes:
            ip_batch(router, [f"route delete {route}"])


@contextmanager
def watched(world: World) -> Iterator[tuple[Watch, Callable[[], None]]]:
    """The watch over all Pods, and what returns when every state has had its share of packets of each family."""
    with static_routes(world), Watch(world, VIPS) as watch, Clients(world) as clients:

        def traffic() -> None:
            goals = {vip: sent + PACKETS_A_STATE for vip, sent in clients.sent.items()}
            world.wait_for(
                lambda: "" if all(clients.sent[v] >= n for v, n in goals.items()) else f"sent {clients.sent}"
            )

        traffic()
        world.wait_for(lambda: "" if all(clients.answers.values()) else f"clients are not answered: {clients.answers}")
        yield watch, traffic
        assert {pod.meta.name for pod in (*world.gateway_pods(), *world.targets())} <= watch.names
    assert watch.frames, "nothing was seen on the primary network, not even what belongs there"
    assert not watch.leaks, f"{len(watch.leaks)} frames leaked: {watch.leaks[:10]}"


def held(world: World) -> set[Address]:
    """The VIPs that some target holds."""
    found = set()
    for pod in world.targets():
        with RouteSocket(world.netns(pod)) as kernel:
            found |= {address.address for address in kernel.addresses()} & set(VIPS)
    return found


EVERYBODY, NOBODY = "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:99"
ABOUT_VIPS = {
    "packet": IP(src=str(VIPS[0]), dst="255.255.255.255") / UDP(sport=9, dport=9),
    "packet of IPv6": IPv6(src=str(VIPS[1]), dst="ff02::1") / UDP(sport=9, dport=9),
    "question who it is": ARP(psrc="10.244.255.254", pdst=str(VIPS[0])),
    "claim to be it": ARP(op=2, psrc=str(VIPS[0]), pdst="10.244.255.254"),
    "question who it is in IPv6": IPv6(src="fe80::99", dst="ff02::1") / ICMPv6ND_NS(tgt=str(VIPS[1])),
    "claim to be it in IPv6": IPv6(src="fe80::99", dst="ff02::1") / ICMPv6ND_NA(tgt=str(VIPS[1])),
    "error about a packet to it": IP(src="10.244.255.254", dst="10.244.255.253")
    / ICMP(type=3, code=3)
    / IP(src=CLIENTS[4], dst=str(VIPS[0]))
    / UDP(sport=9, dport=9),
    "error about a packet from it in IPv6": IPv6(src="fe80::99", dst="ff02::1")
    / ICMPv6TimeExceeded()
    / IPv6(src=str(VIPS[1]), dst=CLIENTS[6])
    / UDP(sport=9, dport=9),
}


def test_the_watch_notices_a_leak(world: World) -> None:
    pod = world.targets()[0]
    with Watch(world, VIPS) as watch, within(world.netns(pod), lambda: raw_socket(PRIMARY)) as wire:
        for what, packet in ABOUT_VIPS.items():
            seen = len(watch.leaks)
            wire.send(bytes(Ether(src=NOBODY, dst=EVERYBODY) / packet))
            world.wait_for(partial(_not_noticed, watch, f"{pod.meta.name} sent", seen, what), ANSWER_S)


def _not_noticed(watch: Watch, who: str, seen: int, what: str) -> str:
    return "" if any(leak.startswith(who) for leak in watch.leaks[seen:]) else f"a {what} was not noticed"


def test_vips_come_and_go(world: World) -> None:
    """All routes are deleted and made again while clients send: first nobody owns the VIPs, then somebody does."""
    routes = [obj for obj in desired(read_manifests(world.loaded.manifests)) if obj["kind"] == "L34Route"]
    routes.append(l34_route("udp-4100", "20.0.0.1", "UDP", UDP_PORT))
    with watched(world) as (_, traffic):
        for _ in range(2):
            for route in routes:
                world.api.delete(kube.L34_ROUTES, "default", route["metadata"]["name"])
            world.wait_for(lambda: f"still held: {held(world)}" if held(world) else "")
            traffic()
            for route in routes:
                world.api.create(kube.L34_ROUTES, in_default(route))
            world.wait_for(lambda: "" if held(world) == set(VIPS) else f"held: {held(world)}")
            traffic()
        assert_converged(world)


def in_default(obj: kube.Json) -> kube.Json:
    return {**obj, "metadata": {"namespace": "default", **obj["metadata"]}}


def announced(world: World) -> set[Address]:
    """The VIPs to which the router outside has a route."""
    state = world.mininet.speaker(ROUTER).observe()
    return {prefix.network_address for prefix in (route.prefix for route in state.routes)} & set(VIPS)


def test_vips_without_usable_targets_are_withdrawn_and_announced_again(world: World) -> None:
    with watched(world) as (_, traffic):
        world.scale(0)
        world.wait_for(lambda: f"still announced: {announced(world)}" if announced(world) else "")
        traffic()
        world.scale(4)
        world.wait_for(lambda: "" if announced(world) == set(VIPS) else f"announced: {announced(world)}")
        traffic()
        assert_converged(world)


def ways_out(world: World) -> set[str]:
    """The gateway pods that have a route for the replies of VIPs."""
    found = set()
    for pod in world.gateway_pods():
        with RouteSocket(world.netns(pod)) as kernel:
            if any(r.kind is RouteKind.UNICAST for r in kernel.routes(GATEWAY_TABLE, protocol=None)):
                found.add(pod.meta.name)
    return found


def test_bgp_routes_are_lost(world: World) -> None:
    """The BIRD of the router outside dies without a word; the kernel beside it goes on sending to the gateway pods."""
    speaker = world.mininet.speaker(ROUTER)
    with watched(world) as (_, traffic):
        speaker.kill()
        world.wait_for(lambda: f"still have a way out: {ways_out(world)}" if ways_out(world) else "")
        traffic()
        speaker.start()
        world.wait_for(lambda: "" if len(ways_out(world)) == 2 else f"only {ways_out(world)} have a way out")
        traffic()
        assert_converged(world)


def test_a_gateway_pod_is_deleted(world: World) -> None:
    """Its agents leave in order while packets still come: what they take out of the kernel must open no way out."""
    with watched(world) as (_, traffic):
        gone = world.gateway_pods()[0].meta.name
        world.api.delete(kube.PODS, "default", gone)
        world.wait_for(lambda: "still there" if gone in {p.meta.name for p in world.gateway_pods()} else "")
        traffic()
        assert_converged(world)
