"""The traffic client: opens exactly the connections that it is told, source address and port included, and says what became of each.

Run by path (``python -I -S traffic.py``) in the namespace of an outside router. JSON lines on standard input:

    {"open": "a", "flows": [["200.100.0.100", 40000, "20.0.0.1", 4000, "TCP"], ...], "hold": false}
    {"close": "a"}                         ends a batch that is held, after one last exchange on each of its connections

With `hold` the connections stay open and exchange a line every `every_s`; without it each ends when it knows who answered. Optional:
`timeout_s` (5), `every_s` (1), `rate_per_s` (all at once). JSON lines on standard output, times in seconds since the client started:

    {"started": 12345.6}                   the start on CLOCK_MONOTONIC, the clock of every process of the machine
    {"opened": "a", "at_s": 0.1, "established": 400, "failed": 0}        every flow of the batch has succeeded or failed
    {"done": "a", "at_s": 0.2, "flows": [{...}, ...]}                    one object a flow, in their order: sim.apps.flow.Outcome
    {"error": "…"}                         a line that it did not understand

At the end of its input it ends.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
from collections.abc import Callable
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120 (pathlib costs 6 ms)

from sim.apps.flow import Flow, Loop, TcpFlow, UdpFlow

STDIN = 0


class Batch:
    """Flows that were asked for together."""

    def __init__(self, loop: Loop, request: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
        self.name = str(request["open"])
        self.hold = bool(request.get("hold", False))
        self.timeout_s = float(request.get("timeout_s", 5.0))
        self.every_s = float(request.get("every_s", 1.0))
        self.closing = False
        self._loop, self._say = loop, say
        self._established = self._failed = self._ended = 0
        self._done = False
        kinds = {"TCP": TcpFlow, "UDP": UdpFlow}
        self.flows: list[Flow] = [kinds[flow[4]](loop, self, flow) for flow in request["flows"]]
        rate_per_s = request.get("rate_per_s")
        self._gap_s = 1.0 / float(rate_per_s) if rate_per_s else 0.0

    def begin(self) -> None:
        if not self.flows:
            self._tell_opened()
            self._check()
        now_s = self._loop.now_s()
        for index, flow in enumerate(self.flows):
            if self._gap_s:
                self._loop.at(now_s + index * self._gap_s, flow.open)
            else:
                flow.open()
        last_s = self._loop.now_s() + len(self.flows) * self._gap_s
        self._loop.at(last_s + self.timeout_s, self._time_out)

    def close(self) -> None:
        if self.closing or not self.hold:
            return
        self.closing = True
        for flow in self.flows:
            flow.last_exchange()
        self._loop.at(self._loop.now_s() + self.timeout_s, self._mute)
        self._check()

    def settled_one(self, *, established: bool) -> None:
        if established:
            self._established += 1
        else:
            self._failed += 1
        if self._established + self._failed == len(self.flows):
            self._tell_opened()

    def ended_one(self) -> None:
        self._ended += 1
        self._check()

    def _tell_opened(self) -> None:
        self._say(
            {
                "opened": self.name,
                "at_s": self._loop.now_s(),
                "established": self._established,
                "failed": self._failed,
            }
        )

    def _check(self) -> None:
        if self._ended == len(self.flows) and (self.closing or not self.hold) and not self._done:
            self._done = True
            flows = [flow.outcome.as_json(flow.flow) for flow in self.flows]
            self._say({"done": self.name, "at_s": self._loop.now_s(), "flows": flows})

    def _time_out(self) -> None:
        for flow in self.flows:
            if not flow.settled:
                flow.fail("timed out")
            elif not self.hold and not flow.ended:
                flow.end()  # it is known who answered; the target's FIN is not worth more waiting

    def _mute(self) -> None:
        for flow in self.flows:
            if not flow.ended:
                flow.fail("no answer at the end")


class Client:
    """Reads commands, runs batches."""

    def __init__(self) -> None:
        self._loop = Loop()
        self._batches: dict[str, Batch] = {}
        self._received = b""
        self._open = True

    def run(self) -> int:
        os.set_blocking(STDIN, False)
        self._loop.selector.register(STDIN, selectors.EVENT_READ, self._read)
        self._say({"started": self._loop.start_s})
        while self._open:
            self._loop.run_once()
        return 0

    def _read(self, _events: int) -> None:
        data = os.read(STDIN, 1 << 20)
        if not data:
            self._open = False
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            try:
                self._obey(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                self._say({"error": f"{type(error).__name__}: {error} in {line[:200].decode(errors='replace')}"})

    def _obey(self, request: dict[str, Any]) -> None:
        if "close" in request:
            self._batches[str(request["close"])].close()
            return
        batch = Batch(self._loop, request, self._say)
        self._batches[batch.name] = batch
        batch.begin()

    def _say(self, message: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(Client().run())
