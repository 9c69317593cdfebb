"""What the tc data plane has in the kernel, against what it should have: from the pins to the links, their programs, and their maps."""

from __future__ import annotations

import ctypes
import errno
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.lb.forwarding import Flow, Forwarding, pool_table
from core.model import Address
from live.dataplane import bpf
from live.dataplane.tc_image import CELL_BYTES, GROUP_AT, Image, compile_flows
from live.dataplane.tc_program import REJECT_TARGET, TARGET
from sim.net.namespaces import run_in, within
from tests.netns._tables import by_bucket
from tests.netns._ways import ways_out

PROGRAM_BY_ID, MAP_BY_ID, INFO = 13, 14, 15
SHARED = frozenset({"image_slot", "pools", "targets", "counters", "drops", "answers"})
"""Maps of one program; all links must lead to the same ones."""


class _Kept(NamedTuple):
    """A target as the map has it."""

    address: Address
    interface: int
    mtu_bytes: int


def differences(pid: int, netns: Path, forwarding: Forwarding) -> Iterator[str]:
    """`pid`: a process of the gateway pod's load balancer. Every link has the program of one generation, and its maps say what
    `forwarding` says: the decisions cell by cell, behind each flow the table of its pool bucket by bucket, behind each bucket a target
    and the interface to it; no other table, target or link is there."""
    folder = Path(f"/proc/{pid}/root/sys/fs/bpf") / f"tidegate-{netns.stat().st_ino}"
    names = {path.name for path in folder.iterdir()}
    ingress = {name for name in names if name.startswith("ingress-")}
    others = {"answer", "slow", "fragments"}
    if names - ingress != others or ingress != {f"ingress-{index}" for index in _networks(netns).values()}:
        yield f"pins are {sorted(names)}, interfaces {_networks(netns)}"
    maps = {name: _maps_of(folder / name) for name in names - {"fragments"}}
    merged: dict[str, int] = {}
    for name, ids in maps.items():
        for map_name, number in ids.items():
            if map_name in SHARED and merged.setdefault(map_name, number) != number:
                yield f"link {name} has another {map_name} than the others"
    targets = _targets(merged["targets"])
    yield from _unlike_targets(targets, forwarding, netns)
    tables = dict(_tables(merged["pools"]))
    yield from _unlike_decisions(_image(merged["image_slot"]), tables, targets, forwarding)


def whole_tables(pid: int, netns: Path, size: int) -> set[bytes]:
    """The tables that packets meet now, of `size` buckets each, as `by_bucket` writes them."""
    folder = Path(f"/proc/{pid}/root/sys/fs/bpf") / f"tidegate-{netns.stat().st_ino}"
    maps = _maps_of(next(folder.glob("ingress-*")))
    while True:
        targets = _targets(maps["targets"])
        tables = [table[:size] & np.uint64(0xFFFFFFFF) for _, table in _tables(maps["pools"])]
        # A number that is free is given to another target: what was read must be of one time.
        if targets == _targets(maps["targets"]):
            break
    numbers = np.array(sorted(targets), np.uint64)
    addresses = [targets[number].address for number in numbers.tolist()]
    found = set()
    for table in tables:
        at = np.searchsorted(numbers, table)
        known = (at < len(numbers)) & (numbers[np.minimum(at, len(numbers) - 1)] == table)
        found.add(by_bucket([*addresses, None], np.where(known, at, len(addresses))))
    return found


@contextmanager
def spoiled(pid: int, netns: Path, what: str) -> Iterator[None]:
    """One bit of the kernel's `what` ("image", "bucket" or "target") is wrong meanwhile."""
    folder = Path(f"/proc/{pid}/root/sys/fs/bpf") / f"tidegate-{netns.stat().st_ino}"
    maps = _maps_of(next(folder.glob("ingress-*")))
    with ExitStack() as exits:

        def opened(number: int) -> int:
            return exits.enter_context(bpf.closing(_by_id(MAP_BY_ID, number)))

        if what == "target":
            fd, length, at = opened(maps["targets"]), TARGET.size, 0
        else:
            outer, at = ("image_slot", 4 * GROUP_AT) if what == "image" else ("pools", 8 * 1000)
            (number,) = struct.unpack("=I", bpf.lookup(opened(maps[outer]), 0, 4, "looking for a map"))
            fd = opened(number)
            length = bpf.map_shape(fd)[2]
        good = bpf.lookup(fd, 0, length, "reading")
        bpf.update(fd, 0, good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], "spoiling")
        try:
            yield
        finally:
            bpf.update(fd, 0, good, "mending")


