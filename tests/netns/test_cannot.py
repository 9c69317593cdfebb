"""On a machine that cannot, `tidegate run` says at once what is missing and what gets it: exit code 3, and nothing is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sim.net import capabilities
from tests import ordinary_user
from tests.conftest import require

ROOT = Path(__file__).parents[2]
TIDEGATE = [sys.executable, "-m", "scenarios.cli"]


@pytest.fixture(autouse=True)
def _able() -> None:
    for name in ("namespaces", "mnexec", "nft", "bird", "veth", "bridge"):
        found = capabilities.probe(name)
        require("netns", found.available, f"{found.detail}; {found.remedy}")


def crippled(preparation: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs tidegate where a shell command has taken something away: in a mount and a user namespace of its own."""
    flags = "-Urm" if os.geteuid() or "/proc/sys/user" in preparation else "-m"
    command = ["unshare", flags, "sh", "-ec", f'{preparation}; exec "$@"', "sh", *TIDEGATE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)


def hide(*programs: str) -> str:
    """A shell command after which the programs cannot be run: nothing can be that is mounted from a device."""
    paths = [shutil.which(program, path=capabilities.SYSTEM_PATH) for program in programs]
    return "; ".join(f"mount --bind /dev/null {Path(path).resolve()}" for path in paths if path is not None)


@pytest.mark.parametrize(("program", "package"), [("bird", "bird2"), ("mnexec", "mininet"), ("nft", "nftables")])
@pytest.mark.parametrize("command", ["run", "up"])
def test_without_a_program(tmp_path: Path, program: str, package: str, command: str) -> None:
    done = crippled(hide(program), command, "poc2-stateless", "--out", str(tmp_path / "results"))
    assert (done.returncode, done.stdout) == (3, "")
    assert f"this machine lacks '{program}' (" in done.stderr
    assert done.stderr.endswith(f"  get it with: sudo apt-get install {package}\n")
    assert not (tmp_path / "results").exists()


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    done = crippled(hide("bird", "mnexec"), "run", "poc2-stateless", "--out", str(tmp_path))
    assert done.returncode == 3
    assert [line.split(" (")[0] for line in done.stderr.splitlines()] == [
        "tidegate: this machine lacks 'mnexec'",
        "  and 'bird'",
        "  get it with: sudo apt-get install mininet",
        "  get it with: sudo apt-get install bird2",
    ]


def test_without_namespaces(tmp_path: Path) -> None:
    forbid = "echo 0 > /proc/sys/user/max_net_namespaces"
    done = crippled(forbid, "run", "poc2-stateless", "--out", str(tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert "this machine lacks 'namespaces' (" in done.stderr
    assert "user.max_user_namespaces=10000" in done.stderr


def test_the_tc_data_plane_where_bpf_is_refused() -> None:
    ordinary_user.require_ordinary_user()
    with ordinary_user.folder() as out:
        arguments = ("-m", "scenarios.cli", "run", "poc2-stateless", "--set", "dataplane=tc", "--out", str(out))
        done = subprocess.run(
            ordinary_user.python(*arguments), capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
        )
    assert (done.returncode, done.stdout) == (3, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("tidegate: the tc data plane cannot be used: ")
    assert second == "  run it as root, or choose the nft data plane: --set dataplane=nft"


def test_doctor_says_the_same() -> None:
    done = crippled(hide("bird"), "doctor")
    assert done.returncode == 3
    assert done.stdout.splitlines()[-1] == "The virtual network cannot run here: bird missing."


def test_a_simulation_needs_none_of_it(tmp_path: Path) -> None:
    done = crippled(hide("bird", "mnexec", "nft"), "run", "poc2-stateless", "--on", "sim", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
