"""Runs a scenario in a world: phases, timeline, predictions, measurements, expectations. The same for every world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from core.kube import Json
from scenarios.load import LoadedScenario
from scenarios.manifests import desired, read_manifests
from scenarios.measure import MeasuredTraffic, all_metrics
from scenarios.predict import Prediction, predict, predict_on_the_way
from scenarios.progress import Progress
from scenarios.spec import Apply, Delete, Expectation, Scale, Scenario, Traffic
from scenarios.timeline import US, Step, Timeline, whole_us
from scenarios.tuples import five_tuples
from scenarios.world import Drive, Milestone, NotConverged, Observation, Running, World

FOREVER_S = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One expectation and what was measured; `value` or `bound` None: it was not measured, which is no success."""

    expectation: Expectation
    value: float | None
    bound: float | None

    @property
    def ok(self) -> bool:
        return self.value is not None and self.bound is not None and self.expectation.holds(self.value, self.bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run gave. `error` is why it ended early, or ``""``."""

    scenario: Scenario
    world: str
    metrics: Mapping[str, int | float]
    verdicts: tuple[Verdict, ...]
    traffic: tuple[MeasuredTraffic, ...] = ()
    before: Observation | None = None
    """The world at time zero."""
    after: Observation | None = None
    """The world at the end."""
    facts: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error and all(verdict.ok for verdict in self.verdicts)


class Events(Protocol):
    """Where a run writes down what happens."""

    def event(self, t_s: float, event: str, **more: object) -> None: ...


def run(loaded: LoadedScenario, world: World, events: Events, progress: Progress) -> Outcome:
    """Runs the scenario; the world is stopped whatever happens.

    Raises InputError before the world is started when a manifest is wrong, and MachineError when the world says so. A world that does
    not do in time what it should is an Outcome with an `error`.
    """
    manifests = desired(read_manifests(loaded.manifests))
    updates = {
        step.name: desired(read_manifests([loaded.manifest_path(name) for name in step.manifests]))
        for step in loaded.scenario.timeline
        if isinstance(step, Apply)
    }
    runner = _Runner(loaded.scenario, world, events, progress, manifests, updates)
    try:
        runner.run()
    except NotConverged as error:
        runner.error = str(error)
        events.event(world.now_s(), "failed", error=runner.error)
    finally:
        world.stop()
    return runner.outcome()


def set_up(scenario: Scenario, manifests: Sequence[Json], world: World, events: Events, progress: Progress) -> None:
    """Everything before time zero. Raises NotConverged."""

    def reach(milestone: Milestone) -> None:
        deadline_us = whole_us(world.now_s()) + whole_us(scenario.setup_deadline_s)
        running = world.converge(milestone)
        while not running.over:
            if whole_us(world.now_s()) >= deadline_us:
                waiting = running.waiting_for()
                raise NotConverged(f"not {milestone.value} within {scenario.setup_deadline_s:g} s: {waiting}")
            world.wait([running], until_s=deadline_us / US)
        events.event(world.now_s(), milestone.value)

    nodes, routers = scenario.topology.nodes, len(scenario.topology.routers)
    up = f"cluster up: {_count(nodes, 'node')}, {_count(routers, 'router')} outside"
    with progress.phase("cluster", "starting the cluster", up):
        events.event(world.now_s(), "start")
        world.start(scenario)
    with progress.phase("gateways", "programming the gateways", "gateways programmed"):
        world.apply(manifests)
        events.event(world.now_s(), "applied", objects=len(manifests))
        reach(Milestone.PROGRAMMED)
    with progress.phase("routing", "waiting for BGP and BFD", "BGP and BFD up, VIPs in every router outside"):
        reach(Milestone.ROUTED)


class _Runner:
    """The state of one run."""

    def __init__(
        self,
        scenario: Scenario,
        world: World,
        events: Events,
        progress: Progress,
        manifests: Sequence[Json],
        updates: Mapping[str, Sequence[Json]],
    ) -> None:
        self.scenario, self.world, self.events, self.progress = scenario, world, events, progress
        self.manifests, self.updates = manifests, updates
        self.timeline = Timeline(scenario.steps)
        self.began_s: dict[str, float] = {}
        self.running: dict[str, Running] = {}
        self.drives: dict[str, Drive] = {}
        self.predictions: dict[str, list[Prediction]] = {}
        self.measured: list[MeasuredTraffic] = []
        self.before: Observation | None = None
        self.after: Observation | None = None
        self.facts: Mapping[str, str] = {}
        self.total_s = 0.0
        self.error = ""

    def run(self) -> None:
        """All phases."""
        set_up(self.scenario, self.manifests, self.world, self.events, self.progress)
        self.before = self.world.observe()
        self.facts = self.world.facts()
        if reason := self.facts.get("dataplane_reason"):
            self.progress.line(f"    data plane {self.facts['dataplane']}: {reason}")
        total = sum(traffic.connections for traffic in self.scenario.traffic)
        with self.progress.phase("traffic", "traffic", f"traffic: {_count(total, 'connection')}"):
            self.play()
            self.finish()
        self.total_s = self.world.now_s()
        self.after = self.world.observe()

    def play(self) -> None:
        """The timeline, until every step is over."""
        zero_us = whole_us(self.world.now_s())
        self.events.event(self.world.now_s(), "zero")
        self.world.passed()  # from now on
        while True:
            now_us = whole_us(self.world.now_s()) - zero_us
            for step in list(self.timeline.running()):
                if self.running[step.name].over:
                    self.timeline.over_us[step.name] = now_us
                    self.end(step)
            for step in self.timeline.late(now_us):
                waiting = self.running[step.name].waiting_for()
                raise NotConverged(f"step {step.name!r} was not over within {step.deadline_s:g} s: {waiting}")
            due = list(self.timeline.due(now_us))
            for step in due:
                self.timeline.begun_us[step.name] = now_us
                self.begin(step)
            if due:
                continue
            next_us = self.timeline.next_us()
            if next_us is None:
                return
            running = [self.running[step.name] for step in self.timeline.running()]
            self.world.wait(running, until_s=(zero_us + next_us) / US)

    def begin(self, step: Step) -> None:
        """Begins traffic or does an action."""
        self.began_s[step.name] = self.world.now_s()
        self.events.event(self.began_s[step.name], "begin", step=step.name)
        match step:
            case Traffic():
                router = self.scenario.router(step.source)
                tuples = five_tuples(step, router, self.scenario.seed)
                objects = self.world.observe().objects
                self.predictions[step.name] = [predict(objects, tuples, from_s=0.0, until_s=FOREVER_S, router=router)]
                drive = self.world.drive(step, tuples)
                self.drives[step.name] = drive
                self.running[step.name] = drive
                return
            case Apply():
                self.world.apply(self.updates[step.name])
            case Scale() | Delete():
                self.world.act(step)
        self.running[step.name] = self.world.converge(Milestone.ROUTED)

    def end(self, step: Step) -> None:
        """Notes that a step is over. After an action the tables may be others: connections that are open are predicted anew."""
        now_s = self.world.now_s()
        self.events.event(now_s, "over", step=step.name)
        if isinstance(step, Traffic):
            return
        objects, passed = self.world.observe().objects, self.world.passed()
        began_s = self.began_s[step.name]
        for name, predictions in self.predictions.items():
            traffic = next(one for one in self.scenario.traffic if one.name == name)
            router = self.scenario.router(traffic.source)
            tuples = five_tuples(traffic, router, self.scenario.seed)
            # While the change is under way, the old table and the new one are both right.
            predictions[-1] = replace(predictions[-1], until_s=now_s)
            predictions += predict_on_the_way(passed, tuples, from_s=began_s, until_s=now_s, router=router)
            predictions.append(predict(objects, tuples, from_s=began_s, until_s=FOREVER_S, router=router))

    def finish(self) -> None:
        """Ends long connections, and collects what was measured."""
        for traffic in self.scenario.traffic:
            connections = self.drives[traffic.name].finish()
            predictions = tuple(self.predictions[traffic.name])
            self.measured.append(MeasuredTraffic(traffic=traffic, predictions=predictions, connections=connections))
            self.events.event(self.world.now_s(), "finished", step=traffic.name)

    def outcome(self) -> Outcome:
        durations_s = dict(self.progress.durations_s)
        if not self.error:
            durations_s["total_s"] = self.total_s
        metrics = all_metrics(self.measured, durations_s)
        only = f"[{self.measured[0].traffic.name}]" if len(self.measured) == 1 else ""

        def value(name: str) -> int | float | None:
            # With one traffic there are no metrics by traffic: they would be the same.
            return metrics.get(name.removesuffix(only))

        return Outcome(
            scenario=self.scenario,
            world=self.world.name,
            metrics=metrics,
            verdicts=tuple(
                Verdict(expectation=e, value=value(e.name), bound=value(e.other_name) if e.other else e.bound)
                for e in self.scenario.expectations
            ),
            traffic=tuple(self.measured),
            before=self.before,
            after=self.after,
            facts=self.facts,
            error=self.error,
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def summary(outcome: Outcome, out: str | None = None) -> dict[str, object]:
    """The result as one JSON object; `out` is the results folder, left out where the object must not depend on it."""
    result: dict[str, object] = {
        "scenario": outcome.scenario.name,
        "world": outcome.world,
        "seed": outcome.scenario.seed,
        "ok": outcome.ok,
        "expectations": [
            {
                "metric": verdict.expectation.name,
                "op": verdict.expectation.op,
                "bound": None if verdict.bound is None else _plain(verdict.bound),
                "value": verdict.value,
                "ok": verdict.ok,
            }
            for verdict in outcome.verdicts
        ],
        "metrics": dict(outcome.metrics),
    }
    return result if out is None else result | {"out": out}


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else number
