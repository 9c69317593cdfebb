"""Scenarios in virtual time: the library unchanged, through the same runner; on any system, the same bytes every time."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import MachineError
from core.kube import PODS
from scenarios.bench import sim_load
from scenarios.load import LoadedScenario, load_scenario, parse_scenario
from scenarios.progress import Progress
from scenarios.runner import Outcome, run
from scenarios.sim_world import SimWorld
from sim.des.latencies import Latencies
from tests.tables_of_slots import Tables

ROOT = Path(__file__).parents[2]
LIBRARY = ["poc2-stateless", "poc2-update", "poc2-dualstack", "poc2-scale"]


class NoEvents:
    def event(self, t_s: float, event: str, **more: object) -> None:
        pass


def outcome_of(loaded: LoadedScenario, world: SimWorld | None = None) -> Outcome:
    world = world or SimWorld()
    return run(loaded, world, NoEvents(), Progress(world.now_s, io.StringIO(), quiet=True))


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_holds_what_it_expects(name: str) -> None:
    outcome = outcome_of(load_scenario(name))
    assert outcome.ok, [verdict for verdict in outcome.verdicts if not verdict.ok] or outcome.error
    assert outcome.metrics["placement_mismatches"] == outcome.metrics["connections_failed"] == 0


def test_broken_is_what_must_break() -> None:
    outcome = outcome_of(load_scenario("poc2-scale"))
    (long,) = (one for one in outcome.traffic if one.traffic.name == "long")
    assert (long.connections.lost == long.must_break()).all()
    assert not long.may_break().any()
    assert not long.break_mismatches().any()
    # From 4 to 8 targets half of the connections must move; to 3 most of the rest.
    assert 200 < long.must_break().sum() < 350


def test_no_order_in_which_targets_come_and_go_moves_a_connection_of_poc2_scale_and_back() -> None:
    """So that what must break does not depend on which tables a gateway had for a moment."""
    loaded = load_scenario("poc2-scale")
    tables = Tables(loaded, loaded.scenario.traffic[0])
    for before, after, changing in ((range(4), range(8), range(4, 8)), (range(8), range(3), range(3, 8))):
        kept = [slot for slot in before if slot not in changing]
        for some in itertools.chain.from_iterable(
            itertools.combinations(changing, n) for n in range(len(changing) + 1)
        ):
            assert not tables.there_and_back(before, [*kept, *some], after).any(), (before, some, after)


def test_phases_take_virtual_time_in_their_order() -> None:
    metrics = outcome_of(load_scenario("poc2-stateless")).metrics
    assert metrics["cluster_s"] == Latencies().api_server_start_s
    assert 1 < metrics["gateways_s"] < 10
    assert 0 < metrics["routing_s"] < 1
    assert 0 < metrics["traffic_s"] < 0.1


@pytest.mark.parametrize("setting", ["traffic.0.at_s=0.1", "traffic.0.at_s=1.1"])
def test_a_time_that_no_float_has_comes_all_the_same(setting: str) -> None:
    outcome = outcome_of(load_scenario("poc2-stateless", settings=(setting,)))
    assert outcome.ok


def test_a_gateway_that_loses_its_last_route_and_gets_it_back_converges(tmp_path: Path) -> None:
    text = load_scenario("poc2-stateless").text + (
        "timeline:\n"
        "- {name: away, action: delete, kind: L34Route, object: tcp-4000, after: clients}\n"
        "- {name: back, action: apply, manifests: [poc2/gateway.yaml], after: away}\n"
    )
    (tmp_path / "scenario.yaml").write_text(text)
    outcome = outcome_of(load_scenario(str(tmp_path / "scenario.yaml")))
    assert outcome.ok, outcome.error


def test_slots_follow_the_order_of_pods() -> None:
    outcome = outcome_of(load_scenario("poc2-scale"))
    assert outcome.after is not None
    (stored,) = (obj for obj in outcome.after.objects if obj["kind"] == "EndpointSlice")
    pods = sorted(obj["metadata"]["name"] for obj in outcome.after.objects if obj["kind"] == "Pod")
    names = [endpoint["targetRef"]["name"] for endpoint in stored["endpoints"]]
    assert names == [name for name in pods if "target" in name]
    addresses = [endpoint["addresses"][0] for endpoint in stored["endpoints"]]
    assert addresses == ["169.222.100.1", "169.222.100.2", "169.222.100.3"]


def test_a_gateway_pod_that_is_deleted_is_replaced() -> None:
    world = SimWorld()
    loaded = load_scenario("poc2-stateless")
    outcome_of(loaded, world)
    before = set(world.world.gateways)
    pod = next(iter(world.world.gateways.values())).pod
    world.world.delete(PODS, "default", pod)
    world.world.settle(limit_s=30)
    assert len(world.world.gateways.keys() - before) == 1
    rib = world.world.rib("vpn-b")
    (vip,) = rib.prefixes()
    assert len(rib.over(vip)) == len(rib.established) == len(rib.bfd_up) == 2


def test_a_network_that_does_not_exist_is_what_the_run_waits_for(tmp_path: Path) -> None:
    text = (ROOT / "scenarios" / "library" / "poc2-stateless.yaml").read_text()
    applications = (ROOT / "examples" / "poc2" / "applications.yaml").read_text().replace("macvlan-nad-2", "nowhere")
    (tmp_path / "applications.yaml").write_text(applications)
    path = tmp_path / "scenario.yaml"
    path.write_text(text.replace("poc2/applications.yaml", "applications.yaml") + "setup_deadline_s: 5\n")
    outcome = outcome_of(load_scenario(str(path)))
    assert "not programmed within 5 s" in outcome.error
    assert "0 of 4 pods" in outcome.error


def test_a_real_api_server_is_not_for_this_world() -> None:
    with pytest.raises(MachineError):
        outcome_of(load_scenario("poc2-stateless", settings=["api=real"]))


def test_a_router_that_refuses_the_gateways_leaves_them_unready() -> None:
    outcome = outcome_of(
        load_scenario("poc2-stateless", settings=["topology.routers.vpn-b.gateway_asn=65001", "setup_deadline_s=10"])
    )
    assert "0 of 2 pods of" in outcome.error


def test_the_load_of_the_benchmark_breaks_what_its_tables_say() -> None:
    load = sim_load.run(3000, targets=20, changes=5)
    assert load["broken"] == load["must_break"] > 0


# --- as a process -----------------------------------------------------------------------------------------------------------

ANYWHERE = """
import os, sys
import ctypes, numpy, platform  # what they themselves look for on this system is no concern of ours
REFUSED = {"mininet", "pyroute2", "kubernetes", "exabgp", "scapy", "aiohttp",
           "fcntl", "termios", "resource", "pty", "tty", "grp", "pwd", "syslog", "curses"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED or name.startswith(("sim.net", "live.")):
            raise ModuleNotFoundError(f"{name} is not there on this system", name=name)

def refuse(*_):
    raise OSError("not on this system")

for name in [name for name in sys.modules if name.split(".")[0] in REFUSED]:
    del sys.modules[name]
sys.meta_path.insert(0, Refuse())
ctypes.CDLL = refuse
for name in ("fork", "geteuid", "getuid", "eventfd", "pidfd_open", "sched_getaffinity", "uname", "setns", "mkfifo"):
    if hasattr(os, name):
        delattr(os, name)
from scenarios.cli import main
sys.exit(main(["run", "poc2-stateless", "--on", "sim", "--out", sys.argv[1], "-o", "json", "--no-figures"]))
"""


def test_no_linux_is_needed(tmp_path: Path) -> None:
    environment = {**os.environ, "TIDEGATE_TRACEBACK": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", ANYWHERE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]


def files_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            yield str(path.relative_to(folder)), path.read_bytes()


def folder_of(cwd: Path, name: str, *arguments: str, **environment: str) -> dict[str, bytes]:
    """The files of a run in a process of its own, but for the one with its provenance."""
    cwd.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "scenarios.cli", "run", name, "--on", "sim", "-o", "json", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return dict(files_of(cwd / result["out"]))


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    settings = ["--set", "traffic.long.source_ports=random", "--seed", "7", "--figures"]
    first = folder_of(tmp_path / "here", "poc2-scale", *settings, PYTHONHASHSEED="1", LC_ALL="C", TZ="UTC")
    assert {"summary.json", "samples.csv", "connections.csv", "events.jsonl", "topology.png"} <= first.keys()
    other = folder_of(
        tmp_path / "elsewhere", "poc2-scale", *settings, PYTHONHASHSEED="2", LC_ALL="C.UTF-8", TZ="Asia/Tokyo"
    )
    assert [name for name in first if first[name] != other.get(name)] == []
    assert first.keys() == other.keys()


def test_another_seed_gives_another_run() -> None:
    text = (ROOT / "scenarios" / "library" / "poc2-stateless.yaml").read_text()
    path = ROOT / "scenarios" / "library" / "poc2-stateless.yaml"
    loaded = load_scenario("poc2-stateless")
    outcomes = []
    for seed in (1, 2):
        settings = ["traffic.clients.source_ports=random", f"seed={seed}"]
        scenario = parse_scenario(text, path, settings)
        outcomes.append(outcome_of(LoadedScenario(scenario=scenario, path=loaded.path, text=text)))
    one, other = (outcome.traffic[0].connections for outcome in outcomes)
    assert (one.tuples.source_port != other.tuples.source_port).any()
    assert (one.answered_by != other.answered_by).any()
