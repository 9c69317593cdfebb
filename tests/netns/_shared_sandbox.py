"""One throw-away set of namespaces for all tests of a module: what a module's fixtures start there is shared by its tests. With
parameters of the fixture `world`, one set for each.

A child lives in the namespaces and runs the tests that it is told to, one after the other; its end takes everything along.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import IO

import pytest
from _pytest.runner import runtestprotocol

from sim.net import pid1

MARK = "shared_sandbox"


class SharedSandbox:
    """The child of one module. `run` gives the reports of one test; after the module's last one, `close`."""

    def __init__(self, item: pytest.Item) -> None:
        self.shared_by = shared_by(item)
        self._items = {other.nodeid: other for other in item.session.items if shared_by(other) == self.shared_by}
        theirs, ours = os.pipe()
        answers, said = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(ours)
            os.close(answers)
            os._exit(pid1.contain(lambda: self._serve(os.fdopen(theirs), os.fdopen(said, "w"))))
        os.close(theirs)
        os.close(said)
        self._requests, self._answers = os.fdopen(ours, "w"), os.fdopen(answers)
        self.alive = True

    def run(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        """The reports of `item`. A child that dies, or is killed because the test takes too long, is a failed test."""
        following = nextitem.nodeid if nextitem is not None and nextitem.nodeid in self._items else ""
        try:
            self._requests.write(json.dumps([item.nodeid, following]) + "\n")
            self._requests.flush()
            line = self._answers.readline()
            why = "the sandbox ended before the test did"
        except BrokenPipeError as error:
            line, why = "", f"the sandbox had ended before the test: {error}"
        except pytest.fail.Exception as error:  # what pytest-timeout raises
            line, why = "", str(error)
        if not line:
            self.kill()
            return [_failed(item, why)]
        restore = item.config.hook.pytest_report_from_serializable
        return [restore(config=item.config, data=data) for data in json.loads(line)]

    def close(self) -> None:
        """Ends the child, after its fixtures have been torn down."""
        if self.alive:
            self.alive = False
            with contextlib.suppress(BrokenPipeError):
                self._requests.close()
            self._answers.close()
            os.waitpid(self._child, 0)

    def kill(self) -> None:
        """Ends the child and everything in its namespaces at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        self.close()

    def _serve(self, requests: IO[str], answers: IO[str]) -> int:
        for line in requests:
            name, following = json.loads(line)
            item = self._items[name]
            serialize = item.config.hook.pytest_report_to_serializable
            reports = runtestprotocol(item, log=False, nextitem=self._items.get(following))
            answers.write(json.dumps([serialize(config=item.config, report=r) for r in reports], default=str) + "\n")
            answers.flush()
        return 0


def shared_by(item: pytest.Item) -> str:
    """What the tests that share a sandbox have in common: their module, and the parameter of its fixture `world` if it has one."""
    callspec = getattr(item, "callspec", None)
    parameter = callspec.params.get("world", "") if callspec is not None else ""
    return f"{item.nodeid.partition('::')[0]} {parameter}"


def _failed(item: pytest.Item, why: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid, location=item.location, keywords={}, outcome="failed", longrepr=why, when="call"
    )
