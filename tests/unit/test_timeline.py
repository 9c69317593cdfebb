"""Steps begin and end at their times, whatever fractions these have, on a clock of whole microseconds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from scenarios.load import LoadedScenario, load_scenario
from scenarios.progress import Progress
from scenarios.runner import Outcome, run
from scenarios.spec import LONGEST_S, Scale
from scenarios.timeline import US, Timeline, whole_us
from scenarios.world import Running
from tests.unit.fake_world import FakeWorld, Waiting


class NoEvents:
    def event(self, t_s: float, event: str, **more: object) -> None:
        pass


class WholeMicroseconds(FakeWorld):
    """Its clock has no fractions of them, as that of virtual time."""

    @property
    def clock_s(self) -> float:
        return self._clock_us / US

    @clock_s.setter
    def clock_s(self, now_s: float) -> None:
        self._clock_us = round(now_s * US)

    def wait(self, running: Sequence[Running], *, until_s: float) -> None:
        before_s = self.clock_s
        for one in running:
            if isinstance(one, Waiting) and one.over_at_s < float("inf"):
                one.over_at_s = round(one.over_at_s * US) / US
        super().wait(running, until_s=until_s)
        if self.clock_s == before_s:
            raise AssertionError("waits, and no time passes")


def loaded(tmp_path: Path, *settings: str) -> LoadedScenario:
    """Forty connections, and a target more when they have ended."""
    text = load_scenario("poc2-stateless").text.replace("  connections: 400\n", "  connections: 40\n")
    text += "timeline:\n- {name: more, action: scale, deployment: example-target-application-b, replicas: 5, after: clients}\n"
    (tmp_path / "scenario.yaml").write_text(text)
    return load_scenario(str(tmp_path / "scenario.yaml"), settings=settings)


def outcome_at(start_s: float, scenario: LoadedScenario, *, converges: bool = True) -> tuple[Outcome, list[str]]:
    world = WholeMicroseconds(converges=converges)
    world.clock_s = start_s
    return run(scenario, world, NoEvents(), Progress(world.now_s, io.StringIO(), quiet=True)), world.log


@pytest.mark.parametrize("at_s", [0.1, 0.3, 1.1, 0.0000001, LONGEST_S])
@pytest.mark.parametrize("start_s", [0.0, 0.65, 0.83])
def test_a_step_begins_at_its_time(tmp_path: Path, start_s: float, at_s: float) -> None:
    outcome, log = outcome_at(start_s, loaded(tmp_path, f"traffic.0.at_s={at_s:.7f}", "timeline.0.delay_s=0.1"))
    assert not outcome.error
    # Time zero is 1.5 s after the start; 40 connections take 0.04 s.
    assert f"drive clients at {start_s + 1.5 + at_s:g}" in log
    assert f"scale at {start_s + 1.5 + at_s + 0.04 + 0.1:g}" in log


@pytest.mark.parametrize("deadline_s", [0.1, 0.15, 0.2])
@pytest.mark.parametrize("start_s", [0.0, 0.65, 0.83])
def test_a_step_is_late_at_its_deadline(tmp_path: Path, start_s: float, deadline_s: float) -> None:
    outcome, _ = outcome_at(start_s, loaded(tmp_path, f"timeline.0.deadline_s={deadline_s}"))
    assert outcome.error.startswith(f"step 'more' was not over within {deadline_s} s: ")


@pytest.mark.parametrize("deadline_s", [0.1234567, 0.2, 0.7])
@pytest.mark.parametrize("start_s", [0.1, 0.65, 0.83])
def test_setting_up_is_late_at_its_deadline(tmp_path: Path, start_s: float, deadline_s: float) -> None:
    outcome, _ = outcome_at(start_s, loaded(tmp_path, f"setup_deadline_s={deadline_s}"), converges=False)
    assert outcome.error.startswith(f"not programmed within {deadline_s:g} s: ")


@pytest.mark.parametrize("setting", ["traffic.0.at_s", "timeline.0.delay_s"])
def test_what_no_clock_counts_is_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(InputError, match="from 0 to 604800"):
        loaded(tmp_path, f"{setting}=1e15")


@given(zero_us=st.integers(0, 10**12), at_s=st.floats(0, LONGEST_S), delay_s=st.floats(0, LONGEST_S))
def test_whoever_waits_as_long_as_he_is_told_has_something_to_do(zero_us: int, at_s: float, delay_s: float) -> None:
    """The clock of the world is in seconds, and zero is anywhere on it."""
    first = Scale(name="first", at_s=at_s, deployment="d", replicas=1)
    second = Scale(name="second", after="first", delay_s=delay_s, deployment="d", replicas=2)
    timeline = Timeline((first, second))
    for step in (first, second):
        next_us = timeline.next_us()
        assert next_us is not None
        now_us = whole_us((zero_us + next_us) / US) - zero_us
        assert list(timeline.due(now_us)) == [step]
        timeline.begun_us[step.name] = now_us
        deadline_us = timeline.next_us()
        assert deadline_us is not None
        assert list(timeline.late(whole_us((zero_us + deadline_us) / US) - zero_us)) == [step]
        timeline.over_us[step.name] = now_us
    assert timeline.next_us() is None
