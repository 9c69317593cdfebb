"""The thread that follows one resource: it does what `core.reflector` says, and tells what came of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import assert_never

from core.errors import ApiError
from core.kube import Json, ObjectName, Resource
from core.reflector import Cause, Failure, ListPage, OpenWatch, Reflector, WaitUntil
from live.kube_http import GarbageError, KubeHttp, WatchStream

log = logging.getLogger(__name__)


class WatchingInformer:
    """A `core.kube.Informer` that runs in a thread of its own until `close`."""

    def __init__(
        self,
        http: KubeHttp,
        resource: Resource,
        on_change: Callable[[ObjectName], None],
        *,
        path: str,
        selectors: Mapping[str, str],
        jitter: Callable[[], float],
        on_synced: Callable[[], None] | None = None,
    ) -> None:
        self.resource = resource
        self.failures_total = 0
        self._http = http
        self._on_change = on_change
        self._on_synced = on_synced
        self._path = path
        self._selectors = selectors
        self._reflector = Reflector(resource, jitter=jitter)
        self._objects: Mapping[ObjectName, Json] = self._reflector.objects()
        self._changed = threading.Lock()
        self._synced = threading.Event()
        self._stopped = threading.Event()
        self._stream: WatchStream | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{resource.plural}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def synced(self) -> bool:
        """Whether the first list is complete, or the server does not serve this resource."""
        return self._synced.is_set()

    def wait_synced(self, timeout_s: float) -> bool:
        """Waits for `synced`, at most `timeout_s`; returns it."""
        return self._synced.wait(timeout_s)

    @property
    def version(self) -> str | None:
        """The newest version that the server has told of, None before the first list: `objects` has all changes up to it, or more."""
        with self._changed:
            return self._reflector.version

    def objects(self) -> Mapping[ObjectName, Json]:
        """The objects as they are now, without managedFields; the mapping and what is in it never change."""
        with self._changed:
            return self._reflector.objects()

    def stop(self) -> None:
        """Ends the watch at once; the thread follows."""
        with self._changed:
            self._stopped.set()
            if self._stream is not None:
                self._stream.shut_down()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread to end; one that is still connecting is left to die with the process."""
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopped.is_set():
            action = self._reflector.next_action(time.monotonic())
            try:
                match action:
                    case ListPage():
                        self._list(action)
                    case OpenWatch():
                        self._watch(action)
                    case WaitUntil():
                        self._stopped.wait(max(0.0, action.at_s - time.monotonic()))
                    case _:
                        assert_never(action)
            except ApiError as error:
                self._fail(_failure_of(error))
            except Exception as error:  # a thread that ends would leave the agent with what it knew then, for ever
                log.exception("following a resource failed", extra={"resource": self.resource.plural})
                self._fail(Failure(cause=Cause.GARBAGE, what=repr(error)))

    def _list(self, action: ListPage) -> None:
        query = dict(self._selectors)
        if action.limit is not None:
            query["limit"] = str(action.limit)
        if action.continue_token is not None:
            query["continue"] = action.continue_token
        page = self._http.request("GET", self._path, query=query)
        with self._changed:
            changed = self._reflector.page_received(page, time.monotonic())
        self._tell(changed)

    def _watch(self, action: OpenWatch) -> None:
        query = {
            **self._selectors,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": action.resource_version,
            "timeoutSeconds": str(action.timeout_s),
        }
        stream = self._http.open_watch(self._path, query)
        try:
            with self._changed:
                if self._stopped.is_set():
                    return
                self._stream = stream
            self._reflector.watch_opened(time.monotonic())
            for event in stream:
                with self._changed:
                    changed = self._reflector.event_received(event, time.monotonic())
                self._tell(changed)
                if not self._reflector.watching:
                    log.info("watch restarts", extra={"resource": self.resource.plural, "event": str(event)[:200]})
                    self.failures_total += 1
                    return
            self._reflector.watch_ended(time.monotonic())
        finally:
            with self._changed:
                self._stream = None
            stream.close()

    def _fail(self, failure: Failure) -> None:
        if self._stopped.is_set():
            return
        self.failures_total += 1
        was_absent = self._reflector.absent
        with self._changed:
            gone = self._reflector.failed(failure, time.monotonic())
        fields = {"resource": self.resource.plural, "api_version": self.resource.api_version, "why": failure.what}
        if not self._reflector.absent:
            log.warning("cannot follow a resource, will retry", extra=fields)
        elif not was_absent:
            log.warning("the server does not serve a resource; it may be installed later", extra=fields)
        self._tell(gone)

    def _tell(self, changed: tuple[ObjectName, ...]) -> None:
        first = self._reflector.synced and not self._synced.is_set()
        if first:
            self._synced.set()
        for name in changed:
            self._call(lambda name=name: self._on_change(name))  # type: ignore[misc]  # mypy cannot infer a lambda's default
        if first and self._on_synced is not None:
            self._call(self._on_synced)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:  # a fault of one listener must not end the watch that others live from
            log.exception("a listener failed", extra={"resource": self.resource.plural})


def _failure_of(error: ApiError) -> Failure:
    if isinstance(error, GarbageError):
        return Failure(cause=Cause.GARBAGE, what=str(error))
    if error.code == 0:
        return Failure(cause=Cause.UNREACHABLE, what=error.message)
    return Failure(cause=Cause.REFUSED, what=str(error), code=error.code, retry_after_s=error.retry_after_s)
