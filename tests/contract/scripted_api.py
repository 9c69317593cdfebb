"""A server that answers as a test says, in the manner of the Kubernetes API. It keeps no objects; the one in `sim.cluster` does."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from core.kube import Json

Query = dict[str, str]


def pod(name: str, version: int, **spec: object) -> Json:
    return {"metadata": {"namespace": "blue", "name": name, "resourceVersion": str(version)}, "spec": spec}


def page(version: int, *items: Json, token: str = "") -> Json:
    return {"metadata": {"resourceVersion": str(version), "continue": token}, "items": list(items)}


def status(code: int, reason: str) -> Json:
    return {"kind": "Status", "code": code, "reason": reason, "message": f"{reason} it is"}


class Exchange(BaseHTTPRequestHandler):
    """One request; the test's `answer` function decides what comes back."""

    protocol_version = "HTTP/1.1"
    server: ScriptedApi

    def handle_any(self) -> None:
        split = urlsplit(self.path)
        self.path, self.query = split.path, dict(parse_qsl(split.query))
        length = int(self.headers.get("Content-Length", 0))
        self.body = json.loads(self.rfile.read(length)) if length else None
        self.server.seen.append((self.command, self.path, self.query, self.headers.get("Content-Type", ""), self.body))
        self.server.headers_seen.append(dict(self.headers))
        self.server.answer(self)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815  # the names that http.server looks for

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"

    def send(self, code: int, obj: Json | bytes, **headers: str) -> None:
        data = obj if isinstance(obj, bytes) else json.dumps(obj).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def start_watch(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_event(self, kind: str, obj: Json) -> None:
        self.send_chunk(json.dumps({"type": kind, "object": obj}).encode() + b"\n")

    def send_chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def end_watch(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def hold(self) -> None:
        """Keeps the connection open, silent, until the client has gone or the server ends."""
        self.connection.settimeout(0.05)
        while not self.server.ending.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        self.server.left.put(self.path)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        return


class ScriptedApi(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Exchange)
        self.answer: Callable[[Any], None] = lambda exchange: exchange.send(404, status(404, "NotFound"))
        self.seen: list[tuple[str, str, Query, str, Any]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.left: queue.Queue[str] = queue.Queue()
        self.ending = threading.Event()
        self.thread = threading.Thread(target=lambda: self.serve_forever(poll_interval=0.02))
        self.thread.start()

    def end(self) -> None:
        self.ending.set()
        self.shutdown()
        self.server_close()
        self.thread.join()

    def handle_error(self, *_: object) -> None:
        """Clients that leave in the middle are what these tests are about."""


def kubeconfig_of(port: int, folder: Path) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "it",
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "it", "user": {"token": "opensesame"}}],
            }
        )
    )
    return path
