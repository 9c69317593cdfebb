"""Changes of the nft data plane: nothing is lost or misrouted under traffic, nothing is left, nothing is done twice."""

from __future__ import annotations

import errno
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from core.lb.forwarding import Forwarding, Target
from core.model import Address, L4Protocol
from live.dataplane import nft
from live.dataplane.nft import NftDataplane
from live.dataplane.nft_tables import Plan, together
from live.dataplane.nft_wire import NftSocket
from live.netlink import Message, NetlinkError
from sim.net.namespaces import run_in, within
from tests.netns._lab import DEADLINE_S, Lab, target_address
from tests.netns._nft_gateway import (
    MAIN_TABLE,
    Gateway,
    client_packet,
    expected_targets,
    flow,
    placed,
    pool,
    random_forwarding,
    simple,
    tables,
)
from tests.netns._packets import build, is_marked, l4, marked, number_in

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def rng() -> random.Random:
    return random.Random(20261123)


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def gateway(lab: Lab) -> Gateway:
    return Gateway(lab)


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
        return within(gateway.lab.gateway, gateway.plane._marks.marks)

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


def test_counts_go_on_when_a_flow_has_more_targets_than_its_set_has_room_for(
    gateway: Gateway, rng: random.Random
) -> None:
    forwarding = simple()
    packets = [client_packet(rng, 4, protocol=rng.choice((L4Protocol.TCP, None))) for _ in range(200)]
    expected = expected_targets(forwarding, packets)
    gateway.apply(forwarding)
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
    before = {key: packets for key, packets in gateway.counts().items() if packets}
    assert sum(before.values()) == 200
    for targets in (range(30), range(4), range(200), range(4)):
        gateway.apply(simple(targets))
        assert {key: packets for key, packets in gateway.counts().items() if packets} == before
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
    assert {key: packets for key, packets in gateway.counts().items() if packets} == {
        k: 2 * n for k, n in before.items()
    }


def test_counts_of_an_outgrown_set_survive_the_agent(gateway: Gateway, rng: random.Random) -> None:
    forwarding = simple()
    packets = [client_packet(rng, 4, protocol=L4Protocol.UDP) for _ in range(100)]
    gateway.apply(forwarding)
    placed(gateway.lab, (build(p, n) for n, p in enumerate(packets)), expected_targets(forwarding, packets))
    before = gateway.counts()
    gateway.apply(simple(range(30)))
    successor = Gateway(gateway.lab)
    successor.apply(simple(range(30)))
    assert {key: packets for key, packets in successor.counts().items() if packets} == {
        key: packets for key, packets in before.items() if packets
    }


@pytest.mark.parametrize("ends_after", ["nothing", "one", "half", "all but the switch", "the switch"])
def test_what_an_interrupted_agent_left_unfinished_is_finished(
    gateway: Gateway, rng: random.Random, monkeypatch: pytest.MonkeyPatch, ends_after: str
) -> None:
    """A user without privileges has small transactions, of which each change takes many; after so many the kernel refuses the next.

    Until the switch each packet goes where the old set says, from it on where the new one says, whatever has been finished.
    """
    before, after = random_forwarding(rng, 40), random_forwarding(rng, 40)
    packets = [
        client_packet(
            rng,
            version,
            destination=ip_network("20.0.0.0/30" if version == 4 else "2000::/126")[rng.randrange(4)],
            destination_port=rng.randrange(3999, 4504),
        )
        for version in (4, 6)
        for _ in range(300)
    ]
    # With the headers that byte matches read.
    packets = [p if p.protocol is None else replace(p, header=l4(p, marked(n))[1][:-12]) for n, p in enumerate(packets)]
    wires = [build(packet, n) for n, packet in enumerate(packets)]
    expected_before, expected_after = (expected_targets(each, packets) for each in (before, after))
    assert sum(expected_before.get(n) != expected_after.get(n) for n in range(len(packets))) > 100
    small = Gateway(gateway.lab, NftDataplane(reply_table=MAIN_TABLE, transaction_bytes=30_000))
    small.apply(before)
    with monkeypatch.context() as patched:
        committed = interrupt(patched, ends_after)
        with pytest.raises(NetlinkError):
            small.apply(after)
    placed(gateway.lab, wires, expected_after if committed.switched else expected_before)
    assert committed.switched == (ends_after == "the switch")
    Gateway(gateway.lab, NftDataplane(reply_table=MAIN_TABLE, transaction_bytes=30_000)).apply(after)
    placed(gateway.lab, wires, expected_after)


