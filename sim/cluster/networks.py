"""Networks of Pods as Multus reads them: the annotation, the NetworkAttachmentDefinition, and what both ask of the virtual network.

Pure: text in, values out. What is wrong becomes a `NetworkError` with the reason and the words that the Pod's event gets.

Source: Kubernetes Network Custom Resource Definition De-facto Standard v1.3 (network plumbing working group), sections 3.2, 4.1, 5.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import TidegateError
from core.kube import Json

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

_SHORT = re.compile(r"(?:([a-z0-9]([-a-z0-9]*[a-z0-9])?)/)?([a-z0-9]([-a-z0-9.]*[a-z0-9])?)(?:@([^\s/@]{1,15}))?")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_INTERFACE = re.compile(r"[^\s/]{1,15}")
HIGHEST_VLAN = 4094

Reason = Literal[
    "BadAnnotation",
    "NetworkNotFound",
    "BadNetworkConfig",
    "UnsupportedNetworkType",
    "UnsupportedIpam",
    "AddressesExhausted",
]


class NetworkError(TidegateError):
    """Why a Pod's networks cannot be set up. `reason` is one CamelCase word, the message names the network and the value."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """One element of the annotation `k8s.v1.cni.cncf.io/networks`: which network, as which interface."""

    namespace: str
    name: str
    interface: str
    mac: str | None = None
    addresses: tuple[IpInterface, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRange:
    """One whereabouts range: addresses from `first` to `last` of `network`, less those in `exclude`."""

    network: IpNetwork
    first: IpAddress
    last: IpAddress
    exclude: tuple[IpNetwork, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NoIpam:
    """The interface gets no address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticIpam:
    addresses: tuple[IpInterface, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """One address of every range. Networks with the same range share its addresses, unless their `pool` names differ."""

    ranges: tuple[AddressRange, ...]
    pool: str = ""


Ipam = NoIpam | StaticIpam | Whereabouts


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """A NetworkAttachmentDefinition, interpreted: the bridge of the virtual network that stands for it, and its IPAM."""

    bridge: str
    ipam: Ipam


def vlan_bridge(vlan_id: int, master: str = "eth0") -> str:
    """The network of the virtual network that stands for a VLAN on a node's interface; outside routers join it by this name."""
    return f"{master}.{vlan_id}"


def parse_annotation(text: str, namespace: str) -> tuple[NetworkRequest, ...]:
    """The networks that a Pod of `namespace` asks for, in the JSON or the short form. Interfaces without a name are net1, net2, ….

    Raises:
        NetworkError: BadAnnotation.
    """
    text = text.strip()
    if not text:
        return ()
    requests = _parse_json(text, namespace) if text.startswith(("[", "{", '"')) else _parse_short(text, namespace)
    names = [request.interface for request in requests]
    for name in names:
        if names.count(name) > 1 or name in ("eth0", "lo"):
            raise _bad_annotation(f"interface {name!r} is asked for twice, or is the Pod's own")
    return requests


def _parse_short(text: str, namespace: str) -> tuple[NetworkRequest, ...]:
    requests = []
    for index, part in enumerate(text.split(","), start=1):
        match = _SHORT.fullmatch(part.strip())
        if match is None:
            raise _bad_annotation(f"found {part.strip()!r}, expected [namespace/]name[@interface] or a JSON list")
        requests.append(
            NetworkRequest(namespace=match[1] or namespace, name=match[3], interface=match[5] or f"net{index}")
        )
    return tuple(requests)


def _parse_json(text: str, namespace: str) -> tuple[NetworkRequest, ...]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad_annotation(f"found {text!r}, expected JSON: {error}") from error
    if not isinstance(entries, list):
        raise _bad_annotation(f"found {text!r}, expected a JSON list of objects")
    requests = []
    for index, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
            raise _bad_annotation(f"found {entry!r}, expected an object with a name")
        interface = entry.get("interface") or f"net{index}"
        if not isinstance(interface, str) or not _INTERFACE.fullmatch(interface):
            raise _bad_annotation(f"found interface {interface!r}, expected 1 to 15 characters without blank or slash")
        mac = entry.get("mac")
        if mac is not None and not (isinstance(mac, str) and _MAC.fullmatch(mac)):
            raise _bad_annotation(f"found mac {mac!r}, expected six bytes such as 02:00:00:00:00:01")
        elsewhere, ips = entry.get("namespace") or namespace, entry.get("ips") or []
        if not isinstance(elsewhere, str) or not isinstance(ips, list):
            raise _bad_annotation(f"found {entry!r}, expected namespace as text and ips as a list")
        requests.append(
            NetworkRequest(
                namespace=elsewhere,
                name=entry["name"],
                interface=interface,
                mac=mac,
                addresses=tuple(_interface_address(ip, f"network {entry['name']}") for ip in ips),
            )
        )
    return tuple(requests)


def parse_config(definition: Json) -> NetworkConfig:
    """What a NetworkAttachmentDefinition means here. `vlan` is one bridge a (master, vlanId), `macvlan` and `bridge` one a network.

    Not interpreted: routes, DNS, MTU, and chained plugins after the first one.

    Raises:
        NetworkError: BadNetworkConfig, UnsupportedNetworkType or UnsupportedIpam.
    """
    metadata = definition.get("metadata", {})
    where = f"network {metadata.get('namespace', '')}/{metadata.get('name', '')}"
    config = _json_config(definition.get("spec"), where)
    plugins = config.get("plugins") if isinstance(config, dict) else None
    plugin = plugins[0] if isinstance(plugins, list) and plugins else config
    if not isinstance(plugin, dict):
        raise NetworkError("BadNetworkConfig", f"{where}: spec.config is {config!r}, expected a JSON object")
    if not isinstance(plugin.get("type"), str):
        raise NetworkError(
            "BadNetworkConfig", f"{where}: spec.config has no type, expected a plugin, such as vlan or macvlan"
        )
    return NetworkConfig(bridge=_bridge(plugin, metadata, where), ipam=_ipam(plugin.get("ipam"), where))


def _json_config(spec: Any, where: str) -> Any:
    """The value of the JSON that stands as text in spec.config."""
    if spec is not None and not isinstance(spec, dict):
        raise NetworkError("BadNetworkConfig", f"{where}: spec is {spec!r}, expected a mapping with the key config")
    text = (spec or {}).get("config")
    if text is None or text == "":
        raise NetworkError("BadNetworkConfig", f"{where} has no spec.config, which the testbed needs")
    if not isinstance(text, str):
        expected = "expected JSON as text: put | after config:, and indent the JSON below it"
        raise NetworkError("BadNetworkConfig", f"{where}: spec.config is {_kind(text)}, {expected}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NetworkError("BadNetworkConfig", f"{where}: spec.config is not JSON: {error}") from error


def _kind(value: object) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)


def _text(of: dict[str, Any], key: str, default: str, where: str) -> str:
    found = of.get(key) or default
    if not isinstance(found, str):
        raise NetworkError("BadNetworkConfig", f"{where}: {key} is {found!r}, expected text")
    return found


def _bridge(plugin: dict[str, Any], metadata: Json, where: str) -> str:
    kind, master = plugin.get("type"), _text(plugin, "master", "eth0", where)
    match kind:
        case "vlan":
            vlan_id = plugin.get("vlanId")
            if not isinstance(vlan_id, int) or isinstance(vlan_id, bool) or not 0 <= vlan_id <= HIGHEST_VLAN:
                expected = f"expected a number from 0 to {HIGHEST_VLAN}"
                raise NetworkError("BadNetworkConfig", f"{where}: vlanId {vlan_id!r}, {expected}")
            return vlan_bridge(vlan_id, master)
        case "macvlan":
            return f"{master}/{metadata.get('namespace', '')}/{metadata.get('name', '')}"
        case "bridge":
            return (
                f"{_text(plugin, 'bridge', 'cni0', where)}/{metadata.get('namespace', '')}/{metadata.get('name', '')}"
            )
        case _:
            raise NetworkError(
                "UnsupportedNetworkType", f"{where}: type {kind!r}, and the testbed has vlan, macvlan and bridge"
            )


def _ipam(ipam: Any, where: str) -> Ipam:
    if not ipam:
        return NoIpam()
    if not isinstance(ipam, dict):
        expected = 'expected an object, such as {"type": "whereabouts", "range": "192.0.2.0/24"}'
        raise NetworkError("BadNetworkConfig", f"{where}: ipam is {ipam!r}, {expected}")
    match ipam.get("type"):
        case "static":
            entries = _list(ipam, "addresses", where)
            texts = [entry.get("address") if isinstance(entry, dict) else entry for entry in entries]
            return StaticIpam(addresses=tuple(_interface_address(text, where) for text in texts))
        case "whereabouts":
            entries = [*([ipam] if ipam.get("range") else []), *_list(ipam, "ipRanges", where)]
            if not entries:
                raise NetworkError("BadNetworkConfig", f"{where}: whereabouts without a range or ipRanges")
            ranges = tuple(_address_range(entry, where) for entry in entries)
            return Whereabouts(ranges=ranges, pool=_text(ipam, "network_name", "", where))
        case other:
            raise NetworkError(
                "UnsupportedIpam", f"{where}: ipam {other!r}, and the testbed has whereabouts and static"
            )


def _list(ipam: dict[str, Any], key: str, where: str) -> list[Any]:
    found = ipam.get(key) or []
    if not isinstance(found, list):
        raise NetworkError("BadNetworkConfig", f"{where}: ipam.{key} is {found!r}, expected a list")
    return found


def _address_range(entry: Any, where: str) -> AddressRange:
    """A whereabouts range: a CIDR, or ``first-last/length``. Source: whereabouts doc/extended-configuration.md."""
    try:
        text, first, last = str(entry["range"]), entry.get("range_start"), entry.get("range_end")
        if "-" in text:
            first, _, text = text.partition("-")
            last = text.split("/")[0]
        network = ipaddress.ip_network(text, strict=False)
        lowest, highest = _usable(network)
        found = AddressRange(
            network=network,
            first=ipaddress.ip_address(first) if first else lowest,
            last=ipaddress.ip_address(last) if last else highest,
            exclude=tuple(ipaddress.ip_network(excluded, strict=False) for excluded in entry.get("exclude") or ()),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NetworkError("BadNetworkConfig", f"{where}: whereabouts range {entry!r}: {error}") from error
    if found.first not in network or found.last not in network or int(found.first) > int(found.last):
        raise NetworkError(
            "BadNetworkConfig",
            f"{where}: range_start {found.first} and range_end {found.last} must lie in {network}, in order",
        )
    return found


def _usable(network: IpNetwork) -> tuple[IpAddress, IpAddress]:
    """First and last address without the network's own and the broadcast address; all of a network of one or two."""
    if network.num_addresses <= 2:
        return network[0], network[-1]
    return network[1], network[-2]


def _interface_address(text: object, where: str) -> IpInterface:
    try:
        return ipaddress.ip_interface(str(text))
    except ValueError as error:
        raise NetworkError("BadNetworkConfig", f"{where}: {error}") from error


def _bad_annotation(what: str) -> NetworkError:
    return NetworkError("BadAnnotation", f"annotation k8s.v1.cni.cncf.io/networks: {what}")
