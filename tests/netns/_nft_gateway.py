"""The nft data plane in the lab's gateway, sets of flows for it, and what must become of packets: for tests of that plane alone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from core.lb.classifier import Packet, decide
from core.lb.forwarding import Backend, Flow, Forwarding, Pool, Target
from core.model import ANY_PORT, Address, ByteMatch, L4Protocol, PortRange
from live.dataplane.nft import NftDataplane
from sim.net.namespaces import run_in, within
from tests.netns._lab import Lab, target_address
from tests.netns._packets import is_marked, number_in

MAIN_TABLE = 254
INTERFACES = ("ext0", "net1")
VIP = {4: "20.0.0.1", 6: "2000::1"}
CLIENT = {4: IPv4Address("200.100.0.0"), 6: IPv6Address("200:100::")}
EVERYTHING = (L4Protocol.TCP, L4Protocol.UDP, L4Protocol.SCTP)


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


def placed(lab: Lab, wires: Iterable[bytes], expected: dict[int, int], *, sender: int | None = None) -> None:
    """Sends packets, from outside or from a target, and asserts that each arrives at its target, once, and nothing else anywhere."""
    with lab.capture() as capture:
        lab.send(wires, sender)
        arrived = [(number_in(frame.data), frame.target) for frame in capture.collect(len(expected), is_marked)]
        arrived += [(number_in(f.data), f.target) for f in capture.collect(1, is_marked, deadline_s=0.05)]
    wrong = {(n, target, expected.get(n)) for n, target in arrived if expected.get(n) != target}
    assert not wrong, f"{len(wrong)} of {len(arrived)} misrouted, as (packet, target, expected): {sorted(wrong)[:5]}"
    missing = sorted(set(expected) - {n for n, _ in arrived})
    assert not missing, f"{len(missing)} of {len(expected)} packets lost, such as {missing[:5]}"
    assert len(arrived) == len(expected), "some packets arrived twice"


def unmatched(gateway: Gateway) -> int:
    return within(gateway.lab.gateway, gateway.plane.unmatched)[0]


def tables(lab: Lab) -> list[Any]:
    """Rules, routes of all tables and nftables of the gateway."""
    listed: list[Any] = [
        json.loads(run_in(lab.gateway, ["ip", "-json", family, *words]) or "[]")
        for family in ("-4", "-6")
        for words in (["rule", "show"], ["route", "show", "table", "all"])
    ]
    return [*listed, run_in(lab.gateway, ["nft", "list", "ruleset"])]


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
