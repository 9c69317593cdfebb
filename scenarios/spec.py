"""The scenario language: what a scenario file may say, as frozen dataclasses. `docs/scenarios.md` is made from this file.

A scenario: manifests that are applied to a cluster, routers outside of it, traffic from them, actions while it runs, and what is
expected of the metrics. Time zero of a scenario is when the gateways are programmed and every router outside has the routes.
"""

# ruff: noqa: RUF009  (`key` is dataclasses.field with documentation; ruff knows only the original)

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import ClassVar

from core.model import Address, L4Protocol, Prefix
from scenarios.decode import Interface, key, nearest
from scenarios.metrics import BY_NAME

LARGEST_ASN = 2**32 - 1
LONGEST_S = 604_800
"""A week: what no run needs, and what every clock can count in microseconds."""


class Dataplane(Enum):
    """How the load balancers forward."""

    AUTO = "auto"
    TC = "tc"
    NFT = "nft"


class ApiServer(Enum):
    """Whose Kubernetes API the world runs on."""

    IMITATED = "imitated"
    REAL = "real"


class TrafficProtocol(Enum):
    """What a traffic client speaks."""

    TCP = "TCP"
    UDP = "UDP"

    @property
    def l4(self) -> L4Protocol:
        return L4Protocol[self.value]


class Mode(Enum):
    """How long a connection lives."""

    SHORT = "short"
    LONG = "long"


