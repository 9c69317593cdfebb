"""BIRD: started, configured and observed through its control socket. It outlives the agent, which finds it again.

The agent may die and come back at any moment; BGP sessions must not notice. So BIRD gets a session of its own, its files stay in one
folder, and a BIRD that answers on the socket in that folder is adopted instead of started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from core.errors import DataplaneError, InputError, MachineError, Problem
from live.bird_reply import (
    FIRST_FAILURE,
    BfdSession,
    ReplyLine,
    Route,
    Session,
    parse_bfd_sessions,
    parse_routes,
    parse_sessions,
    split_reply,
)

log = logging.getLogger(__name__)

START_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.01
LOG_LIMIT_BYTES = 1 << 20
UNIX_PATH_LIMIT_BYTES = 107  # sockaddr_un.sun_path, less its NUL
PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Bird:
    """The BIRD whose files are in `folder`: ``bird.conf``, ``bird.ctl``, ``bird.pid``, ``bird.log`` (and ``.1``).

    `on_death` is called, from a thread, when it has ended without being asked; the next `configure` starts it again.
    `command` is what starts it, for a BIRD in another place or namespace.
    Any number of threads may share one object; one process at a time owns a folder.

    Raises:
        InputError: the folder's path is too long for a unix socket, or cannot be written to BIRD.
    """

    def __init__(
        self, folder: Path, *, command: tuple[str, ...] = ("bird",), on_death: Callable[[], None] | None = None
    ) -> None:
        self._folder = folder.absolute()
        self._config = self._folder / "bird.conf"
        self._candidate = self._folder / "bird.conf.new"
        self._socket = self._folder / "bird.ctl"
        self._log = self._folder / "bird.log"
        self._command = command
        self._on_death = on_death
        self._lock = threading.RLock()
        self._process: _Process | None = None
        self._applied: str | None = None
        if len(os.fsencode(self._socket)) > UNIX_PATH_LIMIT_BYTES or '"' in str(self._folder):
            problem = Problem(
                where="BIRD's folder",
                what="cannot hold its control socket",
                found=str(self._folder),
                expected=f"no quote, and at most {UNIX_PATH_LIMIT_BYTES - len('/bird.ctl')} bytes",
            )
            raise InputError(problem)

    @property
    def pid(self) -> int | None:
        """The process that runs, started or adopted; None when there is none."""
        with self._lock:
            self._adopt()
            return self._process.pid if self._process is not None else None

    def configure(self, text: str) -> bool:
        """Makes `text` the configuration of a BIRD that runs: starts one if there is none. Returns whether anything had to be done.

        Sessions that `text` does not change are not disturbed.

        Raises:
            DataplaneError: BIRD refuses it, in its own words and with the line; what ran before runs on.
            MachineError: BIRD is not installed.
        """
        with self._lock:
            self._adopt()
            if self._process is not None and text == self._applied:
                return False
            self._write_candidate(text)
            if self._process is None:
                self._check_offline(text)
                self._candidate.replace(self._config)
                self._start()
            else:
                self._demand(f'configure check "{self._candidate}"', text)
                self._candidate.replace(self._config)
                self._applied = None  # an answer that is lost does not tell whether BIRD has obeyed
                self._demand(f'configure "{self._config}"', text)
            self._applied = text
            return True

    def sessions(self) -> tuple[Session, ...]:
        """The BGP sessions, each with its BFD state.

        Raises:
            DataplaneError: BIRD does not answer.
        """
        self._trim_log()
        return parse_sessions(self.ask("show protocols all"), self.bfd_sessions())

    def bfd_sessions(self) -> tuple[BfdSession, ...]:
        """The BFD sessions: of BGP sessions and of static routes. DataplaneError when BIRD does not answer."""
        return parse_bfd_sessions(self.ask("show bfd sessions"))

    def routes(self, table: str | None = None) -> tuple[Route, ...]:
        """The routes that BIRD holds, of one of its tables or of all. DataplaneError when BIRD does not answer."""
        return parse_routes(self.ask(f"show route table {table}" if table else "show route"))

    def ask(self, command: str) -> tuple[ReplyLine, ...]:
        """BIRD's reply to one command, failures included.

        Raises:
            DataplaneError: BIRD does not answer.
        """
        with contextlib.closing(self._connect()) as connection:
            return _converse(connection, command)

    def stop(self) -> None:
        """Ends BIRD in order: it withdraws its routes and closes its sessions. Nothing happens when it does not run."""
        with self._lock:
            self._adopt()
            process, self._process, self._applied = self._process, None, None
        if process is None:
            return
        process.expect_end()
        with contextlib.suppress(DataplaneError):  # it may end before it answers
            self.ask("down")
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.wait(STOP_TIMEOUT_S):
                break
            process.kill(number)
        process.wait(STOP_TIMEOUT_S)
        process.close()

    def close(self) -> None:
        """Lets go of BIRD, which runs on."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.close()

    def _adopt(self) -> None:
        """Finds out who answers on the control socket, unless that is known."""
        if self._process is not None and self._process.runs():
            return
        if self._process is not None:
            self._process.close()
        self._process, self._applied = None, None
        try:
            connection = self._connect()
        except DataplaneError:
            return
        with contextlib.closing(connection):
            pid, _, _ = PEER_CREDENTIALS.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER_CREDENTIALS.size)
            )
        # 0: it lives in a PID namespace that we cannot see, so it can be configured but neither watched nor killed.
        if pid == 0:
            raise DataplaneError(f"the BIRD at {self._socket} runs in another PID namespace; end it there")
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            self._process = _Process(pid, self._ended)
            log.info("found BIRD running", extra={"pid": pid})

    def _start(self) -> None:
        arguments = [
            *self._command,
            "-f",
            "-c",
            str(self._config),
            "-s",
            str(self._socket),
            "-P",
            str(self._folder / "bird.pid"),
        ]
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        # posix_spawn rather than Popen: nobody has to wait for the child, because it shall outlive us.
        pid = os.posix_spawnp(
            arguments[0],
            arguments,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self._log), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM),
        )
        process = _Process(pid, self._ended)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if process.wait(POLL_S) or time.monotonic() > deadline_s:
                words = self._log.read_text(errors="replace").strip() or "it said nothing"
                process.expect_end()
                process.kill(signal.SIGKILL)
                process.wait(STOP_TIMEOUT_S)
                process.close()
                raise DataplaneError(f"BIRD did not start within {START_TIMEOUT_S} s: {words[-500:]}")
        self._process = process
        log.info("started BIRD", extra={"pid": pid})

    def _trim_log(self) -> None:
        """A peer that is refused for weeks must not fill the memory that /run is made of. BIRD appends, so it goes on at 0."""
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT_BYTES:
            shutil.copyfile(self._log, self._log.with_suffix(".log.1"))
            os.truncate(self._log, 0)

    def _ended(self) -> None:
        log.warning("BIRD has ended")
        if self._on_death is not None:
            self._on_death()

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except DataplaneError:
            return False
        return True

    def _connect(self) -> socket.socket:
        """A connection on which BIRD has said its greeting."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(self._socket))
            _receive_reply(connection)
        except (OSError, ValueError) as error:
            connection.close()
            raise DataplaneError(f"BIRD does not answer on {self._socket}: {error}") from error
        return connection

    def _write_candidate(self, text: str) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._candidate.unlink(missing_ok=True)
        # 0600 from the first byte on: there are passwords in it.
        descriptor = os.open(self._candidate, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)

    def _check_offline(self, text: str) -> None:
        if shutil.which(self._command[0]) is None:
            raise MachineError(f"{self._command[0]} is not installed", "apt-get install bird2")
        result = subprocess.run(
            [*self._command, "-p", "-c", str(self._candidate)],
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        if result.returncode != 0:
            raise DataplaneError(_refusal((result.stderr or result.stdout).strip(), text))

    def _demand(self, command: str, text: str) -> None:
        last = self.ask(command)[-1]
        if last.code >= FIRST_FAILURE:
            raise DataplaneError(_refusal(last.text, text))


class _Process:
    """A process by its pidfd: whether it runs, and a thread that calls `on_end` when it ends unexpectedly."""

    def __init__(self, pid: int, on_end: Callable[[], None]) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._on_end = on_end
        self._expected = False
        self._ended = threading.Event()
        self._wake, self._woken = os.pipe()
        threading.Thread(target=self._watch, name=f"pid-{pid}", daemon=True).start()

    def runs(self) -> bool:
        return not self._ended.is_set() and not select.select([self._pidfd], [], [], 0)[0]

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, after waiting for that for at most `timeout_s`."""
        return self._ended.wait(timeout_s)

    def expect_end(self) -> None:
        self._expected = True

    def kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Stops watching; the process is left as it is. The thread ends soon, and is not waited for: it may be in `on_end`, which
        may want what our caller holds."""
        os.write(self._woken, b"x")

    def _watch(self) -> None:
        ready, _, _ = select.select([self._pidfd, self._wake], [], [])
        try:
            if self._pidfd in ready:
                with contextlib.suppress(ChildProcessError):  # an adopted one is somebody else's child to bury
                    os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
                self._ended.set()
                if not self._expected:
                    self._on_end()
        finally:
            select.select([self._wake], [], [])  # until `close`, others may use the descriptors
            for descriptor in (self._pidfd, self._wake, self._woken):
                os.close(descriptor)


def _converse(connection: socket.socket, command: str) -> tuple[ReplyLine, ...]:
    try:
        connection.sendall(command.encode() + b"\n")
        return _receive_reply(connection)
    except (OSError, ValueError) as error:
        raise DataplaneError(f"BIRD does not answer {command!r}: {error}") from error


def _receive_reply(connection: socket.socket) -> tuple[ReplyLine, ...]:
    data = b""
    while (lines := split_reply(data)) is None:
        chunk = connection.recv(1 << 16)
        if not chunk:
            raise ConnectionError("it closed the connection")
        data += chunk
    return lines


def _refusal(words: str, text: str) -> str:
    """BIRD's words, and the line that they are about, unless there is a password in it."""
    message = f"BIRD refuses its configuration: {words}"
    number = re.search(r":(\d+):\d+ ", words)
    lines = text.splitlines()
    if number is None or not 1 <= int(number[1]) <= len(lines):
        return message
    line = lines[int(number[1]) - 1].strip()
    return message if "password" in line else f"{message}; line {number[1]} is {line!r}"
