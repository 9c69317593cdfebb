"""What is special about the built-in kinds that Tidegate uses."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.contract.kube.client import Client, Json
from tests.contract.kube.samples import Namespace, pod


def service(name: str, **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": "x"}, **spec},
    }


def workload(kind: str, name: str, labels: dict[str, str], selector: dict[str, str]) -> Json:
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
    spec = {"selector": {"matchLabels": selector}, "template": template}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def endpoint_slice(name: str, family: str, *addresses: str) -> Json:
    endpoints = [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]
    meta = {"name": name, "labels": {"kubernetes.io/service-name": "s"}}
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta, "addressType": family,
        "endpoints": endpoints, "ports": [{"port": 80}],
    }  # fmt: skip


def test_a_service_gets_an_address(api: Client, namespace: Namespace) -> None:
    spec = api.create(namespace.core("services"), service("a", ports=[{"port": 80}])).body["spec"]
    assert spec["clusterIP"].startswith("10.96.")
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert spec["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert (spec["type"], spec["ipFamilies"], spec["sessionAffinity"]) == ("ClusterIP", ["IPv4"], "None")
    refused = api.merge(namespace.core("services", "a"), {"spec": {"clusterIP": "10.96.0.200"}})
    assert (refused.code, refused.causes) == (422, {("FieldValueInvalid", "spec.clusterIPs[0]")})


def test_a_headless_service_gets_none(api: Client, namespace: Namespace) -> None:
    made = api.create(namespace.core("services"), service("h", clusterIP="None"))
    assert made.code == 201
    assert (made.body["spec"]["clusterIP"], made.body["spec"]["clusterIPs"]) == ("None", ["None"])


def test_a_load_balancer_with_external_addresses_gets_node_ports(api: Client, namespace: Namespace) -> None:
    body = service("lb", type="LoadBalancer", externalIPs=["20.0.0.1"], ports=[{"port": 4000}])
    spec = api.create(namespace.core("services"), body).body["spec"]
    assert 30000 <= spec["ports"][0]["nodePort"] < 32768
    assert spec["externalTrafficPolicy"] == "Cluster"
    ingress = {"status": {"loadBalancer": {"ingress": [{"ip": "20.0.0.1"}]}}}
    changed = api.merge(namespace.core("services", "lb", "status"), ingress).body
    assert changed["status"]["loadBalancer"]["ingress"][0]["ip"] == "20.0.0.1"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "spec.ports"),
        ({"ports": [{"port": 70000}]}, "spec.ports[0].port"),
        ({"ports": [{"port": 1}, {"port": 2}]}, "spec.ports[0].name"),
        ({"ports": [{"port": 1}], "externalIPs": ["nowhere"]}, "spec.externalIPs[0]"),
        ({"ports": [{"port": 1}], "externalIPs": ["192.0.2.1", "127.0.0.1"]}, "spec.externalIPs[1]"),
        ({"ports": [{"port": 1}], "externalIPs": ["0.0.0.0"]}, "spec.externalIPs[0]"),
        ({"ports": [{"port": 1}], "externalIPs": ["fe80::1"]}, "spec.externalIPs[0]"),
        ({"ports": [{"port": 1}], "externalIPs": ["224.0.0.1"]}, "spec.externalIPs[0]"),
        ({"ports": [{"port": 1}], "type": "Magic"}, "spec.type"),
        ({"ports": [{"port": 1, "protocol": "QUIC"}]}, "spec.ports[0].protocol"),
    ],
)
def test_bad_services_are_refused(api: Client, namespace: Namespace, spec: Json, field: str) -> None:
    refused = api.create(namespace.core("services"), service("bad", **spec))
    assert refused.code == 422
    assert field in {where for _, where in refused.causes}


@pytest.mark.parametrize(
    ("kind", "plural"), [("Deployment", "deployments"), ("DaemonSet", "daemonsets"), ("ReplicaSet", "replicasets")]
)
def test_workloads(api: Client, namespace: Namespace, kind: str, plural: str) -> None:
    path = namespace.of("apps/v1", plural)
    made = api.create(path, workload(kind, "w", {"app": "w"}, {"app": "w"}))
    assert made.code == 201
    assert made.meta["generation"] == 1
    assert made.body["spec"]["template"]["spec"]["restartPolicy"] == "Always"
    assert "status" in made.body
    refused = api.create(path, workload(kind, "x", {"app": "w"}, {"app": "other"}))
    assert ("FieldValueInvalid", "spec.template.metadata.labels") in refused.causes
    moved = workload(kind, "w", {"app": "v"}, {"app": "v"})
    assert ("FieldValueInvalid", "spec.selector") in api.replace(path + "/w", moved).causes
    status = api.merge(path + "/w/status", {"spec": {"minReadySeconds": 9}, "status": {"observedGeneration": 1}}).body
    assert status["status"]["observedGeneration"] == 1
    assert "minReadySeconds" not in status["spec"]
    changed = api.merge(path + "/w", {"spec": {"minReadySeconds": 9}})
    assert changed.meta["generation"] == 2


def test_a_pod_needs_containers_with_names_and_images(api: Client, namespace: Namespace) -> None:
    path = namespace.core("pods")
    bare = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    assert ("FieldValueRequired", "spec.containers") in api.create(path, bare).causes
    nameless = {**bare, "spec": {"containers": [{"image": "i"}]}}
    assert ("FieldValueRequired", "spec.containers[0].name") in api.create(path, nameless).causes
    twice = {**bare, "spec": {"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}}
    assert ("FieldValueDuplicate", "spec.containers[1].name") in api.create(path, twice).causes


def pod_with(spec: Json | None = None, meta: Json | None = None, **container: Any) -> Json:
    made = pod("a", **(meta or {}))
    made["spec"]["containers"][0].update(container)
    made["spec"].update(spec or {})
    return made


VOLUME = {"name": "v", "emptyDir": {}}


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (pod_with(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]), None),
        (pod_with(ports=[{"containerPort": 80}, {"containerPort": 80}]), None),
        (pod_with({"imagePullSecrets": [{"name": "s"}, {"name": "s"}]}), None),
        (pod_with(meta={"finalizers": ["a.test/b", "a.test/b"]}), None),
        (
            pod_with(ports=[{"containerPort": 80, "name": "p"}, {"containerPort": 81, "name": "p"}]),
            ("FieldValueDuplicate", "spec.containers[0].ports[1].name"),
        ),
        (
            pod_with({"initContainers": [{"name": "c", "image": "i"}]}),
            ("FieldValueDuplicate", "spec.initContainers[0].name"),
        ),
        (pod_with({"volumes": [VOLUME, VOLUME]}), ("FieldValueDuplicate", "spec.volumes[1].name")),
        (
            pod_with({"volumes": [VOLUME]}, volumeMounts=[{"name": "v", "mountPath": "/a"}] * 2),
            ("FieldValueInvalid", "spec.containers[0].volumeMounts[1].mountPath"),
        ),
    ],
)
def test_what_may_be_there_twice_in_a_pod(
    api: Client, namespace: Namespace, body: Json, cause: tuple[str, str] | None
) -> None:
    """A list's key is for whoever merges it: that two items have it is refused only where it makes no sense."""
    made = api.create(namespace.core("pods"), body)
    if cause is None:
        assert made.code == 201
        api.merge(namespace.core("pods", "a"), {"metadata": {"finalizers": None}})
    else:
        assert (made.code, made.causes) == (422, {cause})


