"""YAML as a person wrote it: every value knows its file and line, and what would surprise somebody is refused.

Refused: a key that stands twice, aliases that explode or contain themselves, tags beyond YAML's own, nesting without end, binary files.
Plain scalars mean what they mean to `kubectl`: ``yes`` is true, ``0x10`` is 16, but ``10:30`` and ``2026-01-01`` stay text.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from core.errors import InputError, Problem

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 100
MAX_ALIASED_VALUES = 100_000
"""How many values all aliases of a file may stand for together."""
MAX_BROKEN_DOCUMENTS = 100
_DOCUMENT_START = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)
"""At the beginning of a line it means this everywhere in YAML, even inside of quotes. Source: YAML 1.1, section 4.3.1."""
PIPES = ("/dev/stdin", "/dev/fd/")
"""What a shell hands over as a file that somebody writes, such as ``<(helm template ...)``; other pipes might never end."""

Scalar = None | bool | int | float | str

_Loader: Any = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # libyaml's parser where PyYAML was built with it: ten times faster
_YAML_TAG = "tag:yaml.org,2002:"
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {
    word: value
    for value, words in ((True, "true yes on"), (False, "false no off"))
    for lower in words.split()
    for word in (lower, lower.capitalize(), lower.upper())
}
_INTEGER = re.compile(r"[-+]?(?:0b[01][01_]*|0o?[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|[1-9][0-9_]*|0)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_LONGEST_NUMBER = 100
"""Characters; anything longer is text."""


class Entry(NamedTuple):
    """One key of a mapping: the line of the key, and its value."""

    line: int
    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A YAML value and where it stands. `value` is a scalar, a tuple of nodes, or a mapping from key to Entry."""

    source: str
    line: int
    """Counted from 1; 0: the source is not a file."""
    value: Scalar | tuple[Node, ...] | Mapping[str, Entry]
    text: str = ""
    """A scalar as it is written."""
    size: int = 1
    """Values in this tree."""
    depth: int = 0
    """How deep its lists and mappings nest."""

    @property
    def where(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source

    def where_key(self, key: str) -> str:
        """Where `key` of this mapping stands; where the mapping begins when it has no such key."""
        if isinstance(self.value, Mapping) and key in self.value:
            entry = self.value[key]
            return f"{entry.node.source}:{entry.line}" if entry.line else entry.node.source
        return self.where

    def describe(self) -> str:
        """What stands here, in a few words."""
        if isinstance(self.value, tuple):
            return "a list"
        if isinstance(self.value, Mapping):
            return "a mapping"
        return repr(self.text) if isinstance(self.value, str) else (self.text or "nothing")

    def json(self) -> Any:
        """The plain value: dict, list, str, int, float, bool or None."""
        if isinstance(self.value, tuple):
            return [item.json() for item in self.value]
        if isinstance(self.value, Mapping):
            return {key: entry.node.json() for key, entry in self.value.items()}
        return self.value

    def line_at(self, path: tuple[str | int, ...]) -> str:
        """``file:line`` of what `path` leads to, or of the deepest part of it that exists."""
        node, where = self, self.where
        for step in path:
            if isinstance(step, str) and isinstance(node.value, Mapping) and step in node.value:
                where, node = node.where_key(step), node.value[step].node
            elif isinstance(step, int) and isinstance(node.value, tuple) and step < len(node.value):
                node = node.value[step]
                where = node.where
            else:
                break
        return where


def read_text(path: Path) -> str:
    """The text of a file; of standard input for ``-``. Raises InputError."""

    def refuse(what: str, expected: str) -> NoReturn:
        raise InputError(Problem(where=str(path), what=what, expected=expected))

    try:
        if str(path) == "-":
            raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        elif path.is_dir():
            refuse("is a directory", "a file")
        elif path.exists() and not path.is_file() and not str(path).startswith(PIPES):
            refuse("is no regular file", "a file with YAML")
        else:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        refuse("no such file", "the path of a file that exists")
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        refuse(f"cannot be read: {getattr(error, 'strerror', error)}", "a file that you may read")
    if len(raw) > MAX_FILE_BYTES:
        refuse("is too large", f"at most {MAX_FILE_BYTES >> 20} MiB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            Problem(
                where=f"{path}:{line}",
                what="is a binary file",
                found=f"byte 0x{raw[error.start]:02x}",
                expected="UTF-8 text",
            )
        ) from None


