"""tidegate run: scenarios in a world."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scenarios.commands.options import parser, write_json

if TYPE_CHECKING:
    from core.errors import Problem
    from scenarios.load import LoadedScenario

WORLDS = ("mininet", "sim")
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main(arguments: list[str]) -> int:
    options = parser(
        "run",
        "Runs scenarios and checks what they expect. Exit code 0: every expectation holds; 1: one does not; 2: bad input; 3: this\n"
        "machine cannot.",
        "  tidegate run poc2-stateless\n"
        "  tidegate run poc2-stateless --set dataplane=nft -o json\n"
        "  tidegate run poc2-stateless --on sim\n"
        "  tidegate run my-scenario.yaml --set traffic.clients.connections=1000 --out /tmp/results",
    )
    add_arguments(options)
    return run_all(options.parse_args(arguments), arguments)


def add_arguments(options: argparse.ArgumentParser) -> None:
    """What `run` takes."""
    options.add_argument(
        "scenarios", metavar="SCENARIO", nargs="+", help="a name of the library (see `tidegate list`) or a file"
    )
    options.add_argument("--on", choices=WORLDS, default=WORLDS[0], help="the world (default: %(default)s)")
    options.add_argument("--seed", type=_seed, help="makes all random choices (default: what the scenario says)")
    options.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="replaces one value of the scenario: dataplane=nft, traffic.clients.connections=50; may be repeated",
    )
    options.add_argument(
        "--out", type=Path, default=Path("results"), help="where results folders are made (default: %(default)s)"
    )
    options.add_argument(
        "--figures",
        action=argparse.BooleanOptionalAction,
        help="draw, or draw nothing (default: draw, but not in virtual time, where drawing takes longer than the run)",
    )
    options.add_argument("-o", "--output", choices=("table", "json"), default="table", help="what is printed on stdout")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 0 to {2**63 - 1}")
    return int(text)


def run_all(chosen: argparse.Namespace, arguments: list[str]) -> int:
    """Runs the scenarios one after the other; all are read before the first begins."""
    loaded, doubts = load_all(chosen.scenarios, chosen.settings, chosen.seed)
    from scenarios.spec import ApiServer
    from scenarios.worlds import enter

    if chosen.on == "mininet" and any(found.scenario.api is ApiServer.REAL for found in loaded):
        from scenarios.api_servers import binaries, gateway_api_folder

        # Raises MachineError, before there is a folder of results.
        binaries()
        gateway_api_folder()
    # Whatever is wrong with the input has been said: from here on this may be another process, inside of namespaces.
    enter(chosen.on, ["run", *arguments], {found.scenario.dataplane for found in loaded})
    tell(doubts)
    return max(_run_one(found, chosen) for found in loaded)


def tell(doubts: Iterable[Problem]) -> None:
    """Says on stderr what is wrong between the manifests."""
    for doubt in doubts:
        sys.stderr.write(f"{doubt}\n")


def load_all(
    names: list[str], settings: list[str], seed: int | None
) -> tuple[list[LoadedScenario], tuple[Problem, ...]]:
    """The scenarios with good manifests, and what is wrong between these. Raises InputError with every problem of all of them."""
    from core.errors import InputError
    from scenarios.load import load_scenario
    from scenarios.rehearsal import rehearse

    loaded: list[LoadedScenario] = []
    problems: list[Problem] = []
    doubts: dict[Problem, None] = {}
    for name in names:
        try:
            found = load_scenario(name, settings=settings, seed=seed)
            doubts |= dict.fromkeys(rehearse(found).doubts)
            loaded.append(found)
        except InputError as error:
            problems.extend(problem for problem in error.problems if problem not in problems)
    if problems:
        raise InputError(*problems)
    return loaded, tuple(doubts)


def log_to(folder: Path) -> None:
    """What the parts of this process say is for whoever looks for a fault; the terminal is for the run."""
    logging.basicConfig(filename=folder / "run.log", level=logging.INFO, format=LOG_FORMAT, force=True)


@contextmanager
def errors_of(folder: Path) -> Iterator[None]:
    """Within it, an error of the system that does not say which file it is about is about one in `folder`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error


def _run_one(loaded: LoadedScenario, chosen: argparse.Namespace) -> int:
    from scenarios.progress import Progress
    from scenarios.results import RunFolder
    from scenarios.runner import run, summary
    from scenarios.worlds import make_world

    folder = RunFolder.create(chosen.out, loaded.scenario.name)
    with errors_of(folder.path), folder:
        log_to(folder.logs)
        world = make_world(chosen.on, logs=folder.logs)
        progress = Progress(world.now_s)
        progress.line(f"{loaded.scenario.name} on {world.name}: {loaded.scenario.title}")
        outcome = run(loaded, world, folder, progress)
        folder.write(loaded, outcome)
    if outcome.error:
        sys.stderr.write(f"tidegate: {outcome.error}\n  logs are in {folder.logs}\n")
    if chosen.output == "json":
        write_json(summary(outcome, out=str(folder.path)))
    else:
        from scenarios.report import print_outcome

        progress.line("")
        print_outcome(outcome, str(folder.path))
    sys.stdout.flush()
    if chosen.figures if chosen.figures is not None else chosen.on != "sim":
        from scenarios.figures import draw_all
        from scenarios.topology_view import view

        seen = outcome.after or outcome.before
        with errors_of(folder.path):
            draw_all(folder.path, view(outcome.scenario, seen.objects) if seen else None, outcome.traffic)
    return 0 if outcome.ok else 1
