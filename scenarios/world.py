"""A world: where a scenario happens. The runner is the same for every world; only what stands behind this port differs.

All times are in seconds of the world's own clock, which is 0 when it starts: wall-clock time in the virtual network, virtual time in a
simulation. The runner waits by asking the world to wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import TidegateError
from core.kube import Json
from core.lb.placement import FiveTuples, Indices
from core.objects import Objects
from scenarios.spec import Delete, Scale, Scenario, Traffic

NOBODY: Final = -1
"""In `Connections.answered_by`: no answer came."""
SEVERAL: Final = -2
"""In `Connections.answered_by`: more than one target answered, which no connection may see."""

Times = NDArray[np.float64]
"""Seconds of the world's clock, NaN for what did not happen; shape (n,)."""


class NotConverged(TidegateError):  # noqa: N818  (it is an outcome of a run, not a fault)
    """What a run waited for did not happen in time; the message says what was missing."""


class Milestone(Enum):
    """What a run waits for after the cluster's objects have changed."""

    PROGRAMMED = "programmed"
    """Every gateway pod and every endpoint is as the plan of the objects says."""
    ROUTED = "routed"
    """Programmed, and every router outside has BGP and BFD up with every gateway pod, and exactly the announced VIPs, over all of
    the pods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRecord:
    """What became of one connection; for worlds that make them one by one."""

    started_s: float
    established_s: float | None = None
    lost_s: float | None = None
    answered_by: tuple[str, ...] = ()
    """Names of the Pods that answered: one, unless something is wrong."""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Connections:
    """What became of the connections of one traffic, in columns of shape (n,)."""

    tuples: FiveTuples
    started_s: Times
    established_s: Times
    lost_s: Times
    answered_by: Indices
    """Index into `names`, NOBODY or SEVERAL."""
    names: tuple[str, ...]
    """Pods that answered."""
    errors: Mapping[int, str]
    """Why a connection was not established, or how it was lost; by its index."""

    @property
    def established(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.established_s)

    @property
    def lost(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.lost_s)

    @staticmethod
    def of(tuples: FiveTuples, records: Sequence[ConnectionRecord]) -> Connections:
        """The columns of `records`, which are in the order of `tuples`. Raises ValueError when they are not as many."""
        if len(records) != len(tuples):
            raise ValueError(f"{len(records)} records of {len(tuples)} connections")
        names = tuple(sorted({name for record in records for name in record.answered_by}))
        number = {name: i for i, name in enumerate(names)}

        def answered(record: ConnectionRecord) -> int:
            if len(record.answered_by) > 1:
                return SEVERAL
            return number[record.answered_by[0]] if record.answered_by else NOBODY

        def times(values: Iterable[float | None]) -> Times:
            return np.array([np.nan if value is None else value for value in values], np.float64)

        return Connections(
            tuples=tuples,
            started_s=times(record.started_s for record in records),
            established_s=times(record.established_s for record in records),
            lost_s=times(record.lost_s for record in records),
            answered_by=np.array([answered(record) for record in records], np.int32),
            names=names,
            errors={i: record.error for i, record in enumerate(records) if record.error},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measured number, for samples.csv."""

    t_s: float
    entity: str
    metric: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What can be seen of a world at one moment."""

    t_s: float
    objects: tuple[Json, ...]
    """The objects that a plan is made from, Pods and EndpointSlices included, as the API has them."""
    samples: tuple[Sample, ...] = ()
    """Counters of gateways and routers."""


class Running(Protocol):
    """Something under way. `over` may become true only while the world waits."""

    @property
    def over(self) -> bool: ...

    def waiting_for(self) -> str:
        """What is still missing, for a person."""


class Drive(Running, Protocol):
    """Traffic under way. It is over when all short connections have ended, or all long ones are established; or have failed."""

    def finish(self) -> Connections:
        """What became of the connections. Long ones are ended now, each after a last request that must be answered."""


class World(Protocol):
    """Where a scenario happens. Any method may raise MachineError or NotConverged."""

    @property
    def name(self) -> str:
        """``mininet``, ``sim`` or ``kind``."""

    def now_s(self) -> float:
        """The world's clock."""

    def start(self, scenario: Scenario) -> None:
        """Returns when the cluster's API answers, its nodes are there, and the routers outside wait for sessions."""

    def apply(self, objects: Sequence[Json]) -> None:
        """Applies objects as `kubectl apply --server-side` does; returns when the API has them."""

    def act(self, action: Scale | Delete) -> None:
        """Does to the cluster what the timeline says; returns when it is done, not when it has had its effect."""

    def converge(self, milestone: Milestone) -> Running:
        """Watches for `milestone`, from the objects that the API has when this is called."""

    def drive(self, traffic: Traffic, tuples: FiveTuples) -> Drive:
        """Starts the connections of `traffic`, whose 5-tuples are `tuples`."""

    def wait(self, running: Sequence[Running], *, until_s: float) -> None:
        """Returns when one of `running` is over, and not later than `until_s` on the world's clock."""

    def observe(self) -> Observation:
        """What can be seen now."""

    def passed(self) -> Sequence[Objects]:
        """What load balancers may have seen since this was last called, in order: the objects after each change of EndpointSlices, for
        these decide about tables. Nothing is kept before it is called for the first time, which returns nothing."""

    def facts(self) -> Mapping[str, str]:
        """What a reader of the results must know of this world: data plane and why, kernel, versions of what runs in it."""

    def stop(self) -> None:
        """Ends everything that `start` began, however far it came; logs are complete after it."""
