"""Garbage collection: what an object owns goes with it, after it, before it, or stays."""

from __future__ import annotations

import pytest

from tests.contract.kube.client import Client, Json
from tests.contract.kube.samples import Gates, Namespace, config_map


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


def held(api: Client, namespace: Namespace, *owners: Json) -> str:
    """Makes a child that a finalizer keeps for as long as it is to be deleted; gives its path."""
    body = config_map("child", ownerReferences=list(owners), finalizers=["example.test/one"])
    assert api.create(namespace.core("configmaps"), body).code == 201
    return namespace.core("configmaps", "child")


def test_in_the_foreground_a_dependent_with_another_owner_stays_and_loses_one(
    api: Client, namespace: Namespace
) -> None:
    one, two = make(api, namespace, "one"), make(api, namespace, "two")
    make(api, namespace, "child", owned_by(one, block=True), owned_by(two))
    api.delete(namespace.core("configmaps", "one"), propagationPolicy="Foreground")
    api.wait_gone(namespace.core("configmaps", "one"))
    left = api.get(namespace.core("configmaps", "child")).meta
    assert [reference["name"] for reference in left["ownerReferences"]] == ["two"]
    assert "deletionTimestamp" not in left


@pytest.mark.parametrize("block", [None, False])
def test_a_dependent_that_blocks_no_more_lets_its_owner_go(
    api: Client, namespace: Namespace, block: bool | None
) -> None:
    owner = make(api, namespace, "owner")
    path = held(api, namespace, owned_by(owner, block=True))
    api.delete(namespace.core("configmaps", "owner"), propagationPolicy="Foreground")
    api.wait_for(path, lambda obj: obj["metadata"].get("deletionTimestamp"))
    assert api.get(namespace.core("configmaps", "owner")).code == 200
    references = None if block is None else [{**owned_by(owner), "blockOwnerDeletion": block}]
    assert api.merge(path, {"metadata": {"ownerReferences": references}}).code == 200
    api.wait_gone(namespace.core("configmaps", "owner"))
    assert api.merge(path, {"metadata": {"finalizers": None}}).code == 200


def test_a_second_delete_in_the_background_does_not_wait_any_more(api: Client, namespace: Namespace) -> None:
    owner = make(api, namespace, "owner")
    path = held(api, namespace, owned_by(owner, block=True))
    api.delete(namespace.core("configmaps", "owner"), propagationPolicy="Foreground")
    api.wait_for(path, lambda obj: obj["metadata"].get("deletionTimestamp"))
    again = api.delete(namespace.core("configmaps", "owner"), propagationPolicy="Background")
    assert (again.code, again.body.get("status")) == (200, "Success")
    assert api.get(namespace.core("configmaps", "owner")).code == 404
    assert api.merge(path, {"metadata": {"finalizers": None}}).code == 200


@pytest.mark.parametrize("wrong", [{"kind": "Secret"}, {"name": "other"}])
def test_an_owner_is_of_the_kind_and_the_name_that_the_reference_says(
    api: Client, namespace: Namespace, wrong: Json
) -> None:
    owner = make(api, namespace, "owner")
    make(api, namespace, "child", {**owned_by(owner), **wrong})
    api.wait_gone(namespace.core("configmaps", "child"))
    assert api.get(namespace.core("configmaps", "owner")).code == 200


@pytest.mark.parametrize("wrong", [{"apiVersion": "v2"}, {"kind": "Nothing"}, {"apiVersion": "nobody.test/v1"}])
def test_an_owner_of_a_kind_that_nobody_knows_is_not_taken_for_gone(
    api: Client, namespace: Namespace, wrong: Json
) -> None:
    owner = make(api, namespace, "owner")
    make(api, namespace, "child", {**owned_by(owner), **wrong})
    make(api, namespace, "sign", {**owned_by(owner), "name": "other"})
    api.wait_gone(namespace.core("configmaps", "sign"))
    api.delete(namespace.core("configmaps", "owner"))
    make(api, namespace, "sign", {**owned_by(owner), "name": "other"})
    api.wait_gone(namespace.core("configmaps", "sign"))
    assert "deletionTimestamp" not in api.get(namespace.core("configmaps", "child")).meta


def test_dependents_go_with_the_kind_of_their_owner(api: Client, namespace: Namespace, gates: Gates) -> None:
    if not api.server.imitated:
        pytest.skip("the real garbage collector may take half a minute to learn of a kind")
    owner = api.create(gates.path(), gates.gate("owner")).body
    reference = {"apiVersion": owner["apiVersion"], "kind": "Gate", "name": "owner", "uid": owner["metadata"]["uid"]}
    assert api.create(namespace.core("configmaps"), config_map("child", ownerReferences=[reference])).code == 201
    api.delete(gates.crd_path)
    api.wait_gone(namespace.core("configmaps", "child"))
