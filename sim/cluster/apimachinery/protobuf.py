"""Reads the protobuf form of built-in kinds, in which typed Go clients (`kubectl create namespace`) send them; answers stay JSON.

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Kubernetes Protobuf encoding"; protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from sim.cluster.apimachinery.problems import Json, bad_request

MEDIA_TYPE: Final = "application/vnd.kubernetes.protobuf"
_MAGIC: Final = b"k8s\x00"
_FIXED64: Final = 1

# Go writes every field that is no pointer, so a zero means "not given" but for these, which are pointers.
_ZERO_COUNTS: Final = frozenset({
    "replicas", "revisionHistoryLimit", "progressDeadlineSeconds", "terminationGracePeriodSeconds", "gracePeriodSeconds",
    "runAsUser", "runAsGroup", "fsGroup", "tolerationSeconds", "automountServiceAccountToken", "optional", "runAsNonRoot",
    "allowPrivilegeEscalation", "privileged", "readOnlyRootFilesystem", "enableServiceLinks", "allocateLoadBalancerNodePorts",
    "controller", "blockOwnerDeletion", "immutable", "ready", "serving", "terminating", "orphanDependents",
})  # fmt: skip


class _MalformedError(Exception):
    """The bytes are no protobuf of the kind."""


Fields = Mapping[int, tuple[str, str]]


@lru_cache(maxsize=1)
def _messages() -> Mapping[str, Fields]:
    """The fields of every message: number -> (name, type)."""
    text = (resources.files(__package__) / "protobuf_fields.txt").read_text()
    found: dict[str, Fields] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            message, *entries = line.split()
            parts = (entry.split(":", 2) for entry in entries)
            found[message] = {int(number): (name, kind) for number, name, kind in parts}
    return found


def decode(raw: bytes) -> Json:
    """The object in a body.

    Raises:
        StatusError: 400, it is none, or of a kind that has no protobuf form here.
    """
    try:
        if not raw.startswith(_MAGIC):
            raise _MalformedError(
                "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
            )
        outer = dict(_fields(raw[len(_MAGIC) :]))
        identity = {number: value.decode() for number, value in _fields(outer.get(1, b"")) if isinstance(value, bytes)}
        kind = identity.get(2, "")
        if kind not in _messages():
            raise _MalformedError(f"kind {kind!r} has no protobuf form here")
        return {"apiVersion": identity.get(1, ""), "kind": kind, **_message(outer.get(2, b""), kind)}
    except (_MalformedError, UnicodeDecodeError, IndexError, TypeError) as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from error


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise _MalformedError("a varint of more than ten bytes")


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of every field: an int, or bytes."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        match key & 7:
            case 0:
                value, at = _varint(raw, at)
                yield key >> 3, value
            case 2:
                length, at = _varint(raw, at)
                if at + length > len(raw):
                    raise _MalformedError("a field is longer than its message")
                yield key >> 3, raw[at : at + length]
                at += length
            case 1 | 5 as wire:
                width = 8 if wire == _FIXED64 else 4
                yield key >> 3, raw[at : at + width]
                at += width
            case wire:
                raise _MalformedError(f"wire type {wire} is not used by this encoding")


def _message(raw: bytes, message: str) -> Json:
    known = _messages()[message]
    result: Json = {}
    for number, value in _fields(raw):
        if number not in known:
            if value:
                raise _MalformedError(f"field {number} of {message} is not known here")
            continue
        name, kind = known[number]
        if kind[0] == "^":
            result |= _message(value, kind[1:])
        elif kind[0] == "*":
            result.setdefault(name, []).append(_value(value, kind[1:]))
        elif kind[:2] == "{}":
            entry = dict(_fields(value))
            result.setdefault(name, {})[entry.get(1, b"").decode()] = _value(entry.get(2, b""), kind[2:])
        else:
            found = _value(value, kind)
            if found not in ("", 0, None) or (found == 0 and found is not None and name in _ZERO_COUNTS):
                result[name] = found
    return result


def _signed(value: int) -> int:
    """Negative integers are sent as their 64-bit two's complement."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _value(value: Any, kind: str) -> Any:
    match kind:
        case "s":
            return value.decode()
        case "i":
            return _signed(value)
        case "b":
            return bool(value)
        case "y":
            return base64.b64encode(value).decode()
        case "T" | "U":
            return _time(value, fraction=kind == "U")
        case "Q":
            return dict(_fields(value)).get(1, b"").decode()
        case "I":
            parts = dict(_fields(value))
            return parts.get(3, b"").decode() if parts.get(1, 0) else _signed(parts.get(2, 0))
        case "J":
            return json.loads(dict(_fields(value)).get(1, b"null"))
        case _:
            return _message(value, kind)


def _time(raw: bytes, *, fraction: bool) -> str | None:
    parts = dict(_fields(raw))
    if not parts:
        return None
    moment = datetime.fromtimestamp(_signed(parts.get(1, 0)), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{parts.get(2, 0) // 1000:06d}Z" if fraction else "Z")
