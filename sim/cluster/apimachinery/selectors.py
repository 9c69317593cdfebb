"""Label and field selectors.

Source: kubernetes.io/docs/concepts/overview/working-with-objects/labels and /field-selectors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from sim.cluster.apimachinery.problems import Json, bad_request

Test = Callable[[Json], bool]

_KEY: Final = r"(?:[A-Za-z0-9][-A-Za-z0-9_.]*/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_VALUE: Final = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_REQUIREMENT: Final = re.compile(
    rf"\s*(?:(?P<key>{_KEY})\s*(?P<op>==|=|!=|>|<)\s*(?P<value>{_VALUE})"
    rf"|(?P<set_key>{_KEY})\s+(?P<set_op>in|notin)\s*\(\s*(?P<values>{_VALUE}(?:\s*,\s*{_VALUE})*)\s*\)"
    rf"|(?P<not>!)\s*(?P<absent>{_KEY})|(?P<present>{_KEY}))\s*(?:,|$)"
)


def everything(_: Json) -> bool:
    """The selector that selects all."""
    return True


def labels_of(obj: Json) -> Mapping[str, str]:
    return obj.get("metadata", {}).get("labels") or {}


def label_selector(text: str) -> Test:
    """The test of a label selector: ``a=b,c!=d,e in (f,g),h notin (i),j,!k``.

    Raises:
        StatusError: 400 with what cannot be parsed.
    """
    tests: list[Callable[[Mapping[str, str]], bool]] = []
    at = 0
    while at < len(text.rstrip()):
        found = _REQUIREMENT.match(text, at)
        if found is None:
            expected = "expected a label selector like a=b,c in (d,e)"
            raise bad_request(f"unable to parse requirement: found {text[at:]!r}, {expected}")
        tests.append(_label_test(found))
        at = found.end()
    if not tests:
        return everything

    def selected(obj: Json) -> bool:
        labels = labels_of(obj)
        return all(test(labels) for test in tests)

    return selected


def _label_test(found: re.Match[str]) -> Callable[[Mapping[str, str]], bool]:
    key, value = found["key"], found["value"]
    match found["op"]:
        case "=" | "==":
            return lambda labels: labels.get(key) == value
        case "!=":
            return lambda labels: labels.get(key) != value
        case ">" | "<" as operator:
            return lambda labels: _ordered(labels.get(key), operator, value)
        case _:
            pass
    if found["set_op"]:
        name, inside = found["set_key"], found["set_op"] == "in"
        values = {one.strip() for one in found["values"].split(",")}
        return lambda labels: (name in labels and labels[name] in values) if inside else labels.get(name) not in values
    if found["not"]:
        absent = found["absent"]
        return lambda labels: absent not in labels
    present = found["present"]
    return lambda labels: present in labels


def _ordered(mine: str | None, operator: str, bound: str) -> bool:
    if mine is None or not mine.lstrip("-").isdigit() or not bound.lstrip("-").isdigit():
        return False
    return int(mine) > int(bound) if operator == ">" else int(mine) < int(bound)


def match_labels(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether labels fit a LabelSelector object (matchLabels, matchExpressions)."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_expression(one, labels) for one in selector.get("matchExpressions") or [])


def _expression(expression: Json, labels: Mapping[str, str]) -> bool:
    key, values = expression.get("key", ""), expression.get("values") or []
    match expression.get("operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels


def field_selector(text: str, known: Collection[str]) -> Test:
    """The test of a field selector: ``metadata.name=a,status.phase!=Failed``. `known` are the fields that the kind can be selected by.

    Raises:
        StatusError: 400 for a field that the kind is not selected by.
    """
    tests: list[Test] = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        path, operator, value = _field_requirement(part)
        if path not in known:
            if len(known) > 2:
                raise bad_request(f"field label not supported: {path}")
            listed = ", ".join(f'"{one}"' for one in sorted(known))
            raise bad_request(f'"{path}" is not a known field selector: only {listed}')
        tests.append(_field_test(path.split("."), operator, value))
    if not tests:
        return everything
    return lambda obj: all(test(obj) for test in tests)


def _field_requirement(part: str) -> tuple[str, str, str]:
    for operator in ("!=", "==", "="):
        path, found, value = part.partition(operator)
        if found:
            return path, operator, value.replace("\\,", ",").replace("\\=", "=").replace("\\\\", "\\")
    raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")


def _field_test(path: list[str], operator: str, value: str) -> Test:
    def holds(obj: Json) -> bool:
        node: Any = obj
        for name in path:
            node = node.get(name) if isinstance(node, dict) else None
        text = "" if node is None else str(node).lower() if isinstance(node, bool) else str(node)
        return (text != value) if operator == "!=" else (text == value)

    return holds


def both(labels: str, fields: str, known: Collection[str]) -> Test | None:
    """The test of both selectors, None when there is none.

    Raises:
        StatusError: 400 for a selector that cannot be read.
    """
    if not labels and not fields:
        return None
    by_label, by_field = label_selector(labels), field_selector(fields, known)
    return lambda obj: by_label(obj) and by_field(obj)
