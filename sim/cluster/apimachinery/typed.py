"""Values by their schema: which fields a value has, how two merge, how they differ, what is left when fields are removed.

Source: sigs.k8s.io/structured-merge-diff typed/tofieldset.go, merge.go, compare.go, remove.go.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from sim.cluster.apimachinery.fieldset import FieldSet, is_member, make
from sim.cluster.apimachinery.schema import ABSENT, ANY, Schema

Json = dict[str, Any]


class ListKeyError(Exception):
    """An item of a list that is merged by key has no key, or two have the same. `path` leads to the list, ``.spec.ports``."""

    def __init__(self, why: str, path: str = "") -> None:
        super().__init__(f"{path}: {why}" if path else why)
        self.why = why
        self.path = path

    def within(self, element: str) -> ListKeyError:
        """The same, seen from what holds the path so far."""
        return ListKeyError(self.why, element + self.path)


def granular_items(value: Any, schema: Schema) -> bool:
    """Whether the list is merged item by item."""
    return isinstance(value, list) and schema.list_type in ("map", "set")


def granular_fields(value: Any, schema: Schema) -> bool:
    """Whether the object is merged field by field."""
    return isinstance(value, dict) and schema.map_type != "atomic"


def child_schema(schema: Schema, name: str) -> Schema:
    """The schema of a field, of anything when it is unknown."""
    return schema.child(name) or ANY


def element_of(item: Any, schema: Schema) -> str:
    """The path element of a list's item. `schema` is the list's.

    Raises:
        ListKeyError: the item has none of its keys, or is not an object.
    """
    if schema.list_type == "set":
        return "v:" + json.dumps(item, separators=(",", ":"), ensure_ascii=False)
    if not isinstance(item, dict):
        raise ListKeyError("associative list with keys may not have non-map elements")
    keys = {}
    for key in sorted(schema.list_keys):
        value = item.get(key, ABSENT)
        if value is ABSENT:
            value = child_schema(schema.items or ANY, key).default
            if value is ABSENT:
                continue
        keys[key] = value
    if not keys:
        raise ListKeyError(
            f"associative list with keys has an element that omits all key fields {json.dumps(list(schema.list_keys))} "
            "(and doesn't have default values for any key fields)"
        )
    return "k:" + json.dumps(keys, separators=(",", ":"), ensure_ascii=False)


def field_set(value: Any, schema: Schema) -> FieldSet:
    """The node of `value` in the set of fields that an applied configuration owns: {} for a leaf."""
    if granular_fields(value, schema):
        below: FieldSet = {}
        for name, inner in value.items():
            child = child_schema(schema, name)
            try:
                node = field_set(inner, child)
            except ListKeyError as error:
                raise error.within(f".{name}") from error
            leaf = inner is None or inner == {}
            if not node and not leaf and not _is_leaf(inner, child):
                continue
            if name not in schema.properties and not is_member(node):
                node = {".": {}, **node}
            below[f"f:{name}"] = node
        return below
    if granular_items(value, schema):
        items = schema.items or ANY
        result: FieldSet = {}
        for index, one in enumerate(value):
            try:
                element = element_of(one, schema)
            except ListKeyError as error:
                raise ListKeyError(f"element {index}: {error.why}") from error
            if element in result:
                raise ListKeyError(f"duplicate entries for key [{_shown(element)}]")
            try:
                result[element] = make(True, _without_self(field_set(one, items))) or {}
            except ListKeyError as error:
                raise error.within(f"[{_shown(element)}]") from error
        return result
    return {}


def _shown(element: str) -> str:
    """An item of a list as messages name it. Source: fieldpath/element.go, PathElement.String."""
    if element[0] != "k":
        return f"={element[2:]}"
    return ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(element[2:]).items())


def _without_self(node: FieldSet) -> FieldSet:
    return {element: inner for element, inner in node.items() if element != "."}


def _is_leaf(value: Any, schema: Schema) -> bool:
    return not granular_fields(value, schema) and not granular_items(value, schema)


def merge(live: Any, config: Any, schema: Schema) -> Any:
    """`live` with the fields of `config` over it. Parts are shared with both; neither is changed.

    Raises:
        ListKeyError: a list that is merged by key cannot be.
    """
    if granular_fields(config, schema) and granular_fields(live, schema):
        result = dict(live)
        for name, inner in config.items():
            result[name] = merge(live[name], inner, child_schema(schema, name)) if name in live else inner
        return result
    if granular_items(config, schema) and granular_items(live, schema):
        return _merge_lists(live, config, schema)
    return config


def _grouped(values: list[Any], schema: Schema) -> dict[str, list[Any]]:
    """The items by their path element: several where a key is there more than once."""
    groups: dict[str, list[Any]] = {}
    for one in values:
        groups.setdefault(element_of(one, schema), []).append(one)
    return groups


def _merge_lists(live: list[Any], config: list[Any], schema: Schema) -> list[Any]:
    """The items of both, in the order of `config`, those of `live` alone where they stood between them.

    Source: typed/merge.go, mergingWalker.visitListItems.
    """
    items = schema.items or ANY
    left = [element_of(one, schema) for one in live]
    right = [element_of(one, schema) for one in config]
    # Items that are there twice are not merged with what is applied, but replaced by it.
    by_left = {element: group[0] if len(group) == 1 else None for element, group in _grouped(live, schema).items()}
    by_right = dict(zip(right, config, strict=True))
    shared = [element for element in right if element in by_left]
    next_shared = 0
    result: list[Any] = []
    at_left = at_right = 0
    while at_left < len(left) or at_right < len(right):
        if at_left < len(left):
            element = left[at_left]
            if element not in by_right:
                result.append(live[at_left])
                at_left += 1
                continue
            wanted = shared[next_shared] if next_shared < len(shared) else None
            if at_right < len(right) and element == right[at_right]:
                at_left += 1
            elif element != wanted:
                # Shared items follow the order of the configuration: this one's turn comes, or has come.
                at_left += 1
                continue
        if at_right < len(right):
            element = right[at_right]
            mine = by_right[element]
            theirs = by_left.get(element)
            result.append(mine if theirs is None else merge(theirs, mine, items))
            at_right += 1
            if next_shared < len(shared) and shared[next_shared] == element:
                next_shared += 1
    return result


@dataclass(slots=True)
class Comparison:
    """What differs between two values."""

    added: FieldSet = field(default_factory=dict)
    modified: FieldSet = field(default_factory=dict)
    removed: FieldSet = field(default_factory=dict)

    @property
    def same(self) -> bool:
        return not (self.added or self.modified or self.removed)


def compare(old: Any, new: Any, schema: Schema) -> Comparison:
    """The fields of an object that `new` adds to `old`, changes, or lacks."""
    result = Comparison()
    if granular_fields(old, schema) and granular_fields(new, schema):
        _compare_children(old, new, schema, result)
    return result


def _compare_children(old: Json, new: Json, schema: Schema, out: Comparison) -> None:
    for name, mine in new.items():
        theirs = old.get(name, ABSENT)
        if theirs is not mine:
            _compare_node(f"f:{name}", theirs, mine, child_schema(schema, name), out)
    for name, theirs in old.items():
        if name not in new:
            _compare_node(f"f:{name}", theirs, ABSENT, child_schema(schema, name), out)


def _compare_node(element: str, old: Any, new: Any, schema: Schema, out: Comparison) -> None:
    if old is ABSENT:
        out.added[element] = make(True, _all_below(new, schema)) or {}
        return
    if new is ABSENT:
        out.removed[element] = make(True, _all_below(old, schema)) or {}
        return
    if old == new and type(old) is type(new):
        return
    inner = Comparison()
    if granular_fields(old, schema) and granular_fields(new, schema) and (old or new):
        _compare_children(old, new, schema, inner)
    elif granular_items(old, schema) and granular_items(new, schema) and (old or new):
        _compare_lists(old, new, schema, inner)
    else:
        out.modified[element] = {}
        if granular_fields(old, schema) or granular_items(old, schema):
            inner.removed = _all_below(old, schema)
        if granular_fields(new, schema) or granular_items(new, schema):
            inner.added = _all_below(new, schema)
    for target, found in ((out.added, inner.added), (out.modified, inner.modified), (out.removed, inner.removed)):
        if found:
            target[element] = {**target.get(element, {}), **found}


def _compare_lists(old: list[Any], new: list[Any], schema: Schema, out: Comparison) -> None:
    items = schema.items or ANY
    try:
        by_old, by_new = _grouped(old, schema), _grouped(new, schema)
    except ListKeyError:
        # An item without its key has no name of its own: only validation can say more about it.
        return
    for element in {**by_new, **by_old}:
        theirs, mine = by_old.get(element, []), by_new.get(element, [])
        if len(theirs) < 2 and len(mine) < 2:
            _compare_node(element, theirs[0] if theirs else ABSENT, mine[0] if mine else ABSENT, items, out)
        elif theirs != mine:
            # Of items that are there twice nothing below is told apart.
            target = out.removed if not mine else out.modified if theirs else out.added
            target[element] = {}


def _all_below(value: Any, schema: Schema) -> FieldSet:
    """Every field below `value`, the containers included."""
    below: FieldSet = {}
    if granular_fields(value, schema):
        for name, inner in value.items():
            child = child_schema(schema, name)
            below[f"f:{name}"] = make(True, _all_below(inner, child)) or {}
    elif granular_items(value, schema):
        items = schema.items or ANY
        for one in value:
            try:
                element = element_of(one, schema)
            except ListKeyError:
                continue
            below[element] = {} if element in below else make(True, _all_below(one, items)) or {}
    return below


def without(value: Any, last: FieldSet, keep: FieldSet, schema: Schema) -> Any:
    """`value` without the fields of `last`, but with everything that `keep` names or has something below of.

    Fields that nobody names go with the structure or list item that holds them, and stay otherwise.
    Source: merge/update.go, Updater.prune.
    """
    if granular_fields(value, schema):
        return _without_fields(value, last, keep, schema)
    if granular_items(value, schema):
        return _without_items(value, last, keep, schema)
    return value


def _without_fields(value: Json, last: FieldSet, keep: FieldSet, schema: Schema, keys: tuple[str, ...] = ()) -> Json:
    result: Json = {}
    for name, inner in value.items():
        node = last.get(f"f:{name}")
        if node is None or name in keys:
            result[name] = inner
            continue
        kept = keep.get(f"f:{name}")
        # A structure's field that has members below it counts as a member: structures have no life of their own.
        if kept is None and (is_member(node) or name in schema.properties):
            continue
        rest = without(inner, node, kept or {}, child_schema(schema, name))
        if rest in ({}, []) and inner not in ({}, []):
            if kept is None or not is_member(kept):
                continue
            rest = None  # what somebody applies empty and has emptied thereby, as the real server has it
        result[name] = rest
    return result


def _without_items(value: list[Any], last: FieldSet, keep: FieldSet, schema: Schema) -> list[Any]:
    result: list[Any] = []
    items = schema.items or ANY
    for one in value:
        element = element_of(one, schema)
        node = last.get(element)
        kept = keep.get(element)
        if node is None or (kept is not None and not isinstance(one, dict)):
            result.append(one)
        elif kept is None and is_member(node):
            continue
        elif granular_fields(one, items):
            result.append(_without_fields(one, node, kept or {}, items, schema.list_keys))
        else:
            result.append(one)
    return result
