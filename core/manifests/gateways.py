"""GatewayClass, Gateway and GatewayRouter."""

from __future__ import annotations

import contextlib

from core import names
from core.manifests.fields import (
    Reader,
    UnreadableError,
    address,
    decimal,
    duration_ms,
    interface_name,
    peer_address,
    vip_address,
)
from core.manifests.meta import network_selections, read_meta
from core.model import (
    Address,
    Bfd,
    Bgp,
    FromNamespaces,
    Gateway,
    GatewayClass,
    GatewayRouter,
    LabelSelector,
    Listener,
    SecretKey,
    Static,
)

DEFAULT_LOCAL_ASN = 8103
DEFAULT_REMOTE_ASN = 4248829953
DEFAULT_BGP_PORT = 10179
DEFAULT_HOLD_TIME_MS = 3000
DEFAULT_BFD_INTERVAL_MS = 300
DEFAULT_BFD_MULTIPLIER = 5
MOST_REPLICAS = 1000
UNSUPPORTED_ADDRESS_TYPE = "unsupported address type"
"""Of a FieldProblem, since a status has a reason of its own for it."""
HIGHEST_ASN = 2**32 - 1
"""RFC 6793: AS numbers have four octets."""


def gateway_class(reader: Reader) -> GatewayClass:
    meta, _ = read_meta(reader.value)
    return GatewayClass(meta=meta, controller=reader.object("spec").text("controllerName", required=True))


def gateway(reader: Reader) -> Gateway:
    meta, _ = read_meta(reader.value)
    spec = reader.object("spec")
    infrastructure = spec.object("infrastructure")
    annotations = infrastructure.labels("annotations")
    parameters = infrastructure.object("parametersRef")
    where = infrastructure.object("annotations")
    addresses: list[Address] = []
    for item in spec.objects("addresses"):
        if item.text("type", "IPAddress") != "IPAddress":
            item.problem("type", UNSUPPORTED_ADDRESS_TYPE, item.value.get("type"), "IPAddress")
        elif item.text("value"):
            found = item.parsed("value", vip_address, None)
            addresses += [found] if found is not None else []
    return Gateway(
        meta=meta,
        class_name=spec.text("gatewayClassName", required=True),
        listeners=tuple(_listener(item) for item in spec.objects("listeners")),
        addresses=tuple(addresses),
        infrastructure_labels=infrastructure.labels("labels"),
        infrastructure_annotations=annotations,
        networks=network_selections(where, names.POD_NETWORKS, annotations.get(names.POD_NETWORKS, "")),
        endpoint_networks=network_selections(
            where, names.ENDPOINT_NETWORKS, annotations.get(names.ENDPOINT_NETWORKS, "")
        ),
        replicas=_replicas(reader),
        parameters=f"{parameters.text('kind')} {parameters.text('name')}".strip(),
    )


def _replicas(reader: Reader) -> int:
    text = reader.object("metadata").labels("annotations").get(names.REPLICAS, "2")
    with contextlib.suppress(UnreadableError):
        replicas = decimal(text)
        if replicas <= MOST_REPLICAS:
            return replicas
    where = reader.object("metadata").object("annotations")
    where.problem(names.REPLICAS, "not a number of pods", text, f"0 to {MOST_REPLICAS}")
    return 2


def _listener(reader: Reader) -> Listener:
    allowed = reader.object("allowedRoutes")
    namespaces = allowed.object("namespaces")
    return Listener(
        name=reader.text("name", required=True),
        protocol=reader.text("protocol", required=True),
        port=reader.integer("port", 0, low=1, high=65535, required=True),
        from_namespaces=FromNamespaces(namespaces.choice("from", ("Same", "All", "Selector"), "Same")),
        namespace_selector=_selector(namespaces.object("selector"))
        if namespaces.value.get("selector") is not None
        else None,
        kinds=tuple(
            (kind.text("group", names.GATEWAY_GROUP), kind.text("kind", required=True))
            for kind in allowed.objects("kinds")
        ),
    )


def _selector(reader: Reader) -> LabelSelector:
    expressions = []
    for item in reader.objects("matchExpressions"):
        operator = item.choice("operator", ("In", "NotIn", "Exists", "DoesNotExist"), "Exists")
        values = item.parsed_items("values", str)
        expressions.append((item.text("key", required=True), operator, values))
    return LabelSelector(match_labels=reader.labels("matchLabels"), expressions=tuple(expressions))


def gateway_router(reader: Reader) -> GatewayRouter:
    meta, _ = read_meta(reader.value)
    spec = reader.object("spec")
    if spec.choice("protocol", ("BGP", "Static"), "BGP") == "Static":
        routing: Bgp | Static = Static(bfd=_bfd(spec.object("static").object("bfd")))
    else:
        routing = _bgp(spec.object("bgp"))
    return GatewayRouter(
        meta=meta,
        gateway=meta.labels.get(names.PROXY_NAME, ""),
        address=_required_address(spec),
        interface=spec.parsed("interface", interface_name, "", required=True),
        routing=routing,
    )


def _required_address(spec: Reader) -> Address:
    found = spec.parsed("address", peer_address, None, required=True)
    return found if found is not None else address("0.0.0.0")  # a problem is noted: the object is rejected


def _bgp(reader: Reader) -> Bgp:
    auth = reader.object("auth")
    key_name, key_source = auth.text("keyName"), auth.text("keySource")
    if bool(key_name) != bool(key_source):
        auth.problem(
            "keySource" if key_name else "keyName", "required field is missing", expected="keyName and keySource"
        )
    return Bgp(
        local_asn=reader.integer("localASN", DEFAULT_LOCAL_ASN, low=1, high=HIGHEST_ASN),
        remote_asn=reader.integer("remoteASN", DEFAULT_REMOTE_ASN, low=1, high=HIGHEST_ASN),
        local_port=reader.integer("localPort", DEFAULT_BGP_PORT, low=1, high=65535),
        remote_port=reader.integer("remotePort", DEFAULT_BGP_PORT, low=1, high=65535),
        hold_time_s=_hold_time_s(reader),
        bfd=_bfd(reader.object("bfd")),
        auth=SecretKey(secret=key_source, key=key_name) if key_name and key_source else None,
    )


def _hold_time_s(reader: Reader) -> int:
    """RFC 4271, section 4.2: the Hold Time MUST be either zero or at least three seconds; it has two octets."""
    hold_time_ms = reader.parsed("holdTime", duration_ms, DEFAULT_HOLD_TIME_MS)
    hold_time_s = round(hold_time_ms / 1000)
    if 0 < hold_time_ms < 3000 or hold_time_s > 65535:
        reader.problem(
            "holdTime", "hold time out of range", reader.value.get("holdTime"), "0s, or 3s to 65535s (RFC 4271)"
        )
    return hold_time_s


def _bfd(reader: Reader) -> Bfd | None:
    bfd = Bfd(
        min_tx_ms=_interval_ms(reader, "minTx"),
        min_rx_ms=_interval_ms(reader, "minRx"),
        multiplier=reader.integer("multiplier", DEFAULT_BFD_MULTIPLIER, low=1, high=255),
    )
    return bfd if reader.flag("switch") else None


def _interval_ms(reader: Reader, key: str) -> int:
    interval_ms = reader.parsed(key, duration_ms, DEFAULT_BFD_INTERVAL_MS)
    if not 10 <= interval_ms <= 60_000:
        reader.problem(key, "BFD interval out of range", reader.value.get(key), "10ms to 60s")
    return interval_ms
