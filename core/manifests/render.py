"""The model back to Kubernetes JSON: what the controller and the agents apply."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, assert_never

from core import names
from core.kube import Json
from core.manifests.fields import UnreadableError, prefix
from core.manifests.stored import elements, named
from core.model import Attachment, Endpoint, EndpointSlice, Meta, ObjectRef, ParentRef, Prefix
from core.status import ClassStatus, Condition, GatewayStatus, ParentStatus, RouterStatus, RouteStatus, Status

API_VERSIONS = {
    "GatewayClass": "gateway.networking.k8s.io/v1",
    "Gateway": "gateway.networking.k8s.io/v1",
    "TCPRoute": "gateway.networking.k8s.io/v1",
    "UDPRoute": "gateway.networking.k8s.io/v1",
    "L34Route": "l34.gateway.api.poc/v1alpha1",
    "GatewayRouter": "l34.gateway.api.poc/v1alpha1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Pod": "v1",
}


MOST_PARENTS = 32
"""RouteStatus.parents of Gateway API holds no more."""


def head(ref: ObjectRef, **metadata: Any) -> Json:
    """apiVersion, kind and metadata of the object `ref`."""
    name = {"name": ref.name} | ({"namespace": ref.namespace} if ref.namespace else {})
    return {"apiVersion": API_VERSIONS[ref.kind], "kind": ref.kind, "metadata": name | metadata}


def compact(value: Any) -> str:
    """JSON for an annotation: equal values give equal text."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


# --- EndpointSlices ---------------------------------------------------------------------------------------------------------


def endpoint_slice(slice_: EndpointSlice, service: Meta) -> Json:
    """The EndpointSlice, owned by its Service."""
    pending = {e.pod_uid: [str(vip) for vip in e.pending_vips] for e in slice_.endpoints if e.pending_vips}
    annotations = {names.SLOTS: compact(dict(slice_.reserved))}
    if slice_.vips is not None:
        annotations[names.VIPS] = compact([str(vip) for vip in slice_.vips])
    if pending:
        annotations[names.PENDING_VIPS] = compact(pending)
    owner = {"apiVersion": "v1", "kind": "Service", "name": service.name, "uid": service.uid, "controller": True}
    metadata = {
        "labels": dict(slice_.meta.labels),
        "annotations": annotations,
        "ownerReferences": [owner | {"blockOwnerDeletion": True}],
    }
    return head(slice_.meta.ref, **metadata) | {
        "addressType": f"IPv{slice_.version}",
        "endpoints": [_endpoint(e, slice_.meta.ref.namespace) for e in slice_.endpoints],
        "ports": [{"name": name, "protocol": protocol, "port": port} for name, protocol, port in slice_.ports],
    }


def _endpoint(endpoint: Endpoint, namespace: str) -> Json:
    conditions = {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating}
    pod = {"kind": "Pod", "namespace": namespace, "name": endpoint.pod, "uid": endpoint.pod_uid}
    node = {"nodeName": endpoint.node} if endpoint.node else {}
    return {"addresses": [str(endpoint.address)], "conditions": conditions, "targetRef": pod} | node


# --- attachments ------------------------------------------------------------------------------------------------------------


def attachment_text(attachments: Sequence[Attachment]) -> str:
    """The annotation `core.names.ATTACHMENT`."""
    return compact([{"vips": [str(v) for v in a.vips], "nextHops": [str(h) for h in a.next_hops]} for a in attachments])


