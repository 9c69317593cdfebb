"""What a person sees of a run: connections by target, predicted beside measured; then the expectations."""

from __future__ import annotations

from collections.abc import Iterator

from scenarios.runner import Outcome
from scenarios.tables import mark, print_line, print_table


def print_outcome(outcome: Outcome, out: str) -> None:
    """The tables of a run: connections by target, predicted beside measured; the expectations; where the rest is."""
    if outcome.traffic:
        several = len(outcome.traffic) > 1
        head = ("traffic", "target", "predicted", "measured") if several else ("target", "predicted", "measured")
        print_table(head, (row if several else row[1:] for row in _target_rows(outcome)))
        print_line("")
    rows = [
        (
            v.expectation.name,
            f"{v.expectation.op} {v.expectation.other_name or f'{v.expectation.bound:g}'}",
            _number(v.value),
            mark(v.ok),
        )
        for v in outcome.verdicts
    ]
    print_table(("expectation", "bound", "measured", ""), rows)
    print_line("")
    print_line(f"{outcome.scenario.name}: {'good' if outcome.ok else 'FAILED'}; results in {out}", "bold")


def _target_rows(outcome: Outcome) -> Iterator[tuple[object, ...]]:
    for one in outcome.traffic:
        predicted, measured = one.predicted_counts(), one.measured_counts()
        for name in sorted(predicted | measured):
            yield one.traffic.name, name, predicted[name], measured[name]


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:g}"
