"""Lists: selectors, pages, versions, forms."""

from __future__ import annotations

import pytest

from tests.contract.kube.client import TABLE, Answer, Client
from tests.contract.kube.samples import Gates, Namespace, config_map, pod


def names(answer: Answer) -> list[str]:
    return [item["metadata"]["name"] for item in answer.body["items"]]


def test_lists_are_sorted_and_carry_a_version(api: Client, namespace: Namespace) -> None:
    made = [api.create(namespace.core("configmaps"), config_map(name)) for name in ("c", "a", "b")]
    answer = api.get(namespace.core("configmaps"))
    assert names(answer) == ["a", "b", "c"]
    assert (answer.body["kind"], answer.body["apiVersion"]) == ("ConfigMapList", "v1")
    assert int(answer.meta["resourceVersion"]) >= int(made[-1].meta["resourceVersion"])


def test_items_of_built_in_kinds_do_not_say_what_they_are_but_custom_ones_do(
    api: Client, namespace: Namespace, gates: Gates
) -> None:
    api.create(namespace.core("configmaps"), config_map("a"))
    api.create(gates.path(), gates.gate("a"))
    assert "kind" not in api.get(namespace.core("configmaps")).body["items"][0]
    assert api.get(gates.path()).body["items"][0]["kind"] == "Gate"


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("app=a", ["one"]),
        ("app==a", ["one"]),
        ("app!=a", ["three", "two"]),
        ("app in (a,b)", ["one", "two"]),
        ("app notin (a)", ["three", "two"]),
        ("app", ["one", "two"]),
        ("!app", ["three"]),
        ("app in (a, b),tier=x", ["two"]),
        ("example.test/key=v", ["three"]),
        ("app=", []),
        ("", ["one", "three", "two"]),
    ],
)
def test_label_selectors(api: Client, namespace: Namespace, selector: str, expected: list[str]) -> None:
    for name, labels in (
        ("one", {"app": "a"}),
        ("two", {"app": "b", "tier": "x"}),
        ("three", {"example.test/key": "v"}),
    ):
        api.create(
            namespace.core("secrets"),
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}},
        )
    assert names(api.get(namespace.core("secrets"), labelSelector=selector)) == expected


def test_field_selectors_of_pods(api: Client, namespace: Namespace) -> None:
    for name, node in (("a", "n1"), ("b", "n2"), ("c", "")):
        api.create(namespace.core("pods"), pod(name, node=node))
    api.merge(namespace.core("pods", "a", "status"), {"status": {"phase": "Running"}})
    path = namespace.core("pods")
    assert names(api.get(path, fieldSelector="spec.nodeName=n1")) == ["a"]
    assert names(api.get(path, fieldSelector="spec.nodeName!=n1")) == ["b", "c"]
    assert names(api.get(path, fieldSelector="spec.nodeName=")) == ["c"]
    assert names(api.get(path, fieldSelector="status.phase=Running")) == ["a"]
    assert names(api.get(path, fieldSelector="status.phase=Pending,spec.nodeName=n2")) == ["b"]
    everywhere = api.get("/api/v1/pods", fieldSelector=f"metadata.name=b,metadata.namespace={namespace.name}")
    assert names(everywhere) == ["b"]


def test_events_are_found_by_what_they_are_about(api: Client, namespace: Namespace) -> None:
    for name in ("a", "b"):
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "e-"},
            "involvedObject": {"kind": "Pod", "name": name, "namespace": namespace.name, "uid": f"uid-{name}"},
            "reason": "Test",
            "type": "Normal",
        }
        assert api.create(namespace.core("events"), event).code == 201
    selector = f"involvedObject.name=b,involvedObject.namespace={namespace.name},involvedObject.kind=Pod,involvedObject.uid=uid-b"
    found = api.get(namespace.core("events"), fieldSelector=selector).body["items"]
    assert [item["involvedObject"]["name"] for item in found] == ["b"]


