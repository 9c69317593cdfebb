"""Traffic of a scenario through the traffic client of a router outside."""

from __future__ import annotations

import threading
from typing import Literal

from core.lb.placement import FiveTuples
from scenarios.spec import Mode, Traffic
from scenarios.world import ConnectionRecord, Connections, NotConverged
from sim.net.traffic import FlowKey, FlowResult, TrafficClient, TrafficError

EXCHANGE_EVERY_S = 1.0
GRACE_S = 5.0
"""What the client may take beyond the time-out of its connections."""


class TrafficDrive:
    """Implements `scenarios.world.Drive`. A thread waits for the client, and tells the world through `changed`."""

    def __init__(
        self,
        client: TrafficClient,
        traffic: Traffic,
        tuples: FiveTuples,
        changed: threading.Condition,
        *,
        clock_start_s: float,
    ) -> None:
        self._client = client
        self._traffic = traffic
        self._tuples = tuples
        self._changed = changed
        self._offset_s = client.start_s - clock_start_s
        self._long = traffic.mode is Mode.LONG
        self._deadline_s = traffic.timeout_s + GRACE_S
        self._over = False
        self._error: TrafficError | None = None
        self._batch = client.open(
            list(map(self._flow, range(len(tuples)))),
            hold=self._long,
            timeout_s=traffic.timeout_s,
            every_s=EXCHANGE_EVERY_S,
        )
        threading.Thread(target=self._watch, name=f"traffic {traffic.name}", daemon=True).start()

    @property
    def over(self) -> bool:
        return self._over

    def waiting_for(self) -> str:
        return f"connections of {self._traffic.name}"

    def finish(self) -> Connections:
        try:
            if self._error is not None:
                raise self._error
            if self._long:
                results = self._client.close(self._batch, deadline_s=self._deadline_s)
            else:
                results = self._client.results(self._batch, deadline_s=self._deadline_s)
        except TrafficError as error:
            raise NotConverged(f"traffic {self._traffic.name!r}: {error}") from error
        return Connections.of(self._tuples, list(map(self._record, results)))

    def _watch(self) -> None:
        try:
            if self._long:
                self._client.wait_opened(self._batch, deadline_s=self._deadline_s)
            else:
                self._client.results(self._batch, deadline_s=self._deadline_s)
        except TrafficError as error:
            self._error = error
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _flow(self, i: int) -> FlowKey:
        tuples = self._tuples
        protocol: Literal["TCP", "UDP"] = self._traffic.protocol.value
        return FlowKey(
            source=tuples.sources[tuples.source[i]],
            source_port=int(tuples.source_port[i]),
            destination=tuples.destination,
            port=tuples.destination_port,
            protocol=protocol,
        )

    def _record(self, result: FlowResult) -> ConnectionRecord:
        def clock(at_s: float | None) -> float | None:
            return None if at_s is None else at_s + self._offset_s

        return ConnectionRecord(
            started_s=result.started_s + self._offset_s,
            established_s=clock(result.established_s),
            lost_s=clock(result.lost_s),
            answered_by=result.targets,
            error=result.error or "",
        )
