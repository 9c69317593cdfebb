"""Leader election: the rules of a candidate by a clock that the test moves, and the threads around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

import live.leader
from core.errors import ApiError
from core.kube import LEASES, Json, Resource
from live.leader import Candidate, Election, Terms
from tests.fakes import FakeApi

DEADLINE_S = 10.0
QUICK = Terms(lease_duration_s=1, renew_deadline_s=0.2, retry_s=0.02)


class Api(FakeApi):
    """`before` is called before each request, `after` once it is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []
        self.before: Callable[[str], None] = lambda _: None
        self.after: Callable[[str], None] = lambda _: None
        self.refuse = lambda verb, *_: self._seen(verb)

    def _seen(self, verb: str) -> None:
        self.requests.append(verb)
        self.before(verb)

    def replace(self, resource: Resource, obj: Json, *, subresource: str | None = None) -> Json:
        self._seen("replace")
        stored = super().replace(resource, obj, subresource=subresource)
        self.after("replace")
        return stored

    def spec(self) -> Json:
        found: Json = self.snapshot(LEASES)["system", "lease"]["spec"]
        return found


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.utc = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def candidate(api: Api, clock: Clock, identity: str, skew: timedelta = timedelta()) -> Candidate:
    def utc_now() -> datetime:
        return clock.utc + timedelta(seconds=clock.now_s) + skew

    return Candidate(api, namespace="system", name="lease", identity=identity, now_s=clock, utc_now=utc_now)


def test_the_first_creates_the_lease(api: Api, clock: Clock) -> None:
    one = candidate(api, clock, "one")
    assert one.time_left_s() == 0.0
    assert one.attempt()
    assert one.time_left_s() == 10.0
    assert api.spec() == {
        "holderIdentity": "one",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 0,
        "acquireTime": "2026-01-01T00:16:40.000000Z",
        "renewTime": "2026-01-01T00:16:40.000000Z",
    }


@pytest.mark.parametrize("skew_s", [-86_400, 0, 86_400])
def test_the_second_waits_until_it_has_seen_no_renewal_for_as_long_as_the_lease_lasts(
    api: Api, clock: Clock, skew_s: int
) -> None:
    """The clocks of two machines may differ by any amount."""
    one = candidate(api, clock, "one")
    two = candidate(api, clock, "two", timedelta(seconds=skew_s))
    assert one.attempt()
    clock.now_s += 9.0
    assert not two.attempt()
    assert one.attempt()
    clock.now_s += 14.0
    assert not two.attempt()  # it sees the renewal only now, and counts from here
    clock.now_s += 14.9
    assert not two.attempt()
    assert two.holder == "one"
    clock.now_s += 0.1
    assert two.attempt()
    assert api.spec()["holderIdentity"] == "two"
    assert api.spec()["leaseTransitions"] == 1
    assert one.time_left_s() == 0.0


def test_a_leader_stops_before_another_may_start(api: Api, clock: Clock) -> None:
    one, two = candidate(api, clock, "one"), candidate(api, clock, "two")
    assert one.attempt()
    assert not two.attempt()
    for _ in range(150):
        clock.now_s += 0.1
        two.attempt()
        assert one.time_left_s() == 0.0 or two.time_left_s() == 0.0
    assert two.time_left_s() > 0.0


def test_of_two_that_find_the_lease_run_out_one_wins(api: Api, clock: Clock) -> None:
    assert candidate(api, clock, "gone").attempt()
    one, two = candidate(api, clock, "one"), candidate(api, clock, "two")
    assert not one.attempt()
    assert not two.attempt()
    clock.now_s += 15.0

    def overtake(verb: str) -> None:
        if verb == "replace":
            api.before = lambda _: None
            assert two.attempt()

    api.before = overtake
    assert not one.attempt()
    assert one.time_left_s() == 0.0
    assert two.time_left_s() == 10.0
    assert api.spec()["holderIdentity"] == "two"


def test_a_renewal_is_one_request(api: Api, clock: Clock) -> None:
    one = candidate(api, clock, "one")
    one.attempt()
    acquired = api.spec()["acquireTime"]
    api.requests.clear()
    clock.now_s += 2.0
    assert one.attempt()
    assert api.requests == ["replace"]
    assert api.spec()["acquireTime"] == acquired != api.spec()["renewTime"]


def test_a_released_lease_is_free_at_once(api: Api, clock: Clock) -> None:
    one, two = candidate(api, clock, "one"), candidate(api, clock, "two")
    one.attempt()
    assert not two.attempt()
    one.release()
    assert one.time_left_s() == 0.0
    assert "holderIdentity" not in api.spec()
    assert two.attempt()
    assert (api.spec()["holderIdentity"], api.spec()["leaseTransitions"]) == ("two", 1)
    one.release()
    assert api.spec()["holderIdentity"] == "two"


