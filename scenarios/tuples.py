"""The 5-tuples of traffic: all known before the first packet is sent."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import assert_never

import numpy as np

from core.lb.placement import FiveTuples
from core.model import Address, Prefix
from scenarios.spec import PORTS_END, Router, SourcePorts, Traffic, client_addresses, places

MOST_DRAWN_FROM = 2**63 - 1
"""Random ports of more places than numpy can number are drawn from the first ones: 2^47 addresses or more, each with all its ports."""


def five_tuples(traffic: Traffic, router: Router, seed: int) -> FiveTuples:
    """The connections of `traffic` from the clients of `router`, in the order in which they are opened; no tuple twice.

    Sequential: all ports of the first client address, then those of the next. Random: drawn from `seed` and the traffic's name.
    """
    prefixes = client_addresses(router, traffic.to.address.version)
    ports = PORTS_END - traffic.first_source_port
    match traffic.source_ports:
        case SourcePorts.SEQUENTIAL:
            chosen = np.arange(traffic.connections, dtype=np.int64)
        case SourcePorts.RANDOM:
            random = np.random.Generator(np.random.PCG64([seed, zlib.crc32(traffic.name.encode())]))
            room = min(places(traffic, router), MOST_DRAWN_FROM)
            chosen = random.choice(room, size=traffic.connections, replace=False).astype(np.int64)
        case _:
            assert_never(traffic.source_ports)
    used, source = np.unique(chosen // ports, return_inverse=True)
    return FiveTuples(
        protocol=traffic.protocol.l4,
        sources=tuple(_address(prefixes, int(index)) for index in used),
        source=source.astype(np.int32),
        source_port=(chosen % ports + traffic.first_source_port).astype(np.uint16),
        destination=traffic.to.address,
        destination_port=traffic.to.port,
    )


def _address(prefixes: Sequence[Prefix], index: int) -> Address:
    """The index-th address of all prefixes."""
    for prefix in prefixes:
        if index < prefix.num_addresses:
            return prefix[index]
        index -= prefix.num_addresses
    raise AssertionError("the number of connections was checked against the number of addresses")
