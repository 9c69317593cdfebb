"""The figures of a run, and the data behind them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from core.names import NETWORK_STATUS
from scenarios.figures import draw_all
from scenarios.load import load_scenario
from scenarios.progress import Progress
from scenarios.report import print_outcome
from scenarios.runner import Outcome, run
from scenarios.topology_view import TopologyView, view
from tests.unit.fake_world import FakeWorld

PNG = b"\x89PNG\r\n\x1a\n"


class NoEvents:
    """Forgets."""

    def event(self, t_s: float, event: str, **more: object) -> None:
        pass


def outcome_of(name: str, *settings: str) -> Outcome:
    world = FakeWorld()
    return run(load_scenario(name, settings=settings), world, NoEvents(), Progress(world.now_s, io.StringIO()))


def view_of(outcome: Outcome) -> TopologyView:
    assert outcome.after is not None
    return view(outcome.scenario, outcome.after.objects)


def test_the_topology_has_everyone_with_addresses() -> None:
    seen = view_of(outcome_of("poc2-dualstack"))
    assert seen.vips == ("20.0.0.1/32", "2000::1/128")
    (router,) = seen.of_role("router")
    assert router.networks == {"vlan-200": ("169.254.100.150", "100:100::150")}
    assert len(seen.of_role("gateway")) == 2
    assert seen.of_role("target")[0].networks["macvlan-nad-2"] == ("169.222.100.1", "fd00:222::1")
    assert seen.networks_of("router", "gateway") == ("vlan-200",)
    assert seen.networks_of("gateway", "target") == ("macvlan-nad-2",)


def test_the_clusters_own_network_is_left_out() -> None:
    outcome = outcome_of("poc2-stateless")
    assert outcome.after is not None
    objects = []
    for obj in outcome.after.objects:
        if obj["kind"] == "Pod":
            annotations = obj["metadata"]["annotations"]
            primary = {"name": "cluster", "interface": "eth0", "ips": ["10.244.1.2"], "default": True}
            status = json.dumps([primary, *json.loads(annotations[NETWORK_STATUS])])
            obj = obj | {"metadata": obj["metadata"] | {"annotations": annotations | {NETWORK_STATUS: status}}}
        objects.append(obj)
    seen = view(outcome.scenario, objects)
    assert seen.networks_of("gateway", "target") == ("macvlan-nad-2",)
    assert seen == view_of(outcome)


@pytest.mark.parametrize("name", ["poc2-stateless", "poc2-dualstack"])
def test_figures_are_drawn_and_the_same_each_time(tmp_path: Path, name: str) -> None:
    outcome = outcome_of(name)
    drawn = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        files = draw_all(folder, view_of(outcome), outcome.traffic)
        assert [file.name for file in files] == ["topology.png", "connections-per-target.png"]
        drawn.append([file.read_bytes() for file in files])
    assert drawn[0] == drawn[1]
    assert all(data.startswith(PNG) and len(data) > 10_000 for data in drawn[0])


def test_traffic_that_no_target_gets_is_drawn(tmp_path: Path) -> None:
    (measured,) = outcome_of("poc2-stateless", "traffic.clients.to=20.0.0.9:1").traffic
    assert not measured.predicted_counts()
    assert not measured.measured_counts()
    (file,) = draw_all(tmp_path, None, [measured])
    assert file.read_bytes().startswith(PNG)


def test_nothing_to_draw_is_no_error(tmp_path: Path) -> None:
    assert draw_all(tmp_path, None, ()) == ()


def test_the_tables_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    print_outcome(outcome_of("poc2-stateless"), "results/x")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["target", "predicted", "measured"]
    assert [line.split()[1:] for line in lines[2:6]] == [["91", "91"], ["109", "109"], ["110", "110"], ["90", "90"]]
    assert [line.split()[-1] for line in lines[9:14]] == ["ok"] * 5
    assert lines[-1] == "poc2-stateless: good; results in results/x"