@dataclass(slots=True)
class Committed:
    """What an agent has done of a change."""

    additions: int = 0
    """Transactions before the switch that the change takes."""
    transactions: int = 0

    @property
    def switched(self) -> bool:
        return self.transactions > self.additions


def interrupt(monkeypatch: pytest.MonkeyPatch, ends_after: str) -> Committed:
    """Makes the kernel refuse all transactions of the next change from some point on."""
    commit = NftSocket.commit
    done, allowed = Committed(), 0

    def plan(parts: Iterable[Plan]) -> Plan:
        nonlocal allowed
        made = together(parts)
        done.additions = len(made.additions)
        assert done.additions > 3, "the change takes too few transactions"
        assert made.deletions
        allowed = {
            "nothing": 0,
            "one": 1,
            "half": done.additions // 2,
            "all but the switch": done.additions,
            "the switch": done.additions + 1,
        }[ends_after]
        return made

    def fail(kernel: NftSocket, messages: Sequence[Message], *, only_check: bool = False) -> None:
        if not only_check:
            if done.transactions == allowed:
                raise NetlinkError("nft: no more", errno.ENOMEM)
            done.transactions += 1
        commit(kernel, messages, only_check=only_check)

    monkeypatch.setattr(nft, "together", plan)
    monkeypatch.setattr(NftSocket, "commit", fail)
    return done


def test_a_mark_that_comes_to_another_target_begins_to_count_anew(gateway: Gateway, rng: random.Random) -> None:
    forwarding = simple((0,))
    packets = [client_packet(rng, 4, protocol=L4Protocol.UDP) for _ in range(50)]
    gateway.apply(forwarding)
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), dict.fromkeys(range(50), 0))
    gateway.apply(simple(range(30)))
    assert gateway.counts()["route", target_address(0, 4)] == 50
    gateway.apply(simple((2,)))
    gateway.apply(simple((1,)))
    gateway.apply(simple((1, 3)))
    assert not any(gateway.counts().values())


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


def test_an_interface_that_leaves_the_short_way_does_so_with_the_change(
    gateway: Gateway, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All targets move to where the packets come from. What goes later, because packets are under way, leads nobody to the old ones."""
    before = simple()
    packets = [client_packet(rng, 4, protocol=L4Protocol.UDP) for _ in range(50)]
    wires = [build(packet, n) for n, packet in enumerate(packets)]
    gateway.apply(before)
    placed(gateway.lab, wires, expected_targets(before, packets))
    monkeypatch.setattr(nft, "wait_for_packets_under_way", lambda: False)
    outside = Target(service="default/a", slot=9, address=ip_address("10.1.0.9"), pod="a-9")
    backend = replace(before.pools[0].backends[0], targets=(outside,))
    gateway.apply(Forwarding(flows=before.flows[:1], pools=(replace(before.pools[0], backends=(backend,)),)))
    placed(gateway.lab, wires, {})


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
    for family in ("inet", "netdev"):
        assert run_in(gateway.lab.gateway, ["nft", "list", "maps", family]).count("map pool-") == 1
    packets = [client_packet(rng, 4, destination=rng.choice(vips)) for _ in range(1000)]
    expected = expected_targets(forwarding, packets)
    placed(gateway.lab, (build(packet, n) for n, packet in enumerate(packets)), expected)
    again = time.process_time()
    gateway.apply(forwarding)
    assert time.process_time() - again < 2
