"""Writes docs/scenarios.md from the dataclasses of the scenario language: ``python -m scenarios.reference > docs/scenarios.md``."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Iterator
from enum import Enum
from typing import Any, Union, get_args, get_origin

from core.model import Address, Prefix
from scenarios.decode import Interface, bounds, keys, spec_key
from scenarios.metrics import METRICS
from scenarios.spec import Apply, Bfd, Delete, Expectation, Router, Scale, Scenario, SocketAddress, Topology, Traffic

INTRODUCTION = """\
# The scenario language

<!-- Made by `python -m scenarios.reference > docs/scenarios.md`; a test checks that it is current. -->

A scenario is one YAML file: manifests that are applied to a cluster, routers outside of it, traffic from them, actions while it
runs, and what is expected of the metrics. `tidegate validate FILE` checks it, `tidegate run FILE` runs it, and
`scenarios/library` has examples.

Units are part of the keys (`at_s`, `min_tx_ms`); numbers have none. Unknown keys are errors. `--set KEY=VALUE` replaces one value, by a
dotted path in which elements of lists go by number or by name: `--set traffic.clients.connections=50`.

Time zero is when the gateways are programmed and every router outside has the routes. Traffic and actions are steps: each begins at
a time (`at_s`), or after another step is over (`after`).
"""

SPECS: tuple[tuple[str, type], ...] = (
    ("A scenario", Scenario),
    ("topology", Topology),
    ("topology.routers", Router),
    ("topology.routers.bfd", Bfd),
    ("traffic", Traffic),
    ("timeline: apply", Apply),
    ("timeline: scale", Scale),
    ("timeline: delete", Delete),
)


def reference() -> str:
    """The whole text."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    for title, kind in SPECS:
        yield f"## {title}"
        yield ""
        yield " ".join((kind.__doc__ or "").split())
        yield ""
        if issubclass(kind, Apply | Scale | Delete):
            yield f"Chosen by `{kind.TAG}: {kind.WORD}`."
            yield ""
        yield "| key | value | default | meaning |"
        yield "|---|---|---|---|"
        for name, (f, hint) in keys(kind).items():
            key = spec_key(f)
            text = _type(hint) + (bounds(key.minimum, key.maximum) if hint in (int, float) else "")
            yield f"| `{name}` | {text} | {_default(f)} | {key.doc} |"
        yield ""
    yield "## Metrics"
    yield ""
    yield "Expectations name these. Those of connections are there for each traffic as well: `connections_failed[clients] == 0`."
    yield "The bound may be another metric: `connections_broken == connections_must_break`."
    yield ""
    yield "| metric | unit | by traffic | meaning |"
    yield "|---|---|---|---|"
    for metric in METRICS:
        yield f"| `{metric.name}` | {metric.unit} | {'yes' if metric.per_traffic else ''} | {metric.doc} |"


_NAMES: dict[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Address: "address",
    Prefix: "CIDR",
    Interface: "address with prefix length",
    SocketAddress: "address and port",
    Expectation: "METRIC OP NUMBER",
}


def _type(hint: Any) -> str:
    if hint in _NAMES:
        return _NAMES[hint]
    if get_origin(hint) is tuple:
        return f"list of: {_type(get_args(hint)[0])}"
    if get_origin(hint) in (types.UnionType, Union):
        return " or ".join(_type(kind) for kind in get_args(hint) if kind is not types.NoneType)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(f"`{member.value}`" for member in hint)
    if hasattr(hint, "WORD"):
        return f"`{hint.WORD}`"
    title = next(title for title, kind in SPECS if kind is hint)
    return f"see {title}"


def _default(f: dataclasses.Field[Any]) -> str:
    if f.default is dataclasses.MISSING:
        return "required"
    value = f.default
    if value is None or value == () or value == "" or dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return f"`{value.value}`" if isinstance(value, Enum) else str(value)


if __name__ == "__main__":
    sys.stdout.write(reference())
