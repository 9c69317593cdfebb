"""One Pod on its node, from its binding to its end: a thread that waits for what may happen next."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import ApiError, DataplaneError, TidegateError
from core.kube import PODS, Json, KubeApi
from sim.cluster.containers import Container
from sim.cluster.events import emit
from sim.cluster.images import ContainerError, Executed, Launch, Program, find_program, launch
from sim.cluster.multus import PodInterface
from sim.cluster.networks import NetworkError
from sim.cluster.pod_sandbox import Node, Sandbox, Sandboxes, host_name, is_host_network
from sim.cluster.pod_status import ContainerStatus, PodFacts, Waiting, render_status
from sim.cluster.processes import ForkServer

log = logging.getLogger(__name__)

FIELD_MANAGER = "kubelet"
COMPONENT = "kubelet"
SANDBOX_RETRY_FIRST_S = 0.5
SANDBOX_RETRY_CAP_S = 10.0
API_RETRY_S = 0.5
DEFAULT_GRACE_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every Pod of a kubelet works with. `environment` is given to every container."""

    api: KubeApi
    sandboxes: Sandboxes
    forks: ForkServer
    programs: Mapping[str, Program]
    environment: Mapping[str, str]
    log_dir: Path


class PodRunner:
    """Runs one Pod. `update` and `vanish` tell it what the API says; `on_end` is called from its thread when all is gone."""

    def __init__(self, pod: Json, node: Node, means: Means, on_end: Callable[[PodRunner], None]) -> None:
        self.uid: str = pod["metadata"]["uid"]
        self.name = host_name(pod)
        self.namespace: str = pod["metadata"]["namespace"]
        self.pod_name: str = pod["metadata"]["name"]
        self._node = node
        self._means = means
        self._on_end = on_end
        self._lock = threading.Lock()
        self._pod = pod
        self._vanished = False
        self._abandoned = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name=f"pod {self.name}", daemon=True)
        self._planned: tuple[PodInterface, ...] | None = None
        self._problem: Waiting | None = None
        self._sandbox: Sandbox | None = None
        self._containers: tuple[Container, ...] = ()
        self._started_s = time.time()
        self._published: Json | None = None
        self._told: set[tuple[str, str]] = set()

    def start(self) -> None:
        """Plans the Pod's addresses now, in the caller's thread, so that they depend on the order of Pods only; then goes on alone.

        A Pod that is to go already gets none: whoever comes next would have others, or not, as threads take turns.
        """
        if not self._over:
            self._plan()
        self._thread.start()

    def update(self, pod: Json) -> None:
        """The Pod as the API has it now."""
        with self._lock:
            self._pod = pod
        self.wake()

    def vanish(self) -> None:
        """The API has no such Pod any more: it ends at once."""
        with self._lock:
            self._vanished = True
        self.wake()

    def abandon(self) -> None:
        """The kubelet itself ends: processes are killed, and the API is told nothing."""
        with self._lock:
            self._abandoned = True
        self.wake()

    def wake(self) -> None:
        """Something may have changed: a network that was missing, for example."""
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def join(self, timeout_s: float) -> None:
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def pids(self) -> Mapping[str, int]:
        """The PIDs of the running containers' main processes, by container name."""
        return {container.name: pid for container in self._containers if (pid := container.pid) is not None}

    @property
    def _over(self) -> bool:
        with self._lock:
            return self._vanished or self._abandoned or "deletionTimestamp" in self._pod["metadata"]

    def _run(self) -> None:
        try:
            if self._make_sandbox():
                self._run_containers()
        except Exception:
            log.exception("pod %s: the kubelet's thread failed", self.name)
        try:
            self._end()
        except Exception:
            log.exception("pod %s: it did not end in order", self.name)
        finally:
            self._on_end(self)

    def _plan(self) -> None:
        try:
            self._planned = self._means.sandboxes.plan(self._pod, self._node)
            self._problem = None
        except (NetworkError, ApiError) as error:
            self._problem = Waiting(reason="FailedCreatePodSandBox", message=str(error))

    def _make_sandbox(self) -> bool:
        """Whether the Pod has its place; False when it is over before that."""
        wait_s = SANDBOX_RETRY_FIRST_S
        while not self._over:
            if self._planned is None:
                self._plan()
            if self._planned is not None:
                try:
                    self._sandbox = self._means.sandboxes.make(
                        self._pod, self._node, self._planned, furnish=self._has_executed()
                    )
                except (TidegateError, ValueError, OSError) as error:
                    self._problem = Waiting(reason="FailedCreatePodSandBox", message=str(error))
                else:
                    self._problem = None
                    return True
            assert self._problem is not None
            self._tell(self._problem.reason, f"Failed to create pod sandbox: {self._problem.message}")
            self._publish()
            self._sleep(time.monotonic() + wait_s)
            wait_s = min(SANDBOX_RETRY_CAP_S, 2 * wait_s)
        return False

    def _has_executed(self) -> bool:
        """Whether a program of its own runs in the Pod, which then needs private mounts; forked programs touch no files."""
        for container in self._pod["spec"]["containers"]:
            try:
                if isinstance(find_program(container.get("image") or "", self._means.programs), Executed):
                    return True
            except ContainerError:
                continue  # it will never start, and says so by itself
        return False

    def _run_containers(self) -> None:
        assert self._sandbox is not None
        sandbox, spec = self._sandbox, self._pod["spec"]
        if spec.get("initContainers"):
            self._tell("Failed", "initContainers are not supported by the testbed and were left out")
        self._containers = tuple(
            Container(container, sandbox.host, self._means.forks, self._log_path(container), self._restart_policy)
            for container in spec["containers"]
        )
        for container in self._containers:
            container.prepare(self._launch, sandbox.addresses[0])
        while not self._over:
            due = [at_s for container in self._containers if (at_s := container.tick()) is not None]
            for container in self._containers:
                if container.trouble is not None:
                    self._tell("Unhealthy" if container.pid else "Failed", container.trouble)
            if not self._publish():
                due.append(time.monotonic() + API_RETRY_S)
            self._sleep(min(due, default=None))

    def _launch(self, container: Json) -> Launch:
        assert self._sandbox is not None
        host_network = is_host_network(self._pod)
        base = {
            **self._means.environment,
            "HOSTNAME": self._node.name if host_network else self._pod["metadata"]["name"],
            "KUBECONFIG": str(self._sandbox.kubeconfig),
        }
        with_status = {**self._pod, "status": self._status()}
        return launch(container, with_status, self._means.programs, base)

    @property
    def _restart_policy(self) -> str:
        return str(self._pod["spec"].get("restartPolicy") or "Always")

    def _log_path(self, container: Json) -> Path:
        metadata = self._pod["metadata"]
        return self._means.log_dir / f"{metadata['namespace']}_{metadata['name']}_{container['name']}.log"

    def _status(self) -> Json:
        containers = tuple(container.status for container in self._containers)
        if not containers:
            waiting = Waiting(reason="ContainerCreating")
            containers = tuple(
                ContainerStatus(name=container["name"], image=container.get("image") or "", state=waiting)
                for container in self._pod["spec"]["containers"]
            )
        facts = PodFacts(
            containers=containers,
            restart_policy=self._restart_policy,
            started_s=self._started_s,
            pod_ips=self._sandbox.addresses if self._sandbox is not None else (),
            host_ips=self._node.addresses,
            problem=self._problem,
        )
        previous = (self._published or {}).get("conditions", ())
        return render_status(facts, previous, time.time())

    def _publish(self) -> bool:
        """Writes the status if it has changed; False when the API would not take it and it must be tried again."""
        status = self._status()
        if status == self._published or self._over:
            return True
        metadata = self._pod["metadata"]
        wanted = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": self.uid},
            "status": status,
        }
        try:
            self._means.api.apply(PODS, wanted, field_manager=FIELD_MANAGER, subresource="status")
        except ApiError as error:
            log.warning("pod %s: its status was not written: %s", self.name, error)
            return False
        self._published = status
        return True

    def _tell(self, reason: str, message: str) -> None:
        if (reason, message) not in self._told:
            self._told.add((reason, message))
            # As in a cluster, a Pod that is not ready yet has a warning event; for this log it is the way of the world.
            level = logging.INFO if reason == "Unhealthy" else logging.WARNING
            log.log(level, "pod %s: %s: %s", self.name, reason, message)
            emit(self._means.api, COMPONENT, self._pod, reason, message)

    def _sleep(self, until_s: float | None) -> None:
        """Until something wakes it, a process ends, or it is `until_s` (monotonic)."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        for container in self._containers:
            if container.descriptor is not None:
                poller.register(container.descriptor, select.POLLIN)
        timeout_ms = None if until_s is None else max(0.0, (until_s - time.monotonic()) * 1000.0 + 0.5)
        if any(descriptor == self._wake for descriptor, _ in poller.poll(timeout_ms)):
            os.eventfd_read(self._wake)

    def _end(self) -> None:
        """SIGTERM, the grace period, SIGKILL; then the namespace, the addresses, and at last the object."""
        with self._lock:
            pod, gone = self._pod, self._vanished or self._abandoned
        grace_s = 0.0 if gone else float(pod["metadata"].get("deletionGracePeriodSeconds", DEFAULT_GRACE_S))
        try:
            self._end_containers(grace_s)
        finally:
            self._containers = ()
            try:
                self._means.sandboxes.remove(pod, self._sandbox)
            except (DataplaneError, OSError) as error:
                log.warning("pod %s: its namespace was not taken apart in order: %s", self.name, error)
            if "deletionTimestamp" in pod["metadata"]:
                self._delete()
            with self._lock:
                os.close(self._wake)
                self._wake = -1

    def _end_containers(self, grace_s: float) -> None:
        if grace_s:
            for container in self._containers:
                container.send_signal(signal.SIGTERM)
            deadline_s = time.monotonic() + grace_s
            for container in self._containers:
                container.has_ended(max(0.0, deadline_s - time.monotonic()))
        for container in self._containers:
            container.end()

    def _delete(self) -> None:
        """Takes the object away, which nobody else does: asks until the API has done it, or says that it is gone."""
        metadata, told = self._pod["metadata"], ""
        while True:
            with self._lock:
                if self._vanished or self._abandoned:
                    return
            try:
                self._means.api.delete(PODS, metadata["namespace"], metadata["name"], uid=self.uid, grace_period_s=0)
            except ApiError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("pod %s: its object was not deleted, and will be again: %s", self.name, error)
                self._sleep(time.monotonic() + API_RETRY_S)
            else:
                return
