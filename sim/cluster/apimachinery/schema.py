"""Structural schemas: what may be in an object, how its lists and maps are merged, what is filled in.

Source: kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions, "Specifying a structural schema".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]


class _Absent:
    """No default; None would be a default of null."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Schema:
    """One node of a structural schema. An empty `type` takes anything."""

    type: str = ""
    properties: Mapping[str, Schema] = field(default_factory=dict)
    additional: Schema | None = None
    items: Schema | None = None
    required: tuple[str, ...] = ()
    preserve_unknown: bool = False
    embedded: bool = False
    int_or_string: bool = False
    nullable: bool = False
    default: Any = ABSENT
    enum: tuple[Any, ...] = ()
    format: str = ""
    pattern: re.Pattern[str] | None = None
    pattern_text: str = ""
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False
    multiple_of: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    min_items: int | None = None
    max_items: int | None = None
    unique_items: bool = False
    min_properties: int | None = None
    max_properties: int | None = None
    all_of: tuple[Schema, ...] = ()
    any_of: tuple[Schema, ...] = ()
    one_of: tuple[Schema, ...] = ()
    none_of: Schema | None = None
    list_type: str = "atomic"
    list_keys: tuple[str, ...] = ()
    may_repeat: bool = False
    """Whether items of a list with keys, or of a set, may be there twice: built-in kinds forbid it only where their own validation
    does, and in what is applied."""
    map_type: str = "granular"
    merge_key: str | None = None
    """Strategic merge patch: None replaces the list, a name merges items by that key, "" merges a list of primitives."""
    retain_keys: bool = False
    keep_empty: bool = False
    """A list of a built-in kind that is written even when it is empty."""
    has_defaults: bool = False

    @property
    def untyped(self) -> bool:
        """Whether nothing is known of what is inside."""
        return not self.type and not self.int_or_string

    def child(self, name: str) -> Schema | None:
        """The schema of a field of an object: None when the field is unknown."""
        found = self.properties.get(name)
        if found is not None:
            return found
        if self.additional is not None:
            return self.additional
        return ANY if self.preserve_unknown or self.untyped else None


ANY: Final = Schema(preserve_unknown=True)
STRING: Final = Schema(type="string")


def parse(openapi: Json) -> Schema:
    """The schema of an ``openAPIV3Schema`` (or a part of one).

    Raises:
        ValueError: a pattern is not a regular expression.
    """
    properties = {name: parse(child) for name, child in openapi.get("properties", {}).items()}
    additional = openapi.get("additionalProperties")
    items = openapi.get("items")
    parsed_additional = parse(additional) if isinstance(additional, dict) else ANY if additional else None
    parsed_items = parse(items) if isinstance(items, dict) else None
    children = [*properties.values(), *(one for one in (parsed_additional, parsed_items) if one is not None)]
    pattern = openapi.get("pattern", "")
    return Schema(
        type=openapi.get("type", ""),
        properties=properties,
        additional=parsed_additional,
        items=parsed_items,
        required=tuple(openapi.get("required", ())),
        preserve_unknown=bool(openapi.get("x-kubernetes-preserve-unknown-fields")),
        embedded=bool(openapi.get("x-kubernetes-embedded-resource")),
        int_or_string=bool(openapi.get("x-kubernetes-int-or-string")),
        nullable=bool(openapi.get("nullable")),
        default=openapi.get("default", ABSENT),
        enum=tuple(openapi.get("enum", ())),
        format=openapi.get("format", ""),
        pattern=compiled(pattern) if pattern else None,
        pattern_text=pattern,
        minimum=openapi.get("minimum"),
        maximum=openapi.get("maximum"),
        exclusive_minimum=bool(openapi.get("exclusiveMinimum")),
        exclusive_maximum=bool(openapi.get("exclusiveMaximum")),
        multiple_of=openapi.get("multipleOf"),
        min_length=openapi.get("minLength"),
        max_length=openapi.get("maxLength"),
        min_items=openapi.get("minItems"),
        max_items=openapi.get("maxItems"),
        unique_items=bool(openapi.get("uniqueItems")),
        min_properties=openapi.get("minProperties"),
        max_properties=openapi.get("maxProperties"),
        all_of=tuple(map(parse, openapi.get("allOf", ()))),
        any_of=tuple(map(parse, openapi.get("anyOf", ()))),
        one_of=tuple(map(parse, openapi.get("oneOf", ()))),
        none_of=parse(openapi["not"]) if "not" in openapi else None,
        list_type=openapi.get("x-kubernetes-list-type", "atomic"),
        list_keys=tuple(openapi.get("x-kubernetes-list-map-keys", ())),
        map_type=openapi.get("x-kubernetes-map-type", "granular"),
        has_defaults="default" in openapi or any(one.has_defaults for one in children),
    )


