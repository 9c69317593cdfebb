"""Which flow a packet belongs to, and where it goes: the meaning that every data plane must reproduce packet by packet.

This file is the oracle: a linear scan that one can read. Data planes compile the flows into faster structures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from core.lb.forwarding import REJECT, Flow, Forwarding, Pool, Target, pool_table
from core.lb.jhash import address_words, jhash2, port_word, reciprocal_scale
from core.model import Address, ByteMatch, L4Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """What decides about a packet. An ICMP error is given as the packet inside it with source and destination swapped; a fragment as
    its first fragment.

    `protocol` None is an ICMP or ICMPv6 echo: it goes by addresses alone. `header` is the L4 header, for byte matches; without it
    (b"") only the ports are known.
    """

    source: Address
    destination: Address
    protocol: L4Protocol | None
    source_port: int = 0
    destination_port: int = 0
    header: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What happens to a packet: `flow` None: dropped silently; `target` None: rejected actively; else forwarded to `target`."""

    flow: Flow | None = None
    pool: Pool | None = None
    bucket: int | None = None
    target: Target | None = None


def decide(forwarding: Forwarding, packet: Packet) -> Decision:
    """The fate of `packet`."""
    flow = classify(forwarding, packet)
    if flow is None:
        return Decision()
    pool = forwarding.pool_of(flow)
    bucket = reciprocal_scale(flow_hash(packet, forwarding.seed), pool.table_size)
    index = int(pool_table(pool)[bucket])
    target = None if index == REJECT else pool.targets[index]
    return Decision(flow=flow, pool=pool, bucket=bucket, target=target)


def classify(forwarding: Forwarding, packet: Packet) -> Flow | None:
    """The first flow in matching order that `packet` matches."""
    return next((flow for flow in forwarding.flows if matches(flow, packet)), None)


def matches(flow: Flow, packet: Packet) -> bool:
    """Whether every dimension of `flow` contains `packet`.

    An echo has no ports: it matches by addresses, whatever the flow's protocols, ports and byte matches, so that a VIP answers to
    ping from where its service is reachable.
    """
    if packet.destination.version != flow.version or not any(packet.destination in d for d in flow.destinations):
        return False
    if flow.sources and not any(packet.source in s for s in flow.sources):
        return False
    return header_matches(flow, packet)


def header_matches(flow: Flow, packet: Packet) -> bool:
    """Whether the dimensions of `flow` beside the addresses contain `packet`."""
    if packet.protocol is None:
        return True
    return (
        packet.protocol in flow.protocols
        and any(packet.destination_port in ports for ports in flow.destination_ports)
        and any(packet.source_port in ports for ports in flow.source_ports)
        and all(byte_match_holds(match, packet) for match in flow.byte_matches)
    )


def byte_match_holds(match: ByteMatch, packet: Packet) -> bool:
    """Whether `match` holds on the L4 header; a header that is too short never matches."""
    if match.protocol is not packet.protocol:
        return False
    header = packet.header or packet.source_port.to_bytes(2, "big") + packet.destination_port.to_bytes(2, "big")
    field = header[match.offset : match.offset + match.length]
    return len(field) == match.length and int.from_bytes(field, "big") & match.mask == match.value & match.mask


def flow_hash(packet: Packet, seed: int) -> int:
    """The 32-bit hash of `packet` (`core.lb.jhash` says which words)."""
    addresses = address_words(packet.source.packed) + address_words(packet.destination.packed)
    ports = [port_word(packet.source_port), port_word(packet.destination_port)]
    match packet.protocol:
        case L4Protocol.TCP | L4Protocol.UDP:
            return jhash2(addresses + ports, seed)
        case L4Protocol.SCTP:
            return jhash2(ports, seed)
        case None:
            return jhash2(addresses, seed)
        case _:
            assert_never(packet.protocol)
