"""plan() is total: whatever is in an object, it never raises, and a bad object never changes what a good one gets."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.kube import Json
from core.manifests import parse, parse_object, render
from core.model import ObjectRef
from core.objects import Objects
from core.plan import Planner, plan
from core.problems import Path
from tests import objects

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True),
    st.text(max_size=12),
    st.sampled_from(["any", "0-65535", "70000", "20.0.0.1/32", "::/0", "TCP", "24s", "[]", "{}", "[[", "9" * 5000]),
    st.just([]),
    st.just({}),
    st.lists(st.one_of(st.none(), st.text(max_size=3), st.integers()), max_size=3),
    st.dictionaries(st.text(max_size=4), st.one_of(st.none(), st.text(max_size=3), st.integers()), max_size=3),
)


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a JSON value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from paths(item, (*path, i))


def replaced(obj: Json, path: Path, value: Any) -> Json:
    """A copy of `obj` with something else at `path`."""
    changed = copy.deepcopy(obj)
    place: Any = changed
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return changed


SAMPLES = [
    objects.gateway("odd", addresses=[{"type": "IPAddress", "value": "20.0.0.9"}]),
    objects.router(
        "odd",
        gateway_name="odd",
        bgp={"holdTime": "3s", "bfd": {"switch": True, "minTx": "300ms"}, "auth": {"keyName": "a", "keySource": "b"}},
    ),
    objects.l34_route(
        "odd", gateway_name="odd", service_name="odd", sourceCIDRs=["1.0.0.0/8"], byteMatches=["tcp[0:1] = 1"]
    ),
    objects.tcp_route("odd", gateway_name="odd", service_name="odd"),
    objects.service(
        "odd", gateway_name="odd", app="odd", externalIPs=["20.0.0.7"], ports=[{"port": 1, "targetPort": "x"}]
    ),
    objects.pod(0, app="odd"),
]
PLACES = [(i, path) for i, obj in enumerate(SAMPLES) for path in paths(obj) if path[:2] != ("metadata", "name")]


@settings(max_examples=400, deadline=None)
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), ODD), min_size=1, max_size=3))
def test_a_bad_object_changes_nothing_for_good_ones(changes: list[tuple[tuple[int, Path], Any]]) -> None:
    bad = [copy.deepcopy(obj) for obj in SAMPLES]
    for (i, path), value in changes:
        try:
            bad[i] = replaced(bad[i], path, value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took this place away
    good = plan(parse(objects.base())[0])
    both = plan(parse([*objects.base(), *bad])[0])
    assert both.of("default", "gw") == good.of("default", "gw")
    assert [s for s in both.statuses if s.ref.name in ("gw", "route", "router-v4")] == list(good.statuses)
    assert [s for s in both.slices if s.service == "svc"] == list(good.slices)


@settings(max_examples=100, deadline=None)
@given(order=st.permutations(range(len(objects.base()) + len(SAMPLES))))
def test_the_order_of_objects_does_not_count(order: list[int]) -> None:
    items = [*objects.base(), *SAMPLES]
    assert plan(parse([items[i] for i in order])[0]) == plan(parse(items)[0])


HISTORY = [
    *objects.base(),
    *SAMPLES,
    objects.pod(9),
    objects.gateway_pod(2),
    objects.gateway("gw2"),
    objects.service("svc2"),
]
STORED = [
    render.endpoint_slice(slice_, next(s.meta for s in parse(objects.base())[0].services))
    for slice_ in plan(parse(objects.base())[0]).slices
]
VARIANTS: list[tuple[Json, ...]] = [
    (obj, replaced(obj, ("metadata", "labels"), {"app": "app"}), replaced(obj, ("spec",), {})) for obj in HISTORY
] + [(stored, replaced(stored, ("metadata", "annotations"), {})) for stored in STORED]

POD_VARIANTS = [variants for variants in VARIANTS if variants[0]["kind"] == "Pod"]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_planner_gives_what_plan_gives_whatever_the_history(data: st.DataObject) -> None:
    items: dict[ObjectRef, Any] = {}
    planner = Planner()
    for obj in HISTORY[: data.draw(st.sampled_from([0, len(HISTORY)]))]:
        model = parse_object(obj)
        assert model is not None
        planner.put(model)
        items[model.meta.ref] = model
    planner.plan()
    for _ in range(data.draw(st.integers(1, 12))):
        # Turns in which only Pods change are those that a planner saves work on.
        choice = st.sampled_from(data.draw(st.sampled_from([VARIANTS, POD_VARIANTS])))
        for _ in range(data.draw(st.integers(1, 4))):
            variants = data.draw(choice)
            stays, obj = data.draw(st.booleans()), data.draw(st.sampled_from(variants))
            model = parse_object(obj)
            assert model is not None
            if not stays:
                planner.remove(model.meta.ref)
                items.pop(model.meta.ref, None)
            else:
                planner.put(model)
                items[model.meta.ref] = model
        assert planner.plan() == plan(Objects.of(items.values()))
