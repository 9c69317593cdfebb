"""Ctrl-C that nothing can swallow.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a finalizer, such as that of a pool of connections, there is
nobody to raise it to: Python prints it and goes on, and whoever pressed the keys waits. Here it comes again until somebody has it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 0.05
"""A signal that comes in the instant before the main thread begins to wait does not end that wait."""


@contextmanager
def delivered() -> Iterator[None]:
    """Within it, an interrupt that was lost in a finalizer comes again as soon as the finalizer has ended. For the main thread.

    Where Ctrl-C is ignored, or means something else, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    before = sys.unraisablehook
    delivery = _Delivery()

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            delivery.again()
        else:
            before(unraisable)

    sys.unraisablehook = hook
    signal.signal(signal.SIGINT, delivery.interrupt)
    try:
        yield
    finally:
        lost = delivery.end()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = before
    if lost:
        raise KeyboardInterrupt


class _Delivery:
    """An interrupt on its way to the main thread."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._lost = threading.Event()
        self._nobody_listens = False
        self._sender: threading.Thread | None = None
        self._sending = threading.Lock()
        self._ended = False

    def interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """The handler of the signal."""
        if self._nobody_listens:
            self._lost.set()
        else:
            self._lost.clear()
            raise KeyboardInterrupt

    def again(self) -> None:
        """Called where an exception would be lost as well, in the main thread."""
        self._nobody_listens = True
        self._lost.set()
        if self._sender is None:
            self._sender = threading.Thread(target=self._send, name="interrupt", daemon=True)
            self._sender.start()
        self._nobody_listens = False

    def _send(self) -> None:
        pause = threading.Event()
        while self._lost.wait():
            with self._sending:
                if self._ended:
                    return
                signal.pthread_kill(self._main, signal.SIGINT)
            pause.wait(AGAIN_S)

    def end(self) -> bool:
        """No interrupt is sent after this. Returns whether one was lost and has not come."""
        self._nobody_listens = True
        with self._sending:
            lost, self._ended = self._lost.is_set(), True
        self._lost.set()
        return lost
