"""What goes wrong with an API server while 200 connections run and a VIP comes or goes, and who must have felt it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from core.errors import ApiError
from scenarios.spec import Delete, SocketAddress
from tests.netns._converged import assert_converged
from tests.netns._probes import probing
from tests.netns._world import World, l34_route

OTHER_VIP: Final = "40.0.0.1"
DELETE_OTHER: Final = Delete(name="delete", kind="L34Route", namespace="default", object_name="other-vip")
OTHER: Final = SocketAddress.parse(f"{OTHER_VIP}:4000")
READERS: Final = ("stateless", "tidegate-controller", "tidegate-endpoint")
"""Beginnings of the names of Pods that watch: both gateway pods, the controller, the endpoint agent of each node."""
FELT_BY: Final = {"status 409": ("tidegate-controller",), "disorder": ("stateless", "tidegate-controller")}
"""Only these write when a VIP comes or goes; only these are told of two changes when it comes and goes again."""
BLANKET: Final = frozenset({"refuse", "reset", "hang", "garbage"})
"""Under these the API takes no change from anybody."""
OF_WATCHES: Final = frozenset({"disorder"})
LONGEST_S: Final = 60.0

FAULTS: Final[dict[str, list[dict[str, Any]]]] = {
    "refuse": [{"action": "refuse"}],
    "reset": [{"action": "reset"}],
    "hang": [{"action": "hang"}],
    "garbage": [{"action": "garbage"}],
    "status 409": [
        {"action": "status", "code": 409, "verbs": ["patch", "update", "create", "delete"], "spare_asker": True}
    ],
    "status 410": [{"action": "compact"}, {"action": "status", "code": 410, "verbs": ["watch"], "spare_asker": True}],
    "status 429": [{"action": "status", "code": 429, "retry_after_s": 1, "spare_asker": True}],
    "status 500": [{"action": "status", "code": 500, "spare_asker": True}],
    "disorder": [{"action": "disorder", "spare_asker": True}],
    "stale": [
        {"action": "stale", "behind": 60, "spare_asker": True},
        {"action": "status", "code": 410, "verbs": ["watch"], "spare_asker": True},
    ],
}
"""By the name under which the server counts them. Nobody lists who need not, so watches are broken for stale lists to be asked for."""


def wait_for_watches(world: World) -> None:
    """Returns when every process of the gateway follows the API."""
    felt_by = _addresses(world, READERS)

    def missing() -> str:
        try:
            there = world.watches().keys()
        except OSError as error:
            return str(error)
        return ", ".join(name for name, own in felt_by.items() if not own & there)

    world.wait_for(missing)


def _addresses(world: World, beginnings: tuple[str, ...]) -> dict[str, set[str]]:
    """The addresses of the Pods whose names begin so, by name."""
    pods = [pod for pod in world.view().objects.pods if pod.meta.name.startswith(beginnings)]
    assert pods
    return {pod.meta.name: set(world.pod_ips(pod)) for pod in pods}


def undergo(world: World, *whats: str) -> None:
    """The faults last until each has had its effect on every process of the gateway that it could have one on, and a VIP comes or goes:
    under each of them where the API takes the change, else as soon as it does.
    """
    wait_for_watches(world)
    spared = {what: spared_by(world, what) for what in whats}
    for what in whats:
        order(world, what, LONGEST_S)
        if what not in BLANKET:
            flip_other_vip(world)

        def missing(what: str = what) -> str:
            left = spared[what]()
            if left and what in OF_WATCHES:
                # It strikes the watches that run, and two changes of each: some may just have come back from the fault before.
                order(world, what, LONGEST_S)
                flip_other_vip(world)
            return left

        world.wait_for(missing)
    world.clear_faults()
    if BLANKET & set(whats):
        flip_other_vip(world)


def spared_by(world: World, what: str) -> Callable[[], str]:
    """Tells the processes of the gateway on which a fault could have had an effect, and has had none."""
    felt_by = _addresses(world, FELT_BY.get(what, READERS))

    def spared() -> str:
        try:
            struck = world.struck().get(what, {})
        except OSError as error:
            return str(error)
        names = [name for name, own in felt_by.items() if not own & struck.keys()]
        return f"{what} has not struck {', '.join(names)}, only {struck}" if names else ""

    return spared


def order(world: World, what: str, seconds: float) -> None:
    """The fault is on from now."""
    for fault in FAULTS[what]:
        world.fault(seconds=seconds, **fault)


def has_other(world: World) -> bool:
    """Whether the second VIP is there, as far as the test's own watch has told it."""
    return any(route.meta.name == "other-vip" for route in world.view().objects.routes)


def flip_other_vip(world: World) -> None:
    """The second VIP comes if it is not there, and goes if it is; tried again as long as the API does not take it, or has not told."""
    there = has_other(world)

    def missing() -> str:
        if has_other(world) != there:
            return ""
        try:
            if there:
                world.mininet.act(DELETE_OTHER)
            else:
                world.mininet.apply([l34_route("other-vip", OTHER_VIP, "TCP", 4000)])
        except ApiError as error:
            return f"the change was not taken: {error}"
        return "the API has not told of the change"

    world.wait_for(missing)


@contextmanager
def hurt(world: World) -> Iterator[None]:
    """What happens inside happens to 200 connections, none of which notices, and to single datagrams, none of which is lost or led
    astray; and in the end nothing is left of it."""
    held = world.hold()
    try:
        with probing(world):
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
