"""What `plan` and `explain` start from: manifests, and the Pods that they would lead to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.kube import Json
from core.plan import Plan
from scenarios.assumed import Assumption, with_assumed_pods
from scenarios.manifests import desired, read_manifests
from scenarios.predict import plan_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedInput:
    objects: tuple[Json, ...]
    """As in a cluster: of two with one name the later; assumed Pods included."""
    assumptions: tuple[Assumption, ...]
    plan: Plan

    def assumed_line(self) -> str:
        """What was assumed, for stderr; ``""`` when nothing was."""
        if not self.assumptions:
            return ""
        return "assumed, with made-up names and addresses: " + "; ".join(map(str, self.assumptions))


def plan_files(files: Sequence[Path], *, assume_pods: bool = True) -> PlannedInput:
    """The plan of manifests. Raises InputError with every problem."""
    objects = desired(read_manifests(files))
    assumptions: tuple[Assumption, ...] = ()
    if assume_pods:
        objects, assumptions = with_assumed_pods(objects)
    return PlannedInput(objects=tuple(objects), assumptions=assumptions, plan=plan_of(objects))
