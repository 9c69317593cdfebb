"""Traffic: many connections as columns, never one by one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.lb.placement import FiveTuples, Indices
from core.model import L4Protocol
from sim.des.fabric import DROPPED, NO_ROUTE, NOBODY, REFUSED, Fabric
from sim.des.kernel import US, Kernel, Process
from sim.des.latencies import Latencies

SYN_RETRIES_S = (1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 127.0)
"""When a SYN is sent again, from the first one. Source: Linux TCP, RFC 6298: 1 s, doubled each time."""
UDP_RETRY_S = 0.2
"""Source: sim.apps.flow."""

Codes = NDArray[np.int8]
ESTABLISHED: Final = 0
WHY: Final = {
    NOBODY: "timed out",
    REFUSED: "connection refused",
    DROPPED: "timed out: dropped by the gateway",
    NO_ROUTE: "timed out: no route",
}
"""Why a connection was not established, by what `Fabric.answers` last said of it."""
LOST: Final = "reset: its packets reach another target, or none"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """What became of the connections, in columns of shape (n,). Times in seconds, NaN for what did not happen."""

    started_s: NDArray[np.float64]
    established_s: NDArray[np.float64]
    lost_s: NDArray[np.float64]
    answered_by: Indices
    """Number of the Pod in `Fabric.names` that answered first; negative: why nobody did."""


class Drive:
    """The connections of one traffic, opened together.

    Models: SYNs that are sent again, time-outs, resets; a connection is lost at the moment at which its packets no longer reach the
    Pod that answered it. Does not model: how fast a client is, requests on open connections (so a connection is lost even when its
    packets would be back at its Pod before the next request), windows, closing.
    """

    def __init__(
        self,
        kernel: Kernel,
        fabric: Fabric,
        latencies: Latencies,
        *,
        router: str,
        tuples: FiveTuples,
        stays_open: bool,
        timeout_s: float,
    ) -> None:
        self._kernel, self._fabric, self._latencies = kernel, fabric, latencies
        self._router = router
        self._flows = fabric.flows(tuples)
        self._stays_open = stays_open
        self._timeout_s = timeout_s
        n = len(tuples)
        self._started_us = kernel.now_us
        self._established_us = np.full(n, -1, np.int64)
        self._lost_us = np.full(n, -1, np.int64)
        self._answered_by = np.full(n, NOBODY, np.int32)
        self._open = np.zeros(n, np.bool_)
        self._waiting = np.ones(n, np.bool_)
        self._ended = False
        self.over = False
        """All short connections have ended, or all long ones are established; or have failed."""
        kernel.start(self._run())
        kernel.start(self._guard())

    @property
    def waiting(self) -> int:
        """How many connections are neither established nor failed."""
        return int(np.count_nonzero(self._waiting))

    def finish(self) -> Result:
        """What became of the connections; they end now."""
        self.look()
        self._ended = True
        self._open[:] = False
        return Result(
            started_s=np.full(len(self._open), self._started_us / US),
            established_s=_seconds(self._established_us),
            lost_s=_seconds(self._lost_us),
            answered_by=self._answered_by,
        )

    def _run(self) -> Process:
        for now_us, next_us in pairwise((*self._attempts_us(), self._started_us + round(self._timeout_s * US))):
            yield self._kernel.until_us(now_us)
            if self._ended:
                return
            self._attempt()
            if not self._waiting.any():
                break
            yield self._kernel.until_us(next_us)
        self._waiting[:] = False
        yield self._kernel.after(self._latencies.connect_s)
        if not self._stays_open:
            yield self._kernel.after(self._latencies.short_s)
            self._open[:] = False
            self._ended = True
        self.over = True

    def _attempts_us(self) -> list[int]:
        """When first packets are sent."""
        if self._flows.tuples.protocol is L4Protocol.UDP:
            delays_s = [UDP_RETRY_S * i for i in range(1, round(self._timeout_s / UDP_RETRY_S))]
        else:
            delays_s = [delay_s for delay_s in SYN_RETRIES_S if delay_s < self._timeout_s]
        return [self._started_us + round(delay_s * US) for delay_s in (0.0, *delays_s)]

    def _attempt(self) -> None:
        """First packets of all connections that have had no answer."""
        answers = self._fabric.answers(self._router, self._flows)
        good = self._waiting & (answers >= 0)
        self._answered_by[self._waiting] = answers[self._waiting]
        self._established_us[good] = self._kernel.now_us + round(self._latencies.connect_s * US)
        self._open |= good
        self._waiting &= ~(good | (answers == REFUSED))

    def _guard(self) -> Process:
        """Looks at the open connections whenever packets may take another path."""
        while not self._ended:
            yield self._fabric.changed.next
            # Whatever else changes at this moment is one change.
            yield self._kernel.after(0.0)
            if not self._ended:
                self.look()

    def look(self) -> None:
        """Connections whose packets no longer reach who answered them are lost."""
        if self._open.any():
            lost = self._fabric.answers(self._router, self._flows) != self._answered_by
            lost &= self._open
            if lost.any():
                self._lost_us[lost] = np.maximum(self._kernel.now_us, self._established_us[lost])
                self._open &= ~lost


def _seconds(times_us: NDArray[np.int64]) -> NDArray[np.float64]:
    """Microseconds in seconds; NaN for negative ones."""
    return np.where(times_us < 0, np.nan, times_us / US)
