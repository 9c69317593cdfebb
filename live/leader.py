"""Leader election by a Lease: of several processes that would write the same objects, one does.

The rules are those of client-go's `tools/leaderelection`, so a Lease is understood by whoever knows those:

* A Lease is held until `leaseDurationSeconds` after the holder's last renewal *was seen*; clocks of machines are never compared.
* Every write carries the resourceVersion that was read, so of two candidates that find a Lease free one is refused (409 Conflict).
* A leader that could not renew within `renew_deadline_s` is no leader any more, well before another one may be.

Stricter than client-go: the deadline counts from when the renewal was sent, not from when it was answered; it holds while a request
hangs; and a leader that sees another holder stops at once.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from core.errors import ApiError
from core.kube import LEASES, Json, KubeApi

log = logging.getLogger(__name__)

JITTER = 0.2
"""A candidate waits up to a fifth longer than `retry_s`: those that started together do not ask together for ever."""
STOP_TIMEOUT_S = 5.0
"""For a request that is under way when `Election.stop` is called; without an answer the Lease is left to run out."""
RELEASED_S = 1
"""`leaseDurationSeconds` of a Lease that was given back: the API wants one second at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long what lasts. Source: the defaults of client-go's users (component-base, LeaderElectionConfiguration)."""

    lease_duration_s: int = 15
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0

    def __post_init__(self) -> None:
        if not self.lease_duration_s > self.renew_deadline_s > self.retry_s * (1 + JITTER):
            raise ValueError(f"found {self}, expected lease_duration_s > renew_deadline_s > retry_s x {1 + JITTER}")


DEFAULT_TERMS = Terms()


def utc_now() -> datetime:
    return datetime.now(UTC)


class Candidate:
    """One that would hold the Lease `namespace`/`name` as `identity`. It does not wait and starts no thread: `Election` does.

    `now_s` is a clock that never jumps; `utc_now` is only for people who read the Lease.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        namespace: str,
        name: str,
        identity: str,
        terms: Terms = DEFAULT_TERMS,
        now_s: Callable[[], float] = time.monotonic,
        utc_now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.identity = identity
        self.terms = terms
        self._api = api
        self._metadata: Json = {"namespace": namespace, "name": name}
        self._now_s = now_s
        self._utc_now = utc_now
        self._lease: Json | None = None
        self._seen_s = 0.0
        self._renewed_s: float | None = None

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last seen; empty: nobody."""
        return _holder(self._lease)

    def time_left_s(self) -> float:
        """The seconds for which this candidate may still act as the leader; 0 when it may not."""
        if self._renewed_s is None:
            return 0.0
        return max(0.0, self._renewed_s + self.terms.renew_deadline_s - self._now_s())

    def attempt(self) -> bool:
        """Takes the Lease if it is free, renews it if it is held. Whether that succeeded."""
        started_s = self._now_s()
        try:
            won = self._renew() or self._take()
        except ApiError as error:
            log.log(
                logging.DEBUG if error.code == 409 else logging.WARNING,
                "the Lease was neither taken nor renewed",
                extra={"why": error.message, "code": error.code, "holder": self.holder},
            )
            return False
        if won:
            self._renewed_s = started_s
        elif self.holder != self.identity:
            self._renewed_s = None
        return won

    def release(self) -> None:
        """Gives the Lease back, so that another need not wait until it has run out. For who has stopped to act as the leader.

        A refusal is logged and no more: the Lease runs out by itself.
        """
        self._renewed_s = None
        if self._lease is None or self.holder != self.identity:
            return
        spec = {key: value for key, value in self._lease["spec"].items() if key != "holderIdentity"}
        now = _micro_time(self._utc_now())
        try:
            self._write({**spec, "leaseDurationSeconds": RELEASED_S, "acquireTime": now, "renewTime": now})
        except ApiError as error:
            log.warning("the Lease was not given back", extra={"why": error.message, "code": error.code})

    def _renew(self) -> bool:
        """One request while nothing has changed: what was seen last is still what there is, else the API says so."""
        if self._lease is None or self.time_left_s() <= 0.0:
            return False
        try:
            self._write(self._lease["spec"] | self._held())
        except ApiError as error:
            if error.code not in (404, 409):
                raise
            return False  # somebody has changed or deleted it: look again
        return True

    def _take(self) -> bool:
        found = self._api.get(LEASES, self._metadata["namespace"], self._metadata["name"])
        if found is None:
            now = _micro_time(self._utc_now())
            first = {"acquireTime": now, "leaseTransitions": 0} | self._held()
            self._see(self._api.create(LEASES, {"metadata": self._metadata, "spec": first}))
            return True
        self._see(found)
        spec: Json = found.get("spec") or {}
        if self.holder == self.identity:
            self._write(spec | self._held())
            return True
        if self.holder and self._now_s() < self._seen_s + float(spec.get("leaseDurationSeconds") or 0):
            return False
        transitions = int(spec.get("leaseTransitions") or 0) + 1
        self._write(
            spec | {"acquireTime": _micro_time(self._utc_now()), "leaseTransitions": transitions} | self._held()
        )
        return True

    def _held(self) -> Json:
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.terms.lease_duration_s,
            "renewTime": _micro_time(self._utc_now()),
        }

    def _write(self, spec: Json) -> None:
        self._see(self._api.replace(LEASES, {**(self._lease or {}), "spec": spec}))

    def _see(self, lease: Json) -> None:
        """What counts is when the Lease was seen to change, not the time that stands in it."""
        if self._lease is None or self._lease.get("spec") != lease.get("spec"):
            self._seen_s = self._now_s()
        self._lease = lease


