"""The clock of the virtual-time world and what hangs on it: SimPy in whole microseconds, so that times are exact on every machine."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import simpy

Event = Any
"""A SimPy event; SimPy publishes no types."""
Process = Generator[Event, Any, None]

US = 1_000_000
"""Microseconds in a second."""
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""What clocks on the wall show when the virtual clock is 0."""


class Kernel:
    """Virtual time, and how much is under way.

    Models a clock that is the same everywhere. Does not model clocks that differ, nor machines that are busy: whatever takes time takes
    the same time however much else happens.
    """

    def __init__(self) -> None:
        self.env: Any = simpy.Environment()
        self.under_way = 0
        """How many things have begun that will end by themselves, those of routing left out."""
        self.routing_under_way = 0
        """The same of sessions and routes between gateway pods and routers outside."""

    @property
    def now_us(self) -> int:
        return int(self.env.now)

    @property
    def now_s(self) -> float:
        return self.now_us / US

    def wall(self) -> str:
        """The time as Kubernetes writes it: RFC 3339, whole seconds."""
        return (EPOCH + timedelta(seconds=self.now_us // US)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def epoch_s(self) -> float:
        """Seconds since the Unix epoch."""
        return EPOCH.timestamp() + self.now_s

    def after(self, delay_s: float) -> Event:
        """An event `delay_s` from now, rounded to a microsecond."""
        return self.env.timeout(round(delay_s * US))

    def until_us(self, at_us: int) -> Event:
        """An event at `at_us`, or now when that is past."""
        return self.env.timeout(max(0, at_us - self.now_us))

    def event(self) -> Event:
        """An event that somebody calls `succeed` on."""
        return self.env.event()

    def start(self, process: Process) -> None:
        """Runs a process from now on."""
        self.env.process(process)

    def later(self, delay_s: float, call: Callable[[], None], *, routing: bool = False) -> None:
        """Calls `call` after `delay_s`; it is under way until then."""
        self._count(1, routing)
        self.start(self._later(delay_s, call, routing))

    def _later(self, delay_s: float, call: Callable[[], None], routing: bool) -> Process:
        yield self.after(delay_s)
        call()
        self._count(-1, routing)

    def _count(self, change: int, routing: bool) -> None:
        if routing:
            self.routing_under_way += change
        else:
            self.under_way += change

    def step(self, until_us: int) -> bool:
        """Lets everything happen that happens at the next moment, or goes to `until_us` when nothing happens before.

        Returns False when the time is `until_us` and nothing is left to happen then.
        """
        next_us = self.env.peek()
        if next_us > until_us:
            if until_us > self.now_us:
                self.until_us(until_us)
                self.env.step()
            return False
        while self.env.peek() == next_us:
            self.env.step()
        return True


class Signal:
    """Something that happens again and again. Whoever waits for it is told once of all that happens at one moment."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._event: Event = kernel.event()
        self.count = 0
        """How often it has happened."""

    def fire(self) -> None:
        self.count += 1
        event, self._event = self._event, self._kernel.event()
        event.succeed()

    @property
    def next(self) -> Event:
        """The next time that it happens."""
        return self._event


class Loop:
    """A level-triggered process: takes a turn when it is woken, at most once in a window; what wakes it meanwhile leads to one more.

    Models core.workqueue with one key. Does not model retries with back-off: turns do not fail.
    """

    def __init__(self, kernel: Kernel, turn: Callable[[], None], *, turn_s: float, window_s: float) -> None:
        self._kernel = kernel
        self._turn = turn
        self._turn_s = turn_s
        self._window_us = round(window_s * US)
        self._woken = Signal(kernel)
        self._due = False
        self._stopped = False
        kernel.start(self._run())

    def wake(self, _changed: object = None) -> None:
        """Something has changed; each turn looks at everything."""
        if not self._due and not self._stopped:
            self._due = True
            self._kernel.under_way += 1
            self._woken.fire()

    def stop(self) -> None:
        """Takes no turn any more."""
        self._stopped = True
        if self._due:
            self._due = False
            self._kernel.under_way -= 1

    def _run(self) -> Process:
        not_before_us = 0
        while not self._stopped:
            if not self._due:
                yield self._woken.next
            yield self._kernel.until_us(not_before_us)
            not_before_us = self._kernel.now_us + self._window_us
            yield self._kernel.after(self._turn_s)
            # What it reads is what there is at the end of the turn: so no change is seen by half.
            if self._due and not self._stopped:
                self._due = False
                self._turn()
                self._kernel.under_way -= 1
