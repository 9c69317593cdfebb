"""The command line: finds the command, runs it, and turns errors into exit codes.

0 good; 1 an expectation failed; 2 bad usage or input; 3 this machine cannot do it, or has no room for it. Data goes to stdout,
everything else to stderr.
Only the command that runs is imported: agents start from here too, and their start-up time counts.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

OK = 0
FAILED = 1
BAD_INPUT = 2
CANNOT = 3
INTERNAL = 70
"""EX_SOFTWARE of sysexits.h: a fault of Tidegate itself."""
INTERRUPTED = 130
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What a place says that takes nothing more."""


class Command(NamedTuple):
    """One word of the command line. `module` has a function ``main(arguments) -> exit code``."""

    module: str
    summary: str


COMMANDS = {
    "run": Command("scenarios.commands.run", "run scenarios and check what they expect"),
    "list": Command("scenarios.commands.list", "list the scenarios of the library"),
    "validate": Command("scenarios.commands.validate", "check scenarios and manifests"),
    "plan": Command("scenarios.commands.plan", "show what the core would program, and every status it would write"),
    "explain": Command("scenarios.commands.explain", "show where a packet goes, and why not elsewhere"),
    "up": Command("scenarios.commands.up", "bring up a testbed to look at and play with"),
    "exec": Command("scenarios.commands.exec", "run a command in a host of the testbed"),
    "status": Command("scenarios.commands.status", "show what the testbed is doing"),
    "down": Command("scenarios.commands.down", "end the testbed"),
    "doctor": Command("scenarios.commands.doctor", "show what this machine can do, and how to get what is missing"),
    "bench": Command("scenarios.commands.bench", "measure speed against peers and limits"),
    "controller": Command("live.controller", "the controller of a cluster"),
    "agent": Command("", "an agent of a pod or node: load-balancer, router or endpoint"),
}
AGENTS = {
    "load-balancer": Command("live.agent.load_balancer", "programs the data plane of a gateway pod"),
    "router": Command("live.agent.router", "runs BIRD in a gateway pod"),
    "endpoint": Command("live.agent.endpoint", "gives application Pods of a node their VIPs and their way back"),
}

_EPILOG = """\
examples:
  tidegate run poc2-stateless
  tidegate run poc2-stateless --set dataplane=nft -o json
  tidegate plan -f examples/poc2/gateway.yaml -f examples/poc2/applications.yaml
  tidegate explain 'TCP 200.100.0.100:40000 -> 20.0.0.1:4000' -f examples/poc2/gateway.yaml -f examples/poc2/applications.yaml
  tidegate COMMAND --help
"""


def overview(title: str, commands: dict[str, Command], epilog: str = "") -> str:
    """The text of --help above the commands."""
    lines = [title, ""]
    lines += [f"  {name:14} {command.summary}" for name, command in commands.items()]
    return "\n".join(lines) + ("\n\n" + epilog if epilog else "\n")


def find(word: str, commands: dict[str, Command], title: str, epilog: str = "") -> Command | int:
    """The command of that name, or the exit code when there is none to run."""
    if word in commands:
        return commands[word]
    if word in ("-h", "--help", "help"):
        print(overview(title, commands, epilog))
        return OK
    from difflib import get_close_matches

    close = get_close_matches(word, commands, n=1)
    hint = f": did you mean {close[0]!r}?" if close else f": known are {', '.join(commands)}"
    print(f"tidegate: unknown command {word!r}{hint}" if word else overview(title, commands, epilog), file=sys.stderr)
    return BAD_INPUT


def dispatch(arguments: Sequence[str]) -> int:
    """Runs the command that `arguments` name; returns its exit code."""
    word, rest = (arguments[0], list(arguments[1:])) if arguments else ("", [])
    if word in ("-V", "--version"):
        from importlib.metadata import version

        print(f"tidegate {version('tidegate')}")
        return OK
    title = "usage: tidegate COMMAND ...\n\nA layer 3/4 gateway for Kubernetes services on secondary networks, and its laboratory."
    found = find(word, COMMANDS, title, _EPILOG)
    if word == "agent" and isinstance(found, Command):
        word, rest = (rest[0], rest[1:]) if rest else ("", [])
        found = find(word, AGENTS, "usage: tidegate agent AGENT ...")
    if isinstance(found, int):
        return found
    main_of_command: Callable[[list[str]], int | None] = importlib.import_module(found.module).main
    return main_of_command(rest) or OK


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point: never a traceback, unless TIDEGATE_TRACEBACK is set."""
    from core.errors import InputError, MachineError, TidegateError
    from scenarios import interrupts, streams

    if arguments is None:
        streams.open_standard_streams()
    try:
        try:
            with interrupts.delivered():
                return dispatch(sys.argv[1:] if arguments is None else arguments)
        finally:
            # Before an error is told, and where it can still be one: whatever the command said, and --help as well.
            sys.stdout.flush()
    except InputError as error:
        return _say("\n".join(str(problem) for problem in error.problems), BAD_INPUT)
    except MachineError as error:
        return _say(f"tidegate: {error.missing}\n  {error.remedy}", CANNOT)
    except TidegateError as error:
        return _say(f"tidegate: {error}", FAILED)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            what = f"{error.filename or 'a file'}: {error.strerror}"
            return _say(f"tidegate: {what}\n  make room there, or let it go elsewhere", CANNOT)
        # The last resort: a person gets one line, and how to see more.
        if os.environ.get("TIDEGATE_TRACEBACK"):
            raise
        where = f"{type(error).__name__}: {error}"
        return _say(f"tidegate: a fault of Tidegate itself: {where}\n  TIDEGATE_TRACEBACK=1 shows where", INTERNAL)
    # Only here, where the exception is gone and its frames with it: a phase that was interrupted while it began ends with them, and
    # says so before the last line.
    return _say("tidegate: interrupted", INTERRUPTED)


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
