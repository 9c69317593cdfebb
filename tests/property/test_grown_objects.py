"""Whatever a cluster or a person may hand over: plan() never raises, and a bad object never changes what a good one gets."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import example, given, settings
from hypothesis import strategies as st

from core import manifests
from core.kube import Json
from core.manifests import events, parse, parse_object, render
from core.model import KubeObject, ObjectRef
from core.objects import Objects, Rejected
from core.plan import Plan, Planner, forwarding_of, plan
from tests import objects
from tests.property._grown import KINDS, grown

NAMELESS: Json = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "Gateway",
    "metadata": True,
    "spec": {"gatewayClassName": "istio", "listeners": [{"name": "a", "port": 1, "protocol": "TCP"}]},
}
NOW = "2026-01-01T00:00:00Z"
GOOD = parse(objects.base())[0]
WITHOUT = plan(GOOD)
GOOD_REFS = frozenset(item.meta.ref for item in GOOD.all())


def test_all_kinds_that_a_plan_reads_are_grown() -> None:
    assert set(KINDS) == set(manifests._READERS)


def modelled(objs: list[Json]) -> dict[ObjectRef, tuple[Json, KubeObject | Rejected]]:
    """Of two with one reference the later, as in a cluster."""
    return {model.meta.ref: (obj, model) for obj in objs if (model := parse_object(obj)) is not None}


def check_good_ones(found: Plan) -> None:
    """They have what they have alone."""
    assert found.of("default", "gw") == WITHOUT.of("default", "gw")
    assert [s for s in found.slices if s.meta.ref in {w.meta.ref for w in WITHOUT.slices}] == list(WITHOUT.slices)
    assert {ref: found.attachments[ref] for ref in WITHOUT.attachments} == WITHOUT.attachments
    assert [s for s in found.statuses if s.ref in GOOD_REFS] == list(WITHOUT.statuses)


def check_writable(found: Plan, objs: dict[ObjectRef, tuple[Json, KubeObject | Rejected]]) -> None:
    """Every status can be written as JSON over whatever status there is, and told of."""
    for status in found.statuses:
        current = objs[status.ref][0] if status.ref in objs else {}
        if not isinstance(current.get("status", {}), dict):
            current = {key: value for key, value in current.items() if key != "status"}
        json.dumps(render.status_object(status, current, NOW), allow_nan=False)
        render.concerns(status, current)
        events.news(status, current)
    for slice_ in found.slices:
        json.dumps(render.endpoint_slice(slice_, slice_.meta), allow_nan=False)


@settings(max_examples=400, deadline=None)
@given(objs=st.lists(grown(), min_size=1, max_size=6))
def test_bad_objects_change_nothing_for_good_ones(objs: list[Json]) -> None:
    """Beside the good ones, in their namespace, naming them: an object that cannot be read has no part in anything."""
    bad = [m for _, m in modelled(objs).values() if isinstance(m, Rejected) and m.meta.ref not in GOOD_REFS]
    check_good_ones(plan(Objects.of([*GOOD.all(), *bad])))


@settings(max_examples=300, deadline=None)
@given(objs=st.lists(grown(), min_size=1, max_size=6))
def test_objects_of_another_namespace_change_nothing(objs: list[Json]) -> None:
    """Good or bad: what a namespace has is its own, and that of others when they let it. No good object here lets anybody."""
    for obj in objs:
        if isinstance(obj.get("metadata"), dict):
            obj["metadata"]["namespace"] = "odd"
    found = modelled(objs)
    theirs = [m for _, m in found.values() if m.meta.ref not in GOOD_REFS]
    check_good_ones(plan(Objects.of([*GOOD.all(), *theirs])))


@settings(max_examples=300, deadline=None)
@given(objs=st.lists(st.tuples(grown(), st.booleans()), min_size=1, max_size=8))
@example(objs=[(NAMELESS, False)])
def test_plans_of_anything_are_made_and_a_planner_makes_the_same(objs: list[tuple[Json, bool]]) -> None:
    """Objects of all kinds among the good ones, replacing them too; some go again. Everything that follows can be written."""
    planner = Planner()
    items = {item.meta.ref: item for item in GOOD.all()}
    for item in items.values():
        planner.put(item)
    planner.plan()
    for obj, goes in objs:
        for ref, (_, model) in modelled([obj]).items():
            planner.put(model)
            items[ref] = model
            if goes:
                planner.plan()
                planner.remove(ref)
                del items[ref]
        whole = Objects.of(items.values())
        found = planner.plan()
        assert found == plan(whole)
        check_writable(found, modelled([one for one, _ in objs]))
        for gateway in found.gateways:
            ref = gateway.gateway.meta.ref
            assert forwarding_of(whole, ref.namespace, ref.name) is not None


def test_the_trees_reach_what_they_are_for() -> None:
    """Of every kind some are accepted and some are not, and accepted ones are connected to each other."""
    seen: Counter[tuple[str, bool]] = Counter()
    reached: Counter[str] = Counter()

    @settings(max_examples=250, deadline=None, database=None, derandomize=True)
    @given(objs=st.lists(grown(), min_size=4, max_size=6))
    def look(objs: list[Json]) -> None:
        found = modelled(objs)
        for _, model in found.values():
            seen[model.meta.ref.kind, isinstance(model, Rejected)] += 1
        result = plan(Objects.of([*GOOD.all(), *(m for _, m in found.values())]))
        reached["gateways"] += len(result.gateways) > 1
        reached["routes"] += any(
            flow.name.split("/")[0] != "L34Route" or flow not in WITHOUT.gateways[0].forwarding.flows
            for gateway in result.gateways
            for flow in gateway.forwarding.flows
        )
        reached["nowhere"] += any(getattr(status, "nowhere", ()) for status in result.statuses)
        reached["peers"] += sum(len(gateway.peers) for gateway in result.gateways) > 1

    look()
    for _, kind in KINDS:
        assert seen[kind, False] >= 4, (kind, seen)
        assert seen[kind, True] >= 4, (kind, seen)
    assert all(count >= 4 for count in reached.values()), reached
