"""docs/behaviour.md names tests that exist, one at least in each line; and every test of packets on both data planes is named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "behaviour.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
OF_THE_ADAPTER = {"test_an_empty_set_is_one_like_any_other", "test_counters_count_by_flow_and_target"}
"""Tests of both data planes that say nothing of what happens to packets."""


def names_in(path: Path) -> set[str]:
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if node.name.startswith("test_")}


def lines_of_tables() -> list[str]:
    """The lines of all tables but their heads."""
    tables = re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE)
    return [line for table in tables for line in table.splitlines()[2:]]


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(PAGE))))
def test_what_is_named_exists(file: str, name: str) -> None:
    assert (ROOT / file).is_file(), f"no file {file}"
    assert name in names_in(ROOT / file)


def test_every_line_has_a_test() -> None:
    lines = lines_of_tables()
    assert len(lines) > 40
    assert not [line for line in lines if not NAMED.search(line)]


def test_nothing_is_named_in_a_way_that_is_not_checked() -> None:
    assert PAGE.count("::") == len(NAMED.findall(PAGE))


def test_what_both_data_planes_are_tested_for_is_said() -> None:
    tests = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in (ROOT / "tests" / "contract" / "dataplane").glob("test_*.py")
        for name in names_in(path) - OF_THE_ADAPTER
    }
    missing = sorted(tests - set(NAMED.findall(PAGE)))
    assert not missing, f"say in docs/behaviour.md what these show: {missing}"
