"""The imitated API server as a process: how it starts and ends, what it costs, and the faults that it shows on request."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.contract.kube import servers
from tests.contract.kube.client import Client, Json, Server
from tests.contract.kube.samples import Namespace, config_map

FAULTS = "/tidegate/faults"
SPACE = Namespace("default")


@pytest.fixture(scope="module")
def faulty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that shows faults on request, tells bookmarks often and forgets its past soon."""
    options = ("--allow-faults", "--bookmark-interval-s", "0.3", "--keep-changes", "50")
    with servers.imitated(tmp_path_factory.mktemp("faulty"), *options) as server:
        yield server


@pytest.fixture
def faulty(faulty_server: Server) -> Iterator[Client]:
    """A client of that server; its faults are over with the test."""
    client = Client(faulty_server)
    yield client
    assert client.request("DELETE", FAULTS).code == 200


_numbers = itertools.count(1)


@pytest.fixture
def space(faulty: Client) -> Namespace:
    """A namespace of the test's own on the faulty server."""
    name = f"faults-{next(_numbers)}"
    made = faulty.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    assert made.code == 201
    return Namespace(name)


def events_of(folder: Path) -> list[Json]:
    return [json.loads(line) for line in (folder / "apiserver.log").read_text().splitlines()]


def test_it_starts_cheaply_and_logs_json(tmp_path: Path) -> None:
    with servers.imitated(tmp_path) as server:
        Client(server).get("/readyz")
        ready = events_of(tmp_path)[0]
    assert ready["event"] == "ready"
    assert ready["url"] == server.url
    assert ready["cpu_s"] < 0.6
    assert events_of(tmp_path)[-1]["event"] == "stopping"


def test_sigterm_ends_it_even_with_watches(tmp_path: Path) -> None:
    with servers.imitated(tmp_path) as server:
        client = Client(server)
        watch = client.watch(SPACE.core("configmaps"))
        client.create(SPACE.core("configmaps"), config_map("a"))
        assert watch.next() is not None
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert watch.rest() == []


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    with servers.imitated(tmp_path, "--token", "secret") as server:
        assert Client(server).get("/api").code == 200
        refused = urllib3.request("GET", server.url + "/api", retries=False)
        assert (refused.status, refused.json()["reason"]) == (401, "Unauthorized")
        assert urllib3.request("GET", server.url + "/healthz", retries=False).status == 200


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:", "127.0.0.1:99999", "192.0.2.1:1"])
def test_a_bad_address_ends_it_with_2(listen: str) -> None:
    command = [sys.executable, "-m", "sim.cluster.apiserver", "--listen", listen]
    done = subprocess.run(command, capture_output=True, text=True, cwd=servers.ROOT, timeout=30, check=False)
    assert done.returncode == 2
    assert listen in done.stderr


def test_the_kubeconfig_appears_whole(tmp_path: Path) -> None:
    """Nobody sees the file half-written: it is there with all its lines, or not at all."""
    seen: list[str] = []
    path = tmp_path / "kubeconfig"
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            if path.exists():
                seen.append(path.read_text())
                return

    looking = threading.Thread(target=look)
    looking.start()
    with servers.imitated(tmp_path):
        stop.wait(0)
        looking.join(10)
        stop.set()
    assert json.loads(seen[0])["kind"] == "Config"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_a_second_server_on_the_port_says_so(tmp_path: Path) -> None:
    with servers.imitated(tmp_path) as server:
        address = server.url.removeprefix("http://")
        command = [sys.executable, "-m", "sim.cluster.apiserver", "--listen", address]
        done = subprocess.run(command, capture_output=True, text=True, cwd=servers.ROOT, timeout=30, check=False)
    assert done.returncode == 2
    assert json.loads(done.stderr.splitlines()[-1])["event"] == "cannot listen"


def test_faults_are_not_served_unless_allowed(tmp_path: Path) -> None:
    with servers.imitated(tmp_path) as server:
        assert Client(server).request("POST", FAULTS, {"action": "reset"}).code == 404


@pytest.mark.parametrize(
    "body", [{}, {"action": "explode"}, {"action": "reset", "after": 1}, {"action": "reset", "seconds": "x"}]
)
def test_a_fault_must_be_one(faulty: Client, body: Json) -> None:
    assert faulty.request("POST", FAULTS, body).code == 400


def fault(client: Client, action: str, **options: Any) -> None:
    answer = client.request("POST", FAULTS, {"action": action, **options})
    assert answer.code == 200, answer.body


