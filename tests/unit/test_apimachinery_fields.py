"""Sets of fields, merging by schema, ownership."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cluster.apimachinery import fields, fieldset, notation, typed
from sim.cluster.apimachinery.fieldset import FieldSet, difference, intersection, paths, union
from sim.cluster.apimachinery.problems import StatusError

SCHEMA = notation.read(
    """
Thing
  apiVersion,kind string
  metadata any
  spec Spec
Spec
  a,b string
  items [Item] map:name
  marks [string] set
  plain [string]
  inner Inner
Item
  name! string
  value string
Inner
  x,y string
"""
)["Thing"]

SETS: st.SearchStrategy[FieldSet] = st.recursive(
    st.just({}),
    lambda below: st.dictionaries(st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', "."]), below, max_size=3).map(
        lambda node: {key: ({} if key == "." else value) for key, value in node.items() if set(node) != {"."}}
    ),
    max_leaves=12,
)


def members(one: FieldSet) -> set[str]:
    return set(paths(one))


@given(SETS, SETS)
def test_sets_of_fields_behave_as_sets_of_paths(one: FieldSet, other: FieldSet) -> None:
    assert members(union(one, other)) == members(one) | members(other)
    assert members(difference(one, other)) == members(one) - members(other)
    assert members(intersection(one, other)) == members(one) & members(other)


def test_a_deep_difference_takes_what_is_below_too() -> None:
    one: FieldSet = {"f:status": {"f:a": {}, "f:b": {".": {}, "f:c": {}}}, "f:spec": {"f:x": {}}}
    assert difference(one, {"f:status": {}}, deep=True) == {"f:spec": {"f:x": {}}}
    assert difference(one, {"f:status": {}}) == one


def test_paths_read_as_people_write_them() -> None:
    one: FieldSet = {"f:spec": {"f:items": {'k:{"name":"x","port":1}': {".": {}, "f:v": {}}}, "f:marks": {'v:"m"': {}}}}
    assert list(paths(one)) == ['.spec.items[name="x",port=1]', '.spec.items[name="x",port=1].v', '.spec.marks[="m"]']


@pytest.mark.parametrize(
    ("live", "config", "merged"),
    [
        ("abc", "c", "abc"),
        ("abc", "ca", "bca"),
        ("ab", "xb", "axb"),
        ("", "ba", "ba"),
        ("abcd", "db", "acdb"),
    ],
)
def test_merged_lists_follow_the_order_of_the_configuration(live: str, config: str, merged: str) -> None:
    items = SCHEMA.properties["spec"].properties["items"]
    result = typed.merge([{"name": one} for one in live], [{"name": one} for one in config], items)
    assert "".join(one["name"] for one in result) == merged


def writer(name: str, subresource: str = "") -> fields.Writer:
    return fields.Writer(name=name, api_version="t/v1", now="2026-01-01T00:00:00Z", subresource=subresource, ignored={})


def thing(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "t/v1", "kind": "Thing", "metadata": {"name": "n"}, "spec": spec}


def test_nested_structures_go_when_the_last_owner_stops() -> None:
    one = fields.applied(None, thing(a="1", inner={"x": "1", "y": "2"}), SCHEMA, writer("one"), force=False)
    both = fields.applied(one, thing(inner={"x": "1"}), SCHEMA, writer("two"), force=False)
    left = fields.applied(both, thing(a="1"), SCHEMA, writer("one"), force=False)
    assert left["spec"] == {"a": "1", "inner": {"x": "1"}}
    gone = fields.applied(left, thing(), SCHEMA, writer("two"), force=False)
    assert gone["spec"] == {"a": "1"}


def test_an_item_with_fields_of_others_stays_with_these() -> None:
    one = fields.applied(None, thing(items=[{"name": "x", "value": "1"}]), SCHEMA, writer("one"), force=False)
    hand = fields.updated(one, {**one, "spec": {"items": [{"name": "x", "value": "2"}]}}, SCHEMA, writer("hand"))
    left = fields.applied(hand, thing(), SCHEMA, writer("one"), force=False)
    assert left["spec"]["items"] == [{"name": "x", "value": "2"}]


def test_applying_the_same_again_gives_the_very_same_object() -> None:
    one = fields.applied(None, thing(a="1"), SCHEMA, writer("one"), force=False)
    assert fields.applied(one, thing(a="1"), SCHEMA, writer("one"), force=False) is one


def test_a_conflict_lists_every_field_and_manager() -> None:
    one = fields.applied(None, thing(a="1"), SCHEMA, writer("one"), force=False)
    two = fields.applied(one, thing(b="1"), SCHEMA, writer("two"), force=False)
    with pytest.raises(StatusError) as caught:
        fields.applied(two, thing(a="2", b="2"), SCHEMA, writer("three"), force=False)
    assert caught.value.code == 409
    assert caught.value.message == (
        'Apply failed with 2 conflicts: conflicts with "one":\n- .spec.a\nconflicts with "two":\n- .spec.b'
    )


def test_managed_fields_given_empty_are_forgotten() -> None:
    one = fields.applied(None, thing(a="1"), SCHEMA, writer("one"), force=False)
    given: dict[str, Any] = {**one, "metadata": {"name": "n", "managedFields": [{}]}}
    assert "managedFields" not in fields.updated(one, given, SCHEMA, writer("hand"))["metadata"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["one", "two", "three"]),
            st.fixed_dictionaries(
                {},
                optional={
                    "a": st.sampled_from("12"),
                    "items": st.lists(st.sampled_from("xyz"), unique=True).map(
                        lambda names: [{"name": n} for n in names]
                    ),
                    "marks": st.lists(st.sampled_from("pqr"), unique=True),
                    "inner": st.just({"x": "1"}),
                },
            ),
        ),
        max_size=8,
    )
)
def test_an_object_is_what_its_appliers_last_gave(steps: list[tuple[str, dict[str, Any]]]) -> None:
    """After any sequence of forced applies: nobody's last configuration is missing a list item, and nothing else is there."""
    live: dict[str, Any] | None = None
    last: dict[str, dict[str, Any]] = {}
    for manager, spec in steps:
        live = fields.applied(live, thing(**spec), SCHEMA, writer(manager), force=True)
        last[manager] = spec
    spec = (live or thing()).get("spec") or {}  # null: applied empty, and emptied thereby
    for field, key in (("items", lambda one: one["name"]), ("marks", str)):
        wanted = {key(one) for given in last.values() for one in given.get(field, [])}
        assert {key(one) for one in spec.get(field) or []} == wanted  # null: likewise
    assert ("inner" in spec) == any("inner" in given for given in last.values())
    assert fieldset.holds(typed.field_set(thing(**spec), SCHEMA), "f:spec", "f:a") == ("a" in spec)
