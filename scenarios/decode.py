"""From YAML nodes to frozen dataclasses, by their types: all problems of a file at once, each with its line and the nearest known key.

A dataclass field made with `key` says what the key means; its annotation says what may stand there. The same declarations give the
reference (`scenarios.reference`).
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from enum import Enum
from functools import cache
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from typing import Any, Final, NamedTuple, Protocol, Union, get_args, get_origin, get_type_hints, runtime_checkable

from core.errors import Problem
from core.model import Address, Prefix
from scenarios.yamlsource import Node

Interface = IPv4Interface | IPv6Interface
"""An address with the length of its network's prefix."""


class _Invalid(Enum):
    INVALID = 0


INVALID: Final = _Invalid.INVALID
"""Stands for a value that could not be read; a Problem says why."""


@runtime_checkable
class Text(Protocol):
    """A value that is written as one word: `parse` raises ValueError with what would be right."""

    @classmethod
    def parse(cls, text: str) -> Any: ...


class Key(NamedTuple):
    """What a field of a specification says of its key."""

    doc: str
    name: str
    minimum: float | None
    maximum: float | None
    example: str


def key(
    doc: str,
    *,
    default: Any = MISSING,
    name: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    example: str = "",
) -> Any:
    """A field of a specification. `name` is the key where it is no Python name, such as ``from``."""
    return field(default=default, metadata={"key": Key(doc, name, minimum, maximum, example)})


