"""`tidegate run` and `tidegate up`, from end to end: real agents, BIRD, kernel and TCP; every connection where it was predicted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.net import capabilities
from tests.conftest import require

ROOT = Path(__file__).parents[2]
SEED = ROOT.parent / "shared" / "seed" / "examples"
NOBODY = 65534
DEADLINE_S = 90


@pytest.fixture(autouse=True)
def _able() -> None:
    for name in ("namespaces", "mnexec", "nft", "bird", "veth", "bridge"):
        found = capabilities.probe(name)
        require("netns", found.available, f"{found.detail}; {found.remedy}")


def require_plane(dataplane: str) -> None:
    if dataplane == "tc":
        for name in ("bpf", "libbpf", "bpf-object", "clsact"):
            found = capabilities.probe(name)
            require("bpf", found.available, f"{found.detail}; {found.remedy}")


def tidegate(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scenarios.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, cwd=ROOT, check=False, **options)


def run(out: Path, *arguments: str, **options: Any) -> dict[str, Any]:
    done = tidegate("run", *arguments, "--out", str(out), "-o", "json", **options)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert list(result) == ["scenario", "world", "seed", "ok", "expectations", "metrics", "out"]
    assert result["ok"]
    return result


@pytest.mark.slow
@pytest.mark.parametrize("dataplane", ["tc", "nft"])
@pytest.mark.parametrize("scenario", ["poc2-stateless", "poc2-update", "poc2-dualstack"])
def test_the_library_runs_on_both_data_planes(tmp_path: Path, scenario: str, dataplane: str) -> None:
    require_plane(dataplane)
    result = run(tmp_path, scenario, "--set", f"dataplane={dataplane}")
    metrics = result["metrics"]
    assert metrics["connections_failed"] == metrics["connections_broken"] == metrics["placement_mismatches"] == 0
    assert metrics["targets_hit"] == 4
    folder = Path(result["out"])
    assert {
        "manifest.json",
        "summary.json",
        "samples.csv",
        "events.jsonl",
        "topology.png",
        "connections-per-target.png",
    } <= {path.name for path in folder.iterdir()}
    facts = json.loads((folder / "manifest.json").read_text())["facts"]
    assert facts["dataplane"].lower().startswith(dataplane)


@pytest.mark.slow
def test_an_ordinary_user_needs_no_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    options = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    result = run(tmp_path, "poc2-stateless", **options)
    assert result["metrics"]["connections_total"] == 400
    manifest = json.loads((Path(result["out"]) / "manifest.json").read_text())
    assert manifest["facts"]["dataplane"].lower().startswith("nft")


@pytest.mark.slow
def test_the_manifests_of_the_seed_run_unchanged(tmp_path: Path) -> None:
    require("shared", SEED.is_dir(), "the seed's example manifests beside the checkout")
    text = (ROOT / "scenarios" / "library" / "poc2-update.yaml").read_text()
    text = text.replace("- poc2/gateway.yaml", f"- {SEED}/stateless-load-balancer-gateway-api.yaml")
    text = text.replace("poc2/update.yaml", f"{SEED}/stateless-load-balancer-gateway-api-update.yaml")
    (tmp_path / "seed.yaml").write_text(text)
    result = run(tmp_path, str(tmp_path / "seed.yaml"), "--no-figures")
    assert result["metrics"]["connections_total"] == 450


def processes() -> set[str]:
    """The command lines of all processes of this machine that are ours to leave behind."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith((b"pid1.py", b"scenarios.cli")) or b"sim.cluster" in word for word in words):
            found.add(path.parent.name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["cluster up", "gateways programmed"])
def test_nothing_is_left_after_kill_9(tmp_path: Path, phase: str) -> None:
    before = processes()
    command = [sys.executable, "-m", "scenarios.cli", "run", "poc2-stateless", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stderr is not None
    with process.stderr:
        assert any(phase in line for line in process.stderr)
        process.send_signal(signal.SIGKILL)
        process.wait()
        # stderr is at its end when the last process that holds it has gone
        process.stderr.read()
    until_s = time.monotonic() + 10
    while processes() - before and time.monotonic() < until_s:
        time.sleep(0.02)
    assert processes() - before == set()


@pytest.fixture
def testbed(tmp_path: Path) -> Iterator[dict[str, str]]:
    environment = os.environ | {"TIDEGATE_TESTBED": str(tmp_path)}
    done = tidegate("up", "poc2-stateless", "--out", str(tmp_path), env=environment)
    assert done.returncode == 0, done.stderr
    yield environment
    assert tidegate("down", env=environment).returncode == 0


@pytest.mark.slow
def test_an_interactive_testbed(testbed: dict[str, str]) -> None:
    again = tidegate("up", "poc2-stateless", env=testbed)
    assert (again.returncode, "a testbed is up already" in again.stderr) == (2, True)
    status = json.loads(tidegate("status", "-o", "json", env=testbed).stdout)
    assert status["missing"] == ""
    assert [route["prefix"] for route in status["routes"]] == ["20.0.0.1/32"]
    assert len(status["routes"][0]["over"]) == 2
    routes = tidegate("exec", "vpn-b", "--", "ip", "route", "show", "20.0.0.1", env=testbed)
    assert routes.stdout.count("nexthop via 169.254.100.") == 2
    assert tidegate("exec", "vpn", "--", "cat", env=testbed, input="hello").stdout == "hello"
    assert tidegate("exec", "vpn-b", "--", "sh", "-c", "exit 7", env=testbed).returncode == 7
    assert "no host is called 'nowhere'" in tidegate("exec", "nowhere", "--", "true", env=testbed).stderr


def test_without_a_testbed_its_commands_say_so(tmp_path: Path) -> None:
    for command in (["status"], ["down"], ["exec", "vpn-b", "--", "true"]):
        done = tidegate(*command, env=os.environ | {"TIDEGATE_TESTBED": str(tmp_path)})
        assert (done.returncode, done.stderr) == (2, "testbed: no testbed is up, expected tidegate up SCENARIO first\n")
