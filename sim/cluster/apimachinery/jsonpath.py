"""The JSONPath of printer columns: ``.spec.hosts``, ``.status.addresses[*].value``, ``.status.conditions[?(@.type=="Ready")].status``.

Source: kubernetes.io/docs/reference/kubectl/jsonpath.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

Step = Callable[[Any], list[Any]]

_TOKEN: Final = re.compile(
    r"""\.(?P<name>[A-Za-z_$][-\w$/\x00]*|\*)
    |\[\s*(?P<all>\*)\s*\]
    |\[\s*(?P<index>-?\d+)\s*\]
    |\[\s*'(?P<quoted>[^']*)'\s*\]
    |\[\?\(\s*@(?P<left>(?:\.[-\w]+)*)\s*(?:(?P<op>==|!=)\s*(?P<right>"[^"]*"|'[^']*'|[\w.]+))?\s*\)\]""",
    re.VERBOSE,
)


@lru_cache(maxsize=512)
def compiled(path: str) -> Callable[[Any], list[Any]]:
    """The function that finds the values of `path` in an object.

    Raises:
        ValueError: a path that cannot be read.
    """
    text = path.strip().removeprefix("{").removesuffix("}").removeprefix("$").replace("\\.", "\0")
    steps: list[Step] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(
                f"JSONPath {path!r}: found {text[at:]!r}, expected .name, [*], [0], ['name'] or [?(@.name==\"value\")]"
            )
        steps.append(_step(found))
        at = found.end()

    def find(value: Any) -> list[Any]:
        values = [value]
        for step in steps:
            values = [inner for one in values for inner in step(one)]
        return values

    return find


def _step(found: re.Match[str]) -> Step:
    if found["all"] or found["name"] == "*":
        return lambda value: (
            list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else []
        )
    if found["index"]:
        index = int(found["index"])
        return lambda value: [value[index]] if isinstance(value, list) and -len(value) <= index < len(value) else []
    name = found["quoted"] if found["quoted"] is not None else found["name"]
    if name is not None:
        name = name.replace("\0", ".")
        return lambda value: [value[name]] if isinstance(value, dict) and name in value else []
    left = [part for part in found["left"].split(".") if part]
    operator, right = found["op"], (found["right"] or "").strip("\"'")

    def chosen(value: Any) -> list[Any]:
        return [one for one in value if _fits(one, left, operator, right)] if isinstance(value, list) else []

    return chosen


def _fits(value: Any, path: list[str], operator: str | None, right: str) -> bool:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    if operator is None:
        return True
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return (text == right) if operator == "==" else (text != right)
