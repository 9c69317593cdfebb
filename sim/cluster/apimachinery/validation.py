"""Whether an object fits its structural schema: every misfit as a cause, in the real server's words.

Source: kube-openapi pkg/validation/validate, apiextensions-apiserver pkg/apiserver/validation/validation.go.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from sim.cluster.apimachinery import problems
from sim.cluster.apimachinery.problems import Cause
from sim.cluster.apimachinery.schema import Schema

_INT_RANGES: Final = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}
_DATE_TIME: Final = re.compile(r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$")


def type_of(value: Any) -> str:
    """The JSON schema name of the value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def validate(value: Any, schema: Schema, path: str = "") -> list[Cause]:
    """Every way in which `value` does not fit `schema`; empty when it does."""
    causes: list[Cause] = []
    _check(value, schema, path, causes)
    return causes


def in_builtin_words(cause: Cause) -> Cause:
    """The same cause as the validation of built-in kinds, which is not made from a schema, says it."""
    value, found, rest = cause.detail.partition(f": {cause.field} in body should be ")
    if not found:
        return cause
    port = cause.field.lower().endswith("port") and rest.endswith((" 65535", " 1"))
    return replace(cause, detail=f"{value}: must be " + ("between 1 and 65535, inclusive" if port else rest))


def _body(path: str) -> str:
    return f"{path} in body" if path else "in body"


def _check(value: Any, schema: Schema, path: str, out: list[Cause]) -> None:
    if value is None:
        if schema.nullable or schema.untyped:
            return
        if not schema.int_or_string:
            out.append(_type_misfit("null", schema.type, path))
        return
    if schema.type or schema.int_or_string:
        kind = type_of(value)
        if not _type_fits(value, kind, schema):
            wanted = schema.type or "integer,string"
            out.append(_type_misfit(kind, wanted, path))
            return
    if isinstance(value, dict):
        _check_object(value, schema, path, out)
    elif isinstance(value, list):
        _check_list(value, schema, path, out)
    elif isinstance(value, str):
        _check_string(value, schema, path, out)
    elif not isinstance(value, bool):
        _check_number(value, schema, path, out)
    if schema.enum and value not in schema.enum:
        out.append(problems.unsupported(path, value, schema.enum))
    if schema.all_of or schema.any_of or schema.one_of or schema.none_of:
        _check_combinations(value, schema, path, out)


def _type_fits(value: Any, kind: str, schema: Schema) -> bool:
    if schema.int_or_string:
        return kind in ("integer", "string")
    if kind == schema.type or (schema.type == "number" and kind == "integer"):
        return True
    return schema.type == "integer" and kind == "number" and float(value).is_integer()


def _type_misfit(kind: str, wanted: str, path: str) -> Cause:
    return problems.wrong_type(path, kind, f'{_body(path)} must be of type {wanted}: "{kind}"')


def _check_object(value: dict[str, Any], schema: Schema, path: str, out: list[Cause]) -> None:
    prefix = f"{path}." if path else ""
    out += [problems.required(prefix + name) for name in schema.required if name not in value]
    properties, additional = schema.properties, schema.additional
    for name, inner in value.items():
        if inner is None and name in schema.required and not properties.get(name, schema).nullable:
            out.append(problems.required(prefix + name))
            continue
        child = properties.get(name) or additional
        if child is not None:
            _check(inner, child, prefix + name if name in properties else f"{path}.{name}", out)
    count = len(value)
    if schema.max_properties is not None and count > schema.max_properties:
        out.append(problems.too_many(path, count, schema.max_properties))
    if schema.min_properties is not None and count < schema.min_properties:
        text = f"{_body(path)} should have at least {schema.min_properties} properties"
        out.append(problems.invalid_value(path, value, text))