def keys(kind: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Key -> (field, its type) of a specification."""
    hints = _hints(kind)
    return {spec_key(f).name or f.name: (f, hints[f.name]) for f in dataclasses.fields(kind) if "key" in f.metadata}


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def spec_key(f: dataclasses.Field[Any]) -> Key:
    found: Key = f.metadata["key"]
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """``, such as 'x'`` for the known word nearest to `word`, or the list of them when none is near."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if close:
        return f"{close[0]!r}"
    return "one of " + ", ".join(words)


@dataclass(slots=True)
class Decoder:
    """Reads nodes; collects problems instead of raising them."""

    problems: list[Problem] = field(default_factory=list)
    nodes: dict[int, Node] = field(default_factory=dict)
    """The node of each specification that was read, by its id; they live as long as the result does."""

    def problem(self, where: str, what: str, found: str = "", expected: str = "") -> None:
        self.problems.append(Problem(where=where, what=what, found=found, expected=expected))

    def where(self, spec: object, name: str = "") -> str:
        """Where key `name` of a specification stands, or the specification itself."""
        node = self.nodes[id(spec)]
        return node.where_key(name) if name else node.where

    def read(self, node: Node, kind: Any, name: str, rule: Key | None = None) -> Any:
        """The value of `node` as a `kind`, or INVALID. `name` is the key, for messages."""
        origin = get_origin(kind)
        if kind in (Address, Prefix, Interface):
            return self.read_address(node, kind, name)
        if origin in (types.UnionType, Union):
            return self.read_union(node, get_args(kind), name, rule)
        if origin is tuple:
            return self.read_list(node, get_args(kind)[0], name, rule)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            if hasattr(kind, "parse"):
                return self.read_text(node, kind, name)
            return self.read_mapping(node, kind, name)
        if isinstance(kind, type) and issubclass(kind, Enum):
            return self.read_enum(node, kind, name)
        return self.read_scalar(node, kind, name, rule)

    def wrong(self, node: Node, name: str, expected: str) -> _Invalid:
        self.problem(node.where, f"{name!r} is wrong" if name else "wrong", node.describe(), expected)
        return INVALID

    def read_union(self, node: Node, kinds: tuple[Any, ...], name: str, rule: Key | None) -> Any:
        some = tuple(kind for kind in kinds if kind is not type(None))
        if len(some) < len(kinds) and node.value is None:
            return None
        if len(some) == 1:
            return self.read(node, some[0], name, rule)
        return self.read_tagged(node, some, name)

    def read_tagged(self, node: Node, kinds: tuple[type, ...], name: str) -> Any:
        """One of several specifications; the key named by their TAG says which."""
        tag: str = kinds[0].TAG  # type: ignore[attr-defined] # every member of such a union has one; a test checks it
        by_word = {kind.WORD: kind for kind in kinds}  # type: ignore[attr-defined] # likewise
        if not isinstance(node.value, Mapping):
            return self.wrong(node, name, f"a mapping with the key {tag!r}")
        if tag not in node.value:
            self.problem(node.where, f"missing key {tag!r}", expected=f"one of {', '.join(by_word)}")
            return INVALID
        word = node.value[tag].node
        if not isinstance(word.value, str) or word.value not in by_word:
            self.problem(word.where, f"unknown {tag}", word.describe(), nearest(word.text, by_word))
            return INVALID
        return self.read_mapping(node, by_word[word.value], name, ignore=tag)

    def read_list(self, node: Node, kind: Any, name: str, rule: Key | None) -> Any:
        if not isinstance(node.value, tuple):
            return self.wrong(node, name, "a list")
        values = [self.read(item, kind, name, rule) for item in node.value]
        return tuple(value for value in values if value is not INVALID)

    def read_mapping(self, node: Node, kind: type, name: str, ignore: str = "") -> Any:
        known = keys(kind)
        if not isinstance(node.value, Mapping):
            return self.wrong(node, name, f"a mapping with the keys {', '.join(known)}")
        for word in node.value:
            if word not in known and word != ignore:
                self.problem(node.where_key(word), "unknown key", repr(word), nearest(word, known))
        arguments: dict[str, Any] = {}
        complete = True
        for word, (f, hint) in known.items():
            entry = node.value.get(word)
            if entry is not None:
                value = self.read(entry.node, hint, word, spec_key(f))
                if value is not INVALID:
                    arguments[f.name] = value
                    continue
            elif f.default is MISSING:
                example = spec_key(f).example
                expected = f"such as {word}: {example}" if example else spec_key(f).doc
                self.problem(node.where, f"missing key {word!r}", expected=expected)
            complete = complete and f.default is not MISSING
        if not complete:
            return INVALID
        result = kind(**arguments)
        self.nodes[id(result)] = node
        return result

    def read_text(self, node: Node, kind: type, name: str) -> Any:
        if not isinstance(node.value, str):
            return self.wrong(node, name, kind.__doc__ or "text")
        try:
            result = kind.parse(node.value)  # type: ignore[attr-defined] # the caller has looked
        except ValueError as error:
            return self.wrong(node, name, str(error))
        self.nodes[id(result)] = node
        return result

    def read_enum(self, node: Node, kind: type[Enum], name: str) -> Any:
        words = [str(member.value) for member in kind]
        for member in kind:
            if node.text == str(member.value):
                return member
        return self.wrong(node, name, nearest(node.text, words) if len(words) > 4 else "one of " + ", ".join(words))

    def read_address(self, node: Node, kind: Any, name: str) -> Any:
        readers: dict[Any, tuple[Callable[[str], Any], str]] = {
            Address: (ip_address, "an IP address, such as 20.0.0.1 or 2000::1"),
            Prefix: (ip_network, "a CIDR without host bits, such as 200.100.0.0/24"),
            Interface: (ip_interface, "an address with its prefix length, such as 169.254.100.150/24"),
        }
        make, example = readers[kind]
        text = node.value
        if not isinstance(text, str) or (kind == Interface and "/" not in text):
            return self.wrong(node, name, example)
        try:
            return make(text)
        except ValueError as error:
            reason = f" ({error})" if "host bits" in str(error) else ""
            return self.wrong(node, name, example + reason)

    def read_scalar(self, node: Node, kind: type, name: str, rule: Key | None) -> Any:
        value = node.value
        if kind is str:
            return value if isinstance(value, str) and value else self.wrong(node, name, "text")
        if kind is bool:
            return value if isinstance(value, bool) else self.wrong(node, name, "true or false")
        if kind not in (int, float):
            raise TypeError(f"{name}: a specification cannot have a {kind}")
        low, high = (rule.minimum, rule.maximum) if rule else (None, None)
        expected = ("a whole number" if kind is int else "a number") + unit_of(name) + bounds(low, high)
        accepted = (int,) if kind is int else (int, float)
        if not isinstance(value, accepted) or isinstance(value, bool):
            return self.wrong(node, name, expected)
        if (low is not None and value < low) or (high is not None and value > high):
            return self.wrong(node, name, expected)
        return kind(value)


_UNITS = {"_s": "seconds", "_ms": "milliseconds", "_bytes": "bytes", "_percent": "percent"}


def unit_of(name: str) -> str:
    """`` of seconds, without a unit`` for ``at_s``; ``""`` for a key without unit."""
    return next((f" of {unit} (the key says the unit)" for end, unit in _UNITS.items() if name.endswith(end)), "")


def bounds(low: float | None, high: float | None) -> str:
    """`` from 1 to 65535``, `` of at least 1``, or ``""``."""
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    return f" of at most {high}" if high is not None else ""
