"""The status subresource: who may write what through which door."""

from __future__ import annotations

from tests.contract.kube.client import Client
from tests.contract.kube.samples import Gates, Namespace, pod


def test_the_status_is_dropped_on_create(api: Client, gates: Gates) -> None:
    made = api.create(gates.path(), {**gates.gate("a"), "status": {"n": 1}})
    assert made.code == 201
    assert "status" not in made.body


def test_the_object_itself_does_not_write_its_status(api: Client, gates: Gates) -> None:
    api.create(gates.path(), gates.gate("a"))
    api.merge(gates.path("a", "status"), {"status": {"n": 1}})
    changed = api.merge(gates.path("a"), {"spec": {"size": 4}, "status": {"n": 2}}).body
    assert (changed["spec"]["size"], changed["status"]) == (4, {"n": 1})


def test_the_status_of_a_custom_kind_writes_nothing_else(api: Client, gates: Gates) -> None:
    api.create(gates.path(), gates.gate("a"))
    patch = {"status": {"n": 1}, "spec": {"size": 9}, "metadata": {"labels": {"l": "v"}, "annotations": {"a": "b"}}}
    changed = api.merge(gates.path("a", "status"), patch).body
    assert changed["status"] == {"n": 1}
    assert changed["spec"]["size"] == 3
    assert "labels" not in changed["metadata"]
    assert "annotations" not in changed["metadata"]


def test_replacing_a_status_needs_the_version(api: Client, gates: Gates) -> None:
    made = api.create(gates.path(), gates.gate("a")).body
    changed = api.replace(gates.path("a", "status"), {**made, "status": {"n": 5}})
    assert (changed.code, changed.body["status"]) == (200, {"n": 5})
    stale = api.replace(gates.path("a", "status"), {**made, "status": {"n": 6}})
    assert (stale.code, stale.reason) == (409, "Conflict")


def test_a_status_is_validated(api: Client, gates: Gates) -> None:
    api.create(gates.path(), gates.gate("a"))
    refused = api.merge(gates.path("a", "status"), {"status": {"n": "many"}})
    assert (refused.code, refused.causes) == (422, {("FieldValueTypeInvalid", "status.n")})


def test_the_status_of_a_pod_writes_annotations_and_labels_too(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("pods"), pod("a"))
    patch = {
        "metadata": {"annotations": {"k8s.v1.cni.cncf.io/network-status": "[]"}, "labels": {"l": "v"}},
        "spec": {"hostname": "other"},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
    }
    changed = api.merge(namespace.core("pods", "a", "status"), patch).body
    assert changed["metadata"]["annotations"] == {"k8s.v1.cni.cncf.io/network-status": "[]"}
    assert changed["metadata"]["labels"] == {"l": "v"}
    assert changed["status"]["podIP"] == "10.0.0.1"
    assert "hostname" not in changed["spec"]
    assert changed["metadata"]["generation"] == 1


def test_the_status_of_a_pod_does_not_write_its_owners(api: Client, namespace: Namespace) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "0-0"}
    api.create(namespace.core("pods"), pod("a"))
    changed = api.merge(namespace.core("pods", "a", "status"), {"metadata": {"ownerReferences": [owner]}}).body
    assert "ownerReferences" not in changed["metadata"]


def test_reading_a_status_gives_the_object(api: Client, gates: Gates) -> None:
    made = api.create(gates.path(), gates.gate("a")).body
    assert api.get(gates.path("a", "status")).body == made


def test_a_node_brings_its_status(api: Client, namespace: Namespace) -> None:
    status = {"conditions": [{"type": "Ready", "status": "True"}], "capacity": {"cpu": "2"}}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace.name}, "status": status}
    made = api.create("/api/v1/nodes", node)
    assert made.body["status"]["capacity"] == {"cpu": "2"}
    address = {"type": "InternalIP", "address": "192.0.2.1"}
    changed = api.strategic(f"/api/v1/nodes/{namespace.name}/status", {"status": {"addresses": [address]}}).body
    assert changed["status"]["addresses"] == [address]
    assert api.delete(f"/api/v1/nodes/{namespace.name}").code == 200


def test_a_node_of_two_families_has_two_internal_addresses(api: Client, namespace: Namespace) -> None:
    """Whose key is their type, all the same: server-side apply takes one of each, other requests what is not twice the same."""
    path = f"/api/v1/nodes/{namespace.name}"
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace.name}}
    api.create("/api/v1/nodes", node)
    two = [{"type": "InternalIP", "address": address} for address in ("192.0.2.1", "2001:db8::1")]
    refused = api.apply(f"{path}/status", {**node, "status": {"addresses": two}}, "kubelet")
    assert refused.code == 500
    assert 'status.addresses: duplicate entries for key [type="InternalIP"]' in refused.body["message"]
    changed = api.merge(f"{path}/status", {"status": {"addresses": two}})
    assert (changed.code, changed.body["status"]["addresses"]) == (200, two)
    shorter = api.replace(f"{path}/status", {**changed.body, "status": {"addresses": two[1:]}})
    assert (shorter.code, shorter.body["status"]["addresses"]) == (200, two[1:])
    twice = api.merge(f"{path}/status", {"status": {"addresses": [*two, two[0]]}})
    assert (twice.code, twice.causes) == (422, {("FieldValueDuplicate", "status.addresses[2]")})
    api.delete(path)
