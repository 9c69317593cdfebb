"""A turn of the load balancer: what it tells the kernel of Pods that come, go and are replaced, and what it tells the router."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from core import names
from core.errors import DataplaneError
from core.forwarding_plan import ForwardingPlanner
from core.lb.forwarding import Forwarding
from core.manifests import parse
from core.model import Address, Endpoint, EndpointSlice, Meta, ObjectRef
from core.ports import FlowCounter
from live.agent.load_balancer import VERIFY_S, LoadBalancer
from live.agent.programmed import Programmed, Vips
from tests import objects

VIP = ip_network("20.0.0.1/32")
REF = ObjectRef(kind="EndpointSlice", namespace="default", name="svc-ipv4")


class Kernel:
    """A data plane, and the neighbours; `said` has what was asked of them, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[str, object]] = []
        self.refuses = self.refuses_sets = False
        self.order: list[str] = []
        """What was asked for between the last two calls of `neighbours`."""

    def apply(self, forwarding: Forwarding, *, interfaces: Sequence[str]) -> None:
        if self.refuses_sets:
            raise DataplaneError("the kernel refuses")
        self.said.append(("apply", forwarding))
        self.interfaces = tuple(interfaces)

    def counters(self) -> Sequence[FlowCounter]:
        return ()

    def remove(self) -> None:
        raise AssertionError

    def forget(self, addresses: Collection[Address]) -> None:
        if self.refuses:
            raise DataplaneError("the kernel refuses")
        self.said.append(("forget", sorted(map(str, addresses))))

    def doubt(self, addresses: Collection[Address]) -> None:
        self.said.append(("doubt", sorted(map(str, addresses))))

    def neighbours(self) -> list[tuple[str, object]]:
        """What was asked of neighbours since the last call."""
        found = [one for one in self.said if one[0] != "apply"]
        self.order = [kind for kind, _ in self.said]
        self.said.clear()
        return found


class World:
    """A Gateway with two routes to one Service."""

    def __init__(self) -> None:
        self.planner = ForwardingPlanner("default", "gw")
        for obj in (
            objects.gateway(),
            objects.service(),
            objects.l34_route(),
            objects.l34_route("second", destinationPorts=["5000"]),
        ):
            for model in parse([obj])[0].all():
                self.planner.put(model)
        self.kernel = Kernel()
        self.now_s = 0.0
        self.programmed = Programmed()
        self.balancer = LoadBalancer(
            self.planner,
            lambda: None,
            self.kernel,
            self.programmed,
            forget=self.kernel.forget,
            doubt=self.kernel.doubt,
            now_s=lambda: self.now_s,
        )

    def turn(self, **pods: int) -> list[tuple[str, object]]:
        """Pod names with the last number of their address; what was asked of neighbours."""
        endpoints = tuple(
            Endpoint(
                address=ip_address(f"10.0.0.{number}"),
                pod=name,
                pod_uid=name,
                slot=slot,
                ready=True,
                serving=True,
                terminating=False,
            )
            for slot, (name, number) in enumerate(pods.items())
        )
        slice_ = EndpointSlice(
            meta=Meta(ref=REF), service="svc", version=4, endpoints=endpoints, managed_by=names.SLICE_MANAGER
        )
        self.planner.put(replace(slice_, reserved={name: slot for slot, name in enumerate(pods)}))
        self.balancer.reconcile()
        return self.kernel.neighbours()

    def vips(self) -> Vips:
        known = self.programmed.wait(None, 0.0)
        assert known is not None
        return known[1]


def test_after_a_restart_neighbours_are_doubted_and_not_forgotten() -> None:
    assert World().turn(a=1, b=2) == [("doubt", ["10.0.0.1", "10.0.0.2"])]


def test_an_address_with_another_pod_behind_it_is_forgotten_and_no_other() -> None:
    world = World()
    world.turn(a=1, b=2)
    assert world.turn(a=1, b=2) == []
    assert world.turn(a=1, c=2) == [("forget", ["10.0.0.2"])]
    assert world.kernel.order == ["forget", "apply"], "the first packet to the new one finds its place asked for"
    assert world.turn(a=1) == []
    assert world.turn(a=1, c=2) == [("forget", ["10.0.0.2"])], "it was away, and somebody else may have been there"
    assert world.turn(c=2, a=1) == [], "slots say nothing of places"


def test_what_the_kernel_refused_to_forget_is_forgotten_in_the_next_turn() -> None:
    world = World()
    world.turn(a=1)
    world.kernel.refuses = True
    with pytest.raises(DataplaneError):
        world.turn(b=1)
    world.kernel.refuses = False
    assert world.turn(b=1) == [("forget", ["10.0.0.1"])]


def test_a_vip_is_announced_while_a_target_is_there() -> None:
    world = World()
    world.turn()
    assert world.vips() == Vips(announced=(), vips=(VIP,))
    world.turn(a=1)
    assert world.vips() == Vips(announced=(VIP,), vips=(VIP,))
    world.planner.remove(REF)
    world.balancer.reconcile()
    assert world.vips() == Vips(announced=(), vips=(VIP,))


def test_what_nobody_changed_is_given_to_the_kernel_once_in_a_while_and_is_the_same_object() -> None:
    world = World()
    world.turn(a=1)
    first = world.balancer.forwarding
    world.now_s = VERIFY_S / 3
    assert world.balancer.reconcile() == VERIFY_S - world.now_s
    assert world.kernel.said == []
    world.now_s = VERIFY_S
    assert world.balancer.reconcile() == VERIFY_S
    assert [given is first for _, given in world.kernel.said] == [True]


def test_what_the_kernel_refused_is_given_again_even_if_it_is_what_it_had_before() -> None:
    world = World()
    world.turn(a=1)
    world.kernel.refuses_sets = True
    with pytest.raises(DataplaneError):
        world.turn(a=1, b=2)
    with pytest.raises(DataplaneError):
        world.turn(a=1)
    world.kernel.refuses_sets = False
    world.balancer.reconcile()
    assert [kind for kind, _ in world.kernel.said].count("apply") == 1
