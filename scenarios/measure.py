"""From predictions and connections to the metrics of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from core.lb.placement import DROPPED, REJECTED
from scenarios.predict import Prediction
from scenarios.spec import Mode, Traffic, TrafficProtocol
from scenarios.world import NOBODY, SEVERAL, Connections

DECIMALS = 6
"""Of metrics: a microsecond, a millionth."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredTraffic:
    """One traffic: what was predicted, in the order of time, and what became of it."""

    traffic: Traffic
    predictions: tuple[Prediction, ...]
    """At least one, which is settled. Each later settled one is of the tables after a change; between two of these stand the tables
    that gateways may have had on the way."""
    connections: Connections

    def predicted_counts(self) -> Counter[str]:
        """Connections by Pod, as they were predicted at the start; Pods that get none included."""
        return _counts(self.predictions[0].names, self.predictions[0].pod)

    def measured_counts(self) -> Counter[str]:
        """Connections by the Pod that answered; those Pods included that could have had some: of the predictions by which a connection
        began. One that began at the very moment of a change can reach nobody who comes with it."""
        counts = _counts(self.connections.names, self.connections.answered_by)
        started_s = self.connections.started_s
        for prediction in self.predictions:
            if ((started_s > prediction.from_s) & (started_s <= prediction.until_s)).any():
                for name in prediction.names:
                    counts.setdefault(name, 0)
        return counts

    def mismatches(self) -> NDArray[np.bool_]:
        """Connections that another Pod answered than any prediction said that was valid when they began; shape (n,)."""
        good = np.zeros(len(self.connections.tuples), np.bool_)
        for prediction in self.predictions:
            valid = (self.connections.started_s >= prediction.from_s) & (
                self.connections.started_s <= prediction.until_s
            )
            good |= valid & (self._by_pod(prediction) == self.connections.answered_by)
        wrong: NDArray[np.bool_] = (self.connections.answered_by != NOBODY) & ~good & ~self._moved_datagrams()
        return wrong

    def broken(self) -> NDArray[np.bool_]:
        """Connections that were lost; shape (n,). Datagrams that another Pod answers from some time on do not notice: for the one that
        asked, what the first Pod knew is lost."""
        return self.connections.lost | self._moved_datagrams()

    def _moved_datagrams(self) -> NDArray[np.bool_]:
        moved: NDArray[np.bool_] = self.connections.answered_by == SEVERAL
        return moved if self.traffic.protocol is TrafficProtocol.UDP else np.zeros_like(moved)

    def must_break(self) -> NDArray[np.bool_]:
        """Connections that were open when a change began after which their target was another one; shape (n,). Short ones have ended
        before anything changes."""
        moved = np.zeros(len(self.connections.tuples), np.bool_)
        if self.traffic.mode is Mode.SHORT:
            return moved
        for before, after in pairwise(one for one in self.predictions if one.settled):
            open_then = self.connections.established & (self.connections.established_s <= after.from_s)
            moved |= open_then & (self._by_pod(before) != self._by_pod(after))
        return moved

    def may_break(self) -> NDArray[np.bool_]:
        """Connections that need not break, but were open while a table may have led them elsewhere; shape (n,). Of short ones only
        those that began during a change.

        Which of the tables on the way a gateway really had, and whether a packet met it, nobody can say beforehand.
        """
        moved = np.zeros(len(self.connections.tuples), np.bool_)
        for before, after in pairwise(self.predictions):
            open_then = self.connections.established & (self.connections.established_s <= before.until_s)
            if self.traffic.mode is Mode.SHORT:
                open_then &= self.connections.established_s >= after.from_s
            moved |= open_then & (self._by_pod(before) != self._by_pod(after))
        return moved & ~self.must_break()

    def break_mismatches(self) -> NDArray[np.bool_]:
        """Connections that broke and had no reason to, or had to break and live; shape (n,)."""
        lost, must = self.broken(), self.must_break()
        wrong: NDArray[np.bool_] = (lost & ~must & ~self.may_break()) | (must & ~lost)
        return wrong

    def _by_pod(self, prediction: Prediction) -> NDArray[np.int32]:
        """The prediction in the numbers of `connections.names`; Pods that never answered have numbers after those."""
        number = {name: i for i, name in enumerate(self.connections.names)}
        for known in self.predictions:
            for name in known.names:
                number.setdefault(name, len(number))
        # No prediction may equal NOBODY or SEVERAL by accident.
        other = {REJECTED: -3, DROPPED: -4}
        table = np.array([number[name] for name in prediction.names] + [other[DROPPED], other[REJECTED]], np.int32)
        return table[prediction.pod]


def _counts(names: Sequence[str], index: NDArray[np.int32]) -> Counter[str]:
    some = np.bincount(index[index >= 0], minlength=len(names))
    return Counter({name: int(count) for name, count in zip(names, some, strict=True)})


def traffic_metrics(measured: Sequence[MeasuredTraffic]) -> dict[str, float]:
    """The metrics of some traffic together. Those that need an established connection are missing without one."""
    answered: Counter[str] = Counter()
    for one in measured:
        answered.update(one.measured_counts())
    hits = [count for count in answered.values() if count]
    waits = np.concatenate(
        [np.zeros(0)] + [c.established_s - c.started_s for c in (one.connections for one in measured)]
    )
    waits = waits[~np.isnan(waits)]
    metrics = {
        "connections_total": float(sum(len(one.connections.tuples) for one in measured)),
        "connections_failed": float(sum(int((~one.connections.established).sum()) for one in measured)),
        "connections_broken": float(sum(int(one.broken().sum()) for one in measured)),
        "connections_must_break": float(sum(int(one.must_break().sum()) for one in measured)),
        "connections_may_break": float(sum(int(one.may_break().sum()) for one in measured)),
        "break_mismatches": float(sum(int(one.break_mismatches().sum()) for one in measured)),
        "targets_hit": float(len(hits)),
        "placement_mismatches": float(sum(int(one.mismatches().sum()) for one in measured)),
    }
    if hits:
        metrics["imbalance_max_over_mean"] = max(hits) * len(answered) / sum(hits)
    if waits.size:
        metrics["connect_p50_s"] = float(np.percentile(waits, 50))
        metrics["connect_p99_s"] = float(np.percentile(waits, 99))
    return metrics


def all_metrics(measured: Sequence[MeasuredTraffic], durations_s: Mapping[str, float]) -> dict[str, int | float]:
    """Every metric of a run: of all traffic, of each (``name[traffic]``) when there are several, and the durations."""
    metrics = dict(durations_s)
    if measured:
        metrics |= traffic_metrics(measured)
    if len(measured) > 1:
        for one in measured:
            metrics |= {f"{name}[{one.traffic.name}]": value for name, value in traffic_metrics([one]).items()}
    return {name: _rounded(value) for name, value in sorted(metrics.items())}


def _rounded(value: float) -> int | float:
    value = round(value, DECIMALS)
    return int(value) if value.is_integer() else value


def answer(connections: Connections, i: int) -> str:
    """Who answered the i-th connection, for a table."""
    index = int(connections.answered_by[i])
    if index == NOBODY:
        return ""
    return "several" if index == SEVERAL else connections.names[index]


def fate(prediction: Prediction, i: int) -> str:
    """Where the i-th connection should go, for a table."""
    index = int(prediction.pod[i])
    if index == REJECTED:
        return "rejected"
    return "dropped" if index == DROPPED else prediction.names[index]
