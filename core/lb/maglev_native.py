"""The walk of core/lb/maglev.c, where `make setup` has compiled it; where not, why not.

A pure function that happens to be compiled: it reads its arguments, writes the array that it returns, and calls nothing. So it is the
core's own, although ctypes loads it (docs/decisions/0061-maglev-in-c.md).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

import numpy as np

from core.lb import maglev_walk
from core.lb.maglev_walk import Numbers, Walk

OBJECT: Final = __file__.rpartition("maglev_native.py")[0] + "libmaglev.so"
"""In this package's own folder and nowhere else. The name is none that Python's import would take for a module of ours."""

SYMBOL: Final = "tidegate_maglev_walk_1"
_NUMBERS: Final = np.ctypeslib.ndpointer(np.int32, flags="C_CONTIGUOUS")


@cache
def native_walk() -> Walk | str:
    """The walk in C, or why there is none: not compiled, for another machine, of another version, or with another result."""
    return load(OBJECT)


def load(path: str) -> Walk | str:
    """The walk in the shared object at `path`, or why there is none. An object that gives another table than Python is not used."""
    try:
        function = getattr(ctypes.CDLL(path), SYMBOL)
    except OSError as error:
        return str(error)
    except AttributeError:
        return f"{path} has no {SYMBOL}: it is of another version"
    function.argtypes = (ctypes.c_uint32, _NUMBERS, ctypes.c_uint32, _NUMBERS, _NUMBERS, _NUMBERS)
    function.restype = None

    def walk(order: Numbers, offsets: Numbers, skips: Numbers, M: int) -> Numbers:
        entry = np.empty(M, np.int32)
        # The copy is moved on as the walk goes. ctypes releases the interpreter's lock meanwhile.
        function(M, order, len(order), offsets.copy(), skips, entry)
        return entry

    return walk if _agrees(walk) else f"{path} gives other tables than Python: it is of another version"


def _agrees(walk: Walk) -> bool:
    M = 61  # enough for walks that meet entries taken and go round the end
    order = np.array([0, 1, 2, 1, 3, 4, 1], np.int32)
    offsets, skips = np.array([7, 0, 60, 7, 20], np.int32), np.array([1, 60, 31, 3, 12], np.int32)
    return np.array_equal(walk(order, offsets, skips, M), maglev_walk.walk(order, offsets, skips, M))
