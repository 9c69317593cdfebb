"""Ctrl-C that nothing can swallow.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a finalizer, such as that of a pool of connections, there is
nobody to raise it to: Python prints it and goes on, and whoever pressed the keys waits. Here it is delivered once more.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def delivered() -> Iterator[None]:
    """Within it, an interrupt that was lost in a finalizer comes again as soon as the finalizer has ended."""
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # From another thread: raised from here, it would be lost once more. That thread waits for the interpreter's lock, which
            # this one keeps much longer than the hook takes (sys.getswitchinterval). A true signal also ends what the kernel waits for.
            _thread.start_new_thread(signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
