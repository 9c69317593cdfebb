"""bench sim: open connections in virtual time over 1,000 targets that change 100 times; a process for each number of connections."""

from __future__ import annotations

import json
import subprocess
import sys

from scenarios.bench import Report, Row, Target

CONNECTIONS = (10_000, 100_000, 1_000_000, 10_000_000)
QUICK = (10_000, 100_000, 1_000_000)
JUDGED = 1_000_000
TIME_BOUND_S = 10.0
MEMORY_BOUND_MB = 1000.0
LINEAR_BOUND = 12.0
"""Ten times the connections may add at most so many times the time."""
DEADLINE_S = 600


def run(quick: bool) -> Report:
    """Every load in a process of its own, so that its memory is its own."""
    rows: list[Row] = []
    cpu_s, traffic_s, memory_mb = {}, {}, {}
    for connections in QUICK if quick else CONNECTIONS:
        load = _measure(connections)
        if load["broken"] != load["must_break"]:
            raise AssertionError(f"{load['broken']} connections broke, and the tables say {load['must_break']}")
        rows.append(load)
        cpu_s[connections] = float(load["cpu_s"])
        traffic_s[connections] = float(load["traffic_s"])
        memory_mb[connections] = float(load["peak_mb"])
    least, *_, before, most = sorted(traffic_s)
    # Tables are made whatever the number of connections: what the fewest cost is no part of what more of them add.
    growth = round((traffic_s[most] - traffic_s[least]) / (traffic_s[before] - traffic_s[least]), 2)
    return Report(
        bench="sim",
        rows=rows,
        targets=[
            Target(name=f"cpu_s at {JUDGED}", op="<", bound=TIME_BOUND_S, value=cpu_s[JUDGED]),
            Target(name=f"peak_mb at {JUDGED}", op="<", bound=MEMORY_BOUND_MB, value=memory_mb[JUDGED]),
            Target(name=f"growth from {before} to {most}", op="<", bound=LINEAR_BOUND, value=growth),
        ],
        notes=[
            "cpu_s: everything from the start of the cluster on one core; traffic_s: what of it the connections cost.",
            "Every change of the target set goes through Pods, plan, slices, agents and tables.",
            "broken: what the traffic lost; must_break: what the tables of all changes say; they are compared.",
        ],
    )


def _measure(connections: int) -> dict[str, int | float]:
    done = subprocess.run(
        [sys.executable, "-m", "scenarios.bench.sim_load", str(connections)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    if done.returncode != 0:
        raise AssertionError(f"the load of {connections} connections failed: {done.stderr.strip()[-500:]}")
    load: dict[str, int | float] = json.loads(done.stdout)
    return load
