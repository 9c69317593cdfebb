"""Mininet's nodes, links and interfaces as the testbed needs them: no shells, no processes for what one netlink message can do.

A stock Mininet host runs an interactive bash on a pty and configures itself through it, a line of at most 4095 bytes at a time. Here a
host is a sleeping process that keeps its namespaces; everything else goes through `popen` and `namespaces.ip_batch`.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

from core.errors import MachineError
from sim.net.capabilities import probe
from sim.net.mn import Host, Intf, Link
from sim.net.namespaces import namespace_of


class SleepingNode:
    """What a Mininet node is made of here: one process that sleeps in the node's network and mount namespaces."""

    inNamespace: bool  # noqa: N815 (Mininet's attribute)
    shell: subprocess.Popen[bytes] | None
    pid: int
    name: str

    @property
    def namespace(self) -> Path:
        """The node's network namespace, as long as the node lives."""
        return namespace_of(self.pid)

    def startShell(self, mnopts: str | None = None) -> None:  # noqa: N802 (overrides Mininet's)
        """Starts the sleeper; returns when its namespaces exist (mnexec -p prints the PID after it has made them)."""
        options = mnopts or ("-dnp" if self.inNamespace else "-dp")
        self.shell = subprocess.Popen(
            ["mnexec", options, "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.shell.stdout is not None
        assert self.shell.stderr is not None
        if not self.shell.stdout.readline():
            said = self.shell.stderr.read().decode(errors="replace").strip()
            raise MachineError(f"mnexec could not make namespaces for {self.name}: {said}", probe("namespaces").remedy)
        self.shell.stdout.close()
        self.shell.stderr.close()
        self.pid = self.shell.pid

    def terminate(self) -> None:
        """Ends the sleeper. The kernel removes the namespace and its links when no other process is in it."""
        if self.shell is not None:
            self.shell.send_signal(signal.SIGKILL)
            self.shell.wait()
            self.shell = None

    def stop(self, deleteIntfs: bool = False) -> None:  # noqa: N803, ARG002 (overrides Mininet's)
        self.terminate()

    def cleanup(self) -> None:
        """Nothing to collect: there is no pty."""

    def config(self, **_parameters: object) -> dict[str, object]:
        """Nothing: addresses are set in batches by the VirtualNetwork."""
        return {}

    def cmd(self, *arguments: object, **_keywords: object) -> str:
        raise NotImplementedError(f"{self.name} has no shell for {arguments}: use popen, or namespaces.run_in")

    @classmethod
    def setup(cls) -> None:
        """Nothing: `capabilities` has asked for mnexec, and ifconfig is not used."""


class NetworkHost(SleepingNode, Host):  # type: ignore[misc]  # Mininet publishes no types
    """A host of the virtual network."""


class WireEnd(Intf):  # type: ignore[misc]  # Mininet publishes no types
    """An interface that was born complete, in its namespace, with its name and MAC."""

    def config(self, **_parameters: object) -> dict[str, object]:
        return {}

    def delete(self) -> None:
        self.node.delIntf(self)


class Wire(Link):  # type: ignore[misc]  # Mininet publishes no types
    """A veth pair that the VirtualNetwork has made. Its end is the end of a namespace: stop and delete do nothing to the kernel."""

    def __init__(self, node1: Any, node2: Any, **parameters: Any) -> None:
        super().__init__(node1, node2, **{**parameters, "intf": WireEnd})

    @classmethod
    def makeIntfPair(cls, *_arguments: object, **_keywords: object) -> None:  # noqa: N802 (overrides Mininet's)
        """Nothing: the VirtualNetwork makes many pairs in one batch."""

    def stop(self) -> None:
        """Nothing."""

    def delete(self) -> None:
        self.intf1.delete()
        self.intf2.delete()
