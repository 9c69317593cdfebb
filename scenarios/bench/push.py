"""The part of `bench tables` that is in the kernel: a table of 65,537 entries changes again and again while packets pass.

One thread sends as fast as it can, from all ports of one address; another counts what arrives, by target and port. Nothing may be
missing, and nothing may be where neither the table of before nor the one of after leads. One target of four leaves and comes back in
turn. What is timed is `apply`: from the wanted set to a kernel in which no packet sees the old table any more; the tables themselves
are computed before.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from core.lb.forwarding import Forwarding
from core.lb.placement import FiveTuples, place
from core.model import Address, L4Protocol
from scenarios.bench.lab import Cost, Lab, Load, address_of
from scenarios.bench.planes import CLIENT, INTERFACES, PORT, VIP, flow, forwarding, make_plane

TARGETS: Final = 4
FRAMES_AT_ONCE: Final = 2_000


def push(plane: str, changes: int) -> tuple[list[float], int, int, int]:
    """(seconds of each change, packets sent, packets lost, packets misrouted). Expects to be in a sandbox.

    Raises MachineError when the data plane cannot be had here.
    """
    with ExitStack() as exits:
        load = Load.compile(Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-"))))
        exits.callback(load.close)
        lab = Lab.make(targets=TARGETS)
        exits.callback(lab.close)
        gateway = lab.gateways[0]
        adapter = make_plane(plane, gateway)
        wholes = [forwarding(lab, [flow("flow")], range(number)) for number in (TARGETS, TARGETS - 1)]

        def apply(wanted: Forwarding) -> float:
            def timed() -> float:
                begin_s = time.perf_counter()
                adapter.apply(wanted, interfaces=INTERFACES)
                return time.perf_counter() - begin_s

            return gateway.run(timed)

        for wanted in (*wholes, wholes[0]):
            apply(wanted)
        finish, send = load.sink(lab), load.udp(lab, [(CLIENT, VIP)])
        with _Stream(send) as stream:
            took_s = [apply(wholes[(number + 1) % 2]) for number in range(changes)]
        counts = finish()
    allowed = np.zeros(counts.shape, bool)
    for wanted in wholes:
        allowed[_targets(wanted), np.arange(65536)] = True
    arrived, misrouted = int(counts.sum()), int(counts[~allowed].sum())
    return took_s, stream.sent, stream.sent - arrived, misrouted


def _targets(wanted: Forwarding) -> NDArray[np.int64]:
    """Number of the target of each source port, shape (65536,)."""
    ports = np.arange(65536)
    tuples = FiveTuples(
        protocol=L4Protocol.UDP,
        sources=(CLIENT,),
        source=np.zeros(65536, np.int32),
        source_port=ports.astype(np.uint16),
        destination=VIP,
        destination_port=PORT,
    )
    placement = place(wanted, tuples)
    number_of: dict[Address, int] = {address_of(number): number for number in range(TARGETS)}
    numbers = np.array([number_of[target.address] for target in placement.targets])
    found: NDArray[np.int64] = numbers[placement.target]
    return found


class _Stream:
    """Frames, one burst behind the other, for as long as the block lasts."""

    def __init__(self, send: Callable[[int], Cost]) -> None:
        self._send = send
        self.sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="frames")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._send(FRAMES_AT_ONCE)
            self.sent += FRAMES_AT_ONCE
