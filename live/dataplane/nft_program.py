"""Compiles a Forwarding into chains and sets.

Every chain and every set is named after its content, so equal content has one name in any process at any time: what has to be added
and deleted is a difference of names, and an agent that starts anew adopts what it finds. Only four things change in place: the rules of
the base chain, and the elements of bucket maps and counting sets (`live.dataplane.nft` keeps those).

The classifier is a decision tree (HiCuts without its heuristics: Gupta and McKeown, 2000). A node takes one dimension (destination,
destination port, source, source port), cuts it at the bounds of all flows into intervals, and gives each interval the flows that
contain it; equal lists of flows share one chain. A node with few flows, or one whose cuts would multiply them, is a list of rules.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from core.lb.forwarding import Flow
from core.model import ByteMatch, L4Protocol
from live.dataplane import nft_expressions as nft
from live.dataplane.nft_errors import Trees, chains_inside
from live.dataplane.nft_expressions import Base, Compare, Load, Meta, Verdict
from live.dataplane.nft_packets import (
    AUTHENTICATION,
    ECHOES,
    ERRORS,
    FAMILY,
    ICMP,
    Kind,
    Layout,
    behind_authentication,
    bucket,
    is_icmp_type,
    is_protocol,
    kind_of,
    layout,
)
from live.dataplane.nft_ranges import ADDRESSED, PORTED, Dimension, Ranges, cut, destinations_of, joined
from live.dataplane.nft_wire import BYTE_KEY, NAME_KEY, KeyType, dispatch, dispatch_elements, element, interval_elements

UNMATCHED: Final = "unmatched"
"""The set that counts packets to a VIP that match no flow, by address family; and how their chain's name begins."""

LINEAR_FLOWS: Final = 4
"""So many flows are tried one after the other: a cut costs as much as two or three comparisons."""

_GROWTH: Final = 8
"""A cut may multiply the flows below it so often at most."""

_PORTS_BYTES: Final = 4