def _check_list(value: list[Any], schema: Schema, path: str, out: list[Cause]) -> None:
    if schema.max_items is not None and len(value) > schema.max_items:
        out.append(problems.too_many(path, len(value), schema.max_items))
    if schema.min_items is not None and len(value) < schema.min_items:
        text = f"{_body(path)} should have at least {schema.min_items} items"
        out.append(problems.invalid_value(path, len(value), text))
    if schema.items is not None and not schema.items.untyped:
        for index, inner in enumerate(value):
            _check(inner, schema.items, f"{path}[{index}]", out)
    if schema.unique_items and len({problems.shown(one) for one in value}) != len(value):
        out.append(problems.invalid_value(path, value, f"{_body(path)} shouldn't contain duplicates"))
    if schema.may_repeat:
        return
    if schema.list_type == "set":
        _check_duplicates(value, [problems.shown(one) for one in value], path, out)
    elif schema.list_type == "map" and schema.merge_key is not None and len(schema.list_keys) == 1:
        # Built-in kinds name the key that is there twice, CRDs the item.
        key = schema.list_keys[0]
        values = [one.get(key) if isinstance(one, dict) else one for one in value]
        _check_duplicates(values, [problems.shown(one) for one in values], path, out, f".{key}")
    elif schema.list_type == "map":
        keys = [_keys_of(one, schema) for one in value]
        _check_duplicates(keys, [problems.shown(one) for one in keys], path, out)


def _keys_of(item: Any, schema: Schema) -> Any:
    if not isinstance(item, dict):
        return item
    return {key: item[key] for key in schema.list_keys if key in item}


def _check_duplicates(values: list[Any], texts: list[str], path: str, out: list[Cause], key: str = "") -> None:
    seen: set[str] = set()
    for index, text in enumerate(texts):
        if text in seen:
            out.append(problems.duplicate(f"{path}[{index}]{key}", values[index]))
        seen.add(text)


def _check_string(value: str, schema: Schema, path: str, out: list[Cause]) -> None:
    """Tells the first misfit only, as the real server does."""
    if schema.max_length is not None and len(value) > schema.max_length:
        out.append(problems.too_long(path, schema.max_length))
    elif schema.min_length is not None and len(value) < schema.min_length:
        text = f"{_body(path)} should be at least {schema.min_length} chars long"
        out.append(problems.invalid_value(path, value, text))
    elif schema.pattern is not None and schema.pattern.search(value) is None:
        text = f"{_body(path)} should match '{schema.pattern_text}'"
        out.append(problems.invalid_value(path, value, text))
    elif schema.format == "date-time" and not _DATE_TIME.match(value):
        out.append(problems.wrong_type(path, value, f'{_body(path)} must be of type date-time: "{value}"'))


def _check_number(value: float, schema: Schema, path: str, out: list[Cause]) -> None:
    bounds = _INT_RANGES.get(schema.format) if schema.type == "integer" else None
    if bounds is not None and not bounds[0] <= value <= bounds[1]:
        text = f"Checked value must be of type {schema.type} with format {schema.format} in {path}"
        out.append(problems.invalid_value("<nil>", "", text))
    low, high = schema.minimum, schema.maximum
    if low is not None and (value < low or (schema.exclusive_minimum and value == low)):
        how = "greater than" if schema.exclusive_minimum else "greater than or equal to"
        out.append(problems.invalid_value(path, value, f"{_body(path)} should be {how} {low}"))
    if high is not None and (value > high or (schema.exclusive_maximum and value == high)):
        how = "less than" if schema.exclusive_maximum else "less than or equal to"
        out.append(problems.invalid_value(path, value, f"{_body(path)} should be {how} {high}"))
    if schema.multiple_of and value % schema.multiple_of:
        out.append(problems.invalid_value(path, value, f"{_body(path)} should be a multiple of {schema.multiple_of}"))


def _check_combinations(value: Any, schema: Schema, path: str, out: list[Cause]) -> None:
    for one in schema.all_of:
        _check(value, one, path, out)
    if schema.any_of and all(validate(value, one, path) for one in schema.any_of):
        out.append(problems.invalid_value(path, value, f"{_body(path)} must validate at least one schema (anyOf)"))
    if schema.one_of:
        fitting = sum(not validate(value, one, path) for one in schema.one_of)
        if fitting != 1:
            found = "found none valid" if fitting == 0 else f"found {fitting} valid alternatives"
            text = f"{_body(path)} must validate one and only one schema (oneOf). {found}".replace("found", "Found", 1)
            out.append(problems.invalid_value(path, value, text))
    if schema.none_of is not None and not validate(value, schema.none_of, path):
        out.append(problems.invalid_value(path, value, f"{_body(path)} must not validate the schema (not)"))
