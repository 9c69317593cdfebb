"""News for people: conditions that turn bad, and good again."""

from __future__ import annotations

from core.kube import Json
from core.manifests import events, parse, render
from core.manifests.events import Event
from core.plan import plan
from core.status import Status
from tests import objects

NOW = "2026-01-01T00:00:00Z"


def status_of(kind: str, *items: Json) -> Status:
    (found,) = [s for s in plan(parse(items)[0]).statuses if s.ref.kind == kind]
    return found


def stored(obj: Json, status: Status) -> Json:
    """The object as it is once the status is written."""
    return obj | render.status_object(status, obj, NOW) | {"metadata": obj["metadata"], "spec": obj["spec"]}


def test_what_is_good_from_the_beginning_is_no_news() -> None:
    assert events.news(status_of("L34Route", *objects.base()), objects.l34_route()) == ()


def test_a_route_whose_backend_goes_and_comes_back() -> None:
    good = status_of("L34Route", *objects.base())
    bad = status_of("L34Route", *(item for item in objects.base() if item["kind"] != "Service"))
    (gone,) = events.news(bad, stored(objects.l34_route(), good))
    assert gone.warning
    assert gone.reason == "BackendNotFound"
    assert "default/svc does not exist" in gone.message
    assert events.news(bad, stored(objects.l34_route(), bad)) == ()
    (back,) = events.news(good, stored(objects.l34_route(), bad))
    assert (back.warning, back.reason) == (False, "ResolvedRefs")


def test_a_gateway_tells_of_itself_and_of_its_listeners() -> None:
    listeners = [{"name": "a", "port": 1, "protocol": "HTTP"}, {"name": "b", "port": 2, "protocol": "TCP"}]
    gateway = objects.gateway(listeners=listeners)
    found = events.news(status_of("Gateway", gateway), gateway)
    assert ("AddressNotAssigned", True) in [(e.reason, e.warning) for e in found]
    assert any(e.message.startswith("listener a: protocol 'HTTP'") for e in found)
    assert not any(e.message.startswith("listener b") for e in found)


def test_the_same_news_is_counted() -> None:
    event = Event(warning=True, reason="BackendNotFound", message="x")
    route = objects.l34_route()
    first = events.event_object(event, route, None, NOW)
    second = events.event_object(event, route, first, "2026-01-01T00:00:09Z")
    assert second["metadata"] == first["metadata"]
    assert (second["count"], second["firstTimestamp"], second["lastTimestamp"]) == (2, NOW, "2026-01-01T00:00:09Z")
    assert second["involvedObject"]["kind"] == "L34Route"
    other = events.event_object(Event(warning=True, reason="BackendNotFound", message="y"), route, None, NOW)
    assert other["metadata"]["name"] != first["metadata"]["name"]
