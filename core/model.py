"""The nouns: frozen values that everything else is computed from. `core.manifests` makes them from Kubernetes JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network


def sorted_prefixes(prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """The prefixes once each: IPv4 before IPv6, then by address, then the shorter first."""
    return tuple(sorted(set(prefixes), key=lambda p: (p.version, int(p.network_address), p.prefixlen)))


NOTHING: Mapping[str, str] = MappingProxyType({})


def _nothing() -> Mapping[str, str]:
    return NOTHING


# --- packets ---------------------------------------------------------------------------------------------------------------


class L4Protocol(IntEnum):
    """Transport protocols by their IANA protocol numbers."""

    TCP = 6
    UDP = 17
    SCTP = 132


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PortRange:
    """Ports first..last, both included."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


ANY_PORT = PortRange(first=0, last=65535)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ByteMatch:
    """``protocol[offset:length] & mask = value`` on the L4 header; big-endian, offset in bytes, length 1, 2 or 4 bytes."""

    protocol: L4Protocol
    offset: int
    length: int
    mask: int
    value: int

    def __str__(self) -> str:
        mask = "" if self.mask == (1 << 8 * self.length) - 1 else f" & 0x{self.mask:0{2 * self.length}x}"
        return f"{self.protocol.name.lower()}[{self.offset}:{self.length}]{mask} = {self.value}"


# --- Kubernetes objects ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ObjectRef:
    """Names one object; the namespace of a cluster-scoped object is ``""``."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What every object has."""

    ref: ObjectRef
    uid: str = ""
    generation: int = 0
    labels: Mapping[str, str] = field(default_factory=_nothing)
    annotations: Mapping[str, str] = field(default_factory=_nothing)
    created: str = ""
    """creationTimestamp, RFC 3339: the text sorts as the time does."""
    deleting: bool = False

    @property
    def namespace(self) -> str:
        return self.ref.namespace

    @property
    def name(self) -> str:
        return self.ref.name


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayClass:
    meta: Meta
    controller: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSelection:
    """One element of a ``k8s.v1.cni.cncf.io/networks`` annotation (Network Plumbing Working Group specification, section 4.1)."""

    namespace: str
    name: str
    interface: str = ""


