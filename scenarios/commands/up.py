"""tidegate up: a scenario's topology and gateways, kept for a person to look at and play with."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from scenarios.commands.options import parser

READY = "ready"
"""The last line that the testbed's process writes for the process that started it."""


def main(arguments: list[str]) -> int:
    options = parser(
        "up",
        "Brings up everything of a scenario but its traffic and timeline, and leaves it running. `tidegate down` ends it.",
        "  tidegate up poc2-stateless\n  tidegate status\n  tidegate exec vpn-b -- ip route\n  tidegate down",
    )
    options.add_argument("scenario", metavar="SCENARIO", help="a name of the library (see `tidegate list`) or a file")
    options.add_argument(
        "--set", dest="settings", metavar="KEY=VALUE", action="append", default=[], help="replaces one value"
    )
    options.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        help="where the folder with the logs is made (default: %(default)s)",
    )
    options.add_argument("--foreground", action="store_true", help="stay in this terminal; Ctrl-C ends the testbed")
    chosen = options.parse_args(arguments)

    from core.errors import InputError, Problem
    from scenarios import testbed
    from scenarios.commands.run import load_all, tell
    from scenarios.worlds import MININET, enter

    (loaded,), doubts = load_all([chosen.scenario], chosen.settings, None)
    os.environ[testbed.FOLDER_VARIABLE] = str(testbed.folder())
    if testbed.is_up():
        raise InputError(Problem(where="testbed", what="a testbed is up already", expected="tidegate down first"))
    if not chosen.foreground:
        return _in_background(arguments)
    enter(MININET, ["up", *arguments], {loaded.scenario.dataplane})
    tell(doubts)
    with testbed.reserve():
        return _hold(loaded, chosen)


def _in_background(arguments: list[str]) -> int:
    """Starts the testbed in a session of its own; returns when it is ready, or has failed."""
    command = [sys.executable, "-m", "scenarios.cli", "up", "--foreground", *arguments]
    # A pipe of our own: whoever reads our stderr to its end must not wait for the testbed's.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == READY:
                sys.stderr.write(
                    "`tidegate status` shows it, `tidegate exec HOST -- COMMAND` runs something in it, `tidegate down` ends it\n"
                )
                return 0
            sys.stderr.write(line)
            sys.stderr.flush()
        return process.wait()
    except BaseException:
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise


def _hold(loaded: object, chosen: argparse.Namespace) -> int:
    from scenarios.commands.run import log_to
    from scenarios.load import LoadedScenario
    from scenarios.manifests import desired, read_manifests
    from scenarios.mininet_world import MininetWorld
    from scenarios.progress import Progress
    from scenarios.results import RunFolder
    from scenarios.runner import set_up
    from scenarios.testbed import Server

    assert isinstance(loaded, LoadedScenario)
    with RunFolder.create(chosen.out, loaded.scenario.name) as folder:
        log_to(folder.logs)
        world = MininetWorld(folder.logs)
        progress = Progress(world.now_s)
        progress.line(f"{loaded.scenario.name} on {world.name}: {loaded.scenario.title}")
        try:
            set_up(loaded.scenario, desired(read_manifests(loaded.manifests)), world, folder, progress)
            server = Server(world)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: server.stop())
            progress.line(f"the testbed is up; logs are in {folder.logs}")
            _say_ready(folder.logs, background=not sys.stdin.isatty())
            server.serve()
        finally:
            world.stop()
        server.close()
    return 0


def _say_ready(logs: Path, *, background: bool) -> None:
    """Tells the process that started this one, and goes on without its terminal."""
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    if background:
        with (logs / "up.log").open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
