"""A Linux bridge as a Mininet switch: one network, one bridge, one namespace of its own."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sim.net.mn import Switch
from sim.net.namespaces import ip_batch, prepare, within
from sim.net.node import SleepingNode

BRIDGE = "br0"


class IpBridge(SleepingNode, Switch):  # type: ignore[misc]  # Mininet publishes no types
    """A bridge without VLAN filtering, multicast snooping or spanning tree: this kernel may lack the first, nothing needs the others.

    `bridge_index` is the interface index of the bridge in its namespace; ports are made with it as their master.
    """

    def __init__(self, name: str, **parameters: Any) -> None:
        # Mininet.addSwitch passes inNamespace=False; the bridge lives in its own namespace whatever it says.
        super().__init__(name, **{**parameters, "inNamespace": True, "dpid": f"{len(name):x}"})
        self.bridge_index = 0
        self._ports_made = 0

    def start(self, _controllers: Sequence[object] = ()) -> None:
        """Makes the bridge and brings it up."""
        prepare(self.namespace)
        within(self.namespace, lambda: Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1"))
        ip_batch(
            self.namespace,
            [f"link add {BRIDGE} type bridge stp_state 0 mcast_snooping 0", f"link set {BRIDGE} up"],
        )
        self.bridge_index = within(self.namespace, lambda: socket.if_nametoindex(BRIDGE))

    def next_port(self) -> str:
        """A port name that was never used on this bridge."""
        self._ports_made += 1
        return f"port{self._ports_made}"

    def defaultIntf(self) -> None:  # noqa: N802 (overrides Mininet's)
        """None: a bridge has no control interface."""

    def connected(self) -> bool:
        return True
