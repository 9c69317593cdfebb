"""docs/faults.md names tests that exist, a row for each fault of the proof-of-concept, and every test that says it is about one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text()
FAULTS = 23
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
CLAIM = re.compile(r"^Faults? ([\d, and]+) of the proof-of-concept")


def docstrings_in(path: Path) -> dict[str, str]:
    """Name and docstring of every test in a file."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_docstring(node) or "" for node in functions if node.name.startswith("test_")}


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(PAGE))))
def test_what_is_named_exists(file: str, name: str) -> None:
    assert name in docstrings_in(ROOT / file)


def test_every_fault_has_one_row_with_a_test() -> None:
    rows = ROW.findall(PAGE)
    assert [int(number) for number, _, _ in rows] == list(range(1, FAULTS + 1))
    for number, _, tests in rows:
        assert NAMED.search(tests) or "comes with a later issue" in tests, f"fault {number} has no test"


def test_every_row_of_the_other_tables_has_a_test() -> None:
    tables = re.findall(r"^\| what happens \|.*\n((?:^\|.*\n)+)", PAGE, re.MULTILINE)
    assert len(tables) == 2
    rows = [line for table in tables for line in table.splitlines()[1:]]
    assert len(rows) > 30
    assert all(NAMED.search(row) for row in rows)


def test_who_claims_a_fault_is_in_its_row() -> None:
    named = {int(number): NAMED.findall(tests) for number, _, tests in ROW.findall(PAGE)}
    claims = [
        (int(number), path.relative_to(ROOT).as_posix(), name)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for name, text in docstrings_in(path).items()
        if (match := CLAIM.match(text))
        for number in re.findall(r"\d+", match[1])
    ]
    assert {number for number, _, _ in claims} == set(range(1, FAULTS + 1)), "a fault that no test says it is about"
    missing = [claim for claim in claims if claim[1:] not in named[claim[0]]]
    assert not missing, f"name them in docs/faults.md: {missing}"
