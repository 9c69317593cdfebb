"""The same scenario in the virtual network and in virtual time: each connection at the same target, and lost in both or in none."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from scenarios.load import load_scenario
from sim.net import capabilities
from tests.conftest import require
from tests.netns.test_run import run
from tests.tables_of_slots import Tables

COUNTED = (
    "connections_total",
    "connections_failed",
    "connections_broken",
    "connections_must_break",
    "break_mismatches",
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


def counts_of(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """What routers outside have, at the beginning and at the end."""
    with (Path(result["out"]) / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["entity"], row["metric"], row["value"]) for row in csv.DictReader(file)]
    return [row for row in rows if row[1] in ("bgp_sessions_established", "routes_learned")]


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
    assert counts_of(modelled)  # not none in both
    assert counts_of(modelled) == counts_of(measured)
    facts = json.loads((Path(modelled["out"]) / "manifest.json").read_text(encoding="utf-8"))["facts"]
    assert facts["api"] == "modelled"


THERE_AND_BACK = """
timeline:
- {name: five, action: scale, deployment: example-target-application-b, replicas: 5, after: clients, delay_s: 1.5}
- {name: eight, action: scale, deployment: example-target-application-b, replicas: 8, after: five, delay_s: 1.5}
"""


@pytest.mark.slow
def test_a_connection_that_is_led_elsewhere_and_back_again_must_break(tmp_path: Path) -> None:
    """4 targets, then 5, then 8. The table of 5 leads the connection elsewhere, that of 8 back to its target: by the tables of the
    beginning and of the end alone nobody would expect that it is lost."""
    every_port = load_scenario("poc2-stateless", settings=["traffic.clients.connections=20000"])
    tables = Tables(every_port, every_port.scenario.traffic[0])
    port = int(tables.tuples.source_port[tables.there_and_back(range(4), range(5), range(8))][0])
    text = every_port.text.replace(
        "  connections: 400\n", f"  connections: 1\n  first_source_port: {port}\n  mode: long\n"
    )
    text = (
        text[: text.index("expectations:")]
        + THERE_AND_BACK
        + "expectations:\n- connections_broken == connections_must_break\n"
    )
    path = tmp_path / "there-and-back.yaml"
    path.write_text(text)
    for world in ("mininet", "sim"):
        result = run(tmp_path, str(path), "--on", world, "--no-figures")
        metrics = result["metrics"]
        assert metrics["connections_broken"] == metrics["connections_must_break"] == 1, world
        assert metrics["break_mismatches"] == metrics["connections_may_break"] == 0, world
        with (Path(result["out"]) / "connections.csv").open(encoding="utf-8", newline="") as file:
            (row,) = csv.DictReader(file)
        assert (row["source_port"], row["by_the_tables"]) == (str(port), "must break")
