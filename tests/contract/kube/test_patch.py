"""Merge patch, JSON patch, strategic merge patch."""

from __future__ import annotations

import pytest

from tests.contract.kube.client import Client, Json
from tests.contract.kube.samples import Gates, Namespace, config_map, pod


def deployment(name: str) -> Json:
    containers = [
        {"name": "a", "image": "i:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
        {"name": "b", "image": "i:1"},
    ]
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def test_merge_patch_sets_and_removes(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("configmaps"), config_map("a", {"k": "1", "gone": "x"}))
    patched = api.merge(namespace.core("configmaps", "a"), {"data": {"gone": None, "new": "2"}})
    assert patched.code == 200
    assert patched.body["data"] == {"k": "1", "new": "2"}


def test_merge_patch_replaces_lists(api: Client, gates: Gates) -> None:
    api.create(gates.path(), gates.gate("a", {"name": "abc", "keyed": [{"name": "x"}, {"name": "y"}]}))
    patched = api.merge(gates.path("a"), {"spec": {"keyed": [{"name": "z", "value": "1"}]}})
    assert patched.body["spec"]["keyed"] == [{"name": "z", "value": "1"}]


def test_merge_patch_with_an_old_version_is_a_conflict(api: Client, namespace: Namespace) -> None:
    made = api.create(namespace.core("configmaps"), config_map("a")).meta
    api.merge(namespace.core("configmaps", "a"), {"data": {"k": "1"}})
    patch = {"metadata": {"resourceVersion": made["resourceVersion"]}, "data": {"k": "2"}}
    assert api.merge(namespace.core("configmaps", "a"), patch).code == 409


def test_merge_patch_of_nothing_is_not_found(api: Client, namespace: Namespace) -> None:
    assert api.merge(namespace.core("configmaps", "a"), {"data": {}}).code == 404


def test_json_patch_does_its_operations_in_order(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("configmaps"), config_map("a", {"k": "1", "m": "2"}, annotations={"x/y": "z"}))
    operations = [
        {"op": "test", "path": "/data/k", "value": "1"},
        {"op": "replace", "path": "/data/k", "value": "3"},
        {"op": "add", "path": "/data/n", "value": "4"},
        {"op": "remove", "path": "/data/m"},
        {"op": "copy", "from": "/data/n", "path": "/data/o"},
        {"op": "move", "from": "/data/o", "path": "/data/p"},
        {"op": "remove", "path": "/metadata/annotations/x~1y"},
    ]
    patched = api.json_patch(namespace.core("configmaps", "a"), operations)
    assert patched.code == 200, patched.body
    assert patched.body["data"] == {"k": "3", "n": "4", "p": "4"}
    assert "annotations" not in patched.meta


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/data/k", "value": "other"},
        {"op": "remove", "path": "/data/missing"},
        {"op": "add", "path": "/missing/at/all", "value": "x"},
    ],
)
def test_json_patch_that_does_not_fit_is_unprocessable(api: Client, namespace: Namespace, operation: Json) -> None:
    api.create(namespace.core("configmaps"), config_map("a", {"k": "1"}))
    refused = api.json_patch(namespace.core("configmaps", "a"), [operation])
    assert (refused.code, refused.reason) == (422, "Invalid")
    assert api.get(namespace.core("configmaps", "a")).body["data"] == {"k": "1"}


def test_json_patch_replaces_a_missing_field_as_if_it_added_it(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("configmaps"), config_map("a", {"k": "1"}))
    patched = api.json_patch(namespace.core("configmaps", "a"), [{"op": "replace", "path": "/data/new", "value": "x"}])
    assert patched.body["data"] == {"k": "1", "new": "x"}


def test_json_patch_must_be_a_list(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("configmaps"), config_map("a"))
    assert api.json_patch(namespace.core("configmaps", "a"), {"op": "add"}).code == 400


def test_json_patch_appends_to_a_list(api: Client, gates: Gates) -> None:
    api.create(gates.path(), gates.gate("a", {"name": "abc", "list": ["x"]}))
    patched = api.json_patch(gates.path("a"), [{"op": "add", "path": "/spec/list/-", "value": "y"}])
    assert patched.body["spec"]["list"] == ["x", "y"]


def test_strategic_patch_merges_lists_by_key(api: Client, namespace: Namespace) -> None:
    path = namespace.of("apps/v1", "deployments", "d")
    api.create(namespace.of("apps/v1", "deployments"), deployment("d"))
    container = {"name": "a", "image": "i:2", "env": [{"name": "C", "value": "3"}]}
    patched = api.strategic(path, {"spec": {"template": {"spec": {"containers": [container]}}}})
    first, second = patched.body["spec"]["template"]["spec"]["containers"]
    assert (first["name"], first["image"]) == ("a", "i:2")
    assert {one["name"] for one in first["env"]} == {"A", "B", "C"}
    assert second["name"] == "b"


def test_strategic_patch_deletes_items_and_keeps_the_order_asked_for(api: Client, namespace: Namespace) -> None:
    path = namespace.of("apps/v1", "deployments", "d")
    api.create(namespace.of("apps/v1", "deployments"), deployment("d"))
    env = {
        "$setElementOrder/env": [{"name": "C"}, {"name": "A"}],
        "env": [{"name": "B", "$patch": "delete"}, {"name": "C", "value": "3"}],
    }
    patched = api.strategic(path, {"spec": {"template": {"spec": {"containers": [{"name": "a", **env}]}}}})
    container = patched.body["spec"]["template"]["spec"]["containers"][0]
    assert [one["name"] for one in container["env"]] == ["C", "A"]


def test_strategic_patch_of_conditions_merges_by_type(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("pods"), pod("a"))
    path = namespace.core("pods", "a", "status")
    api.strategic(path, {"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
    patched = api.strategic(path, {"status": {"conditions": [{"type": "Initialized", "status": "True"}]}})
    found = {one["type"]: one["status"] for one in patched.body["status"]["conditions"]}
    assert found == {"Ready": "False", "Initialized": "True"}


def test_scale_changes_the_replicas(api: Client, namespace: Namespace) -> None:
    path = namespace.of("apps/v1", "deployments", "d")
    api.create(namespace.of("apps/v1", "deployments"), deployment("d"))
    assert api.get(path + "/scale").body["spec"] == {"replicas": 1}
    assert api.merge(path + "/scale", {"spec": {"replicas": 4}}).body["spec"] == {"replicas": 4}
    changed = api.get(path).body
    assert (changed["spec"]["replicas"], changed["metadata"]["generation"]) == (4, 2)
