"""bench testbed: poc2-stateless in the virtual network, from the command to its result, with 4 targets and with 200.

Each run is the command itself, as a process of its own: start of the interpreter, the whole cluster, traffic, figures, teardown.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from core import names
from core.errors import TidegateError
from scenarios.bench import Report, Row, Target, spread
from scenarios.load import EXAMPLES, find_scenario

SCENARIO: Final = "poc2-stateless"
BOUNDS_S: Final = {4: 10.0, 200: 40.0}
"""From command to result, by targets."""
DEADLINE_S: Final = 300.0
PHASES: Final = ("cluster_s", "gateways_s", "routing_s", "traffic_s")


def run(quick: bool) -> Report:
    """Several runs with few targets, fewer with many; quick: one with few."""
    repeats = {4: 1} if quick else {4: 5, 200: 3}
    rows: list[Row] = []
    targets = []
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        for count, times in repeats.items():
            scenario = _scenario(Path(folder), count)
            runs = [_run(scenario, Path(folder)) for _ in range(times)]
            rows.append(_row(count, runs))
            name = f"seconds from command to result, {count} targets"
            median_s = float(np.median([took_s for took_s, _ in runs]))
            targets.append(Target(name=name, op="<", bound=BOUNDS_S[count], value=round(median_s, 2)))
    return Report(
        bench="testbed",
        rows=rows,
        targets=targets,
        notes=[
            "command_s: wall time of the process; the phases are medians of what the run itself says.",
            "gateways_s: from the manifests to the last data plane that has what the plan says: Pods start in it.",
            "other_s: what is before and behind them: interpreters, results, figures, teardown.",
            "With 200 targets: the same manifests, but for the replicas and the Service's limit of endpoints.",
        ],
    )


def _row(count: int, runs: Sequence[tuple[float, Mapping[str, Any]]]) -> Row:
    phases = {phase: float(np.median([metrics[phase] for _, metrics in runs])) for phase in PHASES}
    other_s = float(np.median([took_s - sum(metrics[phase] for phase in PHASES) for took_s, metrics in runs]))
    return (
        {"targets": count, "runs": len(runs)}
        | spread([took_s for took_s, _ in runs], "command_s", 1.0)
        | {phase: round(value_s, 2) for phase, value_s in phases.items()}
        | {"other_s": round(other_s, 2)}
    )


def _run(scenario: Path, folder: Path) -> tuple[float, Mapping[str, Any]]:
    """(seconds, metrics) of one run. Raises TidegateError when it was no success."""
    command = [
        sys.executable,
        "-m",
        "scenarios.cli",
        "run",
        str(scenario),
        "-o",
        "json",
        "--out",
        str(folder / "results"),
    ]
    begin_s = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    took_s = time.monotonic() - begin_s
    if done.returncode:
        said = "; ".join(done.stderr.strip().splitlines()[-3:])
        raise TidegateError(f"{scenario.stem} ended with exit code {done.returncode}: {said}")
    metrics: Mapping[str, Any] = json.loads(done.stdout)["metrics"]
    return took_s, metrics


def _scenario(folder: Path, targets: int) -> Path:
    """The scenario's file; for another number of targets a copy with manifests of its own."""
    original = find_scenario(SCENARIO)
    scenario = yaml.safe_load(original.read_text(encoding="utf-8"))
    if f"targets_hit == {targets}" in scenario["expectations"]:
        return original
    copy = folder / f"{SCENARIO}-{targets}"
    copy.mkdir()
    for name in scenario["manifests"]:
        documents = [
            _with_targets(d, targets) for d in yaml.safe_load_all((EXAMPLES / name).read_text(encoding="utf-8"))
        ]
        (copy / Path(name).name).write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    scenario["manifests"] = [Path(name).name for name in scenario["manifests"]]
    # How many of so many targets so few connections hit is chance, and their imbalance, too.
    scenario["expectations"] = ["connections_failed == 0", "placement_mismatches == 0"]
    scenario["name"] = copy.name
    path = copy / f"{copy.name}.yaml"
    path.write_text(yaml.safe_dump(scenario), encoding="utf-8")
    return path


def _with_targets(document: dict[str, Any], targets: int) -> dict[str, Any]:
    if document["kind"] == "Deployment":
        document["spec"]["replicas"] = targets
    if document["kind"] == "Service":
        document["metadata"].setdefault("annotations", {})[names.MAX_ENDPOINTS] = str(targets)
    return document
