"""Tests marked ``sandbox`` run each in its own throw-away namespaces; nothing that they start outlives them. The tests of a module
that is marked ``shared_sandbox`` run in namespaces that they share."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from sim.net import capabilities, pid1
from tests.netns import _shared_sandbox
from tests.netns._shared_sandbox import SharedSandbox, shared_by

_SHARED = pytest.StashKey[SharedSandbox]()
_PASSED = pytest.StashKey[bool]()
"""Of a test: whether its body has."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sandbox: runs in throw-away network, mount and PID namespaces")
    config.addinivalue_line("markers", f"{_shared_sandbox.MARK}: the module's tests share such namespaces")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    shared = item.get_closest_marker(_shared_sandbox.MARK) is not None
    if not (shared or item.get_closest_marker("sandbox")) or not capabilities.probe("namespaces").available:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _run_in_shared_sandbox(item, nextitem) if shared else _run_in_sandbox(item):
        item.ihook.pytest_runtest_logreport(report=report)
    # What was set up here for tests before this one, and is not for the next one, is taken down now: nobody else does.
    item.session._setupstate.teardown_exact(nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A session that was cut short leaves no sandbox behind."""
    child = session.config.stash.get(_SHARED, None)
    if child is not None:
        child.kill()


def _run_in_shared_sandbox(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """The reports of the test, which the child of its module has run; the child ends after the module's last test."""
    stash = item.config.stash
    child = stash.get(_SHARED, None)
    if child is None or not child.alive or child.shared_by != shared_by(item):
        child = stash[_SHARED] = SharedSandbox(item)
    try:
        reports = child.run(item, nextitem)
    except BaseException:
        child.kill()
        raise
    if nextitem is None or shared_by(nextitem) != child.shared_by:
        child.close()
    return reports


def _run_in_sandbox(item: pytest.Item) -> list[pytest.TestReport]:
    """The reports of the test, which a forked process has run; its death, by a timeout too, takes the namespaces with it."""
    serialize, restore = (
        item.config.hook.pytest_report_to_serializable,
        item.config.hook.pytest_report_from_serializable,
    )

    def run() -> int:
        reports = runtestprotocol(item, log=False, nextitem=None)
        said.write_text(json.dumps([serialize(config=item.config, report=report) for report in reports], default=str))
        return 0

    with tempfile.TemporaryDirectory(prefix="tidegate-test-") as folder:
        said = Path(folder, "reports.json")
        child = os.fork()
        if child == 0:
            os._exit(pid1.contain(run))
        try:
            _, status = os.waitpid(child, 0)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        if not said.exists():
            why = f"the sandbox ended with code {os.waitstatus_to_exitcode(status)} before the test did"
            return [
                pytest.TestReport(
                    nodeid=item.nodeid, location=item.location, keywords={}, outcome="failed", longrepr=why, when="call"
                )
            ]
        return [restore(config=item.config, data=data) for data in json.loads(said.read_text())]


@pytest.fixture(autouse=True)
def _namespaces_or_skip(request: pytest.FixtureRequest) -> None:
    from tests.conftest import require

    if any(request.node.get_closest_marker(mark) is not None for mark in ("sandbox", _shared_sandbox.MARK)):
        capability = capabilities.probe("namespaces")
        require("netns", capability.available, f"{capability.detail}; {capability.remedy}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.fixture(autouse=True)
def _as_planned_in_the_end(request: pytest.FixtureRequest) -> Iterator[None]:
    """However a test has hurt its world: in the end kernel, API and plan agree, and nothing is left over."""
    from tests.netns._converged import assert_converged
    from tests.netns._world import World

    if "world" not in request.fixturenames:
        yield
        return
    world = request.getfixturevalue("world")
    yield
    if isinstance(world, World) and request.node.stash.get(_PASSED, False):
        assert_converged(world)
