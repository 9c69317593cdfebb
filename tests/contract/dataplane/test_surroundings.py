"""What the node has set otherwise than a gateway needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.contract.dataplane.conftest import Plane
from tests.contract.dataplane.sets import simple
from tests.contract.dataplane.test_path_mtu import (
    CONNECTIONS,
    PAYLOAD,
    answer_with_length,
    far_client,
    holding,
    serving,
    upload,
)
from tests.contract.dataplane.world import World

INTERFACES = ("ext0", "t0", "t1", "t2", "t3")


def assert_transfers_succeed(plane: Plane, world: World, version: int) -> None:
    plane.apply(simple(world, version, [0, 1, 2, 3]), interfaces=INTERFACES)
    with (
        holding(world, version),
        far_client(world, version, narrow=False) as far,
        serving(world, version, answer_with_length),
    ):
        answers = [far.run(partial(upload, version)) for _ in range(CONNECTIONS)]
    assert answers == [b"%d" % len(PAYLOAD)] * CONNECTIONS


@contextmanager
def source_validation(world: World, value: str) -> Iterator[None]:
    names = [f"net__ipv4__conf__{name}__rp_filter" for name in ("all", *INTERFACES)]
    world.gateway.sysctl(**dict.fromkeys(names, value))
    try:
        yield
    finally:
        world.gateway.sysctl(**dict.fromkeys(names, "0"))


@pytest.mark.parametrize("value", ["1", "2"])
def test_replies_pass_where_the_node_validates_sources(plane: Plane, gateway_world: World, value: str) -> None:
    """Strictly (1), or loosely (2) as systemd sets it: a reply comes from a VIP, to which no route leads."""
    with source_validation(gateway_world, value):
        assert_transfers_succeed(plane, gateway_world, 4)


@pytest.mark.parametrize("version", [4, 6])
def test_new_devices_without_ipv6(plane: Plane, gateway_world: World, version: int) -> None:
    """Container runtimes turn it off, and on for the interfaces that have IPv6 addresses."""
    gateway_world.gateway.sysctl(net__ipv6__conf__default__disable_ipv6="1")
    try:
        assert_transfers_succeed(plane, gateway_world, version)
    finally:
        gateway_world.gateway.sysctl(net__ipv6__conf__default__disable_ipv6="0")
