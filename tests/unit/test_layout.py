"""How source files are: one concept each, nothing left for later, no sleep that hopes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAX_LINES = 450

LEFT_FOR_LATER = re.compile(r"\b(?:TO[D]O|FIX[M]E|X{3})\b")

# Where the passing of time itself is meant: file -> why.
MAY_SLEEP = {
    "tests/netns/_world.py": "a storm has a pace: so many changes a second",
    "tests/netns/_api_faults.py": "a fault that is injected lasts for as long as the test says",
}


def sources() -> dict[str, str]:
    """The text of every source file, by name."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for folder in ("core", "sim", "live", "scenarios", "tests", "tools")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and (path.suffix in {".py", ".c", ".h"} or path.parent.name == "tools")
    }


def hoping_sleeps(text: str) -> list[int]:
    """The lines of the sleeps in a Python file that do not look, in a loop and until a deadline, for what they wait for."""
    return sorted(set(_hoping(ast.parse(text), in_loop=False, has_deadline=False)))


def _hoping(node: ast.AST, *, in_loop: bool, has_deadline: bool) -> Iterator[int]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {
            n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)
        }
        in_loop, has_deadline = False, any(re.search("deadline|until", name, re.IGNORECASE) for name in names)
    elif isinstance(node, ast.While | ast.For | ast.AsyncFor):
        in_loop = True
    elif isinstance(node, ast.Call) and not (in_loop and has_deadline):
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        if name == "sleep":
            yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from _hoping(child, in_loop=in_loop, has_deadline=has_deadline)


def test_sources_are_found() -> None:
    assert {"core/model.py", "tests/conftest.py", "tools/find-python"} <= set(sources())


def test_every_file_is_short_enough_to_be_one_concept() -> None:
    lengths = {name: len(text.splitlines()) for name, text in sources().items()}
    long = {name: length for name, length in lengths.items() if length > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines; cut where a second concept begins: {long}"


def test_nothing_is_left_for_later() -> None:
    left = {name: LEFT_FOR_LATER.findall(text) for name, text in sources().items() if LEFT_FOR_LATER.search(text)}
    assert not left


def test_no_sleep_that_hopes() -> None:
    hoping = {name: hoping_sleeps(text) for name, text in sources().items() if name.endswith(".py")}
    found = {name: lines for name, lines in hoping.items() if lines and name not in MAY_SLEEP}
    assert not found, f"look for the event in a loop until a deadline, or say in MAY_SLEEP why there is none: {found}"


def test_every_exception_is_still_needed() -> None:
    unneeded = [name for name in MAY_SLEEP if not hoping_sleeps(sources().get(name, ""))]
    assert not unneeded, f"sleeps no longer: take it off MAY_SLEEP: {unneeded}"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("import time\ntime.sleep(0.5)", [2]),
        ("def f():\n    start()\n    time.sleep(0.5)\n    assert done()", [3]),
        ("def f():\n    while not done():\n        sleep(0.1)", [3]),
        ("async def f():\n    deadline_s = 3\n    await asyncio.sleep(deadline_s)", [3]),
        ("def f():\n    while not done() and now() < deadline_s:\n        time.sleep(0.1)", []),
        ("for i in range(3):\n    def f(until_s):\n        time.sleep(until_s)", [3]),
    ],
)
def test_sleeps_that_hope_are_told_from_those_that_look(text: str, lines: list[int]) -> None:
    assert hoping_sleeps(text) == lines
