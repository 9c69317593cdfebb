"""An interactive testbed: the process that holds it, and how other commands reach it.

The testbed's process listens on a Unix socket in a folder that only its user may enter. A client sends one JSON line, with its standard
streams as file descriptors when it wants a command run; the answers are JSON lines. So nobody needs the right to enter namespaces.

    {"do": "status"}                                    {"status": {...}}
    {"do": "exec", "host": "vpn-b", "command": [...]}   {"exit": 0}; meanwhile the client may send {"signal": 2}
    {"do": "down"}                                      {"down": true}, then the process ends
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from core.errors import InputError, Problem

FOLDER_VARIABLE = "TIDEGATE_TESTBED"
"""Environment variable: the folder of the socket. Set before the namespaces are entered, inside of which the user may be another."""
DOWN_DEADLINE_S = 30.0
STREAMS = 3


class Host(NamedTuple):
    """A host of the testbed: what `tidegate status` shows of it."""

    name: str
    addresses: list[str]


class Testbed(Protocol):
    """What the server needs of a world."""

    def hosts(self) -> list[Host]:
        """All hosts."""

    def status(self) -> dict[str, Any]:
        """What `tidegate status` prints, as JSON values."""

    def popen(self, host: str, command: list[str], streams: tuple[int, int, int]) -> subprocess.Popen[bytes]:
        """Runs a command in a host. Raises OSError."""


def folder() -> Path:
    """The folder of the socket; made when it is not there. Raises InputError when it is somebody else's."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    path = Path(tempfile.gettempdir()) / f"tidegate-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    state = path.lstat()
    if not path.is_dir() or path.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o077:
        problem = Problem(
            where=str(path), what="is not a folder of yours alone", expected=f"{FOLDER_VARIABLE}=FOLDER, or remove it"
        )
        raise InputError(problem)
    return path


def socket_path() -> Path:
    """Where the testbed listens."""
    return folder() / "socket"


@contextlib.contextmanager
def reserve() -> Iterator[None]:
    """Keeps the place of the testbed for one process, from before its set-up until it has ended, however it ends.

    Raises InputError when another process has it.
    """
    with (folder() / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = Problem(
                where="testbed", what="a testbed is being set up, or ends", expected="tidegate down first, or wait"
            )
            raise InputError(problem) from None
        yield


def is_up() -> bool:
    """Whether a testbed answers."""
    try:
        with _connect():
            return True
    except InputError:
        return False


def _connect() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(socket_path()))
    except OSError:
        connection.close()
        raise InputError(
            Problem(where="testbed", what="no testbed is up", expected="tidegate up SCENARIO first")
        ) from None
    return connection


# --- the clients -----------------------------------------------------------------------------------------------------------------


def ask(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request without streams. Raises InputError when no testbed is up, or it refuses."""
    with _connect() as connection, connection.makefile("rwb") as lines:
        lines.write(json.dumps(request).encode() + b"\n")
        lines.flush()
        return _answer(lines.readline())


def end() -> None:
    """Ends the testbed; returns when its processes are gone. Raises InputError when none is up."""
    with _connect() as connection, connection.makefile("rwb") as lines, contextlib.ExitStack() as exits:
        (pid,) = struct.unpack_from(
            "i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        )
        # The testbed's own process, the first of its PID namespace, and the one outside that holds them.
        ended = select.poll()
        left = 0
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            for _ in range(3):
                descriptor = os.pidfd_open(pid)
                exits.callback(os.close, descriptor)
                ended.register(descriptor, select.POLLIN)
                left += 1
                pid = _parent(pid)
        lines.write(b'{"do": "down"}\n')
        lines.flush()
        _answer(lines.readline())
        until_s = time.monotonic() + DOWN_DEADLINE_S
        while left and (left_s := until_s - time.monotonic()) > 0:
            for descriptor, _ in ended.poll(left_s * 1000):
                ended.unregister(descriptor)
                left -= 1


def _parent(pid: int) -> int:
    """The parent of a process. Source: proc(5), /proc/PID/stat."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def execute(host: str, command: list[str]) -> int:
    """Runs a command in a host, on this process's standard streams; returns its exit code. Signals go on to it. Raises InputError."""
    with _connect() as connection:
        request = json.dumps({"do": "exec", "host": host, "command": command}).encode() + b"\n"
        socket.send_fds(connection, [request], [0, 1, 2])

        def pass_on(number: int, _frame: object) -> None:
            connection.sendall(json.dumps({"signal": number}).encode() + b"\n")

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            with connection.makefile("rb") as lines:
                return int(_answer(lines.readline())["exit"])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _answer(line: bytes) -> dict[str, Any]:
    if not line:
        raise InputError(Problem(where="testbed", what="the testbed has ended", expected="tidegate up SCENARIO"))
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise InputError(Problem(where="testbed", what=answer["error"]))
    return answer


# --- the server ------------------------------------------------------------------------------------------------------------------


class Server:
    """Answers clients, each in a thread, until one says down or `stop` is called."""

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed
        self._path = socket_path()
        self._down = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen()
        self._waiting: list[socket.socket] = []

    def serve(self) -> None:
        """Returns when the testbed is to end."""
        threading.Thread(target=self._accept, name="testbed", daemon=True).start()
        self._down.wait()

    def stop(self) -> None:
        """Lets `serve` return. Safe in a signal handler."""
        self._down.set()

    def close(self) -> None:
        """Tells those who wait for the end that it has come."""
        self._path.unlink(missing_ok=True)
        self._listener.close()
        for connection in self._waiting:
            with contextlib.suppress(OSError), connection:
                connection.sendall(b'{"down": true}\n')

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._handle, args=(connection,), name="client", daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with contextlib.ExitStack() as exits:
            try:
                data, streams, _, _ = socket.recv_fds(connection, 1 << 20, STREAMS)
                for stream in streams:
                    exits.callback(os.close, stream)
                while data and not data.endswith(b"\n"):
                    data += connection.recv(1 << 20)
                answer = self._do(json.loads(data), streams, connection) if data else None
            except (ValueError, KeyError, OSError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            if answer is None:
                return
            with contextlib.suppress(OSError), connection:
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def _do(self, request: dict[str, Any], streams: list[int], connection: socket.socket) -> dict[str, Any] | None:
        match request["do"]:
            case "status":
                return {"status": self._testbed.status()}
            case "down":
                self._waiting.append(connection)
                self._down.set()
                return None
            case "exec" if len(streams) == STREAMS:
                return self._execute(str(request["host"]), list(request["command"]), streams, connection)
        return {"error": f"the testbed cannot do {request['do']!r}"}

    def _execute(self, name: str, command: list[str], streams: list[int], connection: socket.socket) -> dict[str, Any]:
        known = [host.name for host in self._testbed.hosts()]
        found = [name] if name in known else [host for host in known if host.startswith(name)]
        if len(found) != 1:
            what = "several hosts begin with" if found else "no host is called"
            return {"error": f"{what} {name!r}; there are {', '.join(found or known)}"}
        process = self._testbed.popen(found[0], command, (streams[0], streams[1], streams[2]))
        threading.Thread(target=_pass_signals, args=(connection, process), name="signals", daemon=True).start()
        code = process.wait()
        return {"exit": 128 - code if code < 0 else code}


def _pass_signals(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Signals from the client go to the command; a client that has gone ends it."""
    for line in _lines(connection):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(int(json.loads(line)["signal"]))
    if process.poll() is None:
        process.send_signal(signal.SIGHUP)


def _lines(connection: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as lines:
        yield from lines
