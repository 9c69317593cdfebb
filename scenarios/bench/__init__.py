"""Benchmarks: what is promised of speed and memory, measured where it runs. Each module has ``run(quick) -> Report``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scenarios.spec import OPERATORS

Row = Mapping[str, object]
"""One line of a report; all rows of a report have the same columns."""


class Bench(NamedTuple):
    """One benchmark: the module that runs it, and what it shows."""

    module: str
    summary: str
    needs: tuple[str, ...] = ()
    """Capabilities of the machine without which it does not run; with any it runs in throw-away namespaces."""


BENCHES = {
    "tables": Bench(
        "scenarios.bench.tables",
        "how long a Maglev table takes, beside a C program; what one slot moves; changes in the kernel under traffic",
        needs=("namespaces", "ip", "nft", "veth", "bpf", "clang"),
    ),
    "sim": Bench("scenarios.bench.sim", "open connections in virtual time while 1,000 targets change 100 times"),
    "plan": Bench("scenarios.bench.plan", "plan() over many gateways, and the cost of one endpoint that changes"),
    "converge": Bench(
        "scenarios.bench.converge",
        "from the API event of one endpoint to the first packet that follows it",
        needs=("namespaces", "ip", "nft", "veth", "bpf"),
    ),
    "testbed": Bench("scenarios.bench.testbed", "poc2-stateless from command to result, and where the time goes"),
    "dataplane": Bench(
        "scenarios.bench.dataplane",
        "CPU time of packets and connections by tc, nft and kernel forwarding; many routes, many prefixes",
        needs=("namespaces", "ip", "nft", "veth", "bpf"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What was promised of one number, and what was measured."""

    name: str
    op: str
    bound: float
    value: float

    @property
    def ok(self) -> bool:
        return OPERATORS[self.op](self.value, self.bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a benchmark gave."""

    bench: str
    rows: Sequence[Row]
    targets: Sequence[Target]
    notes: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        return all(target.ok for target in self.targets)


def spread(samples_s: Sequence[float], name: str, scale: float) -> dict[str, float]:
    """Least, median and greatest of some durations, each times `scale`: columns ``min_NAME``, ``median_NAME`` and ``max_NAME``."""
    values = np.array(samples_s) * scale
    return {
        f"min_{name}": round(float(values.min()), 3),
        f"median_{name}": round(float(np.median(values)), 3),
        f"max_{name}": round(float(values.max()), 3),
    }
