"""The same scenario in the virtual network and in virtual time: each connection at the same target, and lost in both or in none."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from sim.net import capabilities
from tests.conftest import require
from tests.netns.test_run import run

COUNTED = (
    "connections_total",
    "connections_failed",
    "connections_broken",
    "connections_must_break",
    "placement_mismatches",
    "targets_hit",
    "imbalance_max_over_mean",
)


@pytest.fixture(autouse=True)
def _able() -> None:
    for name in ("namespaces", "mnexec", "nft", "bird", "veth", "bridge"):
        found = capabilities.probe(name)
        require("netns", found.available, f"{found.detail}; {found.remedy}")


def connections_of(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Every connection: what it is, where it was predicted, who answered, whether it was lost."""
    what = (
        "traffic",
        "protocol",
        "source",
        "source_port",
        "destination",
        "destination_port",
        "predicted",
        "answered_by",
    )
    with (Path(result["out"]) / "connections.csv").open(encoding="utf-8", newline="") as file:
        return [(*(row[name] for name in what), "lost" if row["lost_s"] else "") for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["poc2-stateless", "poc2-update", "poc2-dualstack", "poc2-scale"])
def test_every_connection_has_the_same_fate_in_both_worlds(tmp_path: Path, scenario: str) -> None:
    measured = run(tmp_path, scenario, "--on", "mininet", "--no-figures")
    modelled = run(tmp_path, scenario, "--on", "sim", "--no-figures")
    assert connections_of(modelled) == connections_of(measured)
    for name in modelled["metrics"]:
        if name.partition("[")[0] in COUNTED:
            assert modelled["metrics"][name] == measured["metrics"][name], name
    assert modelled["metrics"].keys() == measured["metrics"].keys()
    facts = json.loads((Path(modelled["out"]) / "manifest.json").read_text(encoding="utf-8"))["facts"]
    assert facts["api"] == "modelled"
