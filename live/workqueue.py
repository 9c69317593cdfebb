"""The work queue among threads, and the loop that reconciles what comes out of it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from core.errors import TidegateError
from core.workqueue import WINDOW_S, WorkQueue

Key = TypeVar("Key", bound=Hashable)

log = logging.getLogger(__name__)


class SharedQueue(Generic[Key]):
    """A `core.workqueue.WorkQueue` that threads add to and wait on, until it is closed."""

    def __init__(self, *, window_s: float = WINDOW_S, jitter: Callable[[], float] = random.random) -> None:
        self._queue: WorkQueue[Key] = WorkQueue(window_s=window_s, jitter=jitter)
        self._changed = threading.Condition()
        self._closed = False

    def add(self, key: Key, *, after_s: float = 0.0) -> None:
        """Something changed that concerns `key`; it is worked on now, or `after_s` from now."""
        with self._changed:
            self._queue.add(key, time.monotonic(), after_s=after_s)
            self._changed.notify()

    def take(self) -> Key | None:
        """Waits for the next key; None when the queue is closed. `done` or `failed` must follow."""
        with self._changed:
            while not self._closed:
                now_s = time.monotonic()
                key = self._queue.take(now_s)
                if key is not None:
                    return key
                due_s = self._queue.next_due_s()
                self._changed.wait(None if due_s is None else max(0.0, due_s - now_s))
            return None

    def done(self, key: Key) -> None:
        with self._changed:
            self._queue.done(key, time.monotonic())
            self._changed.notify()

    def failed(self, key: Key) -> float:
        """Returns the seconds until `key` is tried again."""
        with self._changed:
            wait_s = self._queue.failed(key, time.monotonic())
            self._changed.notify()
            return wait_s

    def failures(self, key: Key) -> int:
        with self._changed:
            return self._queue.failures(key)

    def idle(self) -> bool:
        """Whether there is nothing to do now but what is being worked on."""
        with self._changed:
            return self._queue.idle(time.monotonic())

    def close(self) -> None:
        """Every `take`, waiting or to come, returns None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One reconciliation that is over: `error` is None when it succeeded."""

    duration_s: float
    error: Exception | None


class Observer(Protocol):
    """Told about every turn: metrics, readiness."""

    def started(self) -> None: ...

    def ended(self, turn: Turn) -> None: ...


def run_reconciler(
    queue: SharedQueue[Key], reconcile: Callable[[Key], float | None], *, observer: Observer | None = None
) -> None:
    """Calls `reconcile` with each key that is due until the queue is closed; the seconds it returns, if any, are when to call again.

    A reconciliation that raises is logged and tried again with back-off: an expected error (TidegateError) in one line, any other with
    its traceback. Several threads may run this on one queue.
    """
    while (key := queue.take()) is not None:
        if observer is not None:
            observer.started()
        started_s = time.monotonic()
        error: Exception | None = None
        try:
            again_s = reconcile(key)
        except Exception as caught:
            error, again_s = caught, None
            wait_s = queue.failed(key)
            log.error(
                "reconciling failed, will retry",
                exc_info=None if isinstance(caught, TidegateError) else caught,
                extra={
                    "key": str(key),
                    "why": str(caught),
                    "failures": queue.failures(key),
                    "retry_s": round(wait_s, 3),
                },
            )
        else:
            queue.done(key)
        if again_s is not None:
            queue.add(key, after_s=again_s)
        if observer is not None:
            observer.ended(Turn(duration_s=time.monotonic() - started_s, error=error))
