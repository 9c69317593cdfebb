"""bench tables: how long a Maglev table takes, beside a C program of the same algorithm; what the change of one slot moves; and how a
changed table gets into the kernel while packets pass (push.py)."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from core.errors import MachineError
from core.lb.maglev import DEFAULT_TABLE_SIZE, offset_and_skip, populate
from scenarios.bench import Report, Row, Target, spread
from scenarios.bench.planes import PLANES
from scenarios.bench.push import TARGETS, push

SLOTS = (10, 100, 1000)
BOUND = 3.0
PUSH_BOUND_MS = 20.0
PEER = r"""
/* Pseudocode 1 of the Maglev paper. Reads "n M", then n lines "offset skip"; prints the nanoseconds of each repetition, then the
   table. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
int main(int argc, char **argv) {
  int n, M, repeats = atoi(argv[1]);
  (void)argc;
  if (scanf("%d %d", &n, &M) != 2) return 1;
  int *offset = malloc(n * sizeof *offset), *skip = malloc(n * sizeof *skip), *next = malloc(n * sizeof *next);
  int32_t *entry = malloc(M * sizeof *entry);
  for (int i = 0; i < n; i++) if (scanf("%d %d", offset + i, skip + i) != 2) return 1;
  for (int r = 0; r < repeats; r++) {
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    memcpy(next, offset, n * sizeof *next);
    memset(entry, 0xff, M * sizeof *entry);
    for (int filled = 0;;) {
      for (int i = 0; i < n; i++) {
        int c = next[i];
        while (entry[c] >= 0) if ((c += skip[i]) >= M) c -= M;
        entry[c] = i;
        next[i] = c;
        if (++filled == M) goto full;
      }
    }
  full:
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%lld\n", (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec);
  }
  for (int c = 0; c < M; c++) printf("%d\n", entry[c]);
}
"""


def run(quick: bool) -> Report:
    """Tables computed, then tables pushed. Expects to be in a sandbox."""
    rows: list[Row] = []
    targets: list[Target] = []
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        peer = _compile(Path(folder))
        for slots in SLOTS:
            row, target = _computed(peer, slots, repeats=3 if quick else 15)
            rows.append(row)
            targets.append(target)
    for plane in PLANES:
        row, found = _pushed(plane, changes=6 if quick else 60)
        rows.append(row)
        targets += found
    return Report(
        bench="tables",
        rows=rows,
        targets=targets,
        notes=[
            f"{DEFAULT_TABLE_SIZE} entries. The C program is compiled with -O2, runs right after ours, and its table is compared.",
            "pushed: one target of four leaves or returns; wall time of `apply`, at the end of which no packet sees the old table.",
            "Meanwhile one thread sends packets as fast as it can, and another counts them where they arrive.",
            "lost, misrouted: of the packets sent meanwhile; misrouted is where neither the old nor the new table leads.",
        ],
    )


def _computed(peer: Path, slots: int, repeats: int) -> tuple[Row, Target]:
    """Ours and the C program's in turn; the tables must be equal."""
    table = populate(dict.fromkeys(range(slots), 1))
    ours_s, theirs_s = [], []
    for _ in range(repeats):
        begin_s = time.perf_counter()
        populate(dict.fromkeys(range(slots), 1))
        ours_s.append(time.perf_counter() - begin_s)
        seconds, their_table = _run_peer(peer, slots)
        theirs_s.append(seconds)
        if not (table == their_table).all():
            raise AssertionError(f"the C program has another table of {slots} slots")
    ratio = round(float(np.median(np.array(ours_s) / np.array(theirs_s))), 2)
    moved = float((table != populate(dict.fromkeys(range(1, slots), 1))).mean())
    row = (
        {"what": "computed", "slots": slots}
        | spread(ours_s, "ms", 1e3)
        | {
            "c_median_ms": round(float(np.median(theirs_s)) * 1e3, 3),
            "ratio": ratio,
            "moved_by_one_slot_percent": round(moved * 100, 2),
            "least_possible_percent": round(100 / slots, 2),
            **dict.fromkeys(("packets", "lost", "misrouted"), ""),
        }
    )
    return row, Target(name=f"ratio to C at {slots} slots", op="<=", bound=BOUND, value=ratio)


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
    compiler = shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        raise MachineError("no C compiler for the peer of this benchmark", "apt-get install clang")
    source, program = folder / "maglev.c", folder / "maglev"
    source.write_text(PEER)
    subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return program


def _run_peer(program: Path, slots: int) -> tuple[float, np.ndarray]:
    """(seconds, table) of the C program; the best of three, so that it is not measured with cold caches."""
    lines = [f"{slots} {DEFAULT_TABLE_SIZE}"]
    lines += ["{} {}".format(*offset_and_skip(str(slot), DEFAULT_TABLE_SIZE)) for slot in range(slots)]
    result = subprocess.run([str(program), "3"], input="\n".join(lines), capture_output=True, text=True, check=True)
    numbers = [int(line) for line in result.stdout.split()]
    return min(numbers[:3]) / 1e9, np.array(numbers[3:], np.int32)
