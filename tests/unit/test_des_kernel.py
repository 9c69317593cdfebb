"""Virtual time: exact, in order, and level-triggered."""

from __future__ import annotations

from sim.des.kernel import US, Kernel, Loop, Process, Signal


def test_time_is_counted_in_whole_microseconds() -> None:
    kernel = Kernel()
    for _ in range(30):
        kernel.later(0.1, lambda: None)
        while kernel.step(10 * US) and kernel.under_way:
            pass
    assert kernel.now_us == 3 * US
    assert kernel.wall() == "2026-01-01T00:00:03Z"


def test_a_step_is_everything_of_one_moment() -> None:
    kernel = Kernel()
    heard: list[str] = []
    kernel.later(0.5, lambda: heard.append("first"))
    kernel.later(0.5, lambda: heard.append("second"))
    kernel.later(0.7, lambda: heard.append("later"))
    assert kernel.under_way == 3
    assert kernel.step(0)  # the processes start
    assert kernel.step(US)
    assert (heard, kernel.now_s, kernel.under_way) == (["first", "second"], 0.5, 1)
    assert not kernel.step(round(0.6 * US))
    assert kernel.now_s == 0.6
    assert kernel.step(US)
    assert not kernel.step(US)
    assert (heard[-1], kernel.now_s, kernel.under_way) == ("later", 1.0, 0)


def test_a_signal_is_heard_by_those_who_wait_then() -> None:
    kernel = Kernel()
    signal = Signal(kernel)
    heard: list[float] = []

    def listener() -> Process:
        while True:
            yield signal.next
            heard.append(kernel.now_s)

    kernel.start(listener())
    for delay_s in (0.1, 0.1, 0.2):
        kernel.later(delay_s, signal.fire)
    while kernel.step(US):
        pass
    # Both of one moment are over before the listener, who is told of one, waits again.
    assert heard == [0.1, 0.2]
    assert signal.count == 3


def turns(*wakes_s: float, turn_s: float = 0.0, window_s: float = 0.02) -> list[float]:
    """When a loop takes turns that is woken at these times."""
    kernel = Kernel()
    taken: list[float] = []
    loop = Loop(kernel, lambda: taken.append(kernel.now_s), turn_s=turn_s, window_s=window_s)
    for wake_s in wakes_s:
        kernel.later(wake_s, loop.wake)
    while kernel.step(US):
        pass
    assert kernel.under_way == 0
    return taken


def test_a_loop_takes_at_most_one_turn_a_window() -> None:
    assert turns(0.1) == [0.1]
    assert turns(0.1, 0.1, 0.11, 0.115) == [0.1, 0.12]
    assert turns(0.1, 0.2) == [0.1, 0.2]


def test_a_turn_ends_after_its_time_and_has_seen_what_came_meanwhile() -> None:
    assert turns(0.1, 0.105, turn_s=0.01) == [0.11]
    assert turns(0.1, 0.115, turn_s=0.01) == [0.11, 0.13]


def test_a_stopped_loop_takes_no_turn() -> None:
    kernel = Kernel()
    taken: list[float] = []
    loop = Loop(kernel, lambda: taken.append(kernel.now_s), turn_s=0.01, window_s=0.0)
    kernel.later(0.1, loop.wake)
    kernel.later(0.105, loop.stop)
    kernel.later(0.2, loop.wake)
    while kernel.step(US):
        pass
    assert (taken, kernel.under_way) == ([], 0)
