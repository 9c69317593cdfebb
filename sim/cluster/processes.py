"""Processes of containers: programs of their own, and programs that a fork server starts by the hundred."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from core.errors import TidegateError

log = logging.getLogger(__name__)

FORK_SERVER = Path(__file__).resolve().parents[1] / "apps" / "forkserver.py"
START_DEADLINE_S = 30.0


class StartError(TidegateError):
    """A program could not be started; the message says why."""


class Process(Protocol):
    """One running program, leader of its own process group."""

    @property
    def pid(self) -> int: ...

    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing when it has ended."""

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, waiting at most so long."""


class ExecutedProcess:
    """A program that was executed in a namespace through mnexec."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    def exit_code(self) -> int | None:
        return self._popen.poll()

    def send_signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


class ForkedProcess:
    """A program that the fork server has forked."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server
        self._pid = pid
        self._ended = threading.Event()
        self._code: int | None = None

    @property
    def pid(self) -> int:
        return self._pid

    def exit_code(self) -> int | None:
        return self._code

    def send_signal(self, number: signal.Signals) -> None:
        if self._code is None:
            self._server.send({"signal": int(number), "pid": self._pid})

    def wait(self, timeout_s: float) -> bool:
        return self._ended.wait(timeout_s)

    def note_end(self, code: int) -> None:
        self._code = code
        self._ended.set()


class ForkServer:
    """The client side of `sim.apps.forkserver`; started when the first program is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Of its own: the server reads no further while it waits for us to take what it says, and that needs the other lock.
        self._writing = threading.Lock()
        self._numbers = itertools.count(1)
        self._answers: dict[int, tuple[threading.Event, dict[str, Any]]] = {}
        self._running: dict[int, ForkedProcess] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._reader: threading.Thread | None = None

    def spawn(
        self, program: str, arguments: Sequence[str], *, environment: Mapping[str, str], network: Path, log: Path
    ) -> ForkedProcess:
        """Starts a program in a network namespace; returns when it is ready, or has ended already.

        Raises:
            StartError: it could not be forked, or the server is gone.
        """
        number, event, answer = next(self._numbers), threading.Event(), dict[str, Any]()
        with self._lock:
            self._start()
            self._answers[number] = (event, answer)
        self.send(
            {
                "id": number,
                "program": program,
                "arguments": list(arguments),
                "environment": dict(environment),
                "network": str(network),
                "log": str(log),
            }
        )
        if not event.wait(START_DEADLINE_S):
            raise StartError(f"{program} did not become ready within {START_DEADLINE_S:g} s; its log is {log}")
        if "error" in answer:
            raise StartError(f"{program} could not be forked: {answer['error']}")
        process: ForkedProcess = answer["process"]
        return process

    def send(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            connection = self._socket
        if connection is None:
            raise StartError("the fork server is not running")
        with self._writing:
            try:
                connection.sendall(json.dumps(message).encode() + b"\n")
            except OSError as error:
                raise StartError(f"the fork server has ended: {error}") from error

    def close(self) -> None:
        """Ends the server and every program that it has started."""
        with self._lock:
            if self._socket is None or self._process is None or self._reader is None:
                return
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._process.wait()
        self._socket.close()
        self._socket = None

    def _start(self) -> None:
        if self._socket is not None:
            return
        ours, theirs = socket.socketpair()
        # A session of its own: Ctrl-C in the terminal is for the run, which ends the server in its turn.
        command = [sys.executable, "-I", "-S", str(FORK_SERVER)]
        self._process = subprocess.Popen(command, stdin=theirs.fileno(), start_new_session=True)
        theirs.close()
        self._socket = ours
        self._reader = threading.Thread(target=self._read, args=(ours,), name="fork server", daemon=True)
        self._reader.start()

    def _read(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as lines:
                for line in lines:
                    message = json.loads(line)
                    if "ended" in message:
                        self._note_end(message["ended"], message["code"])
                    else:
                        self._note_start(message)
        except ConnectionResetError:
            log.info("the fork server ended before it had read everything")
        with self._lock:
            waiting, self._answers = self._answers, {}
            running, self._running = self._running, {}
        for event, answer in waiting.values():
            answer["error"] = "the fork server has ended"
            event.set()
        for process in running.values():
            process.note_end(-signal.SIGKILL)

    def _note_start(self, message: dict[str, Any]) -> None:
        with self._lock:
            event, answer = self._answers.pop(message["id"])
            if "error" in message:
                answer["error"] = message["error"]
            else:
                answer["process"] = self._running[message["pid"]] = ForkedProcess(self, message["pid"])
        event.set()

    def _note_end(self, pid: int, code: int) -> None:
        with self._lock:
            process = self._running.pop(pid, None)
        if process is not None:
            process.note_end(code)


def end_group(process: Process) -> None:
    """Kills what a container's main process has left behind in its process group, as the end of a PID namespace would."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # nothing was left
