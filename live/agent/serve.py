"""A small HTTP server in a thread: paths to functions. And the three paths that every agent has."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from core.errors import InputError, Problem
from live.agent.health import Health
from live.agent.metrics import CONTENT_TYPE, Registry

log = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"
IDLE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a path answers with."""

    code: int = 200
    content_type: str = TEXT
    text: str


Handler = Callable[[Mapping[str, str]], Answer]
"""Takes the query, returns the answer. Called from any number of threads."""


class HttpServer:
    """Serves GET and HEAD of `routes` on `address` ("host:port"; an empty host means every address, of both families) until closed."""

    def __init__(self, address: str, routes: Mapping[str, Handler]) -> None:
        host, port = split_address(address)
        self._server = _Listener(host, port, dict(routes))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name=f"http-{address}", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens, when 0 was asked for."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stops listening, and breaks off what is connected."""
        self._server.shutdown()
        self._server.server_close()
        self._server.break_off()
        self._thread.join()


def agent_routes(health: Health, metrics: Registry) -> dict[str, Handler]:
    """/healthz and /readyz: 200, or 503 with a line for each reason. /metrics: Prometheus text."""

    def verdict(reasons: tuple[str, ...], good: str = "ok") -> Answer:
        if reasons:
            return Answer(code=503, text="".join(f"{reason}\n" for reason in reasons))
        return Answer(text=f"{good}\n")

    return {
        "/healthz": lambda _: verdict(health.why_dead()),
        "/readyz": lambda _: verdict(health.why_not_ready(), health.as_what),
        "/metrics": lambda _: Answer(content_type=CONTENT_TYPE, text=metrics.render()),
    }


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of "host:port", "[v6]:port" or ":port".

    Raises:
        InputError: it is none of these.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or int(port) > 65535:
        problem = Problem(
            where="address", what="cannot listen there", found=repr(address), expected="host:port, [v6]:port or :port"
        )
        raise InputError(problem)
    return host, int(port)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, routes: dict[str, Handler]) -> None:
        self.routes = routes
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        everywhere = not host and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if everywhere or ":" in host else socket.AF_INET
        super().__init__((host, port), _Request, bind_and_activate=False)
        self.socket.close()
        try:
            self.socket = socket.create_server((host, port), family=family, dualstack_ipv6=everywhere)
        except OSError as error:
            problem = Problem(
                where="address", what=f"cannot listen there: {error.strerror}", found=repr(f"{host}:{port}")
            )
            raise InputError(problem) from error
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def break_off(self) -> None:
        """Wakes every thread that waits for the next request on its connection."""
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client was first
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # the base class's signature
        log.error("an HTTP request failed", extra={"client": str(client_address), "why": traceback.format_exc()})


class _Request(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT_S
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        handler = self.server.routes.get(split.path)
        if handler is None:
            answer = Answer(code=404, text=f"{split.path} is none of: {' '.join(self.server.routes)}\n")
        else:
            answer = handler(dict(parse_qsl(split.query)))
        data = answer.text.encode()
        try:
            self.send_response(answer.code)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
        except OSError:
            self.close_connection = True  # the client has left without waiting for its answer: its right

    do_HEAD = do_GET  # noqa: N815  # the name that http.server looks for

    def log_message(self, *_: object) -> None:
        """A probe every few seconds is not worth a line."""
