"""Garbage collection: what an object owns goes with it, after it, before it, or stays."""

from __future__ import annotations

import pytest

from tests.contract.kube.client import Client, Json
from tests.contract.kube.samples import Namespace, config_map


def owned_by(owner: Json, *, block: bool = False) -> Json:
    meta = owner["metadata"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": meta["name"], "uid": meta["uid"]}
    return {**reference, "blockOwnerDeletion": True} if block else reference


def make(api: Client, namespace: Namespace, name: str, *owners: Json) -> Json:
    made = api.create(namespace.core("configmaps"), config_map(name, ownerReferences=list(owners)))
    assert made.code == 201, made.body
    body: Json = made.body
    return body


@pytest.mark.parametrize("query", [{}, {"propagationPolicy": "Background"}, {"orphanDependents": "false"}])
def test_dependents_go_after_their_owner(api: Client, namespace: Namespace, query: dict[str, str]) -> None:
    owner = make(api, namespace, "owner")
    child = make(api, namespace, "child", owned_by(owner))
    make(api, namespace, "grandchild", owned_by(child))
    assert api.delete(namespace.core("configmaps", "owner"), **query).code == 200
    assert api.get(namespace.core("configmaps", "owner")).code == 404
    api.wait_gone(namespace.core("configmaps", "child"))
    api.wait_gone(namespace.core("configmaps", "grandchild"))


def test_an_object_with_another_owner_stays_and_loses_one(api: Client, namespace: Namespace) -> None:
    one, two = make(api, namespace, "one"), make(api, namespace, "two")
    make(api, namespace, "child", owned_by(one), owned_by(two))
    api.delete(namespace.core("configmaps", "one"), propagationPolicy="Background")
    left = api.wait_for(namespace.core("configmaps", "child"), lambda obj: len(obj["metadata"]["ownerReferences"]) == 1)
    assert left["metadata"]["ownerReferences"][0]["name"] == "two"


def test_orphans_stay_without_their_owner(api: Client, namespace: Namespace) -> None:
    owner = make(api, namespace, "owner")
    make(api, namespace, "child", owned_by(owner))
    api.delete(namespace.core("configmaps", "owner"), propagationPolicy="Orphan")
    api.wait_gone(namespace.core("configmaps", "owner"))
    assert "ownerReferences" not in api.get(namespace.core("configmaps", "child")).meta


def test_in_the_foreground_dependents_go_first(api: Client, namespace: Namespace) -> None:
    owner = make(api, namespace, "owner")
    path = namespace.core("configmaps", "child")
    made = api.create(
        namespace.core("configmaps"),
        config_map("child", ownerReferences=[owned_by(owner, block=True)], finalizers=["example.test/one"]),
    )
    assert made.code == 201
    going = api.delete(namespace.core("configmaps", "owner"), propagationPolicy="Foreground")
    assert going.meta["finalizers"] == ["foregroundDeletion"]
    api.wait_for(path, lambda obj: obj["metadata"].get("deletionTimestamp"))
    assert api.get(namespace.core("configmaps", "owner")).code == 200
    api.merge(path, {"metadata": {"finalizers": None}})
    api.wait_gone(namespace.core("configmaps", "owner"))


def test_an_owner_that_never_was_takes_the_object_along(api: Client, namespace: Namespace) -> None:
    nobody = {"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": "00000000-0000-4000-8000-000000000000"}
    make(api, namespace, "child", nobody)
    api.wait_gone(namespace.core("configmaps", "child"))
