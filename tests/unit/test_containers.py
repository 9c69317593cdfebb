"""Images, command lines, environments, probes and Pod statuses: what the imitated kubelet decides before it acts."""

from __future__ import annotations

import http.server
import threading
from typing import Any

import pytest

from sim.cluster.containers import restart_delay_s
from sim.cluster.images import ContainerError, Executed, Forked, Program, expand, field_of, find_program, launch
from sim.cluster.pod_status import (
    ContainerState,
    ContainerStatus,
    PodFacts,
    Running,
    Terminated,
    Waiting,
    phase_of,
    render_status,
)
from sim.cluster.probes import Probe, attempt, readiness_probe

PROGRAMS: dict[str, Program] = {
    "tidegate": Executed(command=("/bin/tidegate",)),
    "tidegate-testbed/target": Forked(program="target"),
}
POD: dict[str, Any] = {
    "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "x"}},
    "spec": {"nodeName": "node-1"},
    "status": {"podIP": "10.244.1.1", "podIPs": [{"ip": "10.244.1.1"}, {"ip": "fd00::1"}], "hostIP": "10.244.0.11"},
}


@pytest.mark.parametrize(
    "image",
    ["tidegate", "tidegate:v1", "registry.example:5000/team/tidegate:v1", f"localhost/tidegate@sha256:{'a' * 64}"],
)
def test_registry_tag_and_digest_do_not_count(image: str) -> None:
    assert find_program(image, PROGRAMS) == PROGRAMS["tidegate"]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("", "InvalidImageName"),
        ("Tidegate", "InvalidImageName"),
        ("tidegate:", "InvalidImageName"),
        ("not-tidegate", "ErrImagePull"),
        ("target", "ErrImagePull"),
        ("tidegate/other", "ErrImagePull"),
    ],
)
def test_other_images_are_refused_with_the_kubelets_reason(image: str, reason: str) -> None:
    with pytest.raises(ContainerError) as caught:
        find_program(image, PROGRAMS)
    assert caught.value.reason == reason
    assert repr(image) in str(caught.value)


def test_command_line_and_environment() -> None:
    container = {
        "name": "c",
        "image": "tidegate",
        "args": ["agent", "--on=$(NODE)", "$(MISSING)", "$$(NODE)"],
        "env": [
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "WHERE", "value": "at $(NODE)"},
        ],
    }
    made = launch(container, POD, PROGRAMS, {"PATH": "/bin", "NODE": "overridden"})
    assert made.program == Executed(command=("/bin/tidegate", "agent", "--on=node-1", "$(MISSING)", "$(NODE)"))
    assert dict(made.environment) == {"PATH": "/bin", "NODE": "node-1", "WHERE": "at node-1"}


def test_command_replaces_the_entry_point_and_may_name_it() -> None:
    own = launch({"name": "c", "image": "tidegate", "command": ["sh", "-c", "x"]}, POD, PROGRAMS, {})
    assert own.program == Executed(command=("sh", "-c", "x"))
    named = launch(
        {"name": "c", "image": "tidegate", "command": ["tidegate", "plan"], "args": ["-f"]}, POD, PROGRAMS, {}
    )
    assert named.program == Executed(command=("/bin/tidegate", "plan", "-f"))
    forked = launch({"name": "c", "image": "tidegate-testbed/target", "args": ["--name", "n"]}, POD, PROGRAMS, {})
    assert forked.arguments == ("--name", "n")


@pytest.mark.parametrize(
    "container",
    [
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.nothing"}}}]},
        {"envFrom": [{"configMapRef": {"name": "c"}}]},
        {"image": "tidegate-testbed/target", "command": ["sh"]},
    ],
)
def test_what_the_testbed_does_not_support_is_said(container: dict[str, Any]) -> None:
    with pytest.raises(ContainerError) as caught:
        launch({"name": "c", "image": "tidegate", **container}, POD, PROGRAMS, {})
    assert caught.value.reason == "CreateContainerConfigError"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"),
        ("metadata.uid", "u"),
        ("metadata.labels['app']", "x"),
        ("metadata.annotations['none']", ""),
        ("status.podIP", "10.244.1.1"),
        ("status.podIPs", "10.244.1.1,fd00::1"),
        ("status.hostIP", "10.244.0.11"),
        ("spec.serviceAccountName", "default"),
    ],
)
def test_downward_api(path: str, value: str) -> None:
    assert field_of(POD, path) == value


def test_expansion() -> None:
    assert expand("$(A) $$(A) $(B) $A $", {"A": "1"}) == "1 $(A) $(B) $A $"


