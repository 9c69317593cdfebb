"""The gateway is hurt while 200 connections run: nothing breaks that need not, and everything is again as the plan says.

Both data planes; each has one world, which its tests use one after the other, and which every test leaves as it should be.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from core import kube
from core.manifests.workloads import LOAD_BALANCER_PORT
from core.model import Pod
from live.dataplane.nft_marks import MARK_BASE
from live.rtnetlink import Change, RouteSocket, RuleSpec
from scenarios.spec import Delete, Mode
from sim.net.impair import Impairments
from sim.net.namespaces import within
from tests.netns import _bpf_maps, _nft_maps
from tests.netns._api_faults import hurt, order, outlast, spared_by, undergo, wait_for_watches
from tests.netns._converged import assert_converged, bird_of, differences
from tests.netns._lab import same_moment
from tests.netns._probes import probing, unlost
from tests.netns._tables import planned_tables
from tests.netns._world import ROUTER, UDP, Held, Storm, World, require_world, targets_of

pytestmark = pytest.mark.shared_sandbox

AT_ONCE_S = 1.0
"""Far below what BFD takes to notice anything (1.5 s)."""


@pytest.fixture(scope="module", params=["tc", "nft"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require_world(request.param)
    world = World(request.param, tmp_path_factory.mktemp(f"world-{request.param}"))
    world.start()
    yield world
    world.mininet.stop()


def next_hops(world: World) -> set[str]:
    """The gateway pods over which the router outside reaches the VIP."""
    (vip,) = {vip for planned, _ in world.view().balancers() for vip in planned.vips}
    return {str(hop) for hop in world.mininet.speaker(ROUTER).observe().next_hops(vip)}


def outside_address(pod: Pod) -> str:
    """Where the router outside sees a gateway pod."""
    return next(str(n.addresses[0]) for n in pod.networks if n.name == "vlan-200")


def assert_exactly_the_moved_broke(held: Held) -> None:
    """The connections whose target changed are lost, and no other: not one more or less, and not others."""
    measured = held.finish()
    moved, lost = measured.must_break(), measured.connections.lost
    assert moved.any()
    wrong = measured.break_mismatches()
    assert not wrong.any(), (np.flatnonzero(wrong), moved.sum(), lost.sum(), measured.connections.errors)


def test_the_check_notices_what_is_too_much(world: World) -> None:
    """A check that finds nothing wherever one looks would pass every test here."""
    assert_converged(world)
    pod, target = world.gateway_pods()[0], world.targets()[0]
    left_over = RuleSpec(version=4, priority=20003, mark=MARK_BASE | 77, mask=0xFFFFFFFF, table=MARK_BASE | 77)
    of_replies = RuleSpec(version=4, priority=20100, source=world.view().plan.gateways[0].vips[0], table=77)
    for where, rule in ((target, left_over), (pod, left_over), (pod, of_replies)):
        with RouteSocket(world.netns(where)) as kernel:
            kernel.apply(Change(rules=[rule]))
            found = noticed(world, where)
            kernel.apply(Change(old_rules=[rule]))
        assert found, f"{rule} was not noticed"
    for what in SPOILED[world.dataplane]:
        with spoiled(world, pod, what):
            found = noticed(world, pod)
        assert found, f"a wrong {what} was not noticed"
    assert not list(differences(world))
    bird = bird_of(world, pod)
    bird.ask("disable vips4")
    assert "VIPs in BIRD" in noticed(world, pod)
    bird.ask("enable vips4")


def noticed(world: World, pod: Pod) -> str:
    """The first thing that is not as the plan says in a Pod; ``""``: all is."""
    return next((what for what in differences(world) if what.startswith(pod.meta.name)), "")


SPOILED = {
    "tc": ("image", "bucket", "target"),
    "nft": ("bucket", "element", "rule", "bucket of frames", "rule of frames", "mark route"),
}


@contextmanager
def spoiled(world: World, pod: Pod, what: str) -> Iterator[None]:
    """One thing in the kernel of a gateway pod is wrong meanwhile."""
    if world.dataplane == "tc":
        with _bpf_maps.spoiled(world.pids(pod)["load-balancer"], world.netns(pod), what):
            yield
    else:
        wrong = _nft_maps.spoiled(what)
        within(world.netns(pod), wrong.__enter__)
        try:
            yield
        finally:
            within(world.netns(pod), lambda: wrong.__exit__(None, None, None))


def test_a_load_balancer_agent_is_killed(world: World) -> None:
    """Fault 19 of the proof-of-concept: flows are lost when the balancer process restarts."""
    held = world.hold()
    with probing(world):
        world.kill(world.gateway_pods()[0], "load-balancer")
        world.connects()
    held.all_survive()


def test_a_router_agent_is_killed(world: World) -> None:
    """BIRD is the same process afterwards, and its session the same session."""
    held = world.hold()
    pod = world.gateway_pods()[0]
    before, sessions = world.pid_of(pod.meta.name, "bird -f"), bird_sessions(world, pod)
    assert all(state == "Established" for _, state, _ in sessions)
    with probing(world):
        world.kill(pod, "router")
        world.connects()
        assert_converged(world)
    assert world.pid_of(pod.meta.name, "bird -f") == before
    for (name, state, since), after in zip(sessions, bird_sessions(world, pod), strict=True):
        assert (name, state) == after[:2]
        assert same_moment(since, after[2])
    held.all_survive()


def bird_sessions(world: World, pod: Pod) -> list[tuple[str, str, str]]:
    """Name, state, and since when, of each BGP session of a gateway pod."""
    return [(session.name, session.state, session.since) for session in bird_of(world, pod).sessions()]


def test_an_endpoint_agent_is_killed(world: World) -> None:
    held = world.hold()
    with probing(world):
        world.kill(world.system_pods("tidegate-endpoint")[0], "endpoint")
        world.connects()
    held.all_survive()


def test_the_controller_is_killed_in_the_middle_of_a_change(world: World) -> None:
    """Four targets more, of which some are ready, for the endpoint agent of one node stands still: what is half done is finished by
    the controller's successor, which takes no slot from anybody."""
    replace_the_first_target(world)
    held = world.hold()
    (controller,) = world.system_pods("tidegate-controller")
    agent = world.system_pods("tidegate-endpoint")[0]

    def begun() -> str:
        known, ready = stored_endpoints(world), ready_endpoints(world)
        return "" if len(known) == 8 and len(ready) > 4 else f"{len(known)} endpoints are known, {len(ready)} ready"

    with unlost(world):
        with world.paused(world.pids(agent)["endpoint"]):
            world.scale(8)
            world.wait_for(begun)
            slots = stored_endpoints(world)
            world.kill(controller, "controller")
            ready = ready_endpoints(world)
            assert len(ready) < 8, "nothing was left to the successor"
            assert len(ready) > 4, "the successor has undone what was done"
        assert_converged(world)
    assert len(ready_endpoints(world)) == 8
    assert stored_endpoints(world) == slots
    world.connects()
    assert_exactly_the_moved_broke(held)
    world.scale(4)
    world.wait_for(lambda: "" if len(world.targets()) == 4 else "more than four targets")


