"""Whatever a server does to a reflector, it ends with the server's objects, and has told of each that differs."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from core.kube import PODS, Json, ObjectName
from core.reflector import Cause, Failure, ListPage, OpenWatch, Reflector, WaitUntil

NAMES = ("a", "b", "c", "d")


@dataclass
class Server:
    """A store with a history, of which everything up to `compacted` is forgotten."""

    version: int = 1
    objects: dict[ObjectName, Json] = field(default_factory=dict)
    history: list[tuple[int, Json]] = field(default_factory=list)
    compacted: int = 0

    def write(self, name: str, value: int) -> None:
        known = ("blue", name) in self.objects
        self.version += 1
        obj = self._object(name, value)
        self.objects["blue", name] = obj
        self.history.append((self.version, {"type": "MODIFIED" if known else "ADDED", "object": obj}))

    def delete(self, name: str) -> None:
        if ("blue", name) in self.objects:
            self.version += 1
            del self.objects["blue", name]
            self.history.append((self.version, {"type": "DELETED", "object": self._object(name, 0)}))

    def since(self, version: int) -> list[Json]:
        return [event for at, event in self.history if at > version]

    def _object(self, name: str, value: int) -> Json:
        metadata = {"namespace": "blue", "name": name, "resourceVersion": str(self.version)}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"value": value}}


class Session:
    """A shell that does what the reflector says, as far as the test lets it, and a consumer that follows what it is told."""

    def __init__(self, server: Server, jitter: float) -> None:
        self.server = server
        self.reflector = Reflector(PODS, jitter=lambda: jitter)
        self.now_s = 0.0
        self.watch_from: int | None = None
        self.snapshot: tuple[int, list[Json]] = (0, [])
        """What the pages of one list are read from."""
        self.seen: dict[ObjectName, Json] = {}

    def tell(self, changed: tuple[ObjectName, ...]) -> None:
        for name in changed:
            if name in self.reflector.objects():
                self.seen[name] = self.reflector.objects()[name]["spec"]
            else:
                self.seen.pop(name, None)

    def step(self) -> None:
        """One action, to its good end."""
        if self.watch_from is not None:
            events = self.server.since(self.watch_from)
            self.watch_from = self.server.version
            for event in events:
                self.tell(self.reflector.event_received(event, self.now_s))
            return
        match action := self.reflector.next_action(self.now_s):
            case WaitUntil():
                self.now_s = action.at_s
            case ListPage():
                if action.continue_token is None:
                    items = sorted(self.server.objects.values(), key=lambda obj: str(obj["metadata"]["name"]))
                    self.snapshot = (self.server.version, items)
                version, items = self.snapshot
                start = int(action.continue_token or 0)
                end = len(items) if action.limit is None else start + 2
                token = str(end) if end < len(items) else ""
                page = {"metadata": {"resourceVersion": str(version), "continue": token}, "items": items[start:end]}
                self.tell(self.reflector.page_received(page, self.now_s))
            case OpenWatch():
                if int(action.resource_version) < self.server.compacted:
                    self.fail(Failure(cause=Cause.REFUSED, what="Expired", code=410))
                else:
                    self.watch_from = int(action.resource_version)
                    self.reflector.watch_opened(self.now_s)

    def fail(self, failure: Failure) -> None:
        self.watch_from = None
        self.tell(self.reflector.failed(failure, self.now_s))


FAILURES = st.sampled_from(
    [
        Failure(cause=Cause.UNREACHABLE, what="reset"),
        Failure(cause=Cause.GARBAGE, what="html"),
        *(Failure(cause=Cause.REFUSED, what="no", code=code) for code in (403, 404, 410, 429, 500, 503, 504)),
    ]
)
WRITES = st.tuples(st.sampled_from(NAMES), st.integers(0, 2))
STEP = st.just(("step", None))
HAPPENINGS = st.lists(
    st.one_of(
        WRITES.map(lambda write: ("write", write)),
        st.sampled_from(NAMES).map(lambda name: ("delete", name)),
        FAILURES.map(lambda failure: ("fail", failure)),
        st.sampled_from([("compact", None), ("pass", None)]),
        STEP,
        STEP.map(lambda step: step),  # one_of drops repetitions, and a session is mostly steps
        STEP.map(lambda step: step),
        STEP.map(lambda step: step),
    ),
    min_size=20,
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(HAPPENINGS, st.floats(0, 0.99))
def test_it_ends_with_the_servers_objects_and_has_told_all(happenings: list[tuple[str, object]], jitter: float) -> None:
    server = Server()
    session = Session(server, jitter)
    for what, argument in happenings:
        match what, argument:
            case "write", (str(name), int(value)):
                server.write(name, value)
            case "delete", str(name):
                server.delete(name)
            case "fail", Failure() as failure:
                session.fail(failure)
            case "compact", _:
                server.compacted = server.version
                server.history.clear()
                if session.watch_from is not None and session.watch_from < server.version:
                    session.fail(Failure(cause=Cause.REFUSED, what="Expired", code=410))
            case "pass", _:
                session.now_s += 20.0
            case _:
                session.step()
    for _ in range(20):
        session.step()
    assert session.reflector.synced
    assert dict(session.reflector.objects()) == server.objects
    assert session.seen == {name: obj["spec"] for name, obj in server.objects.items()}
