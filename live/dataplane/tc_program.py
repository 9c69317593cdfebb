"""The program of the tc data plane in the kernel, with its maps: what tc_maps.h declares, in the sizes that are needed.

A program with its maps is never changed into a bigger one: another one is loaded, filled, and takes its place (tc.py).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.errors import MachineError
from live.dataplane import bpf, libbpf
from live.dataplane.bpf import MapType
from live.dataplane.tc_image import CELL_BYTES, Image

OBJECT: Final = Path(__file__).with_name("tc.bpf.o")
COMPILE_COMMAND: Final = "make setup"
TARGET: Final = struct.Struct("=II16sI")
BUCKET_BYTES: Final = 8
COUNTER_BYTES: Final = 16
FRAGMENT_SHAPE: Final = (MapType.LRU_HASH, 40, 48, 16384)
REJECT_TARGET: Final = 0xFFFF_FFFF

_MAPS_AT_ONCE: Final = 128
"""Descriptors are open for that many tables at a time."""


class Drop(IntEnum):
    """Why a packet was dropped (tc_maps.h, enum drop)."""

    NO_FLOW = 0
    UNPARSED = 1
    NO_TARGET = 2
    FRAGMENT = 3
    UNANSWERED = 4
    INTERNAL = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What fits into a program's maps."""

    image_bytes: int
    """A power of two."""
    pools: int
    table_entries: int
    targets: int
    counters: int

    def hold(self, other: Sizes) -> bool:
        """Whether everything of `other` fits."""
        return (
            self.image_bytes >= other.image_bytes
            and self.pools >= other.pools
            and self.table_entries >= other.table_entries
            and self.targets >= other.targets
            and self.counters >= other.counters
        )

    def roomy(self) -> Sizes:
        """Sizes with room to grow, so that growing seldom means another program."""
        return Sizes(
            image_bytes=_power_of_two(max(2 * self.image_bytes, 1 << 18)),
            pools=_power_of_two(max(2 * self.pools, 256)),
            table_entries=max(self.table_entries, 65537),
            targets=_power_of_two(max(2 * self.targets, 4096)),
            counters=_power_of_two(max(2 * self.counters, 4096)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What the program is loaded with beside the sizes (tc_maps.h, struct limits)."""

    slow_ifindex: int
    fragment_mark: int
    answer_mark: int
    answers_per_s: int
    fragment_hold_ms: int = 3000


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def new_fragments() -> int:
    """The map of datagrams in fragments; it outlives programs, so that no datagram is torn when one takes the place of another."""
    kind, key_bytes, value_bytes, entries = FRAGMENT_SHAPE
    return bpf.create_map(
        MapType(kind), key_bytes=key_bytes, value_bytes=value_bytes, entries=entries, name="fragments"
    )


class Program:
    """One loaded program and its maps; the descriptors are closed by `close`, and the kernel keeps what is attached.

    Raises MachineError when the object has not been compiled, DataplaneError when the kernel refuses.
    """

    def __init__(self, sizes: Sizes, constants: Constants, fragments: int, path: Path = OBJECT) -> None:
        if not path.is_file():
            raise MachineError(f"{path.name} has not been compiled", f"compile it with: {COMPILE_COMMAND}")
        self.sizes = sizes
        self.constants = constants
        self._maps: dict[str, int] = {}
        self.programs: dict[str, int] = {}
        self._no_table: int | None = None
        """What stands in the slots of pools that are gone: one table for all of them, which no flow leads to."""
        try:
            self._create_maps()
            self.programs = libbpf.load(
                path,
                maps=self._maps | {"fragments": fragments},
                constants=struct.pack(
                    "=7I",
                    sizes.image_bytes,
                    sizes.table_entries,
                    constants.slow_ifindex,
                    constants.fragment_mark,
                    constants.answer_mark,
                    constants.answers_per_s,
                    constants.fragment_hold_ms,
                ),
                programs=("tg_ingress", "tg_answer", "tg_slow"),
            )
        except BaseException:
            self.close()
            raise

    def _create_maps(self) -> None:
        def array(name: str, value_bytes: int, entries: int, kind: MapType = MapType.ARRAY, inner: int = 0) -> None:
            self._maps[name] = bpf.create_map(
                kind, key_bytes=4, value_bytes=value_bytes, entries=entries, inner=inner, name=name
            )

        sizes = self.sizes
        with bpf.closing(bpf.create_filled(b"", value_bytes=sizes.image_bytes, name="image")) as inner:
            array("image_slot", 4, 1, MapType.ARRAY_OF_MAPS, inner)
        self._no_table = bpf.create_filled(b"", value_bytes=BUCKET_BYTES * sizes.table_entries, name="no_pool")
        array("pools", 4, sizes.pools, MapType.ARRAY_OF_MAPS, self._no_table)
        array("targets", TARGET.size, sizes.targets)
        array("counters", COUNTER_BYTES, sizes.counters, MapType.PERCPU_ARRAY)
        array("drops", 8, len(Drop), MapType.PERCPU_ARRAY)
        array("answers", COUNTER_BYTES, 1, MapType.PERCPU_ARRAY)

    def close(self) -> None:
        for fd in (
            *self._maps.values(),
            *self.programs.values(),
            *([] if self._no_table is None else [self._no_table]),
        ):
            os.close(fd)
        self._maps, self.programs, self._no_table = {}, {}, None

    def publish_image(self, image: Image) -> None:
        """Packets see the old image, then this one; when it returns none is left that sees the old one."""
        assert len(image) * CELL_BYTES <= self.sizes.image_bytes
        with bpf.closing(bpf.create_filled(image.tobytes(), value_bytes=self.sizes.image_bytes, name="image")) as inner:
            bpf.update(self._maps["image_slot"], 0, struct.pack("=I", inner), "swapping the decision image")

    def publish_tables(self, tables: Mapping[int, NDArray[np.uint64]]) -> None:
        """Swaps the tables of pools, by slot; each one whole. When it returns no packet sees an old one any more."""
        size = BUCKET_BYTES * self.sizes.table_entries
        waiting = list(tables.items())
        for first in range(0, len(waiting), _MAPS_AT_ONCE):
            some = waiting[first : first + _MAPS_AT_ONCE]
            inners: list[int] = []
            try:
                for _, table in some:
                    inners.append(bpf.create_filled(table.tobytes(), value_bytes=size, name="pool"))
                slots = [slot for slot, _ in some]
                bpf.update_many(
                    self._maps["pools"],
                    slots,
                    struct.pack(f"={len(inners)}I", *inners),
                    f"swapping tables of pools {slots}",
                )
            finally:
                for inner in inners:
                    os.close(inner)

    def withdraw_tables(self, slots: Sequence[int]) -> None:
        """Frees tables that no flow of the published image leads to."""
        descriptors = struct.pack("=I", self._no_table) * len(slots)
        bpf.update_many(self._maps["pools"], slots, descriptors, f"withdrawing tables of pools {slots}")

    def write_targets(self, targets: Mapping[int, bytes]) -> None:
        """Sets targets, by index; one that a table in use points to must not change."""
        bpf.update_many(self._maps["targets"], list(targets), b"".join(targets.values()), "writing targets")

    def reset_counters(self, first: int, count: int) -> None:
        """Sets counters to zero, on every CPU."""
        zeros = bytes(COUNTER_BYTES * bpf.possible_cpus() * count)
        bpf.update_many(self._maps["counters"], range(first, first + count), zeros, "resetting counters")

    def counters(self) -> NDArray[np.uint64]:
        """Packets and bytes by counter; shape (counters, 2)."""
        cpus = bpf.possible_cpus()
        raw = bpf.lookup_all(
            self._maps["counters"],
            entries=self.sizes.counters,
            value_bytes=COUNTER_BYTES * cpus,
            what="reading the counters of flows",
        )
        by_cpu = np.frombuffer(raw, np.uint64).reshape(self.sizes.counters, cpus, 2)
        total: NDArray[np.uint64] = by_cpu.sum(axis=1)
        return total

    def drops(self) -> dict[Drop, int]:
        """Dropped packets by reason."""
        cpus = bpf.possible_cpus()
        raw = bpf.lookup_all(
            self._maps["drops"], entries=len(Drop), value_bytes=8 * cpus, what="reading the counters of drops"
        )
        return dict(
            zip(Drop, map(int, np.frombuffer(raw, np.uint64).reshape(len(Drop), cpus).sum(axis=1)), strict=True)
        )
