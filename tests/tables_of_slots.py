"""Where connections of the library's scenarios go when some slots have targets: tables of the core, without any world."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from core.lb.forwarding import Forwarding, Pool
from core.lb.placement import FiveTuples, place
from scenarios.assumed import with_assumed_pods
from scenarios.load import LoadedScenario
from scenarios.manifests import desired, read_manifests
from scenarios.predict import gateway_of, plan_of
from scenarios.spec import Traffic
from scenarios.tuples import five_tuples

SLOTS = 8


class Tables:
    """The tables of the application behind a traffic's destination, by the slots that have targets."""

    def __init__(self, loaded: LoadedScenario, traffic: Traffic) -> None:
        manifests = desired(read_manifests(loaded.manifests))
        for obj in manifests:
            if obj["kind"] == "Deployment":
                obj["spec"]["replicas"] = SLOTS
        found = gateway_of(plan_of(with_assumed_pods(manifests)[0]), traffic.to.address)
        assert found is not None
        self._forwarding = found.forwarding
        scenario = loaded.scenario
        self.tuples: FiveTuples = five_tuples(traffic, scenario.router(traffic.source), scenario.seed)

    def slot_of(self, slots: Collection[int]) -> NDArray[np.int64]:
        """The slot to which each connection goes; shape (n,)."""
        placement = place(_with_slots(self._forwarding, slots), self.tuples)
        return np.array([target.slot for target in placement.targets])[placement.target]

    def there_and_back(
        self, before: Collection[int], between: Collection[int], after: Collection[int]
    ) -> NDArray[np.bool_]:
        """Connections that `between` leads elsewhere than `before` and `after` do; shape (n,)."""
        first, middle, last = map(self.slot_of, (before, between, after))
        moved: NDArray[np.bool_] = (first == last) & (middle != first)
        return moved


def _with_slots(forwarding: Forwarding, slots: Collection[int]) -> Forwarding:
    def pool_with(pool: Pool) -> Pool:
        return replace(
            pool,
            backends=tuple(
                replace(each, targets=tuple(target for target in each.targets if target.slot in slots))
                for each in pool.backends
            ),
        )

    return replace(forwarding, pools=tuple(map(pool_with, forwarding.pools)))
