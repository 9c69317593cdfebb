"""Where the fields of a flow stand in a packet, and the hash of each kind of packet.

A flow is looked for in the packet itself or, for an ICMP error, in the packet inside with source and destination swapped: the same
questions at other offsets. `Layout` is such a set of offsets.

Source: RFC 791, RFC 8200, RFC 792, RFC 4443; core.lb.jhash for the words of a hash.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from core.model import L4Protocol
from live.dataplane import nft_expressions as nft
from live.dataplane.nft_expressions import Base, Load
from live.dataplane.nft_wire import IPV4_KEY, IPV6_KEY, KeyType

ICMP: Final = {4: 1, 6: 58}
AUTHENTICATION: Final = 51
ECHOES: Final = {4: (8, 0), 6: (128, 129)}
ERRORS: Final = {4: (3, 4, 11, 12), 6: (1, 2, 3, 4)}
"""ICMP types with a packet inside: destination unreachable, (source quench, packet too big,) time exceeded, parameter problem."""

FAMILY: Final = {4: 2, 6: 10}
"""NFPROTO_IPV4, NFPROTO_IPV6."""

ICMP_HEADER: Final = 8
IP_HEADER: Final = {4: 20, 6: 40}


class Kind(Enum):
    """What the hash of a packet is made of."""

    PORTED = "ported"
    """TCP and UDP: addresses and ports."""
    SCTP = "sctp"
    """Ports."""
    ECHO = "echo"
    """Addresses."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets of one address family, in the packet or in the packet inside an ICMP error."""

    version: int
    inner: bool
    source: Load
    destination: Load
    source_port: Load
    destination_port: Load

    @property
    def name(self) -> str:
        kind = "-error" if self.inner else f"-ah{self.source_port.header}" if self.source_port.header else ""
        return f"v{self.version}{kind}"

    @property
    def address_key(self) -> KeyType:
        return IPV4_KEY if self.version == 4 else IPV6_KEY

    def header_byte(self, offset: int) -> Load | None:
        """Byte `offset` of the L4 header as the flow sees it; None where an ICMP error says nothing of it.

        The packet inside went the other way: of its header only the ports, swapped, are those of the flow.
        """
        if not self.inner:
            return replace(self.source_port, offset=offset, length=1)
        ports = self.source_port, self.destination_port
        if offset >= 4:
            return None
        port = ports[offset // 2]
        return replace(port, offset=port.offset + offset % 2, length=1)


def layout(version: int, *, inner: bool) -> Layout:
    """The offsets in a packet, or in the packet inside an ICMP error, whose ports the mark keeps (nft_errors)."""
    source, destination, length = (12, 16, 4) if version == 4 else (8, 24, 16)
    if not inner:
        return Layout(
            version,
            False,
            Load(Base.NETWORK, source, length),
            Load(Base.NETWORK, destination, length),
            Load(Base.TRANSPORT, 0, 2),
            Load(Base.TRANSPORT, 2, 2),
        )
    return Layout(
        version,
        True,
        Load(Base.TRANSPORT, ICMP_HEADER + destination, length),
        Load(Base.TRANSPORT, ICMP_HEADER + source, length),
        Load(Base.MARK, 2, 2),
        Load(Base.MARK, 0, 2),
    )


def behind_authentication(protocol: int) -> Layout:
    """The offsets in an IPv6 packet with an authentication header before its header of `protocol`.

    nftables takes the authentication header for the L4 header, because it may be wanted; so the real one must be looked for.
    Source: nft_set_pktinfo_ipv6 (IP6_FH_F_AUTH), ipv6_find_hdr.
    """
    source, destination = Load(Base.FOUND, 0, 2, protocol), Load(Base.FOUND, 2, 2, protocol)
    direct = layout(6, inner=False)
    return replace(direct, source_port=source, destination_port=destination)


def is_protocol(number: int, where: Layout) -> bytes:
    """Ends the rule unless the packet is of the L4 protocol `number`."""
    if where.source_port.header:
        # That the header is found is the answer.
        return nft.payload(Load(Base.FOUND, 0, 1, number))
    return nft.meta(nft.Meta.PROTOCOL) + nft.compare(bytes([number]))


def is_icmp_type(kind: int) -> bytes:
    """Ends the rule unless the ICMP header of the packet has this type."""
    return nft.payload(Load(Base.TRANSPORT, 0, 1)) + nft.compare(bytes([kind]))


def bucket(kind: Kind, where: Layout, modulus: int, seed: int) -> bytes:
    """Loads the bucket of the packet into the first register."""
    loads = {
        Kind.PORTED: (where.source, where.destination, where.source_port, where.destination_port),
        Kind.SCTP: (where.source_port, where.destination_port),
        Kind.ECHO: (where.source, where.destination),
    }[kind]
    word, key = 0, b""
    for load in loads:
        key += nft.payload(load, word)
        word += (load.length + 3) // 4
    return key + nft.jhash(word, modulus, seed)


def kind_of(protocol: L4Protocol) -> Kind:
    return Kind.SCTP if protocol is L4Protocol.SCTP else Kind.PORTED
