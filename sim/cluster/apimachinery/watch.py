"""A running watch: changes become lines of JSON, written as fast as the client reads them.

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Efficient detection of changes", "Watch bookmarks", "Streaming lists".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from sim.cluster.apimachinery.problems import Json, StatusError
from sim.cluster.apimachinery.requests import encode
from sim.cluster.apimachinery.selectors import Test
from sim.cluster.apimachinery.store import Change, Collection, Record, Store, shown_event

MAX_BACKLOG_BYTES: Final = 64 << 20
"""A client that is this far behind is disconnected, and lists again."""
DEFAULT_TIMEOUT_S: Final = 1800.0
"""When the client gives none. Source: apiserver pkg/endpoints/handlers/get.go: half an hour at least."""
INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"


@dataclass(slots=True, kw_only=True, eq=False)
class Watch:
    """One client's watch of one collection. `encoded` gives a record's bytes in the form that the client wants."""

    store: Store
    collection: Collection
    namespace: str | None
    selected: Test | None
    encoded: Callable[[Record], bytes]
    bookmark: Callable[[str, bool], Json]
    """The object of a bookmark: for a version, and whether the initial events end here."""
    bookmarks: bool = False
    bookmark_interval_s: float = 60.0
    timeout_s: float = DEFAULT_TIMEOUT_S
    silent: bool = False
    """Struck by a fault: still open, and what it would say waits, as in a network that is interrupted."""
    disordered: Callable[[], None] | None = None
    """Struck by a fault: each two lines change places, and this is called when they do."""
    client: str = ""
    """The address of whoever watches."""
    path: str = ""
    """Of the request, as faults name it."""
    transport: asyncio.BaseTransport | None = None
    """The connection."""
    _held: bytes = b""
    _pending: list[bytes] = field(default_factory=list)
    _pending_bytes: int = 0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: bool = False

    def follow(self, _: Collection, change: Change) -> None:
        """Takes a change of the collection."""
        if self.namespace is not None and change.name[0] != self.namespace:
            return
        event = shown_event(change, self.selected)
        if event is not None:
            self.say(b'{"type":"%s","object":%s}\n' % (event[0].encode(), self.encoded(event[1])))

    def say(self, line: bytes) -> None:
        """Sends a line as soon as the client reads."""
        if self._ended:
            return
        if self.disordered is not None:
            if not self._held:
                self._held = line
                return
            self.disordered()
        line, self._held = line + self._held, b""
        self._pending.append(line)
        self._pending_bytes += len(line)
        if self._pending_bytes > MAX_BACKLOG_BYTES:
            self._ended = True
        self._wake.set()

    def mend(self) -> None:
        """Ends what faults do to it: what has waited is said."""
        self.silent, self.disordered = False, None
        if self._held:
            self.say(b"")
        self._wake.set()

    def say_bookmark(self, version: str, *, initial_end: bool = False) -> None:
        self.say(b'{"type":"BOOKMARK","object":%s}\n' % encode(self.bookmark(version, initial_end)))

    def end(self, error: StatusError | None = None) -> None:
        """Ends the watch after what is pending, with an ERROR event if there is one to tell."""
        if error is not None:
            self.say(error_line(error))
        self._ended = True
        self._wake.set()

    async def run(self, response: web.StreamResponse, first: Iterable[bytes]) -> None:
        """Writes `first`, and then what happens, until the time is over, the watch is ended or the client is gone."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.timeout_s
        next_bookmark_s = loop.time() + self.bookmark_interval_s if self.bookmarks else float("inf")
        for line in first:
            self.say(line)
        while True:
            if self._pending and not self.silent:
                block = b"".join(self._pending)
                self._pending.clear()
                self._pending_bytes = 0
                await response.write(block)
                continue
            if self._ended or loop.time() >= deadline_s:
                break
            if loop.time() >= next_bookmark_s:
                next_bookmark_s = loop.time() + self.bookmark_interval_s
                self.say_bookmark(str(self.store.version))
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout_at(min(deadline_s, next_bookmark_s)):
                    await self._wake.wait()
            except TimeoutError:
                continue
        # What disorder holds back comes first: the last bookmark says that all has been told.
        rest, self._held = self._held, b""
        if self.bookmarks and not self._ended:
            rest += b'{"type":"BOOKMARK","object":%s}\n' % encode(self.bookmark(str(self.store.version), False))
        if rest and not self.silent:
            await response.write(rest)
        await response.write_eof()


def error_line(error: StatusError) -> bytes:
    """The ERROR event of a watch that cannot go on."""
    return b'{"type":"ERROR","object":%s}\n' % encode(error.status)
