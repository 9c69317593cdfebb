"""The API server is away, slow, busy or confused while 200 connections run and a VIP comes or goes: packets do not care, and
afterwards everything is as the plan says.

The nft plane: what the API does to an agent is the same on both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import kube, names
from scenarios.convergence import missing_in_api
from tests.netns._api_faults import FAULTS, flip_other_vip, hurt, order, outlast, spared_by, undergo, wait_for_watches
from tests.netns._converged import _statuses, assert_converged
from tests.netns._world import World, require_world

pytestmark = pytest.mark.shared_sandbox

LONG_S = 1.2
"""Several tries of every client fall into it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require_world("nft")
    world = World("nft", tmp_path_factory.mktemp("world"))
    world.start()
    yield world
    world.mininet.stop()


def test_the_check_notices_what_is_wrong_in_the_api(world: World) -> None:
    """Nobody mends it meanwhile, for the controller stands still."""
    assert_converged(world)
    (slice_,) = world.api.list(kube.ENDPOINT_SLICES, namespace="default")
    (gateway,) = world.api.list(kube.GATEWAYS, namespace="default")
    target = world.targets()[0].meta.ref
    namespace, name = slice_["metadata"]["namespace"], slice_["metadata"]["name"]
    conditions = [condition | {"message": "wrong"} for condition in gateway["status"]["conditions"]]
    metadata = {"namespace": namespace, "name": "left-over", "labels": slice_["metadata"]["labels"]}
    (controller,) = world.system_pods("tidegate-controller")

    def missing(text: str) -> str:
        view = world.view()
        return (
            "" if any(text in found for found in (*missing_in_api(view), *_statuses(view))) else f"not noticed: {text}"
        )

    with world.paused(world.pids(controller)["controller"]):
        nothing = {"metadata": {"annotations": {names.ATTACHMENT: "[]"}}}
        world.api.merge_patch(kube.PODS, "default", target.name, nothing)
        world.wait_for(lambda: missing(f"the attachment of {target} is not written"))
        world.api.merge_patch(kube.ENDPOINT_SLICES, namespace, name, {"endpoints": slice_["endpoints"][1:]})
        world.wait_for(lambda: missing(f"EndpointSlice {namespace}/{name} is not as the plan says"))
        world.api.create(kube.ENDPOINT_SLICES, slice_ | {"metadata": metadata, "endpoints": []})
        world.wait_for(lambda: missing("EndpointSlice default/left-over is not as the plan says"))
        status = {"status": {"conditions": conditions}}
        world.api.merge_patch(kube.GATEWAYS, "default", gateway["metadata"]["name"], status, subresource="status")
        world.wait_for(
            lambda: missing(f"the status of Gateway default/{gateway['metadata']['name']} is not as the plan says")
        )


@pytest.mark.parametrize("what", [what for what in FAULTS if what not in ("refuse", "disorder")])
def test_the_api_server_misbehaves(world: World, what: str) -> None:
    with hurt(world):
        undergo(world, what)


def test_the_api_server_is_away(world: World) -> None:
    wait_for_watches(world)
    with hurt(world):
        spared = spared_by(world, "refuse")
        order(world, "refuse", LONG_S)
        flip_other_vip(world)
        world.wait_for(spared)


def test_the_api_server_stands_still(world: World) -> None:
    """Its connections stay open, and nothing comes."""
    with hurt(world):
        with world.paused(server := world.pid_of("control-plane", "sim.cluster.apiserver")):
            outlast(time.monotonic() + LONG_S)
            assert Path(f"/proc/{server}/stat").read_text().rpartition(") ")[2][0] == "T", "it was not stopped"
        flip_other_vip(world)


def test_events_out_of_order_and_a_stale_list(world: World) -> None:
    """Watches tell of changes in the wrong order, and the lists that their clients ask for then are of long ago."""
    with hurt(world):
        undergo(world, "disorder", "stale")
