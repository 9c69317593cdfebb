"""bench tables: how long a Maglev table takes, beside a C program of the same algorithm; what the change of one slot moves; and how a
changed table gets into the kernel while packets pass (push.py)."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np

from core.errors import MachineError
from core.lb import maglev_native, maglev_walk
from core.lb.maglev import DEFAULT_TABLE_SIZE, Table, best_walk, offset_and_skip, populate
from scenarios.bench import Report, Row, Target, spread
from scenarios.bench.planes import PLANES
from scenarios.bench.push import TARGETS, push

SLOTS = (10, 100, 1000)
BOUND = 3.0
PUSH_BOUND_MS = 20.0
PEER: Final = Path(__file__).with_name("maglev_peer.c")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to compute a table, which is timed beside the C program."""

    what: str
    slots: int
    weights: Mapping[int, int]
    compute: Callable[[Mapping[int, int]], Table]
    promised: bool
    """Whether the ratio to the C program is a target."""


def run(quick: bool) -> Report:
    """Tables computed, then tables pushed. Expects to be in a sandbox."""
    rows: list[Row] = []
    targets: list[Target] = []
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        program = _compile(Path(folder))
        for case in _cases():
            row, ratio = _computed(program, case, repeats=5 if quick else 41)
            rows.append(row)
            if case.promised:
                name = f"ratio to C at {case.slots} slots, {case.what}"
                targets.append(Target(name=name, op="<=", bound=BOUND, value=ratio))
    for plane in PLANES:
        row, found = _pushed(plane, changes=6 if quick else 60)
        rows.append(row)
        targets += found
    native = maglev_native.native_walk()
    measured = f"in Python, for there is none in C: {native}" if isinstance(native, str) else "core/lb/libmaglev.so"
    return Report(
        bench="tables",
        rows=rows,
        targets=targets,
        notes=[
            f"{DEFAULT_TABLE_SIZE} entries, slots with their weights in, table out. The walk that is measured: {measured}.",
            "The C program is compiled with -O2 by the same compiler and given offsets and skips; its table is compared.",
            "Ours and the C program's run in turn, one table each. CPU time of the thread; ratio: the median of the pairs' ratios.",
            "names known: as after every change but the first. names new: the names of all slots are hashed as well.",
            "weighted: random weights from 1 to 100, in the C program as sums round by round. in Python: the reference, without C.",
            "pushed: one target of four leaves or returns; wall time of `apply`, at the end of which no packet sees the old table.",
            "Meanwhile one thread sends packets as fast as it can, and another counts them where they arrive.",
            "lost, misrouted: of the packets sent meanwhile; misrouted is where neither the old nor the new table leads.",
        ],
    )


def _cases() -> list[Case]:
    drawn = random.Random(1)
    equal = [(slots, dict.fromkeys(range(slots), 1)) for slots in SLOTS]
    weighted = [(slots, {slot: drawn.randint(1, 100) for slot in range(slots)}) for slots in SLOTS]
    kinds = (
        ("names known", equal, populate, True),
        ("names new", equal, _with_new_names, True),
        ("weighted", weighted, populate, True),
        ("in Python", equal, _in_python, False),
    )
    return [
        Case(what=what, slots=slots, weights=weights, compute=compute, promised=promised)
        for what, inputs, compute, promised in kinds
        for slots, weights in inputs
    ]


def _with_new_names(weights: Mapping[int, int]) -> Table:
    offset_and_skip.cache_clear()
    return populate(weights)


def _in_python(weights: Mapping[int, int]) -> Table:
    return populate(weights, walk=maglev_walk.walk)


def _computed(program: Path, case: Case, repeats: int) -> tuple[Row, float]:
    """Ours and the C program's in turn; the tables must be equal."""
    best_walk()  # loaded at the first table of a process, not at each
    table = case.compute(case.weights)
    ours_s, theirs_s = [], []
    with _Peer(program, case.weights) as peer:
        peer.compute()
        for _ in range(repeats):
            begin_s = time.thread_time()
            case.compute(case.weights)
            ours_s.append(time.thread_time() - begin_s)
            theirs_s.append(peer.compute())
        if not np.array_equal(table, peer.table()):
            raise AssertionError(f"the C program has another table of {case.slots} slots ({case.what})")
    ratio = round(float(np.median(np.array(ours_s) / np.array(theirs_s))), 2)
    moved = float((table != populate({slot: w for slot, w in case.weights.items() if slot})).mean())
    share = case.weights[0] / sum(case.weights.values())
    row = (
        {"what": f"computed, {case.what}", "slots": case.slots}
        | spread(ours_s, "ms", 1e3)
        | {
            "c_median_ms": round(float(np.median(theirs_s)) * 1e3, 3),
            "ratio": ratio,
            "moved_by_one_slot_percent": round(moved * 100, 2),
            "least_possible_percent": round(share * 100, 2),
            **dict.fromkeys(("packets", "lost", "misrouted"), ""),
        }
    )
    return row, ratio


def _pushed(plane: str, changes: int) -> tuple[Row, list[Target]]:
    took_s, sent, lost, misrouted = push(plane, changes)
    spread_ms = spread(took_s, "ms", 1e3)
    unmeasured = ("c_median_ms", "ratio", "moved_by_one_slot_percent", "least_possible_percent")
    row = {"what": f"pushed by {plane}", "slots": TARGETS} | spread_ms | dict.fromkeys(unmeasured, "")
    targets = [
        Target(name=f"packets lost while {plane} changes", op="==", bound=0, value=lost),
        Target(name=f"packets misrouted while {plane} changes", op="==", bound=0, value=misrouted),
    ]
    if plane == "tc":
        median_ms = spread_ms["median_ms"]
        targets.append(Target(name="median_ms pushed by tc", op="<=", bound=PUSH_BOUND_MS, value=median_ms))
    return row | {"packets": sent, "lost": lost, "misrouted": misrouted}, targets


def _compile(folder: Path) -> Path:
    # As tools/compile-shared chooses.
    compiler = shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        raise MachineError("no C compiler for the peer of this benchmark", "apt-get install clang")
    program = folder / "maglev"
    subprocess.run([compiler, "-O2", "-o", str(program), str(PEER)], check=True)
    return program


class _Peer:
    """The C program, which computes one table whenever it is told to."""

    def __init__(self, program: Path, weights: Mapping[int, int]) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        lines = [f"{len(weights)} {DEFAULT_TABLE_SIZE} {max(weights.values())}"]
        for slot, weight in weights.items():
            offset, skip = offset_and_skip(str(slot), DEFAULT_TABLE_SIZE)
            lines.append(f"{offset} {skip} {weight}")
        self._say("\n".join(lines))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def compute(self) -> float:
        """The CPU seconds of one table."""
        self._say("compute")
        return int(self._line()) / 1e9

    def table(self) -> Table:
        """The table that was computed last."""
        self._say("show")
        return np.array(self._line().split(), np.int32)

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()
