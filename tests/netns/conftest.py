"""Tests marked ``sandbox`` run each in its own throw-away namespaces; nothing that they start outlives them."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from sim.net import capabilities, pid1


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sandbox: runs in throw-away network, mount and PID namespaces")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if item.get_closest_marker("sandbox") is None or not capabilities.probe("namespaces").available:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _run_in_sandbox(item):
        item.ihook.pytest_runtest_logreport(report=report)
    # What was set up here for tests before this one, and is not for the next one, is taken down now: nobody else does.
    item.session._setupstate.teardown_exact(nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


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

    if request.node.get_closest_marker("sandbox") is not None:
        capability = capabilities.probe("namespaces")
        require("netns", capability.available, f"{capability.detail}; {capability.remedy}")