def read_documents(path: Path) -> tuple[Node, ...]:
    """The documents of a YAML file, at least one; empty ones are left out. Raises InputError with every problem found."""
    documents, problems = scan_documents(path)
    if problems:
        raise InputError(*problems)
    return documents


def scan_documents(path: Path) -> tuple[tuple[Node, ...], tuple[Problem, ...]]:
    """The documents of a YAML file that can be read, and every problem of the others. Raises InputError when it holds no text."""
    documents, problems = _scan(read_text(path), str(path))
    if not documents and not problems:
        raise InputError(Problem(where=str(path), what="is empty", expected="at least one YAML document"))
    return documents, problems


def parse_documents(text: str, source: str) -> tuple[Node, ...]:
    """The documents of a YAML text; `source` names it in errors. Raises InputError with every problem found."""
    documents, problems = _scan(text, source)
    if problems:
        raise InputError(*problems)
    return documents


class _Unreadable(Exception):  # noqa: N818  (it never leaves this module)
    """The rest of a document means nothing; a problem says why. The argument is the line, counted from 1."""


def _scan(text: str, source: str) -> tuple[tuple[Node, ...], tuple[Problem, ...]]:
    """The good documents, and the problems of the others: reading goes on at the document after a broken one."""
    composer = _Composer(source=source)
    start, line = 0, 1
    for _ in range(MAX_BROKEN_DOCUMENTS):
        try:
            for event in yaml.parse(text[start:] if start else text, Loader=_Loader):
                composer.take(event)
            break
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = composer.line_of(mark.line) if mark else 1
            composer.problem(line, _broken(error, text.splitlines()[line - 1 : line]))
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, start + error.position) + 1
            composer.problem(line, f"is a binary file: the character {error.character!r} is not allowed in YAML")
            break
        except _Unreadable as error:
            line = error.args[0]
        following = _document_after(text, start, line)
        if following is None:
            break
        start = following
        composer.begin_again(text.count("\n", 0, start))
    else:
        composer.problem(line, f"is the {MAX_BROKEN_DOCUMENTS}th broken document of this file: the rest was not read")
    return tuple(composer.documents), tuple(composer.problems)


def _document_after(text: str, start: int, line: int) -> int | None:
    """Where the first document begins that begins in `line` (counted from 1) or below it, and after `start`."""
    position = 0
    for _ in range(line - 1):
        position = text.find("\n", position) + 1
    found = _DOCUMENT_START.search(text, max(position, start + 1))
    return found.start() if found else None


def _broken(error: yaml.MarkedYAMLError, line: list[str]) -> str:
    what = f"broken YAML: {error.problem or error.context or 'cannot be parsed'}"
    if error.problem_mark and any("\t" in text for text in line):
        what += " (there is a tab in this line: YAML indents with spaces)"
    return what


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    line: int
    anchor: str | None
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] | None = None
    merges: list[Node] = field(default_factory=list)
    key: Node | None = None
    size: int = 1
    depth: int = 1


