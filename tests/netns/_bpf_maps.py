"""What the tc data plane has in the kernel, against what it should have: from the pins to the links, their programs, and their maps."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.model import Address
from live.dataplane import bpf
from live.dataplane.tc_program import BUCKET_BYTES, TARGET
from sim.net.namespaces import run_in

PROGRAM_BY_ID, MAP_BY_ID, INFO = 13, 14, 15
SHARED = frozenset({"image_slot", "pools", "targets", "counters", "drops", "answers"})
"""Maps of one program; all links must lead to the same ones."""


def differences(pid: int, netns: Path, expected: Sequence[tuple[Address | None, ...]]) -> Iterator[str]:
    """`pid`: a process of the gateway pod's load balancer. Every link has the program of one generation; its tables say, bucket by
    bucket, what `expected` says; no other table, target or link is there."""
    folder = Path(f"/proc/{pid}/root/sys/fs/bpf") / f"tidegate-{netns.stat().st_ino}"
    names = {path.name for path in folder.iterdir()}
    ingress = {name for name in names if name.startswith("ingress-")}
    others = {"answer", "slow", "fragments"}
    if names - ingress != others or len(ingress) != len(_networks(netns)):
        yield f"pins are {sorted(names)}"
    maps = {name: _maps_of(folder / name) for name in names - {"fragments"}}
    merged: dict[str, int] = {}
    for name, ids in maps.items():
        for map_name, number in ids.items():
            if map_name in SHARED and merged.setdefault(map_name, number) != number:
                yield f"link {name} has another {map_name} than the others"
    targets = _targets(merged["targets"])
    found = {_addresses(table, targets) for table in _tables(merged["pools"], len(next(iter(expected), ())))}
    if found != set(expected):
        yield f"the {len(found)} tables are not those of {len(set(expected))} pools"
    wanted = {address for table in expected for address in table if address is not None}
    if set(targets.values()) != wanted:
        yield f"targets are {sorted(map(str, targets.values()))}, expected {sorted(map(str, wanted))}"


def _networks(netns: Path) -> list[str]:
    """The pod's interfaces on secondary networks."""
    words = run_in(netns, ["ip", "-o", "link", "show"]).splitlines()
    found = [line.split(":")[1].strip().partition("@")[0] for line in words]
    return [name for name in found if name not in ("lo", "eth0") and not name.startswith("tg-slow")]


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


def _targets(number: int) -> Mapping[int, Address]:
    """Index -> address of the targets that are written."""
    with bpf.closing(_by_id(MAP_BY_ID, number)) as fd:
        entries = bpf.map_shape(fd)[3]
        raw = bpf.lookup_all(fd, entries=entries, value_bytes=TARGET.size, what="reading the targets")
    found: dict[int, Address] = {}
    for index in range(entries):
        _, _, packed, family = TARGET.unpack_from(raw, index * TARGET.size)
        if family:
            found[index] = ip_address(packed[:4] if family == 2 else packed)
    return found


def _tables(number: int, size: int) -> Iterator[NDArray[np.uint64]]:
    """The tables of all pools, `size` buckets of each."""
    with bpf.closing(_by_id(MAP_BY_ID, number)) as pools:
        for slot in range(bpf.map_shape(pools)[3]):
            try:
                (inner,) = struct.unpack("=I", bpf.lookup(pools, slot, 4, "looking for a pool"))
            except bpf.BpfError as error:
                if error.errno != 2:
                    raise
                continue
            with bpf.closing(_by_id(MAP_BY_ID, inner)) as table:
                if _name(table) == "no_pool":
                    continue
                length = bpf.map_shape(table)[2]
                raw = bpf.lookup(table, 0, length, "reading the table of a pool")
            yield np.frombuffer(raw, np.uint64)[: size or length // BUCKET_BYTES]


def _addresses(table: NDArray[np.uint64], targets: Mapping[int, Address]) -> tuple[Address | None, ...]:
    numbers = (table & np.uint64(0xFFFFFFFF)).tolist()
    return tuple(targets.get(number) for number in numbers)
