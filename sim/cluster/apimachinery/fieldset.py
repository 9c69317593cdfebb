"""Sets of fields, in the very form in which managedFields hold them (FieldsV1).

A set is a dict from path element to what is below it. A path element is ``f:name`` (a field), ``k:{"key":"value"}`` (an item of a list
by its keys) or ``v:"value"`` (an item of a list that is a set). ``{}`` below an element says that the element itself is in the set, and
nothing below it; ``"."`` beside other elements says the same when there is more below.
Source: sigs.k8s.io/structured-merge-diff fieldpath/set.go, serialize.go.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

FieldSet = dict[str, Any]


def is_member(node: FieldSet) -> bool:
    """Whether the element that leads to `node` is itself in the set."""
    return not node or "." in node


def make(member: bool, below: FieldSet) -> FieldSet | None:
    """The node of an element, None when there is nothing to say about it."""
    if not below:
        return {} if member else None
    return {".": {}, **below} if member else below


def union(one: FieldSet, other: FieldSet) -> FieldSet:
    """What is in either."""
    if not other:
        return one
    if not one:
        return other
    result = dict(one)
    for element, node in other.items():
        if element == ".":
            continue
        mine = one.get(element)
        if mine is None:
            result[element] = node
        elif mine != node:
            below = union(_below(mine), _below(node))
            result[element] = make(is_member(mine) or is_member(node), below) or {}
    return result


def _below(node: FieldSet) -> FieldSet:
    if "." in node:
        return {element: inner for element, inner in node.items() if element != "."}
    return node


def difference(one: FieldSet, other: FieldSet, *, deep: bool = False) -> FieldSet:
    """What is in `one` and not in `other`; with `deep`, neither what is below a member of `other`."""
    result: FieldSet = {}
    for element, node in one.items():
        if element == ".":
            continue
        theirs = other.get(element)
        if theirs is None:
            result[element] = node
            continue
        if deep and is_member(theirs):
            continue
        rest = make(is_member(node) and not is_member(theirs), difference(_below(node), theirs, deep=deep))
        if rest is not None:
            result[element] = rest
    return result


def intersection(one: FieldSet, other: FieldSet) -> FieldSet:
    """What is in both."""
    result: FieldSet = {}
    for element, node in one.items():
        theirs = other.get(element)
        if element == "." or theirs is None:
            continue
        both = make(is_member(node) and is_member(theirs), intersection(_below(node), _below(theirs)))
        if both is not None:
            result[element] = both
    return result


def paths(one: FieldSet, prefix: str = "") -> Iterator[str]:
    """The members as text, as conflicts name them: ``.spec.containers[name="a"].image``; those of each level before those below."""
    below = sorted(
        ((_shown(element), node) for element, node in one.items() if element != "."), key=lambda pair: pair[0]
    )
    for shown, node in below:
        if is_member(node):
            yield prefix + shown
    for shown, node in below:
        yield from paths(node, prefix + shown)


def _shown(element: str) -> str:
    kind, _, rest = element.partition(":")
    if kind == "k":
        keys = json.loads(rest)
        return "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in keys.items()) + "]"
    if kind == "v":
        return f"[={rest}]"
    return f".{rest}"


def holds(one: FieldSet, *elements: str) -> bool:
    """Whether the path of `elements` is in the set."""
    node: FieldSet | None = one
    for element in elements:
        node = node.get(element) if node is not None else None
        if node is None:
            return False
    return node is not None and is_member(node)
