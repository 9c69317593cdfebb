"""What holds an agent's process together, so that the agent's own file holds just its reconciliation.

def main(options: argparse.Namespace) -> int:
    with AgentProcess("router", options) as process:
        gateways = process.watch(GATEWAYS, namespace=options.namespace)
        return process.run(lambda: reconcile(gateways.objects()))
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from core.garbage import GarbageCollector
from core.kube import Resource
from live.agent.health import Health
from live.agent.logs import configure_logs
from live.agent.metrics import Registry
from live.agent.serve import HttpServer, agent_routes
from live.kube import KubeClient, connect
from live.kube_informer import WatchingInformer
from live.workqueue import SharedQueue, Turn, run_reconciler

log = logging.getLogger(__name__)

EVERYTHING = "everything"
"""The one key of an agent's queue: each turn looks at everything."""

STUCK_S = 60.0
"""A turn that takes longer will never end: the kernel answers in milliseconds, the API within its timeouts."""

FAILING_S = 10.0
"""Failures that last no longer are retries on the way to success; the Pod stays in service, for its tables still hold."""


def add_arguments(parser: argparse.ArgumentParser, *, listen: str) -> None:
    """Adds what every agent takes; `listen` is this agent's default for --listen."""
    parser.add_argument(
        "--listen", default=listen, metavar="HOST:PORT", help="health, readiness and metrics (default: %(default)s)"
    )
    parser.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="default: $KUBECONFIG, else the Pod's service account"
    )
    parser.add_argument(
        "--namespace",
        default=os.environ.get("POD_NAMESPACE", "default"),
        help="of the objects to follow (default: $POD_NAMESPACE, else 'default')",
    )
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))


class AgentProcess:
    """Logs, client, queue and server of one agent. `options` are those of `add_arguments`.

    Register further checks, metrics and things to close (`exits`) before `run`.

    Raises:
        InputError: the API cannot be reached with what is configured, or the address cannot be listened on.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        configure_logs(name, level=options.log_level)
        self.name = name
        self.health = Health()
        self.metrics = Registry()
        self.exits = contextlib.ExitStack()
        self.kube: KubeClient = self.exits.enter_context(connect(options.kubeconfig))
        self._listen: str = options.listen
        self._queue: SharedQueue[str] = SharedQueue()
        self._garbage = GarbageCollector()
        self._turns = _Turns(self.health, self.metrics)
        self.health.must_hold("objects", self._not_synced)
        self.metrics.before_render(self._measure)
        self._watch_failures = self.metrics.counter("tidegate_watch_failures_total", "Lists and watches that failed.")
        self._cpu = self.metrics.counter(
            "process_cpu_seconds_total", "User and system CPU time of this process in seconds."
        )
        self._memory = self.metrics.gauge("process_resident_memory_bytes", "Resident memory of this process in bytes.")
        self._ready = self.metrics.gauge("tidegate_ready", "1 when the agent has programmed what it should, else 0.")

    def __enter__(self) -> AgentProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.exits.close()

    def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> WatchingInformer:
        """An informer; each change wakes the agent, and the agent waits for its first list."""
        return self.kube.watch(
            resource,
            lambda _: self.wake(),
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            on_synced=self.wake,
        )

    def wake(self) -> None:
        """Something has changed: a turn follows soon. Safe from any thread."""
        self._queue.add(EVERYTHING)

    def has_news(self) -> bool:
        """Whether a turn is to follow the one that is under way."""
        return not self._queue.idle()

    def stop(self) -> None:
        """Ends `run` after the turn that is under way. Safe from any thread."""
        self._queue.close()

    def run(self, reconcile: Callable[[], float | None]) -> int:
        """Serves, and calls `reconcile` whenever something changes, once all informers have synced, until SIGTERM or SIGINT.

        `reconcile` returns the seconds until it wants to be called in any case, or None. Returns the exit code, 0.
        """
        server = HttpServer(self._listen, agent_routes(self.health, self.metrics))
        self.exits.callback(server.close)
        log.info("started", extra={"port": server.port, "pid": os.getpid()})

        def turn(_: str) -> float | None:
            if self._not_synced() is not None:
                return None  # the informer that is last wakes us again
            again_s = reconcile()
            self._turns.succeeded()
            if not self.has_news():
                self._garbage.collect(time.monotonic())
            return again_s

        with _signals_call(self.stop):
            self.wake()
            run_reconciler(self._queue, turn, observer=self._turns)
        log.info("stopped")
        return 0

    def _not_synced(self) -> str | None:
        waiting = [informer.resource.plural for informer in self.kube.informers if not informer.synced]
        return f"not listed yet: {' '.join(waiting)}" if waiting else None

    def _measure(self) -> None:
        self._cpu.set(time.process_time())
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        self._memory.set(resident_pages * os.sysconf("SC_PAGE_SIZE"))
        self._ready.set(0 if self.health.why_not_ready() else 1)
        for informer in self.kube.informers:
            self._watch_failures.set(informer.failures_total, resource=informer.resource.plural)


class _Turns:
    """Watches the turns: whether one hangs, whether one has ever succeeded, for how long they have failed."""

    def __init__(self, health: Health, metrics: Registry) -> None:
        self._started_s: float | None = None
        self._ever_succeeded = False
        self._failing_since_s: float | None = None
        self._last_error = ""
        self._count = metrics.counter("tidegate_reconciles_total", "Reconciliations by result.")
        self._seconds = metrics.counter("tidegate_reconcile_seconds_total", "Time spent reconciling, in seconds.")
        health.must_live("reconcile", self._stuck)
        health.must_hold("programmed", self._not_programmed)

    def succeeded(self) -> None:
        self._ever_succeeded = True

    def started(self) -> None:
        self._started_s = time.monotonic()

    def ended(self, turn: Turn) -> None:
        self._started_s = None
        self._count.add(result="ok" if turn.error is None else "error")
        self._seconds.add(turn.duration_s)
        if turn.error is None:
            self._failing_since_s = None
            return
        self._last_error = str(turn.error) or type(turn.error).__name__
        if self._failing_since_s is None:
            self._failing_since_s = time.monotonic()

    def _stuck(self) -> str | None:
        started_s = self._started_s
        if started_s is None or time.monotonic() - started_s < STUCK_S:
            return None
        return f"a turn has not ended for {time.monotonic() - started_s:.0f} s"

    def _not_programmed(self) -> str | None:
        failing_s = None if self._failing_since_s is None else time.monotonic() - self._failing_since_s
        if not self._ever_succeeded:
            return "nothing is programmed yet" + (f": {self._last_error}" if self._last_error else "")
        if failing_s is not None and failing_s >= FAILING_S:
            return f"has failed for {failing_s:.0f} s: {self._last_error}"
        return None


@contextlib.contextmanager
def _signals_call(stop: Callable[[], None]) -> Iterator[None]:
    """Within it, the first SIGTERM or SIGINT calls `stop` from a thread, the second ends the process.

    Not from the handler: it runs in the middle of anything, also of the lock that `stop` needs. Nor with the signals blocked and
    sigwait(2): the processes that the agent starts would inherit the blocked mask.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals; whoever runs an agent elsewhere stops it by `stop`
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def default_next_time(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    def wait() -> None:
        if receiver.recv(1):
            stop()

    before = {number: signal.signal(number, default_next_time) for number in (signal.SIGTERM, signal.SIGINT)}
    wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    waiter = threading.Thread(target=wait, name="signals", daemon=True)
    waiter.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        sender.close()
        waiter.join()
        receiver.close()