def test_what_is_there_twice_is_one_to_an_applier(api: Client, namespace: Namespace) -> None:
    path = namespace.of("apps/v1", "deployments", "d")
    made = workload("Deployment", "d", {"app": "d"}, {"app": "d"})
    env = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "B", "value": "3"}]
    made["spec"]["template"]["spec"]["containers"][0]["env"] = env
    assert api.create(namespace.of("apps/v1", "deployments"), made).code == 201

    def applied(*env: Json) -> Any:
        container = {"name": "c", "env": env} if env else {"name": "c"}
        spec = {"template": {"spec": {"containers": [container]}}}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}
        answer = api.apply(path, body, "one", force=True)
        assert answer.code == 200, answer.body
        return answer.body["spec"]["template"]["spec"]["containers"][0]["env"]

    assert applied({"name": "B", "value": "4"}) == [*env[:2], {"name": "B", "value": "4"}]
    assert applied({"name": "A", "value": "5"}) == [{"name": "A", "value": "5"}, {"name": "B"}]
    assert applied() == [{"name": "B"}]


def test_addresses_of_a_pod_are_one_a_family(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("pods"), pod("a"))
    path = namespace.core("pods", "a", "status")

    def status(*addresses: str) -> Json:
        return {"status": {"podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}}

    assert api.merge(path, status("192.0.2.1", "2001:db8::1")).code == 200
    refused = api.merge(path, status("192.0.2.1", "192.0.2.2"))
    assert (refused.code, refused.causes) == (422, {("FieldValueInvalid", "status.podIPs")})


def test_the_spec_of_a_pod_is_fixed_but_for_its_images(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("pods"), pod("a"))
    image = {"spec": {"containers": [{"name": "c", "image": "other:2"}]}}
    assert api.strategic(namespace.core("pods", "a"), image).code == 200
    refused = api.merge(namespace.core("pods", "a"), {"spec": {"hostname": "other"}})
    assert (refused.code, refused.causes) == (422, {("FieldValueForbidden", "spec")})


def test_a_binding_puts_a_pod_on_a_node(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("pods"), pod("a"))
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "a"},
        "target": {"kind": "Node", "name": "n1"},
    }
    assert api.create(namespace.core("pods", "a", "binding"), binding).code == 201
    bound = api.get(namespace.core("pods", "a")).body
    assert bound["spec"]["nodeName"] == "n1"
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"
    again = api.create(namespace.core("pods", "a", "binding"), binding)
    assert (again.code, again.reason) == (409, "Conflict")


