"""What each application Pod needs: the VIPs of the gateways in front of it, and where its replies go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core.endpoints import addresses_on
from core.model import Address, Attachment, Gateway, Pod, Prefix, sorted_prefixes


def next_hops(gateway: Gateway, gateway_pods: Iterable[Pod]) -> tuple[Address, ...]:
    """The addresses, on the endpoint networks, of the gateway's pods that are ready: replies go to any of them.

    Sorted, so that every application Pod has the same multipath route.
    """
    wanted = {(network.namespace, network.name) for network in gateway.endpoint_networks}
    found = {
        address
        for pod in gateway_pods
        if pod.ready and not pod.meta.deleting
        for address in addresses_on(pod, wanted).values()
    }
    return tuple(sorted(found, key=lambda address: (address.version, int(address))))


def attachment(vips: Sequence[Prefix], hops: Sequence[Address]) -> Attachment:
    """The attachment to one gateway of a Pod that serves `vips`; a family without VIPs needs no next hops."""
    versions = {vip.version for vip in vips}
    return Attachment(
        vips=sorted_prefixes(vips),
        next_hops=tuple(hop for hop in hops if hop.version in versions),
    )
