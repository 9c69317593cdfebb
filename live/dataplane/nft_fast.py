"""The short way of packets that need nothing but their target: from the interface to the neighbour, past the IP stack.

    ingress of an interface    for this host, untagged, daddr in VIPs, an ordinary packet -> the classifier of the family
    classifier                 as in nft_program, of TCP, UDP and SCTP alone
    the flow's chain           mark = map[jhash(addresses, ports)]; count by mark, which says address and interface; fwd

Ordinary packets have no options and no extension headers, are no fragments, fit the narrowest network of the targets, and have hops
left. All others, and packets that are refused or match no flow or a flow with byte matches
(padding has not been cut off yet), go on to the IP stack as if this table were not there, where nft_program decides. So every answer,
ICMP errors too, comes from there.

A table of frames shares no sets with one of IP packets: the bucket maps are in the kernel twice.

Source: nft_fwd_netdev.c; nft_do_chain_netdev (what of headers is checked before rules see them); RFC 791, RFC 8200; ip6_forward
(sources that are not forwarded).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from core.lb.forwarding import Flow
from core.model import ByteMatch, L4Protocol
from live.dataplane import nft_expressions as nft
from live.dataplane.nft_expressions import Base, Compare, Load, Meta, Verdict
from live.dataplane.nft_packets import bucket, layout
from live.dataplane.nft_program import Branch, Compiler, Destination, Program
from live.dataplane.nft_ranges import DESTINATION, Dimension, Ranges, destinations_of

_ETHER_TYPE: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}
_FOR_US: Final = 0
"""PACKET_HOST (linux/if_packet.h)."""
_LEAST_BYTES: Final = 8
"""The shortest header that has ports, UDP's."""
_PROTOCOL_AT: Final = {4: 9, 6: 6}


def compile_fast(
    flows: Sequence[Flow], destinations: Mapping[str, Destination], *, seed: int, mtu_bytes: Mapping[int, int]
) -> Program:
    """The chains and sets for `flows` in matching order, `destinations` by the key of each flow; its `entry` are the rules of each
    interface's chain. `mtu_bytes`: the longest packet that fits everywhere, by IP version; families without go the long way.
    """
    return _FastCompiler(flows, destinations, seed).compile_for(mtu_bytes)


class _FastCompiler(Compiler):
    def __init__(self, flows: Sequence[Flow], destinations: Mapping[str, Destination], seed: int) -> None:
        super().__init__(flows, destinations, seed, 0)
        self._rejected = nft.decide(Verdict.ACCEPT)
        self._vips = {version: destinations_of(flows, version) for version in (4, 6)}
        self._users = Counter(to.bucket_map for to in destinations.values())

    def compile_for(self, mtu_bytes: Mapping[int, int]) -> Program:
        """See `compile_fast`."""
        self._program.entry = tuple(self._enter(version, mtu) for version, mtu in mtu_bytes.items())
        return self._program

    def _enter(self, version: int, mtu_bytes: int) -> bytes:
        """The rule that leads ordinary packets of a family to its classifier."""
        direct = layout(version, inner=False)
        flows = [flow for flow in self._flows if flow.version == version]
        # First what tells most packets that are not for a VIP. A tag stands here as a type of its own, even where the interface has
        # taken it off.
        untagged = nft.payload(Load(Base.LINK, 12, 2)) + nft.compare(_ETHER_TYPE[version])
        to_vip = self._of_vip(direct, direct.destination, flows)
        for_us = nft.meta(Meta.PACKET_TYPE) + nft.compare(bytes([_FOR_US]))
        rules = [
            nft.payload(Load(Base.NETWORK, _PROTOCOL_AT[version], 1))
            + nft.compare(bytes([protocol]))
            + nft.goto(self._tree(direct, protocol, flows))
            for protocol in L4Protocol
        ]
        ordinary = _ordinary_v4(mtu_bytes) if version == 4 else _ordinary_v6(mtu_bytes)
        return to_vip + untagged + for_us + ordinary + nft.goto(self._chain(f"v{version}", rules))

    def _leave(self) -> Sequence[bytes]:
        return [nft.decide(Verdict.ACCEPT)]

    def _byte_matches(self, _branch: Branch, _flow: Flow) -> Sequence[ByteMatch]:
        return ()

    def _allowed(self, dimension: Dimension, flow: Flow) -> Ranges | None:
        """What all flows have in common has been asked at the entrance."""
        allowed = super()._allowed(dimension, flow)
        return None if dimension is DESTINATION and allowed == self._vips[flow.version] else allowed

    def _terminal(self, branch: Branch, flow: Flow) -> str:
        to = self._destinations[self._keys[id(flow)]]
        if to.bucket_map is None or flow.byte_matches:
            return self._unmatched
        address_words = {4: 1, 6: 4}[flow.version]
        go = nft.meta(Meta.MARK) + nft.mapped(to.counts) + nft.forward(flow.version, address_words, 0)
        if self._users[to.bucket_map] == 1:
            # By way of the mark, because nft 1.0.6 cannot list a map's value that is looked up in another map.
            marked = bucket(branch.kind, branch.where, to.table_size, self._seed) + nft.mapped(to.bucket_map)
            rules = [marked + nft.set_mark() + go]
        else:
            rules = [nft.decide(Verdict.JUMP, self._bucket(branch, to.bucket_map, to.table_size)), go]
        return self._chain(f"to-{branch.kind.value}-{branch.where.name}-{self._keys[id(flow)]}", rules)


def _ordinary_v4(mtu_bytes: int) -> bytes:
    """Ends the rule unless no more is to be done to an IPv4 packet than to send it on."""
    no_options = nft.payload(Load(Base.NETWORK, 0, 4)) + nft.mask(b"\xff\0\xff\xff")
    fits = nft.within(
        b"\x45\0" + (20 + _LEAST_BYTES).to_bytes(2, "big"), b"\x45\0" + min(mtu_bytes, 0xFFFF).to_bytes(2, "big")
    )
    # Aligned words: of any other the kernel makes a copy through a function for headers in pieces (nft_payload_select_ops).
    whole = nft.payload(Load(Base.NETWORK, 4, 4)) + nft.mask(b"\0\0\x3f\xff") + nft.compare(bytes(4))
    hops = nft.payload(Load(Base.NETWORK, 8, 4))
    hops_left = hops + nft.mask(b"\xfe\0\0\0") + nft.compare(bytes(4), operator=Compare.NOT_EQUAL)
    return no_options + fits + whole + hops_left


def _ordinary_v6(mtu_bytes: int) -> bytes:
    """Ends the rule unless no more is to be done to an IPv6 packet than to send it on; the classifier asks for the next header."""
    longest_bytes = min(mtu_bytes - 40, 0xFFFF)
    fits = nft.payload(Load(Base.NETWORK, 4, 2)) + nft.within(
        _LEAST_BYTES.to_bytes(2, "big"), longest_bytes.to_bytes(2, "big")
    )
    hops_left = (
        nft.payload(Load(Base.NETWORK, 4, 4))
        + nft.mask(b"\0\0\0\xfe")
        + nft.compare(bytes(4), operator=Compare.NOT_EQUAL)
    )
    # fe80::/10 stays on its link; ::/8 has ::1 and such; ff00::/8 is no source. Hosts drop such sources of IPv4, but not all of these.
    source = nft.payload(Load(Base.NETWORK, 8, 1)) + nft.within(b"\x01", b"\xfd")
    return fits + hops_left + source