def test_a_restarted_process_of_the_same_pod_takes_up_its_lease(api: Api, clock: Clock) -> None:
    candidate(api, clock, "pod-a").attempt()
    clock.now_s += 1.0
    again = candidate(api, clock, "pod-a")
    assert again.attempt()
    assert api.spec()["leaseTransitions"] == 0


def test_failures_use_up_the_time_that_is_left(api: Api, clock: Clock) -> None:
    one = candidate(api, clock, "one")
    one.attempt()

    def refuse(_: str) -> None:
        raise ApiError(0, "Unreachable", "no route to host")

    api.before = refuse
    clock.now_s += 8.0
    assert not one.attempt()
    assert one.time_left_s() == 2.0
    clock.now_s += 2.0
    assert one.time_left_s() == 0.0


def test_the_time_counts_from_when_the_renewal_was_sent(api: Api, clock: Clock) -> None:
    one = candidate(api, clock, "one")
    one.attempt()

    def take_long(_: str) -> None:
        clock.now_s += 7.0

    api.before = take_long
    assert one.attempt()
    assert one.time_left_s() == 3.0


def test_a_renewal_whose_answer_was_lost_is_found_again(api: Api, clock: Clock) -> None:
    one = candidate(api, clock, "one")
    one.attempt()

    def lose(_: str) -> None:
        raise ApiError(0, "Unreachable", "reset")

    api.after = lose
    clock.now_s += 2.0
    assert not one.attempt()
    api.after = lambda _: None
    assert one.attempt()
    assert one.time_left_s() == 10.0


def test_who_sees_another_holder_is_no_leader_any_more(api: Api, clock: Clock) -> None:
    one = candidate(api, clock, "one")
    one.attempt()
    api.merge_patch(LEASES, "system", "lease", {"spec": {"holderIdentity": "usurper"}})
    clock.now_s += 1.0
    assert not one.attempt()
    assert one.time_left_s() == 0.0


def test_a_deleted_lease_is_made_again(api: Api, clock: Clock) -> None:
    one = candidate(api, clock, "one")
    one.attempt()
    api.delete(LEASES, "system", "lease")
    assert one.attempt()
    assert api.spec()["holderIdentity"] == "one"


def test_what_others_wrote_beside_stays(api: Api, clock: Clock) -> None:
    one = candidate(api, clock, "one")
    one.attempt()
    api.merge_patch(LEASES, "system", "lease", {"metadata": {"labels": {"l": "v"}}})
    assert one.attempt()
    assert api.snapshot(LEASES)["system", "lease"]["metadata"]["labels"] == {"l": "v"}


@pytest.mark.parametrize("wrong", [{"lease_duration_s": 10}, {"renew_deadline_s": 2.3}, {"retry_s": 9.0}])
def test_terms_that_would_let_two_lead_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected lease_duration_s > renew_deadline_s > retry_s"):
        Terms(**wrong)  # type: ignore[arg-type]  # int and float by turns


class Race:
    """An election in threads; `elected` and `lost` are set when it says so."""

    def __init__(self, api: Api, identity: str) -> None:
        self.elected, self.lost = threading.Event(), threading.Event()
        candidate = Candidate(api, namespace="system", name="lease", identity=identity, terms=QUICK)
        self.election = Election(candidate, on_elected=self.elected.set, on_lost=self.lost.set)
        self.election.start()


def test_when_the_leader_leaves_another_takes_over(api: Api) -> None:
    first = Race(api, "first")
    assert first.elected.wait(DEADLINE_S)
    assert first.election.leads()
    second = Race(api, "second")
    assert not second.election.leads()
    first.election.stop()
    assert not first.election.leads()
    assert second.elected.wait(DEADLINE_S)
    assert not first.lost.is_set()
    second.election.stop()
    assert "holderIdentity" not in api.spec()


def test_a_renewal_that_hangs_does_not_hide_the_deadline(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.leader, "STOP_TIMEOUT_S", 0.05)
    race = Race(api, "one")
    assert race.elected.wait(DEADLINE_S)
    answered = threading.Event()
    api.before = lambda _: wait_for(answered)
    assert race.lost.wait(DEADLINE_S)
    assert not race.election.leads()
    race.election.stop()
    answered.set()
    assert api.spec()["holderIdentity"] == "one"  # not given back behind a request that is still under way


def wait_for(event: threading.Event) -> None:
    assert event.wait(DEADLINE_S)


def test_a_leader_that_is_pushed_out_is_told(api: Api) -> None:
    race = Race(api, "one")
    assert race.elected.wait(DEADLINE_S)
    api.merge_patch(LEASES, "system", "lease", {"spec": {"holderIdentity": "usurper"}})
    assert race.lost.wait(DEADLINE_S)
    race.election.stop()
    assert api.spec()["holderIdentity"] == "usurper"


def test_a_fault_in_the_election_is_no_standby_for_ever(api: Api) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("a fault")

    api.before = fail
    race = Race(api, "one")
    assert race.lost.wait(DEADLINE_S)
    assert not race.elected.is_set()
