"""Starts small programs by the hundred: one interpreter that has them loaded forks into the pods' namespaces.

A new interpreter a target would cost 20 ms and 9 MB each; a fork costs 1 ms and 1 MB. Run by path (``python -I -S forkserver.py``); the
file descriptor 0 is a Unix stream socket on which JSON lines go both ways:

    in   {"id": 1, "program": "target", "arguments": [...], "environment": {...}, "network": "/proc/7/ns/net", "log": "/…/target.log"}
    in   {"signal": 15, "pid": 42}
    out  {"id": 1, "pid": 42}                the program is ready (its ports listen), or has ended already
    out  {"id": 1, "error": "…"}             it could not be forked
    out  {"ended": 42, "code": 0}            negative: the signal that ended it

When the socket closes, the server and all its programs end.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120 (pathlib costs 6 ms)

from sim.apps import target

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15

PROGRAMS: dict[str, Callable[[list[str], Callable[[], None]], int]] = {"target": target.main}

_libc = ctypes.CDLL(None, use_errno=True)


class ForkServer:
    """Serves one client until it closes the connection."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._received = b""
        self._running: set[int] = set()
        self._starting: dict[int, tuple[int, int]] = {}
        """Read end of the pipe on which a program says that it is ready -> (request id, PID)."""
        self._selector = selectors.DefaultSelector()
        self._selector.register(client, selectors.EVENT_READ)
        self._children_changed, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._children_changed, selectors.EVENT_READ)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._client:
                    data = self._client.recv(65_536)
                    if not data:
                        return
                    *lines, self._received = (self._received + data).split(b"\n")
                    for line in lines:
                        self._obey(json.loads(line))
                elif key.fd == self._children_changed:
                    os.read(self._children_changed, 4096)
                    self._reap()
                else:
                    self._started(key.fd)

    def _obey(self, request: dict[str, Any]) -> None:
        if "signal" in request:
            # Only what this server has started and not yet reaped: a PID that it owns cannot be someone else's.
            if request["pid"] in self._running:
                os.kill(request["pid"], request["signal"])
            return
        try:
            ready, said = os.pipe2(os.O_CLOEXEC)
            pid = os.fork()
        except OSError as error:
            self._say({"id": request["id"], "error": str(error)})
            return
        if pid == 0:
            os.close(ready)
            _run(request, said)
        os.close(said)
        self._running.add(pid)
        self._starting[ready] = (request["id"], pid)
        self._selector.register(ready, selectors.EVENT_READ)

    def _started(self, ready: int) -> None:
        request_id, pid = self._starting.pop(ready)
        self._selector.unregister(ready)
        os.close(ready)
        self._say({"id": request_id, "pid": pid})

    def _reap(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._running.discard(pid)
            for ready, (_, starting) in list(self._starting.items()):
                if starting == pid:
                    self._started(ready)
            self._say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})

    def _say(self, message: dict[str, Any]) -> None:
        self._client.sendall(json.dumps(message).encode() + b"\n")


def _run(request: dict[str, Any], said: int) -> NoReturn:
    """The forked process: becomes the program, in its namespace, with its log; never returns."""
    code = 1
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _libc.prctl(PR_SET_NAME, request["program"].encode(), 0, 0, 0)
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(3, said)
        os.closerange(said + 1, 1024)
        if request.get("network"):
            namespace = os.open(request["network"], os.O_RDONLY)
            if _libc.setns(namespace, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns {request['network']}")
            os.close(namespace)
        os.environ.clear()
        os.environ.update(request["environment"])
        code = PROGRAMS[request["program"]](request["arguments"], lambda: os.close(said))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 (the last frame of this process: told to its log)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    ForkServer(socket.socket(fileno=0)).serve()
