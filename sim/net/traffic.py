"""Traffic from outside: a `sim.apps.traffic` client in the namespace of a host, and what became of its flows as plain values."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import TidegateError
from sim.net.topology import VirtualNetwork

PROGRAM = Path(__file__).resolve().parents[1] / "apps" / "traffic.py"
START_DEADLINE_S = 10.0
END_DEADLINE_S = 5.0

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class TrafficError(TidegateError):
    """The traffic client ended, or did not answer in time; the message has its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowKey:
    """A 5-tuple, so exact that its placement can be predicted."""

    source: IpAddress
    source_port: int
    destination: IpAddress
    port: int
    protocol: Literal["TCP", "UDP"] = "TCP"

    def as_json(self) -> list[str | int]:
        return [str(self.source), self.source_port, str(self.destination), self.port, self.protocol]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowResult:
    """What became of a flow. Times are in seconds since the client started; see `TrafficClient.start_s`.

    Never established: `established_s` is None. Broken: `lost_s` is not None. `error` says why, for both. A TCP flow that was
    established but never heard the target's name counts as broken. `targets` has all that answered, in order of appearance.
    """

    flow: FlowKey
    started_s: float
    established_s: float | None
    answered_s: float | None
    lost_s: float | None
    target: str | None
    targets: tuple[str, ...]
    error: str | None
    exchanges: int
    stall_s: float
    alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Every flow of a batch has succeeded or failed."""

    at_s: float
    established: int
    failed: int


class TrafficClient:
    """One client process. Batches run side by side; a method that waits does so for its batch alone."""

    def __init__(self, network: VirtualNetwork, host: str, *, log: Path) -> None:
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._opened: dict[str, Opened] = {}
        self._done: dict[str, tuple[FlowResult, ...]] = {}
        self._errors: list[str] = []
        self._ended = False
        self._log = log
        self.start_s = 0.0
        """When the client started, on `time.monotonic()`."""
        with log.open("ab") as errors:
            self._process: subprocess.Popen[bytes] = network.host(host).popen(
                [sys.executable, "-I", "-S", str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        self._reader = threading.Thread(target=self._read, name=f"traffic of {host}", daemon=True)
        self._reader.start()
        self._wait(lambda: self.start_s > 0.0, START_DEADLINE_S, "the start")

    def open(
        self,
        flows: Sequence[FlowKey],
        *,
        hold: bool = False,
        timeout_s: float = 5.0,
        every_s: float = 1.0,
        rate_per_s: float | None = None,
    ) -> str:
        """Starts a batch and returns its name. `hold` keeps the flows open, with an exchange every `every_s`, until `close`."""
        name = str(next(self._numbers))
        request: dict[str, Any] = {
            "open": name,
            "flows": [flow.as_json() for flow in flows],
            "hold": hold,
            "timeout_s": timeout_s,
            "every_s": every_s,
        }
        self._send(request if rate_per_s is None else {**request, "rate_per_s": rate_per_s})
        return name

    def wait_opened(self, name: str, *, deadline_s: float) -> Opened:
        """Waits until every flow of the batch has succeeded or failed.

        Raises:
            TrafficError: not within `deadline_s`, or the client has ended.
        """
        self._wait(lambda: name in self._opened, deadline_s, f"the opening of batch {name}")
        return self._opened[name]

    def results(self, name: str, *, deadline_s: float) -> tuple[FlowResult, ...]:
        """Waits for the end of the batch: one result a flow, in the order in which they were given.

        Raises:
            TrafficError: not within `deadline_s`, or the client has ended.
        """
        self._wait(lambda: name in self._done, deadline_s, f"the end of batch {name}")
        return self._done[name]

    def close(self, name: str, *, deadline_s: float) -> tuple[FlowResult, ...]:
        """Ends a held batch after one last exchange on each flow; the results as of `results`."""
        self._send({"close": name})
        return self.results(name, deadline_s=deadline_s)

    def stop(self) -> None:
        """Ends the client and every connection that it still holds."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self._process.stdin.close()
        try:
            self._process.wait(END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise TrafficError(f"the traffic client takes no more commands: {error}; {self._last_words()}") from error

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            with self._changed:
                self._note(message)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _note(self, message: dict[str, Any]) -> None:
        if "started" in message:
            self.start_s = message["started"]
        elif "opened" in message:
            opened = Opened(at_s=message["at_s"], established=message["established"], failed=message["failed"])
            self._opened[message["opened"]] = opened
        elif "done" in message:
            self._done[message["done"]] = tuple(map(_result, message["flows"]))
        else:
            self._errors.append(str(message))

    def _wait(self, holds: Any, deadline_s: float, what: str) -> None:
        until_s = time.monotonic() + deadline_s
        with self._changed:
            while not holds():
                left_s = until_s - time.monotonic()
                if self._ended:
                    raise TrafficError(f"the traffic client ended before {what}; {self._last_words()}")
                if left_s <= 0:
                    raise TrafficError(f"{what} did not come within {deadline_s:g} s; {self._last_words()}")
                self._changed.wait(left_s)

    def _last_words(self) -> str:
        words = [*self._errors, *self._log.read_text(errors="replace").splitlines()[-3:]]
        return f"it said: {'; '.join(words)}" if words else "it said nothing"


def _result(entry: dict[str, Any]) -> FlowResult:
    source, source_port, destination, port, protocol = entry.pop("flow")
    flow = FlowKey(
        source=ipaddress.ip_address(source),
        source_port=source_port,
        destination=ipaddress.ip_address(destination),
        port=port,
        protocol=protocol,
    )
    return FlowResult(flow=flow, targets=tuple(entry.pop("targets")), **entry)
