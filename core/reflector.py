"""The list-and-watch protocol of the Kubernetes API as a state machine that does no I/O.

The shell asks `next_action`, does it, and reports what came of it; each report returns the names of the objects that changed.
Time and randomness are arguments, so that every wait can be tested without waiting.

    ListPage ──pages──> OpenWatch ──events, bookmarks──┐
        ▲                  ▲  └──────── ended ─────────┘
        └── WaitUntil <────┴── failed

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Efficient detection of changes"; client-go tools/cache/reflector.go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from core.backoff import Backoff
from core.kube import Json, ObjectName, Resource

PAGE_LIMIT = 500
"""Objects a page, as client-go's default."""

RETRY = Backoff(first_s=0.2, cap_s=10.0)
RETRY_AFTER_CAP_S = 60.0
"""No server may silence us for longer than this, however wrong its Retry-After."""

WATCH_MIN_S = 240
WATCH_SPREAD_S = 60
SHORT_WATCH_S = 1.0
"""A watch that ends sooner and brings nothing counts as a failure (client-go: "very short watch")."""

SILENT_WATCH_S = 120.0
"""A watch that has told of nothing for so long, not even by one of the bookmarks that come each minute, may never: a server whose store
was restored from a backup waits until it has come to our version. Then only a new list tells."""

ABSENT_RETRY_S = 30.0
ABSENT_GRACE_S = 30.0
"""How long a resource that was served must answer 404 until its objects are taken as gone with it."""

STALE_GRACE_S = 3.0
"""How long a list that is older than what is known is refused. A replica that lags catches up in less: the real server, too, waits so
long for its own cache. A store that was restored from a backup never does, and then it is right."""

