"""The benchmarks run and report; what they measure here is nobody's promise, so targets may be missed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from live.dataplane import tc
from tests.conftest import require

DEADLINE_S = 110


def bench(name: str, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "scenarios.cli", "bench", name, "--quick", "-o", "json", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode in (0, 1), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == all(target["ok"] for target in report["targets"])
    assert report["bench"] == name
    return report


@pytest.fixture
def planes() -> None:
    require("netns", os.geteuid() == 0, "only root makes network namespaces that hold every data plane")
    reason = tc.why_not_bpf()
    require("bpf", reason is None, str(reason))


@pytest.mark.usefixtures("planes")
def test_data_planes_are_compared(tmp_path: Path) -> None:
    report = bench("dataplane", "--write", str(tmp_path))
    ways = {row["way"]: row for row in report["rows"] if row["of"] == "frame"}
    assert {"drop", "kernel", "tc", "nft"} <= ways.keys()
    assert all(row["min_ns"] > 0 for row in report["rows"])
    # What is forwarded costs more than what is dropped on the way.
    assert ways["drop"]["min_ns"] < ways["tc"]["min_ns"]
    assert ways["drop"]["min_ns"] < ways["nft"]["min_ns"]
    assert "| kernel | frame |" in (tmp_path / "dataplane.md").read_text()


@pytest.mark.usefixtures("planes")
def test_tables_change_under_traffic_without_a_loss() -> None:
    report = bench("tables")
    pushed = {row["what"]: row for row in report["rows"] if row["what"].startswith("pushed")}
    assert pushed.keys() == {"pushed by tc", "pushed by nft"}
    for row in pushed.values():
        assert row["packets"] > 0
        assert (row["lost"], row["misrouted"]) == (0, 0)


@pytest.mark.usefixtures("planes")
def test_packets_follow_a_change_of_the_api() -> None:
    report = bench("converge")
    assert {row["dataplane"] for row in report["rows"]} == {"tc", "nft"}
    assert all(row["slice_p50_ms"] > 0 and 0 < row["p50_ms"] <= row["max_ms"] for row in report["rows"])


@pytest.mark.usefixtures("planes")
@pytest.mark.slow
def test_the_testbed_is_timed_by_phase() -> None:
    (row,) = bench("testbed")["rows"]
    assert row["targets"] == 4
    assert 0 < row["gateways_s"] < row["median_command_s"]
