"""The scripts behind `make setup`, on machines that lack things."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import require

TOOLS = Path(__file__).resolve().parents[2] / "tools"
PACKAGES = (
    *("bird2", "nftables", "libnftables1", "iproute2", "ethtool", "mininet"),
    *("clang", "libbpf-dev", "libbpf1", "linux-libc-dev", "python3-venv", "tcpdump"),
)
EM_BPF = 247  # linux/elf-em.h


class Machine:
    """A PATH of fakes: only what is put there exists, and every apt-get and systemctl call is written down."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.calls = folder / "calls"
        for program in ("bash", "cat", "grep"):
            real = shutil.which(program)
            assert real is not None
            (folder / program).symlink_to(real)

    def program(self, name: str, script: str) -> None:
        file = self.path / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def run(self, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.path / "bash"), str(TOOLS / tool), *arguments]
        return subprocess.run(
            command, env={"PATH": str(self.path)}, capture_output=True, text=True, timeout=30, check=False
        )

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


def debian(folder: Path, *, missing: tuple[str, ...], uid: int, apt_get: str = "true") -> Machine:
    """A Debian without the packages in `missing`: dpkg does not know the last of them, the others are removed."""
    machine = Machine(folder)
    states = "\n".join(
        f"{p} {'config-files' if p in missing else 'installed'}" for p in PACKAGES if p not in missing[-1:]
    )
    machine.program("dpkg-query", f"cat <<'END'\n{states}\nEND\nexit 1")
    machine.program("id", f"echo {uid}")
    machine.program("apt-get", f'echo "apt-get $*" >> {machine.calls}\n{apt_get}')
    machine.program("systemctl", f'echo "systemctl $*" >> {machine.calls}')
    return machine


def installed_by(call: str) -> list[str]:
    return [word for word in call.split() if word in PACKAGES]


def test_nothing_is_installed_where_nothing_is_missing(tmp_path: Path) -> None:
    machine = debian(tmp_path, missing=(), uid=0)
    done = machine.run("install-debian-packages")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.called() == []


def test_root_installs_exactly_what_is_missing(tmp_path: Path) -> None:
    machine = debian(tmp_path, missing=("clang", "mininet"), uid=0)
    done = machine.run("install-debian-packages")
    assert done.returncode == 0, done.stderr
    (call,) = machine.called()
    assert call.startswith("apt-get install --yes")
    assert "--no-install-recommends" in call
    assert sorted(installed_by(call)) == ["clang", "mininet"]


def test_package_lists_are_fetched_only_when_the_installation_fails(tmp_path: Path) -> None:
    fails_at_first = f'[ "$1" = update ] && touch {tmp_path}/updated; [ -e {tmp_path}/updated ]'
    machine = debian(tmp_path, missing=("ethtool",), uid=0, apt_get=fails_at_first)
    machine.path.joinpath("touch").symlink_to(shutil.which("touch") or "")
    done = machine.run("install-debian-packages")
    assert done.returncode == 0, done.stderr
    assert [call.split()[1] for call in machine.called()] == ["install", "update", "install"]
    assert "could not" not in done.stderr


def test_failed_installation_is_said_and_setup_goes_on(tmp_path: Path) -> None:
    machine = debian(tmp_path, missing=("tcpdump",), uid=0, apt_get="false")
    done = machine.run("install-debian-packages")
    assert done.returncode == 0
    assert "could not install all of tcpdump" in done.stderr


def test_ordinary_user_gets_the_one_command(tmp_path: Path) -> None:
    machine = debian(tmp_path, missing=("bird2", "clang"), uid=1000)
    done = machine.run("install-debian-packages")
    assert done.returncode == 0
    assert machine.called() == []
    assert "sudo apt-get install --no-install-recommends bird2 clang\n" in done.stderr


def test_other_systems_are_told_what_is_needed(tmp_path: Path) -> None:
    done = Machine(tmp_path).run("install-debian-packages")
    assert done.returncode == 0
    assert all(package in done.stderr for package in PACKAGES)


def test_bpf_object_is_skipped_without_clang(tmp_path: Path) -> None:
    source = tmp_path / "x.bpf.c"
    source.write_text("int x;\n")
    done = Machine(tmp_path).run("compile-bpf", str(source), str(tmp_path / "x.bpf.o"))
    assert done.returncode == 0
    assert "clang is missing" in done.stderr
    assert not (tmp_path / "x.bpf.o").exists()


@pytest.mark.parametrize(("source", "good"), [('int x SEC("maps");', True), ("int x = ;", False)])
def test_bpf_object_is_whole_or_absent(tmp_path: Path, source: str, good: bool) -> None:
    require("bpf", shutil.which("clang") is not None, "clang is missing")
    (tmp_path / "x.bpf.c").write_text(f"#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n{source}\n")
    target = tmp_path / "x.bpf.o"
    done = subprocess.run(
        [TOOLS / "compile-bpf", tmp_path / "x.bpf.c", target],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 0) is good, done.stderr
    assert target.exists() is good
    assert sorted(p.name for p in tmp_path.iterdir()) == (["x.bpf.c", "x.bpf.o"] if good else ["x.bpf.c"])
    if good:
        assert int.from_bytes(target.read_bytes()[18:20], "little") == EM_BPF
