"""The Kubernetes client against the imitated API server, over HTTP: every verb, and informers through restarts."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import core.reflector
import live.kube
from core.errors import ApiError
from core.kube import CRDS, LEASES, NAMESPACES, PODS, SERVICES, Json, ObjectName, Resource
from live.kube import KubeClient, connect

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 20.0
WIDGETS = Resource(group="test.tidegate", version="v1", plural="widgets", kind="Widget")


class ApiServer:
    """An imitated API server in a process of its own, which can be ended and started again on its port."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self._port = taken.getsockname()[1]
        self._arguments = arguments
        self.kubeconfig = folder / "kubeconfig"
        self._log = (folder / "apiserver.log").open("wb")
        self.start()

    def start(self) -> None:
        ready, told = os.pipe()
        arguments = [
            "--listen",
            f"127.0.0.1:{self._port}",
            "--kubeconfig-out",
            str(self.kubeconfig),
            "--ready-fd",
            str(told),
            *self._arguments,
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sim.cluster.apiserver", *arguments], cwd=ROOT, pass_fds=(told,), stderr=self._log
        )
        os.close(told)
        with os.fdopen(ready) as pipe:
            assert pipe.readline() == "ready\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    running = ApiServer(tmp_path_factory.mktemp("apiserver"))
    yield running
    running.close()


@pytest.fixture
def client(server: ApiServer) -> Iterator[KubeClient]:
    with connect(server.kubeconfig) as opened:
        yield opened


@pytest.fixture
def namespace(client: KubeClient, request: pytest.FixtureRequest) -> str:
    """A namespace for this test."""
    name = request.node.name.replace("_", "-")[:60].strip("-")
    client.create(NAMESPACES, {"metadata": {"name": name}})
    return str(name)


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
    with pytest.raises(ApiError) as conflict:
        client.replace(SERVICES, stored)
    assert (conflict.value.code, conflict.value.reason) == (409, "Conflict")
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
    with pytest.raises(ApiError) as conflict:
        client.apply(SERVICES, labelled(color="red"), field_manager="two", force=False)
    assert conflict.value.code == 409
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


def widget_definition() -> Json:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}
    spec = {"group": "test.tidegate", "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": "widgets.test.tidegate"}, "spec": spec}


def created(client: KubeClient, resource: Resource, obj: Json) -> bool:
    try:
        client.create(resource, obj)
    except ApiError as error:
        if error.code not in (404, 503):
            raise
        return False
    return True


def test_a_definition_that_is_installed_later_is_found(
    client: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.reflector, "ABSENT_RETRY_S", 0.2)
    told = Told()
    informer = client.watch(WIDGETS, told)
    assert informer.wait_synced(DEADLINE_S)
    assert informer.objects() == {}
    client.create(CRDS, widget_definition())
    widget = {"metadata": {"namespace": namespace, "name": "w"}}
    while not created(client, WIDGETS, widget):  # the definition is served a moment after it is stored
        time.sleep(0.01)
    assert told.take(1) == {"w"}


def test_a_server_that_loses_its_store_is_followed_again(tmp_path: Path) -> None:
    server = ApiServer(tmp_path, "--bookmark-interval-s", "0.2")
    try:
        with connect(server.kubeconfig) as client:
            told = Told()
            informer = client.watch(SERVICES, told, namespace="default")
            assert informer.wait_synced(DEADLINE_S)
            before = set(informer.objects())
            for name in ("a", "b", "c"):
                client.create(SERVICES, service("default", name))
            assert told.take(3) == {"a", "b", "c"}
            server.kill()
            with pytest.raises(ApiError, match="Unreachable"):
                client.list(SERVICES)
            assert len(informer.objects()) == 3 + len(before)
            server.start()
            client.create(SERVICES, service("default", "d"))
            while set(informer.objects()) != before | {("default", "d")}:
                told.take(1)
    finally:
        server.close()
