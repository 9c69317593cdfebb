"""Whatever happens to the Pods of a Service, and however far a controller gets with its writes before it looks again."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import names
from core.endpoints import in_order_of_writing
from core.kube import Json
from core.manifests import parse, parse_object, render
from core.model import EndpointSlice, ObjectRef, Service
from core.objects import Objects
from core.plan import Plan, Planner, forwarding_of, plan
from tests import objects

SIZE = 3
VIPS = ("20.0.0.1/32", "2000::1/128")


@pytest.fixture(autouse=True, scope="module")
def _small_slices() -> Iterator[None]:
    with mock.patch("core.endpoints.SLOTS_OF_A_SLICE", SIZE):
        yield


def a_pod(index: int, kind: str) -> Json:
    addresses = (f"10.2.0.{index + 1}", f"fd02::{index + 1:x}")
    made = objects.pod(index, addresses=addresses, attached=VIPS, ready=kind != "unready", deleting=kind == "deleting")
    if kind == "waits":
        del made["metadata"]["annotations"][names.NETWORK_STATUS]
    return made


def a_service(limit: int) -> Json:
    made = objects.service()
    made["metadata"]["annotations"] = {names.MAX_ENDPOINTS: str(limit)}
    return made


def named(pod: Json, name: str) -> Json:
    pod["metadata"] |= {"name": name, "uid": f"uid-{name}"}
    return pod


class World:
    """A planner, what is stored, and a controller that is interrupted."""

    def __init__(self, limit: int) -> None:
        self.planner = Planner()
        self.items: dict[ObjectRef, Json] = {}
        self.stored: dict[ObjectRef, EndpointSlice] = {}
        self.lives = 0
        self.living: dict[int, str] = {}
        for obj in (objects.gateway(), objects.l34_route(destinationCIDRs=list(VIPS)), a_service(limit)):
            self.put(obj)

    def put(self, obj: Json) -> None:
        model = parse_object(obj)
        assert model is not None
        self.items[model.meta.ref] = obj
        self.planner.put(model)

    def put_pod(self, index: int, kind: str) -> None:
        """One that comes back is another one."""
        if index not in self.living:
            self.lives += 1
            self.living[index] = f"life-{self.lives}"
        self.put(named(a_pod(index, kind), self.living[index]))

    def drop_pod(self, index: int) -> None:
        ref = ObjectRef(kind="Pod", namespace="default", name=self.living.pop(index, ""))
        self.items.pop(ref, None)
        self.planner.remove(ref)

    def objects(self) -> Objects:
        return Objects.of([*parse(self.items.values())[0].all(), *self.stored.values()])

    def plan(self) -> Plan:
        wanted = self.planner.plan()
        assert wanted == plan(self.objects())
        return wanted

    def usable(self) -> dict[int, set[tuple[int, str]]]:
        """What a load balancer that reads the stored slices sends packets to."""
        forwarding = forwarding_of(self.objects(), "default", "gw")
        assert forwarding is not None
        found: dict[int, set[tuple[int, str]]] = {4: set(), 6: set()}
        for pool in forwarding.pools:
            targets = [(target.slot, target.pod) for target in pool.targets]
            assert len(targets) == len({slot for slot, _ in targets}) == len({pod for _, pod in targets}), targets
            found[pool.version] |= set(targets)
        return found

    def write(self, wanted: Plan, at_most: int) -> int:
        """Stores what differs, one after the other; returns how many were written."""
        service = parse_object(self.items[ObjectRef(kind="Service", namespace="default", name="svc")])
        assert isinstance(service, Service)
        changed = [s for s in wanted.slices if not alike(self.stored.get(s.meta.ref), s)]
        order = in_order_of_writing(changed, wanted.slices, self.stored)
        before, after = self.usable(), usable_of_plan(wanted)
        for slice_, _ in order[:at_most]:
            model = parse_object(render.endpoint_slice(slice_, service.meta))
            assert isinstance(model, EndpointSlice)
            self.store(model)
            self.holds_what_was_and_will_be(before, after)
        if at_most >= len(order):
            for ref in self.stored.keys() - {s.meta.ref for s in wanted.slices}:
                del self.stored[ref]
                self.planner.remove(ref)
                self.holds_what_was_and_will_be(before, after)
        return min(at_most, len(order))

    def store(self, slice_: EndpointSlice) -> None:
        self.stored[slice_.meta.ref] = slice_
        self.planner.put(slice_)

    def holds_what_was_and_will_be(
        self, before: dict[int, set[tuple[int, str]]], after: dict[int, set[tuple[int, str]]]
    ) -> None:
        for version, now in self.usable().items():
            pods = {pod for _, pod in now}
            assert {p for _, p in before[version]} & {p for _, p in after[version]} <= pods, "an endpoint has vanished"
            assert pods <= {p for _, p in before[version] | after[version]}


def alike(stored: EndpointSlice | None, wanted: EndpointSlice) -> bool:
    return stored is not None and (stored.endpoints, stored.reserved) == (wanted.endpoints, wanted.reserved)


def usable_of_plan(wanted: Plan) -> dict[int, set[tuple[int, str]]]:
    return {
        version: {(e.slot, e.pod) for s in wanted.slices if s.version == version for e in s.endpoints if e.ready}
        for version in (4, 6)
    }


def check(wanted: Plan, limit: int) -> None:
    reserved: dict[int, dict[str, int]] = {4: {}, 6: {}}
    for slice_ in wanted.slices:
        assert len(slice_.endpoints) <= len(slice_.reserved) <= SIZE
        assert len({slot // SIZE for slot in slice_.reserved.values()}) == 1
        assert all(slice_.reserved[e.pod_uid] == e.slot for e in slice_.endpoints)
        assert not slice_.reserved.keys() & reserved[slice_.version].keys()
        reserved[slice_.version] |= slice_.reserved
    for found in reserved.values():
        assert len(set(found.values())) == len(found) <= limit
        assert all(slot < limit for slot in found.values())
    if reserved[4] and reserved[6]:
        assert reserved[4] == reserved[6]


KINDS = st.sampled_from(["ready", "ready", "ready", "unready", "deleting", "waits", "gone"])
TURNS = st.lists(st.lists(st.tuples(st.integers(0, 11), KINDS), max_size=4), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(turns=TURNS, data=st.data(), limit=st.sampled_from([4, 7, 100]))
def test_slots_are_kept_and_each_endpoint_is_in_one_slice_of_a_family(
    turns: list[list[tuple[int, str]]], data: st.DataObject, limit: int
) -> None:
    world = World(limit)
    known: dict[str, int] = {}
    for changes in turns:
        for index, kind in changes:
            if kind == "gone":
                world.drop_pod(index)
            else:
                world.put_pod(index, kind)
        wanted = world.plan()
        check(wanted, limit)
        slots = {uid: slot for slice_ in wanted.slices for uid, slot in slice_.reserved.items()}
        living = {obj["metadata"]["uid"] for obj in world.items.values() if obj["kind"] == "Pod"}
        assert all(slots.get(uid, slot) == slot for uid, slot in known.items() if uid in living)
        world.write(wanted, data.draw(st.sampled_from([100, 100, 1, 2])))
        # A slot that was written down by a turn is known to all that follow.
        known = {uid: slot for slice_ in world.stored.values() for uid, slot in slice_.reserved.items()}
        world.plan()
    while world.write(world.plan(), 100):
        pass
    final = world.plan()
    assert world.usable() == usable_of_plan(final)
    assert set(world.stored) == {slice_.meta.ref for slice_ in final.slices}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_change_of_one_endpoint_writes_one_slice_of_a_family_and_the_others_are_the_same_objects(
    data: st.DataObject,
) -> None:
    world = World(100)
    for index in range(data.draw(st.integers(4, 14))):
        world.put_pod(index, "ready")
    world.write(world.plan(), 100)
    for _ in range(4):
        before = {s.meta.ref: s for s in world.plan().slices}
        world.put_pod(data.draw(st.integers(0, 3)), data.draw(st.sampled_from(["ready", "unready", "deleting"])))
        wanted = world.plan()
        changed = [s for s in wanted.slices if before[s.meta.ref] is not s]
        assert len(changed) == world.write(wanted, 100)
        assert [s.version for s in changed] in ([], [4, 6])


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 12), at_once=st.integers(1, 4), lost=st.sets(st.integers(0, 11), max_size=3))
def test_the_single_slice_of_an_older_version_is_replaced_without_a_usable_endpoint_vanishing_or_counting_twice(
    count: int, at_once: int, lost: set[int]
) -> None:
    world = World(100)
    for index in range(count):
        world.put_pod(index, "ready")
    with mock.patch("core.endpoints.SLOTS_OF_A_SLICE", 1000):
        for slice_ in plan(world.objects()).slices:
            world.store(slice_)
    slots = {uid: slot for slice_ in world.stored.values() for uid, slot in slice_.reserved.items()}
    for index in lost:
        world.drop_pod(index)
    if lost:
        world.put_pod(20, "ready")
    while world.write(world.plan(), at_once):
        check(world.plan(), 100)
    world.write(world.plan(), 100)
    found = {e.pod_uid: e.slot for slice_ in world.stored.values() for e in slice_.endpoints}
    assert all(found[uid] == slot for uid, slot in slots.items() if uid in found)
    assert len(found) == sum(obj["kind"] == "Pod" for obj in world.items.values())


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 12), limit=st.integers(1, 12), at_once=st.integers(1, 4))
def test_a_lower_limit_moves_endpoints_into_earlier_slices_without_one_vanishing(
    count: int, limit: int, at_once: int
) -> None:
    world = World(100)
    for index in range(count):
        world.put_pod(index, "ready")
    world.write(world.plan(), 100)
    for index in range(0, count, 2):
        world.drop_pod(index)
    world.put(a_service(limit))
    while world.write(world.plan(), at_once):
        check(world.plan(), limit)
    world.write(world.plan(), 100)
    check(world.plan(), limit)
