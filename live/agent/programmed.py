"""What the load balancer of a Pod has programmed, told to the router agent of the same Pod over loopback.

The router announces a VIP only while the load balancer can forward it. The two are containers of one Pod: they share its loopback
interface, and nothing outside of the Pod can reach it or be heard on it.

``GET /programmed?after=VERSION&timeout_s=S`` answers as soon as the version is another than VERSION, or after S seconds:
``{"version": 12, "announced": ["20.0.0.1/32"], "vips": ["20.0.0.1/32", "2000::/64"]}``.
503 until the load balancer knows what the kernel holds.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from core.errors import InputError, Problem
from core.model import Prefix, sorted_prefixes
from live.agent.serve import Answer, Handler, HttpServer, split_address

log = logging.getLogger(__name__)

PATH = "/programmed"
DEFAULT_ADDRESS = "127.0.0.1:9081"
WAIT_LIMIT_S = 60.0
POLL_S = 20.0
RETRY_S = 0.2
CONTENT_TYPE = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vips:
    """What a load balancer says of its VIPs."""

    announced: tuple[Prefix, ...] = ()
    """Those that the kernel forwards to at least one usable target: they may be announced."""
    vips: tuple[Prefix, ...] = ()
    """All of them: their packets leave by the router's table and by nothing else."""


class Programmed:
    """What the kernel forwards, with a version that grows with each change.

    Versions start at the wall clock in microseconds, so that none of an earlier process comes again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._version = time.time_ns() // 1000
        self._vips: Vips | None = None

    def publish(self, *, announced: Iterable[Prefix], vips: Iterable[Prefix]) -> None:
        """Tells what is programmed now. Nothing is told before the first call: not to know is not to have nothing."""
        self._tell(Vips(announced=sorted_prefixes(announced), vips=sorted_prefixes(vips)))

    def retain(self, usable: Iterable[Prefix]) -> None:
        """Withdraws what is not in `usable`: before the kernel stops forwarding it."""
        keep = frozenset(usable)
        with self._changed:
            known = self._vips
        if known is not None:
            self._tell(Vips(announced=tuple(vip for vip in known.announced if vip in keep), vips=known.vips))

    def _tell(self, vips: Vips) -> None:
        with self._changed:
            if vips != self._vips:
                self._vips = vips
                self._version += 1
                self._changed.notify_all()

    def wait(self, after: int | None, timeout_s: float) -> tuple[int, Vips] | None:
        """(version, VIPs) as soon as the version is not `after`, or after `timeout_s`; None when nothing is known by then."""
        with self._changed:
            self._changed.wait_for(lambda: self._vips is not None and self._version != after, timeout_s)
            return None if self._vips is None else (self._version, self._vips)

    def handler(self) -> Handler:
        """Answers GET /programmed."""

        def answer(query: Mapping[str, str]) -> Answer:
            try:
                after = int(query["after"]) if "after" in query else None
                timeout_s = min(float(query.get("timeout_s", "0")), WAIT_LIMIT_S)
            except ValueError as error:
                return Answer(code=400, text=f"{error}; expected after=VERSION&timeout_s=SECONDS\n")
            known = self.wait(after, timeout_s)
            if known is None:
                return Answer(code=503, text="what the kernel holds is not known yet\n")
            version, vips = known
            body = {
                "version": version,
                "announced": [str(vip) for vip in vips.announced],
                "vips": [str(vip) for vip in vips.vips],
            }
            return Answer(content_type=CONTENT_TYPE, text=json.dumps(body) + "\n")

        return answer


def serve_programmed(programmed: Programmed, address: str = DEFAULT_ADDRESS) -> HttpServer:
    """Serves `programmed` on a loopback address.

    Raises:
        InputError: the address is not one of the loopback interface, or is taken.
    """
    host, _ = split_address(address)
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        problem = Problem(
            where="address",
            what="must stay inside the Pod",
            found=repr(address),
            expected="127.0.0.1:port or [::1]:port",
        )
        raise InputError(problem)
    return HttpServer(address, {PATH: programmed.handler()})


class ProgrammedFollower:
    """Follows the load balancer of this Pod in a thread. `on_change` is called, from it, when the VIPs have changed.

    While the load balancer is away (it restarts) the last value holds, as its tables do in the kernel.
    """

    def __init__(self, on_change: Callable[[], None], address: str = DEFAULT_ADDRESS) -> None:
        self._on_change = on_change
        self._host, self._port = split_address(address)
        self._vips: Vips | None = None
        self._version: int | None = None
        self._connected = False
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._run, name="programmed", daemon=True)
        self._thread.start()

    @property
    def vips(self) -> Vips | None:
        """What the load balancer said last; None when the load balancer has never said."""
        return self._vips

    @property
    def connected(self) -> bool:
        """Whether the load balancer answered the last time."""
        return self._connected

    def close(self) -> None:
        """Ends the thread at once."""
        with self._lock:
            self._stopped.set()
            if self._connection is not None and self._connection.sock is not None:
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._stopped.is_set():
            connection = http.client.HTTPConnection(self._host, self._port, timeout=POLL_S + 5.0)
            try:
                connection.connect()
                with self._lock:
                    self._connection = connection
                while not self._stopped.is_set():
                    self._poll(connection)
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
                if self._connected and not self._stopped.is_set():
                    log.info("the load balancer is away, its last word holds", extra={"why": str(error)})
                self._connected = False
                self._stopped.wait(RETRY_S)
            finally:
                with self._lock:
                    self._connection = None
                connection.close()

    def _poll(self, connection: http.client.HTTPConnection) -> None:
        after = f"&after={self._version}" if self._version is not None else ""
        connection.request("GET", f"{PATH}?timeout_s={POLL_S}{after}")
        response = connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise OSError(f"HTTP {response.status}: {data[:200].decode(errors='replace').strip()}")
        known = json.loads(data)
        version = int(known["version"])
        vips = Vips(
            announced=tuple(ip_network(vip) for vip in known["announced"]),
            vips=tuple(ip_network(vip) for vip in known["vips"]),
        )
        self._connected = True
        self._version = version
        if vips != self._vips:
            self._vips = vips
            self._on_change()
