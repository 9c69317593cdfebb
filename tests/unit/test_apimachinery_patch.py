"""Patches, as functions of two JSON values."""

from __future__ import annotations

from typing import Any

import pytest

from sim.cluster.apimachinery import notation
from sim.cluster.apimachinery.patch import PatchError, json_patch, merge_patch, strategic_merge
from sim.cluster.apimachinery.schema import copied


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_examples_of_rfc_7386_appendix_a(target: Any, patch: Any, result: Any) -> None:
    before = copied(target)
    assert merge_patch(target, patch) == result
    assert target == before


@pytest.mark.parametrize(
    ("target", "operations", "result"),
    [
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
        ({"a": {"b": 1}, "c": {}}, [{"op": "move", "from": "/a/b", "path": "/c/d"}], {"a": {}, "c": {"d": 1}}),
        ({"foo": [1, 2]}, [{"op": "move", "from": "/foo/0", "path": "/foo/1"}], {"foo": [2, 1]}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc"]}], {"foo": ["bar", ["abc"]]}),
        ({"foo": "bar"}, [{"op": "add", "path": "", "value": {"all": "new"}}], {"all": "new"}),
    ],
)
def test_json_patch_examples_of_rfc_6902_appendix_a(target: Any, operations: Any, result: Any) -> None:
    before = copied(target)
    assert json_patch(target, operations) == result
    assert target == before


@pytest.mark.parametrize(
    ("operations", "malformed"),
    [
        ([{"op": "add", "path": "/baz/bat", "value": "qux"}], False),
        ([{"op": "test", "path": "/foo", "value": "other"}], False),
        ([{"op": "remove", "path": "/list/9"}], False),
        ([{"op": "add", "path": "/list/9", "value": 1}], False),
        ([{"op": "shake", "path": "/foo"}], False),
        ([{"op": "add", "path": "/foo"}], True),
        ([{"path": "/foo"}], True),
        ([{"op": "add", "path": "foo", "value": 1}], True),
        ({"op": "add"}, True),
    ],
)
def test_json_patches_that_are_none_or_do_not_fit(operations: Any, malformed: bool) -> None:
    with pytest.raises(PatchError) as caught:
        json_patch({"foo": "bar", "list": []}, operations)
    assert caught.value.malformed == malformed


TYPES = notation.read(
    """
Pod
  containers [Container] map:name merge:name
  finalizers [string] set merge
  plain [string]
  strategy Strategy retain
Container
  name! string
  image string
  ports [Port] map:port merge:port
Port
  port int32
  name string
Strategy
  type string
  rolling any
"""
)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"plain": ["a"]}, {"plain": ["b"]}, {"plain": ["b"]}),
        ({"finalizers": ["a"]}, {"finalizers": ["b", "a"]}, {"finalizers": ["b", "a"]}),
        ({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]}, {"finalizers": ["b"]}),
        (
            {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]},
            {"containers": [{"name": "b", "image": "2"}]},
            {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]},
        ),
        (
            {"containers": [{"name": "a"}, {"name": "b"}]},
            {"containers": [{"name": "a", "$patch": "delete"}]},
            {"containers": [{"name": "b"}]},
        ),
        (
            {"containers": [{"name": "a"}, {"name": "b"}]},
            {"containers": [{"$patch": "replace"}, {"name": "c"}]},
            {"containers": [{"name": "c"}]},
        ),
        (
            {"containers": [{"name": "a"}, {"name": "b"}]},
            {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]},
            {"containers": [{"name": "b"}, {"name": "a"}]},
        ),
        (
            {"strategy": {"type": "Rolling", "rolling": {"max": 1}}},
            {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}},
            {"strategy": {"type": "Recreate"}},
        ),
        (
            {"strategy": {"type": "a", "rolling": 1}},
            {"strategy": {"$patch": "replace", "type": "b"}},
            {"strategy": {"type": "b"}},
        ),
        (
            {"containers": [{"name": "a", "ports": [{"port": 1, "name": "x"}]}]},
            {"containers": [{"name": "a", "ports": [{"port": 2}]}]},
            {"containers": [{"name": "a", "ports": [{"port": 2}, {"port": 1, "name": "x"}]}]},
        ),
    ],
)
def test_strategic_merge(target: Any, patch: Any, result: Any) -> None:
    before = copied(target)
    assert strategic_merge(target, patch, TYPES["Pod"]) == result
    assert target == before


def test_an_item_without_its_merge_key_does_not_fit() -> None:
    with pytest.raises(PatchError, match="merge key: name"):
        strategic_merge({}, {"containers": [{"image": "1"}]}, TYPES["Pod"])
