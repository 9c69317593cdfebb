"""Creating, reading, replacing objects; what the server refuses about them."""

from __future__ import annotations

import re

import pytest

from tests.contract.kube.client import Client
from tests.contract.kube.samples import Gates, Namespace, config_map, pod


def test_create_fills_in_what_identifies_the_object(api: Client, namespace: Namespace) -> None:
    made = api.create(namespace.core("configmaps"), config_map("a", {"k": "v"}))
    assert made.code == 201
    meta = made.meta
    assert (meta["name"], meta["namespace"]) == ("a", namespace.name)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", meta["uid"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", meta["creationTimestamp"])
    assert int(meta["resourceVersion"]) > 0
    assert api.get(namespace.core("configmaps", "a")).body == made.body


def test_generate_name_adds_five_letters(api: Client, namespace: Namespace) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "some-"}}
    names = {api.create(namespace.core("configmaps"), body).meta["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(re.fullmatch(r"some-[a-z0-9]{5}", name) for name in names)


def test_create_twice_is_already_exists(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("configmaps"), config_map("a"))
    again = api.create(namespace.core("configmaps"), config_map("a"))
    assert (again.code, again.reason) == (409, "AlreadyExists")
    assert again.body["message"] == 'configmaps "a" already exists'
    assert again.body["details"] == {"name": "a", "kind": "configmaps"}


def test_missing_object_is_not_found(api: Client, namespace: Namespace) -> None:
    missing = api.get(namespace.of("apps/v1", "deployments", "no"))
    assert (missing.code, missing.reason) == (404, "NotFound")
    assert missing.body["message"] == 'deployments.apps "no" not found'
    assert missing.body["details"] == {"name": "no", "group": "apps", "kind": "deployments"}


def test_create_in_a_missing_namespace_is_404_and_a_list_is_empty(api: Client) -> None:
    path = "/api/v1/namespaces/there-is-none/configmaps"
    made = api.create(path, config_map("a"))
    assert (made.code, made.body["message"]) == (404, 'namespaces "there-is-none" not found')
    assert api.get(path).body["items"] == []


def test_start_namespaces_are_there(api: Client) -> None:
    names = {one["metadata"]["name"] for one in api.get("/api/v1/namespaces").body["items"]}
    assert {"default", "kube-system"} <= names


@pytest.mark.parametrize(
    ("metadata", "field", "reason"),
    [
        ({}, "metadata.name", "FieldValueRequired"),
        ({"name": "A_b"}, "metadata.name", "FieldValueInvalid"),
        ({"name": "a" * 254}, "metadata.name", "FieldValueInvalid"),
        ({"name": "a", "labels": {"k": "a b"}}, "metadata.labels", "FieldValueInvalid"),
        ({"name": "a", "labels": {"a b": "v"}}, "metadata.labels", "FieldValueInvalid"),
        ({"name": "a", "annotations": {"a b": "v"}}, "metadata.annotations", "FieldValueInvalid"),
        ({"name": "a", "finalizers": ["nobody"]}, "metadata.finalizers[0]", "FieldValueInvalid"),
    ],
)
def test_bad_metadata_is_invalid(
    api: Client, namespace: Namespace, metadata: dict[str, object], field: str, reason: str
) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    refused = api.create(namespace.core("configmaps"), body)
    assert (refused.code, refused.reason) == (422, "Invalid")
    assert (reason, field) in refused.causes


@pytest.mark.parametrize("field", ["apiVersion", "kind", "name", "uid"])
@pytest.mark.parametrize("empty", [False, True])
def test_an_owner_reference_is_whole(api: Client, namespace: Namespace, field: str, *, empty: bool) -> None:
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "1", field: ""}
    if not empty:
        del reference[field]
    refused = api.create(namespace.core("configmaps"), config_map("a", ownerReferences=[reference]))
    assert (refused.code, refused.causes) == (422, {("FieldValueRequired", f"metadata.ownerReferences[0].{field}")})


def test_an_event_owns_nothing(api: Client, namespace: Namespace) -> None:
    reference = {"apiVersion": "v1", "kind": "Event", "name": "owner", "uid": "1"}
    refused = api.create(namespace.core("configmaps"), config_map("a", ownerReferences=[reference]))
    assert refused.causes == {("FieldValueInvalid", "metadata.ownerReferences[0]")}


def test_annotations_are_256_kib_at_most(api: Client, namespace: Namespace) -> None:
    most = {"a": "x" * 1000, "k": "x" * (256 * 1024 - 1002)}
    assert api.create(namespace.core("configmaps"), config_map("a", annotations=most)).code == 201
    more = {**most, "k": most["k"] + "x"}
    refused = api.create(namespace.core("configmaps"), config_map("b", annotations=more))
    assert (refused.code, refused.causes) == (422, {("FieldValueTooLong", "metadata.annotations")})


def test_replace_with_the_current_version(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps", "a")
    made = api.create(namespace.core("configmaps"), config_map("a", {"k": "1"})).body
    replaced = api.replace(path, {**made, "data": {"k": "2"}})
    assert replaced.code == 200
    assert replaced.body["data"] == {"k": "2"}
    assert int(replaced.meta["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    assert replaced.meta["uid"] == made["metadata"]["uid"]


def test_replace_with_an_old_version_is_a_conflict(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps", "a")
    made = api.create(namespace.core("configmaps"), config_map("a", {"k": "1"})).body
    api.merge(path, {"data": {"k": "2"}})
    refused = api.replace(path, {**made, "data": {"k": "3"}})
    assert (refused.code, refused.reason) == (409, "Conflict")
    assert refused.body["message"] == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest '
        "version and try again"
    )
    assert api.get(path).body["data"] == {"k": "2"}


def test_replace_without_a_version_wins_on_built_in_kinds_only(api: Client, namespace: Namespace, gates: Gates) -> None:
    api.create(namespace.core("configmaps"), config_map("a", {"k": "1"}))
    assert api.replace(namespace.core("configmaps", "a"), config_map("a", {"k": "2"})).code == 200
    api.create(gates.path(), gates.gate("a"))
    refused = api.replace(gates.path("a"), gates.gate("a"))
    assert refused.code == 422
    assert ("FieldValueInvalid", "metadata.resourceVersion") in refused.causes


def test_replace_of_nothing(api: Client, namespace: Namespace) -> None:
    assert api.replace(namespace.core("configmaps", "a"), config_map("a")).code == 404
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {}}
    assert api.replace(namespace.of("coordination.k8s.io/v1", "leases", "l"), lease).code == 201


def test_replace_with_another_uid_is_a_conflict(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("configmaps"), config_map("a"))
    refused = api.replace(namespace.core("configmaps", "a"), config_map("a", uid="somebody-else"))
    assert (refused.code, refused.reason) == (409, "Conflict")
    assert "Precondition failed: UID in precondition: somebody-else" in refused.body["message"]


def test_a_patch_with_another_uid_is_invalid(api: Client, namespace: Namespace, gates: Gates) -> None:
    api.create(namespace.core("configmaps"), config_map("a"))
    api.create(gates.path(), gates.gate("a"))
    meta = {"name": "a", "uid": "somebody-else"}
    for path, body in (
        (namespace.core("configmaps", "a"), {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}),
        (gates.path("a"), {"apiVersion": f"{gates.group}/v1", "kind": "Gate", "metadata": meta}),
    ):
        for refused in (api.merge(path, {"metadata": {"uid": "somebody-else"}}), api.apply(path, body, "one")):
            assert (refused.code, refused.causes) == (422, {("FieldValueInvalid", "metadata.uid")})
    # The status of a custom kind does not look at anything but the status.
    changed = api.merge(gates.path("a", "status"), {"metadata": {"uid": "somebody-else"}, "status": {"n": 1}})
    assert (changed.code, changed.body["status"]) == (200, {"n": 1})
    assert changed.meta["uid"] != "somebody-else"


def test_an_apply_with_a_uid_makes_no_new_object(api: Client, namespace: Namespace) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "uid": "somebody-else"}}
    refused = api.apply(namespace.core("configmaps", "a"), body, "one")
    assert (refused.code, refused.reason) == (409, "Conflict")
    assert "no existing object was found" in refused.body["message"]


def test_an_update_that_changes_nothing_keeps_the_version(api: Client, namespace: Namespace) -> None:
    made = api.create(namespace.core("configmaps"), config_map("a", {"k": "1"})).body
    again = api.replace(namespace.core("configmaps", "a"), made).body
    assert again == made
    assert api.merge(namespace.core("configmaps", "a"), {"data": {"k": "1"}}).body == made


def test_identity_and_times_cannot_be_written(api: Client, namespace: Namespace) -> None:
    made = api.create(namespace.core("configmaps"), config_map("a")).meta
    patch = {"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 9, "labels": {"l": "v"}}}
    changed = api.merge(namespace.core("configmaps", "a"), patch)
    assert changed.code == 200
    assert changed.meta["creationTimestamp"] == made["creationTimestamp"]


def test_a_name_cannot_be_patched(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("configmaps"), config_map("a"))
    assert api.merge(namespace.core("configmaps", "a"), {"metadata": {"name": "b"}}).code in (400, 422)


def test_dry_run_stores_nothing(api: Client, namespace: Namespace) -> None:
    tried = api.create(namespace.core("configmaps"), config_map("a"), dryRun="All")
    assert tried.code == 201
    assert tried.meta["uid"]
    assert api.get(namespace.core("configmaps", "a")).code == 404
    api.create(namespace.core("configmaps"), config_map("a", {"k": "1"}))
    api.merge(namespace.core("configmaps", "a"), {"data": {"k": "2"}}, dryRun="All")
    api.delete(namespace.core("configmaps", "a"), dryRun="All")
    assert api.get(namespace.core("configmaps", "a")).body["data"] == {"k": "1"}


def test_generation_counts_changes_of_the_spec(api: Client, gates: Gates) -> None:
    assert api.create(gates.path(), gates.gate("a")).meta["generation"] == 1
    assert api.merge(gates.path("a"), {"metadata": {"labels": {"l": "v"}}}).meta["generation"] == 1
    assert api.merge(gates.path("a", "status"), {"status": {"n": 1}}).meta["generation"] == 1
    assert api.merge(gates.path("a"), {"spec": {"size": 4}}).meta["generation"] == 2


def test_a_pod_is_given_its_defaults(api: Client, namespace: Namespace) -> None:
    made = api.create(namespace.core("pods"), pod("a")).body
    spec, container = made["spec"], made["spec"]["containers"][0]
    assert (spec["restartPolicy"], spec["dnsPolicy"], spec["terminationGracePeriodSeconds"]) == (
        "Always",
        "ClusterFirst",
        30,
    )
    assert container["imagePullPolicy"] == "Always"
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert made["metadata"]["generation"] == 1
