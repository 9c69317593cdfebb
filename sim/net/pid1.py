"""The first process of a throw-away set of namespaces: makes them, keeps the house inside, and takes everything along when it ends.

Run by path (``python -I -S pid1.py -- COMMAND…``) in an interpreter of its own, so it imports only the standard library and starts in
10 ms: a process with threads, such as one that has imported numpy, cannot make a user namespace.

Three processes result, and each has one duty:

    outside   keeps the PID that was exec'ed; forwards signals to the first process and ends with its exit code
    PID 1     reaps orphans; dies by SIGKILL together with `outside`; its own death makes the kernel kill all the rest
    COMMAND   runs as an ordinary child

`unshare -nmpf --kill-child --mount-proc` does the same, but blocks SIGTERM and SIGINT while it waits, and its child outlives it when it
is killed before the child has asked for the parent's death signal.

Source: pid_namespaces(7), user_namespaces(7), prctl(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REC = 0x4000
MS_PRIVATE = 0x40000
PR_SET_PDEATHSIG = 1

EXIT_MACHINE_CANNOT = 3
RUN_DIR = Path("/run/tidegate")
BPF_DIR = RUN_DIR / "bpf"
"""A private bpffs, when the kernel lets us mount one (a user namespace may not)."""
MARK = RUN_DIR / "inside"
"""Names the PID namespace that it belongs to, so that nobody takes a left-over file for a sandbox."""

FORWARDED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})

_libc = ctypes.CDLL(None, use_errno=True)


def contain(command: Callable[[], int]) -> int:
    """The exit code of `command`, run inside new mount, PID and network namespaces (and a user namespace when not root).

    A command that a signal ended gives 128 plus the signal's number. When this returns, no process of the inside is left. The caller
    must have a single thread and be expendable: it stays in the new mount and network namespaces.

    Raises:
        OSError: the kernel refused a namespace or a mount outside of PID 1.
    """
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | (CLONE_NEWUSER if user else 0)
    _call("unshare", flags)
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    lifeline, held_by_outside = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
    first = os.fork()
    if first == 0:
        os.close(held_by_outside)
        _exit_with(lambda: _first_process(command, lifeline))
    os.close(lifeline)
    code = _wait_for(first)
    os.close(held_by_outside)
    return code


def _first_process(command: Callable[[], int], lifeline: int) -> int:
    _call("prctl", PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # The parent may have died before the line above: then nobody would ever kill us, and the pipe that it held is closed.
    os.set_blocking(lifeline, False)
    try:
        os.read(lifeline, 1)
    except BlockingIOError:
        os.close(lifeline)
    else:
        return 128 + signal.SIGKILL
    _furnish()
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED | {signal.SIGCHLD})
        _exit_with(command)
    return _wait_for(child)


def _furnish() -> None:
    """Own /proc, an empty /run, a bpffs if it may be, `lo` up, and as many open files as the machine allows."""
    _call("mount", b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)
    _call("mount", b"tmpfs", b"/run", b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=755")
    BPF_DIR.mkdir(parents=True)
    MARK.write_text(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 (the text of a magic link, not a path)
    if _libc.mount(b"bpf", str(BPF_DIR).encode(), b"bpf", 0, None):
        BPF_DIR.rmdir()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        siocsifflags, iff_up = 0x8914, 0x1
        fcntl.ioctl(any_socket, siocsifflags, struct.pack("16sH22x", b"lo", iff_up))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _wait_for(child: int) -> int:
    """The exit code of `child`; meanwhile every other child is reaped and signals that a process sent to us are passed on.

    A signal from the terminal has reached the whole process group already, so it is not passed on.
    """
    while True:
        received = signal.sigwaitinfo(FORWARDED | {signal.SIGCHLD})
        if received.si_signo != signal.SIGCHLD:
            if received.si_code <= 0:  # SI_USER and its kin; the kernel's own codes are positive
                os.kill(child, received.si_signo)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if pid == 0:
                break


def _exit_with(body: Callable[[], int]) -> None:
    """Ends this (forked) process with the code that `body` returns; never returns into the caller's copied stack."""
    code = EXIT_MACHINE_CANNOT
    try:
        code = body()
    except OSError as error:
        print(f"tidegate: the sandbox could not be made: {error}", file=sys.stderr, flush=True)  # noqa: T201 (no logging here)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


def main(arguments: list[str]) -> int:
    if arguments[:1] != ["--"] or len(arguments) < 2:
        print("usage: pid1.py -- COMMAND…", file=sys.stderr)  # noqa: T201 (a command line without a logger)
        return 2
    command = arguments[1:]

    def run() -> int:
        os.execvp(command[0], command)

    try:
        return contain(run)
    except OSError as error:
        print(f"tidegate: the sandbox could not be made: {error}", file=sys.stderr)  # noqa: T201 (a command line without a logger)
        return EXIT_MACHINE_CANNOT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
