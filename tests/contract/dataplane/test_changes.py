"""Changes under traffic lose nothing and misroute nothing; what is in the kernel outlives its agent; removal leaves nothing."""

from __future__ import annotations

import itertools
import json
import random
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest

from core.errors import DataplaneError
from core.lb.classifier import Packet, decide
from core.lb.forwarding import Forwarding, Target
from core.model import Address, L4Protocol, PortRange
from live.dataplane.fence import OUR_PROTOCOL
from live.netlink import NETLINK_NETFILTER, Message, NetlinkSocket, attributes, string
from tests.contract.dataplane.conftest import Plane
from tests.contract.dataplane.packets import Sent, expected, fates, frame, random_packet, sent
from tests.contract.dataplane.sets import CLIENTS, PORTS, VIP, VIPS, flow, pool, random_forwarding, simple
from tests.contract.dataplane.world import Namespace, World, target_address

FLOWS = 400
CHANGES = 12
_MAGIC = b"tidegate-stream-"


@dataclass(slots=True)
class Stream:
    """UDP packets of many connections, as fast as one thread sends them, each with a number of its own."""

    world: World
    packets: list[Packet]
    sent: int = 0
    found: dict[int, list[int]] = field(default_factory=dict)
    """Targets by the number of the packet."""

    def collect(self) -> None:
        for target, port in enumerate(self.world.target_ports):
            self._note(target, port.drain())

    def _note(self, target: int, frames: Sequence[bytes]) -> None:
        for arrived in frames:
            at = arrived.find(_MAGIC)
            if at >= 0:
                number = struct.unpack_from(">I", arrived, at + len(_MAGIC))[0]
                self.found.setdefault(number, []).append(target)

    def finish(self) -> None:
        seen = self.world.exchange([])
        for target, frames in enumerate(seen.targets):
            self._note(target, frames)

    def faults(self, *allowed: Forwarding) -> list[str]:
        """Packets that did not arrive exactly once, at a target that one of `allowed` says."""
        targets = [{expected(self.world, forwarding, packet) for forwarding in allowed} for packet in self.packets]
        return [
            f"packet {number}: at {self.found.get(number, [])}, not one of {sorted(targets[number % len(targets)])}"
            for number in range(self.sent)
            if len(at := self.found.get(number, [])) != 1 or f"target {at[0]}" not in targets[number % len(targets)]
        ]


@contextmanager
def streaming(world: World, version: int = 4) -> Iterator[Stream]:
    """Traffic for as long as the block runs; afterwards all of it has arrived or is lost."""
    draw = random.Random(version)
    stream = Stream(world, [])
    while len(stream.packets) < FLOWS:
        packet = random_packet(draw, CLIENTS[version], [VIP[version]], PORTS)
        stream.packets.append(
            replace(packet, protocol=L4Protocol.UDP, source_port=draw.getrandbits(16), destination_port=4000)
        )
    heads = []
    for packet in stream.packets:
        raw = frame(world, sent(packet, 0).raw)
        heads.append(
            raw[: -len(b"tg00000000-" + bytes(5))][:-8] + struct.pack(">HHHH", packet.source_port, 4000, 28, 0) + _MAGIC
        )
    lengths_right = [_with_length(head + bytes(4))[: len(head)] for head in heads]
    stop = threading.Event()

    def run() -> None:
        for number, head in zip(itertools.count(), itertools.cycle(lengths_right)):
            if stop.is_set():
                return
            world.send([head + struct.pack(">I", number)])
            stream.sent = number + 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stream
    finally:
        stop.set()
        thread.join()
        stream.finish()


def _with_length(raw: bytes) -> bytes:
    """The frame with its IP and UDP lengths set to what it has, without a UDP checksum."""
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    packet = raw[14:]
    if packet[0] >> 4 == 6:
        return raw[:14] + bytes(IPv6(packet[:4] + struct.pack(">H", len(packet) - 40) + packet[6:]))
    layers = IP(packet[:2] + struct.pack(">H", len(packet)) + packet[4:])
    del layers.chksum
    return raw[:14] + bytes(layers)