def replace_the_first_target(world: World) -> None:
    """Its slot goes to a younger Pod: whoever gave slots anew, by age, would give others."""
    (first,) = [pod for pod, slot in stored_endpoints(world).items() if slot == 0]
    world.api.delete(kube.PODS, "default", first)
    world.wait_for(lambda: "still known" if first in stored_endpoints(world) else "")
    world.wait_for(lambda: "" if len(ready_endpoints(world)) == 4 else "not four targets")
    assert stored_endpoints(world).keys() == ready_endpoints(world)
    assert_converged(world)


def stored_endpoints(world: World) -> dict[str, int | None]:
    """The slot of each Pod that the stored EndpointSlices know."""
    return {e.pod: e.slot for slice_ in world.view().objects.slices for e in slice_.endpoints}


def test_bird_is_killed(world: World) -> None:
    """The VIPs are withdrawn at once, because the session ends with the process; the agent starts another BIRD."""
    held = world.hold()
    pod = world.gateway_pods()[0]
    before = world.pid_of(pod.meta.name, "bird -f")
    os.kill(before, signal.SIGKILL)
    world.wait_for(lambda: "still announced" if outside_address(pod) in next_hops(world) else "", AT_ONCE_S)
    world.connects()
    assert_converged(world)
    assert world.pid_of(pod.meta.name, "bird -f") != before
    world.connects()
    held.all_survive()


