"""Kubernetes objects in files: the examples are good, and every mistake is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import InputError
from scenarios.crosscheck import cross_problems
from scenarios.load import EXAMPLES
from scenarios.manifests import desired, read_manifests
from scenarios.predict import plan_of
from tests.conftest import require

SEED = Path(__file__).parents[3] / "shared" / "seed" / "examples"

ROUTE = """\
apiVersion: l34.gateway.api.poc/v1alpha1
kind: L34Route
metadata:
  name: r
spec:
  parentRefs: [{name: gateway-b}]
  backendRefs: [{name: service-b, port: 4000}]
  priority: 1
  protocols: [TCP]
  destinationCIDRs: [20.0.0.1/32]
  destinationPorts: ["4000"]
"""
ROUTER = """\
apiVersion: l34.gateway.api.poc/v1alpha1
kind: GatewayRouter
metadata: {name: vpn-b, labels: {service.kubernetes.io/service-proxy-name: gateway-b}}
spec:
  address: 169.254.100.150
  interface: vlan-200
  bgp: {holdTime: 3s}
"""
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {ports: [{port: 4000}]}
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec: {containers: [{name: c, image: i}]}
"""


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_manifests([path])
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_good(path: Path) -> None:
    assert read_manifests([path])


def test_the_manifests_of_the_seed_are_good_unchanged() -> None:
    require("shared", SEED.is_dir(), "the seed's example manifests beside the checkout")
    found = {path.name: len(read_manifests([path])) for path in SEED.glob("*.yaml")}
    assert found["stateless-load-balancer-gateway-api.yaml"] == 6
    assert found["stateless-load-balancer-gateway-api-update.yaml"] == 1


@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        (ROUTE, "  priority", "  prioritty", "m.yaml:8: unknown key: found 'prioritty', expected 'priority'"),
        (ROUTE, "{name: service-b,", "{nam: service-b,", "m.yaml:7: unknown key: found 'nam', expected 'name'"),
        (ROUTE, "  name: r", "  name: r\n  lables: {}", "m.yaml:5: unknown key: found 'lables', expected 'labels'"),
        (ROUTE, "spec:", "specs:", "m.yaml:5: unknown key: found 'specs', expected 'spec'"),
        (ROUTE, "L34Route", "L34Rout", "m.yaml:2: unknown kind: found 'L34Rout', expected 'L34Route'"),
        (SERVICE, "Service", "Servcie", "m.yaml:2: unknown kind: found 'Servcie', expected 'Service'"),
        (DEPLOYMENT, "Deployment", "Deploymnt", "m.yaml:2: unknown kind: found 'Deploymnt', expected 'Deployment'"),
        (ROUTE, "priority: 1", "priority: high", "m.yaml:8: L34Route default/r: spec.priority"),
        (ROUTE, "[TCP]", "[TCP, TPC]", "m.yaml:9: L34Route default/r: spec.protocols[1]: unknown protocol"),
        (ROUTE, "20.0.0.1/32", "20.0.0.1/33", "m.yaml:10: L34Route default/r: spec.destinationCIDRs[0]: not a CIDR"),
        (ROUTE, '"4000"', '"70000"', "m.yaml:11: L34Route default/r: spec.destinationPorts[0]: port out of range"),
        (ROUTE, '"4000"', '"90-80"', "reversed port range: found '90-80', expected 80-90"),
        (ROUTE, "  protocols: [TCP]\n", "", "m.yaml:5: L34Route default/r: spec.protocols: required field is missing"),
        (ROUTE, "kind: L34Route\n", "", "m.yaml:1: missing kind: no Kubernetes object"),
        (ROUTE, "  name: r", "  name:", "m.yaml:3: L34Route without a name"),
        (ROUTE, ROUTE, ROUTE + "---\n" + ROUTE, "m.yaml:13: the same object twice: found L34Route default/r"),
        (ROUTE, ROUTE, "- 1\n", "m.yaml:1: is no Kubernetes object: found a list"),
        (ROUTER, "3s", "2s", "m.yaml:7: GatewayRouter default/vpn-b: spec.bgp.holdTime: hold time out of range"),
        (ROUTER, "3s", "3000", "m.yaml:7: GatewayRouter default/vpn-b: spec.bgp.holdTime: not a duration"),
        (ROUTER, "3s", "3sec", "not a duration: found '3sec', expected a duration with its unit"),
    ],
)
def test_one_thing_wrong(tmp_path: Path, text: str, old: str, new: str, expected: str) -> None:
    assert old in text
    assert expected in "\n".join(problems(tmp_path, text.replace(old, new)))


