"""Forwarding sets for tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from ipaddress import ip_network

from core.lb.forwarding import Backend, Flow, Forwarding, Pool
from core.model import ANY_PORT, ByteMatch, L4Protocol, PortRange, Prefix
from tests.contract.dataplane.world import World

SMALL_TABLE = 1009
VIP = {4: ip_network("20.0.0.1/32"), 6: ip_network("2001:db8:20::1/128")}
CLIENTS = {
    4: tuple(map(ip_network, ("200.1.0.0/16", "200.2.3.0/24", "200.1.7.0/28", "9.9.9.9/32"))),
    6: tuple(map(ip_network, ("2001:db8:c1::/48", "2001:db8:c2:3::/64", "2001:db8:c1:7::/124", "2001:db8:c9::9/128"))),
}
VIPS = {
    4: tuple(map(ip_network, ("20.0.0.1/32", "20.0.0.2/32", "20.0.1.0/24", "20.0.1.128/25", "20.8.0.0/13"))),
    6: tuple(
        map(
            ip_network,
            (
                "2001:db8:20::1/128",
                "2001:db8:20::2/128",
                "2001:db8:20:1::/64",
                "2001:db8:20:1:8000::/65",
                "2001:db8:20:8000::/49",
            ),
        )
    ),
}
PORTS = (1, 80, 443, 4000, 4001, 5001, 65535)


def pool(
    world: World, name: str, version: int, *shares: tuple[int, Sequence[int]], table_size: int = SMALL_TABLE
) -> Pool:
    """A pool of weighted shares, each (weight, numbers of targets)."""
    backends = tuple(
        Backend(
            service=f"default/{name}-{n}",
            weight=weight,
            targets=tuple(world.target(i, version, f"default/{name}-{n}") for i in targets),
        )
        for n, (weight, targets) in enumerate(shares)
    )
    return Pool(name=name, version=version, backends=backends, table_size=table_size)


def flow(
    name: str,
    destinations: Sequence[Prefix],
    *,
    to: str = "pool",
    sources: Sequence[Prefix] = (),
    protocols: Sequence[L4Protocol] = tuple(L4Protocol),
    destination_ports: Sequence[PortRange] = (ANY_PORT,),
    source_ports: Sequence[PortRange] = (ANY_PORT,),
    byte_matches: Sequence[ByteMatch] = (),
) -> Flow:
    return Flow(
        name=name,
        version=destinations[0].version,
        pool=to,
        priority=0,
        protocols=tuple(protocols),
        destinations=tuple(destinations),
        sources=tuple(sources),
        destination_ports=tuple(destination_ports),
        source_ports=tuple(source_ports),
        byte_matches=tuple(byte_matches),
    )


def simple(world: World, version: int, targets: Sequence[int], *, table_size: int = SMALL_TABLE) -> Forwarding:
    """One VIP, everything that has ports, equal shares."""
    return Forwarding(
        flows=(flow("flow", [VIP[version]]),),
        pools=(pool(world, "pool", version, (1, targets), table_size=table_size),),
    )


def random_forwarding(draw: random.Random, world: World, version: int, flows: int) -> Forwarding:
    """Overlapping flows with weights and shares that are rejected."""
    names = [f"pool{i}" for i in range(4)]
    numbers = range(len(world.targets))
    pools = []
    for name in names:
        shares = [
            (draw.randint(0, 4), sorted(draw.sample(numbers, draw.randint(0, min(3, len(numbers))))))
            for _ in range(draw.randint(1, 3))
        ]
        pools.append(pool(world, name, version, *shares, (1, []), (2, [draw.choice(numbers)])))
    return Forwarding(
        flows=tuple(
            flow(
                f"flow{i}",
                draw.sample(VIPS[version], draw.randint(1, 3)),
                to=draw.choice(names),
                sources=draw.sample(CLIENTS[version], draw.choice((0, 0, 1, 2))),
                protocols=draw.sample(list(L4Protocol), draw.randint(1, 3)),
                destination_ports=[_ports(draw) for _ in range(draw.randint(1, 3))],
                source_ports=[ANY_PORT] if draw.random() < 0.7 else [_ports(draw), _ports(draw)],
                byte_matches=[_byte_match(draw)] if draw.random() < 0.2 else [],
            )
            for i in range(flows)
        ),
        pools=tuple(pools),
        seed=draw.getrandbits(32),
    )


def _ports(draw: random.Random) -> PortRange:
    if draw.random() < 0.2:
        return ANY_PORT
    first, last = sorted(draw.choices(PORTS, k=2))
    return PortRange(first=first, last=draw.choice((first, last)))


def _byte_match(draw: random.Random) -> ByteMatch:
    """Ports and TCP flags as fields of the header: some packets have them."""
    protocol = draw.choice((L4Protocol.TCP, L4Protocol.UDP))
    offset, length, mask, value = draw.choice(
        ((2, 2, 0xFFFF, 4000), (0, 4, 0x0000FFFF, 80), (13, 1, 0x02, 0x02), (12, 2, 0xF000, 0x5000), (2, 1, 0xFF, 15))
    )
    return ByteMatch(protocol=protocol, offset=offset, length=length, mask=mask, value=value)
