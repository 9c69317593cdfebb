"""Addresses and ports of a scenario that two would have at the same time. Virtual time would not notice; a network does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from core.errors import Problem
from core.lb.placement import FiveTuples
from core.model import Address
from scenarios.load import LoadedScenario
from scenarios.manifests import ManifestObject, network_config
from scenarios.spec import Mode, Step, Traffic
from scenarios.tuples import five_tuples
from sim.cluster.networks import AddressRange, Whereabouts, vlan_bridge


def collisions(loaded: LoadedScenario, objects: Iterable[ManifestObject]) -> Iterator[Problem]:
    """Addresses of routers that Pods may be given, and connections that another traffic has open at the same time."""
    yield from _given_away(loaded, objects)
    yield from _opened_twice(loaded)


def _given_away(loaded: LoadedScenario, objects: Iterable[ManifestObject]) -> Iterator[Problem]:
    networks = [(found.ref, config) for found in objects if (config := network_config(found)) is not None]
    for i, router in enumerate(loaded.scenario.topology.routers):
        ranges = [
            (ref, wanted)
            for ref, config in networks
            if config.bridge == vlan_bridge(router.vlan) and isinstance(config.ipam, Whereabouts)
            for wanted in config.ipam.ranges
        ]
        for j, address in enumerate(router.addresses):
            for ref, wanted in ranges:
                if _may_give(wanted, address.ip):
                    yield Problem(
                        where=loaded.node.line_at(("topology", "routers", i, "addresses", j)),
                        what=f"a Pod may be given the address of router {router.name!r}",
                        found=f"{address.ip}, in the range {wanted.network} of {ref}",
                        expected=f"an address outside of the range, or {address.ip}/{address.max_prefixlen} among its exclude",
                    )


def _may_give(wanted: AddressRange, address: Address) -> bool:
    return (
        address.version == wanted.network.version
        and int(wanted.first) <= int(address) <= int(wanted.last)
        and not any(address in excluded for excluded in wanted.exclude)
    )


def _opened_twice(loaded: LoadedScenario) -> Iterator[Problem]:
    scenario = loaded.scenario
    steps = {step.name: step for step in scenario.steps}
    for (i, one), (j, other) in combinations(enumerate(scenario.traffic), 2):
        if (one.source, one.protocol, one.to) != (other.source, other.protocol, other.to):
            continue
        if not _at_the_same_time(one, other, steps):
            continue
        router = scenario.router(one.source)
        shared = _shared(five_tuples(one, router, scenario.seed), five_tuples(other, router, scenario.seed))
        if shared:
            yield Problem(
                where=loaded.node.line_at(("traffic", max(i, j), "name")),
                what=f"{one.name!r} and {other.name!r} have the same connections open at the same time",
                found=f"{shared} with the same source address and port",
                expected="another first_source_port, or one after the other",
            )


def _at_the_same_time(one: Traffic, other: Traffic, steps: Mapping[str, Step]) -> bool:
    """Whether connections of both are surely open at one moment."""
    for first, second in ((one, other), (other, one)):
        if _waits_for(second, first, steps):
            return first.mode is Mode.LONG
    if one.after != other.after:
        return False
    first, second = sorted((one, other), key=_start_s)
    return first.mode is Mode.LONG or _start_s(first) == _start_s(second)


def _start_s(step: Step) -> float:
    """When it begins, after the step before it."""
    return (step.at_s or 0.0) + step.delay_s


def _waits_for(step: Step, first: Step, steps: Mapping[str, Step]) -> bool:
    while step.after is not None:
        step = steps[step.after]
        if step is first:
            return True
    return False


def _shared(one: FiveTuples, other: FiveTuples) -> int:
    """How many source addresses and ports both have."""
    number: dict[Address, int] = {}
    return int(np.intersect1d(_keys(one, number), _keys(other, number), assume_unique=True).size)


def _keys(tuples: FiveTuples, number: dict[Address, int]) -> NDArray[np.int64]:
    """One number for each source address and port, where `number` has one for each address and gets those that it lacks."""
    sources = np.array([number.setdefault(source, len(number)) for source in tuples.sources], np.int64)
    return (sources[tuples.source] << 16) + tuples.source_port