@dataclass(slots=True)
class _Composer:
    """Makes nodes of parser events, with an explicit stack: depth costs no recursion."""

    source: str
    documents: list[Node] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)
    aliased: int = 0
    lines_before: int = 0
    """Lines before the text that the parser was given."""
    good: tuple[int, int] = (0, 0)
    """How many documents and problems there were when this document began."""

    def line_of(self, number: int) -> int:
        """Counted from 1, in the whole text, of what the parser counts from 0, in its own."""
        return self.lines_before + number + 1

    def begin_again(self, lines_before: int) -> None:
        """After a broken document, of which nothing stays."""
        self.lines_before = lines_before
        self.stack = []
        del self.documents[self.good[0] :]

    def problem(self, line: int, what: str, found: str = "", expected: str = "") -> None:
        self.problems.append(Problem(where=f"{self.source}:{line}", what=what, found=found, expected=expected))

    def refuse(self, line: int, what: str, found: str = "", expected: str = "") -> NoReturn:
        """For what makes the rest of the document meaningless."""
        self.problem(line, what, found, expected)
        raise _Unreadable(line)

    def take(self, event: yaml.Event) -> None:
        line = self.line_of(event.start_mark.line) if event.start_mark else 1
        match event:
            case yaml.DocumentStartEvent():
                self.anchors = {}
                self.good = (len(self.documents), len(self.problems))
            case yaml.DocumentEndEvent():
                if len(self.problems) > self.good[1]:
                    del self.documents[self.good[0] :]
            case yaml.ScalarEvent():
                self.add(self.scalar(event, line), event.anchor)
            case yaml.AliasEvent():
                self.add(self.alias(event.anchor or "", line), None)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                if len(self.stack) == MAX_DEPTH:
                    self.refuse(line, f"is nested deeper than {MAX_DEPTH} levels")
                if event.tag and not event.implicit and event.tag not in (_YAML_TAG + "map", _YAML_TAG + "seq"):
                    self.problem(line, "unknown tag", event.tag, "no tag")
                is_mapping = isinstance(event, yaml.MappingStartEvent)
                self.stack.append(_Open(line=line, anchor=event.anchor, entries={} if is_mapping else None))
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self.close()
            case _:
                pass

    def alias(self, anchor: str, line: int) -> Node:
        node = self.anchors.get(anchor)
        if node is None:
            inside = any(open_.anchor == anchor for open_ in self.stack)
            self.refuse(line, f"alias *{anchor} {'contains itself' if inside else 'has no anchor before it'}")
        if len(self.stack) + node.depth > MAX_DEPTH:
            self.refuse(line, f"with alias *{anchor} is nested deeper than {MAX_DEPTH} levels")
        self.aliased += node.size
        if self.aliased > MAX_ALIASED_VALUES:
            self.refuse(
                line, f"aliases stand for more than {MAX_ALIASED_VALUES} values", f"*{anchor}", "values written out"
            )
        return node

    def scalar(self, event: yaml.ScalarEvent, line: int) -> Node:
        value: Scalar = event.value
        plain, quoted = event.implicit
        if plain:
            value = resolve(event.value)
        elif not quoted and event.tag is not None and event.tag != "!":
            value = self.tagged(event.tag, event.value, line)
        return Node(source=self.source, line=line, value=value, text=event.value)

    def tagged(self, tag: str, text: str, line: int) -> Scalar:
        """The value of a scalar with an explicit tag."""
        kind = tag.removeprefix(_YAML_TAG)
        if kind == "str":
            return text
        value = resolve(text)
        kinds: dict[str, type | tuple[type, ...]] = {
            "int": int,
            "float": (int, float),
            "bool": bool,
            "null": type(None),
        }
        if kind not in kinds:
            self.problem(line, "unknown tag", tag, "no tag")
        elif not isinstance(value, kinds[kind]):
            self.problem(line, f"is no !!{kind}", repr(text), "no tag")
        return value

    def add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.stack:
            if node.value is not None or node.text:
                self.documents.append(node)
            return
        open_ = self.stack[-1]
        open_.size += node.size
        open_.depth = max(open_.depth, node.depth + 1)
        if open_.entries is None:
            open_.items.append(node)
        elif open_.key is None:
            if isinstance(node.value, tuple | Mapping):
                self.problem(node.line, "a key must be a word", node.describe(), "a scalar")
            open_.key = node
        else:
            key, open_.key = open_.key, None
            self.set_entry(open_, key, node)

    def set_entry(self, open_: _Open, key: Node, node: Node) -> None:
        if open_.entries is None:
            raise AssertionError("a key outside of a mapping")
        if key.text == "<<" and key.value == "<<":
            open_.merges += node.value if isinstance(node.value, tuple) else (node,)
        elif key.text in open_.entries:
            first = open_.entries[key.text].line
            self.problem(
                key.line,
                "the same key twice in one mapping",
                f"{key.text!r} again, first in line {first}",
                "one of them",
            )
        else:
            open_.entries[key.text] = Entry(key.line, node)

    def close(self) -> None:
        open_ = self.stack.pop()
        value: tuple[Node, ...] | Mapping[str, Entry]
        if open_.entries is None:
            value = tuple(open_.items)
        else:
            for merged in open_.merges:
                if not isinstance(merged.value, Mapping):
                    self.problem(merged.line, "<< merges mappings only", merged.describe(), "an alias of a mapping")
                    continue
                for key, entry in merged.value.items():
                    open_.entries.setdefault(key, entry)
            value = open_.entries
        node = Node(source=self.source, line=open_.line, value=value, size=open_.size, depth=open_.depth)
        self.add(node, open_.anchor)


def resolve(text: str) -> Scalar:
    """What a plain scalar means."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if len(text) <= _LONGEST_NUMBER:
        if _INTEGER.fullmatch(text):
            return _integer(text.replace("_", ""))
        if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
            return number
    return text


def _integer(text: str) -> int:
    digits = text.lstrip("+-")
    sign = -1 if text.startswith("-") else 1
    if digits.startswith(("0b", "0x", "0o")):
        return sign * int(digits, 0)
    return sign * int(digits, 8 if digits.startswith("0") else 10)
