"""A thin HTTP client for the contract of the Kubernetes API: it adds nothing, so that what is tested is the server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlencode

import urllib3

Json = dict[str, Any]

JSON: Final = "application/json"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
APPLY: Final = "application/apply-patch+yaml"
TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io"
DISCOVERY: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
DEADLINE_S: Final = 15.0


def _restart_nothing() -> None:
    raise NotImplementedError("only who started a server can restart it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running API server: its URL, what it takes to be let in, and a kubeconfig for it."""

    name: str
    url: str
    kubeconfig: Path
    token: str = ""
    ca: Path | None = None
    restart: Callable[[], None] = _restart_nothing
    """Kills the API server without a word and starts it again where it was; returns when it is ready."""

    @property
    def imitated(self) -> bool:
        return self.name == "imitated"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    code: int
    body: Any
    headers: Mapping[str, str]

    @property
    def reason(self) -> str:
        """The reason of a Status."""
        return str(self.body.get("reason", "")) if isinstance(self.body, dict) else ""

    @property
    def causes(self) -> set[tuple[str, str]]:
        """(reason, field) of each cause of a Status."""
        details = self.body.get("details") or {}
        return {(cause["reason"], cause["field"]) for cause in details.get("causes") or []}

    @property
    def meta(self) -> Json:
        found: Json = self.body["metadata"]
        return found


class Watch:
    """A running watch: `next` gives one event, `until` reads on until an event fits."""

    def __init__(self, response: urllib3.response.BaseHTTPResponse) -> None:
        self.code = response.status
        self._response = response
        self._events = _events(response)

    def next(self) -> Json | None:
        """The next event, None at the end of the watch. Raises urllib3's ReadTimeoutError after the deadline."""
        return next(self._events, None)

    def until(self, kind: str, name: str = "") -> Json:
        """The object of the next event of a type, about an object of a name if one is given."""
        while (event := self.next()) is not None:
            if event["type"] == kind and (not name or event["object"]["metadata"].get("name") == name):
                found: Json = event["object"]
                return found
        raise AssertionError(f"the watch ended without {kind} {name}")

    def rest(self) -> list[Json]:
        """All events until the end."""
        return list(self._events)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.close()
        self._response.close()


def _events(response: urllib3.response.BaseHTTPResponse) -> Generator[Json, None, None]:
    """Knows nothing of its Watch, or both would wait for the garbage collector: that may close this, which needs the lock of the
    connection pool, while the thread that it interrupts holds it.
    """
    pending = b""
    for block in response.stream(65536):
        *lines, pending = (pending + block).split(b"\n")
        for line in lines:
            yield json.loads(line)


class Client:
    """Requests to one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        timeout = urllib3.Timeout(DEADLINE_S)
        if server.ca is None:
            self._pool = urllib3.PoolManager(retries=False, timeout=timeout)
        else:
            self._pool = urllib3.PoolManager(
                retries=False, timeout=timeout, ca_certs=str(server.ca), assert_hostname=False
            )

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        data: bytes | None,
        headers: Mapping[str, str],
        *,
        stream: bool,
    ) -> urllib3.response.BaseHTTPResponse:
        url = self.server.url + path + ("?" + urlencode(query) if query else "")
        sent = {"Accept": JSON, "User-Agent": "contract/1.0", **headers}
        if self.server.token:
            sent["Authorization"] = f"Bearer {self.server.token}"
        return self._pool.request(method, url, body=data, headers=sent, preload_content=not stream)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        media: str = JSON,
        accept: str = JSON,
        raw: bytes | None = None,
        **query: Any,
    ) -> Answer:
        """One request; `raw` is sent as it is, `body` as JSON."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        headers = {"Accept": accept, **({"Content-Type": media} if data is not None else {})}
        response = self._open(method, path, query, data, headers, stream=False)
        try:
            value = json.loads(response.data)
        except ValueError:
            value = response.data.decode(errors="replace")
        return Answer(response.status, value, response.headers)

    def get(self, path: str, *, accept: str = JSON, **query: Any) -> Answer:
        return self.request("GET", path, accept=accept, **query)

    def create(self, path: str, body: Any, **query: Any) -> Answer:
        return self.request("POST", path, body, **query)

    def replace(self, path: str, body: Any, **query: Any) -> Answer:
        return self.request("PUT", path, body, **query)

    def merge(self, path: str, body: Any, **query: Any) -> Answer:
        return self.request("PATCH", path, body, media=MERGE, **query)

    def strategic(self, path: str, body: Any, **query: Any) -> Answer:
        return self.request("PATCH", path, body, media=STRATEGIC, **query)

    def json_patch(self, path: str, body: Any, **query: Any) -> Answer:
        return self.request("PATCH", path, body, media=JSON_PATCH, **query)

    def apply(self, path: str, body: Any, manager: str, *, force: bool = False, **query: Any) -> Answer:
        given = {"fieldManager": manager, **({"force": "true"} if force else {}), **query}
        return self.request("PATCH", path, body, media=APPLY, **given)

    def delete(self, path: str, body: Any = None, **query: Any) -> Answer:
        return self.request("DELETE", path, body, **query)

    def watch(self, path: str, *, accept: str = JSON, **query: Any) -> Watch:
        """Starts a watch; it ends by itself within the deadline."""
        asked = {"watch": "true", "timeoutSeconds": int(DEADLINE_S) - 5, **query}
        return Watch(self._open("GET", path, asked, None, {"Accept": accept}, stream=True))

    def wait_gone(self, path: str) -> None:
        """Returns when there is nothing at `path` any more, within the deadline."""
        collection, _, name = path.rpartition("/")
        with self.watch(collection, fieldSelector=f"metadata.name={name}") as watch:
            if self.get(path).code != 404:
                watch.until("DELETED", name)

    def wait_for(self, path: str, holds: Any) -> Json:
        """The object at `path` once it `holds`, within the deadline; told by a watch, not by asking again and again."""
        collection, _, name = path.rpartition("/")
        ends = time.monotonic() + DEADLINE_S
        with self.watch(collection, fieldSelector=f"metadata.name={name}") as watch:
            while (event := watch.next()) is not None and time.monotonic() < ends:
                if event["type"] in ("ADDED", "MODIFIED") and holds(event["object"]):
                    found: Json = event["object"]
                    return found
        raise AssertionError(f"{path} did not come to hold within {DEADLINE_S} s; last: {self.get(path).body}")
