"""Leader election by a Lease: what it relies on, two candidates, and two controllers as processes."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import names
from live.kube import connect
from live.leader import Candidate
from tests.contract.kube.client import Client, Json, Server
from tests.contract.kube.samples import Namespace

ROOT = Path(__file__).parents[3]
GROUP = "coordination.k8s.io/v1"
DEADLINE_S = 20.0


def lease(name: str = "l", **spec: Any) -> Json:
    return {"apiVersion": GROUP, "kind": "Lease", "metadata": {"name": name}, "spec": spec}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"leaseDurationSeconds": 0}, "spec.leaseDurationSeconds"),
        ({"leaseTransitions": -1}, "spec.leaseTransitions"),
    ],
)
def test_bad_leases_are_refused(api: Client, namespace: Namespace, spec: Json, field: str) -> None:
    refused = api.create(namespace.of(GROUP, "leases"), lease(**spec))
    assert (refused.code, refused.causes) == (422, {("FieldValueInvalid", field)})


def test_a_lease_has_no_status_and_no_generation(api: Client, namespace: Namespace) -> None:
    made = api.create(namespace.of(GROUP, "leases"), lease(holderIdentity="a"))
    assert made.code == 201
    assert "generation" not in made.meta
    assert api.get(namespace.of(GROUP, "leases", "l", "status")).code == 404


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stands(api_server: Server, namespace: Namespace, clock: Clock) -> Iterator[Callable[[str], Candidate]]:
    """Makes candidates for the namespace's Lease `l`, which all go by one clock."""
    with connect(api_server.kubeconfig) as kube:
        yield lambda identity: Candidate(kube, namespace=namespace.name, name="l", identity=identity, now_s=clock)


def test_one_of_two_leads_until_its_lease_has_run_out(
    api: Client, namespace: Namespace, clock: Clock, stands: Callable[[str], Candidate]
) -> None:
    one, two = stands("one"), stands("two")
    assert one.attempt()
    for _ in range(10):
        clock.now_s += 2.0
        assert one.attempt()
        assert not two.attempt()
        assert (two.holder, two.time_left_s()) == ("one", 0.0)
    for _ in range(7):
        clock.now_s += 2.0
        assert not two.attempt()
    assert one.time_left_s() == 0.0
    clock.now_s += 1.0
    assert two.attempt()
    spec = api.get(namespace.of(GROUP, "leases", "l")).body["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"], spec["leaseDurationSeconds"]) == ("two", 1, 15)
    assert not one.attempt()


def test_a_lease_that_is_given_back_is_taken_at_once(
    api: Client, namespace: Namespace, stands: Callable[[str], Candidate]
) -> None:
    one, two = stands("one"), stands("two")
    assert one.attempt()
    assert not two.attempt()
    one.release()
    assert "holderIdentity" not in api.get(namespace.of(GROUP, "leases", "l")).body["spec"]
    assert two.attempt()


def test_of_many_at_once_one_wins(stands: Callable[[str], Candidate], clock: Clock) -> None:
    candidates = [stands(f"c{number}") for number in range(8)]
    for _ in range(3):
        start = threading.Barrier(len(candidates))
        won: queue.SimpleQueue[str] = queue.SimpleQueue()

        def run(candidate: Candidate, start: threading.Barrier, won: queue.SimpleQueue[str]) -> None:
            start.wait(DEADLINE_S)
            if candidate.attempt():
                won.put(candidate.identity)

        threads = [threading.Thread(target=run, args=(candidate, start, won)) for candidate in candidates]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        assert won.qsize() == 1
        for candidate in candidates:
            candidate.attempt()  # the losers see who won
        clock.now_s += 15.0


