"""The API as our own client sees it (live/kube.py): every verb, what our code makes of the answers, informers, and a restart."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import core.reflector
import live.kube
from core.errors import ApiError
from core.kube import (
    CRDS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    EVENTS,
    LEASES,
    NODES,
    PODS,
    SERVICES,
    Json,
    ObjectName,
    Resource,
)
from core.manifests import events
from live.apply import Applier
from live.kube import KubeClient, connect
from tests.contract.kube.client import Server
from tests.contract.kube.samples import Namespace

DEADLINE_S = 20.0
CRD_FOLDER = Path(__file__).parents[3] / "live" / "deploy" / "crds"


@pytest.fixture
def client(api_server: Server) -> Iterator[KubeClient]:
    with connect(api_server.kubeconfig) as opened:
        yield opened


@pytest.fixture(name="namespace")
def _namespace(namespace: Namespace) -> str:
    """Its name is all that our client asks for."""
    return namespace.name


def service(namespace: str, name: str, port: int = 80, **labels: str) -> Json:
    return {
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"ports": [{"port": port}]},
    }


class Told:
    """The names that `on_change` was called with."""

    def __init__(self) -> None:
        self.names: queue.Queue[ObjectName] = queue.Queue()

    def __call__(self, name: ObjectName) -> None:
        self.names.put(name)

    def take(self, count: int) -> set[str]:
        return {self.names.get(timeout=DEADLINE_S)[1] for _ in range(count)}


def test_verbs(client: KubeClient, namespace: str) -> None:
    created = client.create(SERVICES, service(namespace, "a"))
    with pytest.raises(ApiError) as taken:
        client.create(SERVICES, service(namespace, "a"))
    assert (taken.value.code, taken.value.reason) == (409, "AlreadyExists")
    stored = client.get(SERVICES, namespace, "a")
    assert stored == created
    assert stored is not None
    stored["metadata"]["labels"] = {"color": "blue"}
    client.replace(SERVICES, stored)
    with pytest.raises(ApiError) as refused:
        client.replace(SERVICES, stored)
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    patched = client.merge_patch(SERVICES, namespace, "a", {"metadata": {"labels": {"color": None, "size": "s"}}})
    assert patched["metadata"]["labels"] == {"size": "s"}
    assert [obj["kind"] for obj in client.list(SERVICES, namespace=namespace, label_selector="size=s")] == ["Service"]
    assert client.list(SERVICES, namespace=namespace, label_selector="size=l") == ()
    client.delete(SERVICES, namespace, "a", uid="00000000-0000-0000-0000-000000000000")
    assert client.get(SERVICES, namespace, "a") is not None
    client.delete(SERVICES, namespace, "a", uid=created["metadata"]["uid"], grace_period_s=0)
    client.delete(SERVICES, namespace, "a")
    assert client.get(SERVICES, namespace, "a") is None


def test_server_side_apply(client: KubeClient, namespace: str) -> None:
    def labelled(**labels: str) -> Json:
        return {"metadata": {"namespace": namespace, "name": "a", "labels": labels}, "spec": {"ports": [{"port": 80}]}}

    client.apply(SERVICES, labelled(color="blue", size="s"), field_manager="one")
    again = client.apply(SERVICES, labelled(color="blue"), field_manager="one")
    assert again["metadata"]["labels"] == {"color": "blue"}
    with pytest.raises(ApiError) as refused:
        client.apply(SERVICES, labelled(color="red"), field_manager="two", force=False)
    assert refused.value.code == 409
    forced = client.apply(SERVICES, labelled(color="red"), field_manager="two")
    assert forced["metadata"]["labels"] == {"color": "red"}


def test_the_status_is_written_apart(client: KubeClient, namespace: str) -> None:
    client.create(
        PODS, {"metadata": {"namespace": namespace, "name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    )
    client.merge_patch(PODS, namespace, "a", {"status": {"podIP": "10.0.0.9"}}, subresource="status")
    client.merge_patch(PODS, namespace, "a", {"status": {"podIP": "6.6.6.6"}})
    stored = client.get(PODS, namespace, "a")
    assert stored is not None
    assert stored["status"]["podIP"] == "10.0.0.9"


def test_an_informer_follows_what_it_selects(client: KubeClient, namespace: str) -> None:
    client.create(SERVICES, service(namespace, "old", color="blue"))
    told = Told()
    informer = client.watch(SERVICES, told, namespace=namespace, label_selector="color=blue")
    assert told.take(1) == {"old"}
    client.create(SERVICES, service(namespace, "new", color="blue"))
    client.create(SERVICES, service(namespace, "other", color="red"))
    assert told.take(1) == {"new"}
    client.merge_patch(SERVICES, namespace, "old", {"metadata": {"labels": {"color": "red"}}})
    assert told.take(1) == {"old"}
    assert set(informer.objects()) == {(namespace, "new")}
    client.delete(SERVICES, namespace, "new")
    assert told.take(1) == {"new"}
    assert informer.objects() == {}
    assert informer.failures_total == 0


def test_lists_of_many_pages(client: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.reflector, "PAGE_LIMIT", 7)
    monkeypatch.setattr(live.kube, "PAGE_LIMIT", 7)
    names = {f"s{n}" for n in range(40)}
    for name in names:
        client.create(LEASES, {"metadata": {"namespace": namespace, "name": name}})
    told = Told()
    informer = client.watch(LEASES, told, namespace=namespace)
    assert told.take(40) == names
    listed = {obj["metadata"]["name"] for obj in client.list(LEASES, namespace=namespace)}
    assert listed == names == {name for _, name in informer.objects()}


def test_changes_from_many_threads_arrive_in_the_end(client: KubeClient, namespace: str) -> None:
    done = threading.Event()

    def on_change(_: ObjectName) -> None:
        ports = [obj["spec"]["ports"][0]["port"] for obj in informer.objects().values()]
        if len(ports) == 4 and set(ports) == {1020}:
            done.set()

    informer = client.watch(SERVICES, on_change, namespace=namespace)
    assert informer.wait_synced(DEADLINE_S)

    def write(name: str) -> None:
        for port in range(1000, 1021):
            client.apply(SERVICES, service(namespace, name, port), field_manager=name)

    threads = [threading.Thread(target=write, args=(f"s{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert done.wait(DEADLINE_S)


def widgets(group: str) -> tuple[Resource, Json]:
    """A kind that is not served, and the definition that makes it so."""
    resource = Resource(group=group, version="v1", plural="widgets", kind="Widget")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    return resource, {"metadata": {"name": f"widgets.{group}"}, "spec": spec}


def create_when_served(client: KubeClient, resource: Resource, obj: Json) -> None:
    """A definition is served a moment after it is stored, and nobody tells when."""
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        try:
            client.create(resource, obj)
        except ApiError as error:
            if error.code not in (404, 503):
                raise
            time.sleep(0.01)
        else:
            return
    raise AssertionError(f"{resource.plural} are not served")


def test_a_definition_that_is_installed_later_is_found(
    client: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.reflector, "ABSENT_RETRY_S", 0.2)
    resource, definition = widgets(f"{namespace}.tidegate.test")
    told = Told()
    informer = client.watch(resource, told)
    assert informer.wait_synced(DEADLINE_S)
    assert informer.objects() == {}
    with pytest.raises(ApiError) as unknown:
        client.list(resource)
    assert unknown.value.code == 404
    client.apply(CRDS, definition, field_manager="installer")
    create_when_served(client, resource, {"metadata": {"namespace": namespace, "name": "w"}})
    assert told.take(1) == {"w"}
    client.delete(CRDS, "", definition["metadata"]["name"])


def pod(namespace: str, name: str, node: str = "") -> Json:
    spec: Json = {"containers": [{"name": "c", "image": "i"}], **({"nodeName": node} if node else {})}
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


def test_an_agent_follows_the_pods_of_its_node(client: KubeClient, namespace: str) -> None:
    told = Told()
    informer = client.watch(PODS, told, namespace=namespace, field_selector="spec.nodeName=n1")
    assert informer.wait_synced(DEADLINE_S)
    client.create(PODS, pod(namespace, "elsewhere", "n2"))
    client.create(PODS, pod(namespace, "here", "n1"))
    client.create(PODS, pod(namespace, "bound-later"))
    assert told.take(1) == {"here"}
    binding = Resource(group="", version="v1", plural="pods/bound-later/binding", kind="Binding")
    metadata = {"name": "bound-later", "namespace": namespace}
    client.create(binding, {"metadata": metadata, "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"}})
    assert told.take(1) == {"bound-later"}
    # A Pod on a node goes when its kubelet has ended it.
    client.delete(PODS, namespace, "here")
    assert told.take(1) == {"here"}
    going = informer.objects()[namespace, "here"]["metadata"]
    assert going["deletionTimestamp"]
    client.delete(PODS, namespace, "here", uid=going["uid"], grace_period_s=0)
    assert told.take(2) == {"here"}  # that its time is over, and that it is gone
    assert {name for _, name in informer.objects()} == {"bound-later"}


def test_an_agent_follows_one_object_by_its_name(client: KubeClient, namespace: str) -> None:
    told = Told()
    informer = client.watch(SERVICES, told, namespace=namespace, field_selector="metadata.name=b")
    for name in ("a", "b", "c"):
        client.create(SERVICES, service(namespace, name))
    assert told.take(1) == {"b"}
    assert set(informer.objects()) == {(namespace, "b")}


def test_what_is_meant_for_one_pod_does_not_reach_its_successor(client: KubeClient, namespace: str) -> None:
    """Attachments are applied with the UID of the Pod that they were made for."""
    old = client.create(PODS, pod(namespace, "a"))["metadata"]["uid"]
    client.delete(PODS, namespace, "a", uid=old, grace_period_s=0)
    new = client.create(PODS, pod(namespace, "a"))["metadata"]["uid"]

    def attach(uid: str) -> Json:
        metadata = {"namespace": namespace, "name": "a", "uid": uid, "annotations": {"x.test/attachment": "[]"}}
        return client.apply(PODS, {"metadata": metadata}, field_manager="controller", subresource="status")

    with pytest.raises(ApiError) as refused:
        attach(old)
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")
    assert attach(new)["metadata"]["annotations"] == {"x.test/attachment": "[]"}
    client.delete(PODS, namespace, "a", uid=new, grace_period_s=0)
    with pytest.raises(ApiError) as gone:
        attach(new)
    assert (gone.value.code, gone.value.reason) == (404, "NotFound")


def test_a_status_of_nothing_is_not_found(client: KubeClient, namespace: str) -> None:
    status = {"metadata": {"namespace": namespace, "name": "a"}, "status": {"phase": "Running"}}
    with pytest.raises(ApiError) as gone:
        client.apply(PODS, status, field_manager="kubelet", subresource="status")
    assert (gone.value.code, gone.value.reason) == (404, "NotFound")


def endpoint_slice(namespace: str, *addresses: str) -> Json:
    """As the controller writes it, an empty one too."""
    endpoints = [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]
    ports = [{"name": "a", "port": 4000, "protocol": "TCP"}] if addresses else []
    labels = {"kubernetes.io/service-name": "s", "endpointslice.kubernetes.io/managed-by": "somebody"}
    metadata = {"namespace": namespace, "name": "s-ipv4", "labels": labels, "annotations": {"x.test/slots": "{}"}}
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": ports}


def deployment(namespace: str, replicas: int) -> Json:
    container = {
        "name": "c", "image": "tidegate", "args": ["agent"], "env": [{"name": "A", "value": "1"}],
        "ports": [{"name": "health", "containerPort": 8081, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8081}, "periodSeconds": 1},
        "securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}},
    }  # fmt: skip
    template = {"metadata": {"labels": {"a": "b"}, "annotations": {}}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    return {"metadata": {"namespace": namespace, "name": "d"}, "spec": spec}


def test_what_has_been_applied_is_there_and_is_not_applied_again(client: KubeClient, namespace: str) -> None:
    """Whatever the server fills in, drops or writes otherwise: a controller that saw a difference would write for ever."""
    applier = Applier(client, "controller")
    for resource, wanted in (
        (ENDPOINT_SLICES, endpoint_slice(namespace, "192.0.2.1", "192.0.2.2")),
        (ENDPOINT_SLICES, endpoint_slice(namespace, "192.0.2.2")),
        (ENDPOINT_SLICES, endpoint_slice(namespace)),
        (DEPLOYMENTS, deployment(namespace, 2)),
        (DEPLOYMENTS, deployment(namespace, 0)),
    ):
        name = wanted["metadata"]["name"]
        assert applier.apply(resource, wanted, client.get(resource, namespace, name))
        stored = client.get(resource, namespace, name)
        assert not applier.apply(resource, wanted, stored), stored


def test_scaling_is_a_merge_patch_and_an_applier_takes_it_back(client: KubeClient, namespace: str) -> None:
    client.apply(DEPLOYMENTS, deployment(namespace, 2), field_manager="operator")
    scaled = client.merge_patch(DEPLOYMENTS, namespace, "d", {"spec": {"replicas": 5}})
    assert (scaled["spec"]["replicas"], scaled["metadata"]["generation"]) == (5, 2)
    assert client.apply(DEPLOYMENTS, deployment(namespace, 2), field_manager="operator")["spec"]["replicas"] == 2


def test_an_event_is_written_and_counted(client: KubeClient, namespace: str) -> None:
    # About a Pod: of a Service the real server's own repairs write events too.
    about = {"apiVersion": "v1", "kind": "Pod", **client.create(PODS, pod(namespace, "a"))}
    event = events.Event(warning=True, reason="NoEndpoints", message="nobody is ready")
    name = events.event_name(event, about)
    for count in (1, 2, 3):
        existing = client.get(EVENTS, namespace, name)
        now = f"2026-01-01T00:00:0{count}Z"
        stored = client.apply(EVENTS, events.event_object(event, about, existing, now), field_manager="controller")
        assert (stored["count"], stored["lastTimestamp"]) == (count, now)
    found = client.list(EVENTS, namespace=namespace, field_selector="involvedObject.name=a")
    assert [one["reason"] for one in found] == ["NoEndpoints"]


def test_versions_of_one_resource_compare_as_numbers(client: KubeClient, namespace: str) -> None:
    """scenarios.cluster_view waits until its informers have seen what it wrote."""
    versions = [
        int(client.apply(SERVICES, service(namespace, "a", port), field_manager="one")["metadata"]["resourceVersion"])
        for port in range(1, 6)
    ]
    assert versions == sorted(set(versions))


def test_a_node_is_registered_and_told_of(client: KubeClient, namespace: str) -> None:
    """As the imitated kubelet does: the object by apply, its status by a merge patch."""
    metadata = {"name": namespace, "labels": {"kubernetes.io/hostname": namespace}}
    spec = {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:244:1::/64"]}
    addresses = [{"type": "InternalIP", "address": address} for address in ("192.0.2.1", "2001:db8::1")]
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
    for _ in range(2):  # a kubelet may start again
        client.apply(NODES, {"metadata": metadata, "spec": spec}, field_manager="kubelet")
        status = {"status": {"addresses": addresses, "conditions": [ready]}}
        stored = client.merge_patch(NODES, "", namespace, status, subresource="status")
        assert stored["status"]["addresses"] == addresses
        assert stored["spec"]["podCIDRs"] == spec["podCIDRs"]
    client.delete(NODES, "", namespace)


def test_each_pod_has_its_own_session_in_the_status_of_a_router(client: KubeClient, namespace: str) -> None:
    """With our CRD: each gateway pod applies its element under a name of its own, and who applies nothing takes its own away."""
    group = f"{namespace}.tidegate.test"
    text = (CRD_FOLDER / "gatewayrouters.yaml").read_text().replace("l34.gateway.api.poc", group)
    definition = yaml.safe_load(text)
    routers = Resource(group=group, version="v1alpha1", plural="gatewayrouters", kind="GatewayRouter")
    client.apply(CRDS, definition, field_manager="installer")
    metadata = {"namespace": namespace, "name": "r"}
    spec = {"address": "192.0.2.1", "interface": "net1"}
    create_when_served(client, routers, {"metadata": metadata, "spec": spec})

    def report(pod: str, *sessions: str) -> list[tuple[str, str]]:
        status = {"status": {"sessions": [{"pod": pod, "session": session} for session in sessions]}}
        body = {"metadata": metadata, **(status if sessions else {})}
        stored = client.apply(routers, body, field_manager=f"session-{pod}", subresource="status")
        return sorted((one["pod"], one["session"]) for one in (stored.get("status") or {}).get("sessions") or [])

    assert report("a", "Established") == [("a", "Established")]
    assert report("b", "Active") == [("a", "Established"), ("b", "Active")]
    assert report("b", "Established") == [("a", "Established"), ("b", "Established")]
    assert report("a") == [("b", "Established")]
    assert report("b") == []
    client.delete(CRDS, "", definition["metadata"]["name"])
