"""Running the project as an ordinary user, wherever root keeps the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import require

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65534
_VIEW = Path("/mnt")
_AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")


def interpreter() -> str:
    """This environment's interpreter, where `command` shows it."""
    path = Path(sys.executable)
    return str(_VIEW / path.relative_to(ROOT)) if os.geteuid() == 0 and path.is_relative_to(ROOT) else sys.executable


def command(*words: str) -> list[str]:
    """The command that runs `words` as an ordinary user, in the checkout. Its PID is that of the program that `words` name.

    Root's checkout may be in a folder that nobody else may enter (a mkdtemp), so it is shown to the user at /mnt, in a mount namespace
    of the command's own.
    """
    if os.geteuid() != 0:
        return [*words]
    show = f'mount --bind "$1" {_VIEW} && shift && cd {_VIEW} && PYTHONPATH={_VIEW} exec "$@"'
    namespace = ("unshare", "--mount", "--propagation", "private", "--", "sh", "-c", show, "sh", str(ROOT))
    return [*namespace, *_AS_NOBODY, *words]


def python(*arguments: str) -> list[str]:
    """The command that runs this environment's interpreter as an ordinary user."""
    return command(interpreter(), *arguments)


def require_ordinary_user() -> None:
    """Skips, or fails, where no ordinary user can run the project: an interpreter below root's home cannot be shown to anybody."""
    probe = subprocess.run(python("-c", "import sim, numpy"), capture_output=True, text=True, check=False, cwd=ROOT)
    why = probe.stderr.strip()[-300:] or "it ended without a word"
    require("netns", probe.returncode == 0, f"an ordinary user cannot run this interpreter and checkout: {why}")


@contextmanager
def folder() -> Iterator[Path]:
    """A folder of the ordinary user's own: those of tmp_path are root's alone."""
    with tempfile.TemporaryDirectory(prefix="tidegate-ordinary-") as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
        yield Path(name)
