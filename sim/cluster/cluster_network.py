"""The cluster's own network: who has which address on it. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from sim.cluster.networks import AddressRange, IpAddress, IpInterface, Whereabouts

POD_NETWORK_V4 = ipaddress.IPv4Network("10.244.0.0/16")
POD_NETWORK_V6 = ipaddress.IPv6Network("fd00:10:244::/64")
PODS_A_NODE_V4 = 256
PODS_A_NODE_V6 = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNetwork:
    """One bridge with everything of the cluster on it. Node number n (from 1) gives its Pods the n-th /24 and the n-th /112.

    Addresses by number: 1 the run itself (the Pods' default gateway; it forwards nothing), 2 the control plane, 10 + n node n.
    """

    bridge: str = "cluster"
    interface: str = "eth0"
    ipv4: ipaddress.IPv4Network = POD_NETWORK_V4
    ipv6: ipaddress.IPv6Network = POD_NETWORK_V6

    @property
    def world(self) -> tuple[IpInterface, ...]:
        return self._numbered(1)

    @property
    def control_plane(self) -> tuple[IpInterface, ...]:
        return self._numbered(2)

    def node(self, number: int) -> tuple[IpInterface, ...]:
        return self._numbered(10 + number)

    @property
    def gateways(self) -> tuple[IpAddress, ...]:
        """Where Pods send what no other route takes."""
        return tuple(interface.ip for interface in self.world)

    def pod_ipam(self, node_number: int) -> Whereabouts:
        """The addresses of a node's Pods, with the whole network's prefix length: all Pods are neighbors."""
        first4 = self.ipv4.network_address + PODS_A_NODE_V4 * node_number
        first6 = self.ipv6.network_address + PODS_A_NODE_V6 * node_number
        return Whereabouts(
            ranges=(
                AddressRange(network=self.ipv4, first=first4 + 1, last=first4 + PODS_A_NODE_V4 - 2),
                AddressRange(network=self.ipv6, first=first6 + 1, last=first6 + PODS_A_NODE_V6 - 2),
            ),
            pool=self.bridge,
        )

    def pod_cidrs(self, node_number: int) -> tuple[str, ...]:
        first4 = self.ipv4.network_address + PODS_A_NODE_V4 * node_number
        first6 = self.ipv6.network_address + PODS_A_NODE_V6 * node_number
        return f"{first4}/24", f"{first6}/112"

    def _numbered(self, number: int) -> tuple[IpInterface, ...]:
        return tuple(
            ipaddress.ip_interface(f"{network.network_address + number}/{network.prefixlen}")
            for network in (self.ipv4, self.ipv6)
        )