def test_endpoint_slices(api: Client, namespace: Namespace) -> None:
    path = namespace.of("discovery.k8s.io/v1", "endpointslices")
    made = api.create(path, endpoint_slice("s", "IPv4", "192.0.2.1"))
    assert made.code == 201
    assert made.body["ports"] == [{"name": "", "port": 80, "protocol": "TCP"}]
    assert made.meta["generation"] == 1
    again = api.create(path, {**endpoint_slice("u", "IPv4"), "ports": [{"port": 1}, {"port": 2}]})
    assert again.causes == {("FieldValueDuplicate", "ports[1].name")}
    wrong = api.create(path, endpoint_slice("t", "IPv4", "2001:db8::1"))
    assert (wrong.code, wrong.reason) == (422, "Invalid")
    refused = api.merge(path + "/s", {"addressType": "IPv6"})
    assert refused.causes == {("FieldValueInvalid", "addressType")}
    emptied = api.merge(path + "/s", {"endpoints": []}).body
    assert emptied["endpoints"] is None
    assert emptied["metadata"]["generation"] == 2


@pytest.mark.parametrize(
    ("family", "address", "why"),
    [
        ("IPv4", "0.0.0.0", "may not be unspecified (0.0.0.0)"),
        ("IPv4", "127.0.0.1", "may not be in the loopback range"),
        ("IPv4", "169.254.1.1", "may not be in the link-local range"),
        ("IPv4", "224.0.0.5", "may not be in the link-local multicast range"),
        ("IPv4", "2001:db8::1", "must be an IPv4 address"),
        ("IPv4", "192.0.2.01", "must "),
        ("IPv6", "::", "may not be unspecified (::)"),
        ("IPv6", "::1", "may not be in the loopback range"),
        ("IPv6", "fe80::1", "may not be in the link-local range"),
        ("IPv6", "fe80::1%eth0", "must be a valid IP address"),
        ("IPv6", "ff02::1", "may not be in the link-local multicast range"),
        ("IPv6", "::ffff:192.0.2.1", "must not be an IPv4-mapped IPv6 address"),
        ("IPv6", "2001:DB8::1", 'must be in canonical form ("2001:db8::1")'),
        ("IPv4", "239.1.1.1", ""),
        ("IPv4", "255.255.255.255", ""),
        ("IPv6", "ff05::1", ""),
    ],
)
def test_addresses_of_endpoints_are_anybodys(
    api: Client, namespace: Namespace, family: str, address: str, why: str
) -> None:
    body = endpoint_slice("s", family, "192.0.2.1" if family == "IPv4" else "2001:db8::2")
    body["endpoints"][0]["addresses"].append(address)
    made = api.create(namespace.of("discovery.k8s.io/v1", "endpointslices"), body)
    if why:
        ((reason, field),) = made.causes
        assert (made.code, reason) == (422, "FieldValueInvalid")
        assert field == ("endpoints[0].addresses" + ("" if why.endswith("IPv4 address") else "[1]"))
        assert f'"{address}": {why}' in made.body["message"]
    else:
        assert made.code == 201


