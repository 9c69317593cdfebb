"""JSON trees grown from the schemas of the kinds that a plan reads: those of our CRDs, of Gateway API, and of the built-in kinds.

A tree is healthy to begin with: of the right types, required fields there, optional ones by chance, and values that mean something
where a field's name is known (names that lead to other objects, addresses, ports, annotations that are JSON). Then some places fall
ill: another value, or none.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from core import names
from core.kube import Json
from core.problems import Path
from scenarios.schemas import registry
from sim.cluster.apimachinery.schema import ABSENT, Schema

KINDS = (
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "TCPRoute"),
    ("gateway.networking.k8s.io", "UDPRoute"),
    ("gateway.networking.k8s.io", "ReferenceGrant"),
    ("l34.gateway.api.poc", "L34Route"),
    ("l34.gateway.api.poc", "GatewayRouter"),
    ("", "Service"),
    ("", "Pod"),
    ("", "Namespace"),
    ("discovery.k8s.io", "EndpointSlice"),
)
"""All that `core.manifests` reads; a test holds them against it."""

ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True),
    st.text(max_size=12),
    st.sampled_from(["any", "0-65535", "70000", "20.0.0.1/32", "::/0", "TCP", "24s", "[]", "{}", "[[", "9" * 5000]),
    st.sampled_from([2**31, 2**32, 65536, 0, -1, "\0", "1.2.3.4%x", "fe80::1%eth0", "٤", "=", "*", "../..", "a\nb"]),
    st.sampled_from(
        ["0.0.0.0/0", "20.0.0.1/33", "20.0.0.01", "5-4", "tcp[58:4] = 1", "tcp[0:3] = 1", "1s", "1h", "[1]", "1e3"]
    ),
    st.just([]),
    st.just({}),
    st.lists(st.one_of(st.none(), st.text(max_size=3), st.integers()), max_size=3),
    st.dictionaries(st.text(max_size=4), st.one_of(st.none(), st.text(max_size=3), st.integers()), max_size=3),
)

_NAMES = ("gw", "gw2", "svc", "svc2", "route", "all", "x")
_CIDRS = ("20.0.0.1/32", "20.0.0.0/24", "30.0.0.1/32", "2000::1/128", "2000::/64")
_ADDRESSES = ("20.0.0.1", "30.0.0.1", "169.254.100.151", "2000::1", "100:100::151")
_PORTS = ("any", "0", "0-100", "4000", "4000-5000", "65535")
_BYTE_MATCHES = ("tcp[2:2] = 4000", "UDP[0:4] & 0xFFFF = 0x50", "sctp[0:1]=1")
_NETWORKS = (
    '[{"name": "nad-2"}]',
    '[{"name": "vlan-200", "interface": "vlan-200"}, {"name": "nad-2"}]',
    "nad-2@net1",
    "[1]",
)
_STATUS = (
    '[{"name": "default/nad-2", "ips": ["10.2.0.77"]}]',
    '[{"name": "nad-2", "ips": ["10.2.0.1", "fd00::1", "x"]}]',
    "[{}]",
)
_WORDS: dict[str, tuple[Any, ...]] = {
    "name": _NAMES,
    "parentRefs.name": ("gw", "gw", "gw2"),
    "parentRefs.group": ("gateway.networking.k8s.io",),
    "parentRefs.kind": ("Gateway",),
    "parentRefs.namespace": ("default", "default", "odd"),
    "parentRefs.sectionName": ("all", "all", "x"),
    "backendRefs.name": ("svc", "svc", "svc2"),
    "backendRefs.group": ("",),
    "backendRefs.kind": ("Service", "Service", "Pod"),
    "metadata.namespace": ("default", "default", "default", "odd"),
    "namespace": ("default", "odd", "other"),
    "sectionName": ("all", "x"),
    "gatewayClassName": (
        names.STATELESS_LOAD_BALANCER,
        names.STATELESS_LOAD_BALANCER,
        names.KPNG,
        "istio",
        "fast",
        "nginx",
    ),
    "controllerName": (names.STATELESS_LOAD_BALANCER, names.KPNG, "example.com/other"),
    "group": ("", "gateway.networking.k8s.io", "l34.gateway.api.poc"),
    "kind": ("Gateway", "Service", "L34Route", "TCPRoute", "Pod"),
    "address": _ADDRESSES,
    "value": _ADDRESSES,
    "addresses": _ADDRESSES,
    "externalIPs": _ADDRESSES,
    "interface": ("vlan-200", "net1"),
    "destinationCIDRs": _CIDRS,
    "sourceCIDRs": _CIDRS,
    "destinationPorts": _PORTS,
    "sourcePorts": _PORTS,
    "protocols": ("TCP", "UDP", "SCTP", "tcp"),
    "protocol": ("TCP", "UDP", "TCP", names.ALL_PORTS_PROTOCOL, "BGP", "Static", "HTTP"),
    "byteMatches": _BYTE_MATCHES,
    "holdTime": ("3s", "24s", "0s", "1m30s"),
    "minTx": ("300ms", "10ms"),
    "minRx": ("300ms", "10ms"),
    "clusterIP": ("None", "10.0.0.1"),
    "addressType": ("IPv4", "IPv6"),
    "zone": ("7", "west", "9" * 30),
    "uid": ("uid-app-0", "uid-app-1", "uid-odd"),
    "from": ("Same", "All", "Selector"),
    "operator": ("In", "NotIn", "Exists", "DoesNotExist"),
    "phase": ("Running", "Succeeded"),
    "creationTimestamp": ("2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
    "deletionTimestamp": ("2026-01-01T00:00:00Z",),
    "type": ("Ready", "IPAddress", "ClusterIP"),
    "status": ("True", "False"),
}
_ANNOTATIONS: dict[str, tuple[str, ...]] = {
    names.POD_NETWORKS: _NETWORKS,
    names.ENDPOINT_NETWORKS: _NETWORKS,
    names.NETWORK_STATUS: _STATUS,
    names.ATTACHED: ('["20.0.0.1/32"]', '["20.0.0.1/32", "2000::1/128"]', '["x"]', "7"),
    names.MAX_ENDPOINTS: ("1", "2"),
    names.REPLICAS: ("0", "3"),
    names.SLOTS: ('{"uid-app-0": 3, "uid-odd": 0}', '{"uid-app-0": "3"}', "[]"),
    names.VIPS: ('["20.0.0.1/32"]', "{}"),
    names.PENDING_VIPS: ('{"uid-app-0": ["20.0.0.1/32"]}', "[]"),
}
_LABELS: dict[str, tuple[str, ...]] = {
    names.PROXY_NAME: ("gw", "gw2", "x"),
    names.SERVICE_NAME: ("svc", "svc2"),
    names.SLICE_MANAGED_BY: (names.SLICE_MANAGER, "other"),
    "app": ("app", "odd"),
    names.DUMMY_SELECTOR: ("true",),
}
_MAPS = {"annotations": _ANNOTATIONS, "labels": _LABELS, "selector": _LABELS, "matchLabels": _LABELS}
_OF_PODS = {"spec": ("nodeName",), "status": ("phase", "conditions")}
"""A Pod has hundreds of fields that no plan reads."""
_OF_METADATA = (
    "annotations",
    "creationTimestamp",
    "deletionTimestamp",
    "generation",
    "labels",
    "name",
    "namespace",
    "uid",
)


_LIKELY = frozenset(
    {"labels", "annotations", "infrastructure", "listeners", "parentRefs", "backendRefs", "rules", "endpoints"}
)
"""What connects objects is there more often than not."""
_SOMETIMES, _OFTEN = (False, True), (False, True, True, True, True)


def _tree(draw: st.DrawFn, schema: Schema, name: str, only: tuple[str, ...] = (), inside: str = "") -> Any:
    if schema.type == "object" and schema.properties:
        found: Json = {}
        for key, below in schema.properties.items():
            chance = _OFTEN if key in _LIKELY else _SOMETIMES
            if (not only or key in only) and (key in schema.required or draw(st.sampled_from(chance))):
                found[key] = _tree(draw, below, key, inside=name)
        return found
    if schema.type == "object":
        known = _MAPS.get(name, {"a": ("b",)})
        keys = draw(
            st.lists(
                st.sampled_from(sorted(known)),
                min_size=min(draw(st.integers(0, 2)), len(known)),
                max_size=4,
                unique=True,
            )
        )
        return {key: draw(st.sampled_from(known[key])) for key in keys}
    if schema.type == "array" and schema.items is not None:
        count = max(draw(st.sampled_from((0, 1, 1, 1, 2, 3))), schema.min_items or 0)
        return [_tree(draw, schema.items, name, inside=inside) for _ in range(count)]
    if schema.enum:
        return draw(st.sampled_from(schema.enum))
    if schema.type == "boolean":
        return draw(st.booleans())
    if schema.type in ("integer", "number") or (schema.int_or_string and draw(st.booleans())):
        low, high = int(schema.minimum or 0), int(schema.maximum or 3)
        return draw(st.sampled_from(sorted({low, high, min(max(low, 4000), high)})))
    if schema.default is not ABSENT and isinstance(schema.default, str) and draw(st.booleans()):
        return schema.default
    return draw(st.sampled_from(_WORDS.get(f"{inside}.{name}") or _WORDS.get(name, ("a", "b-1", ""))))


@st.composite
def healthy(draw: st.DrawFn) -> Json:
    """An object of one of `KINDS`, as its schema has it."""
    group, kind_name = draw(st.sampled_from(KINDS))
    kind = registry().by_kind(group, kind_name)
    assert kind is not None
    version = draw(st.sampled_from(kind.versions))
    found: Json = {"apiVersion": f"{group}/{version.name}" if group else version.name, "kind": kind_name}
    for key, below in version.schema.properties.items():
        if key in ("apiVersion", "kind"):
            continue
        if key == "metadata":
            found[key] = {"name": draw(st.sampled_from(_NAMES))} | _tree(draw, below, key, _OF_METADATA)
        elif key != "status" or kind_name == "Pod" or draw(st.integers(0, 3)) == 0:
            found[key] = _tree(draw, below, key, _OF_PODS.get(key, ()) if kind_name == "Pod" else ())
    return found


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a JSON value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from places(item, (*path, i))


@st.composite
def grown(draw: st.DrawFn) -> Json:
    """An object that may be ill at up to three places; its kind stays, and it stays JSON."""
    found: Json = json.loads(json.dumps(draw(healthy())))
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2, 3)))):
        path = draw(st.sampled_from([p for p in places(found) if p[0] not in ("apiVersion", "kind")]))
        place: Any = found
        for part in path[:-1]:
            place = place[part]
        if draw(st.integers(0, 3)) == 0:
            del place[path[-1]]
        else:
            place[path[-1]] = copy.deepcopy(draw(ODD))  # what is drawn may be drawn again
        if len(found) == 2:  # nothing is left that could fall ill
            break
    return found
