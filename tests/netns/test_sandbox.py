"""What enters the sandbox ends with it, however it ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.net import capabilities, pid1
from tests import ordinary_user
from tests.conftest import require

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 10
ENTER = "import sys; from sim.net.sandbox import enter; enter(sys.argv[1:])"


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    capability = capabilities.probe("namespaces")
    require("netns", capability.available, f"{capability.detail}; {capability.remedy}")


def enter(*command: str, as_nobody: bool = False, marker: str = "") -> subprocess.Popen[str]:
    run = ["-c", ENTER, *command]
    return subprocess.Popen(
        ordinary_user.python(*run) if as_nobody else [sys.executable, *run],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TIDEGATE_TEST": marker},
    )


def marked(marker: str) -> list[int]:
    """The PIDs of all processes that have the marker in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"TIDEGATE_TEST={marker}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.005)


@pytest.mark.parametrize("as_nobody", [False, True], ids=["root", "ordinary user"])
def test_inside_is_root_alone_and_furnished(as_nobody: bool) -> None:
    if as_nobody:
        ordinary_user.require_ordinary_user()
    script = (
        "id -u; ls /proc | grep -c '^[0-9]*$'; ls /sys/class/net >/dev/null; cat /proc/net/dev | grep -c :; ls /run"
    )
    inside = enter("sh", "-c", script, as_nobody=as_nobody)
    said, errors = inside.communicate(timeout=DEADLINE_S)
    assert inside.returncode == 0, errors
    user, processes, interfaces, run = said.split()
    assert (user, interfaces, run) == ("0", "1", "tidegate")
    assert int(processes) <= 5


def test_the_exit_code_and_the_pid_are_the_commands() -> None:
    ended = enter("sh", "-c", "exit 7")
    assert ended.wait(timeout=DEADLINE_S) == 7
    killed = enter("sh", "-c", "kill -KILL $$")
    assert killed.wait(timeout=DEADLINE_S) == 128 + signal.SIGKILL
    for process in (ended, killed):
        process.communicate()


def test_entered_is_true_only_inside() -> None:
    check = "from sim.net.sandbox import entered; print(entered())"
    with enter(sys.executable, "-c", check) as inside:
        assert inside.communicate(timeout=DEADLINE_S)[0].strip() == "True"
    outside = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert outside.stdout.strip() == "False"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_command(number: signal.Signals) -> None:
    script = f"import signal, sys\nsignal.signal({int(number)}, lambda *_: sys.exit(5))\nprint('up', flush=True)\nsignal.pause()"
    with enter(sys.executable, "-c", script) as inside:
        assert inside.stdout is not None
        assert inside.stdout.readline() == "up\n"
        inside.send_signal(number)
        assert inside.wait(timeout=DEADLINE_S) == 5


def test_orphans_are_reaped_and_end_with_the_command() -> None:
    marker = f"orphans-{os.getpid()}"
    # The inner shell's children become children of PID 1; true ends at once and must not stay a zombie.
    script = "sh -c 'true & sleep 1000 & setsid sleep 1000 &'; while grep -ql 'State:.Z' /proc/[0-9]*/status; do :; done; echo clean"
    with enter("sh", "-c", script, marker=marker) as inside:
        assert inside.communicate(timeout=DEADLINE_S)[0] == "clean\n"
    wait_until(lambda: not marked(marker), "no process of the sandbox is left")


@pytest.mark.parametrize("as_nobody", [False, True], ids=["root", "ordinary user"])
def test_sigkill_at_any_moment_leaves_nothing(as_nobody: bool) -> None:
    if as_nobody:
        ordinary_user.require_ordinary_user()
    marker = f"sigkill-{as_nobody}-{os.getpid()}"
    busy = (
        "ip link add a type veth peer name b; mnexec -dn sleep 1000 & setsid sleep 1000 &"
        " mount -t tmpfs none /mnt; while :; do sleep 0.01; done"
    )
    mounts, links = Path("/proc/self/mounts").read_text(), Path("/proc/self/net/dev").read_text().count(":")
    moments = random.Random(3)
    for _ in range(25):
        victim = enter("sh", "-c", busy, as_nobody=as_nobody, marker=marker)
        time.sleep(moments.uniform(0.0, 0.2))  # the moment is the test's input, not something it waits for
        victim.kill()
        victim.communicate(timeout=DEADLINE_S)
        wait_until(lambda: not marked(marker), "no process of the sandbox is left")
    assert Path("/proc/self/mounts").read_text() == mounts
    assert Path("/proc/self/net/dev").read_text().count(":") == links
    # Without a process, a mount or a descriptor that holds it, a network namespace is gone.
    assert not [line for line in mounts.splitlines() if "nsfs" in line and "tidegate" in line]


def test_sigkill_of_the_first_process_ends_the_outside_too() -> None:
    marker = f"first-{os.getpid()}"
    with enter("sh", "-c", "echo up; sleep 1000", marker=marker) as inside:
        assert inside.stdout is not None
        inside.stdout.readline()
        children = Path(f"/proc/{inside.pid}/task/{inside.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        assert inside.wait(timeout=DEADLINE_S) == 128 + signal.SIGKILL
    wait_until(lambda: not marked(marker), "no process of the sandbox is left")


def test_a_child_whose_parent_died_before_it_asked_for_the_death_signal_ends_itself() -> None:
    """The pipe's far end is closed already, as after a SIGKILL between fork and prctl."""
    lifeline, far_end = os.pipe()
    os.close(far_end)
    child = os.fork()
    if child == 0:
        os._exit(pid1._first_process(lambda: 0, lifeline))
    os.close(lifeline)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGKILL


def test_a_command_that_is_not_there_is_an_error_with_its_name() -> None:
    with enter("no-such-program") as inside:
        _, errors = inside.communicate(timeout=DEADLINE_S)
    assert inside.returncode == pid1.EXIT_MACHINE_CANNOT
    assert "No such file" in errors