def test_problems_of_all_files_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.yaml").write_text(ROUTE.replace("TCP", "TPC"))
    with pytest.raises(InputError) as caught:
        read_manifests([tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"])
    assert [Path(problem.where.split(":")[0]).name for problem in caught.value.problems] == [
        "a.yaml",
        "b.yaml",
        "c.yaml",
    ]


def test_a_list_is_its_items_and_later_objects_count(tmp_path: Path) -> None:
    indented = "".join(f"  {line}\n" for line in ROUTE.splitlines())
    (tmp_path / "list.yaml").write_text("apiVersion: v1\nkind: List\nitems:\n-" + indented[1:])
    (tmp_path / "later.yaml").write_text(ROUTE.replace("priority: 1", "priority: 2"))
    objects = read_manifests([tmp_path / "list.yaml", tmp_path / "later.yaml"])
    assert [str(found.ref) for found in objects] == ["L34Route default/r"] * 2
    assert [obj["spec"]["priority"] for obj in desired(objects)] == [2]


def test_a_list_of_one_kind_is_its_items(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        "apiVersion: v1\nkind: ServiceList\nitems:\n-" + "".join(f"  {line}\n" for line in SERVICE.splitlines())[1:]
    )
    assert [str(found.ref) for found in read_manifests([tmp_path / "m.yaml"])] == ["Service default/s"]


@pytest.mark.parametrize("group_version", ["v1", "apps/v1", "gateway.networking.k8s.io/v1", "discovery.k8s.io/v1"])
def test_a_kind_that_its_group_does_not_have(tmp_path: Path, group_version: str) -> None:
    """It would be taken for somebody else's, and what it says would be missing from the plan without a word."""
    text = f"apiVersion: {group_version}\nkind: Nonsense\nmetadata: {{name: n}}\n"
    assert "m.yaml:2: unknown kind: found 'Nonsense'" in "\n".join(problems(tmp_path, text))


@pytest.mark.parametrize(
    ("group_version", "kind"), [("v1", "ConfigMap"), ("apps/v1", "StatefulSet"), ("example.com/v1", "Servcie")]
)
def test_a_kind_that_tidegate_does_not_read(tmp_path: Path, group_version: str, kind: str) -> None:
    (tmp_path / "m.yaml").write_text(f"apiVersion: {group_version}\nkind: {kind}\nmetadata: {{name: n}}\n")
    assert [found.known for found in read_manifests([tmp_path / "m.yaml"])] == [False]


def test_networks_are_applied_before_the_pods_that_need_them() -> None:
    """Whatever file they are in: a Pod that is met before its network is refused once, and the log of a good run says so."""
    objects = read_manifests([EXAMPLES / "poc2" / "applications.yaml", EXAMPLES / "poc2" / "gateway.yaml"])
    assert objects[0].ref.kind == "Deployment"
    kinds = [obj["kind"] for obj in desired(objects)]
    networks = kinds.count("NetworkAttachmentDefinition")
    assert kinds[:networks] == ["NetworkAttachmentDefinition"] * networks != []
    assert kinds[networks:] == [found.ref.kind for found in objects if found.ref.kind != "NetworkAttachmentDefinition"]


def test_kinds_of_other_groups_are_other_objects(tmp_path: Path) -> None:
    """Istio has a Gateway too, and anybody may have an L34Route: neither takes the place of ours, nor the blame."""
    (tmp_path / "ours.yaml").write_text(ROUTE)
    (tmp_path / "theirs.yaml").write_text(ROUTE.replace("l34.gateway.api.poc/v1alpha1", "example.com/v1"))
    for files in (["ours.yaml", "theirs.yaml"], ["theirs.yaml", "ours.yaml"]):
        objects = read_manifests([tmp_path / file for file in files])
        planned = desired(objects)
        assert len(planned) == 2
        found = list(cross_problems(plan_of(planned), objects, ()))
        assert found
        assert {Path(problem.where.rpartition(":")[0]).name for problem in found} == {"ours.yaml"}


def test_networks_of_other_groups_are_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        "apiVersion: example.com/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: n}\nspec: {config: {}}\n"
    )
    assert len(read_manifests([tmp_path / "m.yaml"])) == 1
