"""What is special about Services, Secrets, Namespaces, EndpointSlices and CRDs.

Source: kubernetes pkg/apis/core/v1/defaults.go, pkg/registry/core/service, pkg/apis/core/validation/validation.go,
pkg/apis/discovery/validation/validation.go.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterable
from typing import Any, Final

from sim.cluster.apimachinery import problems
from sim.cluster.apimachinery.kinds import Rules
from sim.cluster.apimachinery.metadata import check_named
from sim.cluster.apimachinery.problems import Cause, Json, bad_request

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"


def _fill_service(obj: Json) -> Json:
    spec = dict(obj.get("spec") or {})
    ports = [
        port if "targetPort" in port or "port" not in port else {**port, "targetPort": port["port"]}
        for port in spec.get("ports") or []
    ]
    if ports:
        spec["ports"] = ports
    kind = spec.get("type", "ClusterIP")
    if kind != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind in ("NodePort", "LoadBalancer") or spec.get("externalIPs"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    if spec.get("sessionAffinity") == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {"clientIP": {"timeoutSeconds": 10800}})
    return {**obj, "spec": spec}


def _service_born(obj: Json) -> Json:
    return {**obj, "status": {"loadBalancer": {}}}


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NO_ADDRESS: Final = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def _address(text: Any) -> Address | None:
    """The address that `text` is; None when it is none, or one of a zone."""
    try:
        return None if "%" in str(text) else ipaddress.ip_address(text)
    except ValueError:
        return None


def _why_special(address: Address) -> str:
    """Why nobody can be reached at an address from everywhere; empty when somebody can.

    Source: pkg/apis/core/validation/validation.go, ValidateNonSpecialIP.
    """
    if address.is_unspecified:
        return f"may not be unspecified ({address})"
    if address.is_loopback:
        return "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    if address.is_link_local:
        return "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    # The second byte of a multicast address of IPv6 ends with its scope; 2 is the link.
    local = address.packed[:3] == b"\xe0\0\0" if address.version == 4 else address.packed[1] & 0xF == 2
    if address.is_multicast and local:
        return "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    return ""


def _check_endpoint_address(text: str, family: str, path: str, place: int) -> list[Cause]:
    """Source: pkg/apis/discovery/validation/validation.go, validateEndpoints."""
    address = _address(text)
    if address is not None and f"IPv{address.version}" != family:
        return [problems.invalid_value(path, text, f"must be an {family} address")]
    why = _why_no_endpoint(text, address) if address is not None else _NO_ADDRESS
    return [problems.invalid_value(f"{path}[{place}]", text, why)] if why else []


def _why_no_endpoint(text: str, address: Address) -> str:
    """Why an address is none that an endpoint can have; empty when it is one."""
    if address.version == 6 and address.ipv4_mapped is not None:
        return "must not be an IPv4-mapped IPv6 address"
    if str(address) != text:
        return f'must be in canonical form ("{address}")'
    return _why_special(address)


def _check_service(obj: Json, old: Json | None) -> list[Cause]:
    causes: list[Cause] = []
    spec = obj.get("spec") or {}
    ports = spec.get("ports") or []
    if not ports and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
        causes.append(problems.required("spec.ports"))
    names: set[str] = set()
    for index, port in enumerate(ports):
        name = port.get("name", "")
        if not name and len(ports) > 1:
            causes.append(problems.required(f"spec.ports[{index}].name"))
        elif name and name in names:
            causes.append(problems.duplicate(f"spec.ports[{index}].name", name))
        names.add(name)
    for index, address in enumerate(spec.get("externalIPs") or []):
        found = _address(address)
        if why := _why_special(found) if found is not None else _NO_ADDRESS:
            causes.append(problems.invalid_value(f"spec.externalIPs[{index}]", address, why))
    was = (old or {}).get("spec", {}).get("clusterIP")
    if was and spec.get("clusterIP") != was and spec.get("type") != "ExternalName":
        value = [spec["clusterIP"]] if spec.get("clusterIP") else []
        causes.append(problems.invalid_value("spec.clusterIPs[0]", value, "may not change once set"))
    return causes


def allocate_service(obj: Json, services: list[Json]) -> Json:
    """The Service with a cluster address for each of its families and node ports, the lowest that `services` do not have."""
    spec = dict(obj.get("spec") or {})
    kind = spec.get("type", "ClusterIP")
    if kind == "ExternalName":
        return obj
    others = [one.get("spec") or {} for one in services]
    families = list(spec.get("ipFamilies") or [])
    if not families:
        wish = spec.get("clusterIP", "")
        families = ["IPv6" if ":" in wish else "IPv4"]
    spec["ipFamilies"] = families
    spec.setdefault("ipFamilyPolicy", "SingleStack" if len(families) == 1 else "RequireDualStack")
    if spec.get("clusterIP") == "None":
        spec["clusterIPs"] = ["None"]
    elif not spec.get("clusterIPs"):
        taken = {address for one in others for address in one.get("clusterIPs") or []}
        wished = [spec["clusterIP"]] if spec.get("clusterIP") else []
        spec["clusterIPs"] = wished + [_free_address(family, taken) for family in families[len(wished) :]]
    spec["clusterIP"] = spec["clusterIPs"][0]
    if kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True)):
        used = {port.get("nodePort") for one in (*others, spec) for port in one.get("ports") or []}
        ports = []
        for port in spec.get("ports") or []:
            if not port.get("nodePort"):
                number = next(number for number in range(30000, 32768) if number not in used)
                used.add(number)
                port = {**port, "nodePort": number}
            ports.append(port)
        spec["ports"] = ports
    return {**obj, "spec": spec}


def _free_address(family: str, taken: set[str]) -> str:
    first = ipaddress.ip_address("10.96.0.10" if family == "IPv4" else "fd00:10:96::10")
    return next(text for offset in range(1 << 16) if (text := str(first + offset)) not in taken)


def _fill_secret(obj: Json) -> Json:
    given = obj.get("stringData")
    if given is None:
        return obj
    data = dict(obj.get("data") or {})
    for name, text in given.items():
        data[name] = base64.b64encode(str(text).encode()).decode()
    return {**{name: value for name, value in obj.items() if name != "stringData"}, "data": data}


def _check_secret(obj: Json, old: Json | None) -> list[Cause]:
    """A value that is not base64 is refused as it is decoded: 400, not 422."""
    for text in (obj.get("data") or {}).values():
        try:
            base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise bad_request(
                'Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 0'
            ) from error
    if old is not None and obj.get("type") != old.get("type"):
        return [problems.invalid_value("type", obj.get("type"), "field is immutable")]
    if old is not None and old.get("immutable") and obj.get("data") != old.get("data"):
        return [problems.forbidden_field("data", "field is immutable when `immutable` is set")]
    return []


def _check_config_map(obj: Json, old: Json | None) -> list[Cause]:
    if old is not None and old.get("immutable") and obj.get("data") != old.get("data"):
        return [problems.forbidden_field("data", "field is immutable when `immutable` is set")]
    return []


def _namespace_born(obj: Json) -> Json:
    metadata = obj["metadata"]
    labels = {**(metadata.get("labels") or {}), NAMESPACE_LABEL: metadata.get("name", "")}
    return {
        **obj,
        "metadata": {**metadata, "labels": labels},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def _fill_namespace(obj: Json) -> Json:
    metadata = obj["metadata"]
    labels = metadata.get("labels") or {}
    if not metadata.get("name") or labels.get(NAMESPACE_LABEL) == metadata["name"]:
        return obj
    return {**obj, "metadata": {**metadata, "labels": {**labels, NAMESPACE_LABEL: metadata["name"]}}}


def _check_slice(obj: Json, old: Json | None) -> list[Cause]:
    causes: list[Cause] = []
    family = obj.get("addressType")
    for index, endpoint in enumerate(obj.get("endpoints") or []):
        for place, address in enumerate(endpoint.get("addresses") or []):
            if family in ("IPv4", "IPv6"):
                causes += _check_endpoint_address(address, family, f"endpoints[{index}].addresses", place)
        if (node := endpoint.get("nodeName")) is not None:
            causes += check_named(f"endpoints[{index}].nodeName", node, "subdomain")
    names = [port.get("name") or "" for port in obj.get("ports") or []]
    for index, name in enumerate(names):
        if name in names[:index]:
            causes.append(problems.duplicate(f"ports[{index}].name", name))
    if old is not None and family != old.get("addressType"):
        return [problems.invalid_value("addressType", None, "field is immutable")]
    return causes


def one_a_family(addresses: Iterable[Any]) -> bool:
    """Whether there is one address, or prefix, of each family at most."""
    families = [":" in str(address) for address in addresses]
    return len(families) == len(set(families))


def _check_node(obj: Json, old: Json | None) -> list[Cause]:  # noqa: ARG001 (the signature of Rules.check)
    causes: list[Cause] = []
    cidrs = (obj.get("spec") or {}).get("podCIDRs") or []
    if not one_a_family(cidrs):
        text = "may specify no more than one CIDR for each IP family"
        causes.append(problems.invalid_value("spec.podCIDRs", cidrs, text))
    # Several addresses of one type may be there: the key of the list is for whoever merges it.
    addresses = (obj.get("status") or {}).get("addresses") or []
    for index, one in enumerate(addresses):
        if one in addresses[:index]:
            shown = {"Type": one.get("type", ""), "Address": one.get("address", "")}
            causes.append(problems.duplicate(f"status.addresses[{index}]", shown))
    return causes


def _born_as_given(obj: Json) -> Json:
    """A Node keeps the status with which its kubelet registers it."""
    return obj


SERVICE: Final = Rules(
    fill=_fill_service, born=_service_born, check=_check_service, name_is="label", answers_deleted_object=True,
    replace_creates=True,
)  # fmt: skip
SECRET: Final = Rules(fill=_fill_secret, check=_check_secret)
CONFIG_MAP: Final = Rules(check=_check_config_map)
NAMESPACE: Final = Rules(fill=_fill_namespace, born=_namespace_born, name_is="label")
NODE: Final = Rules(born=_born_as_given, check=_check_node)
ENDPOINT_SLICE: Final = Rules(check=_check_slice, generation=("endpoints", "ports", "labels"))
LEASE: Final = Rules(replace_creates=True)
EVENT: Final = Rules(replace_creates=True)
ROLE: Final = Rules(name_is="path")
CUSTOM: Final = Rules(generation=("*",), replace_needs_version=True, status_writes_metadata=False)
