"""One container of a Pod: started, watched, probed, restarted with back-off, ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from core.kube import Json
from sim.cluster.images import ContainerError, Executed, Forked, Launch
from sim.cluster.pod_status import ContainerState, ContainerStatus, Running, Terminated, Waiting
from sim.cluster.probes import Probe, attempt, readiness_probe
from sim.cluster.processes import ExecutedProcess, ForkServer, Process, StartError, end_group
from sim.net.node import NetworkHost

QUICK_PROBE_S = 0.1
"""Between attempts as long as a container is not ready: its readiness is what a run waits for."""
RESTART_CAP_S = 30.0
STABLE_S = 60.0
"""A container that has run for so long starts again without back-off."""
END_DEADLINE_S = 5.0


def restart_delay_s(restarts: int) -> float:
    """How long to wait before restart number `restarts` + 1: none before the first, then 1, 2, 4, … s."""
    return 0.0 if restarts == 0 else min(RESTART_CAP_S, 2.0 ** (restarts - 1))


class Container:
    """Driven by its Pod's thread: `tick` does what is due and tells when it wants to be called again."""

    def __init__(self, spec: Json, host: NetworkHost, forks: ForkServer, log: Path, restart_policy: str) -> None:
        self.name: str = spec["name"]
        self.spec = spec
        self._host = host
        self._forks = forks
        self._log = log
        self._policy = restart_policy
        self._process: Process | None = None
        self._pidfd: int | None = None
        self._launch: Launch | None = None
        self._probe: Probe | None = None
        self._address = ""
        self._state: ContainerState = Waiting(reason="ContainerCreating")
        self._last: Terminated | None = None
        self._restarts = 0
        self._recent_restarts = 0
        self._started_s = 0.0
        self._start_at_s: float | None = None
        self._probe_at_s = 0.0
        self._in_a_row = 0
        self._ready = False
        self.trouble: str | None = None
        """Why it does not run or is not ready, for an event; None when all is well."""

    @property
    def status(self) -> ContainerStatus:
        return ContainerStatus(
            name=self.name,
            image=self.spec.get("image") or "",
            state=self._state,
            ready=self._ready,
            restarts=self._restarts,
            last=self._last,
        )

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def descriptor(self) -> int | None:
        """A pidfd that is readable when the process has ended."""
        return self._pidfd

    def prepare(self, make_launch: Callable[[Json], Launch], address: str) -> None:
        """Finds out how to start it; `address` is where probes go. What is wrong with the spec becomes its waiting reason."""
        self._address = address
        try:
            self._launch = make_launch(self.spec)
            self._probe = readiness_probe(self.spec)
        except ContainerError as error:
            self._launch = None
            self._state = Waiting(reason=error.reason, message=str(error))
            self.trouble = str(error)
            return
        self._start_at_s = time.monotonic()

    def tick(self) -> float | None:
        """Starts it, notes its end, probes it, when that is due. Returns when to call again (monotonic), None for only on events."""
        if self._process is not None and self._exit_code(self._process) is not None:
            self._note_end()
        now_s = time.monotonic()
        if self._process is None:
            if self._start_at_s is None:
                return None
            if now_s < self._start_at_s:
                return self._start_at_s
            return self.tick() if self._start() else self._start_at_s
        if self._probe is None:
            return None
        if now_s >= self._probe_at_s:
            self._try(self._probe)
        return self._probe_at_s

    def send_signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def has_ended(self, timeout_s: float) -> bool:
        return self._process is None or self._process.wait(timeout_s)

    def end(self) -> None:
        """Kills it and what it has left behind."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(END_DEADLINE_S)
            end_group(self._process)
            self._forget_process()

    def _start(self) -> bool:
        """Whether it runs now."""
        assert self._launch is not None
        self._start_at_s = None
        try:
            process = self._spawn(self._launch)
        except (OSError, StartError) as error:
            self._state = Waiting(reason="RunContainerError", message=str(error))
            self.trouble = str(error)
            self._schedule_restart()
            return False
        self._process = process
        with contextlib.suppress(ProcessLookupError):  # it has ended, and was reaped, already
            self._pidfd = os.pidfd_open(process.pid)
        self._started_s = time.monotonic()
        self._state = Running(since_s=time.time())
        self._ready = self._probe is None
        self._in_a_row = 0
        self._probe_at_s = self._started_s + (self._probe.initial_delay_s if self._probe is not None else 0.0)
        self.trouble = None
        return True

    def _spawn(self, launch: Launch) -> Process:
        match launch.program:
            case Forked(program=program):
                return self._forks.spawn(
                    program,
                    launch.arguments,
                    environment=launch.environment,
                    network=self._host.namespace,
                    log=self._log,
                )
            case Executed(command=command):
                with self._log.open("ab") as log:
                    popen = self._host.popen(
                        list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(launch.environment)
                    )
                return ExecutedProcess(popen)

    def _note_end(self) -> None:
        assert self._process is not None
        code = self._process.exit_code()
        assert code is not None
        end_group(self._process)
        ended = Terminated(
            exit_code=code if code >= 0 else 128 - code,
            started_s=time.time() - (time.monotonic() - self._started_s),
            finished_s=time.time(),
        )
        self._forget_process()
        self._last, self._ready = ended, False
        self.trouble = f"container {self.name} ended with code {ended.exit_code}; its log is {self._log}"
        if self._policy == "Never" or (self._policy == "OnFailure" and ended.exit_code == 0):
            self._state = ended
            return
        if time.monotonic() - self._started_s > STABLE_S:
            self._recent_restarts = 0
        self._state = ended
        self._schedule_restart()

    def _schedule_restart(self) -> None:
        delay_s = restart_delay_s(self._recent_restarts)
        self._restarts += 1
        self._recent_restarts += 1
        self._start_at_s = time.monotonic() + delay_s
        if delay_s and isinstance(self._state, Terminated):
            message = f"back-off {delay_s:g}s restarting failed container={self.name}"
            self._state = Waiting(reason="CrashLoopBackOff", message=message)

    def _try(self, probe: Probe) -> None:
        failure = attempt(probe, self._address)
        self._in_a_row = self._in_a_row + 1 if (failure is None) != self._ready else 0
        if self._in_a_row >= (probe.failures if self._ready else probe.successes):
            self._ready = not self._ready
            self._in_a_row = 0
        if failure is None:
            self.trouble = None
        elif not self._ready and self._restarts == 0 and time.monotonic() - self._started_s < probe.period_s:
            self.trouble = None  # still starting: not worth an event
        else:
            self.trouble = failure
        self._probe_at_s = time.monotonic() + (probe.period_s if self._ready else min(QUICK_PROBE_S, probe.period_s))

    def _exit_code(self, process: Process) -> int | None:
        """None while it runs. The code of a forked process comes a moment after the kernel says that it has ended."""
        if process.exit_code() is None and self._pidfd is not None:
            poller = select.poll()
            poller.register(self._pidfd, select.POLLIN)
            if poller.poll(0):
                process.wait(END_DEADLINE_S)
        return process.exit_code()

    def _forget_process(self) -> None:
        self._process = None
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
