"""Flows to the decision image that the BPF program walks: a pure function, from values to an array of words.

The image is an array of cells of 64 bytes (16 words of 32 bits, one cache line). A reference is the number of a cell; 0 is "no flow".

    header (cell 0)      seed, and for destinations and sources of both families where to look them up
    host bucket          IPv4: 8 x (address), 8 x (value); IPv6: 3 x (address of 4 words), 3 x (value)
    trie node            16 entries for the next four bits of an address: a value, or CHILD | cell
    group                a reference for each of TCP, UDP, SCTP, echo, in the last words: what a destination's packets go through
    SWITCH               up to 7 intervals of a key (destination port, source port, source class, field of the L4 header)
    SOURCE, FIELD        puts a key in place for the SWITCH that follows
    FLOW                 the decision: pool, size of its table, where its counters are; the group that leads nowhere else is in it, too

So a packet costs one look-up of its destination (a hash for host prefixes, a trie of four bits a step for shorter ones) and then a few
cells, whatever the number of flows. Flows are cut into disjoint intervals, dimension by dimension (Gupta & McKeown, "Algorithms for
Packet Classification", IEEE Network 2001, section "hierarchical intelligent cuttings", with cuts at every boundary); where that would
multiply, the flows are chained in smaller sets (`_Decisions.of`), down to one by one, which is linear.

Sources: every address belongs to one class, the set of source lists that contain it. So 10,000 CIDRs of one flow are one class.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.lb.forwarding import Flow
from core.lb.jhash import address_words
from core.model import ByteMatch, L4Protocol, PortRange, Prefix

WORDS: Final = 16
CELL_BYTES: Final = 4 * WORDS
CHILD: Final = 1 << 31
FLOW, SWITCH, SOURCE, FIELD = 1, 2, 3, 4
DESTINATION_PORT, SOURCE_PORT, SOURCE_CLASS, FIELD_VALUE = 0, 1, 2, 3
FAN_OUT: Final = 7
"""Intervals of a SWITCH: its kind, 7 starts, 7 references."""
WAYS: Final = {4: 8, 6: 3}
"""Addresses of a host bucket, by family."""
HASH_FACTORS: Final = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)
"""Of the four words of an address (IPv4: the first); odd, from xxHash."""
PROTOCOLS: Final = (L4Protocol.TCP, L4Protocol.UDP, L4Protocol.SCTP, None)
"""The order of a group's references; None is an echo."""

Image = NDArray[np.uint32]
Interval = tuple[int, int]
"""First and last key, both included."""

GROUP_AT: Final = 12
"""The first word of a group's references."""

