"""A compact notation for the schemas of built-in kinds, and its reader.

A line without indentation opens a type; indented lines are its fields::

    Container
      name!,image string                          names; ! is required
      ports [ContainerPort] map:containerPort,protocol merge:containerPort
      resources ResourceRequirements ={}
      terminationMessagePolicy string =File enum:File|FallbackToLogsOnError

A line ``Port = int32 1..65535`` names a type with its flags.

Types: string int32 int64 bool number time any, intstr (integer or string), [T] a list, {T} a map, or the name of another type, which
may be declared later. Flags: ``map:keys``, ``set`` and ``atomic`` say how server-side apply merges, ``unique`` that other
requests may not repeat a key either; ``merge:key`` and ``merge`` how a
strategic merge patch does; ``retain`` its retainKeys; ``keep`` an
empty list is not dropped; ``=JSON-or-word`` is a default; ``1..65535`` a range; ``max:16`` and ``min:1``
bound a list or a string; ``enum:A|B``; ``re:PATTERN`` (last on its line). A type with ``...`` keeps unknown fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sim.cluster.apimachinery.schema import ANY, Schema, compiled

_SCALARS: Final = {
    "string": Schema(type="string"),
    "int32": Schema(type="integer", format="int32"),
    "int64": Schema(type="integer", format="int64"),
    "bool": Schema(type="boolean"),
    "number": Schema(type="number"),
    "time": Schema(type="string", format="date-time", nullable=True),
    "intstr": Schema(int_or_string=True),
    "any": ANY,
}
_SWITCHES: Final[Mapping[str, Mapping[str, Any]]] = {
    "unique": {"may_repeat": False},
    "keep": {"keep_empty": True},
    "retain": {"retain_keys": True},
}
_RANGE: Final = re.compile(r"^(-?\d*)\.\.(\d*)$")


def read(text: str) -> Mapping[str, Schema]:
    """The schemas that `text` declares, by type name.

    Raises:
        ValueError: a type that is not declared, or a flag that means nothing.
    """
    declared: dict[str, tuple[str, list[str]]] = {}
    fields: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] != " ":
            name, _, of = line.partition(" ")
            fields = []
            declared[name] = (of, fields)
        else:
            fields.append(line.strip())
    built: dict[str, Schema] = {}
    for name in declared:
        _build(name, declared, built)
    return built


def _build(name: str, declared: Mapping[str, tuple[str, list[str]]], built: dict[str, Schema]) -> Schema:
    if name in _SCALARS:
        return _SCALARS[name]
    if name in built:
        return built[name]
    if name not in declared:
        raise ValueError(f"type {name!r} is not declared; known: {', '.join(declared)}")
    flags, lines = declared[name]
    if flags.startswith("= "):
        kind, _, rest = flags[2:].partition(" ")
        built[name] = _field(kind, rest, declared, built)
        return built[name]
    properties: dict[str, Schema] = {}
    required: list[str] = []
    for line in lines:
        names, kind, *given = line.split(" ", 2)
        child = _field(kind, given[0] if given else "", declared, built)
        for one in names.split(","):
            properties[one.rstrip("!")] = child
            if one.endswith("!"):
                required.append(one.rstrip("!"))
    built[name] = Schema(
        type="object",
        properties=properties,
        required=tuple(required),
        preserve_unknown="..." in flags.split(),
        map_type="atomic" if "atomic" in flags.split() else "granular",
        has_defaults=any(child.has_defaults for child in properties.values()),
    )
    return built[name]


def _field(kind: str, flags: str, declared: Mapping[str, tuple[str, list[str]]], built: dict[str, Schema]) -> Schema:
    if kind[0] == "[":
        items = _build(kind[1:-1], declared, built)
        schema = Schema(type="array", items=items, has_defaults=items.has_defaults, may_repeat=True)
    elif kind[0] == "{":
        inner = _build(kind[1:-1], declared, built)
        schema = Schema(type="object", additional=inner, has_defaults=inner.has_defaults)
    else:
        schema = _build(kind, declared, built)
    before, _, pattern = flags.partition("re:")
    if pattern:
        schema = replace(schema, pattern=compiled(pattern), pattern_text=pattern)
    for flag in before.split():
        schema = _flagged(schema, flag)
    return schema


def _flagged(schema: Schema, flag: str) -> Schema:
    key, _, argument = flag.partition(":")
    if flag[0] == "=":
        value = _word(flag[1:])
        return replace(schema, default=value, has_defaults=True, nullable=schema.nullable or value is None)
    if bounds := _RANGE.match(flag):
        low, high = bounds.groups()
        return replace(schema, minimum=int(low) if low else None, maximum=int(high) if high else None)
    match key:
        case "atomic":
            return replace(schema, list_type="atomic", map_type="atomic")
        case "set":
            return replace(schema, list_type="set")
        case "map":
            return replace(schema, list_type="map", list_keys=tuple(argument.split(",")))
        case "merge":
            return replace(schema, merge_key=argument)
        case "unique" | "keep" | "retain":
            return replace(schema, **_SWITCHES[key])
        case "enum":
            return replace(schema, enum=tuple(argument.split("|")))
        case "max":
            return _bounded(schema, "max", int(argument))
        case "min":
            return _bounded(schema, "min", int(argument))
        case _:
            raise ValueError(f"flag {flag!r} means nothing; see the notation's docstring")


def _bounded(schema: Schema, end: str, bound: int) -> Schema:
    unit = {"string": "length", "array": "items", "object": "properties"}[schema.type]
    changes: dict[str, Any] = {f"{end}_{unit}": bound}
    return replace(schema, **changes)


def _word(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
