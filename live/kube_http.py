"""HTTP to the Kubernetes API: addresses, credentials, JSON bodies and errors, over the `kubernetes` client's connection pool.

Only `config` and `ApiClient` of that package are touched: they know every form of kubeconfig (certificates, tokens, exec plugins,
in-cluster files) and how tokens are renewed. Its typed API classes would cost a further second of CPU and 20 MB.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.utils.keepalive import tcp_keepalive_socket_options

from core.errors import ApiError, InputError, Problem
from core.kube import Json

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
WATCH_READ_TIMEOUT_S = 150.0
"""The server sends a bookmark every 60 s, spread by up to 25 %: after two that did not come the stream is dead. Bookmarks are no
promise, and against a server without them this costs one reconnection in 150 s, from the version that we have."""

POOL_CONNECTIONS = 32
"""Idle connections that are kept: as many as a process has watches, which all end at once."""
LINE_LIMIT_BYTES = 32 << 20
"""Far above the largest object (etcd takes 1.5 MiB): a stream without line ends must not fill the memory."""

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
USER_AGENT = "tidegate"


class GarbageError(ApiError):
    """The server answered with something that is not the Kubernetes API."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, "InvalidResponse", message)


def load_configuration(kubeconfig: Path | None = None) -> Configuration:
    """How to reach the API: `kubeconfig`, else $KUBECONFIG, else the Pod's service account, else ~/.kube/config.

    Raises:
        InputError: nothing is configured, or what is configured cannot be read.
    """
    configuration = Configuration()
    named = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG", "")
    in_cluster = not named and "KUBERNETES_SERVICE_HOST" in os.environ
    where = "in-cluster configuration" if in_cluster else named or "~/.kube/config"
    try:
        if in_cluster:
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(config_file=named or None, client_configuration=configuration)
    except Exception as error:  # yaml, ConfigException, KeyError, OSError, binascii: whatever is wrong, it is the file
        problem = Problem(
            where=where,
            what="cannot be used to reach the Kubernetes API",
            found=f"{type(error).__name__}: {error}",
            expected="a kubeconfig file named by --kubeconfig or KUBECONFIG, or a Pod with a service account",
        )
        raise InputError(problem) from error
    configuration.retries = False
    configuration.connection_pool_maxsize = POOL_CONNECTIONS
    # A peer that is gone without a word is found in 10 + 3 * 5 s.
    configuration.socket_options = tcp_keepalive_socket_options(idle=10, interval=5, count=3)
    return configuration


class WatchStream:
    """The open answer to a watch: an iterator over its events, which another thread may `close`."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[Json]:
        """Raises ApiError when the connection breaks, GarbageError when a line is not a JSON object."""
        pending = bytearray()
        while chunk := self._read():
            pending += chunk
            if b"\n" in chunk:
                *lines, rest = pending.split(b"\n")
                pending = rest
                for line in lines:
                    if line.strip():
                        yield _decode(bytes(line), self._response.status)
            elif len(pending) > LINE_LIMIT_BYTES:
                raise GarbageError(self._response.status, f"a line of a watch is longer than {LINE_LIMIT_BYTES} bytes")
        if pending.strip():
            raise GarbageError(self._response.status, "a watch ended in the middle of a line")

    def _read(self) -> bytes:
        try:
            return self._response.read1(1 << 16)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError: http.client's file was closed by another thread between two reads.
            raise ApiError(0, "Unreachable", f"the watch broke: {error}") from error

    def shut_down(self) -> None:
        """Wakes the thread that reads: its iteration ends or raises ApiError. Safe from any thread, any number of times."""
        try:
            self._response.shutdown()
        except (OSError, ValueError, RuntimeError):
            return  # it has ended by itself, which is all that was wanted

    def close(self) -> None:
        """Frees the connection; only by the thread that reads."""
        self._response.close()


class KubeHttp:
    """Requests to one API server. Any number of threads may share it."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._pool: urllib3.PoolManager = self._client.rest_client.pool_manager
        self._credentials = threading.Lock()
        # A pooled connection that the server has closed meanwhile is noticed only when it is used. Only a GET may be sent twice.
        self._retries = urllib3.Retry(
            total=2, connect=0, read=1, status=0, redirect=False, other=0,
            allowed_methods={"GET"}, respect_retry_after_header=False,
        )  # fmt: skip

    @property
    def server(self) -> str:
        """Where the API server is, as a URL without a slash at its end."""
        return str(self._configuration.host).rstrip("/")

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        """The JSON object that the server answers with.

        Raises:
            ApiError: the server refuses, or is not reached (code 0).
        """
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
        response = self._send(method, path, query, body, content_type, timeout, retries=self._retries)
        try:
            data = response.data
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, "Unreachable", f"{method} {path}: {error}") from error
        if response.status >= 400:
            raise _refusal(response, data)
        return _decode(data, response.status)

    def open_watch(self, path: str, query: Mapping[str, str]) -> WatchStream:
        """An open watch, once the server has accepted it.

        Raises:
            ApiError: the server refuses, or is not reached (code 0).
        """
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=WATCH_READ_TIMEOUT_S)
        response = self._send("GET", path, query, None, "", timeout, retries=False)
        if response.status != 200:
            try:
                raise _refusal(response, response.data)
            finally:
                response.close()
        return WatchStream(response)

    def close(self) -> None:
        """Closes the idle connections."""
        self._client.close()
        self._pool.clear()

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Json | None,
        content_type: str,
        timeout: urllib3.Timeout,
        *,
        retries: urllib3.Retry | bool,
    ) -> urllib3.BaseHTTPResponse:
        url = self.server + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
        try:
            with self._credentials:  # renewing a token may run a program and rewrites the configuration
                self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, None)
        except (config.ConfigException, OSError, ValueError) as error:
            raise ApiError(0, "NoCredentials", f"{method} {path}: the token cannot be read: {error}") from error
        payload = None
        if body is not None:
            headers["Content-Type"] = content_type
            payload = json.dumps(body, separators=(",", ":")).encode()
        try:
            return self._pool.request(
                method, url, body=payload, headers=headers, timeout=timeout, retries=retries, preload_content=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, "Unreachable", f"{method} {path}: {error}") from error


def _decode(data: bytes, code: int) -> Json:
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise GarbageError(code, f"not JSON: {data[:80]!r} ({error})") from error
    if not isinstance(value, dict):
        raise GarbageError(code, f"not a JSON object: {data[:80]!r}")
    return value


def _refusal(response: urllib3.BaseHTTPResponse, data: bytes) -> ApiError:
    """The Status object that the server answered with, or what a proxy in between said instead of it."""
    try:
        status = _decode(data, response.status)
    except GarbageError:
        status = {}
    retry_after = response.headers.get("Retry-After", "")
    return ApiError(
        response.status,
        str(status.get("reason") or response.reason or "Unknown"),
        str(status.get("message") or data[:200].decode(errors="replace") or "no message"),
        retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
    )