def _holder(lease: Json | None) -> str:
    return str(((lease or {}).get("spec") or {}).get("holderIdentity") or "")


def _micro_time(when: datetime) -> str:
    """Source: apimachinery, pkg/apis/meta/v1/micro_time.go."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Election:
    """Keeps a candidate in the race, from `start` to `stop`.

    `on_elected` is called once, when it has won; `on_lost` once, when it may not act any more, though it had won: it must end whatever
    writes, at once. Both are called from threads of the election.
    """

    def __init__(
        self,
        candidate: Candidate,
        *,
        on_elected: Callable[[], None],
        on_lost: Callable[[], None],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._candidate = candidate
        self._on_elected = on_elected
        self._on_lost = on_lost
        self._jitter = jitter
        self._ended = threading.Event()
        self._elected = threading.Event()
        self._losing = threading.Lock()
        self._racer = threading.Thread(target=self._race, name="leader-race", daemon=True)
        # Of its own: the racer may hang in a request for longer than the deadline.
        self._watchman = threading.Thread(target=self._watch, name="leader-deadline", daemon=True)

    def leads(self) -> bool:
        """Whether this process may act as the leader now."""
        return self._elected.is_set() and self._candidate.time_left_s() > 0.0

    def start(self) -> None:
        self._racer.start()

    def stop(self) -> None:
        """Leaves the race and gives the Lease back. For who has stopped to act as the leader."""
        self._ended.set()
        self._racer.join(STOP_TIMEOUT_S)
        if self._racer.is_alive():
            log.warning("the Lease was not given back", extra={"why": "a request for it has no answer yet"})
        else:
            self._candidate.release()

    def _race(self) -> None:
        try:
            self._compete()
        except Exception:  # whatever it is, nobody is in the race any more: a new process may be
            log.exception("the election failed")
            self._lose()

    def _compete(self) -> None:
        terms = self._candidate.terms
        holder = ""
        while not self._ended.is_set():
            won = self._candidate.attempt()
            if won and not self._elected.is_set():
                log.info("elected", extra={"identity": self._candidate.identity})
                self._elected.set()
                self._watchman.start()
                self._on_elected()
            elif self._elected.is_set() and not self.leads():
                self._lose()
                return
            elif self._candidate.holder != holder:
                holder = self._candidate.holder
                log.info("standby", extra={"leader": holder})
            self._ended.wait(terms.retry_s if won else terms.retry_s * (1 + JITTER * self._jitter()))

    def _watch(self) -> None:
        while (left_s := self._candidate.time_left_s()) > 0.0:
            if self._ended.wait(left_s):
                return
        self._lose()

    def _lose(self) -> None:
        with self._losing:
            if self._ended.is_set():
                return
            self._ended.set()
        log.error("not the leader any more", extra={"leader": self._candidate.holder})
        self._on_lost()
