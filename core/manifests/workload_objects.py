"""Service, Pod, Namespace and EndpointSlice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from core import names
from core.manifests.fields import Reader, UnreadableError, address, decimal, prefix, vip_address
from core.manifests.meta import read_meta
from core.model import (
    Address,
    Endpoint,
    EndpointSlice,
    Namespace,
    NetworkStatus,
    Pod,
    Prefix,
    Service,
    ServicePort,
)

DEFAULT_MAX_ENDPOINTS = 100
HIGHEST_MAX_ENDPOINTS = 1000


def service(reader: Reader) -> Service:
    meta, _ = read_meta(reader.value)
    spec = reader.object("spec")
    selector = {key: value for key, value in spec.labels("selector").items() if key != names.DUMMY_SELECTOR}
    return Service(
        meta=meta,
        selector=selector,
        ports=tuple(_service_port(item) for item in spec.objects("ports")),
        external_ips=spec.parsed_items("externalIPs", vip_address),
        headless=spec.text("clusterIP") == "None",
        gateway=meta.labels.get(names.PROXY_NAME, ""),
        max_endpoints=_max_endpoints(reader),
    )


def _max_endpoints(reader: Reader) -> int:
    where = reader.object("metadata")
    text = where.labels("annotations").get(names.MAX_ENDPOINTS, str(DEFAULT_MAX_ENDPOINTS))
    with contextlib.suppress(UnreadableError):
        limit = decimal(text)
        if 1 <= limit <= HIGHEST_MAX_ENDPOINTS:
            return limit
    where.object("annotations").problem(
        names.MAX_ENDPOINTS, "not a number of endpoints", text, f"1 to {HIGHEST_MAX_ENDPOINTS}"
    )
    return DEFAULT_MAX_ENDPOINTS


def _service_port(reader: Reader) -> ServicePort:
    port = reader.integer("port", 1, low=1, high=65535, required=True)
    target = reader.value.get("targetPort", port)
    if isinstance(target, bool) or not isinstance(target, int | str):
        reader.problem("targetPort", "wrong type", target, "a port number or the name of a container's port")
        target = port
    return ServicePort(
        name=reader.text("name"),
        protocol=reader.choice("protocol", ("TCP", "UDP", "SCTP"), "TCP"),
        port=port,
        target_port=target,
    )


def namespace(reader: Reader) -> Namespace:
    meta, _ = read_meta(reader.value)
    return Namespace(meta=meta)


def pod(reader: Reader) -> Pod:
    """Annotations that other programs write and that are no JSON count as absent: a Pod is never rejected for them."""
    meta, _ = read_meta(reader.value)
    status = reader.object("status")
    ready = any(item.text("type") == "Ready" and item.text("status") == "True" for item in status.objects("conditions"))
    return Pod(
        meta=meta,
        node=reader.object("spec").text("nodeName"),
        ready=ready,
        terminal=status.text("phase") in ("Succeeded", "Failed"),
        networks=_network_status(meta.annotations.get(names.NETWORK_STATUS, ""), meta.namespace),
        attached=_prefixes(_json(meta.annotations.get(names.ATTACHED, ""))),
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):  # ValueError is also a number of more digits than int() takes
        return None


def _prefixes(value: Any) -> tuple[Prefix, ...]:
    found = []
    for item in value if isinstance(value, list) else []:
        try:
            found.append(prefix(item if isinstance(item, str) else ""))
        except UnreadableError:
            return ()
    return tuple(found)


def _network_status(text: str, default_namespace: str) -> tuple[NetworkStatus, ...]:
    value = _json(text)
    statuses = []
    for item in value if isinstance(value, list) else []:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            continue
        before, slash, after = item["name"].partition("/")
        statuses.append(
            NetworkStatus(
                namespace=before if slash else default_namespace,
                name=after if slash else before,
                interface=str(item.get("interface") or ""),
                addresses=_addresses(item.get("ips")),
            )
        )
    return tuple(statuses)


def _addresses(value: Any) -> tuple[Address, ...]:
    found: list[Address] = []
    for item in value if isinstance(value, list) else []:
        try:
            found.append(address(str(item)))
        except UnreadableError:
            continue
    return tuple(found)


def endpoint_slice(reader: Reader) -> EndpointSlice:
    """A slice of ours, or of an older version that kept a slot as decimal text in `endpoint.zone`."""
    meta, _ = read_meta(reader.value)
    reserved = _slots(meta.annotations.get(names.SLOTS, ""))
    pending = _json(meta.annotations.get(names.PENDING_VIPS, ""))
    version = {"IPv4": 4, "IPv6": 6}.get(reader.text("addressType"), 0)
    pending_of = pending if isinstance(pending, dict) else {}
    endpoints = []
    # A thousand of them, again and again: what has the right type is taken as it is, without a reader for each object.
    for item in reader.objects("endpoints"):
        target, conditions = item.value.get("targetRef"), item.value.get("conditions")
        target = target if isinstance(target, dict) else item.object("targetRef").value
        conditions = conditions if isinstance(conditions, dict) else item.object("conditions").value
        uid = _text(target, "uid")
        if uid not in reserved and (slot := _seed_slot(_text(item.value, "zone"))) is not None:
            reserved[uid] = slot
        found = _addresses(item.value.get("addresses"))
        if not uid or uid not in reserved or not found:
            continue
        endpoints.append(
            Endpoint(
                address=found[0],
                pod=_text(target, "name"),
                pod_uid=uid,
                node=_text(item.value, "nodeName"),
                slot=reserved[uid],
                ready=_flag(conditions, "ready", True),
                serving=_flag(conditions, "serving", True),
                terminating=_flag(conditions, "terminating", False),
                pending_vips=_prefixes(pending_of[uid]) if uid in pending_of else (),
            )
        )
    return EndpointSlice(
        meta=meta,
        service=meta.labels.get(names.SERVICE_NAME, ""),
        version=version,
        endpoints=tuple(endpoints),
        ports=tuple(
            (port.text("name"), port.text("protocol", "TCP"), port.integer("port", 0, low=0, high=65535))
            for port in reader.objects("ports")
        ),
        reserved=reserved,
        managed_by=meta.labels.get(names.SLICE_MANAGED_BY, ""),
        vips=_prefixes(_json(meta.annotations[names.VIPS])) if names.VIPS in meta.annotations else None,
    )


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key)
    return text if isinstance(text, str) else ""


def _flag(value: Mapping[str, Any], key: str, default: bool) -> bool:
    flag = value.get(key)
    return flag if isinstance(flag, bool) else default


def _seed_slot(zone: str) -> int | None:
    """The slot that the proof-of-concept kept in `endpoint.zone`; None for a zone."""
    with contextlib.suppress(UnreadableError):
        slot = decimal(zone)
        if slot < HIGHEST_MAX_ENDPOINTS:
            return slot
    return None


def _slots(text: str) -> dict[str, int]:
    value = _json(text)
    if not isinstance(value, dict):
        return {}
    return {
        uid: slot
        for uid, slot in value.items()
        if isinstance(slot, int) and not isinstance(slot, bool) and 0 <= slot < HIGHEST_MAX_ENDPOINTS
    }