def test_probes_are_read_with_kubernetes_defaults() -> None:
    http_get = {"readinessProbe": {"httpGet": {"path": "/readyz", "port": "health"}, "periodSeconds": 1}}
    probe = readiness_probe({"name": "c", "ports": [{"name": "health", "containerPort": 8081}], **http_get})
    assert probe == Probe(host="", port=8081, path="/readyz", period_s=1.0)
    assert readiness_probe({"name": "c"}) is None
    tcp = readiness_probe({"name": "c", "readinessProbe": {"tcpSocket": {"port": 80}}})
    assert tcp == Probe(host="", port=80, path=None)


@pytest.mark.parametrize(
    "probe",
    [
        {"exec": {"command": ["true"]}},
        {"httpGet": {"port": 80, "scheme": "HTTPS"}},
        {"httpGet": {"port": "nameless"}},
    ],
)
def test_probes_that_the_testbed_cannot_do_are_said(probe: dict[str, Any]) -> None:
    with pytest.raises(ContainerError):
        readiness_probe({"name": "c", "readinessProbe": probe})


def test_a_probe_succeeds_on_2xx_and_3xx_only() -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path[1:]))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silent."""

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        port = server.server_port
        for code, good in ((200, True), (302, True), (404, False), (503, False)):
            said = attempt(Probe(host="", port=port, path=f"/{code}"), "127.0.0.1")
            assert (said is None) is good
            assert good or str(code) in str(said)
        assert attempt(Probe(host="127.0.0.1", port=port, path=None), "192.0.2.1") is None
        server.shutdown()
        thread.join()
    assert "refused" in str(attempt(Probe(host="", port=port, path="/"), "127.0.0.1"))


def test_restarts_are_immediate_first_then_slower() -> None:
    assert [restart_delay_s(n) for n in range(8)] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


RUNNING = Running(since_s=10.0)
ENDED, FAILED = (Terminated(exit_code=code, started_s=1.0, finished_s=2.0) for code in (0, 1))


@pytest.mark.parametrize(
    ("states", "policy", "phase"),
    [
        ([Waiting(reason="ContainerCreating")], "Always", "Pending"),
        ([RUNNING, Waiting(reason="ErrImagePull")], "Always", "Pending"),
        ([RUNNING, RUNNING], "Always", "Running"),
        ([FAILED], "Always", "Running"),
        ([RUNNING, ENDED], "Never", "Running"),
        ([ENDED, ENDED], "Never", "Succeeded"),
        ([ENDED, FAILED], "Never", "Failed"),
        ([FAILED], "OnFailure", "Running"),
        ([ENDED], "OnFailure", "Succeeded"),
    ],
)
def test_phases(states: list[ContainerState], policy: str, phase: str) -> None:
    containers = tuple(ContainerStatus(name=str(n), image="i", state=state) for n, state in enumerate(states))
    assert phase_of(PodFacts(containers=containers, restart_policy=policy, started_s=0.0)) == phase


def test_the_status_has_addresses_conditions_and_containers() -> None:
    container = ContainerStatus(name="c", image="i", state=RUNNING, ready=True, restarts=2, last=FAILED)
    facts = PodFacts(
        containers=(container,),
        restart_policy="Always",
        started_s=0.0,
        pod_ips=("10.0.0.1", "fd00::1"),
        host_ips=("10.0.0.9",),
    )
    status = render_status(facts, (), 100.0)
    assert (status["podIP"], status["hostIP"], status["phase"]) == ("10.0.0.1", "10.0.0.9", "Running")
    assert [entry["ip"] for entry in status["podIPs"]] == ["10.0.0.1", "fd00::1"]
    assert status["containerStatuses"][0]["restartCount"] == 2
    assert status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 1
    assert {c["type"]: c["status"] for c in status["conditions"]}["Ready"] == "True"
    later = render_status(facts, status["conditions"], 200.0)
    assert later["conditions"] == status["conditions"]


def test_a_pod_without_network_says_why() -> None:
    facts = PodFacts(
        containers=(ContainerStatus(name="c", image="i", state=Waiting(reason="ContainerCreating")),),
        restart_policy="Always",
        started_s=0.0,
        problem=Waiting(reason="FailedCreatePodSandBox", message="there is no network"),
    )
    status = render_status(facts, (), 0.0)
    assert (status["phase"], status["message"]) == ("Pending", "there is no network")
    conditions = {c["type"]: c for c in status["conditions"]}
    assert conditions["PodReadyToStartContainers"]["message"] == "there is no network"
    assert conditions["Ready"]["reason"] == "ContainersNotReady"
