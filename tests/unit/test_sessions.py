"""Sessions in the statuses of GatewayRouters: each pod writes its own, and those of pods that are gone go.

That one manager's element goes and the others stay is the API server's doing, which the fake one here does not imitate;
`tests/netns/test_faults.py` shows it where a gateway pod is deleted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.errors import ApiError
from core.kube import GATEWAY_ROUTERS, Json, Resource
from core.manifests import parse
from core.model import ObjectRef
from core.plan import plan
from core.ports import PeerState
from live.sessions import SessionReports, forget_session, rfc3339, sessions, stale_sessions
from tests import objects
from tests.fakes import FakeApi

REF = ObjectRef(kind="GatewayRouter", namespace="default", name="router-v4")
(PEER,) = plan(parse([objects.gateway(), objects.router()])[0]).gateways[0].peers
STATE = PeerState(name="router-v4", up=True, session="Established", bfd="Up", since="2026-01-01T00:00:00Z", announced=1)


@pytest.fixture
def api() -> FakeApi:
    made = FakeApi()
    made.create(GATEWAY_ROUTERS, objects.router())
    return made


def stored(api: FakeApi) -> Json:
    found = api.get(GATEWAY_ROUTERS, "default", "router-v4")
    assert found is not None
    return found


def pods(*names: str) -> list[Json]:
    made = [objects.gateway_pod(index) for index in range(len(names))]
    for pod, name in zip(made, names, strict=True):
        pod["metadata"]["name"] = name
    return made


def test_a_time_that_is_told_a_second_off_is_no_change(api: FakeApi) -> None:
    """BIRD says 00:59.999, and 01:00.000 the next time."""
    reports = SessionReports(api, "a")
    reports.tell([PEER], [STATE], [stored(api)])
    version = stored(api)["metadata"]["resourceVersion"]
    reports.tell([PEER], [replace(STATE, since="2026-01-01T00:00:01Z")], [stored(api)])
    assert stored(api)["metadata"]["resourceVersion"] == version
    reports.tell([PEER], [replace(STATE, since="2026-01-01T00:00:02Z")], [stored(api)])
    assert stored(api)["status"]["sessions"][0]["since"] == "2026-01-01T00:00:02Z"
    reports.tell([PEER], [replace(STATE, session="Active", since="2026-01-01T00:00:03Z")], [stored(api)])
    assert stored(api)["status"]["sessions"][0]["since"] == "2026-01-01T00:00:03Z"


def test_each_element_whose_pod_is_gone_is_stale() -> None:
    router = objects.router() | {"status": {"sessions": [{"pod": "a"}, {"pod": "b"}]}}
    assert list(stale_sessions([router], pods("a"))) == [(REF, "b")]
    assert not list(stale_sessions([router], pods("a", "b")))


def test_a_pod_of_another_gateway_carries_no_session() -> None:
    """The label of the GatewayRouter was changed, say: its former pods live, and report no more."""
    router = objects.router(gateway_name="other") | {"status": {"sessions": [{"pod": "a"}]}}
    assert list(stale_sessions([router], pods("a"))) == [(REF, "a")]
    orphan = objects.router(gateway_name="") | {"status": {"sessions": [{"pod": "a"}]}}
    unlabelled = pods("a")
    unlabelled[0]["metadata"]["labels"] = {}
    assert list(stale_sessions([orphan], unlabelled)) == [(REF, "a")]


def test_what_is_no_list_of_sessions_is_none() -> None:
    assert sessions({}) == []
    assert sessions({"status": {"sessions": "x"}}) == []
    assert sessions({"status": {"sessions": [3, {"pod": "a"}]}}) == [{"pod": "a"}]


def test_a_report_is_made_once_and_again_when_somebody_has_taken_it_away(api: FakeApi) -> None:
    reports = SessionReports(api, "a")
    reports.tell([PEER], [STATE], [stored(api)])
    assert [s["session"] for s in sessions(stored(api))] == ["Established"]
    version = stored(api)["metadata"]["resourceVersion"]
    reports.tell([PEER], [STATE], [stored(api)])
    assert stored(api)["metadata"]["resourceVersion"] == version
    forget_session(api, REF, "a")
    assert not sessions(stored(api))
    reports.tell([PEER], [STATE], [stored(api)])
    assert [s["pod"] for s in sessions(stored(api))] == ["a"]


class Refusing(FakeApi):
    """An API that refuses with `code`, as long as that is not None."""

    def __init__(self, code: int | None) -> None:
        super().__init__()
        self.code = code

    def apply(self, *arguments: Any, **options: Any) -> Json:
        if self.code is not None:
            raise ApiError(self.code, "Unreachable", "it is away")
        return super().apply(*arguments, **options)


@pytest.mark.parametrize("code", [0, 409, 429, 500])
def test_a_report_that_is_not_taken_disturbs_nothing(code: int) -> None:
    """The API server may be away for as long as it likes: the pod forwards and announces, and says that it is ready. The report is made
    when the API takes it again."""
    api = Refusing(code)
    api.create(GATEWAY_ROUTERS, objects.router())
    reports = SessionReports(api, "a")
    reports.tell([PEER], [STATE], [stored(api)])
    assert not sessions(stored(api))
    api.code = None
    reports.tell([PEER], [STATE], [stored(api)])
    assert [s["session"] for s in sessions(stored(api))] == ["Established"]


def test_a_router_that_is_refused_keeps_no_other_from_its_report(api: FakeApi) -> None:
    other = replace(PEER, name="router-x", router=replace(REF, name="router-x"))
    refused: list[str] = []

    def refuse(verb: str, _: Resource, name: str) -> None:
        if name == "router-x":
            refused.append(verb)
            raise ApiError(422, "Invalid", "no such field")

    api.refuse = refuse
    SessionReports(api, "a").tell([other, PEER], [replace(STATE, name="router-x"), STATE], [stored(api)])
    assert refused
    assert [s["session"] for s in sessions(stored(api))] == ["Established"]


def test_a_router_that_is_gone_has_nothing_to_forget() -> None:
    forget_session(Refusing(404), REF, "a")
    with pytest.raises(ApiError):
        forget_session(Refusing(500), REF, "a")


def test_birds_time_is_local() -> None:
    assert rfc3339("no time") == ""
    assert rfc3339("2026-01-01 00:00:00+01:00") == "2025-12-31T23:00:00Z"
