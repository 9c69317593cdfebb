"""Structural schemas: the notation, defaults and pruning, validation."""

from __future__ import annotations

from typing import Any

import pytest

from core import kube
from sim.cluster.apimachinery import builtin, notation, schema, validation
from sim.cluster.apimachinery.schema import Form, normalise

TYPES = notation.read(
    """
Port = int32 1..65535
Name = string min:1 max:8 re:^[a-z ]+$
Root
  name! Name
  ports [Port] max:3
  items [Item] map:name
  labels {string}
  free any
  mode string =A enum:A|B
  inner Inner ={}
  when time
  either intstr
Item
  name! string
  protocol string =TCP
Inner atomic
  depth int32 =1
"""
)
ROOT = TYPES["Root"]


def test_the_notation_reads_types_flags_and_patterns() -> None:
    assert ROOT.required == ("name",)
    name = ROOT.properties["name"]
    assert (name.min_length, name.max_length, name.pattern_text) == (1, 8, "^[a-z ]+$")
    ports = ROOT.properties["ports"]
    assert (ports.max_items, ports.items and ports.items.maximum) == (3, 65535)
    assert ROOT.properties["items"].list_keys == ("name",)
    assert TYPES["Inner"].map_type == "atomic"


@pytest.mark.parametrize("text", ["A\n  b Missing", "A\n  b string odd:1", "A\n  b string =x re:("])
def test_the_notation_refuses_what_it_does_not_know(text: str) -> None:
    with pytest.raises(ValueError, match=r"Missing|odd|regular expression"):
        notation.read(text)


def test_defaults_reach_into_lists_and_new_objects() -> None:
    unknown: list[str] = []
    given = {"name": "x", "items": [{"name": "a"}], "junk": 1, "inner": {"deep": 1}, "free": {"any": None}}
    found = normalise(given, ROOT, Form(drop_null=False), unknown)
    assert found == {
        "name": "x", "items": [{"name": "a", "protocol": "TCP"}], "inner": {"depth": 1}, "free": {"any": None}, "mode": "A",
    }  # fmt: skip
    assert sorted(unknown) == ["inner.deep", "junk"]
    assert given["items"] == [{"name": "a"}]


def test_what_is_in_form_already_is_shared_not_copied() -> None:
    complete = {"name": "x", "mode": "B", "inner": {"depth": 2}, "items": [{"name": "a", "protocol": "UDP"}]}
    assert normalise(complete, ROOT, Form(drop_null=False), []) is complete


def test_built_in_kinds_drop_nulls_and_empty_collections() -> None:
    given: dict[str, Any] = {"name": "x", "mode": None, "labels": {}, "ports": [], "inner": {}}
    assert normalise(given, ROOT, Form(drop_null=True), []) == {"name": "x", "mode": "A", "inner": {"depth": 1}}


def test_no_defaults_when_none_are_wanted() -> None:
    assert normalise({"name": "x"}, ROOT, Form(drop_null=False, defaults=False), []) == {"name": "x"}


@pytest.mark.parametrize(
    ("value", "causes"),
    [
        ({"name": "ok"}, set()),
        ({}, {"name: Required value"}),
        ({"name": "X"}, {"name: Invalid value: \"X\": name in body should match '^[a-z ]+$'"}),
        ({"name": "a", "when": "2026-01-01T00:00:00.5+02:00"}, set()),
        (
            {"name": "a", "when": "soon"},
            {'when: Invalid value: "soon": when in body must be of type date-time: "soon"'},
        ),
        ({"name": "a", "either": "8080"}, set()),
        (
            {"name": "a", "either": True},
            {'either: Invalid value: "boolean": either in body must be of type integer,string: "boolean"'},
        ),
        (
            {"name": "a", "ports": [0]},
            {"ports[0]: Invalid value: 0: ports[0] in body should be greater than or equal to 1"},
        ),
        (
            {"name": "a", "labels": {"k": 1}},
            {'labels.k: Invalid value: "integer": labels.k in body must be of type string: "integer"'},
        ),
    ],
)
def test_validation_says_what_the_real_server_says(value: Any, causes: set[str]) -> None:
    assert {str(cause) for cause in validation.validate(value, ROOT)} == causes


def test_combinations() -> None:
    parsed = schema.parse(
        {
            "type": "object",
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            "not": {"required": ["c"]},
        }
    )
    assert validation.validate({"a": "x"}, parsed) == []
    assert "must validate one and only one schema (oneOf)" in str(validation.validate({}, parsed)[0])
    assert "must not validate the schema (not)" in str(validation.validate({"a": "x", "c": 1}, parsed)[0])


def test_every_kind_that_our_clients_use_is_built_in_or_comes_as_a_crd() -> None:
    registry = builtin.registry()
    ours = {kube.L34_ROUTES, kube.GATEWAY_ROUTERS}
    for resource in kube.ALL_RESOURCES:
        if resource in ours:
            continue
        kind = registry.find(resource.group, resource.plural)
        assert kind is not None, resource
        assert (kind.kind, kind.namespaced) == (resource.kind, resource.namespaced)
        assert kind.version(resource.version) is not None


def test_defaults_of_built_in_kinds_fit_their_own_schemas() -> None:
    for name, one in builtin.schemas().items():
        for field, child in one.properties.items():
            if child.default is not schema.ABSENT:
                filled = normalise(schema.copied(child.default), child, Form(drop_null=False), [])
                causes = [cause for cause in validation.validate(filled, child) if cause.reason != "FieldValueRequired"]
                assert causes == [], f"{name}.{field}"