_LOAD_MARK: Final = nft.meta(Meta.MARK)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetContent:
    """A set that never changes. Without `intervals` it is a hash table: finding a key takes the same time however many there are."""

    key: KeyType
    elements: tuple[bytes, ...]
    intervals: bool = True
    verdicts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where the packets of a flow go: the map of its pool (None: all are rejected), and the set that counts them."""

    bucket_map: str | None
    table_size: int
    counts: str


@dataclass(slots=True)
class Program:
    """Chains (rules by name) and sets by name; `entry` are the rules of the base chain."""

    chains: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    sets: dict[str, SetContent] = field(default_factory=dict)
    entry: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Branch:
    """What all flows of a tree have in common."""

    where: Layout
    kind: Kind
    dimensions: tuple[Dimension, ...]


def compile_program(
    flows: Sequence[Flow],
    destinations: Mapping[str, Destination],
    *,
    interfaces: Sequence[str],
    seed: int,
    reject_mark: int,
    defragment: bytes = nft.intercepted(),
) -> Program:
    """The chains and sets for `flows` in matching order; `destinations` by the key `flow_key` of each flow; `defragment`: a rule that
    makes the kernel do that.
    """
    return Compiler(flows, destinations, seed, reject_mark).compile(interfaces, defragment)


def flow_key(flow: Flow) -> str:
    """A name for the flow that may stand in the kernel: readable, unique by name and address family."""
    readable = re.sub(r"[^A-Za-z0-9/._-]+", "-", flow.name).strip("-/._")[:60]
    return f"{readable}-v{flow.version}-{_digest([flow.name.encode(), bytes([flow.version])])}"


class Compiler:
    """One compilation. Chains of its own for packets of other tables: live.dataplane.nft_fast."""

    def __init__(
        self, flows: Sequence[Flow], destinations: Mapping[str, Destination], seed: int, reject_mark: int
    ) -> None:
        self._flows = flows
        self._destinations = destinations
        self._keys = {id(flow): flow_key(flow) for flow in flows}
        self._seed = seed
        self._program = Program()
        self._unmatched = self._chain(UNMATCHED, self._leave())
        self._nodes: dict[tuple[object, ...], str] = {}
        self._ranges: dict[tuple[str, int], Ranges | None] = {}
        self._buckets: dict[tuple[object, ...], str] = {}
        self._counts: dict[str, bytes] = {}
        self._rejected = nft.constant(reject_mark.to_bytes(4, sys.byteorder)) + nft.set_mark()

    def _leave(self) -> Sequence[bytes]:
        """What becomes of packets that match no flow."""
        counted = nft.meta(Meta.FAMILY) + nft.contained(UNMATCHED)
        return [counted + nft.decide(Verdict.DROP), nft.decide(Verdict.DROP)]

    def compile(self, interfaces: Sequence[str], defragment: bytes) -> Program:
        """See `compile_program`."""
        self._chain("defragment", [defragment])
        from_here = nft.meta(Meta.INPUT_NAME) + self._one_of(interfaces)
        replies, to_vips, others = [], [], []
        for version in (4, 6):
            flows = [flow for flow in self._flows if flow.version == version]
            if not flows:
                continue
            direct = layout(version, inner=False)
            family = nft.meta(Meta.FAMILY) + nft.compare(bytes([FAMILY[version]]))
            # Replies first: most packets to a VIP have left by the short way (nft_fast).
            reply = family + self._of_vip(direct, direct.source, flows)
            reply += self._of_vip(direct, direct.destination, flows, Compare.NOT_EQUAL)
            replies.append(reply + nft.untracked() + nft.decide(Verdict.ACCEPT))
            to_vip = family + self._of_vip(direct, direct.destination, flows)
            to_vips.append(to_vip + from_here + nft.untracked() + nft.goto(self._family(version, flows)))
            if version == 4:
                # What `accept_local` (live.dataplane.nft) lets through and is not for a VIP: nobody outside has our addresses.
                ours = nft.source_kind() + nft.compare((2).to_bytes(4, sys.byteorder))
                others.append(from_here + family + ours + nft.decide(Verdict.DROP))
        self._program.entry = (*replies, *to_vips, *others)
        return self._program

    def _of_vip(self, where: Layout, address: Load, flows: Sequence[Flow], operator: Compare = Compare.EQUAL) -> bytes:
        """Ends the rule unless the address is one of a VIP, with NOT_EQUAL unless it is none."""
        vips = destinations_of(flows, where.version)
        return nft.payload(address) + self._one_of_ranges("vips", vips, where.address_key, operator)

    def _one_of_ranges(self, label: str, ranges: Ranges, key: KeyType, operator: Compare = Compare.EQUAL) -> bytes:
        """Ends the rule unless what is loaded is in one of `ranges`: for a single one that is cheaper than a set."""
        if len(ranges) != 1:
            return nft.contained(self._values(label, ranges, key), operator=operator)
        first, last = (bound.to_bytes(key.length, "big") for bound in ranges[0])
        return nft.compare(first, operator=operator) if first == last else nft.within(first, last, operator=operator)

    def _one_of(self, interfaces: Sequence[str]) -> bytes:
        """Ends the rule unless the loaded name is that of one of `interfaces`."""
        names = [name.encode().ljust(NAME_KEY.length, b"\0") for name in sorted(set(interfaces))]
        if len(names) == 1:
            return nft.compare(names[0])
        elements = tuple(element(name) for name in names)
        return nft.contained(self._set("interfaces", SetContent(key=NAME_KEY, elements=elements, intervals=False)))

    def _family(self, version: int, flows: Sequence[Flow]) -> str:
        """The chain of packets to a VIP of one family."""
        direct, inner = layout(version, inner=False), layout(version, inner=True)
        rules = self._transports(direct, flows)
        rules.append(is_protocol(ICMP[version], direct) + nft.goto(self._icmp(version, direct, inner, flows)))
        # First what is frequent: TCP, UDP, ICMP, SCTP.
        rules[2], rules[3] = rules[3], rules[2]
        if version == 6:
            rules.append(is_protocol(AUTHENTICATION, direct) + nft.goto(self._authenticated(direct, flows)))
        return self._chain(f"v{version}", [*rules, nft.goto(self._unmatched)])

    def _authenticated(self, direct: Layout, flows: Sequence[Flow]) -> str:
        """The chain of IPv6 packets with an authentication header; of ICMPv6 in them only echoes are understood."""
        rules = [
            rule
            for protocol in L4Protocol
            for rule in self._transports(behind_authentication(protocol), flows, (protocol,))
        ]
        echo = self._node(Branch(direct, Kind.ECHO, ADDRESSED), flows)
        for kind in ECHOES[6]:
            found = nft.payload(Load(Base.FOUND, 0, 1, ICMP[6])) + nft.compare(bytes([kind]))
            rules.append(found + nft.goto(echo))
        return self._chain("authenticated", [*rules, nft.goto(self._unmatched)])

    def _transports(
        self, where: Layout, flows: Sequence[Flow], protocols: Iterable[L4Protocol] = tuple(L4Protocol)
    ) -> list[bytes]:
        # A packet that ends before its ports goes to no tree: there what has no bucket is refused.
        there = nft.payload(replace(where.source_port, length=_PORTS_BYTES))
        return [
            is_protocol(protocol, where) + there + nft.goto(self._tree(where, protocol, flows))
            for protocol in protocols
        ]

    def _tree(self, where: Layout, protocol: L4Protocol, flows: Sequence[Flow]) -> str:
        """The chain that decides about packets of a protocol."""
        possible = [
            flow
            for flow in flows
            if protocol in flow.protocols and all(match.protocol is protocol for match in flow.byte_matches)
        ]
        return self._node(Branch(where, kind_of(protocol), PORTED), possible)

    def _icmp(self, version: int, direct: Layout, inner: Layout, flows: Sequence[Flow]) -> str:
        echo = self._node(Branch(direct, Kind.ECHO, ADDRESSED), flows)
        trees = Trees(
            transports={protocol: self._tree(inner, protocol, flows) for protocol in L4Protocol},
            echo=self._node(Branch(inner, Kind.ECHO, ADDRESSED), flows),
            unmatched=self._unmatched,
        )
        error, chains = chains_inside(version, trees, _name)
        self._program.chains.update(chains)
        rules = [is_icmp_type(kind) + nft.goto(echo) for kind in ECHOES[version]]
        rules += [is_icmp_type(kind) + nft.goto(error) for kind in ERRORS[version]]
        return self._chain(f"icmp-v{version}", [*rules, nft.goto(self._unmatched)])

    def _node(self, branch: Branch, flows: Sequence[Flow]) -> str:
        """The chain that decides among `flows`, of which `branch.dimensions` have not been asked yet."""
        reachable: list[Flow] = []
        for flow in flows:
            reachable.append(flow)
            if not self._conditions(branch, flow):
                break
        if not reachable:
            return self._unmatched
        if len(reachable) == 1 and not self._conditions(branch, reachable[0]):
            return self._terminal(branch, reachable[0])
        key = (branch, *map(id, reachable))
        if key not in self._nodes:
            self._nodes[key] = self._cut(branch, reachable) or self._list(branch, reachable)
        return self._nodes[key]

    def _conditions(self, branch: Branch, flow: Flow) -> bool:
        """Whether a packet may still not match the flow."""
        return bool(self._byte_matches(branch, flow)) or any(
            self._allowed(dimension, flow) is not None for dimension in branch.dimensions
        )

    def _byte_matches(self, branch: Branch, flow: Flow) -> Sequence[ByteMatch]:
        """Those that packets of the branch are asked about."""
        return () if branch.kind is Kind.ECHO else flow.byte_matches

    def _allowed(self, dimension: Dimension, flow: Flow) -> Ranges | None:
        key = dimension.name, id(flow)
        if key not in self._ranges:
            self._ranges[key] = dimension.allowed(flow)
        return self._ranges[key]

    def _list(self, branch: Branch, flows: Sequence[Flow]) -> str:
        rules = []
        for flow in flows:
            question = b"".join(self._question(branch, dimension, flow) for dimension in branch.dimensions)
            matched = [self._byte_match(match, branch.where) for match in self._byte_matches(branch, flow)]
            if None in matched:
                continue
            question += b"".join(match for match in matched if match)
            rules.append(question + nft.goto(self._terminal(branch, flow)))
        return self._chain(f"flows-{branch.where.name}", [*rules, nft.goto(self._unmatched)])

    def _question(self, branch: Branch, dimension: Dimension, flow: Flow) -> bytes:
        """Ends the rule unless the packet is what the flow allows in this dimension."""
        allowed = self._allowed(dimension, flow)
        if allowed is None:
            return b""
        key = dimension.key(branch.where)
        return nft.payload(dimension.load(branch.where)) + self._one_of_ranges(dimension.name, allowed, key)

    def _byte_match(self, match: ByteMatch, where: Layout) -> bytes | None:
        """Ends the rule unless the match holds, byte by byte; None: it cannot hold here."""
        result = b""
        for i in range(match.length):
            shift = 8 * (match.length - 1 - i)
            bits, wanted = match.mask >> shift & 0xFF, (match.value & match.mask) >> shift & 0xFF
            load = where.header_byte(match.offset + i)
            if load is None:
                return None
            # A byte of which nothing is asked must be there all the same.
            result += nft.payload(load)
            if bits == 0xFF:
                result += nft.compare(bytes([wanted]))
            elif bits:
                # As a set, because nft 1.0.6 crashes when it lists a mask on a header that it has no name for.
                values = tuple(element(bytes([byte])) for byte in range(256) if byte & bits == wanted)
                result += nft.contained(self._set("byte", SetContent(key=BYTE_KEY, elements=values, intervals=False)))
        return result

    def _cut(self, branch: Branch, flows: Sequence[Flow]) -> str | None:
        """The node as a dispatch over the first dimension that divides the flows; None when none does."""
        if len(flows) <= LINEAR_FLOWS:
            return None
        for dimension in branch.dimensions:
            pieces = cut(flows, [self._allowed(dimension, flow) for flow in flows], limit=_GROWTH * len(flows) + 64)
            if not pieces:
                continue
            rest = tuple(other for other in branch.dimensions if other is not dimension)
            below = Branch(branch.where, branch.kind, rest)
            ranges = joined((first, last, self._node(below, inside)) for first, last, inside in pieces)
            elsewhere = self._node(below, [flow for flow in flows if self._allowed(dimension, flow) is None])
            name = self._chains_of(dimension, ranges, dimension.key(branch.where))
            rules = [nft.payload(dimension.load(branch.where)) + nft.dispatched(name), nft.goto(elsewhere)]
            return self._chain(f"by-{dimension.name}-{branch.where.name}", rules)
        return None

    def _terminal(self, branch: Branch, flow: Flow) -> str:
        """The chain that sends the packets of a flow to their targets: mark, then count."""
        key = self._keys[id(flow)]
        to = self._destinations[key]
        if to.bucket_map is None:
            rules = [self._rejected]
        else:
            rules = [nft.decide(Verdict.JUMP, self._bucket(branch, to.bucket_map, to.table_size))]
        if key not in self._counts:
            self._counts[key] = _LOAD_MARK + nft.contained(to.counts) + nft.decide(Verdict.ACCEPT)
        rules.append(self._counts[key])
        return self._chain(f"to-{branch.kind.value}-{branch.where.name}-{key}", rules)

    def _bucket(self, branch: Branch, bucket_map: str, table_size: int) -> str:
        """The chain that marks packets with the target of their bucket.

        All flows to one pool share it: the kernel walks through a whole map for each rule that names it.
        """
        named = branch.kind, branch.where, bucket_map, table_size
        if named not in self._buckets:
            hashed = bucket(branch.kind, branch.where, table_size, self._seed)
            found = hashed + nft.mapped(bucket_map) + nft.set_mark() + nft.decide(Verdict.RETURN)
            label = f"{bucket_map}-{branch.kind.value}-{branch.where.name}"
            self._buckets[named] = self._chain(label, [found, self._rejected])
        return self._buckets[named]

    def _chain(self, label: str, rules: Sequence[bytes]) -> str:
        name = _name(label, rules)
        self._program.chains[name] = tuple(rules)
        return name

    def _set(self, label: str, content: SetContent) -> str:
        kind = bytes([content.key.number, content.verdicts, content.intervals])
        name = f"{label}-{_digest([kind, *content.elements])}"
        self._program.sets[name] = content
        return name

    def _values(self, label: str, ranges: Ranges, key: KeyType) -> str:
        """The set of all that is in `ranges`."""
        intervals = any(first != last for first, last in ranges)
        elements = (
            interval_elements(ranges, key.length)
            if intervals
            else [element(value.to_bytes(key.length, "big")) for value, _ in ranges]
        )
        return self._set(label, SetContent(key=key, elements=tuple(elements), intervals=intervals))

    def _chains_of(self, dimension: Dimension, ranges: Sequence[tuple[int, int, str]], key: KeyType) -> str:
        """The map from what is in `ranges` to their chains."""
        intervals = any(first != last for first, last, _ in ranges)
        elements = (
            dispatch_elements(ranges, key.length)
            if intervals
            else [dispatch(value.to_bytes(key.length, "big"), chain) for value, _, chain in ranges]
        )
        content = SetContent(key=key, elements=tuple(elements), intervals=intervals, verdicts=True)
        return self._set(f"by-{dimension.name}", content)


def _name(label: str, rules: Sequence[bytes]) -> str:
    return f"{label}-{_digest(rules)}"


def _digest(parts: Iterable[bytes]) -> str:
    hashed = hashlib.blake2b(digest_size=6)
    for part in parts:
        hashed.update(len(part).to_bytes(4, "big") + part)
    return hashed.hexdigest()
