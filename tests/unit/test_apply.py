"""Server-side apply without needless requests."""

from __future__ import annotations

from typing import Any, cast

import pytest

from core.errors import ApiError
from core.kube import PODS, Json, KubeApi
from live.apply import Applier, covers


class RecordingApi:
    """Counts the applies; refuses them when told so."""

    def __init__(self) -> None:
        self.bodies: list[Json] = []
        self.error: ApiError | None = None

    def apply(self, resource: Any, obj: Json, **_: Any) -> Json:
        del resource
        if self.error is not None:
            raise self.error
        self.bodies.append(obj)
        return obj


def wanted(**annotations: str) -> Json:
    return {"metadata": {"namespace": "default", "name": "a", "annotations": annotations}}


@pytest.fixture
def api() -> RecordingApi:
    return RecordingApi()


@pytest.fixture
def applier(api: RecordingApi) -> Applier:
    return Applier(cast(KubeApi, api), "tests")


def test_what_is_there_is_not_asked_for_again(api: RecordingApi, applier: Applier) -> None:
    current = wanted(x="1", of_others="2")
    assert applier.apply(PODS, wanted(x="1"), current)  # a new process does not know what it applied before
    assert not applier.apply(PODS, wanted(x="1"), current)
    assert len(api.bodies) == 1


def test_what_somebody_changed_is_put_right(api: RecordingApi, applier: Applier) -> None:
    applier.apply(PODS, wanted(x="1"), None)
    assert applier.apply(PODS, wanted(x="1"), wanted(x="2"))
    assert applier.apply(PODS, wanted(x="1"), None)
    assert len(api.bodies) == 3


def test_a_field_that_is_no_longer_wanted_is_removed(api: RecordingApi, applier: Applier) -> None:
    applier.apply(PODS, wanted(x="1", y="1"), None)
    assert applier.apply(PODS, wanted(x="1"), wanted(x="1", y="1"))
    assert api.bodies[-1] == wanted(x="1")


def test_an_object_that_has_gone_needs_no_status(api: RecordingApi, applier: Applier) -> None:
    api.error = ApiError(404, "NotFound", "gone")
    assert applier.apply(PODS, wanted(), None, "status")
    with pytest.raises(ApiError):
        applier.apply(PODS, wanted(), None)


def test_a_refusal_is_not_remembered_as_done(api: RecordingApi, applier: Applier) -> None:
    api.error = ApiError(500, "InternalError", "no")
    with pytest.raises(ApiError):
        applier.apply(PODS, wanted(x="1"), wanted(x="1"))
    api.error = None
    assert applier.apply(PODS, wanted(x="1"), wanted(x="1"))


@pytest.mark.parametrize(
    ("current", "fields", "result"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": None}, False),
        ({"l": [{"x": 1, "y": 2}]}, {"l": [{"x": 1}]}, True),
        ({"l": [{"x": 1}, {"x": 2}]}, {"l": [{"x": 1}]}, False),
        ({"l": []}, {"l": [{"x": 1}]}, False),
        ({"a": "1"}, {"a": {"b": 1}}, False),
        ({"ports": None}, {"ports": []}, True),
        ({}, {"ports": [], "labels": {}}, True),
        ({"ports": None}, {"ports": [{}]}, False),
        ({"ports": None}, {"ports": 0}, False),
    ],
)
def test_covers(current: Json, fields: Json, result: bool) -> None:
    assert covers(current, fields) is result