@pytest.mark.parametrize(
    ("code", "reason"), [(429, "TooManyRequests"), (500, "InternalError"), (409, "Conflict"), (410, "Expired")]
)
def test_status_codes_on_request(faulty: Client, space: Namespace, code: int, reason: str) -> None:
    fault(faulty, "status", code=code, count=2, retry_after_s=1, path=space.core("configmaps"))
    for _ in range(2):
        answer = faulty.get(space.core("configmaps"))
        assert (answer.code, answer.reason) == (code, reason)
        assert answer.headers["Retry-After"] == "1"
    assert faulty.get(space.core("configmaps")).code == 200
    assert faulty.get("/api/v1/namespaces").code == 200


def test_faults_for_some_verbs_only(faulty: Client, space: Namespace) -> None:
    fault(faulty, "status", code=500, verbs=["create"])
    assert faulty.create(space.core("configmaps"), config_map("a")).code == 500
    assert faulty.get(space.core("configmaps")).code == 200
    assert faulty.request("DELETE", FAULTS).body["faults"] == []
    assert faulty.create(space.core("configmaps"), config_map("a")).code == 201


def test_connections_are_reset(faulty: Client, space: Namespace) -> None:
    watch = faulty.watch(space.core("configmaps"))
    fault(faulty, "reset", count=1)
    with pytest.raises(urllib3.exceptions.ProtocolError):
        watch.next()
    with pytest.raises(urllib3.exceptions.ProtocolError):
        faulty.get(space.core("configmaps"))
    assert faulty.get(space.core("configmaps")).code == 200


def test_the_server_goes_away_and_comes_back_with_what_it_had(faulty: Client, space: Namespace) -> None:
    faulty.create(space.core("configmaps"), config_map("a"))
    watch = faulty.watch(
        space.core("configmaps"), resourceVersion=faulty.get(space.core("configmaps")).meta["resourceVersion"]
    )
    fault(faulty, "refuse", seconds=0.5)
    with pytest.raises(urllib3.exceptions.ProtocolError):
        watch.next()
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        Client(faulty.server).get(space.core("configmaps"))
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        try:
            if Client(faulty.server).get(space.core("configmaps", "a")).code == 200:
                return
        except urllib3.exceptions.NewConnectionError:
            time.sleep(0.05)
    raise AssertionError("the server did not come back")


def test_a_half_open_connection_is_silent(faulty: Client, space: Namespace) -> None:
    watch = faulty.watch(space.core("configmaps"), timeoutSeconds=1, allowWatchBookmarks="true")
    fault(faulty, "hang", seconds=0.5, path=space.core("configmaps"))
    started = time.monotonic()
    assert faulty.create(space.core("configmaps"), config_map("a")).code == 201
    assert time.monotonic() - started >= 0.4
    assert watch.rest() == []


def test_garbage(faulty: Client, space: Namespace) -> None:
    watch = faulty.watch(space.core("configmaps"))
    fault(faulty, "garbage", count=1)
    with pytest.raises(UnicodeDecodeError):
        watch.next()
    assert isinstance(faulty.get(space.core("configmaps")).body, str)
    assert isinstance(faulty.get(space.core("configmaps")).body, dict)


def test_what_a_fault_did_is_told_and_by_whose_address(faulty: Client, space: Namespace) -> None:
    path = space.core("configmaps")
    fault(faulty, "status", code=500, spare_asker=True)
    assert faulty.get(path).code == 200, "whoever asked for the fault from this address is spared"
    assert faulty.get(FAULTS).body["struck"] == {}
    fault(faulty, "status", code=429, count=2, verbs=["list"])
    watch = faulty.watch(path, timeoutSeconds=1)
    assert [faulty.get(path).code for _ in range(3)] == [429, 429, 200]
    assert watch.rest() == [], "it is no list"
    own = {"status 429": {"127.0.0.1": 2}}
    assert faulty.get(FAULTS).body["struck"] == own
    assert faulty.delete(FAULTS).body["struck"] == own
    assert faulty.get(FAULTS).body["struck"] == {}


def test_watches_end_on_request(faulty: Client, space: Namespace) -> None:
    watch = faulty.watch(space.core("configmaps"))
    fault(faulty, "end_watches")
    assert watch.rest() == []


@pytest.mark.parametrize("action", ["end_watches", "status", "hang", "garbage", "disorder", "reset"])
def test_a_fault_of_some_paths_leaves_the_watches_of_others(faulty: Client, space: Namespace, action: str) -> None:
    path = space.core("secrets")
    with faulty.watch(path) as watch:
        fault(faulty, action, path=space.core("configmaps"))
        assert faulty.get(FAULTS).body["struck"] == {}
        for name in ("a", "b"):
            body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
            assert faulty.create(path, body).code == 201
        told = [watch.next() for _ in range(2)]
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in told if event] == [
        ("ADDED", "a"),
        ("ADDED", "b"),
    ]


