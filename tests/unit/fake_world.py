"""A world without a network: time passes when somebody waits, and connections go where a rule of the test sends them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from core.kube import Json
from core.lb.placement import FiveTuples
from core.objects import Objects
from scenarios.assumed import with_assumed_pods
from scenarios.predict import predict
from scenarios.spec import Delete, Scale, Scenario, Traffic
from scenarios.world import ConnectionRecord, Connections, Milestone, NotConverged, Observation, Running, Sample

CONVERGE_S = 0.25
CONNECT_S = 0.001

Rule = Callable[[Traffic, int, str], ConnectionRecord | None]
"""(traffic, index, predicted Pod) -> what becomes of the connection; None: what was predicted."""


class Waiting:
    """Over at a time of the fake clock."""

    def __init__(self, world: FakeWorld, over_at_s: float) -> None:
        self.world, self.over_at_s = world, over_at_s

    @property
    def over(self) -> bool:
        return self.world.clock_s >= self.over_at_s

    def waiting_for(self) -> str:
        return "the fake"


class FakeDrive(Waiting):
    """Connections that are established after CONNECT_S each, one after the other."""

    def __init__(self, world: FakeWorld, traffic: Traffic, tuples: FiveTuples) -> None:
        super().__init__(world, world.clock_s + CONNECT_S * traffic.connections)
        self.traffic, self.tuples = traffic, tuples
        self.start_s = world.clock_s
        prediction = predict(world.objects, tuples, from_s=0.0, until_s=0.0)
        self.pods = [prediction.names[pod] if pod >= 0 else "" for pod in prediction.pod]

    def finish(self) -> Connections:
        self.world.log.append(f"finish {self.traffic.name}")
        return Connections.of(self.tuples, [self.record(i, pod) for i, pod in enumerate(self.pods)])

    def record(self, i: int, pod: str) -> ConnectionRecord:
        special = self.world.rule(self.traffic, i, pod)
        if special is not None:
            return special
        at_s = self.start_s + CONNECT_S * i
        if not pod:
            return ConnectionRecord(started_s=at_s, error="timed out")
        return ConnectionRecord(started_s=at_s, established_s=at_s + CONNECT_S, answered_by=(pod,))


class FakeWorld:
    """Implements scenarios.world.World."""

    name = "fake"

    def __init__(self, rule: Rule = lambda _traffic, _i, _pod: None, *, converges: bool = True) -> None:
        self.rule = rule
        self.converges = converges
        self.clock_s = 0.0
        self.manifests: dict[tuple[str, str], Json] = {}
        self.log: list[str] = []
        self.on_the_way: list[Objects] = []
        """What the first change passes."""
        self._changed = False

    @property
    def objects(self) -> list[Json]:
        return with_assumed_pods(list(self.manifests.values()))[0]

    def now_s(self) -> float:
        return self.clock_s

    def start(self, scenario: Scenario) -> None:
        self.log.append(f"start {scenario.name}")
        self.clock_s += 1.0

    def apply(self, objects: Sequence[Json]) -> None:
        self.log.append(f"apply {len(objects)} at {self.clock_s:g}")
        for obj in objects:
            self.manifests[(obj["kind"], obj["metadata"]["name"])] = obj

    def act(self, action: Scale | Delete) -> None:
        self._changed = True
        self.log.append(f"{action.WORD} at {self.clock_s:g}")
        if isinstance(action, Scale):
            self.manifests[("Deployment", action.deployment)]["spec"]["replicas"] = action.replicas
        else:
            del self.manifests[(action.kind, action.object_name)]

    def converge(self, milestone: Milestone) -> Running:
        self.log.append(f"converge {milestone.value}")
        return Waiting(self, self.clock_s + CONVERGE_S if self.converges else float("inf"))

    def drive(self, traffic: Traffic, tuples: FiveTuples) -> FakeDrive:
        self.log.append(f"drive {traffic.name} at {self.clock_s:g}")
        return FakeDrive(self, traffic, tuples)

    def wait(self, running: Sequence[Running], *, until_s: float) -> None:
        ends = [one.over_at_s for one in running if isinstance(one, Waiting)]
        next_s = min([*ends, until_s])
        if next_s <= self.clock_s:
            raise AssertionError("waits for what is over already")
        self.clock_s = next_s

    def observe(self) -> Observation:
        sample = Sample(t_s=self.clock_s, entity="fake", metric="routes", value=1, unit="1")
        return Observation(t_s=self.clock_s, objects=tuple(self.objects), samples=(sample,))

    def passed(self) -> Sequence[Objects]:
        if not self._changed:
            return []
        found, self.on_the_way = self.on_the_way, []
        return found

    def facts(self) -> Mapping[str, str]:
        return {"dataplane": "none: the fake"}

    def stop(self) -> None:
        self.log.append("stop")


class BrokenWorld(FakeWorld):
    """Does not start."""

    def start(self, scenario: Scenario) -> None:
        raise NotConverged(f"{scenario.name}: the API server does not answer")
