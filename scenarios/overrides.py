"""``--set KEY=VALUE``: one value of a scenario replaced before it is read, so that the same checks hold for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from core.errors import InputError, Problem
from scenarios.decode import nearest
from scenarios.yamlsource import Entry, Node, parse_documents

_INDEX = re.compile("[0-9]{1,9}")


def override(node: Node, setting: str, problems: list[Problem]) -> Node:
    """`node` with the value that `setting` gives to a dotted path; list elements by number or by their ``name``.

    What is wrong with the path is added to `problems`; what is wrong with key or value is found when the result is read.
    """
    source = f"--set {setting}"
    path, equals, text = setting.partition("=")
    if not equals or not all(path.split(".")):
        problems.append(Problem(where=source, what="is no setting", expected="KEY=VALUE, such as dataplane=nft"))
        return node
    try:
        documents = parse_documents(text, source)
    except InputError as error:
        problems.extend(replace(problem, where=source) for problem in error.problems)
        return node
    value = _at(documents[0], source) if documents else Node(source=source, line=0, value=None)
    return _set(node, path.split("."), value, source, problems)


def _at(node: Node, source: str) -> Node:
    """`node` and all below it, without line numbers."""
    value = node.value
    if isinstance(value, tuple):
        value = tuple(_at(item, source) for item in value)
    elif isinstance(value, Mapping):
        value = {key: Entry(0, _at(entry.node, source)) for key, entry in value.items()}
    return replace(node, source=source, line=0, value=value)


def _set(node: Node, path: list[str], value: Node, source: str, problems: list[Problem]) -> Node:
    if not path:
        return value
    head, *rest = path
    if isinstance(node.value, tuple):
        names = [_name_of(item) for item in node.value]
        index = int(head) if _INDEX.fullmatch(head) else names.index(head) if head in names else len(names)
        if index >= len(names):
            known = [name or str(i) for i, name in enumerate(names)]
            expected = nearest(head, known) if known else "nothing: the list is empty"
            problems.append(Problem(where=source, what="no such element", found=repr(head), expected=expected))
            return node
        items = list(node.value)
        items[index] = _set(items[index], rest, value, source, problems)
        return replace(node, value=tuple(items))
    entries = dict(node.value) if isinstance(node.value, Mapping) else {}
    below = entries[head] if head in entries else Entry(0, Node(source=source, line=0, value={} if rest else None))
    line = below.line if rest else 0
    entries[head] = Entry(line, _set(below.node, rest, value, source, problems))
    # A scalar in the way is replaced, and the reader will say that the key is unknown or the value no mapping.
    return replace(node, value=entries)


def _name_of(node: Node) -> str:
    if isinstance(node.value, Mapping) and "name" in node.value:
        return node.value["name"].node.text
    return ""