def _unlike_targets(targets: Mapping[int, _Kept], forwarding: Forwarding, netns: Path) -> Iterator[str]:
    """Each target of a pool in use stands there once, with the interface that the kernel itself would take."""
    wanted = {t.address for flow in forwarding.flows for t in forwarding.pool_of(flow).targets}
    found = sorted(str(kept.address) for kept in targets.values())
    if found != sorted(map(str, wanted)):
        yield f"targets are {', '.join(found)}, expected {', '.join(map(str, wanted))}"
        return
    ways = within(netns, lambda: ways_out(wanted))
    for kept in targets.values():
        if (kept.interface, kept.mtu_bytes) != ways[kept.address]:
            yield f"the way to {kept.address} is {ways[kept.address]}, the map says {kept}"


def _unlike_decisions(
    image: Image, tables: Mapping[int, NDArray[np.uint64]], targets: Mapping[int, _Kept], forwarding: Forwarding
) -> Iterator[str]:
    decisions = compile_flows(forwarding.flows)
    wanted, found = decisions.image.copy(), image[: len(decisions.image)].copy()
    wanted[0, 0] = forwarding.seed
    used: dict[int, str] = {}
    counters: dict[int, tuple[str, str]] = {}
    for flow, cell in zip(forwarding.flows, decisions.flows, strict=True):
        if not cell:
            continue
        slot, size, first = found[cell, 1:4].tolist()
        # Where the pool and the counters are is the agent's choice; what is there is compared below.
        wanted[cell, 1:4] = found[cell, 1:4]
        if used.setdefault(slot, flow.pool) != flow.pool:
            yield f"flow {flow.name} leads to the table of {used[slot]}"
        if counters.setdefault(first, (flow.name, flow.pool)) != (flow.name, flow.pool):
            yield f"flow {flow.name} counts where {counters[first][0]} does"
        yield from (
            f"flow {flow.name}: {what}" for what in _unlike_table(tables, slot, size, targets, forwarding, flow)
        )
    if (found != wanted).any():
        cells = np.flatnonzero((found != wanted).any(axis=1)).tolist()
        yield f"cells {cells} of the decision image are {found[cells].tolist()}, expected {wanted[cells].tolist()}"
    if image[len(wanted) :].any():
        yield "the decision image goes on where it should have ended"
    if tables.keys() != used.keys():
        yield f"tables are in slots {sorted(tables)}, flows lead to {sorted(used)}"


def _unlike_table(
    tables: Mapping[int, NDArray[np.uint64]],
    slot: int,
    size: int,
    targets: Mapping[int, _Kept],
    forwarding: Forwarding,
    flow: Flow,
) -> Iterator[str]:
    pool = forwarding.pool_of(flow)
    if slot not in tables:
        yield f"leads to slot {slot}, where no table is"
        return
    if size != pool.table_size:
        yield f"has a table of {size} buckets, expected {pool.table_size}"
        return
    table = tables[slot][:size]
    # The table says -1 for rejection, which is the last one here.
    addresses = [*(target.address for target in pool.targets), None]
    counted: dict[Address | None, set[int]] = {}
    wrong = []
    for bucket, (entry, index) in enumerate(zip(table.tolist(), pool_table(pool).tolist(), strict=True)):
        number, counter = entry & 0xFFFFFFFF, entry >> 32
        address = targets[number].address if number in targets else None
        counted.setdefault(address, set()).add(counter)
        if address != addresses[index] or (address is None) != (number == REJECT_TARGET):
            wrong.append(bucket)
    if wrong:
        yield f"{len(wrong)} buckets are not those of pool {pool.name}, the first is {wrong[0]}"
    if any(len(numbers) > 1 for numbers in counted.values()) or len(set.union(*counted.values())) != len(counted):
        yield f"targets and counters of pool {pool.name} are {counted}"