def test_a_reset_of_some_paths_strikes_the_watches_there(faulty: Client, space: Namespace) -> None:
    path = space.core("configmaps")
    watch = faulty.watch(path)
    fault(faulty, "reset", count=1, path=path)
    with pytest.raises(urllib3.exceptions.ProtocolError):
        watch.next()
    assert faulty.get(FAULTS).body["struck"] == {"reset": {"127.0.0.1": 1}}


def test_what_disorder_holds_back_is_told_before_a_watch_ends(tmp_path: Path) -> None:
    """The last bookmark says that all has been told."""
    with servers.imitated(tmp_path, "--allow-faults") as server:
        client = Client(server)
        then = client.get(SPACE.core("configmaps")).meta["resourceVersion"]
        watch = client.watch(
            SPACE.core("configmaps"), resourceVersion=then, timeoutSeconds=1, allowWatchBookmarks="true"
        )
        fault(client, "disorder")
        made = client.create(SPACE.core("configmaps"), config_map("a")).meta["resourceVersion"]
        events = [(event["type"], event["object"]["metadata"]["resourceVersion"]) for event in watch.rest()]
    assert events == [("ADDED", made), ("BOOKMARK", made)]


def test_a_running_watch_is_told_an_error(faulty: Client, space: Namespace) -> None:
    watch = faulty.watch(space.core("configmaps"))
    fault(faulty, "status", code=410, count=1)
    event = watch.next()
    assert event is not None
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    assert watch.next() is None


def test_a_version_that_was_compacted_is_gone(faulty: Client, space: Namespace) -> None:
    path = space.core("configmaps")
    made = [faulty.create(path, config_map(name)) for name in ("a", "b", "c")]
    then = faulty.get(path, limit=1)
    fault(faulty, "compact")
    with faulty.watch(path, resourceVersion=1) as watch:
        event = watch.next()
        assert event is not None
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
        assert event["object"]["message"].startswith("too old resource version: 1 ")
        assert watch.next() is None
    page = {"limit": 1, "continue": then.meta["continue"]}
    assert faulty.get(path, **page).code == 200, "nothing happened since the page began"
    faulty.create(path, config_map("d"))
    fault(faulty, "compact")
    refused = faulty.get(path, **page)
    assert (refused.code, refused.reason) == (410, "Expired")
    old = faulty.get(path, resourceVersion=made[-1].meta["resourceVersion"], resourceVersionMatch="Exact")
    assert (old.code, old.reason) == (410, "Expired")


def test_the_past_is_forgotten_by_itself(faulty: Client, space: Namespace) -> None:
    path = space.core("configmaps")
    then = faulty.create(path, config_map("a")).meta["resourceVersion"]
    for number in range(60):
        faulty.merge(space.core("configmaps", "a"), {"data": {"n": str(number)}})
    with faulty.watch(path, resourceVersion=then) as watch:
        event = watch.next()
    assert event is not None
    assert event["object"]["code"] == 410


def test_bookmarks_move_an_idle_watch_forward(faulty: Client, space: Namespace) -> None:
    path = space.core("configmaps")
    version = int(faulty.get(path).meta["resourceVersion"])
    with faulty.watch(path, resourceVersion=version, allowWatchBookmarks="true") as watch:
        faulty.create(space.core("secrets"), {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})
        mark = watch.until("BOOKMARK")
    assert mark["kind"] == "ConfigMap"
    assert int(mark["metadata"]["resourceVersion"]) > version


def test_a_client_that_goes_away_leaves_no_watch_behind(faulty: Client, space: Namespace) -> None:
    before = faulty.request("GET", FAULTS).body["watches"]
    watch = faulty.watch(space.core("configmaps"))
    assert faulty.request("GET", FAULTS).body["watches"] == before + 1
    with watch:
        pass
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        if faulty.request("GET", FAULTS).body["watches"] <= before:
            return
        time.sleep(0.02)
    raise AssertionError("the watch is still there")


def test_kill_leaves_only_the_kubeconfig(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    ready, tell = os.pipe()
    command = [
        sys.executable,
        "-m",
        "sim.cluster.apiserver",
        "--listen",
        "127.0.0.1:0",
        "--kubeconfig-out",
        str(kubeconfig),
    ]
    process = subprocess.Popen(
        [*command, "--ready-fd", str(tell)], stderr=subprocess.DEVNULL, pass_fds=(tell,), cwd=servers.ROOT
    )
    os.close(tell)
    assert os.read(ready, 100) == b"ready\n"
    os.close(ready)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    assert [entry.name for entry in tmp_path.iterdir()] == ["kubeconfig"]
