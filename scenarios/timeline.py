"""The order of a scenario's steps: which may begin, which are over, and until when to wait. No clock of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from scenarios.spec import Action, Traffic

Step = Traffic | Action


@dataclass(slots=True)
class Timeline:
    """Steps by name; times are seconds since time zero of the scenario."""

    steps: Sequence[Step]
    begun_s: dict[str, float] = field(default_factory=dict)
    over_s: dict[str, float] = field(default_factory=dict)

    def due(self, now_s: float) -> Iterator[Step]:
        """The steps that may begin now and have not, in the order of the scenario."""
        for step in self.steps:
            start_s = self.start_s(step)
            if step.name not in self.begun_s and start_s is not None and start_s <= now_s:
                yield step

    def start_s(self, step: Step) -> float | None:
        """When a step begins; None while the step before it is not over."""
        if step.after is None:
            return step.at_s or 0.0
        return self.over_s[step.after] + step.delay_s if step.after in self.over_s else None

    def running(self) -> Iterator[Step]:
        """The steps that have begun and are not over."""
        return (step for step in self.steps if step.name in self.begun_s and step.name not in self.over_s)

    def late(self, now_s: float) -> Iterator[Step]:
        """The steps whose deadline has passed."""
        return (step for step in self.running() if now_s >= self.begun_s[step.name] + step.deadline_s)

    def next_s(self) -> float | None:
        """When to look again at the latest; None when every step is over."""
        starts = [self.start_s(step) for step in self.steps if step.name not in self.begun_s]
        deadlines = [self.begun_s[step.name] + step.deadline_s for step in self.running()]
        return min([start for start in starts if start is not None] + deadlines, default=None)
