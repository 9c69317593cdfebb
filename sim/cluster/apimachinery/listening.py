"""The listening socket, which faults may take away for a while, and the admin endpoint that asks for faults."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from sim.cluster.apimachinery import faults, problems, requests
from sim.cluster.apimachinery.faults import Fault
from sim.cluster.apimachinery.http import Service
from sim.cluster.apimachinery.requests import encode
from sim.cluster.apimachinery.watch import Watch

MAX_BODY_BYTES: Final = 3 * 1024 * 1024
"""Source: apiserver pkg/server/config.go, MaxRequestBodyBytes."""


@dataclass(slots=True, kw_only=True, eq=False)
class Listening:
    """Serves on one address; `address` is host:port once it has started."""

    service: Service
    host: str
    port: int
    log: Callable[..., None]
    address: str = ""
    _server: web.Server | None = None
    _listener: asyncio.Server | None = None
    _returning: asyncio.TimerHandle | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._server = web.Server(
            self.service.handle,
            request_factory=self._request,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=3600.0,
        )
        await self._listen()

    def _request(self, message, payload, protocol, writer, task) -> web.BaseRequest:  # type: ignore[no-untyped-def]
        # aiohttp hands these over untyped; only the size limit is ours.
        return web.BaseRequest(
            message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=MAX_BODY_BYTES
        )

    async def _listen(self) -> None:
        assert self._server is not None
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._server, self.host, self.port, backlog=1024)
        self.port = self._listener.sockets[0].getsockname()[1]
        self.address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def stop(self) -> None:
        """Ends the watches and closes everything."""
        if self._returning is not None:
            self._returning.cancel()
        if self._listener is not None:
            self._listener.close()
        for watch in list(self.service.watches):
            watch.end()
        if self._server is not None:
            await self._server.shutdown(timeout=0.2)

    def _connections(self) -> list[asyncio.Transport]:
        assert self._server is not None
        found = [protocol.transport for protocol in self._server.connections]
        return [transport for transport in found if isinstance(transport, asyncio.Transport)]

    def _struck_watches(self, fault: Fault) -> list[Watch]:
        return [watch for watch in self.service.watches if fault.strikes_running(watch.path, watch.client)]

    def _reset_connections(self, fault: Fault, spared: asyncio.BaseTransport | None) -> None:
        some = fault.action == "reset" and (fault.path or fault.verbs)
        watches = {watch.transport for watch in self._struck_watches(fault)} if some else None
        for transport in self._connections():
            if transport is spared or (watches is not None and transport not in watches):
                continue
            self._count(fault.name, str((transport.get_extra_info("peername") or ("",))[0]))
            sock = transport.get_extra_info("socket")
            if sock is not None:
                # With a linger time of 0 the kernel sends RST instead of FIN.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    def _go_away(self, fault: Fault, seconds: float) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._reset_connections(fault, None)
        loop = asyncio.get_running_loop()
        if self._returning is not None:
            self._returning.cancel()
        self._returning = loop.call_later(seconds, self._come_back)

    def _come_back(self) -> None:
        task = asyncio.get_running_loop().create_task(self._listen())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.log("listening again")

    async def admin(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers ``/tidegate/faults``."""
        on, told = self.service.faults, None
        if request.path != faults.PATH or on is None:
            raise problems.page_not_found()
        match request.method:
            case "POST":
                fault = faults.parse(
                    requests.parse_body(await request.read(), requests.JSON, "Fault"),
                    request.remote or "",
                    time.monotonic(),
                )
                self.log("fault asked for", **fault.shown(time.monotonic()))
                self._start(fault, request)
            case "DELETE":
                told = on.clear()
                for watch in self.service.watches:
                    watch.mend()
            case "GET":
                pass
            case _:
                raise problems.method_not_allowed()
        body = {
            "faults": [fault.shown(time.monotonic()) for fault in on.on],
            "watches": len(self.service.watches),
            "watching": dict(Counter(watch.client for watch in self.service.watches)),
            "struck": on.counts() if told is None else told,
        }
        return web.Response(body=encode(body), content_type=requests.JSON)

    def _start(self, fault: Fault, request: web.BaseRequest) -> None:
        """Does at once what a fault does at once; the rest strikes later requests."""
        if fault.action == "compact":
            self.service.cluster.store.compact_all()
            return
        if fault.action == "refuse":
            # The answer to this request goes out first.
            seconds = max(fault.until_s - time.monotonic(), 0)
            asyncio.get_running_loop().call_later(0.02, self._go_away, fault, seconds)
            return
        if fault.action == "reset":
            self._reset_connections(fault, request.transport)
        for watch in self._struck_watches(fault):
            self._strike_watch(fault, watch)
        if self.service.faults is not None and fault.action != "end_watches":
            self.service.faults.on.append(fault)

    def _count(self, name: str, client: str) -> None:
        if self.service.faults is not None:
            self.service.faults.count(name, client)

    def _strike_watch(self, fault: Fault, watch: Watch) -> None:
        """What a fault does to a watch that runs."""
        if fault.action not in ("disorder", "reset", "stale"):
            self._count(fault.name, watch.client)
        match fault.action:
            case "hang":
                watch.silent = True
            case "disorder":
                watch.disordered = lambda: self._count(fault.name, watch.client)
            case "garbage":
                watch.say(b'{"type":"ADDED","object":{"kind":\x00\xff\n')
            case "end_watches":
                watch.end()
            case "status":
                watch.end(fault.error())
            case _:
                pass