def until_more(stream: Stream, packets: int) -> None:
    """Returns when that many more packets have been sent: every state of the kernel gets its share of traffic."""
    goal = stream.sent + packets
    while stream.sent < goal:
        stream.collect()


@pytest.mark.parametrize("version", [4, 6])
def test_targets_come_and_go_under_traffic(plane: Plane, gateway_world: World, version: int) -> None:
    """A table of 65,537 entries: one target leaves, returns, and leaves."""
    whole, less = (simple(gateway_world, version, t, table_size=65537) for t in ([0, 1, 2, 3], [0, 1, 3]))
    plane.apply(whole)
    with streaming(gateway_world, version) as stream:
        for change in range(CHANGES):
            plane.apply(whole if change % 2 else less)
            until_more(stream, 500)
    assert stream.faults(whole, less) == []
    assert {at for (at,) in stream.found.values()} == {0, 1, 2, 3}


def test_flows_come_and_go_under_traffic(plane: Plane, gateway_world: World) -> None:
    """Other flows come and go, before and behind the one that has the traffic."""
    base = simple(gateway_world, 4, [0, 1, 2, 3])
    draw = random.Random(7)
    with_others = []
    for count in (3, 12):
        others = random_forwarding(draw, gateway_world, 4, count)
        before = [replace(f, protocols=(L4Protocol.SCTP,)) for f in others.flows]
        with_others.append(Forwarding(flows=(*before, *base.flows, *others.flows), pools=(*base.pools, *others.pools)))
    plane.apply(base)
    with streaming(gateway_world) as stream:
        for forwarding in itertools.islice(itertools.cycle((*with_others, base)), CHANGES):
            plane.apply(forwarding)
            until_more(stream, 300)
    assert stream.faults(base) == []


def test_an_agent_that_restarts_disturbs_nothing(plane: Plane, gateway_world: World) -> None:
    whole = simple(gateway_world, 4, [0, 1, 2, 3])
    less = simple(gateway_world, 4, [0, 2, 3])
    plane.apply(whole)
    with streaming(gateway_world) as stream:
        for _ in range(3):
            plane.restart()
            until_more(stream, 300)
            plane.apply(whole)
            until_more(stream, 300)
    assert stream.faults(whole) == []
    plane.restart()
    plane.apply(less)
    with streaming(gateway_world) as stream:
        until_more(stream, 300)
    assert stream.faults(less) == []


@pytest.mark.parametrize("version", [4, 6])
def test_the_same_set_again_puts_back_what_somebody_took_away(plane: Plane, gateway_world: World, version: int) -> None:
    forwarding = simple(gateway_world, version, [0, 1])
    plane.apply(simple(gateway_world, version, [0]))
    plane.apply(forwarding)
    rules = _our_rules(gateway_world.gateway, version)
    assert rules
    option = "-6 " if version == 6 else ""
    gateway_world.gateway.ip(*(f"{option}rule delete priority {priority}" for priority in rules))
    assert _our_rules(gateway_world.gateway, version) == []
    plane.apply(forwarding)
    assert _our_rules(gateway_world.gateway, version) == rules
    packet = Packet(
        source=CLIENTS[version][0][1],
        destination=VIP[version][0],
        protocol=L4Protocol.UDP,
        source_port=1,
        destination_port=4000,
    )
    assert fates(gateway_world, [sent(packet, 1)])[0].startswith("target")


def _our_rules(namespace: Namespace, version: int) -> list[int]:
    """Priorities of the rules with our protocol number, as often as there are some."""
    found = json.loads(
        namespace.run(lambda: subprocess.check_output(["ip", "-json", "-details", f"-{version}", "rule"]))
    )
    return sorted(rule["priority"] for rule in found if str(rule.get("protocol")) == str(OUR_PROTOCOL))


