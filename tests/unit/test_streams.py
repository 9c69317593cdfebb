"""Standard streams that are full, closed or read by nobody: exit codes and words are those of the command, or say what is full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scenarios.load import EXAMPLES

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")
POC2 = [str(EXAMPLES / "poc2" / name) for name in ("applications.yaml", "gateway.yaml")]
NOWHERE = "--set=traffic.clients.to=20.0.0.9:1"

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def shell(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What becomes of a shell script in which "$@" is the command."""
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "scenarios.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)


def simulated(out: Path, *more: str) -> tuple[str, ...]:
    return ("run", "poc2-stateless", "--on", "sim", "--out", str(out), *more)


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("list",), ("plan", "-f", *POC2)])
def test_a_full_standard_output_is_told_and_is_the_fault_of_the_machine(arguments: tuple[str, ...]) -> None:
    done = shell('"$@" >/dev/full', *arguments)
    assert done.returncode == 3
    assert "tidegate: standard output: No space left on device\n  make room there" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_file_of_results_that_finds_no_room_is_told(tmp_path: Path) -> None:
    done = shell('export PYTHONDONTWRITEBYTECODE=1; ulimit -f 8; "$@"', *simulated(tmp_path))
    assert done.returncode == 3
    (folder,) = (tmp_path / "poc2-stateless").iterdir()
    assert f"tidegate: {folder}: File too large\n" in done.stderr
    assert not (folder / "summary.json").exists()


@pytest.mark.parametrize("closed", ["2>/dev/full", "2>&-"])
def test_a_standard_error_that_takes_nothing_changes_nothing(tmp_path: Path, closed: str) -> None:
    done = shell(f'"$@" {closed}', *simulated(tmp_path, "-o", "json"))
    assert done.returncode == 0
    assert json.loads(done.stdout)["ok"] is True


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_code(closed: str) -> None:
    assert shell(f'"$@" {closed}', "list").returncode == 0
    assert shell(f'"$@" {closed}', "validate", "nowhere.yaml").returncode == 2


def test_what_is_printed_gets_into_no_file_that_is_opened_later(tmp_path: Path) -> None:
    """A file gets the lowest number that is free: that of the stream that was closed."""
    assert shell('"$@" >&- 2>&-', *simulated(tmp_path)).returncode == 0
    (folder,) = (tmp_path / "poc2-stateless").iterdir()
    for line in (folder / "events.jsonl").read_text().splitlines():
        assert "event" in json.loads(line)


def test_nothing_on_standard_input_is_an_empty_file() -> None:
    done = shell('"$@" <&-', "plan", "-f", "-")
    assert (done.returncode, done.stderr) == (2, "-: is empty, expected at least one YAML document\n")


@pytest.mark.parametrize(("settings", "code"), [((), 0), ((NOWHERE,), 1)])
def test_a_run_whose_reader_goes_away_has_its_own_exit_code(
    tmp_path: Path, settings: tuple[str, ...], code: int
) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "scenarios.cli", *simulated(tmp_path, *settings)],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
            timeout=120,
        )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    (folder,) = (tmp_path / "poc2-stateless").iterdir()
    assert (folder / "summary.json").exists()
