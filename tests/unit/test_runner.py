"""Running a scenario: phases, timeline, predictions before traffic, metrics, expectations, results. The world is a fake."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.errors import InputError
from core.manifests import parse, render
from scenarios.assumed import with_assumed_pods
from scenarios.load import LoadedScenario, load_scenario
from scenarios.manifests import desired, read_manifests
from scenarios.measure import MeasuredTraffic, all_metrics
from scenarios.predict import plan_of
from scenarios.progress import Progress
from scenarios.results import RunFolder
from scenarios.runner import Outcome, run, summary
from scenarios.spec import Traffic, TrafficProtocol
from scenarios.world import ConnectionRecord
from tests.unit.fake_world import BrokenWorld, FakeWorld, Rule


class NoEvents:
    """Forgets."""

    def event(self, t_s: float, event: str, **more: object) -> None:
        pass


def outcome_of(name: str, world: FakeWorld, *settings: str, seed: int | None = None) -> Outcome:
    loaded = load_scenario(name, settings=settings, seed=seed)
    return run(loaded, world, NoEvents(), Progress(world.now_s, io.StringIO()))


@pytest.mark.parametrize("name", ["poc2-stateless", "poc2-update", "poc2-dualstack"])
def test_a_world_that_does_as_predicted_meets_every_expectation(name: str) -> None:
    outcome = outcome_of(name, FakeWorld())
    assert [(v.expectation.name, v.value) for v in outcome.verdicts if not v.ok] == []
    assert outcome.ok
    assert outcome.metrics["placement_mismatches"] == 0


def test_phases_come_in_order_and_the_world_is_stopped() -> None:
    world = FakeWorld()
    stream = io.StringIO()
    run(load_scenario("poc2-stateless"), world, NoEvents(), Progress(world.now_s, stream))
    assert world.log == [
        "start poc2-stateless", "apply 7 at 1", "converge programmed", "converge routed", "drive clients at 1.5",
        "finish clients", "stop",
    ]  # fmt: skip
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("  ✓ cluster up: 2 nodes, 1 router outside")
    assert "gateways programmed" in lines[1]
    assert "BGP and BFD up" in lines[2]
    assert lines[3].startswith("  ✓ traffic: 400 connections")
    assert lines[1].endswith("0.25 s")


def test_steps_follow_the_timeline() -> None:
    world = FakeWorld()
    outcome = outcome_of("poc2-update", world)
    # 50 long connections are established in 0.05 s, then the update, then it is converged, then 400 short ones.
    assert world.log[4:] == [
        "drive before at 1.5", "apply 1 at 1.55", "converge routed", "drive new-address at 1.8", "finish before",
        "finish new-address", "stop",
    ]  # fmt: skip
    assert outcome.metrics["connections_total[before]"] == 50
    assert outcome.metrics["targets_hit[new-address]"] == 4
    assert outcome.metrics["traffic_s"] == 0.7


def answered_by_other(traffic: Traffic, i: int, pod: str) -> ConnectionRecord | None:
    """The first three connections reach somebody else, the fourth two targets, the next two nobody; the seventh is lost."""
    start_s = 1.5
    del traffic
    if i < 3:
        return ConnectionRecord(started_s=start_s, established_s=start_s + 0.1, answered_by=(pod + "x",))
    if i == 3:
        return ConnectionRecord(started_s=start_s, established_s=start_s + 0.1, answered_by=(pod, pod + "x"))
    if i < 6:
        return ConnectionRecord(started_s=start_s, error="Connection refused")
    if i == 6:
        return ConnectionRecord(started_s=start_s, established_s=start_s, lost_s=2.0, answered_by=(pod,), error="reset")
    return None


def test_what_goes_wrong_is_counted_and_fails_the_run() -> None:
    outcome = outcome_of("poc2-stateless", FakeWorld(answered_by_other))
    assert outcome.metrics["placement_mismatches"] == 4
    assert outcome.metrics["connections_failed"] == 2
    assert outcome.metrics["connections_broken"] == 1
    assert outcome.metrics["connections_must_break"] == 0
    assert not outcome.ok
    assert {v.expectation.name for v in outcome.verdicts if not v.ok} >= {"placement_mismatches", "connections_failed"}


def scaled(tmp_path: Path, mode: str) -> LoadedScenario:
    text = load_scenario("poc2-stateless").text
    text = text.replace("  connections: 400\n", f"  connections: 400\n  mode: {mode}\n")
    text += "timeline:\n- {name: more, action: scale, deployment: example-target-application-b, replicas: 5, after: clients}\n"
    (tmp_path / "scaled.yaml").write_text(text)
    return load_scenario(str(tmp_path / "scaled.yaml"))


def test_connections_whose_target_changes_must_break_and_no_other(tmp_path: Path) -> None:
    world = FakeWorld()
    outcome = run(scaled(tmp_path, "long"), world, NoEvents(), Progress(world.now_s, io.StringIO()))
    (measured,) = outcome.traffic
    before, after = measured.predictions
    moved = np.array([before.names[a] != after.names[b] for a, b in zip(before.pod, after.pod, strict=True)])
    # A fifth of the connections goes to the new target, and hardly any elsewhere.
    assert 50 <= moved.sum() <= 110
    assert outcome.metrics["connections_must_break"] == moved.sum()
    assert (measured.must_break() == moved).all()
    # They were answered by their first target: that is no mismatch.
    assert outcome.metrics["placement_mismatches"] == 0


def test_a_connection_that_a_table_on_the_way_moves_and_the_last_one_back_may_break(tmp_path: Path) -> None:
    """From 4 to 5 targets by a table of 3: what it has moved may be lost; what no table has moved may not; the rest must."""

    def kept_and_lost(_traffic: Traffic, i: int, pod: str) -> ConnectionRecord:
        lost_s = 2.0 if i in losses else None
        return ConnectionRecord(started_s=1.0, established_s=1.0, lost_s=lost_s, answered_by=(pod,))

    def outcome() -> Outcome:
        world = FakeWorld(kept_and_lost)
        world.on_the_way = [parse(three)[0]]
        return run(loaded, world, NoEvents(), Progress(world.now_s, io.StringIO()))

    loaded, losses = scaled(tmp_path, "long"), set[int]()
    manifests = desired(read_manifests(loaded.manifests))
    for obj in manifests:
        if obj["kind"] == "Deployment":
            obj["spec"]["replicas"] = 3
    three = with_assumed_pods(manifests)[0]
    services = {service.meta.name: service.meta for service in parse(three)[0].services}
    three += [render.endpoint_slice(each, services[each.service]) for each in plan_of(three).slices]
    (measured,) = outcome().traffic
    must, may = np.flatnonzero(measured.must_break()), np.flatnonzero(measured.may_break())
    spared = np.flatnonzero(~measured.must_break() & ~measured.may_break())
    assert must.size
    assert may.size
    assert spared.size
    losses = set(must.tolist())
    assert outcome().metrics["break_mismatches"] == 0
    losses = {*must.tolist(), *may.tolist()}
    assert outcome().metrics["break_mismatches"] == 0
    assert outcome().metrics["connections_may_break"] == may.size
    # As many as must, but another one.
    losses = {*must[1:].tolist(), int(spared[0])}
    metrics = outcome().metrics
    assert metrics["connections_broken"] == metrics["connections_must_break"]
    assert metrics["break_mismatches"] == 2


def test_datagrams_that_another_pod_answers_from_some_time_on_are_lost_to_the_first(tmp_path: Path) -> None:
    """They do not notice, as a connection does: in the virtual network both Pods answer, in virtual time the flow is lost."""

    def outcome() -> Outcome:
        world = FakeWorld(lambda _traffic, i, pod: moves(pod) if i in moved else None)
        return run(loaded, world, NoEvents(), Progress(world.now_s, io.StringIO()))

    def moves(pod: str) -> ConnectionRecord:
        return ConnectionRecord(started_s=1.0, established_s=1.0, answered_by=(pod, "another"))

    def as_datagrams() -> MeasuredTraffic:
        (measured,) = outcome().traffic
        return replace(measured, traffic=replace(measured.traffic, protocol=TrafficProtocol.UDP))

    loaded, moved = scaled(tmp_path, "long"), set[int]()
    must = as_datagrams().must_break()
    moved = set(np.flatnonzero(must).tolist())
    assert moved
    measured = as_datagrams()
    assert (measured.broken() == must).all()
    assert not measured.break_mismatches().any()
    assert not measured.mismatches().any()
    moved.add(int(np.flatnonzero(~must)[0]))
    assert as_datagrams().break_mismatches().sum() == 1


def test_a_connection_is_judged_by_the_table_of_its_own_time(tmp_path: Path) -> None:
    late = 5.0

    def by_time(traffic: Traffic, i: int, pod: str) -> ConnectionRecord:
        del traffic
        at_s = 1.5 if i % 2 else late
        return ConnectionRecord(started_s=at_s, established_s=at_s, answered_by=(pod,))

    world = FakeWorld(by_time)
    outcome = run(scaled(tmp_path, "short"), world, NoEvents(), Progress(world.now_s, io.StringIO()))
    (measured,) = outcome.traffic
    moved = measured.predictions[0].pod != measured.predictions[1].pod
    assert (measured.mismatches() == (moved & (measured.connections.started_s == late))).all()
    assert measured.mismatches().any()


@pytest.mark.parametrize(("late", "targets"), [(0, 4), (2, 5)])
def test_the_mean_is_that_of_the_targets_that_there_were_for_the_connections(
    tmp_path: Path, late: int, targets: int
) -> None:
    """A fifth target comes after all connections but the late ones."""

    def some_late(_traffic: Traffic, i: int, pod: str) -> ConnectionRecord | None:
        return ConnectionRecord(started_s=10.0, established_s=10.0, answered_by=(pod,)) if i < late else None

    world = FakeWorld(some_late)
    outcome = run(scaled(tmp_path, "long"), world, NoEvents(), Progress(world.now_s, io.StringIO()))
    (measured,) = outcome.traffic
    counts = measured.measured_counts()
    assert len(counts) == targets
    assert outcome.metrics["imbalance_max_over_mean"] == round(max(counts.values()) * targets / 400, 6)


def test_no_answer_at_all_leaves_metrics_out_and_expectations_on_them_fail() -> None:
    outcome = outcome_of(
        "poc2-stateless", FakeWorld(lambda _traffic, _i, _pod: ConnectionRecord(started_s=2.0, error="no route"))
    )
    assert "imbalance_max_over_mean" not in outcome.metrics
    by_name = {v.expectation.name: v for v in outcome.verdicts}
    assert by_name["imbalance_max_over_mean"].value is None
    assert not by_name["imbalance_max_over_mean"].ok


def test_a_world_that_does_not_converge_ends_the_run_with_what_was_missing() -> None:
    world = FakeWorld(converges=False)
    outcome = outcome_of("poc2-stateless", world)
    assert outcome.error == "not programmed within 60 s: the fake"
    assert not outcome.ok
    assert world.log[-1] == "stop"
    assert world.clock_s == 61.0
    assert "total_s" not in outcome.metrics


def test_a_step_that_is_not_over_in_time_names_itself() -> None:
    outcome = outcome_of("poc2-stateless", FakeWorld(), "traffic.clients.deadline_s=0.1")
    assert outcome.error == "step 'clients' was not over within 0.1 s: the fake"


def test_a_world_that_does_not_start_is_stopped() -> None:
    world = BrokenWorld()
    outcome = outcome_of("poc2-stateless", world)
    assert "the API server does not answer" in outcome.error
    assert world.log == ["stop"]


def test_bad_manifests_are_found_before_the_world_is_started(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {selectr: {}}\n")
    text = load_scenario("poc2-stateless").text.replace("- poc2/gateway.yaml", "- m.yaml")
    (tmp_path / "s.yaml").write_text(text)
    world = FakeWorld()
    with pytest.raises(InputError, match=r"m\.yaml:4: unknown key"):
        run(load_scenario(str(tmp_path / "s.yaml")), world, NoEvents(), Progress(world.now_s, io.StringIO()))
    assert world.log == []


def test_random_source_ports_follow_from_the_seed() -> None:
    def tuples(seed: int) -> set[int]:
        outcome = outcome_of("poc2-stateless", FakeWorld(), "traffic.clients.source_ports=random", seed=seed)
        ports = outcome.traffic[0].connections.tuples.source_port
        assert len(set(ports.tolist())) == 400
        assert ports.min() >= 20_000
        return set(ports.tolist())

    assert tuples(1) == tuples(1)
    assert tuples(1) != tuples(2)


def test_metrics_are_rounded_numbers() -> None:
    metrics = all_metrics((), {"cluster_s": 1.23456789, "total_s": 2.0})
    assert metrics == {"cluster_s": 1.234568, "total_s": 2}


def run_into(folder: Path, rule: Rule = lambda _traffic, _i, _pod: None) -> RunFolder:
    world = FakeWorld(rule)
    loaded = load_scenario("poc2-stateless")
    with RunFolder.create(folder, loaded.scenario.name) as results:
        outcome = run(loaded, world, results, Progress(world.now_s, io.StringIO()))
        results.write(loaded, outcome)
    return results


def test_the_results_folder(tmp_path: Path) -> None:
    path = run_into(tmp_path).path
    assert path.parent == tmp_path / "poc2-stateless"
    result = json.loads((path / "summary.json").read_text())
    assert list(result) == ["scenario", "world", "seed", "ok", "expectations", "metrics"]
    assert result["expectations"][0] == {
        "metric": "connections_total",
        "op": "==",
        "bound": 400,
        "value": 400,
        "ok": True,
    }
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["schema_version"] == 1
    assert manifest["scenario_text"] == load_scenario("poc2-stateless").text
    assert manifest["facts"] == {"dataplane": "none: the fake"}
    with (path / "connections.csv").open(newline="") as file:
        connections = list(csv.DictReader(file))
    assert len(connections) == 400
    assert all(line["predicted"] == line["answered_by"] != "" for line in connections)
    with (path / "samples.csv").open(newline="") as file:
        samples = list(csv.DictReader(file))
    assert {"t_s", "entity", "metric", "value", "unit"} == set(samples[0])
    measured = [int(line["value"]) for line in samples if line["metric"] == "connections_measured[clients]"]
    assert sum(measured) == 400
    events = [json.loads(line)["event"] for line in (path / "events.jsonl").read_text().splitlines()]
    assert events == ["start", "applied", "programmed", "routed", "zero", "begin", "over", "finished"]


def test_everything_but_the_manifest_is_the_same_in_every_run(tmp_path: Path) -> None:
    first, second = run_into(tmp_path / "a").path, run_into(tmp_path / "b").path
    for name in ("summary.json", "samples.csv", "connections.csv", "events.jsonl"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_failures_are_in_the_connections_file(tmp_path: Path) -> None:
    path = run_into(tmp_path, answered_by_other).path
    with (path / "connections.csv").open(newline="") as file:
        connections = list(csv.DictReader(file))
    assert connections[0]["answered_by"] == connections[0]["predicted"] + "x"
    assert connections[3]["answered_by"] == "several"
    assert connections[4]["error"] == "Connection refused"
    assert connections[4]["established_s"] == ""
    assert connections[6]["lost_s"] == "2.0"


def test_a_results_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        RunFolder.create(tmp_path / "file", "x")


def test_the_summary_names_the_folder_only_when_it_is_printed() -> None:
    outcome = outcome_of("poc2-stateless", FakeWorld())
    assert "out" not in summary(outcome)
    assert list(summary(outcome, "results/x"))[-1] == "out"
