"""A queue of keys that are to be reconciled: level-triggered, de-duplicated, rate-limited. Pure: the time is an argument.

A key says only *that* something changed; whoever takes it looks at everything there is. So a key that waits already is added in
vain, a key that is being worked on is worked on once more afterwards, and a storm of changes costs one turn a window.

Source: client-go util/workqueue.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from core.backoff import Backoff

Key = TypeVar("Key", bound=Hashable)

RETRY = Backoff(first_s=0.1, cap_s=10.0)
WINDOW_S = 0.02


class WorkQueue(Generic[Key]):
    """Keys with the time at which each is due. A key is taken at once when it is new, and at most once in `window_s`.

    `jitter` returns a number uniform in [0, 1).
    """

    def __init__(self, *, jitter: Callable[[], float], window_s: float = WINDOW_S, retry: Backoff = RETRY) -> None:
        self._jitter = jitter
        self._window_s = window_s
        self._retry = retry
        self._due_s: dict[Key, float] = {}
        self._working: dict[Key, bool] = {}
        """Keys that are worked on; True when they were added again meanwhile."""
        self._not_before_s: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}

    def __len__(self) -> int:
        """How many keys wait."""
        return len(self._due_s)

    def add(self, key: Key, now_s: float, *, after_s: float = 0.0) -> None:
        """Something changed that concerns `key`: it is due in `after_s`, or when it already waits, at the earlier of both times.

        New information also ends the wait after a failure: it may be the cure.
        """
        if key in self._working and after_s == 0.0:
            self._working[key] = True
            return
        due_s = max(now_s + after_s, self._not_before_s.get(key, now_s))
        self._due_s[key] = min(due_s, self._due_s.get(key, due_s))

    def take(self, now_s: float) -> Key | None:
        """The key that has been due longest, now being worked on until `done` or `failed`; None when none is due. O(waiting)."""
        ready = [key for key, due_s in self._due_s.items() if due_s <= now_s and key not in self._working]
        if not ready:
            return None
        key = min(ready, key=self._due_s.__getitem__)
        del self._due_s[key]
        self._working[key] = False
        self._not_before_s = {other: at_s for other, at_s in self._not_before_s.items() if at_s > now_s}
        self._not_before_s[key] = now_s + self._window_s
        return key

    def idle(self, now_s: float) -> bool:
        """Whether there is nothing to do now but what is being worked on. O(keys)."""
        return not any(self._working.values()) and not any(due_s <= now_s for due_s in self._due_s.values())

    def next_due_s(self) -> float | None:
        """When `take` will next return a key, if nothing else happens; None when nothing waits."""
        return min((due_s for key, due_s in self._due_s.items() if key not in self._working), default=None)

    def done(self, key: Key, now_s: float) -> None:
        """The work on `key` succeeded: its failures are forgotten."""
        self._failures.pop(key, None)
        self._release(key, now_s)

    def failed(self, key: Key, now_s: float) -> float:
        """The work on `key` failed. Returns the seconds until it is tried again if nothing new is learned before."""
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        self._release(key, now_s)
        wait_s = self._retry.delay_s(failures, self._jitter())
        self.add(key, now_s, after_s=wait_s)
        return wait_s

    def failures(self, key: Key) -> int:
        """How often the work on `key` failed in a row."""
        return self._failures.get(key, 0)

    def _release(self, key: Key, now_s: float) -> None:
        if self._working.pop(key):
            self.add(key, now_s)