class FromNamespaces(Enum):
    """Which namespaces may attach routes to a listener."""

    SAME = "Same"
    ALL = "All"
    SELECTOR = "Selector"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSelector:
    """A Kubernetes label selector: all terms must hold; an empty one matches everything."""

    match_labels: Mapping[str, str] = field(default_factory=_nothing)
    expressions: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    """(key, operator, values); the operator is In, NotIn, Exists or DoesNotExist."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        if any(labels.get(key) != value for key, value in self.match_labels.items()):
            return False
        for key, operator, values in self.expressions:
            holds = {
                "In": labels.get(key) in values,
                "NotIn": labels.get(key) not in values,
                "Exists": key in labels,
                "DoesNotExist": key not in labels,
            }[operator]
            if not holds:
                return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    name: str
    protocol: str
    """As written: TCP, UDP, HTTP, HTTPS, TLS or a domain-prefixed one."""
    port: int
    from_namespaces: FromNamespaces = FromNamespaces.SAME
    namespace_selector: LabelSelector | None = None
    """Of FromNamespaces.SELECTOR; None, not written, selects nothing."""
    kinds: tuple[tuple[str, str], ...] = ()
    """(group, kind) of allowedRoutes; empty: whatever the protocol allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    meta: Meta
    class_name: str
    listeners: tuple[Listener, ...]
    addresses: tuple[Address, ...] = ()
    """spec.addresses of type IPAddress: the VIPs of TCPRoutes and UDPRoutes."""
    infrastructure_labels: Mapping[str, str] = field(default_factory=_nothing)
    infrastructure_annotations: Mapping[str, str] = field(default_factory=_nothing)
    networks: tuple[NetworkSelection, ...] = ()
    """Networks that the gateway's pods get."""
    endpoint_networks: tuple[NetworkSelection, ...] = ()
    """Networks whose pod addresses become endpoints."""
    replicas: int = 2
    """How many pods carry the gateway, where its class has a number."""
    parameters: str = ""
    """Kind and name of spec.infrastructure.parametersRef; ``""``: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bfd:
    """Bidirectional Forwarding Detection (RFC 5880): the peer is down after `multiplier` intervals without a packet."""

    min_tx_ms: int
    min_rx_ms: int
    multiplier: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretKey:
    """Where a password is: a key of a Secret in the namespace of the object that names it."""

    secret: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bgp:
    local_asn: int
    remote_asn: int
    local_port: int
    remote_port: int
    hold_time_s: int
    bfd: Bfd | None = None
    auth: SecretKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """No BGP: the router outside has static routes to the gateway; BFD may watch the path."""

    bfd: Bfd | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRouter:
    meta: Meta
    gateway: str
    """Name of the Gateway in the same namespace, from the service-proxy-name label; ``""`` without one."""
    address: Address
    interface: str
    routing: Bgp | Static


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRef:
    group: str
    kind: str
    namespace: str
    name: str
    section_name: str = ""
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRef:
    group: str
    kind: str
    namespace: str
    name: str
    weight: int = 1
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What an L34Route says of packets. TCPRoutes and UDPRoutes have none: their listener says it."""

    priority: int
    protocols: tuple[L4Protocol, ...]
    destinations: tuple[Prefix, ...]
    sources: tuple[Prefix, ...]
    destination_ports: tuple[PortRange, ...]
    source_ports: tuple[PortRange, ...]
    byte_matches: tuple[ByteMatch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An L34Route, TCPRoute or UDPRoute (`meta.ref.kind` says which)."""

    meta: Meta
    parents: tuple[ParentRef, ...]
    backends: tuple[BackendRef, ...]
    match: Match | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    name: str
    protocol: str
    port: int
    target_port: int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    meta: Meta
    selector: Mapping[str, str] = field(default_factory=_nothing)
    """Without the dummy-service-selector key."""
    ports: tuple[ServicePort, ...] = ()
    external_ips: tuple[Address, ...] = ()
    headless: bool = False
    gateway: str = ""
    """Name of the Gateway in the same namespace, from the service-proxy-name label."""
    max_endpoints: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkStatus:
    """One element of a ``k8s.v1.cni.cncf.io/network-status`` annotation."""

    namespace: str
    name: str
    interface: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What an application Pod needs so that VIP traffic reaches it and its replies leave through the gateways."""

    vips: tuple[Prefix, ...] = ()
    next_hops: tuple[Address, ...] = ()
    """Addresses of the ready gateway pods on the endpoint network, both families."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    meta: Meta
    node: str = ""
    ready: bool = False
    """The Pod's Ready condition, as the kubelet reports it."""
    terminal: bool = False
    """Succeeded or Failed."""
    networks: tuple[NetworkStatus, ...] = ()
    attached: tuple[Prefix, ...] = ()
    """The VIPs that the endpoint agent reports to be in place, with a way back for replies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One endpoint of one EndpointSlice."""

    address: Address
    pod: str
    pod_uid: str
    node: str = ""
    slot: int
    ready: bool
    serving: bool
    terminating: bool
    pending_vips: tuple[Prefix, ...] = ()
    """VIPs of the Service that the Pod does not hold yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSlice:
    meta: Meta
    service: str
    """Name of the Service, in the slice's namespace."""
    version: int
    """4 or 6."""
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[tuple[str, str, int], ...] = ()
    """(name, protocol, port)."""
    reserved: Mapping[str, int] = field(default_factory=dict)
    """Slots by Pod UID, as the annotation has them."""
    managed_by: str = ""
    vips: tuple[Prefix, ...] | None = None
    """The VIPs that the slice speaks of: whether an endpoint holds any other is not known. None: endpoints need not hold any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    meta: Meta


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceGrant:
    meta: Meta
    sources: tuple[tuple[str, str, str], ...]
    """(group, kind, namespace) that may refer."""
    targets: tuple[tuple[str, str, str], ...]
    """(group, kind, name) that may be referred to; name ``""``: all."""


KubeObject = GatewayClass | Gateway | GatewayRouter | Route | Service | Pod | EndpointSlice | Namespace | ReferenceGrant
