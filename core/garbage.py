"""When Python looks for garbage that refers to itself: between two turns, and not among what stays.

Everything that an agent or the imitated API server keeps (objects as JSON, their models, a plan) is freed by counting references, yet
the collector walks through all of it whenever there is a quarter more of it: 100 ms with 1,000 Pods, in the middle of whatever is under
way.

Source: CPython Doc/library/gc.rst (freeze), Modules/gcmodule.c (gc_collect_generations).
"""

from __future__ import annotations

import gc
from typing import Final

WHOLE_S: Final = 600.0
"""How often all is walked through nevertheless: what is set aside may have come to refer to itself since."""


class GarbageCollector:
    """Collects what was made since the last time, and sets aside what is left of it: neither this nor Python looks at that again."""

    def __init__(self) -> None:
        self._next_whole_s: float | None = None

    def collect(self, now_s: float) -> None:
        """To be called when nothing waits. O(objects made since the last call); once in `WHOLE_S`, O(all objects)."""
        if self._next_whole_s is None:
            # What a process has made to get ready is to stay, nearly all of it, and there is much of it.
            self._next_whole_s = now_s + WHOLE_S
            gc.freeze()
            return
        if now_s >= self._next_whole_s:
            self._next_whole_s = now_s + WHOLE_S
            gc.unfreeze()
        gc.collect()
        gc.freeze()