def _networks(netns: Path) -> dict[str, int]:
    """The pod's interfaces on secondary networks, with their indices."""
    links = json.loads(run_in(netns, ["ip", "-json", "link", "show"]))
    found = {link["ifname"]: link["ifindex"] for link in links}
    return {name: n for name, n in found.items() if name not in ("lo", "eth0") and not name.startswith("tg-slow")}


def _maps_of(pin: Path) -> dict[str, int]:
    """Name -> id of the maps of the program that the pinned link runs. Source: linux/bpf.h, struct bpf_link_info, bpf_prog_info."""
    link = bpf.pinned(pin)
    assert link is not None, pin
    with bpf.closing(link):
        (program_id,) = struct.unpack_from("=I", bpf._info(link, 64), 8)
    with bpf.closing(_by_id(PROGRAM_BY_ID, program_id)) as program:
        ids = ctypes.create_string_buffer(4 * 64)
        info = ctypes.create_string_buffer(struct.pack("=52xIQ", 64, ctypes.addressof(ids)), 128)
        attributes = struct.pack("=IIQ", program, len(info), ctypes.addressof(info))
        bpf._bpf(INFO, attributes, "reading about a program")
        (count,) = struct.unpack_from("=I", info.raw, 52)
    numbers = struct.unpack_from(f"={count}I", ids.raw)
    found = {}
    for number in numbers:
        with bpf.closing(_by_id(MAP_BY_ID, number)) as fd:
            found[_name(fd)] = number
    return found


def _name(fd: int) -> str:
    """The name of a map. Source: linux/bpf.h, struct bpf_map_info."""
    return bpf._info(fd, 64)[24:40].rstrip(b"\0").decode()


def _by_id(command: int, number: int) -> int:
    return bpf._bpf(command, struct.pack("=III", number, 0, 0), f"opening BPF object {number}")[0]


def _targets(number: int) -> Mapping[int, _Kept]:
    """The targets that are written, by index."""
    with bpf.closing(_by_id(MAP_BY_ID, number)) as fd:
        entries = bpf.map_shape(fd)[3]
        raw = bpf.lookup_all(fd, entries=entries, value_bytes=TARGET.size, what="reading the targets")
    found: dict[int, _Kept] = {}
    for index in range(entries):
        interface, mtu_bytes, packed, family = TARGET.unpack_from(raw, index * TARGET.size)
        if family:
            found[index] = _Kept(ip_address(packed[:4] if family == 2 else packed), interface, mtu_bytes)
    return found


def _image(number: int) -> Image:
    """The decision image that packets meet; shape (cells, 16)."""
    with bpf.closing(_by_id(MAP_BY_ID, number)) as slot, bpf.closing(_inner(slot, 0)) as fd:
        raw = bpf.lookup(fd, 0, bpf.map_shape(fd)[2], "reading the decision image")
    return np.frombuffer(raw, np.uint32).reshape(-1, CELL_BYTES // 4)


def _inner(outer: int, slot: int) -> int:
    """A descriptor of the map in a slot of a map of maps. Raises BpfError, ENOENT when there is none."""
    while True:
        (number,) = struct.unpack("=I", bpf.lookup(outer, slot, 4, "looking for a map"))
        try:
            return _by_id(MAP_BY_ID, number)
        except bpf.BpfError as error:
            # Between the two calls the slot was given another map, and this one went.
            if error.errno != errno.ENOENT:
                raise


def _tables(number: int) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """The tables of all pools, by slot."""
    with bpf.closing(_by_id(MAP_BY_ID, number)) as pools:
        for slot in range(bpf.map_shape(pools)[3]):
            try:
                inner = _inner(pools, slot)
            except bpf.BpfError as error:
                if error.errno != errno.ENOENT:
                    raise
                continue
            with bpf.closing(inner) as table:
                if _name(table) == "no_pool":
                    continue
                raw = bpf.lookup(table, 0, bpf.map_shape(table)[2], "reading the table of a pool")
            yield slot, np.frombuffer(raw, np.uint64)
