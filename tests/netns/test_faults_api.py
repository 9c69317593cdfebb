"""The API server is away, slow, busy or confused while 200 connections run and a VIP comes or goes: packets do not care, and
afterwards everything is as the plan says.

The nft plane: what the API does to an agent is the same on both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from core.errors import ApiError
from scenarios.spec import Delete, SocketAddress
from tests.netns._converged import assert_converged
from tests.netns._world import World, l34_route, require_world

pytestmark = pytest.mark.shared_sandbox

LONG_S = 1.5
"""Of a fault: several tries of every client fall into it."""
OTHER_VIP = "40.0.0.1"
DELETE_OTHER = Delete(name="delete", kind="L34Route", namespace="default", object_name="other-vip")
OTHER = SocketAddress.parse(f"{OTHER_VIP}:4000")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require_world("nft")
    world = World("nft", tmp_path_factory.mktemp("world"))
    world.start()
    yield world
    world.mininet.stop()


def has_other(world: World) -> bool:
    return any(route.meta.name == "other-vip" for route in world.view().objects.routes)


def flip_other_vip(world: World) -> None:
    """The second VIP comes if it is not there, and goes if it is; tried again as long as the API does not take it."""
    there = has_other(world)

    def missing() -> str:
        try:
            if there:
                world.mininet.act(DELETE_OTHER)
            else:
                world.mininet.apply([l34_route("other-vip", OTHER_VIP, "TCP", 4000)])
        except ApiError as error:
            return f"the change was not taken: {error}"
        return ""

    world.wait_for(missing)


@contextmanager
def hurt(world: World) -> Iterator[None]:
    """What happens inside happens to 200 connections, none of which notices; and in the end nothing is left of it."""
    held = world.hold()
    try:
        yield
    finally:
        world.clear_faults()
    assert_converged(world)
    world.connects()
    if has_other(world):
        world.connects(to=OTHER)
    held.all_survive()


def outlast(until_s: float) -> None:
    """A fault has a length, and that is what is waited for."""
    time.sleep(max(0.0, until_s - time.monotonic()))


AWAY: dict[str, list[dict[str, Any]]] = {
    "refused": [{"action": "refuse"}],
    "reset": [{"action": "reset"}],
    "half open": [{"action": "hang"}],
    "garbage": [{"action": "garbage"}],
    "409": [{"action": "status", "code": 409, "verbs": ["patch", "update", "create", "delete"]}],
    "429": [{"action": "status", "code": 429, "retry_after_s": 1}],
    "500": [{"action": "status", "code": 500}],
    "410": [{"action": "compact"}, {"action": "end_watches"}, {"action": "status", "code": 410, "verbs": ["watch"]}],
}


@pytest.mark.parametrize("what", AWAY)
def test_the_api_server_misbehaves(world: World, what: str) -> None:
    with hurt(world):
        until_s = time.monotonic() + LONG_S
        for fault in AWAY[what]:
            world.fault(seconds=LONG_S, **fault)
        flip_other_vip(world)
        outlast(until_s)


def test_the_api_server_stands_still(world: World) -> None:
    """Its connections stay open, and nothing comes."""
    with hurt(world):
        with world.paused(world.pid_of("control-plane", "sim.cluster.apiserver")):
            outlast(time.monotonic() + LONG_S)
        flip_other_vip(world)


def test_events_out_of_order_and_a_stale_list(world: World) -> None:
    """Watches tell of changes in the wrong order, and the lists that their clients ask for then are of long ago."""
    with hurt(world):
        until_s = time.monotonic() + LONG_S
        world.fault(action="stale", behind=60, seconds=LONG_S)
        world.fault(action="disorder", seconds=LONG_S)
        flip_other_vip(world)
        flip_other_vip(world)
        outlast(until_s)
        world.fault(action="end_watches")