RESUMABLE_CODES = frozenset({429, 502, 503})
"""Refusals of a watch that say nothing against its resourceVersion; after all others only a new list is safe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPage:
    """List the resource, without a resourceVersion: a consistent read, so that no list is older than what is known already.

    `limit` None asks for everything at once.
    """

    limit: int | None
    continue_token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWatch:
    """Watch from `resource_version`, with bookmarks, for `timeout_s` at most (timeoutSeconds)."""

    resource_version: str
    timeout_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitUntil:
    """Do nothing until the clock shows `at_s`."""

    at_s: float


Action = ListPage | OpenWatch | WaitUntil


class Cause(Enum):
    UNREACHABLE = "unreachable"
    """No answer, or none to its end: refused, reset, timed out."""
    REFUSED = "refused"
    """An HTTP status or a Status object other than success."""
    GARBAGE = "garbage"
    """An answer that is not what the protocol says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a list or a watch failed; `code` is the HTTP or Status code when it was REFUSED."""

    cause: Cause
    what: str
    code: int = 0
    retry_after_s: float | None = None


class _GarbageError(Exception):
    """What the server sent is not what the protocol says."""


class Reflector:
    """Follows one resource. `jitter` returns a number uniform in [0, 1)."""

    def __init__(self, resource: Resource, *, jitter: Callable[[], float]) -> None:
        self._resource = resource
        self._jitter = jitter
        self._objects: dict[ObjectName, Json] = {}
        self._snapshot: Mapping[ObjectName, Json] | None = None
        self._version: str | None = None
        self._listing: dict[ObjectName, Json] = {}
        self._page = ListPage(limit=PAGE_LIMIT, continue_token=None)
        self._wait_until_s = 0.0
        self._failures = 0
        self._watch_opened_s: float | None = None
        self._watch_told = False
        self._absent_since_s: float | None = None
        self._served = False
        self._newest: str | None = None
        """The newest version that the server has ever told of."""
        self._stale_since_s: float | None = None
        self.synced = False

    @property
    def absent(self) -> bool:
        """Whether the server answered last that it does not serve this resource."""
        return self._absent_since_s is not None

    @property
    def version(self) -> str | None:
        """The newest version that the server has told of, None before the first list: `objects` has all changes up to it."""
        return self._newest

    def objects(self) -> Mapping[ObjectName, Json]:
        """The objects as they are now; the mapping never changes. O(n) after a change, else O(1)."""
        if self._snapshot is None:
            self._snapshot = MappingProxyType(dict(self._objects))
        return self._snapshot

    def next_action(self, now_s: float) -> Action:
        """What the shell does next."""
        if now_s < self._wait_until_s:
            return WaitUntil(at_s=self._wait_until_s)
        if self._version is None:
            return self._page
        timeout_s = WATCH_MIN_S + int(WATCH_SPREAD_S * self._jitter())
        return OpenWatch(resource_version=self._version, timeout_s=timeout_s)

    def page_received(self, page: Json, now_s: float) -> tuple[ObjectName, ...]:
        """Takes one page of a list. Returns the names that differ from what was known, when it was the last page."""
        try:
            version, token, items = self._read_page(page)
        except _GarbageError as garbage:
            return self.failed(Failure(cause=Cause.GARBAGE, what=str(garbage)), now_s)
        self._listing.update(items)
        if token:
            self._page = ListPage(limit=PAGE_LIMIT, continue_token=token)
            return ()
        if self._is_stale(version, now_s):
            what = f"a list of version {version}, but version {self._newest} is known"
            return self.failed(Failure(cause=Cause.GARBAGE, what=what), now_s)
        listed = self._listing
        self._restart_list(limit=PAGE_LIMIT)
        self._version = self._newest = version
        self._absent_since_s = None
        self._served = True
        self.synced = True
        return self._replace_all(listed)

    def watch_opened(self, now_s: float) -> None:
        """The server has accepted the watch."""
        self._watch_opened_s = now_s
        self._watch_told = False

    def event_received(self, event: Json, now_s: float) -> tuple[ObjectName, ...]:
        """Takes one line of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR. Returns the name that changed, if one did.

        After an ERROR or garbage the watch is over: `watching` is False.
        """
        kind, obj = event.get("type"), event.get("object")
        if kind == "ERROR":
            return self.failed(failure_of_status(obj if isinstance(obj, dict) else {}), now_s)
        try:
            if kind not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK") or not isinstance(obj, dict):
                raise _GarbageError(f"a watch event of type {kind!r}")
            name, version = _identity(obj)
            if kind != "BOOKMARK" and not name[1]:
                raise _GarbageError(f"a watch event {kind} without a name")
            # A deletion may be told with the version of the last write, but not with one from before the object that we know.
            known = self._version if kind != "DELETED" else _version_of(self._objects.get(name))
            if _older(version, known):
                raise _GarbageError(f"a watch event {kind} of version {version}, but version {known} is known")
        except _GarbageError as garbage:
            return self.failed(Failure(cause=Cause.GARBAGE, what=str(garbage)), now_s)
        self._version = self._version if _older(version, self._version) else version
        self._newest = self._newest if _older(version, self._newest) else version
        self._failures = 0
        self._watch_told = True
        if kind == "BOOKMARK":
            return ()
        if kind == "DELETED":
            self._snapshot = None
            return (name,) if self._objects.pop(name, None) is not None else ()
        return (name,) if self._store(name, obj) else ()

    @property
    def watching(self) -> bool:
        """Whether the open watch goes on."""
        return self._watch_opened_s is not None

    def watch_ended(self, now_s: float) -> None:
        """The server ended the watch in order, as it does after `timeout_s`."""
        if self._watch_told or self._lived(now_s):
            self._failures = 0
            if self._was_silent(now_s):
                self._version = None
            self._watch_opened_s = None
        else:
            self.failed(Failure(cause=Cause.UNREACHABLE, what="the watch ended at once"), now_s)

    def failed(self, failure: Failure, now_s: float) -> tuple[ObjectName, ...]:
        """A list or a watch failed. Returns the names that are gone, when the resource itself is."""
        if self._lived(now_s):
            self._failures = 0
        silent = self._was_silent(now_s)
        self._watch_opened_s = None
        self._failures += 1
        paging = self._page.continue_token is not None
        resumable = failure.cause is Cause.UNREACHABLE or failure.code in RESUMABLE_CODES
        if not resumable or silent:
            self._version = None
        # A continue token expires with the snapshot that it reads; the whole list at once cannot expire.
        self._restart_list(limit=None if failure.code == 410 and paging else PAGE_LIMIT)
        wait_s = RETRY.delay_s(self._failures, self._jitter())
        if failure.retry_after_s is not None:
            wait_s = max(wait_s, min(failure.retry_after_s, RETRY_AFTER_CAP_S))
        elif failure.code == 410 and self._failures == 1:
            wait_s = 0.0
        gone: tuple[ObjectName, ...] = ()
        if failure.code == 404:
            wait_s, gone = self._not_served(wait_s, now_s)
        else:
            self._absent_since_s = None
        self._wait_until_s = now_s + wait_s
        return gone

    def _not_served(self, wait_s: float, now_s: float) -> tuple[float, tuple[ObjectName, ...]]:
        """A definition may be installed later: nothing is there meanwhile, and that is known. One that *was* there may only be
        hidden while a server starts, so its objects are kept for a while."""
        if self._absent_since_s is None:
            self._absent_since_s = now_s
        if self._served and now_s - self._absent_since_s < ABSENT_GRACE_S:
            return wait_s, ()
        self._served = False
        self.synced = True
        return ABSENT_RETRY_S * (0.5 + 0.5 * self._jitter()), self._replace_all({})

    def _is_stale(self, version: str, now_s: float) -> bool:
        """Whether a list must not be believed: it would bring back what is gone, and take away what has come."""
        if not _older(version, self._newest):
            self._stale_since_s = None
            return False
        if self._stale_since_s is None:
            self._stale_since_s = now_s
        return now_s - self._stale_since_s < STALE_GRACE_S

    def _restart_list(self, *, limit: int | None) -> None:
        self._listing = {}
        self._page = ListPage(limit=limit, continue_token=None)

    def _lived(self, now_s: float) -> bool:
        return self._watch_opened_s is not None and now_s - self._watch_opened_s >= SHORT_WATCH_S

    def _was_silent(self, now_s: float) -> bool:
        opened_s = self._watch_opened_s
        return opened_s is not None and not self._watch_told and now_s - opened_s >= SILENT_WATCH_S

    def _read_page(self, page: Json) -> tuple[str, str | None, dict[ObjectName, Json]]:
        metadata, items = page.get("metadata"), page.get("items")
        # A server written in Go sends null for an empty list.
        items = [] if items is None else items
        if not isinstance(metadata, dict) or not isinstance(items, list):
            raise _GarbageError("a list without metadata or items")
        version, token = metadata.get("resourceVersion"), metadata.get("continue")
        if not isinstance(version, str) or not version:
            raise _GarbageError("a list without a resourceVersion")
        return version, token, {_identity(item)[0]: self._tidy(item) for item in items}

    def _replace_all(self, listed: dict[ObjectName, Json]) -> tuple[ObjectName, ...]:
        gone = [name for name in self._objects if name not in listed]
        changed = [name for name, obj in listed.items() if not _alike(self._objects.get(name), obj)]
        self._objects = listed
        self._snapshot = None
        return (*gone, *changed)

    def _store(self, name: ObjectName, obj: Json) -> bool:
        tidy = self._tidy(obj)
        changed = not _alike(self._objects.get(name), tidy)
        self._objects[name] = tidy
        self._snapshot = None
        return changed

    def _tidy(self, obj: Json) -> Json:
        """The object without managedFields (half of its size, read by nobody), and with the type that lists of built-in
        resources leave out of their items."""
        metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
        return {"apiVersion": self._resource.api_version, "kind": self._resource.kind, **obj, "metadata": metadata}


def failure_of_status(status: Json) -> Failure:
    """The Failure that a Status object tells of, with its `details.retryAfterSeconds`."""
    code, details = status.get("code"), status.get("details")
    retry_after = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    return Failure(
        cause=Cause.REFUSED,
        what=f"{status.get('reason', 'Unknown')}: {status.get('message', 'no message')}",
        code=code if isinstance(code, int) else 500,
        retry_after_s=float(retry_after) if isinstance(retry_after, int) and retry_after > 0 else None,
    )


def _identity(obj: object) -> tuple[ObjectName, str]:
    """The name and the resourceVersion of an object; a bookmark has no name."""
    metadata = obj.get("metadata") if isinstance(obj, dict) else None
    if not isinstance(metadata, dict):
        raise _GarbageError("an object without metadata")
    version = metadata.get("resourceVersion")
    if not isinstance(version, str) or not version:
        raise _GarbageError(f"object {metadata.get('name')!r} without a resourceVersion")
    namespace, name = metadata.get("namespace") or "", metadata.get("name") or ""
    if not isinstance(namespace, str) or not isinstance(name, str):
        raise _GarbageError(f"an object called {name!r} in {namespace!r}")
    return (namespace, name), version


def _version_of(obj: Json | None) -> str | None:
    return obj["metadata"]["resourceVersion"] if obj is not None else None


def _older(version: str, known: str | None) -> bool:
    """Whether a watch tells of a version before one that we know: a server that has lost its store accepts a watch from a version
    that is still to come, and would leave us with objects that are no more. (Some servers tell of a deletion with the version of
    the last write.)
    """
    number, least = version_number(version), version_number(known)
    return number is not None and least is not None and number < least


def version_number(version: str | None) -> int | None:
    """A resourceVersion as a number of 64 bits, as etcd has them; None: it is none, and cannot be compared.

    Source: KEP-5504, Comparable Resource Version: decimal numbers of one resource may be compared.
    """
    return int(version) if version is not None and version.isdecimal() and len(version) <= 20 else None


def _alike(old: Json | None, new: Json) -> bool:
    """Whether two objects say the same: a write that changed nothing but bookkeeping gives a new resourceVersion."""
    if old is None:
        return False
    return {**old, "metadata": {**old["metadata"], "resourceVersion": ""}} == {
        **new,
        "metadata": {**new["metadata"], "resourceVersion": ""},
    }