def test_a_gateway_pod_is_deleted(world: World) -> None:
    """Fault 12 of the proof-of-concept: gateway pods that come or go do not change the application Pods' routes.

    Its connections go over to the other one, whose table is the same; its successor joins.
    """
    held = world.hold()
    pod, other = world.gateway_pods()
    world.api.delete(kube.PODS, "default", pod.meta.name)
    world.wait_for(lambda: "still announced" if outside_address(pod) in next_hops(world) else "", AT_ONCE_S)
    world.connects()
    world.wait_for(lambda: "still there" if pod.meta.name in {p.meta.name for p in world.gateway_pods()} else "")
    assert_converged(world)
    assert other.meta.name in {p.meta.name for p in world.gateway_pods()}
    world.connects()
    held.all_survive()


def test_a_gateway_pod_without_sessions_carries_no_replies(world: World) -> None:
    """Fault 11 of the proof-of-concept: readiness says nothing about BGP.

    Its wire to the router outside is cut: it is no longer ready, and targets answer over the other pod only.
    """
    held = world.hold()
    pod, other = world.gateway_pods()
    impairments = Impairments(world.mininet.network)
    impairments.blackhole(pod.meta.name, "vlan-200")
    try:

        def missing() -> str:
            hops = {h for a in world.view().plan.attachments.values() for one in a for h in one.next_hops}
            inside = {str(a) for n in other.networks if n.name == "macvlan-nad-2" for a in n.addresses}
            return "" if set(map(str, hops)) == inside else f"next hops are {hops}"

        world.wait_for(missing)
        world.connects()
    finally:
        impairments.mend(pod.meta.name, "vlan-200")
    assert_converged(world)
    held.all_survive()


