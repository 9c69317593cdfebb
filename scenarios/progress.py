"""What a run is doing, on stderr: a line a phase with its duration, and a spinner while it lasts when stderr is a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import IO


class Progress:
    """Reports phases. `now_s` is the world's clock, so that the durations are the world's."""

    def __init__(self, now_s: Callable[[], float], stream: IO[str] | None = None, *, quiet: bool = False) -> None:
        self._now_s = now_s
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self.durations_s: dict[str, float] = {}
        """Duration of each phase by its key, as ``KEY_s``."""

    @contextlib.contextmanager
    def phase(self, key: str, doing: str, done: str) -> Iterator[None]:
        """A phase: `doing` while it lasts, `done` when it has succeeded; an exception leaves a line that says where it ended."""
        start_s = self._now_s()
        good = False
        try:
            with self._spinner(doing):
                yield
            good = True
        finally:
            took_s = self._now_s() - start_s
            self.durations_s[f"{key}_s"] = took_s
            if not self._quiet:
                self._stream.write(f"  {'✓' if good else '✗'} {done if good else doing:<44}{took_s:8.2f} s\n")
                self._stream.flush()

    def line(self, text: str) -> None:
        """A line between phases."""
        if not self._quiet:
            self._stream.write(text + "\n")
            self._stream.flush()

    def _spinner(self, text: str) -> contextlib.AbstractContextManager[object]:
        if self._quiet or not self._stream.isatty():
            return contextlib.nullcontext()
        from rich.console import Console

        return Console(file=self._stream).status(f"{text} …")
