"""Faults on request, for tests of the server's clients: the server is away, slow, busy, confused.

A fault is asked for over ``/tidegate/faults``, which is there only when the server was started with ``--allow-faults``::

    POST /tidegate/faults {"action": "status", "code": 429, "retry_after_s": 1, "seconds": 5}
    POST /tidegate/faults {"action": "reset", "count": 3, "path": "/api/v1/pods", "verbs": ["watch"]}
    GET /tidegate/faults        DELETE /tidegate/faults

Actions: ``refuse`` (nobody listens, open connections are closed), ``reset`` (the connection is reset), ``status`` (answered with
`code`), ``hang`` (never answered: half-open; a running watch falls silent), ``garbage`` (200, and a body that is not JSON; a running
watch gets a line that is not), ``compact`` (the past is forgotten: 410 for old watches), ``end_watches`` (running watches end),
``stale`` (lists are answered as they were `behind` versions ago, as by a replica that lags), ``disorder`` (running watches tell of
each two changes in the wrong order).

A fault is meant for the requests with one of its `verbs` whose path begins with its `path`, and for the watches that run and were asked
for so: these it strikes at once, whatever its `count`, which is of the requests that come. ``refuse`` and ``compact`` are everybody's.

An answer says what is on, and how many watches run, by address: ``{"faults": [...], "watches": 9, "watching": {"10.244.0.7": 9}}``.
With ``"spare_asker": true`` requests from the address that asked for the fault are answered well. What a fault did is counted, by what
it was and by whose address: ``{"struck": {"status 429": {"10.244.0.7": 3}}}``, in every answer, until a ``DELETE`` has told it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from sim.cluster.apimachinery import problems
from sim.cluster.apimachinery.problems import Json, StatusError

PATH: Final = "/tidegate/faults"
ACTIONS: Final = ("refuse", "reset", "status", "hang", "garbage", "compact", "end_watches", "stale", "disorder")
_REASONS: Final = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired",
    429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout",
}  # fmt: skip


_ONLY: Final = {"disorder": frozenset[str](), "stale": frozenset({"list"})}
"""The requests that an action can do something to; disorder is one of watches that run."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault: it ends at `until_s` (monotonic), or when it has struck `left` times."""

    action: str
    until_s: float
    left: int | None = None
    path: str = ""
    verbs: tuple[str, ...] = ()
    code: int = 500
    retry_after_s: int | None = None
    behind: int = 0
    spared: str = ""
    """The address of whom it never strikes."""

    @property
    def name(self) -> str:
        """As what it is counted."""
        return f"status {self.code}" if self.action == "status" else self.action

    def strikes(self, verb: str, path: str, client: str) -> bool:
        """Whether a request is one that it is meant for."""
        verbs = _ONLY.get(self.action, self.verbs)
        return client != self.spared and path.startswith(self.path) and (verbs == () or verb in verbs)

    def strikes_running(self, path: str, client: str) -> bool:
        """Whether a watch that runs is one that it is meant for."""
        return client != self.spared and path.startswith(self.path) and (self.verbs == () or "watch" in self.verbs)

    def error(self) -> StatusError:
        """What a request is answered with, for ``status``."""
        details: Json = {} if self.retry_after_s is None else {"retryAfterSeconds": self.retry_after_s}
        return StatusError(self.code, _REASONS.get(self.code, ""), "a fault that was asked for", details=details)

    def shown(self, now_s: float) -> Json:
        """The fault as the list of faults shows it."""
        return {
            "action": self.action, "seconds": round(self.until_s - now_s, 3), "count": self.left, "path": self.path,
            "verbs": list(self.verbs), "code": self.code, "retry_after_s": self.retry_after_s,
            "behind": self.behind,
        }  # fmt: skip


@dataclass(slots=True)
class Faults:
    """The faults that are on, and what faults have done."""

    on: list[Fault] = field(default_factory=list)
    struck: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often, by the fault's name and the address of the client."""
    cleared: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when those that are on are over before their time."""

    def clear(self) -> Json:
        """Ends all of them, and begins to count anew; gives what has been counted."""
        told, self.struck = self.counts(), Counter()
        self.on.clear()
        self.cleared.set()
        self.cleared = asyncio.Event()
        return told

    def count(self, name: str, client: str) -> None:
        """A fault has had its effect on a client."""
        self.struck[name, client] += 1

    def counts(self) -> Json:
        """What has been counted, as the list of faults shows it."""
        found: Json = {}
        for (name, client), count in self.struck.items():
            found.setdefault(name, {})[client] = count
        return found

    def strike(self, verb: str, path: str, client: str, now_s: float) -> Fault | None:
        """The fault that strikes a request, and counts it; None when it is spared."""
        self.on = [fault for fault in self.on if fault.until_s > now_s and fault.left != 0]
        for fault in self.on:
            if fault.strikes(verb, path, client):
                if fault.left is not None:
                    fault.left -= 1
                return fault
        return None


_KEYS: Final = ("action", "seconds", "count", "path", "verbs", "code", "retry_after_s", "behind", "spare_asker")


def parse(body: Any, asker: str, now_s: float) -> Fault:
    """The fault of a request from the address `asker`.

    Raises:
        StatusError: 400 with what is wrong.
    """
    if not isinstance(body, dict) or body.get("action") not in ACTIONS:
        raise problems.bad_request(
            f"a fault needs an action, one of {', '.join(ACTIONS)}: found {problems.shown(body)}"
        )
    unknown = [key for key in body if key not in _KEYS]
    if unknown:
        raise problems.bad_request(f"a fault has no {', '.join(unknown)}; it has {', '.join(_KEYS)}")
    seconds, count = body.get("seconds", 60), body.get("count")
    if not isinstance(seconds, (int, float)) or seconds < 0 or not (count is None or isinstance(count, int)):
        raise problems.bad_request(f"seconds is a number from 0, count a whole number: found {problems.shown(body)}")
    return Fault(
        action=body["action"],
        until_s=now_s + seconds,
        left=count,
        path=str(body.get("path", "")),
        verbs=tuple(body.get("verbs") or ()),
        code=int(body.get("code", 500)),
        retry_after_s=body.get("retry_after_s"),
        behind=int(body.get("behind", 0)),
        spared=asker if body.get("spare_asker") else "",
    )
