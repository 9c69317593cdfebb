"""The thread that follows a resource: it outlives whatever goes wrong, for with it the agent would know nothing new for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import cast

import pytest
from kubernetes.client import Configuration
from kubernetes.config import ConfigException

from core.errors import ApiError
from core.kube import PODS, Json
from live.kube_http import KubeHttp, WatchStream
from live.kube_informer import WatchingInformer

DEADLINE_S = 10.0


class Quiet:
    """A watch that tells nothing until it is shut down."""

    def __init__(self) -> None:
        self._ended = threading.Event()

    def __iter__(self) -> Iterator[Json]:
        self._ended.wait(DEADLINE_S)
        return iter(())

    def shut_down(self) -> None:
        self._ended.set()

    def close(self) -> None:
        pass


class Server:
    """Fails once with `error`, then answers."""

    def __init__(self, error: Exception) -> None:
        self._error: Exception | None = error

    def request(self, *_: object, **__: object) -> Json:
        error, self._error = self._error, None
        if error is not None:
            raise error
        items = [{"metadata": {"name": "a", "namespace": "blue", "resourceVersion": "4"}}]
        return {"metadata": {"resourceVersion": "5"}, "items": items}

    def open_watch(self, *_: object) -> WatchStream:
        return cast(WatchStream, Quiet())


@pytest.mark.parametrize("error", [ApiError(500, "Boom", "boom"), RuntimeError("a fault of ours"), MemoryError()])
def test_the_thread_goes_on_after_any_error(error: Exception) -> None:
    informer = WatchingInformer(
        cast(KubeHttp, Server(error)), PODS, lambda _: None, path="/api/v1/pods", selectors={}, jitter=lambda: 0.0
    )
    informer.start()
    try:
        assert informer.wait_synced(DEADLINE_S)
        assert set(informer.objects()) == {("blue", "a")}
        assert informer.failures_total == 1
    finally:
        informer.stop()
        informer.join(DEADLINE_S)


@pytest.mark.parametrize("error", [FileNotFoundError("the token is being renewed"), ConfigException("it is empty")])
def test_a_token_that_cannot_be_read_is_an_error_of_the_request(error: Exception) -> None:
    def renew(_: Configuration) -> None:
        raise error

    configuration = Configuration()
    configuration.host = "http://127.0.0.1:9"
    configuration.api_key["BearerToken"] = "bearer x"
    configuration.refresh_api_key_hook = renew
    http = KubeHttp(configuration)
    try:
        with pytest.raises(ApiError, match="the token cannot be read"):
            http.request("GET", "/api/v1/pods")
    finally:
        http.close()
