"""The control plane's host: the API server as a process of its own, reached over the cluster's network."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

from core.errors import TidegateError
from sim.cluster.cluster_network import ClusterNetwork
from sim.net.node import NetworkHost
from sim.net.topology import THIS_SIDE, Attachment, VirtualNetwork

HOST = "control-plane"
WORLD_INTERFACE = "cluster0"
PORT = 6443
START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 5.0


class ControlPlaneError(TidegateError):
    """The API server did not start; the message has the end of its log."""


def add_host(network: VirtualNetwork, cluster: ClusterNetwork) -> NetworkHost:
    """Attaches the run itself to the cluster's network as `cluster0`, and adds the control plane's host, which it returns."""
    world = Attachment(network=cluster.bridge, interface=WORLD_INTERFACE, addresses=cluster.world)
    network.attach(THIS_SIDE, world)
    own = Attachment(network=cluster.bridge, interface=cluster.interface, addresses=cluster.control_plane)
    return network.add_host(HOST, [own])


class ControlPlane:
    """The host `control-plane` with the imitated API server, and the run's own place on the cluster's network."""

    def __init__(
        self,
        network: VirtualNetwork,
        *,
        run_dir: Path,
        log_dir: Path,
        cluster: ClusterNetwork | None = None,
        allow_faults: bool = False,
    ) -> None:
        """`allow_faults`: the server takes orders to misbehave (sim.cluster.apimachinery.faults)."""
        self._network = network
        self._allow_faults = allow_faults
        self._cluster = cluster or ClusterNetwork()
        self._log = log_dir / "apiserver.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.kubeconfig = run_dir / "kubeconfig"
        """For every client; it exists when `start` has returned."""

    def start(self) -> None:
        """Adds the host, attaches the run itself as `cluster0`, starts the server; returns when it answers.

        Raises:
            ControlPlaneError: the server ended, or was not ready in time.
        """
        host = add_host(self._network, self._cluster)
        ready, said = os.pipe()
        command = [
            sys.executable,
            "-m",
            "sim.cluster.apiserver",
            "--listen",
            f"{self._cluster.control_plane[0].ip}:{PORT}",
            "--kubeconfig-out",
            str(self.kubeconfig),
            "--ready-fd",
            str(said),
            *(["--allow-faults"] if self._allow_faults else []),
        ]
        try:
            with self._log.open("ab") as log:
                self._process = host.popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(said,))
        finally:
            os.close(said)
        self._wait(ready)

    def stop(self) -> None:
        """Ends the server."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self, ready: int) -> None:
        deadline_s = time.monotonic() + START_DEADLINE_S
        poller = select.poll()
        poller.register(ready, select.POLLIN)
        try:
            # The pipe is readable when the server is ready, and also when it has ended.
            poller.poll((deadline_s - time.monotonic()) * 1000.0)
            if poller.poll(0) and os.read(ready, 16).startswith(b"ready"):
                return
        finally:
            os.close(ready)
        self.stop()
        words = self._log.read_text(errors="replace").splitlines()[-3:]
        raise ControlPlaneError(f"the API server was not ready within {START_DEADLINE_S:g} s: {'; '.join(words)}")
