"""Pods that are assumed have the addresses that the imitated cluster would give them."""

from __future__ import annotations

import copy
import io
import json
from typing import Any

import pytest

from core import names
from core.kube import Json
from scenarios.assumed import with_assumed_pods
from scenarios.load import LoadedScenario, load_scenario
from scenarios.manifests import desired, read_manifests
from scenarios.progress import Progress
from scenarios.runner import run
from scenarios.sim_world import SimWorld

LOADED = load_scenario("poc2-stateless")
INSIDE = "default/macvlan-nad-2"
TARGETS = "example-target-application-b"


def manifests(**ipam: Any) -> list[Json]:
    """Those of poc2, with other addresses inside."""
    objects = copy.deepcopy(desired(read_manifests(LOADED.manifests)))
    (network,) = (obj for obj in objects if obj["metadata"]["name"] == "macvlan-nad-2")
    config = json.loads(network["spec"]["config"]) | {"ipam": {"type": "whereabouts"} | ipam}
    network["spec"]["config"] = json.dumps(config)
    return objects


def inside(objects: list[Json]) -> list[str]:
    """The addresses that the targets have inside, in the order of their names."""
    statuses = [
        json.loads(obj["metadata"]["annotations"][names.NETWORK_STATUS])
        for obj in sorted(objects, key=lambda obj: str(obj["metadata"]["name"]))
        if obj["kind"] == "Pod" and obj["metadata"]["name"].startswith(TARGETS)
    ]
    return [ip for status in statuses for network in status if network["name"] == INSIDE for ip in network["ips"]]


@pytest.mark.parametrize(
    ("range_", "expected"),
    [
        ({"range": "169.222.100.0/24"}, ["169.222.100.1", "169.222.100.2", "169.222.100.3", "169.222.100.4"]),
        (
            {"range": "169.222.100.0/24", "exclude": ["169.222.100.1/30"]},
            ["169.222.100.4", "169.222.100.5", "169.222.100.6", "169.222.100.7"],
        ),
        (
            {"range": "169.222.100.10-169.222.100.12/24", "exclude": ["169.222.100.11/32"]},
            ["169.222.100.10", "169.222.100.12"],
        ),
        (
            {"range": "169.222.100.0/24", "range_start": "169.222.100.250", "range_end": "169.222.100.252"},
            ["169.222.100.250", "169.222.100.251", "169.222.100.252"],
        ),
        ({"range": "fd00::/64", "range_start": "fd00::1:0:0:0"}, [f"fd00::1:0:0:{i}" for i in range(4)]),
        ({"range": "169.222.100.0/24", "range_start": "2000::1"}, []),
        ({"range": "169.222.100.0/24", "exclude": ["nonsense"]}, []),
    ],
)
def test_addresses_are_the_first_free_ones_of_the_range(range_: Json, expected: list[str]) -> None:
    assert inside(with_assumed_pods(manifests(ipRanges=[range_]))[0]) == expected
    assert inside(with_assumed_pods(manifests(**range_))[0]) == expected


def test_networks_with_one_range_share_its_addresses() -> None:
    objects = manifests(range="169.254.100.0/24")
    pods = [obj for obj in with_assumed_pods(objects)[0] if obj["kind"] == "Pod"]
    statuses = [json.loads(pod["metadata"]["annotations"][names.NETWORK_STATUS]) for pod in pods]
    addresses = [ip for status in statuses for network in status for ip in network["ips"]]
    assert len(addresses) == len(set(addresses)) == 4 + 2 * 2


@pytest.mark.parametrize("kind", ["sriov", "macvlan"])
def test_the_plugin_does_not_matter(kind: str) -> None:
    objects = manifests(range="169.222.100.0/24")
    (network,) = (obj for obj in objects if obj["metadata"]["name"] == "macvlan-nad-2")
    network["spec"]["config"] = network["spec"]["config"].replace("macvlan", kind)
    assert len(inside(with_assumed_pods(objects)[0])) == 4


def test_deployments_and_pods_of_other_groups_are_nothing_to_us() -> None:
    objects = manifests(range="169.222.100.0/24")
    theirs = [
        {"apiVersion": "example.com/v1", "kind": kind, "metadata": {"name": "x"}} for kind in ("Pod", "Deployment")
    ]
    found, assumptions = with_assumed_pods(objects + theirs)
    assert len(inside(found)) == 4
    assert [assumption.pods for assumption in assumptions] == [4, 2]


class NoEvents:
    def event(self, t_s: float, event: str, **more: object) -> None:
        pass


class Other(SimWorld):
    """A virtual world whose targets have other addresses inside."""

    def apply(self, objects: Any) -> None:
        super().apply(manifests(**RANGE) if len(objects) > 1 else objects)


RANGE = {"range": "169.222.100.0/24", "range_start": "169.222.100.3", "exclude": ["169.222.100.5/30"]}


def test_virtual_time_gives_the_same() -> None:
    world = Other()
    loaded: LoadedScenario = LOADED
    outcome = run(loaded, world, NoEvents(), Progress(world.now_s, io.StringIO(), quiet=True))
    assert outcome.ok
    assert outcome.after is not None
    assert sorted(inside(list(outcome.after.objects))) == sorted(inside(with_assumed_pods(manifests(**RANGE))[0]))
