"""What `plan` and `explain` start from: manifests, and the Pods that they would lead to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError, Problem
from core.kube import Json
from core.plan import Plan
from scenarios.assumed import Assumption, with_assumed_pods
from scenarios.crosscheck import cross_problems
from scenarios.manifests import by_line, desired, scan_manifests
from scenarios.predict import plan_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedInput:
    objects: tuple[Json, ...]
    """As in a cluster: of two with one name the later; assumed Pods included."""
    assumptions: tuple[Assumption, ...]
    plan: Plan
    problems: tuple[Problem, ...] = ()
    """What is wrong with the files. Where an object is broken, the plan is that of the others."""
    doubts: tuple[Problem, ...] = ()
    """What is wrong between objects: what they name is missing, or not theirs."""

    def assumed_line(self) -> str:
        """What was assumed, for stderr; ``""`` when nothing was."""
        if not self.assumptions:
            return ""
        return "assumed, with made-up names and addresses: " + "; ".join(map(str, self.assumptions))


def plan_files(files: Sequence[Path], *, assume_pods: bool = True) -> PlannedInput:
    """The plan of what can be read of the manifests. Raises InputError with every problem when that is nothing."""
    found, problems = scan_manifests(files)
    if problems and not found:
        raise InputError(*problems)
    objects = desired(found)
    assumptions: tuple[Assumption, ...] = ()
    if assume_pods:
        objects, assumptions = with_assumed_pods(objects)
    plan = plan_of(objects)
    return PlannedInput(
        objects=tuple(objects),
        assumptions=assumptions,
        plan=plan,
        problems=tuple(problems),
        doubts=tuple(sorted(cross_problems(plan, found, problems), key=by_line)),
    )
