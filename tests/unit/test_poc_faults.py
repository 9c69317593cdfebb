"""Faults of the proof-of-concept that no test of a part of ours names; docs/faults.md has them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.kube import Json
from core.manifests import parse, render, workloads
from core.model import Bgp
from core.plan import Plan, plan
from scenarios.yamlsource import read_documents
from tests import objects

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "live" / "deploy"


def planned(*items: Json) -> Plan:
    return plan(parse(items)[0])


def test_a_deleted_service_leaves_nothing_and_its_return_brings_all_back() -> None:
    """Fault 4 of the proof-of-concept: its routes leaked, and then the balancer was in a deadlock."""
    before = planned(*objects.base())
    without = planned(*(obj for obj in objects.base() if obj["kind"] != "Service"))
    assert not without.slices
    assert not any(without.attachments.values())
    assert without.gateways[0].announced == ()
    assert planned(*objects.base()) == before


def test_every_object_has_conditions_that_say_of_which_generation() -> None:
    """Fault 17 of the proof-of-concept: no conditions on anything."""
    class_: Json = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": objects.STATELESS.rpartition("/")[2], "generation": 7},
        "spec": {"controllerName": objects.STATELESS},
    }
    items = [*objects.base(), class_]
    found = {
        status.ref.kind: render.status_object(status, None, "now")["status"] for status in planned(*items).statuses
    }
    assert found.keys() == {"GatewayClass", "Gateway", "L34Route", "GatewayRouter"}
    conditions = {
        "GatewayClass": found["GatewayClass"]["conditions"],
        "Gateway": found["Gateway"]["conditions"],
        "Listener": found["Gateway"]["listeners"][0]["conditions"],
        "L34Route": found["L34Route"]["parents"][0]["conditions"],
        "GatewayRouter": found["GatewayRouter"]["conditions"],
    }
    for kind, of_kind in conditions.items():
        assert of_kind, kind
        assert all(isinstance(condition["observedGeneration"], int) for condition in of_kind), kind


def test_an_asn_of_32_bits_is_taken() -> None:
    """Fault 18 of the proof-of-concept: its CRD says int32, and its own example has 4248829953."""
    (crd,) = (document.json() for document in read_documents(DEPLOY / "crds" / "gatewayrouters.yaml"))
    (version,) = crd["spec"]["versions"]
    bgp = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["bgp"]["properties"]
    for key in ("localASN", "remoteASN"):
        assert bgp[key]["format"] == "int64"
        assert bgp[key].get("maximum", 2**32 - 1) == 2**32 - 1
    router = objects.router(bgp={"localASN": 4248829954, "remoteASN": 4248829953})
    (peer,) = planned(objects.gateway(), router).gateways[0].peers
    assert isinstance(peer.routing, Bgp)
    assert (peer.routing.local_asn, peer.routing.remote_asn) == (4248829954, 4248829953)


def test_endpoints_have_the_target_port() -> None:
    """Fault 20 of the proof-of-concept: the Service's port was used where targetPort is meant."""
    ports = [{"name": "web", "port": 80, "targetPort": 4000, "protocol": "TCP"}]
    items = [obj for obj in objects.base() if obj["kind"] != "Service"]
    (slice_,) = planned(*items, objects.service(ports=ports)).slices
    assert slice_.ports == (("web", "TCP", 4000),)


def pod_specs() -> list[tuple[str, Json]]:
    """(name, Pod spec) of everything that is installed or made."""
    installed = [
        document.json() for name in ("controller", "endpoint") for document in read_documents(DEPLOY / f"{name}.yaml")
    ]
    gateway = planned(objects.gateway()).gateways[0]
    made = workloads.workload(gateway.gateway, gateway.class_, workloads.Build())
    assert made is not None
    return [(obj["metadata"]["name"], obj["spec"]["template"]["spec"]) for obj in (*installed, made)]


@pytest.mark.parametrize(("name", "spec"), pod_specs())
def test_nothing_runs_privileged(name: str, spec: Json) -> None:
    """Fault 22 of the proof-of-concept: each container drops all capabilities, and adds only those that it names."""
    assert spec["containers"], name
    for container in spec["containers"]:
        context = container["securityContext"]
        assert not context.get("privileged")
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert "ALL" not in context["capabilities"].get("add", [])
