"""The work queue: what is worked on when, on an invented clock; and the loop on top of it, on the real one."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from core.backoff import Backoff
from core.errors import DataplaneError
from core.workqueue import WorkQueue
from live.workqueue import SharedQueue, Turn, run_reconciler

DEADLINE_S = 10.0


def new_queue(*, window_s: float = 1.0) -> WorkQueue[str]:
    return WorkQueue(window_s=window_s, retry=Backoff(first_s=2.0, cap_s=8.0), jitter=lambda: 0.0)


def test_a_new_key_is_due_at_once_and_taken_once() -> None:
    queue = new_queue()
    queue.add("a", 0.0)
    queue.add("a", 0.0)
    assert len(queue) == 1
    assert queue.take(0.0) == "a"
    assert queue.take(0.0) is None
    queue.done("a", 0.0)
    assert queue.next_due_s() is None


def test_it_is_idle_when_nothing_is_left_to_do_now() -> None:
    queue = new_queue()
    assert queue.idle(0.0)
    queue.add("later", 0.0, after_s=5.0)
    queue.add("a", 0.0)
    assert not queue.idle(0.0)
    queue.take(0.0)
    assert queue.idle(4.0)
    assert not queue.idle(5.0)
    queue.add("a", 0.1)
    assert not queue.idle(0.1)


def test_a_key_added_while_it_is_worked_on_is_worked_on_once_more() -> None:
    queue = new_queue()
    queue.add("a", 0.0)
    queue.take(0.0)
    for _ in range(3):
        queue.add("a", 0.1)
    assert queue.take(5.0) is None
    queue.done("a", 5.0)
    assert queue.take(5.0) == "a"
    queue.done("a", 5.0)
    assert queue.take(50.0) is None


def test_a_storm_costs_one_turn_a_window() -> None:
    queue, turns = new_queue(window_s=0.02), []
    for event in range(500):
        now_s = event * 0.0001
        queue.add("a", now_s)
        if queue.take(now_s) is not None:
            turns.append(now_s)
            queue.done("a", now_s)
    assert turns == pytest.approx([0.0, 0.02, 0.04])
    assert queue.next_due_s() == pytest.approx(0.06)


def test_the_oldest_key_comes_first() -> None:
    queue = new_queue()
    queue.add("b", 1.0)
    queue.add("a", 0.5)
    assert [queue.take(2.0), queue.take(2.0)] == ["a", "b"]


def test_failures_wait_longer_and_longer_and_success_forgets_them() -> None:
    queue, now_s, waits = new_queue(), 0.0, []
    queue.add("a", now_s)
    for _ in range(4):
        assert queue.take(now_s) == "a"
        waits.append(queue.failed("a", now_s))
        due_s = queue.next_due_s()
        assert due_s == now_s + waits[-1]
        assert queue.take(due_s - 0.01) is None
        now_s = due_s
    assert waits == [1.0, 2.0, 4.0, 4.0]
    assert queue.failures("a") == 4
    queue.take(now_s)
    queue.done("a", now_s)
    assert queue.failures("a") == 0
    queue.add("a", 100.0)
    queue.take(100.0)
    assert queue.failed("a", 100.0) == 1.0


def test_news_end_the_wait_after_a_failure() -> None:
    queue = new_queue()
    queue.add("a", 0.0)
    queue.take(0.0)
    queue.failed("a", 0.0)
    queue.take(1.0)
    queue.failed("a", 1.0)
    queue.add("a", 1.5)
    assert queue.next_due_s() == 2.0, "the window still holds"
    queue.take(2.0)
    queue.add("a", 2.1)
    queue.failed("a", 2.2)
    assert queue.next_due_s() == 3.0, "news that came during the failing turn count too"


def test_keys_do_not_wait_for_each_other() -> None:
    queue = new_queue()
    queue.add("a", 0.0)
    queue.add("b", 0.0)
    queue.take(0.0)
    assert queue.take(0.0) == "b"


def test_a_later_turn_can_be_asked_for_from_within_a_turn() -> None:
    queue = new_queue()
    queue.add("a", 0.0)
    queue.take(0.0)
    queue.add("a", 0.5, after_s=10.0)
    queue.done("a", 0.6)
    assert queue.take(5.0) is None
    assert queue.next_due_s() == 10.5
    queue.add("a", 6.0)
    assert queue.take(6.0) == "a"


class Turns:
    """An observer that lets the test wait for turns."""

    def __init__(self) -> None:
        self.ended_turns: list[Turn] = []
        self._changed = threading.Condition()

    def started(self) -> None: ...

    def ended(self, turn: Turn) -> None:
        with self._changed:
            self.ended_turns.append(turn)
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.ended_turns) >= count, DEADLINE_S)


def test_the_loop_retries_reports_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    queue: SharedQueue[str] = SharedQueue(jitter=lambda: 0.0)
    turns, calls = Turns(), iter(range(10))

    def reconcile(_: str) -> float | None:
        match next(calls):
            case 0:
                raise DataplaneError("the kernel says no")
            case 1:
                return 0.01
            case _:
                return None

    loop = threading.Thread(target=run_reconciler, args=(queue, reconcile), kwargs={"observer": turns})
    loop.start()
    queue.add("gateway")
    turns.wait(3)
    queue.close()
    loop.join(DEADLINE_S)
    assert not loop.is_alive()
    assert [type(turn.error) for turn in turns.ended_turns] == [DataplaneError, type(None), type(None)]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert vars(record)["why"] == "the kernel says no"
    assert record.exc_info is None


def test_a_fault_in_the_code_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    queue: SharedQueue[str] = SharedQueue()
    turns = Turns()

    def reconcile(_: str) -> None:
        raise KeyError("metadata")

    loop = threading.Thread(target=run_reconciler, args=(queue, reconcile), kwargs={"observer": turns})
    loop.start()
    queue.add("gateway")
    turns.wait(1)
    queue.close()
    loop.join(DEADLINE_S)
    assert caplog.records[0].exc_info is not None


def test_a_storm_from_many_threads_loses_nothing_and_costs_few_turns() -> None:
    queue: SharedQueue[str] = SharedQueue(window_s=0.02)
    seen: list[int] = []
    state, last_seen = {"value": 0}, threading.Event()
    lock = threading.Lock()

    def reconcile(_: str) -> None:
        seen.append(state["value"])
        if state["value"] == 500:
            last_seen.set()

    def change() -> None:
        for _ in range(100):
            with lock:
                state["value"] += 1
            queue.add("gateway")

    loop = threading.Thread(target=run_reconciler, args=(queue, reconcile))
    loop.start()
    started_s = time.monotonic()
    threads = [threading.Thread(target=change) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert last_seen.wait(DEADLINE_S)
    elapsed_s = time.monotonic() - started_s
    queue.close()
    for thread in [*threads, loop]:
        thread.join(DEADLINE_S)
    assert len(seen) <= 2 + elapsed_s / 0.02