@pytest.mark.parametrize("name", ["", "Bad_Node", "a/b", "a" * 254])
def test_the_node_of_an_endpoint_has_the_name_of_a_node(api: Client, namespace: Namespace, name: str) -> None:
    path = namespace.of("discovery.k8s.io/v1", "endpointslices")
    body = endpoint_slice("s", "IPv4", "192.0.2.1")
    body["endpoints"][0]["nodeName"] = name
    assert api.create(path, body).causes == {("FieldValueInvalid", "endpoints[0].nodeName")}
    body["endpoints"][0]["nodeName"] = "node-1.example"
    assert api.create(path, body).code == 201


@pytest.mark.parametrize(
    ("meta", "field"),
    [
        ({"labels": {"bad": "not ok!"}}, "labels"),
        ({"labels": {"not ok!": ""}}, "labels"),
        ({"annotations": {"not ok!": ""}}, "annotations"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "plural"), [("Deployment", "deployments"), ("DaemonSet", "daemonsets"), ("ReplicaSet", "replicasets")]
)
def test_labels_of_a_template_are_those_of_an_object(
    api: Client, namespace: Namespace, kind: str, plural: str, meta: Json, field: str
) -> None:
    body = workload(kind, "w", {"app": "w"}, {"app": "w"})
    own = body["spec"]["template"]["metadata"]
    own.update({field: {**own.get(field, {}), **meta[field]}})
    refused = api.create(namespace.of("apps/v1", plural), body)
    assert (refused.code, refused.causes) == (422, {("FieldValueInvalid", f"spec.template.{field}")})


def test_a_slice_applied_again_replaces_its_endpoints(api: Client, namespace: Namespace) -> None:
    path = namespace.of("discovery.k8s.io/v1", "endpointslices", "s")
    api.apply(path, endpoint_slice("s", "IPv4", "192.0.2.1", "192.0.2.2"), "one")
    applied = api.apply(path, endpoint_slice("s", "IPv4", "192.0.2.2"), "one").body
    assert [one["addresses"] for one in applied["endpoints"]] == [["192.0.2.2"]]


def test_secrets_take_text_and_keep_base64(api: Client, namespace: Namespace) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "tide"}}
    made = api.create(namespace.core("secrets"), body).body
    assert made["data"] == {"password": base64.b64encode(b"tide").decode()}
    assert "stringData" not in made
    assert made["type"] == "Opaque"
    bad = {**body, "metadata": {"name": "t"}, "data": {"k": "%%"}}
    assert api.create(namespace.core("secrets"), bad).code == 400


def test_leases_keep_microseconds(api: Client, namespace: Namespace) -> None:
    path = namespace.of("coordination.k8s.io/v1", "leases")
    spec = {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.123456Z"}
    made = api.create(
        path, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": spec}
    )
    assert made.body["spec"] == spec
    taken = api.replace(path + "/l", {**made.body, "spec": {**spec, "holderIdentity": "b"}})
    assert taken.code == 200
    assert api.replace(path + "/l", {**made.body, "spec": {**spec, "holderIdentity": "c"}}).code == 409


def test_roles_and_bindings(api: Client, namespace: Namespace) -> None:
    group = "rbac.authorization.k8s.io/v1"
    role = {
        "apiVersion": group,
        "kind": "Role",
        "metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
    }
    assert api.create(namespace.of(group, "roles"), role).code == 201
    subject = {"kind": "ServiceAccount", "name": "sa", "namespace": namespace.name}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
    binding = {
        "apiVersion": group,
        "kind": "RoleBinding",
        "metadata": {"name": "b"},
        "roleRef": reference,
        "subjects": [subject],
    }
    assert api.create(namespace.of(group, "rolebindings"), binding).code == 201
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}}
    assert api.create(namespace.core("serviceaccounts"), account).code == 201
