"""The modelled API: what is stored, what is told, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from core.errors import ApiError
from core.kube import DEPLOYMENTS, ENDPOINT_SLICES, PODS, SERVICES
from sim.des.api import Api, merged
from sim.des.kernel import US, Kernel
from sim.des.seen import Key

WATCH_S = 0.005


def service(name: str = "s", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def api() -> tuple[Kernel, Api]:
    kernel = Kernel()
    return kernel, Api(kernel, watch_s=WATCH_S)


def run(kernel: Kernel, until_s: float = 10.0) -> None:
    while kernel.step(round(until_s * US)):
        pass


def test_merged_removes_what_its_manager_no_longer_gives_and_nothing_else() -> None:
    current = {"a": 1, "b": {"mine": 1, "theirs": 2}, "l": [1]}
    before = {"a": 1, "b": {"mine": 1}}
    assert merged(current, before, {"b": {"new": 3}}) == {"b": {"new": 3, "theirs": 2}, "l": [1]}
    assert merged(current, {}, {"l": [2, 3]})["l"] == [2, 3]
    assert merged(current, before, {}) == {"b": {"theirs": 2}, "l": [1]}


def test_merged_is_the_same_object_when_nothing_changes() -> None:
    current = {"a": 1, "b": {"c": [1, {"d": 2}]}}
    assert merged(current, {}, {"b": {"c": [1, {"d": 2}]}}) is current
    assert merged(current, {}, {"a": 2})["b"] is current["b"]


def test_an_applied_object_gets_what_a_server_gives_it() -> None:
    kernel, store = api()
    run(kernel, 3.7)
    first = store.apply(SERVICES, service(selector={"a": "b"}), client="me")["metadata"]
    assert (first["generation"], first["creationTimestamp"]) == (1, "2026-01-01T00:00:03Z")
    again = store.apply(SERVICES, service(selector={"a": "b"}), client="me")["metadata"]
    assert again == first
    changed = store.apply(SERVICES, service(selector={"a": "c"}), client="me")["metadata"]
    assert (changed["uid"], changed["generation"]) == (first["uid"], 2)
    assert int(changed["resourceVersion"]) > int(first["resourceVersion"])


def test_a_status_is_no_new_generation_and_needs_an_object() -> None:
    _, store = api()
    status: dict[str, Any] = {"metadata": {"name": "s", "namespace": "default"}, "status": {"x": 1}}
    with pytest.raises(ApiError) as caught:
        store.apply(SERVICES, status, client="me", subresource="status")
    assert caught.value.code == 404
    store.apply(SERVICES, service(), client="me")
    stored = store.apply(SERVICES, status, client="me", subresource="status")
    assert (stored["status"], stored["metadata"]["generation"]) == ({"x": 1}, 1)
    wrong = {**status, "metadata": {**status["metadata"], "uid": "another"}}
    with pytest.raises(ApiError) as caught:
        store.apply(SERVICES, wrong, client="me", subresource="status")
    assert caught.value.code == 409


def test_watchers_are_told_after_the_delay_all_of_one_moment_at_once_and_not_of_their_own() -> None:
    kernel, store = api()
    told: list[tuple[float, str, Sequence[Key]]] = []
    store.watch(["Service"], lambda keys: told.append((kernel.now_s, "all", tuple(keys))))
    store.watch(["Service"], lambda keys: told.append((kernel.now_s, "me", tuple(keys))), client="me")
    store.watch(["Pod"], lambda keys: told.append((kernel.now_s, "pods", tuple(keys))))
    store.apply(SERVICES, service("a"), client="me")
    store.apply(SERVICES, service("b"), client="other")
    assert store.seen.get("Service", "default", "a") is None
    run(kernel)
    a, b = ("Service", "default", "a"), ("Service", "default", "b")
    assert told == [(WATCH_S, "all", (a, b)), (WATCH_S, "me", (b,))]
    assert store.seen.get(*a) is store.get(*a)
    assert [s.meta.name for s in store.seen.objects().services] == ["a", "b"]


def test_objects_are_the_same_value_until_what_they_say_changes() -> None:
    kernel, store = api()
    store.apply(SERVICES, service("a"), client="me")
    run(kernel)
    before = store.seen.objects()
    status = {"metadata": {"name": "a", "namespace": "default"}, "status": {"x": 1}}
    store.apply(SERVICES, status, client="me", subresource="status")
    run(kernel, 20)
    assert store.seen.objects() is before
    store.delete(SERVICES, "default", "a")
    run(kernel, 30)
    assert store.seen.objects().services == ()


def test_a_pod_on_a_node_goes_in_two_steps() -> None:
    _, store = api()
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n", "containers": []},
    }
    store.create(PODS, pod, client="me")
    store.delete(PODS, "default", "p")
    stored = store.get("Pod", "default", "p")
    assert stored is not None
    assert stored["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:00Z"
    store.delete(PODS, "default", "p", now=True)
    assert store.get("Pod", "default", "p") is None


def test_what_an_owner_owns_goes_with_it() -> None:
    _, store = api()
    uid = store.apply(SERVICES, service(), client="me")["metadata"]["uid"]
    for name in ("one", "two"):
        metadata = {"name": name, "namespace": "default", "ownerReferences": [{"uid": uid}]}
        store.apply(ENDPOINT_SLICES, {"kind": "EndpointSlice", "metadata": metadata}, client="me")
    assert [obj["metadata"]["name"] for obj in store.owned(uid)] == ["one", "two"]
    store.delete(SERVICES, "default", "s")
    assert store.objects(["Service", "EndpointSlice"]) == ()


def test_templates_get_the_defaults_that_pod_names_depend_on() -> None:
    _, store = api()
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": service()["metadata"], "spec": spec}
    stored = store.apply(DEPLOYMENTS, deployment, client="me")
    assert stored["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] == "Always"
    scaled = store.patch(DEPLOYMENTS, "default", "s", {"spec": {"replicas": 3}}, client="me")
    assert (scaled["metadata"]["generation"], scaled["spec"]["replicas"]) == (2, 3)
    assert store.apply(DEPLOYMENTS, {**deployment, "spec": {**spec, "replicas": 3}}, client="me") == scaled
