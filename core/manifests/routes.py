"""L34Route, TCPRoute and UDPRoute, all of which become a Route; ReferenceGrant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from core import names
from core.manifests.fields import Reader, byte_match, l4_protocol, port_range, prefix, vip
from core.manifests.meta import read_meta
from core.model import ANY_PORT, BackendRef, Match, ParentRef, PortRange, Prefix, ReferenceGrant, Route

HIGHEST_WEIGHT = 1_000_000


def l34_route(reader: Reader) -> Route:
    meta, _ = read_meta(reader.value)
    spec = reader.object("spec")
    match = Match(
        priority=spec.integer("priority", 0, low=-(2**31), high=2**31 - 1, required=True),
        protocols=tuple(sorted(set(spec.parsed_items("protocols", l4_protocol, required=True)))),
        destinations=_collapse(spec.parsed_items("destinationCIDRs", vip, required=True)),
        sources=_collapse(spec.parsed_items("sourceCIDRs", prefix)),
        destination_ports=_merge(spec.parsed_items("destinationPorts", port_range)),
        source_ports=_merge(spec.parsed_items("sourcePorts", port_range)),
        byte_matches=tuple(sorted(set(spec.parsed_items("byteMatches", byte_match)))),
    )
    return Route(meta=meta, parents=_parents(spec), backends=_backends(spec), match=match)


def layer4_route(reader: Reader) -> Route:
    """A TCPRoute or UDPRoute; v1 has exactly one rule."""
    meta, _ = read_meta(reader.value)
    spec = reader.object("spec")
    rules = list(spec.objects("rules"))
    if not rules:
        spec.problem("rules", "required field is missing or empty", expected="a list with one rule")
    if len(rules) > 1:
        spec.problem("rules", "too many rules: nothing tells which packets go to which", len(rules), "one rule")
    backends = tuple(backend for rule in rules[:1] for backend in _backends(rule))
    return Route(meta=meta, parents=_parents(spec), backends=backends)


def _parents(spec: Reader) -> tuple[ParentRef, ...]:
    return tuple(
        ParentRef(
            group=item.text("group", names.GATEWAY_GROUP),
            kind=item.text("kind", "Gateway"),
            namespace=item.text("namespace", spec.ref.namespace),
            name=item.text("name", required=True),
            section_name=item.text("sectionName"),
            port=item.integer("port", 0, low=1, high=65535) or None,
        )
        for item in spec.objects("parentRefs")
    )


def _backends(spec: Reader) -> tuple[BackendRef, ...]:
    return tuple(
        BackendRef(
            group=item.text("group"),
            kind=item.text("kind", "Service"),
            namespace=item.text("namespace", spec.ref.namespace),
            name=item.text("name", required=True),
            weight=item.integer("weight", 1, low=0, high=HIGHEST_WEIGHT),
            port=item.integer("port", 0, low=1, high=65535) or None,
        )
        for item in spec.objects("backendRefs")
    )


def _collapse(prefixes: Sequence[Prefix]) -> tuple[Prefix, ...]:
    """The prefixes without repetitions and without those inside others, sorted; neighbours stay apart, as they were written."""
    kept: list[Prefix] = []
    for version in (4, 6):
        family = sorted({p for p in prefixes if p.version == version}, key=lambda p: (p.network_address, p.prefixlen))
        for found in family:
            last = kept[-1] if kept else None
            if last is None or last.version != found.version or found.network_address not in last:
                kept.append(found)
    return tuple(kept)


def _merge(ranges: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The ranges without overlaps, sorted; none given means every port."""
    merged: list[PortRange] = []
    for found in sorted(ranges):
        if merged and found.first <= merged[-1].last:
            merged[-1] = PortRange(first=merged[-1].first, last=max(merged[-1].last, found.last))
        else:
            merged.append(found)
    return tuple(merged) or (ANY_PORT,)


def reference_grant(reader: Reader) -> ReferenceGrant:
    meta, _ = read_meta(reader.value)
    spec = reader.object("spec")
    return ReferenceGrant(
        meta=meta,
        sources=tuple(
            (item.text("group"), item.text("kind", required=True), item.text("namespace", required=True))
            for item in spec.objects("from")
        ),
        targets=tuple(
            (item.text("group"), item.text("kind", required=True), item.text("name")) for item in spec.objects("to")
        ),
    )
