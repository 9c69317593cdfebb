"""The nft data plane in the kernel: every packet where the core predicts it."""

from __future__ import annotations

import itertools
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, assert_never

import pytest

from core.errors import DataplaneError
from core.lb.classifier import Packet, decide
from core.lb.forwarding import Backend, Flow, Forwarding, Pool, Target
from core.model import ANY_PORT, Address, ByteMatch, L4Protocol, PortRange
from live.dataplane import nft
from live.dataplane.nft import NftDataplane, probe
from live.rtnetlink import RouteSocket
from sim.net.namespaces import ip_batch, run_in, within
from tests.netns._lab import DEADLINE_S, Lab, target_address
from tests.netns._packets import build, build_error, fragments, is_marked, number_in, with_extension_headers

pytestmark = pytest.mark.sandbox

MAIN_TABLE = 254
INTERFACES = ("ext0", "net1")
VIP = {4: "20.0.0.1", 6: "2000::1"}
CLIENT = {4: IPv4Address("200.100.0.0"), 6: IPv6Address("200:100::")}
EVERYTHING = (L4Protocol.TCP, L4Protocol.UDP, L4Protocol.SCTP)


@pytest.fixture(scope="module")
def rng() -> random.Random:
    return random.Random(20261123)


class Gateway:
    """A data plane in the lab's gateway, whose own answers leave by the main table."""

    def __init__(self, lab: Lab, plane: NftDataplane | None = None) -> None:
        self.lab = lab
        self.plane = plane or NftDataplane(reply_table=MAIN_TABLE)

    def apply(self, forwarding: Forwarding, interfaces: Sequence[str] = INTERFACES) -> None:
        within(self.lab.gateway, lambda: self.plane.apply(forwarding, interfaces=interfaces))

    def counts(self) -> dict[tuple[str, Address | None], int]:
        found = within(self.lab.gateway, self.plane.counters)
        return {(counter.flow, counter.target): counter.packets for counter in found}


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def gateway(lab: Lab) -> Gateway:
    return Gateway(lab)


def pool(name: str, version: int, targets: Iterable[int] = range(4), *, weight: int = 1, rejected: int = 0) -> Pool:
    """A pool of some of the lab's targets, `rejected` of whose weight has no targets."""
    members = tuple(
        Target(service="default/a", slot=n, address=target_address(n, version), pod=f"a-{n}") for n in targets
    )
    backends = [Backend(service="default/a", weight=weight, targets=members)]
    if rejected:
        backends.append(Backend(service="default/none", weight=rejected, targets=()))
    return Pool(name=name, version=version, backends=tuple(backends), table_size=4099)


def flow(name: str, version: int, **more: Any) -> Flow:
    """A flow of everything to the VIP, unless `more` says otherwise."""
    usual: dict[str, Any] = {
        "pool": f"pool-{version}",
        "priority": 0,
        "protocols": EVERYTHING,
        "destinations": (ip_network(VIP[version]),),
        "sources": (),
        "destination_ports": (ANY_PORT,),
        "source_ports": (ANY_PORT,),
    }
    return Flow(name=name, version=version, **(usual | more))


def simple(targets: Iterable[int] = range(4), **more: Any) -> Forwarding:
    """One flow a family to the same targets."""
    members = tuple(targets)
    pools = tuple(pool(f"pool-{version}", version, members, **more) for version in (4, 6))
    return Forwarding(flows=(flow("route", 4), flow("route", 6)), pools=pools)


def client_packet(rng: random.Random, version: int, **more: Any) -> Packet:
    usual: dict[str, Any] = {
        "source": CLIENT[version] + rng.randrange(1 << 16),
        "destination": ip_address(VIP[version]),
        "protocol": rng.choice((*EVERYTHING, None)),
        "source_port": rng.randrange(1 << 16),
        "destination_port": rng.randrange(1 << 16),
    }
    packet = Packet(**(usual | more))
    return packet if packet.protocol is not None else replace(packet, source_port=0, destination_port=0)


def expected_targets(forwarding: Forwarding, packets: Sequence[Packet]) -> dict[int, int]:
    """Target by packet number, of the packets that go to one."""
    found = {}
    for number, packet in enumerate(packets):
        target = decide(forwarding, packet).target
        if target is not None:
            found[number] = target.slot
    return found