def test_counters_count_by_flow_and_target(plane: Plane, gateway_world: World) -> None:
    vip = VIP[4]
    forwarding = Forwarding(
        flows=(
            flow("web", [vip], to="web", destination_ports=[PortRange(first=80, last=80)]),
            flow("rest", [vip], to="rest"),
        ),
        pools=(pool(gateway_world, "web", 4, (1, [0, 1]), (1, [])), pool(gateway_world, "rest", 4, (1, [1, 2, 3]))),
    )
    plane.apply(forwarding)
    draw = random.Random(3)
    packets = [
        sent(replace(random_packet(draw, CLIENTS[4], [vip], [80, 81]), protocol=L4Protocol.UDP), n) for n in range(200)
    ]
    assert "dropped" not in fates(gateway_world, packets)
    wanted: Counter[tuple[str, str]] = Counter()
    for p in packets:
        name = "web" if p.packet.destination_port == 80 else "rest"
        wanted[name, expected(gateway_world, forwarding, p.packet)] += 1
    found = {
        (c.flow, "rejected" if c.target is None else f"target {gateway_world.number_of(c.target)}"): c.packets
        for c in plane.counters()
        if c.packets
    }
    assert found == dict(wanted)
    assert all(c.bytes >= 28 * c.packets for c in plane.counters())


@pytest.mark.parametrize("version", [4, 6])
def test_a_target_on_no_network_of_ours_gets_nothing_and_nobody_else_does(
    plane: Plane, gateway_world: World, version: int
) -> None:
    far_address = ip_address("192.0.2.9" if version == 4 else "2001:db8:ff::9")
    far = Target(service="default/service", slot=9, address=far_address, pod="far")
    base = simple(gateway_world, version, [0])
    backend = replace(base.pools[0].backends[0], targets=(*base.pools[0].backends[0].targets, far))
    forwarding = replace(base, pools=(replace(base.pools[0], backends=(backend,)),))
    packets = [_udp(n, version) for n in range(60)]
    plane.apply(forwarding)
    found = fates(gateway_world, packets)
    at_first = {
        f for p, f in zip(packets, found, strict=True) if _target_of(forwarding, p) == target_address(0, version)
    }
    at_far = {f for p, f in zip(packets, found, strict=True) if _target_of(forwarding, p) == far_address}
    assert at_first == {"target 0"}
    assert at_far == {"dropped"}


def _udp(number: int, version: int = 4) -> Sent:
    packet = Packet(
        source=ip_address("200.1.0.9" if version == 4 else "2001:db8:c1::9"),
        destination=VIP[version].network_address,
        protocol=L4Protocol.UDP,
        source_port=3000 + number,
        destination_port=4000,
    )
    return sent(packet, number)


def _target_of(forwarding: Forwarding, packet: Sent) -> Address | None:
    target = decide(forwarding, packet.packet).target
    return None if target is None else target.address


def test_an_empty_set_is_one_like_any_other(plane: Plane, gateway_world: World) -> None:
    """A gateway begins with it, and comes back to it when its last route goes."""
    plane.apply(Forwarding())
    assert "target" not in fates(gateway_world, [_udp(1)])[0]
    plane.apply(simple(gateway_world, 4, [0, 1]))
    assert fates(gateway_world, [_udp(2)])[0].startswith("target")
    plane.apply(Forwarding())
    assert "target" not in fates(gateway_world, [_udp(3)])[0]


@pytest.mark.parametrize("version", [4, 6])
def test_nothing_of_a_vip_is_forwarded_once_its_flow_is_gone(plane: Plane, gateway_world: World, version: int) -> None:
    """The VIP stays ours as long as another flow has it; then its packets are the kernel's again, and go nowhere, either."""
    whole = simple(gateway_world, version, [0, 1])
    only_tcp = replace(whole, flows=(flow("flow", [VIP[version]], protocols=[L4Protocol.TCP]),))
    other = VIPS[version][1]
    udp, to_other = _udp(1, version), _udp(2, version)
    to_other = sent(replace(to_other.packet, destination=other.network_address), 2)
    tcp = sent(replace(udp.packet, protocol=L4Protocol.TCP), 3)
    echo = sent(replace(udp.packet, protocol=None, source_port=0, destination_port=0), 4)
    plane.apply(whole)
    assert {fate.split()[0] for fate in fates(gateway_world, [udp, tcp, echo])} == {"target"}
    plane.apply(only_tcp)
    assert fates(gateway_world, [udp]) == ["dropped"]
    assert fates(gateway_world, [tcp])[0].startswith("target")
    plane.apply(replace(whole, flows=(flow("flow", [other]),)))
    found = fates(gateway_world, [udp, tcp, echo, to_other])
    assert found[:3] == ["dropped"] * 3
    assert found[3].startswith("target")


