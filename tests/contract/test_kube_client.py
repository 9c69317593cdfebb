"""The Kubernetes client against a server that behaves as the test says: paging, watches, broken and silent connections."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import ApiError, InputError
from core.kube import PODS, TCP_ROUTES, ObjectName
from live import kube_http
from live.kube import KubeClient, connect
from live.kube_http import KubeHttp, load_configuration
from tests.contract.scripted_api import Exchange, ScriptedApi, kubeconfig_of, page, pod, status

DEADLINE_S = 10.0


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    server = ScriptedApi()
    yield server
    server.end()


@pytest.fixture
def client(api: ScriptedApi, tmp_path: Path) -> Iterator[KubeClient]:
    configuration = load_configuration(kubeconfig_of(api.server_address[1], tmp_path))
    with KubeClient(KubeHttp(configuration), jitter=lambda: 0.0) as opened:
        yield opened


class Changes:
    """Records `on_change` calls, and waits for them."""

    def __init__(self) -> None:
        self.names: queue.Queue[ObjectName] = queue.Queue()

    def __call__(self, name: ObjectName) -> None:
        self.names.put(name)

    def take(self, count: int) -> set[str]:
        return {self.names.get(timeout=DEADLINE_S)[1] for _ in range(count)}


# --- requests ---------------------------------------------------------------------------------------------------------


def test_requests_carry_the_token_and_go_where_they_should(api: ScriptedApi, client: KubeClient) -> None:
    api.answer = lambda exchange: exchange.send(200, pod("a", 1))
    client.create(PODS, pod("a", 1))
    client.replace(PODS, pod("a", 1), subresource="status")
    client.merge_patch(PODS, "blue", "a", {"spec": {"x": None}})
    client.apply(PODS, pod("a", 1), field_manager="tester")
    client.delete(PODS, "blue", "a", uid="u-1", grace_period_s=0)
    assert [(command, path) for command, path, *_ in api.seen] == [
        ("POST", "/api/v1/namespaces/blue/pods"),
        ("PUT", "/api/v1/namespaces/blue/pods/a/status"),
        ("PATCH", "/api/v1/namespaces/blue/pods/a"),
        ("PATCH", "/api/v1/namespaces/blue/pods/a"),
        ("DELETE", "/api/v1/namespaces/blue/pods/a"),
    ]
    assert api.seen[2][3] == "application/merge-patch+json"
    assert api.seen[3][2:4] == ({"fieldManager": "tester", "force": "true"}, "application/apply-patch+yaml")
    assert api.seen[3][4]["kind"] == "Pod"
    assert api.seen[4][4]["preconditions"] == {"uid": "u-1"}
    assert api.seen[4][4]["gracePeriodSeconds"] == 0
    assert all(headers["authorization"] == "Bearer opensesame" for headers in map(_lower, api.headers_seen))


def _lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def test_a_refusal_is_an_error_with_the_servers_words(api: ScriptedApi, client: KubeClient) -> None:
    api.answer = lambda exchange: exchange.send(409, status(409, "Conflict"), Retry_After="3")
    with pytest.raises(ApiError) as caught:
        client.replace(PODS, pod("a", 1))
    assert (caught.value.code, caught.value.reason, caught.value.message) == (409, "Conflict", "Conflict it is")
    assert caught.value.retry_after_s == 3.0


def test_what_is_not_there_is_none_and_deleting_it_is_nothing(api: ScriptedApi, client: KubeClient) -> None:
    assert client.get(PODS, "blue", "a") is None
    client.delete(PODS, "blue", "a")
    api.answer = lambda exchange: exchange.send(409, status(409, "Conflict"))
    client.delete(PODS, "blue", "a", uid="another")
    with pytest.raises(ApiError):
        client.delete(PODS, "blue", "a")


def test_a_server_that_is_not_there_is_code_0(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with connect(kubeconfig_of(port, tmp_path)) as client, pytest.raises(ApiError, match="refused") as caught:
        client.get(PODS, "blue", "a")
    assert caught.value.code == 0


@pytest.mark.parametrize("answer", [b"<html>proxy login</html>", b"[1, 2]", b"\xff\xfe"])
def test_what_is_not_the_api_is_an_error(api: ScriptedApi, client: KubeClient, answer: bytes) -> None:
    api.answer = lambda exchange: exchange.send(200, answer)
    with pytest.raises(ApiError, match="InvalidResponse"):
        client.get(PODS, "blue", "a")


def test_a_pooled_connection_that_the_server_has_closed_is_replaced(api: ScriptedApi, client: KubeClient) -> None:
    def answer_and_hang_up(exchange: Exchange) -> None:
        exchange.send(200, pod("a", 1))
        exchange.connection.shutdown(socket.SHUT_RDWR)
        exchange.close_connection = True

    api.answer = answer_and_hang_up
    for _ in range(5):
        assert client.get(PODS, "blue", "a") is not None


def test_many_threads_share_one_client(api: ScriptedApi, client: KubeClient) -> None:
    api.answer = lambda exchange: exchange.send(200, pod(exchange.path.rpartition("/")[2], 1))
    wrong: list[str] = []

    def read(name: str) -> None:
        for _ in range(10):
            obj = client.get(PODS, "blue", name)
            if obj is None or obj["metadata"]["name"] != name:
                wrong.append(name)

    threads = [threading.Thread(target=read, args=(f"pod-{n}",)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert wrong == []
    assert len(api.seen) == 120


def test_list_reads_all_pages_and_starts_again_in_full_when_the_token_expires(
    api: ScriptedApi, client: KubeClient
) -> None:
    def answer(exchange: Exchange) -> None:
        if "continue" in exchange.query:
            exchange.send(410, status(410, "Expired"))
        elif "limit" in exchange.query:
            exchange.send(200, page(10, pod("a", 1), token="more"))
        else:
            exchange.send(200, page(11, pod("a", 1), pod("b", 2)))

    api.answer = answer
    pods = client.list(PODS, label_selector="app=x")
    assert [obj["metadata"]["name"] for obj in pods] == ["a", "b"]
    assert pods[0]["kind"] == "Pod"
    assert all(query["labelSelector"] == "app=x" for _, _, query, _, _ in api.seen)


def test_a_kubeconfig_that_cannot_be_used_is_the_persons_to_correct(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "kubeconfig"
    broken.write_text("clusters: [")
    monkeypatch.setenv("KUBECONFIG", str(broken))
    with pytest.raises(InputError, match="kubeconfig"):
        connect()
    with pytest.raises(InputError, match="missing"):
        connect(tmp_path / "missing")


# --- watches ----------------------------------------------------------------------------------------------------------


def test_an_informer_lists_then_follows_the_watch(api: ScriptedApi, client: KubeClient) -> None:
    def answer(exchange: Exchange) -> None:
        if not exchange.is_watch:
            return exchange.send(200, page(10, pod("a", 5)))
        exchange.start_watch()
        exchange.send_event("ADDED", pod("b", 11))
        half = json.dumps({"type": "DELETED", "object": pod("a", 12)}).encode() + b"\n"
        exchange.send_chunk(half[:20])
        exchange.send_chunk(half[20:])
        exchange.hold()
        return None

    api.answer = answer
    changes, synced = Changes(), threading.Event()
    informer = client.watch(PODS, changes, namespace="blue", field_selector="spec.nodeName=n1", on_synced=synced.set)
    assert changes.take(3) == {"a", "b"}
    assert informer.synced
    assert synced.wait(DEADLINE_S)
    assert set(informer.objects()) == {("blue", "b")}
    watch_query = api.seen[1][2]
    assert watch_query["resourceVersion"] == "10"
    assert watch_query["allowWatchBookmarks"] == "true"
    assert watch_query["fieldSelector"] == "spec.nodeName=n1"
    assert 240 <= int(watch_query["timeoutSeconds"]) <= 300


def test_closing_ends_open_watches_at_once(api: ScriptedApi, client: KubeClient) -> None:
    def answer(exchange: Exchange) -> None:
        if not exchange.is_watch:
            return exchange.send(200, page(10, pod("a", 5)))
        exchange.start_watch()
        exchange.send_event("ADDED", pod("b", 11))
        exchange.hold()
        return None

    api.answer = answer
    changes = Changes()
    informers = [client.watch(PODS, changes) for _ in range(4)]
    changes.take(8)
    started_s = time.monotonic()
    client.close()
    assert time.monotonic() - started_s < 0.5
    for _ in informers:
        api.left.get(timeout=DEADLINE_S)


def test_an_expired_watch_lists_again_and_reports_only_what_differs(api: ScriptedApi, client: KubeClient) -> None:
    def answer(exchange: Exchange) -> None:
        if exchange.is_watch:
            exchange.start_watch()
            if exchange.query["resourceVersion"] == "10":
                exchange.send_event("ERROR", status(410, "Expired"))
                exchange.end_watch()
            else:
                exchange.hold()
        elif len(api.seen) == 1:
            exchange.send(200, page(10, pod("a", 5), pod("b", 6), pod("c", 7)))
        else:
            exchange.send(200, page(20, pod("a", 5), pod("b", 15, image="new")))

    api.answer = answer
    changes = Changes()
    informer = client.watch(PODS, changes)
    assert changes.take(3) == {"a", "b", "c"}
    assert changes.take(2) == {"b", "c"}
    assert set(informer.objects()) == {("blue", "a"), ("blue", "b")}
    assert changes.names.empty()


@pytest.mark.parametrize("rubbish", [b"not json\n", b"{}\n", b'{"type": "ADDED", "object": {}}\n', b'{"type": "ADD'])
def test_garbage_in_a_watch_is_survived(api: ScriptedApi, client: KubeClient, rubbish: bytes) -> None:
    def answer(exchange: Exchange) -> None:
        if not exchange.is_watch:
            return exchange.send(200, page(10 + len(api.seen), pod("a", len(api.seen), turn=len(api.seen))))
        exchange.start_watch()
        if len(api.seen) == 2:
            exchange.send_chunk(rubbish)
            exchange.end_watch()
        else:
            exchange.hold()
        return None

    api.answer = answer
    changes = Changes()
    client.watch(PODS, changes)
    assert changes.take(1) == {"a"}
    assert changes.take(1) == {"a"}


def test_a_watch_that_breaks_off_goes_on_from_its_last_version(api: ScriptedApi, client: KubeClient) -> None:
    def answer(exchange: Exchange) -> None:
        if not exchange.is_watch:
            return exchange.send(200, page(10))
        exchange.start_watch()
        if exchange.query["resourceVersion"] == "10":
            exchange.send_event("ADDED", pod("a", 11))
            exchange.connection.shutdown(socket.SHUT_RDWR)
            exchange.close_connection = True
        else:
            exchange.send_event("ADDED", pod("b", 12))
            exchange.hold()
        return None

    api.answer = answer
    changes = Changes()
    client.watch(PODS, changes)
    assert changes.take(2) == {"a", "b"}
    assert [query.get("resourceVersion") for _, _, query, _, _ in api.seen] == [None, "10", "11"]


def test_a_silent_watch_is_opened_again(api: ScriptedApi, client: KubeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_http, "WATCH_READ_TIMEOUT_S", 0.1)

    def answer(exchange: Exchange) -> None:
        if not exchange.is_watch:
            return exchange.send(200, page(10))
        exchange.start_watch()
        if len(api.seen) > 2:
            exchange.send_event("ADDED", pod("a", 11))
        exchange.hold()
        return None

    api.answer = answer
    changes = Changes()
    client.watch(PODS, changes)
    assert changes.take(1) == {"a"}
    api.left.get(timeout=DEADLINE_S)


def test_a_list_that_is_never_answered_is_asked_for_again(
    api: ScriptedApi, client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-open connection: only the time tells."""
    monkeypatch.setattr(kube_http, "READ_TIMEOUT_S", 0.1)

    def answer(exchange: Exchange) -> None:
        if exchange.is_watch or len(api.seen) == 1:
            exchange.hold()
        else:
            exchange.send(200, page(10, pod("a", 1)))

    api.answer = answer
    changes = Changes()
    client.watch(PODS, changes)
    assert changes.take(1) == {"a"}
    assert api.left.get(timeout=DEADLINE_S) == "/api/v1/pods"