def placed(lab: Lab, wires: Iterable[bytes], expected: dict[int, int]) -> None:
    """Sends packets and asserts that each arrives at its target, once, and nothing else arrives anywhere."""
    with lab.capture() as capture:
        lab.send(wires)
        arrived = [(number_in(frame.data), frame.target) for frame in capture.collect(len(expected), is_marked)]
        arrived += [(number_in(f.data), f.target) for f in capture.collect(1, is_marked, deadline_s=0.05)]
    wrong = {(n, target, expected.get(n)) for n, target in arrived if expected.get(n) != target}
    assert not wrong, f"{len(wrong)} of {len(arrived)} misrouted, as (packet, target, expected): {sorted(wrong)[:5]}"
    missing = sorted(set(expected) - {n for n, _ in arrived})
    assert not missing, f"{len(missing)} of {len(expected)} packets lost, such as {missing[:5]}"
    assert len(arrived) == len(expected), "some packets arrived twice"


def unmatched(gateway: Gateway) -> int:
    return within(gateway.lab.gateway, gateway.plane.unmatched)[0]


@pytest.mark.parametrize("version", [4, 6])
def test_random_packets_reach_the_predicted_target(gateway: Gateway, rng: random.Random, version: int) -> None:
    forwarding = simple()
    gateway.apply(forwarding)
    packets = [client_packet(rng, version) for _ in range(2000)]
    expected = expected_targets(forwarding, packets)
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
    assert len(expected) == 2000
    counts = gateway.counts()
    for n, packets_to in Counter(expected.values()).items():
        assert counts["route", target_address(n, version)] == packets_to


