"""Annotations, NetworkAttachmentDefinitions and addresses, as Multus and whereabouts understand them."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from sim.cluster.ipam import Addresses, lowest_free
from sim.cluster.multus import PodInterface, network_status
from sim.cluster.networks import (
    AddressRange,
    NetworkError,
    NetworkRequest,
    NoIpam,
    StaticIpam,
    Whereabouts,
    parse_annotation,
    parse_config,
)


def definition(config: Any, name: str = "net") -> dict[str, Any]:
    text = config if isinstance(config, str) else json.dumps(config)
    return {"metadata": {"namespace": "default", "name": name}, "spec": {"config": text}}


def whereabouts(*ranges: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "vlan", "vlanId": 100, "ipam": {"type": "whereabouts", "ipRanges": list(ranges), **more}}


def requests(text: str) -> list[tuple[str, str, str]]:
    return [(r.namespace, r.name, r.interface) for r in parse_annotation(text, "default")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ('[{"name":"macvlan-nad","interface":"net1"}]', [("default", "macvlan-nad", "net1")]),
        ('[{"name":"a","namespace":"other"},{"name":"b"}]', [("other", "a", "net1"), ("default", "b", "net2")]),
        ("a", [("default", "a", "net1")]),
        ("a, other/b@vlan-200 ,c", [("default", "a", "net1"), ("other", "b", "vlan-200"), ("default", "c", "net3")]),
        ("[]", []),
    ],
)
def test_both_forms_of_the_annotation(text: str, found: list[tuple[str, str, str]]) -> None:
    assert requests(text) == found


def test_mac_and_addresses_can_be_asked_for() -> None:
    (request,) = parse_annotation('[{"name":"a","mac":"02:00:00:00:00:01","ips":["192.0.2.7/24"]}]', "default")
    assert request == NetworkRequest(
        namespace="default",
        name="a",
        interface="net1",
        mac="02:00:00:00:00:01",
        addresses=(ip_interface("192.0.2.7/24"),),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{", "expected JSON"),
        ('{"name":"a"}', "expected a JSON list"),
        ('["a"]', "expected an object with a name"),
        ('[{"interface":"net1"}]', "expected an object with a name"),
        ('[{"name":"a","interface":"a-name-of-16-byte"}]', "1 to 15 characters"),
        ('[{"name":"a","interface":"net1"},{"name":"b","interface":"net1"}]', "'net1' is asked for twice"),
        ('[{"name":"a","interface":"eth0"}]', "the Pod's own"),
        ('[{"name":"a","mac":"no"}]', "expected six bytes"),
        ('[{"name":"a","ips":5}]', "expected namespace as text and ips as a list"),
        ('[{"name":"a","namespace":5}]', "expected namespace as text and ips as a list"),
        ("[" * 100_000, "expected JSON"),
        ("a b", "expected [namespace/]name[@interface]"),
        ("a@", "expected [namespace/]name[@interface]"),
    ],
)
def test_a_bad_annotation_says_what_was_found(text: str, said: str) -> None:
    with pytest.raises(NetworkError) as caught:
        parse_annotation(text, "default")
    assert caught.value.reason == "BadAnnotation"
    assert said in str(caught.value)


def test_the_seeds_networks_are_understood() -> None:
    vlan = definition(whereabouts({"range": "169.254.100.0/24", "exclude": ["169.254.100.150/32"]}))
    config = parse_config(vlan)
    assert config.bridge == "eth0.100"
    assert config.ipam == Whereabouts(
        ranges=(
            AddressRange(
                network=ip_network("169.254.100.0/24"),
                first=ip_address("169.254.100.1"),
                last=ip_address("169.254.100.254"),
                exclude=(ip_network("169.254.100.150/32"),),
            ),
        )
    )


def test_a_vlan_is_one_wire_whatever_the_network_is_called_and_macvlans_are_separate() -> None:
    one = parse_config(definition({"type": "vlan", "master": "eth1", "vlanId": 7}, "a"))
    other = parse_config(definition({"type": "vlan", "master": "eth1", "vlanId": 7}, "b"))
    assert one.bridge == other.bridge == "eth1.7"
    a, b = (parse_config(definition({"type": "macvlan", "master": "eth0"}, name)).bridge for name in "ab")
    assert a != b
    assert one.ipam == NoIpam()


def test_static_addresses_and_plugin_lists() -> None:
    static = {"type": "bridge", "ipam": {"type": "static", "addresses": [{"address": "10.0.0.5/24"}]}}
    config = parse_config(definition({"cniVersion": "1.0.0", "name": "x", "plugins": [static, {"type": "tuning"}]}))
    assert config.ipam == StaticIpam(addresses=(ip_interface("10.0.0.5/24"),))


@pytest.mark.parametrize(
    ("entry", "first", "last"),
    [
        ({"range": "10.0.0.0/24"}, "10.0.0.1", "10.0.0.254"),
        ({"range": "10.0.0.0/24", "range_start": "10.0.0.10", "range_end": "10.0.0.20"}, "10.0.0.10", "10.0.0.20"),
        ({"range": "10.0.0.5-10.0.0.9/24"}, "10.0.0.5", "10.0.0.9"),
        ({"range": "10.0.0.4/31"}, "10.0.0.4", "10.0.0.5"),
        ({"range": "fd00::/64"}, "fd00::1", "fd00::ffff:ffff:ffff:fffe"),
    ],
)
def test_ranges(entry: dict[str, str], first: str, last: str) -> None:
    ipam = parse_config(definition(whereabouts(entry))).ipam
    assert isinstance(ipam, Whereabouts)
    assert (str(ipam.ranges[0].first), str(ipam.ranges[0].last)) == (first, last)


@pytest.mark.parametrize(
    ("config", "reason", "said"),
    [
        ("", "BadNetworkConfig", "no spec.config"),
        ("{", "BadNetworkConfig", "not JSON"),
        ("[]", "BadNetworkConfig", "expected a JSON object"),
        ({"type": "sriov"}, "UnsupportedNetworkType", "'sriov'"),
        ({"type": "vlan", "vlanId": 5000}, "BadNetworkConfig", "vlanId 5000"),
        ({"type": "vlan"}, "BadNetworkConfig", "vlanId None"),
        ({"type": "macvlan", "ipam": {"type": "dhcp"}}, "UnsupportedIpam", "'dhcp'"),
        (whereabouts(), "BadNetworkConfig", "without a range"),
        (whereabouts({"range": "10.0.0.0/33"}), "BadNetworkConfig", "10.0.0.0/33"),
        (whereabouts({"range": "10.0.0.0/24", "range_start": "10.1.0.1"}), "BadNetworkConfig", "must lie in"),
        (whereabouts({"range": "10.0.0.0/24", "exclude": ["x"]}), "BadNetworkConfig", "'x'"),
    ],
)
def test_a_bad_network_says_what_is_wrong(config: Any, reason: str, said: str) -> None:
    with pytest.raises(NetworkError) as caught:
        parse_config(definition(config))
    assert caught.value.reason == reason
    assert said in str(caught.value)
    assert "default/net" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("text", "spec is 'text', expected a mapping with the key config"),
        (
            {"config": {"type": "vlan", "vlanId": 200}},
            "spec.config is a mapping, expected JSON as text: put | after config:",
        ),
        ({"config": [{"type": "vlan"}]}, "spec.config is a list, expected JSON as text"),
        ({"config": 5}, "spec.config is 5, expected JSON as text"),
        ({"config": False}, "spec.config is False, expected JSON as text"),
        ({"config": "[" * 100_000}, "spec.config is not JSON"),
        (
            {"config": '{"type": "vlan", "vlanId": 2, "ipam": "whereabouts"}'},
            "ipam is 'whereabouts', expected an object",
        ),
        ({"config": '{"type": "macvlan", "ipam": ["static"]}'}, "ipam is ['static'], expected an object"),
        ({"config": '{"type": "macvlan", "master": ["eth0"]}'}, "master is ['eth0'], expected text"),
        ({"config": '{"type": "bridge", "bridge": 5}'}, "bridge is 5, expected text"),
    ],
)
def test_a_network_that_is_no_text_says_what_it_is(spec: Any, said: str) -> None:
    found = definition({"type": "macvlan"}) | {"spec": spec}
    with pytest.raises(NetworkError) as caught:
        parse_config(found)
    assert caught.value.reason == "BadNetworkConfig"
    assert said in str(caught.value)


def test_the_lowest_free_address_skips_what_is_excluded_and_taken() -> None:
    wanted = AddressRange(
        network=ip_network("10.0.0.0/24"),
        first=ip_address("10.0.0.1"),
        last=ip_address("10.0.0.254"),
        exclude=(ip_network("10.0.0.0/30"), ip_network("10.0.0.6/32")),
    )
    assert lowest_free(wanted, {ip_address("10.0.0.4")}) == ip_address("10.0.0.5")
    assert lowest_free(wanted, {ip_address("10.0.0.4"), ip_address("10.0.0.5")}) == ip_address("10.0.0.7")


def test_a_huge_excluded_network_is_jumped_over() -> None:
    wanted = AddressRange(
        network=ip_network("fd00::/64"),
        first=ip_address("fd00::1"),
        last=ip_address("fd00::ffff:ffff:ffff:fffe"),
        exclude=(ip_network("fd00::/65"),),
    )
    assert lowest_free(wanted, set()) == ip_address("fd00::8000:0:0:0")


def test_addresses_are_given_once_kept_and_freed_with_the_pod() -> None:
    ipam = parse_config(definition(whereabouts({"range": "10.0.0.0/29"}, {"range": "fd00::/64"}))).ipam
    addresses = Addresses()
    first = addresses.allocate(("pod-1", "net1"), ipam, "default/net")
    assert list(map(str, first)) == ["10.0.0.1/29", "fd00::1/64"]
    assert addresses.allocate(("pod-1", "net1"), ipam, "default/net") == first
    assert str(addresses.allocate(("pod-2", "net1"), ipam, "default/net")[0]) == "10.0.0.2/29"
    addresses.release("pod-1")
    assert addresses.allocate(("pod-3", "net1"), ipam, "default/net") == first


def test_networks_with_one_range_share_its_addresses_unless_their_pools_have_names() -> None:
    shared = parse_config(definition(whereabouts({"range": "10.0.0.0/24"}))).ipam
    own = parse_config(definition(whereabouts({"range": "10.0.0.0/24"}, network_name="own"))).ipam
    addresses = Addresses()
    found = [
        str(addresses.allocate((pod, "net1"), ipam, "n")[0].ip)
        for pod, ipam in (("a", shared), ("b", shared), ("c", own))
    ]
    assert found == ["10.0.0.1", "10.0.0.2", "10.0.0.1"]


def test_an_exhausted_range_takes_no_address_of_the_other_family() -> None:
    ipam = parse_config(definition(whereabouts({"range": "fd00::/64"}, {"range": "10.0.0.0/30"}))).ipam
    addresses = Addresses()
    for pod in "ab":
        addresses.allocate((pod, "net1"), ipam, "default/net")
    with pytest.raises(NetworkError, match=r"default/net: no free address in 10\.0\.0\.0/30") as caught:
        addresses.allocate(("c", "net1"), ipam, "default/net")
    assert caught.value.reason == "AddressesExhausted"
    addresses.release("a")
    assert str(addresses.allocate(("c", "net1"), ipam, "default/net")[0].ip) == "fd00::1"


def test_the_network_status_is_written_as_multus_writes_it() -> None:
    interface = PodInterface(
        network="default/vlan-200",
        bridge="eth0.200",
        interface="vlan-200",
        addresses=(ip_interface("169.254.100.1/24"), ip_interface("100:100::1/64")),
        mac="02:00:00:00:00:01",
    )
    assert network_status(interface) == {
        "name": "default/vlan-200",
        "interface": "vlan-200",
        "ips": ["169.254.100.1", "100:100::1"],
        "mac": "02:00:00:00:00:01",
        "dns": {},
    }


def test_freed_addresses_are_given_again_the_lowest_first() -> None:
    addresses = Addresses()
    ipam = Whereabouts(
        ranges=(
            AddressRange(
                network=ip_network("10.0.0.0/24"), first=ip_address("10.0.0.1"), last=ip_address("10.0.0.200")
            ),
        )
    )

    def give(uid: str) -> str:
        return str(addresses.allocate((uid, "net1"), ipam, "net")[0].ip)

    assert [give(f"p{i}") for i in range(1, 101)] == [f"10.0.0.{i}" for i in range(1, 101)]
    for uid in ("p70", "p20", "p50"):
        addresses.release(uid)
    assert give("p20") == "10.0.0.20"
    assert [give(uid) for uid in ("a", "b", "c", "a")] == ["10.0.0.50", "10.0.0.70", "10.0.0.101", "10.0.0.50"]