def test_a_busy_server_is_left_alone_as_long_as_it_asks(api: ScriptedApi, client: KubeClient) -> None:
    times_s: list[float] = []

    def answer(exchange: Exchange) -> None:
        if exchange.is_watch:
            exchange.start_watch()
            return exchange.hold()
        times_s.append(time.monotonic())
        if len(times_s) == 1:
            return exchange.send(429, status(429, "TooManyRequests"), Retry_After="1")
        return exchange.send(200, page(10))

    api.answer = answer
    assert client.watch(PODS, Changes()).wait_synced(DEADLINE_S)
    assert times_s[1] - times_s[0] >= 1.0


def test_a_resource_that_is_not_served_is_synced_and_empty_and_logged_once(
    api: ScriptedApi, client: KubeClient, caplog: pytest.LogCaptureFixture
) -> None:
    informer = client.watch(TCP_ROUTES, Changes())
    assert informer.wait_synced(DEADLINE_S)
    assert informer.objects() == {}
    assert len([record for record in caplog.records if "not serve" in record.message]) == 1
    assert len(api.seen) == 1


def test_a_server_that_restarts_is_found_again(tmp_path: Path) -> None:
    first = ScriptedApi()
    port = first.server_address[1]

    def answer_with(name: str) -> Callable[[Exchange], None]:
        def answer(exchange: Exchange) -> None:
            if not exchange.is_watch:
                return exchange.send(200, page(10, pod(name, 5)))
            if name == "new" and exchange.query["resourceVersion"] != "10":
                return exchange.send(504, status(504, "Timeout"))
            exchange.start_watch()
            if name == "old":
                exchange.send_event("BOOKMARK", {"metadata": {"resourceVersion": "5000"}})
            return exchange.hold()

        return answer

    first.answer = answer_with("old")
    with connect(kubeconfig_of(port, tmp_path)) as client:
        changes = Changes()
        informer = client.watch(PODS, changes)
        assert changes.take(1) == {"old"}
        first.end()
        second = ScriptedApi(port)
        try:
            second.answer = answer_with("new")
            assert changes.take(2) == {"old", "new"}
            assert set(informer.objects()) == {("blue", "new")}
        finally:
            client.close()
            second.end()


def test_a_listener_that_fails_does_not_end_the_watch(api: ScriptedApi, client: KubeClient) -> None:
    def answer(exchange: Exchange) -> None:
        if not exchange.is_watch:
            return exchange.send(200, page(10, pod("a", 5)))
        exchange.start_watch()
        exchange.send_event("ADDED", pod("b", 11))
        return exchange.hold()

    api.answer = answer
    changes = Changes()

    def fail(name: ObjectName) -> None:
        changes(name)
        raise RuntimeError("a fault")

    client.watch(PODS, fail)
    assert changes.take(2) == {"a", "b"}