def test_pages_are_one_consistent_list(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps")
    for number in range(5):
        api.create(path, config_map(f"c{number}"))
    first = api.get(path, limit=2)
    assert names(first) == ["c0", "c1"]
    assert first.meta["remainingItemCount"] == 3
    api.delete(namespace.core("configmaps", "c3"))
    api.create(path, config_map("c9"))
    second = api.get(path, **{"limit": 2, "continue": first.meta["continue"]})
    third = api.get(path, **{"limit": 2, "continue": second.meta["continue"]})
    assert names(second) + names(third) == ["c2", "c3", "c4"]
    assert second.meta["resourceVersion"] == first.meta["resourceVersion"]
    assert not third.meta.get("continue")


def test_a_page_with_a_selector_does_not_count_the_rest(api: Client, namespace: Namespace) -> None:
    for number in range(3):
        api.create(namespace.core("configmaps"), config_map(f"c{number}", labels={"l": "v"}))
    page = api.get(namespace.core("configmaps"), limit=2, labelSelector="l=v")
    assert page.meta["continue"]
    assert "remainingItemCount" not in page.meta


def test_a_list_at_an_exact_version_is_as_it_was(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps")
    then = api.create(path, config_map("a")).meta["resourceVersion"]
    api.create(path, config_map("b"))
    api.merge(namespace.core("configmaps", "a"), {"data": {"k": "1"}})
    old = api.get(path, resourceVersion=then, resourceVersionMatch="Exact")
    assert names(old) == ["a"]
    assert "data" not in old.body["items"][0]
    assert len(names(api.get(path, resourceVersion=then, resourceVersionMatch="NotOlderThan"))) == 2
    assert len(names(api.get(path, resourceVersion="0"))) == 2


def test_a_version_of_the_future_is_refused_for_now(api: Client, namespace: Namespace) -> None:
    refused = api.get(namespace.core("configmaps"), resourceVersion=10**12)
    assert (refused.code, refused.reason) == (504, "Timeout")
    assert refused.body["details"]["retryAfterSeconds"] == 1


def test_both_versions_of_a_kind_show_the_same_objects(api: Client, gates: Gates) -> None:
    api.create(gates.path(), gates.gate("a"))
    api.create(gates.path(version="v1beta1"), gates.gate("b", version="v1beta1"))
    for version in ("v1", "v1beta1"):
        answer = api.get(gates.path(version=version))
        assert names(answer) == ["a", "b"]
        assert {item["apiVersion"] for item in answer.body["items"]} == {f"{gates.group}/{version}"}
    one, other = (api.get(gates.path("a", version=version)).body for version in ("v1", "v1beta1"))
    assert {**one, "apiVersion": ""} == {**other, "apiVersion": ""}


def test_tables_have_the_columns_of_the_crd(api: Client, gates: Gates) -> None:
    api.create(gates.path(), gates.gate("a", {"name": "abc", "size": 7}))
    api.merge(gates.path("a", "status"), {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    table = api.get(gates.path(), accept=TABLE).body
    assert table["kind"] == "Table"
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Size", "Ready", "Age"]
    row = table["rows"][0]
    assert row["cells"][:3] == ["a", 7, "True"]
    assert row["object"]["kind"] == "PartialObjectMetadata"


def test_tables_of_pods(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("pods"), pod("a", node="n1"))
    table = api.get(namespace.core("pods"), accept=TABLE).body
    shown = [column["name"] for column in table["columnDefinitions"] if column["priority"] == 0]
    assert shown == ["Name", "Ready", "Status", "Restarts", "Age"]
    assert table["rows"][0]["cells"][:3] == ["a", "0/1", "Pending"]


def test_metadata_alone(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("configmaps"), config_map("a", {"k": "v"}))
    accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    answer = api.get(namespace.core("configmaps"), accept=accept)
    assert answer.body["kind"] == "PartialObjectMetadataList"
    assert names(answer) == ["a"]
    assert "data" not in answer.body["items"][0]