@pytest.mark.parametrize("version", [4, 6])
def test_frames_for_others_are_not_touched(plane: Plane, gateway_world: World, version: int) -> None:
    """A bridge floods what it does not know the port of; whose frame it is says the MAC address."""
    plane.apply(simple(gateway_world, version, [0, 1]))
    packets = [_udp(n, version) for n in range(20)]
    assert {fate.split()[0] for fate in fates(gateway_world, packets)} == {"target"}
    before = set(plane.counters())
    somebody = b"\x02\x00\x00\x00\x00\x01"
    seen = gateway_world.exchange([somebody + frame(gateway_world, p.raw)[6:] for p in packets])
    everywhere = [f for frames in (seen.client, seen.primary, *seen.targets) for f in frames]
    assert not [f.hex() for f in everywhere if any(p.token in f for p in packets)]
    assert set(plane.counters()) == before


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_for_no_vip_is_routed_as_ever(plane: Plane, gateway_world: World, version: int) -> None:
    plane.apply(simple(gateway_world, version, [0]))
    routed = sent(replace(_udp(1, version).packet, destination=target_address(1, version)), 1)
    assert fates(gateway_world, [routed]) == ["target 1"]


def test_only_the_given_interfaces_are_watched(plane: Plane, gateway_world: World) -> None:
    forwarding = simple(gateway_world, 4, [0, 1])
    plane.apply(forwarding, interfaces=["ext0", "t3"])
    assert fates(gateway_world, [_udp(1)])[0].startswith("target")
    plane.apply(forwarding, interfaces=["t3"])
    assert "target" not in fates(gateway_world, [_udp(2)])[0]
    with pytest.raises(DataplaneError, match="absent0"):
        plane.apply(forwarding, interfaces=["absent0"])
    assert "target" not in fates(gateway_world, [_udp(2)])[0]


def test_an_interface_that_is_gone_holds_up_no_other(plane: Plane, gateway_world: World) -> None:
    plane.apply(simple(gateway_world, 4, [0]))
    for _ in range(2):
        with pytest.raises(DataplaneError, match="absent0"):
            plane.apply(simple(gateway_world, 4, [1]), interfaces=["ext0", "absent0"])
        assert fates(gateway_world, [_udp(1)]) == ["target 1"]


def test_removal_leaves_nothing(plane: Plane, gateway_world: World) -> None:
    plane.remove()
    before = _state(gateway_world.gateway)
    draw = random.Random(1)
    plane.apply(random_forwarding(draw, gateway_world, 4, 10))
    plane.apply(random_forwarding(draw, gateway_world, 6, 10))
    assert _state(gateway_world.gateway) != before
    plane.restart()
    plane.remove()
    assert _state(gateway_world.gateway) == before
    if plane.pins is not None:
        assert not plane.pins.exists()
    plane.remove()


def _state(namespace: Namespace) -> dict[str, object]:
    """Everything that a data plane may have put into a network namespace."""
    commands = (
        "ip -o link",
        "ip rule",
        "ip -6 rule",
        "ip route show table all",
        "ip -6 route show table all",
        "tc qdisc",
    )

    def read() -> dict[str, object]:
        found: dict[str, object] = {
            command: subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
            for command in commands
        }
        return found | {"nft tables": _nft_tables()}

    return namespace.run(read)


def _nft_tables() -> list[str]:
    """NFT_MSG_GETTABLE (linux/netfilter/nf_tables.h). nft itself would read, and choke on, all that is in them."""
    get_table, name = 10 << 8 | 1, 1
    with NetlinkSocket(NETLINK_NETFILTER) as kernel:
        message = Message(get_table, 0, bytes(4), "listing the tables of nftables")
        return [string(attributes(body[4:])[name]) for _, body in kernel.dump(message)]
