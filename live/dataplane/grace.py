"""Waiting until every packet that was on its way through the kernel has left it."""

from __future__ import annotations

import ctypes
import platform
from typing import Final

_MEMBARRIER: Final = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "ppc64le": 365, "s390x": 356}
_GLOBAL: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)


def wait_for_packets_under_way() -> bool:
    """Returns when all packets that the kernel was processing at the call have been processed: some milliseconds. False: it cannot be
    known here (an unknown processor, a kernel with nohz_full, a seccomp filter).

    A packet is received, looked up and forwarded in one RCU read-side critical section, and the global membarrier waits for all of
    these. Source: membarrier(2); kernel/sched/membarrier.c (synchronize_rcu); net/core/dev.c.
    """
    number = _MEMBARRIER.get(platform.machine())
    return number is not None and _libc.syscall(number, _GLOBAL, 0, 0) == 0