def attachment_digest(text: str) -> str:
    """16 hexadecimal digits that equal attachment texts have in common: what is in place can be compared from outside."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read_attachments(text: str) -> tuple[Attachment, ...]:
    """The attachments that an annotation holds.

    Raises ValueError when it was not written by `attachment_text`.
    """
    try:
        return tuple(
            Attachment(
                vips=tuple(prefix(vip) for vip in item["vips"]),
                next_hops=tuple(ip_address(hop) for hop in item["nextHops"]),
            )
            for item in json.loads(text)
        )
    except (KeyError, TypeError, UnreadableError) as error:
        raise ValueError(f"annotation {names.ATTACHMENT}: {error!r} in {text!r}") from error


def attached_text(vips: Iterable[Prefix]) -> str:
    """The annotation `core.names.ATTACHED`."""
    return compact(sorted(str(vip) for vip in vips))


# --- statuses ---------------------------------------------------------------------------------------------------------------


def status_object(status: Status, current: Json | None, now: str) -> Json:
    """The object to apply to the status subresource; `current` is the object as it is, `now` an RFC 3339 time.

    lastTransitionTime changes only when a condition's status does (Kubernetes API conventions, "typical status properties").
    """
    before = (current or {}).get("status") or {}
    match status:
        case GatewayStatus():
            body = _gateway_status(status, before, now)
        case RouteStatus():
            body = {"parents": _parents(status, before, now)}
        case ClassStatus():
            body = {"conditions": conditions(status.conditions, status.generation, before, now)}
        case RouterStatus():
            body = {"conditions": conditions(status.conditions, status.generation, before, now)} | _sessions_up(before)
        case _:
            assert_never(status)
    # The list of a route's parents is of all its controllers: a write may not undo what another one wrote meanwhile.
    shared = isinstance(status, RouteStatus) and _others(before)
    metadata = (current or {}).get("metadata")
    version = metadata.get("resourceVersion") if shared and isinstance(metadata, dict) else None
    return head(status.ref, **({"resourceVersion": version} if version else {})) | {"status": body}


def concerns(status: Status, current: Json) -> bool:
    """Whether `current` is an object whose status is ours to write: not a route that only other controllers' Gateways have."""
    if not isinstance(status, RouteStatus) or status.parents or status.nowhere:
        return True
    before = current.get("status") or {}
    return len(_others(before)) < len(elements(before, "parents"))


def conditions(wanted: Iterable[Condition], generation: int, before: Mapping[str, Any], now: str) -> list[Json]:
    """Conditions as JSON; `before` is whatever held them until now."""
    known = named(before, "conditions", "type")
    result = []
    for condition in wanted:
        text = "True" if condition.status else "False"
        old = known.get(condition.type, {})
        unchanged = old.get("status") == text and old.get("lastTransitionTime")
        result.append(
            {
                "type": condition.type,
                "status": text,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": generation,
                "lastTransitionTime": old["lastTransitionTime"] if unchanged else now,
            }
        )
    return result


def _gateway_status(status: GatewayStatus, before: Mapping[str, Any], now: str) -> Json:
    known = named(before, "listeners", "name")
    return {
        "conditions": conditions(status.conditions, status.generation, before, now),
        "addresses": [{"type": "IPAddress", "value": str(address)} for address in status.addresses],
        "listeners": [
            {
                "name": listener.name,
                "attachedRoutes": listener.attached_routes,
                "supportedKinds": [{"group": group, "kind": kind} for group, kind in listener.supported_kinds],
                "conditions": conditions(listener.conditions, status.generation, known.get(listener.name, {}), now),
            }
            for listener in status.listeners
        ],
    }


def _sessions_up(before: Mapping[str, Any]) -> Json:
    """For columns of `kubectl get`, which show one element of a list: of how many gateway pods the session is up, and BFD."""
    sessions = elements(before, "sessions")
    up = {
        "established": ("Established", [session.get("session") for session in sessions]),
        "bfdUp": ("Up", [session["bfd"] for session in sessions if session.get("bfd")]),
    }
    return {key: f"{states.count(good)}/{len(states)}" for key, (good, states) in up.items() if states}


def _parents(status: RouteStatus, before: Mapping[str, Any], now: str) -> list[Json]:
    """Ours, after those that other controllers wrote: the list is atomic, so whoever writes it writes all of it."""
    ours = [_parent(parent, status.generation, before, now) for parent in status.parents]
    return (_others(before) + ours)[:MOST_PARENTS]


def _others(before: Mapping[str, Any]) -> list[Json]:
    """The elements of a route's status that other controllers wrote."""
    return [
        item
        for item in elements(before, "parents")
        if not str(item.get("controllerName", "")).startswith(f"{names.DOMAIN}/")
    ]


def _parent(parent: ParentStatus, generation: int, before: Mapping[str, Any], now: str) -> Json:
    ref = parent_ref(parent.parent)
    old: Json = next(
        (
            item
            for item in elements(before, "parents")
            if item.get("parentRef") == ref and item.get("controllerName") == parent.controller
        ),
        {},
    )
    return {
        "parentRef": ref,
        "controllerName": parent.controller,
        "conditions": conditions(parent.conditions, generation, old, now),
    }


def parent_ref(parent: ParentRef) -> Json:
    """The parentRef of a route's status: every field that has a value."""
    fields: Json = {"group": parent.group, "kind": parent.kind, "namespace": parent.namespace, "name": parent.name}
    if parent.section_name:
        fields["sectionName"] = parent.section_name
    if parent.port is not None:
        fields["port"] = parent.port
    return fields
