"""Deletes: at once, gracefully, with finalizers, with preconditions, in bulk; namespaces."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from tests.contract.kube.client import Client
from tests.contract.kube.samples import Gates, Namespace, config_map, pod


def test_delete_answers_with_what_is_gone(api: Client, namespace: Namespace) -> None:
    uid = api.create(namespace.core("configmaps"), config_map("a")).meta["uid"]
    gone = api.delete(namespace.core("configmaps", "a"))
    assert (gone.code, gone.body["status"]) == (200, "Success")
    assert gone.body["details"] == {"name": "a", "kind": "configmaps", "uid": uid}
    again = api.delete(namespace.core("configmaps", "a"))
    assert (again.code, again.reason) == (404, "NotFound")


def test_preconditions(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps", "a")
    meta = api.create(namespace.core("configmaps"), config_map("a")).meta
    for wrong in ({"uid": "another"}, {"resourceVersion": "1"}):
        refused = api.delete(path, {"preconditions": wrong})
        assert (refused.code, refused.reason) == (409, "Conflict")
    right = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
    assert api.delete(path, {"preconditions": right}).code == 200


def test_a_finalizer_keeps_the_object_until_it_is_taken_away(api: Client, gates: Gates) -> None:
    path = gates.path("a")
    api.create(gates.path(), gates.gate("a", finalizers=["example.test/one"]))
    going = api.delete(path)
    assert going.code == 200
    assert going.meta["deletionTimestamp"]
    assert going.meta["deletionGracePeriodSeconds"] == 0
    assert going.meta["generation"] == 2
    assert api.merge(path, {"spec": {"size": 4}}).code == 200
    refused = api.merge(path, {"metadata": {"finalizers": ["example.test/one", "example.test/two"]}})
    assert (refused.code, refused.causes) == (422, {("FieldValueForbidden", "metadata.finalizers")})
    last = api.merge(path, {"metadata": {"finalizers": None}})
    assert last.code == 200
    assert api.get(path).code == 404


def test_finalizers_of_two_appliers_are_a_set(api: Client, gates: Gates) -> None:
    api.apply(gates.path("a"), gates.gate("a", finalizers=["example.test/one"]), "one")
    both = api.apply(gates.path("a"), gates.gate("a", finalizers=["example.test/two"]), "two").body
    assert sorted(both["metadata"]["finalizers"]) == ["example.test/one", "example.test/two"]
    left = api.apply(gates.path("a"), gates.gate("a"), "one").body
    assert left["metadata"]["finalizers"] == ["example.test/two"]
    api.apply(gates.path("a"), gates.gate("a"), "two")


def test_a_pod_on_a_node_goes_when_its_kubelet_says_so(api: Client, namespace: Namespace) -> None:
    path = namespace.core("pods", "a")
    uid = api.create(namespace.core("pods"), pod("a", node="n1")).meta["uid"]
    going = api.delete(path)
    assert going.code == 200
    assert going.meta["deletionGracePeriodSeconds"] == 30
    assert api.get(path).meta["deletionTimestamp"]
    shorter = api.delete(path, gracePeriodSeconds=5)
    assert shorter.meta["deletionGracePeriodSeconds"] == 5
    refused = api.delete(path, {"gracePeriodSeconds": 0, "preconditions": {"uid": "another"}})
    assert refused.code == 409
    assert api.delete(path, {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}).code == 200
    assert api.get(path).code == 404


def test_a_pod_without_a_node_goes_at_once(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("pods"), pod("a"))
    assert api.delete(namespace.core("pods", "a")).code == 200
    assert api.get(namespace.core("pods", "a")).code == 404


@pytest.mark.parametrize(
    ("node", "graces_s", "told"),
    [
        ("", [None], [("MODIFIED", 0), ("DELETED", 0)]),
        ("n1", [0], [("MODIFIED", 0), ("DELETED", 0)]),
        ("n1", [None, 5, 9, 0], [("MODIFIED", 30), ("MODIFIED", 5), ("MODIFIED", 0), ("DELETED", 0)]),
    ],
)
def test_a_pod_is_marked_before_it_is_gone(
    api: Client, namespace: Namespace, node: str, graces_s: list[int | None], told: list[tuple[str, int]]
) -> None:
    """And its time counts from when its end was first asked for."""
    made = api.create(namespace.core("pods"), pod("a", node=node)).meta
    with api.watch(namespace.core("pods"), resourceVersion=made["resourceVersion"]) as watch:
        for grace_s in graces_s:
            api.delete(namespace.core("pods", "a"), None if grace_s is None else {"gracePeriodSeconds": grace_s})
        events = [watch.next() for _ in told]
    metas = [(event["type"], event["object"]["metadata"]) for event in events if event]
    assert [(kind, meta["deletionGracePeriodSeconds"]) for kind, meta in metas] == told
    assert {meta["generation"] for _, meta in metas} == {made["generation"] + 1}
    asked = {
        datetime.fromisoformat(meta["deletionTimestamp"]) - timedelta(seconds=meta["deletionGracePeriodSeconds"])
        for _, meta in metas
    }
    assert len(asked) == 1


def test_a_pod_with_its_own_grace_period(api: Client, namespace: Namespace) -> None:
    body = pod("a", node="n1")
    body["spec"]["terminationGracePeriodSeconds"] = 2
    api.create(namespace.core("pods"), body)
    assert api.delete(namespace.core("pods", "a")).meta["deletionGracePeriodSeconds"] == 2
    api.delete(namespace.core("pods", "a"), gracePeriodSeconds=0)


def test_a_collection_is_deleted_by_selector(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps")
    for name, labels in (("a", {"l": "v"}), ("b", {"l": "v"}), ("c", {})):
        api.create(path, config_map(name, labels=labels))
    answer = api.delete(path, labelSelector="l=v")
    assert answer.code == 200
    left = [item["metadata"]["name"] for item in api.get(path).body["items"]]
    assert "a" not in left
    assert "b" not in left
    assert "c" in left


def test_bad_delete_options(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("configmaps"), config_map("a"))
    refused = api.delete(namespace.core("configmaps", "a"), propagationPolicy="Sideways")
    assert refused.code == 422
    assert api.request("DELETE", namespace.core("configmaps", "a"), raw=b"{nope").code == 400
    assert api.get(namespace.core("configmaps", "a")).code == 200


def test_a_namespace_goes_with_what_is_in_it(api: Client) -> None:
    made = api.create(
        "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "gone-"}}
    )
    name = made.meta["name"]
    assert made.body["status"] == {"phase": "Active"}
    assert made.meta["labels"] == {"kubernetes.io/metadata.name": name}
    inside = Namespace(name)
    keeper = config_map("kept", finalizers=["example.test/one"])
    api.create(inside.core("configmaps"), keeper)
    api.create(inside.core("secrets"), {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})
    going = api.delete(f"/api/v1/namespaces/{name}")
    assert going.code == 200
    assert going.body["status"]["phase"] == "Terminating"
    late = api.create(inside.core("configmaps"), config_map("late"))
    assert (late.code, late.reason) == (403, "Forbidden")
    assert "because it is being terminated" in late.body["message"]
    api.wait_gone(inside.core("secrets", "s"))
    api.wait_for(inside.core("configmaps", "kept"), lambda obj: obj["metadata"].get("deletionTimestamp"))
    assert api.get(f"/api/v1/namespaces/{name}").code == 200
    api.merge(inside.core("configmaps", "kept"), {"metadata": {"finalizers": None}})
    api.wait_gone(f"/api/v1/namespaces/{name}")


def test_a_namespace_with_a_finalizer_of_its_own_goes_without_it(api: Client) -> None:
    meta = {"generateName": "kept-", "finalizers": ["example.test/one"]}
    made = api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    name = made.meta["name"]
    inside = Namespace(name)
    api.create(inside.core("secrets"), {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})
    api.delete(f"/api/v1/namespaces/{name}")
    emptied = api.wait_for(f"/api/v1/namespaces/{name}", lambda obj: not (obj.get("spec") or {}).get("finalizers"))
    assert emptied["metadata"]["finalizers"] == ["example.test/one"]
    assert api.get(inside.core("secrets", "s")).code == 404
    assert api.merge(f"/api/v1/namespaces/{name}", {"metadata": {"finalizers": None}}).code == 200
    api.wait_gone(f"/api/v1/namespaces/{name}")