class Controller:
    """`tidegate controller --leader-elect` as a process."""

    def __init__(self, server: Server, namespace: Namespace, identity: str) -> None:
        options = ("--leader-elect", "--lease-namespace", namespace.name, "--identity", identity)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scenarios.cli", "controller", "--listen", "127.0.0.1:0", *options],
            cwd=ROOT, env={**os.environ, "KUBECONFIG": str(server.kubeconfig)}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._lines: queue.SimpleQueue[Json] = queue.SimpleQueue()
        self._said: list[Json] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.port = int(self.wait_for("started")["port"])

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self._lines.put(json.loads(line))

    def wait_for(self, message: str) -> Json:
        """The first line with this message, said already or not: its threads say "started" and "elected" in any order."""
        ends_s = time.monotonic() + DEADLINE_S
        while not (found := [line for line in self._said if line["msg"] == message]):
            self._said.append(self._lines.get(timeout=ends_s - time.monotonic()))
        return found[0]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def get(self, path: str) -> tuple[int, str]:
        served = Client(Server(name="controller", url=f"http://127.0.0.1:{self.port}", kubeconfig=Path()))
        answer = served.get(path)
        return answer.code, str(answer.body)

    def turns(self) -> str:
        """How many it has had."""
        return self.get("/metrics")[1].partition('tidegate_reconciles_total{result="ok"}')[2].split()[0]

    def wait_ready_as(self, what: str) -> None:
        ends_s = time.monotonic() + DEADLINE_S
        while self.get("/readyz") != (200, f"{what}\n"):
            assert time.monotonic() < ends_s, self.get("/readyz")
            time.sleep(0.02)  # it tells nobody when it is ready; the deadline is above


@pytest.fixture
def run_controller(api_server: Server, namespace: Namespace) -> Iterator[Callable[[str], Controller]]:
    running: list[Controller] = []

    def run(identity: str) -> Controller:
        running.append(Controller(api_server, namespace, identity))
        return running[-1]

    yield run
    for controller in running:
        controller.end()


def leftover_slice(name: str) -> Json:
    """An EndpointSlice of the controller's that no Service wants any more: it deletes such, so it shows who writes."""
    labels = {names.SLICE_MANAGED_BY: names.SLICE_MANAGER, "kubernetes.io/service-name": "gone"}
    metadata = {"name": name, "labels": labels}
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": "IPv4", "endpoints": [], "ports": [],
    }  # fmt: skip


def test_a_standby_is_ready_and_writes_nothing_until_the_leader_leaves(
    api: Client, namespace: Namespace, run_controller: Callable[[str], Controller]
) -> None:
    slices = namespace.of("discovery.k8s.io/v1", "endpointslices")
    leader = run_controller("leader")
    leader.wait_ready_as("ok")
    assert api.create(slices, leftover_slice("first")).code == 201
    api.wait_gone(f"{slices}/first")
    leader.process.send_signal(signal.SIGSTOP)  # and before its Lease has run out:
    standby = run_controller("standby")
    standby.wait_ready_as("standby")
    assert standby.get("/healthz") == (200, "ok\n")
    assert "tidegate_leader 0" in standby.get("/metrics")[1]
    before = standby.turns()
    assert api.create(slices, leftover_slice("second")).code == 201
    ends_s = time.monotonic() + DEADLINE_S
    while standby.turns() == before:
        assert time.monotonic() < ends_s
        time.sleep(
            0.02
        )  # nobody tells that the standby has had a turn, in which it saw the slice; the deadline is above
    assert api.get(f"{slices}/second").code == 200
    leader.process.send_signal(signal.SIGCONT)
    leader.process.send_signal(signal.SIGTERM)
    assert leader.process.wait(DEADLINE_S) == 0
    standby.wait_for("elected")
    standby.wait_ready_as("ok")
    api.wait_gone(f"{slices}/second")
    assert "tidegate_leader 1" in standby.get("/metrics")[1]
    spec = api.get(namespace.of(GROUP, "leases", "tidegate-controller")).body["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("standby", 1)


def test_a_controller_that_has_lost_its_lease_ends(
    api: Client, namespace: Namespace, run_controller: Callable[[str], Controller]
) -> None:
    leader = run_controller("leader")
    leader.wait_for("elected")
    api.merge(namespace.of(GROUP, "leases", "tidegate-controller"), {"spec": {"holderIdentity": "usurper"}})
    assert leader.process.wait(DEADLINE_S) == 1
    leader.wait_for("not the leader any more")
