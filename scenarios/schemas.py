"""Whether a cluster would take an object: its name and labels, its schema, and the rules that the schemas of routes and Gateways add.

What the core cannot read is said in its own words elsewhere; this finds what only the API server would refuse, before it does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import live
from core.kube import Json
from core.names import GATEWAY_GROUP, L34_GROUP
from core.problems import Path as FieldPath
from scenarios.yamlsource import read_documents
from sim.cluster.apimachinery import builtin, crds, metadata, schema, validation
from sim.cluster.apimachinery.kinds import Registry

CRDS = Path(live.__file__ or "").parent / "deploy" / "crds"
_ROUTES = {(GATEWAY_GROUP, "TCPRoute"), (GATEWAY_GROUP, "UDPRoute"), (L34_GROUP, "L34Route")}
_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


@cache
def registry() -> Registry:
    """The kinds that a cluster with Tidegate in it serves, as far as Tidegate needs them."""
    found = builtin.registry()
    object_metadata = builtin.schemas()["ObjectMeta"]
    for path in sorted(CRDS.glob("*.yaml")):
        for document in read_documents(path):
            found.add(crds.kind_of(document.json(), object_metadata))
    return found


def misfits(obj: Json) -> Iterator[tuple[FieldPath, str]]:
    """(path, what is wrong) of everything for which an API server would refuse `obj`. Of kinds that are not known here: nothing."""
    group, _, version_name = str(obj.get("apiVersion", "")).rpartition("/")
    kind = registry().by_kind(group, str(obj.get("kind", "")))
    version = kind.version(version_name) if kind is not None else None
    if kind is None or version is None:
        return
    # Null stands for nothing in built-in kinds; a custom kind must allow it.
    filled = schema.normalise(obj, version.schema, schema.Form(drop_null=not kind.custom, defaults=True), [])
    causes = validation.validate(filled, version.schema)
    wrong_types = any(cause.reason == "FieldValueTypeInvalid" for cause in causes)
    if not wrong_types:
        # These read what they check as of the right type.
        causes = [*metadata.check(filled["metadata"], kind.rules.name_is), *causes, *kind.rules.check(filled, None)]
    for cause in causes:
        # The server names no field where a number has too many bits.
        field = cause.field if cause.field != "<nil>" else cause.detail.rpartition(" in ")[2]
        yield _path(field), cause.detail.replace(f"{field} in body ", "")
    if not wrong_types:
        yield from _more_rules(group, filled)


def _path(field: str) -> FieldPath:
    return tuple(int(index) if index else name for index, name in _STEP.findall(field))


def _more_rules(group: str, obj: Json) -> Iterator[tuple[FieldPath, str]]:
    """What the CRDs say in CEL (Gateway API v1.6.1: BackendObjectReference, GatewaySpec.listeners and .addresses)."""
    kind, spec = obj["kind"], obj.get("spec") or {}
    if (group, kind) in _ROUTES:
        rules: list[tuple[FieldPath, Any]] = [(("spec",), spec)]
        rules += [(("spec", "rules", i), rule) for i, rule in enumerate(spec.get("rules") or [])]
        for where, rule in rules:
            for i, backend in enumerate(rule.get("backendRefs") or []):
                if (backend.get("group", ""), backend.get("kind", "Service")) == (
                    "",
                    "Service",
                ) and "port" not in backend:
                    yield (
                        (*where, "backendRefs", i, "port"),
                        "Required value: a reference to a Service must have a port",
                    )
    elif (group, kind) == (GATEWAY_GROUP, "Gateway"):
        seen: dict[tuple[object, ...], str] = {}
        names: set[object] = set()
        for i, listener in enumerate(spec.get("listeners") or []):
            if listener.get("name") in names:
                yield (
                    ("spec", "listeners", i, "name"),
                    f"Duplicate value: {listener['name']!r}: each listener needs its own",
                )
            names.add(listener.get("name"))
            key = (listener.get("port"), listener.get("protocol"), listener.get("hostname"))
            first = seen.setdefault(key, str(listener.get("name")))
            if first != listener.get("name"):
                what = f"the same port, protocol and hostname as listener {first!r}: each listener needs its own"
                yield ("spec", "listeners", i), what
            yield from ((("spec", "listeners", i, *path), what) for path, what in _listener_rules(listener))
        yield from _addresses_twice(spec.get("addresses") or [])


def _listener_rules(listener: Json) -> Iterator[tuple[FieldPath, str]]:
    """What the protocol of a listener rules out."""
    protocol, tls = listener.get("protocol"), listener.get("tls")
    mode = tls.get("mode") or "Terminate" if isinstance(tls, dict) else None
    if protocol in ("TCP", "UDP") and listener.get("hostname"):
        yield ("hostname",), f"Invalid value: a listener of protocol {protocol} has no hostname: take it away"
    if protocol in ("HTTP", "TCP", "UDP") and tls is not None:
        yield ("tls",), f"Invalid value: a listener of protocol {protocol} has no tls: take it away"
    elif protocol == "HTTPS" and mode not in (None, "Terminate"):
        yield ("tls", "mode"), f"Invalid value: {mode!r}: must be Terminate for protocol HTTPS"
    elif protocol == "TLS" and tls is None:
        yield ("tls",), "Required value: a listener of protocol TLS must say tls.mode"
    elif isinstance(tls, dict) and mode == "Terminate" and not tls.get("certificateRefs") and not tls.get("options"):
        yield ("tls",), "Required value: certificateRefs or options, when mode is Terminate"


def _addresses_twice(addresses: Iterable[object]) -> Iterator[tuple[FieldPath, str]]:
    """IP addresses, and hostnames, must be unique. Source: GatewaySpec.addresses."""
    seen: set[tuple[str, str]] = set()
    for i, address in enumerate(addresses):
        if not isinstance(address, dict) or not isinstance(value := address.get("value"), str):
            continue
        key = (str(address.get("type", "IPAddress")), value)
        if key in seen and key[0] in ("IPAddress", "Hostname"):
            yield ("spec", "addresses", i, "value"), f"Duplicate value: {value!r}: each address once"
        seen.add(key)