class SourcePorts(Enum):
    """How source ports are chosen."""

    SEQUENTIAL = "sequential"
    RANDOM = "random"


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketAddress:
    """an address and a port, such as 20.0.0.1:4000 or [2000::1]:4000"""

    address: Address
    port: int

    def __str__(self) -> str:
        return f"{self.address}:{self.port}" if self.address.version == 4 else f"[{self.address}]:{self.port}"

    @classmethod
    def parse(cls, text: str) -> SocketAddress:
        """Raises ValueError with what is expected."""
        expected = "an address and a port, such as 20.0.0.1:4000 or [2000::1]:4000"
        match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):([0-9]{1,9})", text)
        if match is None:
            raise ValueError(expected)
        try:
            address = ip_address(match[1] or match[2])
        except ValueError:
            raise ValueError(expected) from None
        if not 1 <= int(match[3]) <= 65535:
            raise ValueError(f"a port from 1 to 65535, not {match[3]}")
        return cls(address=address, port=int(match[3]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bfd:
    """Bidirectional Forwarding Detection of a router outside. It is passive: it answers when a gateway asks (RFC 5880, 6.1)."""

    min_tx_ms: int = key("interval at which it sends", default=300, minimum=10, maximum=60_000)
    min_rx_ms: int = key("interval at which it can receive", default=300, minimum=10, maximum=60_000)
    multiplier: int = key("intervals without a packet until the peer is down", default=5, minimum=1, maximum=255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """A router outside the cluster: BGP speaker, and the host from which traffic comes."""

    name: str = key("its name, unique in the scenario", example="vpn-b")
    vlan: int = key("the VLAN of the wire on which it meets the gateways", minimum=1, maximum=4094, example="200")
    addresses: tuple[Interface, ...] = key(
        "its addresses on the VLAN, with prefix lengths; GatewayRouters name them", example='["169.254.100.150/24"]'
    )
    client_addresses: tuple[Prefix, ...] = key(
        "where its clients sit: a host route for one client, a wider prefix for many", example='["200.100.0.100/32"]'
    )
    asn: int = key("its autonomous system", default=4248829953, minimum=1, maximum=LARGEST_ASN)
    gateway_asn: int = key(
        "the autonomous system whose speakers it accepts", default=8103, minimum=1, maximum=LARGEST_ASN
    )
    bgp_port: int = key("TCP port of its BGP speaker", default=10179, minimum=1, maximum=65535)
    hold_time_s: int = key("BGP hold time: 0 (off) or at least 3 (RFC 4271, 4.2)", default=3, minimum=0, maximum=65535)
    bfd: Bfd = key("its BFD timers", default=Bfd())


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """What stands around the gateways. Networks inside come from the NetworkAttachmentDefinitions of the manifests."""

    nodes: int = key("nodes of the cluster", default=2, minimum=1, maximum=100)
    routers: tuple[Router, ...] = key("the routers outside", example="[{name: vpn-b, ...}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that begins at a time, or after another step.

    A step is over when: the connections of short traffic have ended; those of long traffic are established; what an action changes
    is programmed in every gateway and known to every router outside.
    """

    name: str = key("its name, unique among traffic and timeline", example="clients")
    at_s: float | None = key(
        "when it begins, counted from time zero; the default without `after` is 0",
        default=None,
        minimum=0,
        maximum=LONGEST_S,
    )
    after: str | None = key("the step after whose end it begins; not together with `at_s`", default=None)
    delay_s: float = key("how long after the end of that step", default=0.0, minimum=0, maximum=LONGEST_S)
    deadline_s: float = key("the run fails when the step is not over by then", default=30.0, minimum=0.1, maximum=3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic(Step):
    """Connections from the clients of a router to a VIP. Each is a 5-tuple that is known before it is sent, and so is its target."""

    source: str = key("the router whose clients they are", name="from", example="vpn-b")
    to: SocketAddress = key("address and port that they go to", example="20.0.0.1:4000")
    protocol: TrafficProtocol = key("transport protocol", default=TrafficProtocol.TCP)
    connections: int = key("how many", default=400, minimum=1, maximum=10_000_000)
    mode: Mode = key(
        "short: one request, one answer, closed; long: open until the end of the run, with a request every second",
        default=Mode.SHORT,
    )
    first_source_port: int = key(
        "the lowest source port; the next client address begins there again", default=20_000, minimum=1, maximum=65535
    )
    source_ports: SourcePorts = key(
        "how source ports are chosen; random ones follow from the seed", default=SourcePorts.SEQUENTIAL
    )
    timeout_s: float = key(
        "a connection has failed when it is not established by then", default=5.0, minimum=0.01, maximum=600
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply(Step):
    """Applies manifests (server-side apply, as `kubectl apply --server-side` does)."""

    TAG: ClassVar = "action"
    WORD: ClassVar = "apply"

    manifests: tuple[str, ...] = key("files, found as those of the scenario are", example="[my-update.yaml]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale(Step):
    """Sets the number of replicas of a Deployment."""

    TAG: ClassVar = "action"
    WORD: ClassVar = "scale"

    deployment: str = key("its name", example="example-target-application-b")
    namespace: str = key("its namespace", default="default")
    replicas: int = key("how many Pods it shall have", minimum=0, maximum=10_000, example="8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Step):
    """Deletes one object."""

    TAG: ClassVar = "action"
    WORD: ClassVar = "delete"

    kind: str = key("its kind", example="L34Route")
    object_name: str = key("its name", name="object", example="vip-20-0-0-1-port-4000")
    namespace: str = key("its namespace", default="default")


Action = Apply | Scale | Delete

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """METRIC OP NUMBER, such as connections_failed == 0, or METRIC OP METRIC"""

    metric: str
    """A name of `scenarios.metrics.METRICS`."""
    traffic: str
    """The traffic that it is about, or ``""`` for all."""
    op: str
    bound: float = 0.0
    other: str = ""
    """The metric that is the bound instead of a number."""
    other_traffic: str = ""

    @property
    def name(self) -> str:
        """The metric's name in the results."""
        return f"{self.metric}[{self.traffic}]" if self.traffic else self.metric

    @property
    def other_name(self) -> str:
        """The name in the results of the metric that is the bound; ``""`` when the bound is a number."""
        return f"{self.other}[{self.other_traffic}]" if self.other_traffic else self.other

    def holds(self, value: float, bound: float) -> bool:
        return OPERATORS[self.op](value, bound)

    @classmethod
    def parse(cls, text: str) -> Expectation:
        """Raises ValueError with what is expected."""
        match = re.fullmatch(r"\s*(\w+)(?:\[([^]]+)\])?\s*(==|!=|<=|>=|<|>|\S+)\s*(\S+)\s*", text)
        if match is None:
            raise ValueError("METRIC OP NUMBER, such as connections_failed == 0")
        metric, traffic, op, bound = match.groups()
        _check_metric(metric, traffic)
        if op not in OPERATORS:
            raise ValueError(f"one of {' '.join(OPERATORS)} instead of {op!r}")
        if re.fullmatch(r"-?[0-9]+(?:\.[0-9]+)?", bound):
            if not math.isfinite(float(bound)):
                raise ValueError("a number that a computer can hold: at most 309 digits")
            return cls(metric=metric, traffic=traffic or "", op=op, bound=float(bound))
        other = re.fullmatch(r"([A-Za-z_]\w*)(?:\[([^]]+)\])?", bound)
        if other is None:
            unit = "" if BY_NAME[metric].unit == "1" else f" of {BY_NAME[metric].unit}, without the unit,"
            raise ValueError(f"a number{unit} instead of {bound!r}")
        _check_metric(other[1], other[2])
        return cls(metric=metric, traffic=traffic or "", op=op, other=other[1], other_traffic=other[2] or "")


def _check_metric(metric: str, traffic: str | None) -> None:
    if metric not in BY_NAME:
        raise ValueError(f"a known metric instead of {metric!r}: {nearest(metric, BY_NAME)}")
    if traffic and not BY_NAME[metric].per_traffic:
        raise ValueError(f"{metric} without [{traffic}]: it is not measured by traffic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole scenario file."""

    name: str = key("its name: lower-case letters, digits and dashes", example="my-scenario")
    title: str = key("what it shows, in one line", example="400 connections reach four targets")
    description: str = key("why, and what to look at", default="")
    manifests: tuple[str, ...] = key(
        "files with Kubernetes objects, beside the scenario file or in `examples`", example="[poc2/gateway.yaml]"
    )
    topology: Topology = key("what stands around the gateways", example="{routers: [...]}")
    traffic: tuple[Traffic, ...] = key("connections that are made", default=())
    timeline: tuple[Action, ...] = key("actions while the scenario runs", default=())
    expectations: tuple[Expectation, ...] = key(
        "what must hold at the end: METRIC OP NUMBER, or METRIC[TRAFFIC] OP NUMBER; another metric may stand for the number",
        example='["connections_failed == 0"]',
    )
    setup_deadline_s: float = key(
        "the run fails when gateways or routes take longer than this to be there",
        default=60.0,
        minimum=0.1,
        maximum=3600,
    )
    seed: int = key("makes all random choices; `--seed` sets it", default=1, minimum=0, maximum=2**63 - 1)
    dataplane: Dataplane = key(
        "how the load balancers forward; auto: tc where BPF may be loaded, else nft", default=Dataplane.AUTO
    )
    api: ApiServer = key("whose Kubernetes API the world runs on", default=ApiServer.IMITATED)

    @property
    def steps(self) -> tuple[Traffic | Action, ...]:
        return self.traffic + self.timeline

    def router(self, name: str) -> Router:
        return next(router for router in self.topology.routers if router.name == name)


PORTS_END = 65536


def places(traffic: Traffic, router: Router) -> int:
    """How many connections `traffic` can have: a source port of a client address each."""
    prefixes = client_addresses(router, traffic.to.address.version)
    return (PORTS_END - traffic.first_source_port) * sum(prefix.num_addresses for prefix in prefixes)


def client_addresses(router: Router, version: int) -> tuple[Prefix, ...]:
    """The prefixes of one family in which clients of `router` sit."""
    return tuple(prefix for prefix in router.client_addresses if prefix.version == version)
