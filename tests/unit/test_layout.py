"""How source files are: one concept each, nothing left for later, no sleep that hopes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAX_LINES = 450

LEFT_FOR_LATER = re.compile(r"\b(?:TO[D]O|FIX[M]E|X{3})\b")
SLEEP = re.compile(r"\btime\.sleep[(]|\bfrom time import\b.*\bsleep\b|\bsleep[(]\d")

# Where waiting for time itself is meant, or an event is looked for until a deadline: file -> why.
MAY_SLEEP = {
    "tests/unit/test_layout.py": "the examples below",
}


def sources() -> dict[str, list[str]]:
    """The lines of every source file, by name."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text().splitlines()
        for folder in ("core", "sim", "live", "scenarios", "tests", "tools")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and (path.suffix in {".py", ".c", ".h"} or path.parent.name == "tools")
    }


def matches(pattern: re.Pattern[str]) -> dict[str, list[str]]:
    """Where `pattern` is found: file -> ``line: text``."""
    found = {
        name: [f"{number}: {line.strip()}" for number, line in enumerate(lines, 1) if pattern.search(line)]
        for name, lines in sources().items()
    }
    return {name: lines for name, lines in found.items() if lines}


def test_sources_are_found() -> None:
    assert {"core/model.py", "tests/conftest.py", "tools/find-python"} <= set(sources())


def test_every_file_is_short_enough_to_be_one_concept() -> None:
    long = {name: len(lines) for name, lines in sources().items() if len(lines) > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines; cut where a second concept begins: {long}"


def test_nothing_is_left_for_later() -> None:
    assert not matches(LEFT_FOR_LATER)


def test_no_sleep_that_hopes() -> None:
    hoping = {name: lines for name, lines in matches(SLEEP).items() if name not in MAY_SLEEP}
    assert not hoping, f"wait for an event with a deadline, or say in MAY_SLEEP why there is none: {hoping}"


def test_every_exception_is_still_needed() -> None:
    assert set(MAY_SLEEP) <= set(matches(SLEEP)), "no longer sleeps: take it off MAY_SLEEP"


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (SLEEP, "    time.sleep(0.5)"),
        (SLEEP, "from time import monotonic, sleep"),
        (SLEEP, "await asyncio.sleep(1)"),
        (LEFT_FOR_LATER, "# TO" + "DO: the other family"),
    ],
)
def test_patterns_find_what_they_are_for(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)
