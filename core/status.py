"""Conditions, as Gateway API wants them: a type, a status, a reason of the API's own list, and the generation they speak of.

Source: gateway-api v1.6.1, apis/v1/gateway_types.go, gatewayclass_types.go, shared_types.go (condition types and reasons).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.model import Address, ObjectRef, ParentRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    type: str
    status: bool
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassStatus:
    ref: ObjectRef
    generation: int
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStatus:
    name: str
    supported_kinds: tuple[tuple[str, str], ...]
    attached_routes: int
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStatus:
    ref: ObjectRef
    generation: int
    conditions: tuple[Condition, ...]
    addresses: tuple[Address, ...]
    listeners: tuple[ListenerStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentStatus:
    parent: ParentRef
    controller: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStatus:
    ref: ObjectRef
    generation: int
    parents: tuple[ParentStatus, ...]
    """Those of Gateways of ours; other controllers have their own."""
    nowhere: tuple[str, ...] = ()
    """Why parents that nobody serves are none. A status may not speak of them (RouteStatus.parents of Gateway API), an Event does."""
    overtaken_by: ObjectRef | None = None
    """An older route of the same priority that gets some of its packets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterStatus:
    ref: ObjectRef
    generation: int
    conditions: tuple[Condition, ...]


Status = ClassStatus | GatewayStatus | RouteStatus | RouterStatus

MOST_ADDRESSES = 16
"""Gateway.status.addresses holds no more (gateway_types.go, MaxItems)."""


def accepted(good: bool = True, reason: str = "Accepted", message: str = "") -> Condition:
    """The Accepted condition."""
    return Condition(type="Accepted", status=good, reason=reason, message=message)


def programmed(addresses: Sequence[Address], pods: int, ready_pods: int) -> Condition:
    """The Programmed condition of a Gateway: it has VIPs, and at least one pod that is ready, which means programmed, carries them."""
    if not addresses:
        return Condition(
            type="Programmed",
            status=False,
            reason="AddressNotAssigned",
            message="no accepted route gives this Gateway an address",
        )
    pods_text = f"{ready_pods} of {pods} gateway pods are ready"
    if ready_pods == 0:
        return Condition(type="Programmed", status=False, reason="Pending", message=pods_text)
    if len(addresses) > MOST_ADDRESSES:
        pods_text += f"; {len(addresses)} addresses, of which the status can show {MOST_ADDRESSES}"
    return Condition(type="Programmed", status=True, reason="Programmed", message=pods_text)


def resolved_refs(problems: Sequence[tuple[str, str]]) -> Condition:
    """The ResolvedRefs condition from the (reason, message) of each reference that does not resolve."""
    if not problems:
        return Condition(type="ResolvedRefs", status=True, reason="ResolvedRefs")
    return Condition(
        type="ResolvedRefs",
        status=False,
        reason=problems[0][0],
        message="; ".join(message for _, message in problems[:4]),
    )
