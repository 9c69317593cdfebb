"""Entering the throw-away set of namespaces, in which everything of a run lives and with which everything of it dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sim.net import pid1
from sim.net.capabilities import require

RUN_DIR = pid1.RUN_DIR
"""Sockets and state of a run. Only inside: an empty tmpfs that vanishes with the namespaces."""

SYSTEM_PATHS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where Debian keeps bird, nft and ip, which an ordinary user's PATH leaves out."""


def enter(command: Sequence[str]) -> NoReturn:
    """Replaces this process by `command`, run inside new namespaces. The PID stays; its death, even by SIGKILL, ends all inside.

    Inside, `command` is root (of a user namespace when the caller is not root), is alone with its descendants in a PID namespace, sees
    only `lo`, has an empty tmpfs on /run, and a bpffs at `bpffs()` when the kernel allows it. Files, terminal and environment stay.

    Raises:
        MachineError: this machine has no such namespaces.
    """
    require("namespaces")
    sys.stdout.flush()
    sys.stderr.flush()
    paths = os.environ.get("PATH", os.defpath).split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join([*paths, *(path for path in SYSTEM_PATHS if path not in paths)])
    os.execv(sys.executable, [sys.executable, "-I", "-S", pid1.__file__, "--", *command])


def entered() -> bool:
    """Whether this process runs inside."""
    return pid1.MARK.is_file() and pid1.MARK.read_text() == os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (the text of a magic link, not a path)


def bpffs() -> Path | None:
    """The private bpffs of the sandbox, or None where this user may not mount one."""
    return pid1.BPF_DIR if pid1.BPF_DIR.is_mount() else None