_WHOLE: Final[tuple[Interval, ...]] = ((0, 0xFFFFFFFF),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a flow's pool and counters are; what the FLOW cell says."""

    pool: int
    table_size: int
    counters: int


@dataclass(slots=True)
class Decisions:
    """A compiled classifier: cells without places, and which cell is which flow's.

    `image` shape (cells, 16). `flows[i]` is the cell of the i-th flow of those it was compiled from; 0: it can never match.
    """

    image: Image
    flows: tuple[int, ...]

    def placed(self, places: Sequence[Place], seed: int) -> Image:
        """The image with `places[i]` written into the cell of flow i, and the seed; a copy."""
        image = self.image.copy()
        image[0, 0] = seed
        for cell, place in zip(self.flows, places, strict=True):
            if cell:
                image[cell, 1:4] = (place.pool, place.table_size, place.counters)
        return image


def compile_flows(flows: Sequence[Flow]) -> Decisions:
    """The decisions of `flows`, which stand in matching order. Deterministic.

    Time and size are about linear in the prefixes and port ranges of all flows, as long as a packet's flows overlap in few of them.
    """
    cells = Cells()
    header = cells.add([0] * WORDS)
    cell_of = [0] * len(flows)

    def flow_cell(index: int) -> int:
        if not cell_of[index]:
            cell_of[index] = cells.add([FLOW])
        return cell_of[index]

    for at, version in ((2, 4), (8, 6)):
        mine = {i: flow for i, flow in enumerate(flows) if flow.version == version}
        classes = _source_classes(version, mine)
        sources = _lookup(cells, version, classes.class_of)
        groups = _groups(cells, mine, classes, flow_cell)
        destinations = _lookup(cells, version, groups)
        cells.words[header][at : at + 6] = [*destinations, *sources]
    return Decisions(cells.array(), tuple(cell_of))


# --- cells -----------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Cells:
    """The growing image."""

    words: list[list[int]] = field(default_factory=list)
    known: dict[tuple[int, ...], int] = field(default_factory=dict)

    def add(self, words: list[int]) -> int:
        """The number of a new cell."""
        self.words.append(words + [0] * (WORDS - len(words)))
        return len(self.words) - 1

    def share(self, words: tuple[int, ...]) -> int:
        """The number of a cell with this content: an old one, if there is one."""
        if (cell := self.known.get(words)) is None:
            cell = self.known[words] = self.add(list(words))
        return cell

    def array(self) -> Image:
        return np.array(self.words, np.uint32)


# --- addresses -------------------------------------------------------------------------------------------------------------


def host_hash(words: Sequence[int]) -> int:
    """The hash of an address given as `core.lb.jhash.address_words`; 32 bits, of which a bucket takes the lowest after folding."""
    h = 0
    for word, factor in zip(words, HASH_FACTORS, strict=False):
        h ^= word * factor & 0xFFFFFFFF
    h ^= h >> 15
    h = h * HASH_FACTORS[1] & 0xFFFFFFFF
    return h ^ h >> 13


def _lookup(cells: Cells, version: int, values: Mapping[Prefix, int]) -> tuple[int, int, int]:
    """(first host bucket, buckets - 1, root of the trie): where the value of the longest prefix of an address is found.

    Hosts that do not fit into their bucket are in the trie, too. Values are positive.
    """
    bits = 32 if version == 4 else 128
    hosts = [prefix for prefix in values if prefix.prefixlen == bits]
    left = {prefix: value for prefix, value in values.items() if prefix.prefixlen < bits}
    ways = WAYS[version]
    buckets: list[list[Prefix]] = [[] for _ in range(_power_of_two(2 * len(hosts) // ways + 1))]
    for host in hosts:
        bucket = buckets[host_hash(address_words(host.network_address.packed)) & len(buckets) - 1]
        if len(bucket) < ways:
            bucket.append(host)
        else:
            left[host] = values[host]
    first = len(cells.words)
    for bucket in buckets:
        addresses = [word for host in bucket for word in address_words(host.network_address.packed)]
        keys = addresses + [0] * (ways * bits // 32 - len(addresses))
        cells.add(keys + [values[host] for host in bucket])
    return first, len(buckets) - 1, _trie(cells, left, bits)


def _trie(cells: Cells, values: Mapping[Prefix, int], bits: int) -> int:
    """The cell of the root, four bits a step; 0 without prefixes. A child begins with what its parent says, so the last entry met
    is the answer."""
    if not values:
        return 0
    root = cells.add([0] * WORDS)
    for prefix in sorted(values, key=lambda p: p.prefixlen):
        address, length = int(prefix.network_address), prefix.prefixlen
        node, shift = cells.words[root], bits - 4
        while length > 4:
            nibble = address >> shift & 15
            if not node[nibble] & CHILD:
                node[nibble] = CHILD | cells.add([node[nibble]] * WORDS)
            node = cells.words[node[nibble] & ~CHILD]
            length, shift = length - 4, shift - 4
        start = address >> shift & 15
        # Longer prefixes come later, so none of these entries is a child yet.
        node[start : start + (1 << 4 - length)] = [values[prefix]] * (1 << 4 - length)
    return root


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()


def _containing(prefixes: Iterable[Prefix]) -> dict[Prefix, Prefix | None]:
    """Every prefix with the longest other one that contains it; a container stands before what it contains."""
    parents: dict[Prefix, Prefix | None] = {}
    stack: list[tuple[int, Prefix]] = []
    for prefix in sorted(set(prefixes), key=lambda p: (int(p.network_address), p.prefixlen)):
        while stack and stack[-1][0] < int(prefix.network_address):
            stack.pop()
        parents[prefix] = stack[-1][1] if stack else None
        stack.append((int(prefix.broadcast_address), prefix))
    return parents


@dataclass(slots=True)
class _SourceClasses:
    """The classes of the source addresses of one family. Source lists go by number: equal lists have equal numbers."""

    number_of: dict[int, int]
    """Number of the list of a flow, by the flow's index; flows without sources have none."""
    class_of: dict[Prefix, int]
    """The class (from 1 on) of the addresses whose longest prefix is the key; 0 is the class of all other addresses."""
    classes: dict[int, tuple[Interval, ...]]
    """The classes of the addresses in a list."""


def _source_classes(version: int, flows: Mapping[int, Flow]) -> _SourceClasses:
    numbers: dict[tuple[Prefix, ...], int] = {}
    number_of = {i: numbers.setdefault(flow.sources, len(numbers)) for i, flow in flows.items() if flow.sources}
    lists: dict[Prefix, set[int]] = {}
    for sources, number in numbers.items():
        for prefix in sources:
            if prefix.version == version:
                lists.setdefault(prefix, set()).add(number)
    members: dict[Prefix, frozenset[int]] = {}
    class_of_members: dict[frozenset[int], int] = {}
    class_of: dict[Prefix, int] = {}
    for prefix, parent in _containing(lists).items():
        inherited = members[parent] if parent else frozenset()
        members[prefix] = inherited if lists[prefix] <= inherited else inherited | lists[prefix]
        class_of[prefix] = class_of_members.setdefault(members[prefix], len(class_of_members) + 1)
    classes: dict[int, list[Interval]] = {number: [] for number in numbers.values()}
    for those, its_class in class_of_members.items():
        for number in those:
            classes[number].append((its_class, its_class))
    return _SourceClasses(number_of, class_of, {number: merged(found) for number, found in classes.items()})


# --- flows -----------------------------------------------------------------------------------------------------------------


def merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same keys as sorted intervals that neither overlap nor touch; empty ones (first > last) are left out."""
    result: list[Interval] = []
    for first, last in sorted(intervals):
        if first > last:
            continue
        if result and first <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(result[-1][1], last)
        else:
            result.append((first, last))
    return tuple(result)


def _ports(ranges: Iterable[PortRange]) -> tuple[Interval, ...]:
    found = merged((r.first, r.last) for r in ranges)
    return _WHOLE if found == ((0, 65535),) else found


Field = tuple[int, int, int]
"""Offset and length in bytes, and mask, of a byte match."""
Dimension = int | Field
Box = Mapping[Dimension, tuple[Interval, ...]]
"""What a flow wants of a packet that has its destination and protocol; a dimension that is missing may be anything."""


def _box(flow: Flow, protocol: L4Protocol | None, sources: tuple[Interval, ...]) -> Box | None:
    """None: no packet of this protocol can match. `sources` are the classes that the flow's sources are."""
    box: dict[Dimension, tuple[Interval, ...]] = {SOURCE_CLASS: sources}
    if protocol is not None:
        if protocol not in flow.protocols:
            return None
        box[DESTINATION_PORT] = _ports(flow.destination_ports)
        box[SOURCE_PORT] = _ports(flow.source_ports)
        for match in flow.byte_matches:
            if match.protocol is not protocol:
                return None
            key, value = _field_of(match)
            box[key] = () if box.get(key, value) != value else value
    if any(not intervals for intervals in box.values()):
        return None
    return {dimension: intervals for dimension, intervals in box.items() if intervals != _WHOLE}


def _field_of(match: ByteMatch) -> tuple[Field, tuple[Interval, ...]]:
    value = match.value & match.mask
    return (match.offset, match.length, match.mask), ((value, value),)


def _groups(
    cells: Cells, flows: Mapping[int, Flow], classes: _SourceClasses, flow_cell: Callable[[int], int]
) -> dict[Prefix, int]:
    """The group cell of every destination prefix: the decisions of all flows whose destinations contain it."""
    own: dict[Prefix, list[int]] = {}
    boxes: dict[tuple[int, L4Protocol | None], Box | None] = {}
    for i, flow in flows.items():
        for prefix in flow.destinations:
            if prefix.version == flow.version:
                own.setdefault(prefix, []).append(i)
        sources = classes.classes[classes.number_of[i]] if i in classes.number_of else _WHOLE
        boxes |= {(i, protocol): _box(flow, protocol, sources) for protocol in PROTOCOLS}
    members: dict[Prefix, tuple[int, ...]] = {}
    group_of: dict[tuple[int, ...], int] = {}
    groups: dict[Prefix, int] = {}
    for prefix, parent in _containing(own).items():
        inherited = members[parent] if parent else ()
        members[prefix] = candidates = tuple(sorted({*inherited, *own[prefix]}))
        if candidates not in group_of:
            references = []
            for protocol in PROTOCOLS:
                matching = {i: box for i in candidates if (box := boxes[i, protocol]) is not None}
                references.append(_Decider(cells, matching, flow_cell).of(tuple(matching), 0))
            group_of[candidates] = _group(cells, references)
        groups[prefix] = group_of[candidates]
    return groups


def _group(cells: Cells, references: list[int]) -> int:
    """A cell with these references: that of the flow itself when there is only one, so that a packet needs one cache line less."""
    words = [0] * GROUP_AT + references
    flows = {reference for reference in references if reference}
    if len(flows) == 1:
        (flow,) = flows
        cell = cells.words[flow]
        if cell[0] == FLOW and cell[GROUP_AT:] in (references, [0] * len(references)):
            cell[GROUP_AT:] = references
            return flow
    return cells.add(words)


class _TooManyError(Exception):
    """Cutting this set of flows multiplies them."""


class _Decider:
    """Decisions over the flows of one group and protocol."""

    def __init__(self, cells: Cells, boxes: Mapping[int, Box], flow_cell: Callable[[int], int]) -> None:
        self._cells = cells
        self._boxes = boxes
        self._flow_cell = flow_cell
        ranks: list[Dimension] = [DESTINATION_PORT, SOURCE_CLASS, SOURCE_PORT]
        fields = {key for box in boxes.values() for key in box if isinstance(key, tuple)}
        self._dimensions = (*ranks, *sorted(fields))
        self._memo: dict[tuple[tuple[int, ...], int, int], int] = {}
        self._budget = 0

    def of(self, candidates: tuple[int, ...], otherwise: int) -> int:
        """The reference that decides among `candidates`, which are in matching order; `otherwise`: none matches.

        Cut all at once when that stays near linear, else in two halves, the second behind the first.
        """
        self._budget = 4096 + 64 * sum(len(i) for c in candidates for i in self._boxes[c].values())
        try:
            return self._cut(candidates, 0, otherwise)
        except _TooManyError:
            half = len(candidates) // 2
            return self.of(candidates[:half], self.of(candidates[half:], otherwise))

    def _cut(self, candidates: tuple[int, ...], at: int, otherwise: int) -> int:
        while at < len(self._dimensions) and all(self._dimensions[at] not in self._boxes[c] for c in candidates):
            at += 1
        if not candidates:
            return otherwise
        if at == len(self._dimensions):
            return self._flow_cell(candidates[0])
        key = candidates, at, otherwise
        if (known := self._memo.get(key)) is None:
            known = self._memo[key] = self._switch(candidates, at, otherwise)
        return known

    def _switch(self, candidates: tuple[int, ...], at: int, otherwise: int) -> int:
        dimension = self._dimensions[at]
        later = self._dimensions[at + 1 :]
        free = {c for c in candidates if all(d not in self._boxes[c] for d in later)}
        whole = [c for c in candidates if dimension not in self._boxes[c]]
        starts: list[int] = []
        references: list[int] = []
        for start, active in self._intervals(candidates, dimension):
            # Nothing behind a flow without further conditions is ever reached.
            last = next((n for n, c in enumerate(active) if c in free), len(active) - 1)
            self._spend(last + 2, candidates)
            reference = self._cut(tuple(active[: last + 1]), at + 1, otherwise)
            if not references or references[-1] != reference:
                starts.append(start)
                references.append(reference)
        tree = self._tree(dimension, starts, references)
        if dimension == SOURCE_CLASS:
            return self._cells.share((SOURCE, tree)) if len(references) > 1 else tree
        if isinstance(dimension, tuple):
            offset, length, mask = dimension
            short = self._cut(tuple(whole), at + 1, otherwise)
            return self._cells.share((FIELD, tree, short, offset, length, mask))
        return tree

    def _spend(self, amount: int, candidates: tuple[int, ...]) -> None:
        self._budget -= amount
        if self._budget < 0 and len(candidates) > 1:
            raise _TooManyError

    def _intervals(self, candidates: tuple[int, ...], dimension: Dimension) -> Iterable[tuple[int, list[int]]]:
        """(first key, candidates that hold from there to the next one), in order of keys, from 0 on."""
        events: dict[int, tuple[list[int], list[int]]] = {0: ([], [])}
        for candidate in candidates:
            for first, last in self._boxes[candidate].get(dimension, _WHOLE):
                events.setdefault(first, ([], []))[0].append(candidate)
                if last < 0xFFFFFFFF:
                    events.setdefault(last + 1, ([], []))[1].append(candidate)
        active: list[int] = []
        for key in sorted(events):
            begin, end = events[key]
            for candidate in end:
                active.remove(candidate)
            for candidate in begin:
                insort(active, candidate)
            yield key, active

    def _tree(self, dimension: Dimension, starts: list[int], references: list[int]) -> int:
        """A tree of SWITCH cells over `starts` (the first is 0); a lone reference is itself."""
        key = FIELD_VALUE if isinstance(dimension, tuple) else dimension
        while len(references) > 1:
            parts = [slice(i, i + FAN_OUT) for i in range(0, len(references), FAN_OUT)]
            references = [self._cells.share(_switch_words(key, starts[p], references[p])) for p in parts]
            starts = [starts[p.start] for p in parts]
        return references[0]


def _switch_words(key: int, starts: list[int], references: list[int]) -> tuple[int, ...]:
    """The last reference with start <= key wins; spare places repeat the last one at the end of the keys."""
    spare = FAN_OUT - len(references)
    return (SWITCH | key << 8, *starts, *[0xFFFFFFFF] * spare, *references, *[references[-1]] * spare)
