"""The skeleton of an agent as a process: ready when it has reconciled, ended by a signal, within its budget."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.scripted_api import Exchange, ScriptedApi, kubeconfig_of, page, pod

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 20.0

AGENT = """
import argparse, logging, sys
from core import kube
from core.errors import DataplaneError
from live.agent.process import AgentProcess, add_arguments
log = logging.getLogger("live.test")
parser = argparse.ArgumentParser()
add_arguments(parser, listen="127.0.0.1:0")
with AgentProcess("test", parser.parse_args()) as process:
    process.exits.callback(lambda: log.info("let go"))
    pods = process.watch(kube.PODS)
    for resource in (kube.GATEWAYS, kube.L34_ROUTES, kube.SERVICES, kube.ENDPOINT_SLICES, kube.NAMESPACES):
        process.watch(resource)
    def reconcile():
        names = sorted(name for _, name in pods.objects())
        if "poison" in names:
            raise DataplaneError("the kernel says no")
        log.info("reconciled", extra={"pods": names})
        return 30.0 if names else None
    sys.exit(process.run(reconcile))
"""


class RunningAgent:
    """An agent's process and the lines of its log, as they come."""

    def __init__(self, kubeconfig: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", AGENT],
            cwd=ROOT,
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[dict[str, object]] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.port = 0

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(json.loads(line))

    def wait_for(self, message: str, **fields: object) -> dict[str, object]:
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            line = self._lines.get(timeout=deadline_s - time.monotonic())
            if line["msg"] == message and all(line.get(key) == value for key, value in fields.items()):
                return line

    def get(self, path: str) -> tuple[int, str]:
        if not self.port:
            port = self.wait_for("started")["port"]
            assert isinstance(port, int)
            self.port = port
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def metrics(self) -> dict[str, float]:
        lines = [line for line in self.get("/metrics")[1].splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


class Pods:
    """Answers lists and watches; the test says when the first list of Pods comes, and which Pods follow."""

    def __init__(self) -> None:
        self.listable = threading.Event()
        self.events: queue.Queue[tuple[str, str]] = queue.Queue()

    def __call__(self, exchange: Exchange) -> None:
        pods = exchange.path.endswith("/pods")
        if not exchange.is_watch:
            if pods:
                self.listable.wait(DEADLINE_S)
            return exchange.send(200, page(10))
        exchange.start_watch()
        if not pods:
            return exchange.hold()
        version = 10
        while (event := self.events.get())[0] != "END":
            version += 1
            exchange.send_event(event[0], pod(event[1], version))
        return None


@pytest.fixture
def pods() -> Pods:
    return Pods()


@pytest.fixture
def agent(pods: Pods, tmp_path: Path) -> Iterator[RunningAgent]:
    api = ScriptedApi()
    api.answer = pods
    running = RunningAgent(kubeconfig_of(api.server_address[1], tmp_path))
    yield running
    running.end()
    pods.listable.set()
    pods.events.put(("END", ""))
    api.end()


def test_ready_means_listed_and_reconciled(agent: RunningAgent, pods: Pods) -> None:
    code, reasons = agent.get("/readyz")
    assert code == 503
    assert "programmed: nothing is programmed yet\n" in reasons
    assert "objects: not listed yet: pods" in reasons
    assert agent.get("/healthz")[0] == 200
    pods.listable.set()
    agent.wait_for("reconciled", pods=[])
    ready_within(agent, DEADLINE_S)
    pods.events.put(("ADDED", "a"))
    agent.wait_for("reconciled", pods=["a"])


def test_a_turn_that_fails_is_retried_and_counted_and_does_not_end_the_agent(agent: RunningAgent, pods: Pods) -> None:
    pods.listable.set()
    agent.get("/healthz")
    agent.wait_for("reconciled", pods=[])
    pods.events.put(("ADDED", "poison"))
    line = agent.wait_for("reconciling failed, will retry")
    assert line["why"] == "the kernel says no"
    assert agent.wait_for("reconciling failed, will retry")["failures"] == 2
    pods.events.put(("DELETED", "poison"))
    agent.wait_for("reconciled", pods=[])
    assert agent.metrics()['tidegate_reconciles_total{result="error"}'] >= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_at_once(agent: RunningAgent, pods: Pods, number: signal.Signals) -> None:
    pods.listable.set()
    agent.wait_for("reconciled", pods=[])
    started_s = time.monotonic()
    agent.process.send_signal(number)
    agent.wait_for("stopped")
    agent.wait_for("let go")
    assert agent.process.wait(DEADLINE_S) == 0
    assert time.monotonic() - started_s < 2.0


def test_the_skeleton_leaves_most_of_the_budget_to_the_agent(agent: RunningAgent, pods: Pods) -> None:
    """0.8 s of CPU and 70 MB until ready is for a whole agent; measured: 0.2-0.3 s and 45 MB."""
    pods.listable.set()
    agent.get("/healthz")
    agent.wait_for("reconciled", pods=[])
    metrics = agent.metrics()
    assert metrics["process_cpu_seconds_total"] < 0.6
    assert metrics["process_resident_memory_bytes"] < 60 << 20


def test_without_an_api_to_talk_to_it_says_what_to_do(tmp_path: Path) -> None:
    env = {**os.environ, "KUBECONFIG": str(tmp_path / "none")}
    agent = subprocess.run(
        [sys.executable, "-c", AGENT], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert agent.returncode != 0
    assert "a kubeconfig file named by --kubeconfig or KUBECONFIG" in agent.stderr


def ready_within(agent: RunningAgent, seconds_s: float) -> None:
    deadline_s = time.monotonic() + seconds_s
    while agent.get("/readyz") != (200, "ok\n"):
        assert time.monotonic() < deadline_s, agent.get("/readyz")
        time.sleep(0.01)
