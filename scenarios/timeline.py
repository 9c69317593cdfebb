"""The order of a scenario's steps: which may begin, which are over, and until when to wait. No clock of its own.

Times are whole microseconds: sums and differences of fractions of seconds are rounded, so that whoever had waited until a step begins
could find that it does not begin yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from scenarios.spec import Action, Traffic

Step = Traffic | Action
US = 1_000_000
"""Microseconds in a second."""


def whole_us(time_s: float) -> int:
    """A time in whole microseconds. Of two times in seconds, the later one is never the earlier here."""
    return round(time_s * US)


@dataclass(slots=True)
class Timeline:
    """Steps by name; times are microseconds since time zero of the scenario."""

    steps: Sequence[Step]
    begun_us: dict[str, int] = field(default_factory=dict)
    over_us: dict[str, int] = field(default_factory=dict)

    def due(self, now_us: int) -> Iterator[Step]:
        """The steps that may begin now and have not, in the order of the scenario."""
        for step in self.steps:
            start_us = self.start_us(step)
            if step.name not in self.begun_us and start_us is not None and start_us <= now_us:
                yield step

    def start_us(self, step: Step) -> int | None:
        """When a step begins; None while the step before it is not over."""
        if step.after is None:
            return whole_us(step.at_s or 0.0)
        return self.over_us[step.after] + whole_us(step.delay_s) if step.after in self.over_us else None

    def running(self) -> Iterator[Step]:
        """The steps that have begun and are not over."""
        return (step for step in self.steps if step.name in self.begun_us and step.name not in self.over_us)

    def late(self, now_us: int) -> Iterator[Step]:
        """The steps whose deadline has passed."""
        return (step for step in self.running() if now_us >= self._deadline_us(step))

    def next_us(self) -> int | None:
        """When to look again at the latest; None when every step is over."""
        starts = [self.start_us(step) for step in self.steps if step.name not in self.begun_us]
        deadlines = [self._deadline_us(step) for step in self.running()]
        return min([start for start in starts if start is not None] + deadlines, default=None)

    def _deadline_us(self, step: Step) -> int:
        return self.begun_us[step.name] + whole_us(step.deadline_s)
