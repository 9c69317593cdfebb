"""Server-side apply: ownership, conflicts, removal, lists by key."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.kube.client import Client, Json
from tests.contract.kube.samples import Gates, Namespace, config_map, pod


def owners(obj: Json) -> dict[tuple[str, str, str], Any]:
    """(manager, operation, subresource) -> its fields."""
    return {
        (entry["manager"], entry["operation"], entry.get("subresource", "")): entry["fieldsV1"]
        for entry in obj["metadata"].get("managedFields") or []
    }


def test_apply_creates_and_owns_what_it_gives(api: Client, gates: Gates) -> None:
    spec = {"name": "abc", "keyed": [{"name": "x"}], "set": ["a"], "atom": {"a": "1"}, "free": {"k": {"v": 1}}}
    made = api.apply(gates.path("a"), gates.gate("a", spec, labels={"l": "v"}), "one")
    assert made.code == 201
    assert made.body["spec"] | {"size": 3, "mode": "A"} == made.body["spec"]
    assert owners(made.body) == {
        ("one", "Apply", ""): {
            "f:metadata": {"f:labels": {"f:l": {}}},
            "f:spec": {
                "f:name": {},
                "f:keyed": {'k:{"name":"x"}': {".": {}, "f:name": {}}},
                "f:set": {'v:"a"': {}},
                "f:atom": {},
                "f:free": {"f:k": {".": {}, "f:v": {}}},
            },
        }
    }


def test_apply_needs_a_manager_and_a_kind(api: Client, gates: Gates) -> None:
    nobody = api.request("PATCH", gates.path("a"), gates.gate("a"), media="application/apply-patch+yaml")
    assert (nobody.code, nobody.causes) == (422, {("FieldValueRequired", "fieldManager")})
    assert api.apply(gates.path("a"), {"metadata": {"name": "a"}, "spec": {}}, "one").code == 400


def test_force_is_for_apply_only(api: Client, gates: Gates) -> None:
    api.create(gates.path(), gates.gate("a"))
    refused = api.merge(gates.path("a"), {"spec": {"size": 2}}, force="true")
    assert (refused.code, refused.causes) == (422, {("FieldValueForbidden", "force")})


def test_apply_again_with_the_same_changes_nothing(api: Client, gates: Gates) -> None:
    made = api.apply(gates.path("a"), gates.gate("a"), "one")
    again = api.apply(gates.path("a"), gates.gate("a"), "one")
    assert again.code == 200
    assert again.body == made.body


def test_what_is_no_longer_given_is_removed(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps", "a")
    api.apply(path, config_map("a", {"k": "1", "m": "2"}, labels={"l": "v"}), "one")
    left = api.apply(path, config_map("a", {"k": "1"}), "one").body
    assert left["data"] == {"k": "1"}
    assert "labels" not in left["metadata"]


def test_what_another_manager_gives_too_stays(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps", "a")
    api.apply(path, config_map("a", {"k": "1", "m": "2"}), "one")
    assert api.apply(path, config_map("a", {"m": "2"}), "two").code == 200
    assert api.apply(path, config_map("a", {"k": "1"}), "one").body["data"] == {"k": "1", "m": "2"}
    assert api.apply(path, config_map("a", {}), "two").body["data"] == {"k": "1"}


def test_changing_another_managers_field_is_a_conflict(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps", "a")
    api.apply(path, config_map("a", {"k": "1", "m": "1"}), "one")
    api.apply(path, config_map("a", {"n": "1"}), "other")
    refused = api.apply(path, config_map("a", {"k": "2", "m": "2"}), "two")
    assert (refused.code, refused.reason) == (409, "Conflict")
    assert refused.causes == {("FieldManagerConflict", ".data.k"), ("FieldManagerConflict", ".data.m")}
    assert refused.body["message"] == 'Apply failed with 2 conflicts: conflicts with "one":\n- .data.k\n- .data.m'
    assert api.get(path).body["data"]["k"] == "1"


def test_a_conflict_with_an_update_names_its_version(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps", "a")
    api.create(namespace.core("configmaps"), config_map("a", {"k": "1"}), fieldManager="maker")
    refused = api.apply(path, config_map("a", {"k": "2"}), "two")
    assert refused.body["message"] == 'Apply failed with 1 conflict: conflict with "maker" using v1: .data.k'


def test_force_takes_the_fields_over(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps", "a")
    api.apply(path, config_map("a", {"k": "1", "m": "1"}), "one")
    taken = api.apply(path, config_map("a", {"k": "2"}), "two", force=True)
    assert taken.body["data"] == {"k": "2", "m": "1"}
    assert owners(taken.body) == {
        ("one", "Apply", ""): {"f:data": {"f:m": {}}},
        ("two", "Apply", ""): {"f:data": {"f:k": {}}},
    }


def test_an_update_takes_fields_without_asking(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps", "a")
    api.apply(path, config_map("a", {"k": "1"}), "one")
    changed = api.merge(path, {"data": {"k": "2"}}, fieldManager="hand").body
    assert owners(changed)[("hand", "Update", "")] == {"f:data": {"f:k": {}}}
    assert api.apply(path, config_map("a", {"k": "1"}), "one").code == 409


def test_agreeing_on_a_value_shares_it(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps", "a")
    api.apply(path, config_map("a", {"k": "1"}), "one")
    shared = api.apply(path, config_map("a", {"k": "1"}), "two")
    assert shared.code == 200
    assert {manager for manager, _, _ in owners(shared.body)} == {"one", "two"}


def test_the_manager_of_an_update_is_the_user_agent(api: Client, namespace: Namespace) -> None:
    made = api.create(namespace.core("configmaps"), config_map("a", {"k": "1"})).body
    assert ("contract", "Update", "") in owners(made)


def test_lists_by_key_merge_item_by_item(api: Client, gates: Gates) -> None:
    api.apply(
        gates.path("a"), gates.gate("a", {"name": "abc", "keyed": [{"name": "x", "value": "1"}, {"name": "y"}]}), "one"
    )
    merged = api.apply(
        gates.path("a"), gates.gate("a", {"name": "abc", "keyed": [{"name": "z", "value": "3"}]}), "two"
    ).body
    found = {one["name"]: one["value"] for one in merged["spec"]["keyed"]}
    assert found == {"x": "1", "y": "dv", "z": "3"}
    less = api.apply(gates.path("a"), gates.gate("a", {"name": "abc", "keyed": [{"name": "y"}]}), "one").body
    assert {one["name"] for one in less["spec"]["keyed"]} == {"y", "z"}


def test_sets_merge_item_by_item(api: Client, gates: Gates) -> None:
    api.apply(gates.path("a"), gates.gate("a", {"name": "abc", "set": ["a", "b"]}), "one")
    api.apply(gates.path("a"), gates.gate("a", {"name": "abc", "set": ["b", "c"]}), "two")
    left = api.apply(gates.path("a"), gates.gate("a", {"name": "abc", "set": ["a"]}), "one").body
    assert sorted(left["spec"]["set"]) == ["a", "b", "c"]
    assert sorted(api.apply(gates.path("a"), gates.gate("a"), "two").body["spec"]["set"]) == ["a"]


def test_plain_lists_and_atomic_maps_are_one_field(api: Client, gates: Gates) -> None:
    api.apply(gates.path("a"), gates.gate("a", {"name": "abc", "list": ["q"], "atom": {"a": "1"}}), "one")
    refused = api.apply(gates.path("a"), gates.gate("a", {"name": "abc", "list": ["r"], "atom": {"b": "2"}}), "two")
    assert refused.causes == {("FieldManagerConflict", ".spec.list"), ("FieldManagerConflict", ".spec.atom")}


def test_a_list_item_without_its_key_is_refused(api: Client, gates: Gates) -> None:
    for keyed in ([{"value": "v"}], [{"name": "x"}, {"name": "x"}]):
        refused = api.apply(gates.path("a"), gates.gate("a", {"name": "abc", "keyed": keyed}), "one")
        assert refused.code == 500
        assert ".spec.keyed" in refused.body["message"]


def test_unknown_fields_are_refused(api: Client, gates: Gates) -> None:
    refused = api.apply(gates.path("a"), gates.gate("a", {"name": "abc", "bogus": 1}), "one")
    assert refused.code == 500
    assert ".spec.bogus: field not declared in schema" in refused.body["message"]


def test_a_structure_that_is_applied_empty_and_emptied_thereby_is_null(api: Client, gates: Gates) -> None:
    """Which a schema refuses: who gives nothing any more leaves the structure out."""
    api.create(gates.path(), gates.gate("a"))
    path = gates.path("a", "status")
    body = {"apiVersion": f"{gates.group}/v1", "kind": "Gate", "metadata": {"name": "a"}}
    assert api.apply(path, {**body, "status": {}}, "one").body["status"] == {}
    assert api.apply(path, {**body, "status": {"n": 1}}, "one").body["status"] == {"n": 1}
    refused = api.apply(path, {**body, "status": {}}, "one")
    assert (refused.code, refused.causes) == (422, {("FieldValueTypeInvalid", "status")})
    assert "status" not in api.apply(path, body, "one").body


@pytest.mark.parametrize(("field", "item"), [("keyed", {"name": "x"}), ("set", "a")])
def test_a_list_that_was_applied_empty_and_is_emptied_is_gone(
    api: Client, gates: Gates, field: str, item: object
) -> None:
    """It is null for a moment, as above, but nulls in a spec that are not allowed are left out."""
    for items in ([], [item]):
        assert api.apply(gates.path("a"), gates.gate("a", {"name": "abc", field: items}), "one").code in (200, 201)
    emptied = api.apply(gates.path("a"), gates.gate("a", {"name": "abc"}), "one")
    assert emptied.code == 200
    assert field not in emptied.body["spec"]


def test_conditions_of_several_controllers_live_side_by_side(api: Client, gates: Gates) -> None:
    api.create(gates.path(), gates.gate("a"))

    def condition(kind: str) -> Json:
        return {**gates.gate("a"), "status": {"conditions": [{"type": kind, "status": "True"}]}}

    api.apply(gates.path("a", "status"), condition("Ready"), "one")
    both = api.apply(gates.path("a", "status"), condition("Programmed"), "two").body
    assert {one["type"] for one in both["status"]["conditions"]} == {"Ready", "Programmed"}
    assert ("two", "Apply", "status") in owners(both)
    left = api.apply(gates.path("a", "status"), {**gates.gate("a"), "status": {}}, "one").body
    assert {one["type"] for one in left["status"]["conditions"]} == {"Programmed"}


def test_applying_a_status_leaves_the_spec_alone(api: Client, gates: Gates) -> None:
    api.create(gates.path(), gates.gate("a", {"name": "abc", "size": 5}))
    applied = api.apply(gates.path("a", "status"), {**gates.gate("a", {"name": "xyz"}), "status": {"n": 1}}, "one")
    assert applied.code == 200
    assert (applied.body["spec"]["name"], applied.body["status"]["n"]) == ("abc", 1)


def test_pod_conditions_and_annotations_by_apply_on_status(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("pods"), pod("a"))
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "annotations": {"example.test/at": "net1"}},
        "status": {"conditions": [{"type": "Attached", "status": "True"}]},
    }
    applied = api.apply(namespace.core("pods", "a", "status"), body, "networks").body
    assert applied["metadata"]["annotations"] == {"example.test/at": "net1"}
    assert applied["status"]["conditions"][0]["type"] == "Attached"
    assert applied["status"]["phase"] == "Pending"


def test_containers_of_two_managers(api: Client, namespace: Namespace) -> None:
    def deployment(*containers: Json) -> Json:
        template = {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": list(containers)}}
        spec = {"selector": {"matchLabels": {"app": "d"}}, "template": template}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}

    path = namespace.of("apps/v1", "deployments", "d")
    assert api.apply(path, deployment({"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}), "one").code == 201
    sidecar = {"name": "s", "image": "side:1"}
    merged = api.apply(path, deployment({"name": "a", "image": "i:1"}, sidecar), "two").body
    names = [one["name"] for one in merged["spec"]["template"]["spec"]["containers"]]
    assert sorted(names) == ["a", "b", "s"]
    left = api.apply(path, deployment({"name": "a", "image": "i:1"}), "one").body
    assert sorted(one["name"] for one in left["spec"]["template"]["spec"]["containers"]) == ["a", "s"]


def test_before_the_first_apply_nobody_owns_what_nobody_tracked(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps", "a")
    api.create(namespace.core("configmaps"), config_map("a", {"a": "1"}))
    assert "managedFields" not in api.merge(path, {"metadata": {"managedFields": [{}]}}).meta
    assert "managedFields" not in api.merge(path, {"data": {"b": "2"}}).meta
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    refused = api.apply(path, {**body, "data": {"a": "3"}}, "one")
    assert (refused.code, refused.causes) == (409, {("FieldManagerConflict", ".data.a")})
    assert 'conflict with "before-first-apply" using v1' in refused.body["message"]
    applied = api.apply(path, {**body, "data": {"c": "3"}}, "one").meta["managedFields"]
    owners = {one["manager"]: one["fieldsV1"] for one in applied}
    assert owners == {
        "one": {"f:data": {"f:c": {}}},
        "before-first-apply": {"f:data": {".": {}, "f:a": {}, "f:b": {}}},
    }


def test_apply_with_an_old_version_is_a_conflict(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps", "a")
    made = api.apply(path, config_map("a", {"k": "1"}), "one").meta
    api.merge(path, {"data": {"other": "1"}})
    stale = config_map("a", {"k": "2"}, resourceVersion=made["resourceVersion"])
    assert api.apply(path, stale, "one").code == 409


def test_apply_with_another_version_of_the_kind_is_the_same_manager(api: Client, gates: Gates) -> None:
    api.apply(gates.path("a"), gates.gate("a", {"name": "abc", "size": 5}), "one")
    left = api.apply(gates.path("a", version="v1beta1"), gates.gate("a", version="v1beta1"), "one").body
    assert left["spec"]["size"] == 3
    assert list(owners(left)) == [("one", "Apply", "")]