def random_forwarding(rng: random.Random, flows: int) -> Forwarding:
    """Flows that overlap in every dimension."""

    def some(choices: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(rng.sample(choices, rng.randint(1, min(3, len(choices)))))

    made = []
    ports = [ANY_PORT, *(PortRange(first=p, last=p + w) for p in (4000, 4001, 4002) for w in (0, 1, 500))]
    for n in range(flows):
        version = rng.choice((4, 6))
        vips = (
            ["20.0.0.0/30", "20.0.0.1/32", "20.0.0.2/32"]
            if version == 4
            else ["2000::/126", "2000::1/128", "2000::2/128"]
        )
        clients = ["200.100.0.0/17", "200.100.0.0/24"] if version == 4 else ["200:100::/113", "200:100::/120"]
        matches = [
            (),
            (),
            (ByteMatch(protocol=L4Protocol.TCP, offset=12, length=2, mask=0x00FF, value=0x02),),
            (ByteMatch(protocol=L4Protocol.TCP, offset=2, length=2, mask=0xFFFF, value=4001),),
            (ByteMatch(protocol=L4Protocol.UDP, offset=0, length=4, mask=0x0001FFFF, value=0x00010FA1),),
            (ByteMatch(protocol=L4Protocol.SCTP, offset=4, length=1, mask=0x01, value=0x01),),
        ]
        made.append(
            flow(
                f"flow-{n}",
                version,
                pool=f"pool-{version}-{rng.randrange(3)}",
                protocols=some(EVERYTHING),
                destinations=tuple(map(ip_network, some(vips))),
                sources=tuple(map(ip_network, some(clients))) if rng.random() < 0.4 else (),
                destination_ports=some(ports),
                source_ports=some(ports) if rng.random() < 0.3 else (ANY_PORT,),
                byte_matches=rng.choice(matches),
            )
        )
    pools = [
        pool(f"pool-{version}-{n}", version, targets, rejected=n)
        for version in (4, 6)
        for n, targets in enumerate(((0, 1), (1, 2, 3), (3,)))
    ]
    return Forwarding(flows=tuple(made), pools=tuple(pools), seed=rng.randrange(1 << 32))


def interesting_packet(rng: random.Random) -> Packet:
    """Most of these lie on the bounds of the flows above."""
    version = rng.choice((4, 6))
    source = CLIENT[version] + rng.choice((0, 255, 256, 0x7FFF, 0x8000, rng.randrange(1 << 16)))
    destination = ip_address("20.0.0.0" if version == 4 else "2000::") + rng.randrange(4)
    port = [3999, 4000, 4001, 4002, 4500, 4501, 4502, 4503, 0, 65535]
    packet = client_packet(
        rng,
        version,
        source=source,
        destination=destination,
        source_port=rng.choice(port),
        destination_port=rng.choice(port),
    )
    ports = packet.source_port.to_bytes(2, "big") + packet.destination_port.to_bytes(2, "big")
    match packet.protocol:
        case L4Protocol.TCP:
            rest = bytes([0, 0, 0, 1, 0, 0, 0, 0, 0x50, rng.choice((0x02, 0x10)), 1, 0, 0, 0, 0, 0])
        case L4Protocol.UDP:
            rest = b"\0\x14\0\0"  # 8 bytes of header, 12 of payload
        case L4Protocol.SCTP:
            rest = bytes([rng.randrange(2), 0, 0, 0, 0, 0, 0, 0])
        case None:
            return packet
        case _:
            assert_never(packet.protocol)
    return replace(packet, header=ports + rest)


@pytest.mark.parametrize("flows", [3, 12, 60])
def test_the_classifier_agrees_with_the_oracle(gateway: Gateway, rng: random.Random, flows: int) -> None:
    for _ in range(3):
        forwarding = random_forwarding(rng, flows)
        packets = [interesting_packet(rng) for _ in range(600)]
        before = unmatched(gateway) if gateway.plane._state else 0
        gateway.apply(forwarding)
        expected = expected_targets(forwarding, packets)
        fates = Counter(
            "dropped" if (made := decide(forwarding, packet)).flow is None else "sent" if made.target else "rejected"
            for packet in packets
        )
        placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
        outside_all_vips = sum(
            not any(packet.destination in vip for each in forwarding.flows for vip in each.destinations)
            for packet in packets
        )
        assert unmatched(gateway) - before == fates["dropped"] - outside_all_vips
        assert expected or flows == 3


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("order", [1, -1])
def test_fragments_reach_the_target_of_their_first_in_any_order(
    gateway: Gateway, rng: random.Random, version: int, order: int
) -> None:
    forwarding = simple()
    gateway.apply(forwarding)
    packets = [client_packet(rng, version, protocol=rng.choice((L4Protocol.TCP, L4Protocol.UDP))) for _ in range(200)]
    wires = [wire for n, packet in enumerate(packets) for wire in list(fragments(packet, n))[::order]]
    placed(gateway.lab, wires, expected_targets(forwarding, packets))


@pytest.mark.parametrize("version", [4, 6])
def test_icmp_errors_reach_the_target_of_the_packet_inside(gateway: Gateway, rng: random.Random, version: int) -> None:
    forwarding = simple()
    gateway.apply(forwarding)
    packets = [client_packet(rng, version) for _ in range(500)]
    router = ip_address("10.1.0.2" if version == 4 else "fd01::2")
    wires = (build_error(router, packet, n) for n, packet in enumerate(packets))
    placed(gateway.lab, wires, expected_targets(forwarding, packets))


def test_ipv6_extension_headers_are_passed_over(gateway: Gateway, rng: random.Random) -> None:
    forwarding = simple()
    gateway.apply(forwarding)
    packets = [client_packet(rng, 6) for _ in range(300)]
    wires = (with_extension_headers(packet, n) for n, packet in enumerate(packets))
    placed(gateway.lab, wires, expected_targets(forwarding, packets))


def test_sctp_goes_by_its_ports_from_any_address(gateway: Gateway, rng: random.Random) -> None:
    forwarding = simple()
    gateway.apply(forwarding)
    packets = [
        client_packet(rng, 4, protocol=L4Protocol.SCTP, source_port=5000 + n // 50, destination_port=3868)
        for n in range(200)
    ]
    expected = expected_targets(forwarding, packets)
    assert all(len({expected[n] for n in range(first, first + 50)}) == 1 for first in range(0, 200, 50))
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)


# --- what is refused, dropped, left alone ------------------------------------------------------------------------------------


def attempt(lab: Lab, version: int, kind: int, port: int) -> str:
    """What a client outside learns when it connects, or sends a datagram: the error's name, or "silence"."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with within(lab.outside, lambda: socket.socket(family, kind)) as client:
        client.settimeout(1)
        try:
            client.connect((VIP[version], port))
            client.send(b"x")
            client.recv(1)
        except TimeoutError:
            return "silence"
        except OSError as error:
            return type(error).__name__
    return "answer"


@pytest.mark.parametrize("version", [4, 6])
def test_a_pool_without_targets_rejects_actively_and_what_matches_nothing_is_dropped(
    gateway: Gateway, version: int
) -> None:
    web = PortRange(first=80, last=80)
    forwarding = Forwarding(
        flows=(flow("web", version, destination_ports=(web,), pool="none"),), pools=(pool("none", version, ()),)
    )
    gateway.apply(forwarding)
    assert attempt(gateway.lab, version, socket.SOCK_STREAM, 80) == "ConnectionRefusedError"
    assert attempt(gateway.lab, version, socket.SOCK_DGRAM, 80) == "ConnectionRefusedError"
    assert gateway.counts()["web", None] == 2
    assert unmatched(gateway) == 0
    assert attempt(gateway.lab, version, socket.SOCK_DGRAM, 81) == "silence"
    assert unmatched(gateway) == 1


def test_rejection_is_in_proportion_to_the_weights(gateway: Gateway, rng: random.Random) -> None:
    forwarding = simple(rejected=1, weight=3)
    gateway.apply(forwarding)
    packets = [client_packet(rng, 4, protocol=L4Protocol.TCP) for _ in range(800)]
    expected = expected_targets(forwarding, packets)
    assert 500 < len(expected) < 700
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
    assert gateway.counts()["route", None] == 800 - len(expected)


def test_rejections_leave_by_the_replies_table_or_not_at_all(lab: Lab) -> None:
    gateway = Gateway(lab, NftDataplane(reply_table=4096))
    gateway.apply(
        Forwarding(
            flows=(flow("web", 4, pool="none"), flow("web6", 6, pool="none6")),
            pools=(pool("none", 4, ()), pool("none6", 6, ())),
        )
    )
    kinds = [(version, kind) for version in (4, 6) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    assert {attempt(lab, *each, 80) for each in kinds} == {"silence"}
    ip_batch(lab.gateway, ["route add default via 10.1.0.2 table 4096", "route add ::/0 via fd01::2 table 4096"])
    assert {attempt(lab, *each, 80) for each in kinds} == {"ConnectionRefusedError"}


def test_other_addresses_and_other_interfaces_are_left_alone(gateway: Gateway, rng: random.Random) -> None:
    """To a target's own address, through the gateway; and to a VIP by an interface that is not the plane's."""
    ip_batch(gateway.lab.gateway, ["route add 20.0.0.1 via 10.2.0.12"])
    gateway.apply(simple(), interfaces=("net1",))
    vip = [client_packet(rng, 4) for _ in range(50)]
    own = [client_packet(rng, 4, destination=target_address(1, 4)) for _ in range(50)]
    packets = vip + own
    expected = {n: 2 if packet in vip else 1 for n, packet in enumerate(packets)}
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)


# --- changes ---------------------------------------------------------------------------------------------------------------


def tables(lab: Lab) -> list[Any]:
    """Rules, routes of all tables and nftables of the gateway."""
    listed: list[Any] = [
        json.loads(run_in(lab.gateway, ["ip", "-json", family, *words]) or "[]")
        for family in ("-4", "-6")
        for words in (["rule", "show"], ["route", "show", "table", "all"])
    ]
    return [*listed, run_in(lab.gateway, ["nft", "list", "ruleset"])]


def test_remove_leaves_nothing(gateway: Gateway) -> None:
    before = tables(gateway.lab)
    gateway.apply(simple())
    gateway.apply(simple(range(3)))
    during = tables(gateway.lab)
    assert all(one != other for one, other in zip(during[::2], before[::2], strict=True))
    for plane in (gateway.plane, NftDataplane()):
        within(gateway.lab.gateway, plane.remove)
        assert tables(gateway.lab) == before


def test_an_agent_that_starts_anew_adopts_what_is_there(gateway: Gateway, rng: random.Random) -> None:
    forwarding = random_forwarding(rng, 30)
    gateway.apply(forwarding)
    packets = [client_packet(rng, 4, destination=ip_address("20.0.0.1")) for _ in range(300)]
    expected = expected_targets(forwarding, packets)
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
    counts, before = gateway.counts(), tables(gateway.lab)
    assert sum(counts.values())

    successor = Gateway(gateway.lab)
    successor.apply(forwarding)
    assert tables(gateway.lab) == before
    assert successor.counts() == counts

    changed = replace(forwarding, pools=tuple(pool(p.name, p.version, (0, 2)) for p in forwarding.pools))
    Gateway(gateway.lab).apply(changed)
    expected = expected_targets(changed, packets)
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)


@pytest.mark.parametrize("transaction_bytes", [None, 60_000])
def test_changes_under_traffic_lose_and_misroute_nothing(
    lab: Lab, rng: random.Random, transaction_bytes: int | None
) -> None:
    """Targets 0-2 stay, target 3 comes and goes: packets of the flows that belong to 0-2 either way must not notice.

    With small transactions, as a user without privileges has them, changed maps are made anew and switched to.
    """
    gateway = Gateway(lab, NftDataplane(reply_table=MAIN_TABLE, transaction_bytes=transaction_bytes))
    both = simple(), simple(range(3))
    gateway.apply(both[0])
    packets = [client_packet(rng, rng.choice((4, 6)), protocol=L4Protocol.UDP) for _ in range(400)]
    decided = [expected_targets(forwarding, packets) for forwarding in both]
    steady = {n: target for n, target in decided[0].items() if decided[1].get(n) == target}
    assert len(steady) > 200
    wires = [build(packets[n], n) for n in steady]
    seen, rounds, changes = streamed(gateway, both, wires)
    assert changes > 5
    assert seen == dict.fromkeys(steady.items(), rounds), f"after {rounds} rounds, {changes} changes"


def streamed(
    gateway: Gateway, sets: Sequence[Forwarding], wires: Sequence[bytes]
) -> tuple[Counter[tuple[int, int]], int, int]:
    """How often each packet arrived at each target, rounds of packets and changes, while `sets` were applied in turn for 1.5 s."""
    stop = threading.Event()
    changes = rounds = 0
    seen: Counter[tuple[int, int]] = Counter()

    def churn() -> None:
        nonlocal changes
        for forwarding in itertools.cycle(sets):
            if stop.is_set():
                return
            gateway.apply(forwarding)
            changes += 1

    churning = threading.Thread(target=churn)
    with gateway.lab.capture() as capture:
        churning.start()
        finish = time.monotonic() + 1.5
        while time.monotonic() < finish:
            gateway.lab.send(wires)
            rounds += 1
            seen.update((number_in(f.data), f.target) for f in capture.collect(len(wires), is_marked, deadline_s=2))
        stop.set()
        churning.join(DEADLINE_S)
    return seen, rounds, changes


def test_marks_are_kept_and_go_with_their_targets(gateway: Gateway) -> None:
    def marks() -> dict[Address, int]:
        def read() -> dict[Address, int]:
            with RouteSocket() as kernel:
                return gateway.plane._marks.marks(kernel)

        return within(gateway.lab.gateway, read)

    gateway.apply(simple())
    first = marks()
    assert len(set(first.values())) == 8
    gateway.apply(simple((0, 1, 3)))
    gone = target_address(2, 4), target_address(2, 6)
    kept = {address: mark for address, mark in first.items() if address not in gone}
    assert marks() == kept
    gateway.apply(simple())
    assert {address: mark for address, mark in marks().items() if address in kept} == kept
    assert len(set(marks().values())) == 8


def test_where_packets_under_way_cannot_be_awaited_the_next_change_cleans_up(
    gateway: Gateway, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nft, "wait_for_packets_under_way", lambda: False)
    gateway.apply(random_forwarding(rng, 20))
    gateway.apply(simple(range(3)))
    litter = tables(gateway.lab)
    monkeypatch.undo()
    gateway.apply(simple(range(3)))
    clean = tables(gateway.lab)
    assert len(clean[-1]) < len(litter[-1])
    gateway.apply(simple(range(3)))
    assert tables(gateway.lab) == clean


def test_flows_change_under_traffic_without_loss(gateway: Gateway, rng: random.Random) -> None:
    """Other flows come and go around the one that has the traffic."""
    base = simple()
    packets = [client_packet(rng, rng.choice((4, 6)), protocol=L4Protocol.UDP) for _ in range(400)]
    expected = expected_targets(base, packets)
    wires = [build(packet, n) for n, packet in enumerate(packets)]
    others = [random_forwarding(rng, n) for n in (4, 15)]
    sets = [base]
    for other in others:
        before = tuple(replace(each, protocols=(L4Protocol.SCTP,)) for each in other.flows)
        sets.append(Forwarding(flows=(*before, *base.flows, *other.flows), pools=(*base.pools, *other.pools)))
    gateway.apply(base)
    seen, rounds, changes = streamed(gateway, sets, wires)
    assert changes > 5
    assert seen == dict.fromkeys(expected.items(), rounds), f"after {rounds} rounds, {changes} changes"


def test_only_the_buckets_that_changed_are_touched(gateway: Gateway) -> None:
    gateway.apply(simple())
    chains = within(gateway.lab.gateway, lambda: run_in(gateway.lab.gateway, ["nft", "-a", "list", "ruleset"]))
    handles = [line for line in chains.splitlines() if "# handle" in line]
    gateway.apply(simple(range(3)))
    chains = run_in(gateway.lab.gateway, ["nft", "-a", "list", "ruleset"])
    assert [line for line in chains.splitlines() if "# handle" in line] == handles


def test_many_routes_to_one_service_share_one_map(gateway: Gateway, rng: random.Random) -> None:
    vips = [IPv4Address("20.0.0.0") + n for n in range(2000)]
    forwarding = Forwarding(
        flows=tuple(flow(f"r{n}", 4, pool=f"p{n}", destinations=(ip_network(vip),)) for n, vip in enumerate(vips)),
        pools=tuple(pool(f"p{n}", 4) for n in range(2000)),
    )
    gateway.apply(forwarding)
    maps = run_in(gateway.lab.gateway, ["nft", "list", "maps"])
    assert maps.count("map pool-") == 1
    packets = [client_packet(rng, 4, destination=rng.choice(vips)) for _ in range(1000)]
    expected = expected_targets(forwarding, packets)
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
    again = time.process_time()
    gateway.apply(forwarding)
    assert time.process_time() - again < 2


# --- what cannot be --------------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_named_and_change_nothing(gateway: Gateway) -> None:
    before = tables(gateway.lab)
    with pytest.raises(DataplaneError, match=r"no interface net7 in this namespace, only ext0, lo, net1"):
        gateway.apply(simple(), interfaces=("net1", "net7"))
    assert tables(gateway.lab) == before


def test_a_target_on_no_network_loses_only_its_own_packets(gateway: Gateway, rng: random.Random) -> None:
    whole = simple()
    far = Target(service="default/a", slot=4, address=ip_address("192.0.2.7"), pod="")
    backend = replace(whole.pools[0].backends[0], targets=(*whole.pools[0].backends[0].targets, far))
    forwarding = replace(whole, pools=(replace(whole.pools[0], backends=(backend,)), whole.pools[1]))
    gateway.apply(forwarding)
    packets = [client_packet(rng, 4) for _ in range(400)]
    near = {n: target for n, target in expected_targets(forwarding, packets).items() if target != 4}
    assert 200 < len(near) < 390
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), near)


def test_probe_changes_nothing(lab: Lab) -> None:
    before = tables(lab)
    assert within(lab.gateway, probe) is None
    assert tables(lab) == before


def test_the_plane_sets_the_parameters_that_it_needs(lab: Lab, rng: random.Random) -> None:
    def unset() -> None:
        for name, value in {
            "ipv4/ip_forward": "0",
            "ipv6/conf/all/forwarding": "0",
            "ipv4/conf/all/rp_filter": "1",
            "ipv4/conf/ext0/rp_filter": "1",
        }.items():
            Path("/proc/sys/net", name).write_text(value)

    within(lab.gateway, unset)
    forwarding = simple()
    Gateway(lab).apply(forwarding)
    packets = [client_packet(rng, n % 2 * 2 + 4) for n in range(50)]
    wires = (build(packet, n) for n, packet in enumerate(packets))
    placed(lab, wires, expected_targets(forwarding, packets))