_RE2_TO_PYTHON: Final = ((r"\z", r"\Z"), (r"(?P<", r"(?P<"), (r"\pL", r"[^\W\d_]"))


def compiled(pattern: str) -> re.Pattern[str]:
    """Go's RE2 and Python's re differ in little that schemas use.

    Raises:
        ValueError: what `re` does not compile.
    """
    for go, python in _RE2_TO_PYTHON:
        pattern = pattern.replace(go, python)
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r} is not a regular expression: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How an object is brought into its stored form: nulls and empty lists and maps dropped as absent (built-in kinds: Go types say
    ``omitempty``), defaults filled in or not."""

    drop_null: bool
    defaults: bool = True


def normalise(value: Any, schema: Schema, form: Form, unknown: list[str], path: str = "") -> Any:
    """`value` without the fields that `schema` does not know, and with its defaults; `value` itself is not changed.

    Parts that stay as they are are shared with `value`. The paths of what was dropped are appended to `unknown`. Where nulls are not
    dropped anyway, they are where a default replaces them.
    Source: apiextensions-apiserver pkg/apiserver/schema/pruning and defaulting.
    """
    if isinstance(value, dict):
        if schema.untyped and not schema.properties:
            return value
        return _normalise_object(value, schema, form, unknown, path)
    if isinstance(value, list) and schema.items is not None:
        items = schema.items
        if items.untyped or (items.type not in ("object", "array") and not items.has_defaults):
            return value
        changed = [normalise(one, items, form, unknown, f"{path}[{index}]") for index, one in enumerate(value)]
        return value if all(map(_is, changed, value)) else changed
    return value


def _is(one: Any, other: Any) -> bool:
    return one is other


def _normalise_object(value: Json, schema: Schema, form: Form, unknown: list[str], path: str) -> Json:
    result: Json = {}
    same = True
    for name, inner in value.items():
        child = schema.child(name)
        if child is None:
            if not (schema.embedded and name in ("apiVersion", "kind", "metadata")):
                unknown.append(f"{path}.{name}" if path else name)
                same = False
                continue
            child = ANY
        if inner is None and (form.drop_null or (not child.nullable and child.default is not ABSENT)):
            same = False
            continue
        if isinstance(inner, (dict, list)):
            normal = normalise(inner, child, form, unknown, f"{path}.{name}" if path else name)
            if form.drop_null and not normal and not child.keep_empty and (child.items or child.additional):
                same = False
                continue
            same = same and normal is inner
            result[name] = normal
        else:
            result[name] = inner
    if schema.has_defaults and form.defaults:
        for name, child in schema.properties.items():
            if child.default is not ABSENT and name not in result:
                # A default may be an object whose own fields have defaults.
                result[name] = normalise(copied(child.default), child, form, [])
                same = False
    return value if same else result


def copied(value: Any) -> Any:
    """A deep copy of a JSON value; several times faster than copy.deepcopy."""
    if isinstance(value, dict):
        return {name: copied(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [copied(inner) for inner in value]
    return value
