"""The ports of the agents: each declares the full desired set, and the adapter makes it so, idempotently.

An adapter adopts what it finds in the kernel when it starts, and leaves it there when it is closed: an agent that restarts disturbs
nothing. `remove` is what takes everything away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, Protocol

from core.lb.forwarding import Forwarding
from core.model import Address, Attachment, Bgp, ObjectRef, Prefix, Static
from core.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowCounter:
    """What a data plane has done since its start with the packets of one flow and one of its targets."""

    flow: str
    target: Address | None
    """None: rejected."""
    packets: int
    bytes: int


class Dataplane(Protocol):
    """A load balancer in the kernel. Raises `core.errors.DataplaneError` when the kernel refuses."""

    def apply(self, forwarding: Forwarding, *, interfaces: Sequence[str]) -> None:
        """Makes `forwarding` true for packets that arrive on `interfaces`, with no moment in which a packet sees a half-built table.

        Addresses of targets are on a network of one of the interfaces of this namespace. An interface that does not exist is
        an error, which is raised when all is done for the others.
        """

    def counters(self) -> Sequence[FlowCounter]:
        """Counters by flow and target; those of targets that are gone may be missing."""

    def remove(self) -> None:
        """Takes everything of this data plane out of the kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One router outside that the gateway's router talks to."""

    name: str
    """Unique in a Routing; from the GatewayRouter's name."""
    router: ObjectRef
    address: Address
    interface: str
    routing: Bgp | Static
    password: Secret | None = None
    """BGP authentication (RFC 2385)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """The full desired set of a gateway pod's router."""

    router_id: IPv4Address
    peers: tuple[Peer, ...]
    announced: tuple[Prefix, ...]
    vips: tuple[Prefix, ...]
    """Every VIP of the gateway, announced or not: their replies leave by `table` and by nothing else."""
    table: int = 4096
    """The kernel routing table that learned default routes go to."""


NO_PASSWORD: Final = "NoPassword"
"""The session of a peer that is left out, because the password that its GatewayRouter asks for cannot be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerState:
    """What is observed of one peer."""

    name: str
    up: bool
    session: str
    """The BGP state of RFC 4271 section 8.2.2 (Idle, Connect, Active, OpenSent, OpenConfirm, Established), or `NO_PASSWORD`."""
    bfd: str
    """The BFD state of RFC 5880 section 4.1 (AdminDown, Down, Init, Up), or ``""`` when BFD is off."""
    since: str
    """When `session` began, as the router reports it, RFC 3339."""
    announced: int
    """Routes announced to the peer."""


class PolicyRoutes(Protocol):
    """Policy rules ``from PREFIX lookup TABLE`` and the routes of that table, in one namespace; nothing else is touched."""

    def apply(self, vips: Sequence[Prefix]) -> None:
        """Makes the replies of `vips`, and of no other address, leave by the table and by nothing else."""

    def remove(self) -> None:
        """Takes the rules and the unreachable default away."""


class PodNetwork(Protocol):
    """An application Pod's network namespace."""

    def apply(self, attachments: Sequence[Attachment]) -> tuple[Prefix, ...]:
        """Makes exactly this true: every VIP on ``lo``, and for each attachment (one a gateway) a rule ``from VIP`` to a table of its
        own with a multipath default over its next hops, in each family.

        Returns the VIPs that are in place and whose replies have a way back: sorted, none twice.
        """

    def remove(self) -> None:
        """Takes all of it away."""