def test_a_service_with_endpoints_is_deleted_and_comes_back(world: World) -> None:
    """Fault 4 of the proof-of-concept: its routes leak, and then the balancer is in a deadlock."""
    (service,) = [
        obj for obj in world.view().raw if obj["kind"] == "Service" and obj["metadata"]["name"] == "service-b"
    ]
    held = world.hold()
    world.mininet.act(Delete(name="delete", kind="Service", object_name="service-b"))
    world.wait_for(lambda: "still announced" if next_hops(world) else "")
    with ThreadPoolExecutor() as pool:
        # The last requests wait for answers until their deadline.
        ended = pool.submit(held.drive.finish)
        assert_converged(world)
        assert not next_hops(world), "a VIP without a target is withdrawn"
        assert ended.result().lost.all(), "somebody answers for a Service that is gone"
    kept = {key: value for key, value in service["metadata"].items() if key in ("name", "namespace", "labels")}
    again = {key: service[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": kept}
    world.mininet.apply([again])
    world.wait_for(lambda: "" if ready_endpoints(world) else "no endpoint yet")
    assert_converged(world)
    world.connects()


@pytest.mark.parametrize(("before", "after"), [(4, 8), (8, 3), (3, 4)])
def test_scaling_breaks_exactly_what_the_tables_move(world: World, before: int, after: int) -> None:
    """Down and up again: addresses and slots come back with other Pods behind them."""
    assert len(world.targets()) == before
    held = world.hold()
    world.scale(after)
    world.wait_for(lambda: "" if len(world.targets()) == after else f"not {after} targets")
    assert_converged(world)
    world.connects()
    assert_exactly_the_moved_broke(held)


def test_a_target_that_is_not_ready_loses_its_connections_and_no_other(world: World) -> None:
    held = world.hold()
    target = world.targets()[1]
    mine = held.on([target.meta.name])
    ready = world.readiness(target)
    ready(False)
    try:
        world.wait_for(lambda: "still ready" if target.meta.name in ready_endpoints(world) else world.programmed())
        world.connects()
        measured = held.finish()
    finally:
        ready(True)
    assert not measured.break_mismatches().any()
    assert measured.connections.lost[mine].all()
    assert mine.any()


def ready_endpoints(world: World) -> set[str]:
    """Pods that the stored EndpointSlices call ready."""
    return {e.pod for slice_ in world.view().objects.slices for e in slice_.endpoints if e.ready}


def test_a_storm_of_endpoint_changes(world: World) -> None:
    """Fault 9 of the proof-of-concept: the table is empty for a moment on each change.

    500, 50 a second: agents take many at once, the kernel is never seen with a table that is not whole, each connection and each single
    datagram goes by a whole one, and those that no table moves live on."""
    flapping = world.targets()[:2]
    held = world.hold()
    variants = world.variants(flapping)
    tables_and_sizes = [planned_tables(objects) for objects in variants]
    whole = set.union(*(tables for tables, _ in tables_and_sizes))
    size, met = tables_and_sizes[0][1], set[bytes]()
    turns_before = [balancer_turns(world, pod) for pod in world.gateway_pods()]
    with Storm(world, flapping, changes=500, seconds=10.0) as storm, probing(world, *variants):
        while not storm.over:
            probes = world.hold(50, to=UDP, mode=Mode.SHORT)
            answered = probes.drive.finish()
            assert not answered.errors, answered.errors
            by = np.array(answered.names)[answered.answered_by]
            assert np.any([by == targets_of(objects, probes.tuples) for objects in variants], axis=0).all()
            # nft lists a map in parts, of which no two need be of one time: there packets alone tell.
            for pod in world.gateway_pods() if world.dataplane == "tc" else ():
                seen = _bpf_maps.whole_tables(world.pids(pod)["load-balancer"], world.netns(pod), size)
                assert seen <= whole, "a table is in the kernel that no state of the targets leads to"
                met |= seen
    sys.stdout.write(f"500 changes in {storm.took_s:.1f} s\n")
    assert len(met) > 1 or world.dataplane != "tc", "the kernel was never seen to change"
    turns = [balancer_turns(world, pod) - n for pod, n in zip(world.gateway_pods(), turns_before, strict=True)]
    assert all(0 < n < 500 for n in turns), turns
    assert_converged(world)
    world.connects()
    tables = np.array([targets_of(objects, held.tuples) for objects in variants])
    unmoved = (tables == tables[0]).all(axis=0)
    lost = held.finish().connections.lost
    assert unmoved.any()
    assert not (lost & unmoved).any()
    assert lost.any(), "the storm has moved nothing"


AWAY_S = 10.0
LOOK_BEFORE_THE_END_S = 0.7
THEN = ("reset", "status 410", "status 409", "status 429", "status 500", "hang", "garbage")


def test_the_api_server_is_away_for_ten_seconds_and_then_all_else_goes_wrong(world: World) -> None:
    """One fault after the other, a VIP coming or going under each; no connection notices, and new ones find their targets meanwhile."""
    wait_for_watches(world)
    with hurt(world):
        until_s, spared = time.monotonic() + AWAY_S, spared_by(world, "refuse")
        order(world, "refuse", AWAY_S)
        world.wait_for(lambda: "the API server still listens" if api_listens(world) else "")
        world.connects()
        outlast(until_s - LOOK_BEFORE_THE_END_S)
        assert not api_listens(world)
        world.connects()
        outlast(until_s)
        world.wait_for(lambda: "" if api_listens(world) else "the API server has not come back")
        wait_for_watches(world)
        assert not spared()
        for what in THEN:
            undergo(world, what)
        undergo(world, "disorder", "stale")


def api_listens(world: World) -> bool:
    """Whether the API server takes connections."""
    where = urllib.parse.urlsplit(world.api.server)
    with socket.socket() as client:
        return client.connect_ex((where.hostname, where.port)) == 0


def balancer_turns(world: World, pod: Pod) -> float:
    """How often the load balancer of a gateway pod has looked at everything."""
    return world.metric(pod, LOAD_BALANCER_PORT, "tidegate_reconciles_total")
