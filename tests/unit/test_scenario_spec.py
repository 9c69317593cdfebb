"""The scenario language: what is read, every problem at once, and settings over a file."""

from __future__ import annotations

import errno
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from core.errors import InputError
from scenarios import load
from scenarios.rehearsal import rehearse
from scenarios.spec import Apply, Dataplane, Delete, Expectation, Mode, Scale, Scenario, SocketAddress
from scenarios.tuples import five_tuples

GOLDEN = Path(__file__).parents[1] / "golden"

GOOD = """\
name: mine
title: a scenario
manifests: [poc2/gateway.yaml]
topology:
  routers:
  - name: vpn-b
    vlan: 200
    addresses: [169.254.100.150/24]
    client_addresses: [200.100.0.100/32]
traffic:
- name: clients
  from: vpn-b
  to: 20.0.0.1:4000
expectations:
- connections_failed == 0
"""


def parse(text: str, *settings: str) -> Scenario:
    return load.parse_scenario(text, Path("mine.yaml"), settings)


def problems(text: str, *settings: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse(text, *settings)
    return [str(problem) for problem in caught.value.problems]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_defaults_and_types() -> None:
    scenario = parse(GOOD)
    (router,) = scenario.topology.routers
    assert router.addresses == (ip_interface("169.254.100.150/24"),)
    assert (router.asn, router.gateway_asn, router.bgp_port, router.hold_time_s) == (4248829953, 8103, 10179, 3)
    (traffic,) = scenario.traffic
    assert traffic.to == SocketAddress(address=ip_address("20.0.0.1"), port=4000)
    assert traffic.mode is Mode.SHORT
    assert scenario.dataplane is Dataplane.AUTO
    assert scenario.expectations == (Expectation(metric="connections_failed", traffic="", op="==", bound=0.0),)


def test_the_action_says_which_keys_an_element_of_the_timeline_has() -> None:
    scenario = parse(
        GOOD
        + """\
timeline:
- {name: more, action: scale, deployment: example-target-application-b, replicas: 8, at_s: 1.5}
- {name: update, action: apply, manifests: [poc2/update.yaml], after: more, delay_s: 2}
- {name: less, action: delete, kind: L34Route, object: tcp-4000, after: update}
"""
    )
    more, update, less = scenario.timeline
    assert isinstance(more, Scale)
    assert (more.replicas, more.at_s) == (8, 1.5)
    assert isinstance(update, Apply)
    assert (update.after, update.delay_s) == ("more", 2.0)
    assert isinstance(less, Delete)
    assert less.object_name == "tcp-4000"


def test_the_library_is_good() -> None:
    names = {path.stem: load.load_scenario(path.stem).scenario for path in load.library()}
    assert {"poc2-stateless", "poc2-update", "poc2-dualstack"} <= names.keys()
    for name, scenario in names.items():
        assert scenario.name == name
        assert all(path.parent == load.EXAMPLES / "poc2" for path in load.load_scenario(name).manifests)


def test_all_problems_are_reported_at_once_with_their_lines() -> None:
    expected = (GOLDEN / "bad-scenario.txt").read_text().splitlines()
    with pytest.raises(InputError) as caught:
        load.parse_scenario((GOLDEN / "bad-scenario.yaml").read_text(), Path("bad-scenario.yaml"))
    assert [str(problem) for problem in caught.value.problems] == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  from: vpn-b\n", "", "mine.yaml:11: missing key 'from', expected such as from: vpn-b"),
        ("    vlan: 200\n", "    hold_time_s: 2\n    vlan: 200\n", "found 2, expected 0 or at least 3 (RFC 4271, 4.2)"),
        ("to: 20.0.0.1:4000", "to: 20.0.0.1", "expected an address and a port"),
        ("to: 20.0.0.1:4000", "to: '[2000::1]:4000'", "IPv6 traffic from a router without an IPv6 client address"),
        ("to: 20.0.0.1:4000", "to: 20.0.0.1:4000\n  connections: 45537", "found 45537, expected at most 45536"),
        (
            "to: 20.0.0.1:4000",
            "to: 20.0.0.1:4000\n  source_ports: random\n  connections: 45537",
            "found 45537, expected at most 45536",
        ),
        (
            "traffic:\n",
            "timeline: [{name: x, action: {a: b}}]\ntraffic:\n",
            "unknown action: found a mapping, expected one of",
        ),
        (
            "traffic:\n",
            "timeline: [{name: x, action: [1]}]\ntraffic:\n",
            "unknown action: found a list, expected one of",
        ),
        ("manifests: [", "manifests: [" + "x" * 300 + ", ", "no such manifest: found 'xxx"),
        ("to: 20.0.0.1:4000", "to: 20.0.0.1:4000\n  after: clients", "no such step: found 'clients'"),
        ("to: 20.0.0.1:4000", "to: 20.0.0.1:4000\n  delay_s: 1", "'delay_s' without 'after'"),
        (
            "to: 20.0.0.1:4000",
            "to: 20.0.0.1:4000\n  connections: yes",
            "'connections' is wrong: found yes, expected a whole number",
        ),
        ("traffic:\n", "traffic:\n- 3\n", "found 3, expected a mapping with the keys name, at_s"),
        ("title: a scenario", "title:", "'title' is wrong: found nothing, expected text"),
        (GOOD, "[]", "a mapping with the keys name, title"),
        (GOOD, "", "mine.yaml: is empty, expected a scenario"),
        (GOOD, GOOD + "---\n" + GOOD, "a second document"),
        (GOOD, "apiVersion: v1\nkind: Pod\n", "is a Kubernetes manifest"),
    ],
)
def test_one_thing_wrong(old: str, new: str, expected: str) -> None:
    assert expected in problems(changed(old, new))[0]


def test_steps_must_not_wait_for_each_other() -> None:
    text = (
        GOOD
        + """\
timeline:
- {name: a, action: scale, deployment: d, replicas: 1, after: b}
- {name: b, action: scale, deployment: d, replicas: 1, after: a}
- {name: c, action: scale, deployment: d, replicas: 1, after: a, at_s: 3}
"""
    )
    found = "\n".join(problems(text))
    assert "steps wait for each other: found a after b after a" in found
    assert "mine.yaml:19: 'at_s' and 'after' together: found in 'c'" in found


def test_two_routers_cannot_share_an_address() -> None:
    router = GOOD[GOOD.index("  - name: vpn-b") : GOOD.index("traffic:")]
    assert (
        "address of vpn-b on the same VLAN: found '169.254.100.150'"
        in problems(changed("traffic:\n", router.replace("vpn-b", "vpn-c") + "traffic:\n"))[0]
    )
    other_vlan = router.replace("vpn-b", "vpn-c").replace("vlan: 200", "vlan: 300")
    assert len(parse(changed("traffic:\n", other_vlan + "traffic:\n")).topology.routers) == 2


def test_settings_go_over_the_file() -> None:
    scenario = parse(
        GOOD,
        "dataplane=nft",
        "traffic.clients.connections=50",
        "traffic.0.mode=long",
        "topology.routers.vpn-b.bfd.min_tx_ms=100",
        "expectations=['connections_total == 50']",
    )
    assert scenario.dataplane is Dataplane.NFT
    assert (scenario.traffic[0].connections, scenario.traffic[0].mode) == (50, Mode.LONG)
    assert scenario.topology.routers[0].bfd.min_tx_ms == 100
    assert [e.name for e in scenario.expectations] == ["connections_total"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("dataplan=nft", "--set dataplan=nft: unknown key: found 'dataplan', expected 'dataplane'"),
        ("dataplane=xdp", "--set dataplane=xdp: 'dataplane' is wrong: found 'xdp', expected one of auto, tc, nft"),
        ("dataplane", "--set dataplane: is no setting, expected KEY=VALUE, such as dataplane=nft"),
        ("traffic.client.connections=5", "no such element: found 'client', expected 'clients'"),
        ("traffic.1.connections=5", "no such element: found '1'"),
        ("traffic.²=5", "no such element: found '²', expected one of clients"),
        (f"traffic.{'9' * 5000}=5", "no such element: found '999"),
        ("traffic.clients.connections=5k", "'connections' is wrong: found '5k', expected a whole number"),
        ("traffic.clients.conections=5", "unknown key: found 'conections', expected 'connections'"),
        ("topology.nodes.x=5", "--set topology.nodes.x=5: 'nodes' is wrong: found a mapping"),
        ("topology.nodes=[1", "broken YAML"),
        ("..=5", "is no setting"),
    ],
)
def test_settings_that_are_wrong(setting: str, expected: str) -> None:
    assert expected in "\n".join(problems(GOOD, setting))


@pytest.mark.parametrize(
    ("op", "value", "holds"), [("==", 3, True), ("<", 3, False), (">=", 3, True), ("!=", 3, False)]
)
def test_expectations_compare(op: str, value: float, holds: bool) -> None:
    assert Expectation.parse(f"targets_hit[clients]{op}3").holds(value, 3.0) is holds


@pytest.mark.parametrize("bound", ["9" * 400, "-" + "9" * 400, "9" * 310 + ".5"])
def test_a_bound_is_a_number_that_json_has(bound: str) -> None:
    with pytest.raises(ValueError, match="at most 309 digits"):
        Expectation.parse(f"targets_hit <= {bound}")
    assert Expectation.parse(f"targets_hit <= {bound[:300]}").bound


def test_every_port_of_every_client_is_drawn_and_no_more() -> None:
    """What is checked before a run is what a run has."""
    scenario = parse(changed("to: 20.0.0.1:4000", "to: 20.0.0.1:4000\n  source_ports: random\n  connections: 45536"))
    found = five_tuples(scenario.traffic[0], scenario.topology.routers[0], 1)
    assert len(set(found.source_port.tolist())) == 65536 - 20_000


def test_random_ports_of_more_clients_than_numpy_can_number() -> None:
    many = changed("to: 20.0.0.1:4000", "to: '[2000::1]:4000'\n  source_ports: random")
    scenario = parse(many, "topology.routers.vpn-b.client_addresses=['2001:db8::/32']")
    found = five_tuples(scenario.traffic[0], scenario.topology.routers[0], 1)
    pairs = set(zip(found.source.tolist(), found.source_port.tolist(), strict=True))
    assert len(pairs) == scenario.traffic[0].connections
    assert len(found.sources) > 300
    assert all(address in ip_network("2001:db8::/32") for address in found.sources)


def test_a_manifest_in_a_folder_that_nobody_may_look_into_is_told_by_whoever_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root every folder can be looked into, so the refusal is a fake."""
    (tmp_path / "private").mkdir()
    is_file, is_dir, opened = Path.is_file, Path.is_dir, Path.open

    def refuse(path: Path) -> None:
        if path.parent.name == "private":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    for name, real in (("is_file", is_file), ("is_dir", is_dir), ("open", opened)):

        def guarded(path: Path, *arguments: Any, _real: Any = real, **more: Any) -> Any:
            refuse(path)
            return _real(path, *arguments, **more)

        monkeypatch.setattr(Path, name, guarded)
    path = tmp_path / "s.yaml"
    path.write_text(GOOD.replace("manifests: [", "manifests: [private/m.yaml, "))
    loaded = load.load_scenario(str(path))
    with pytest.raises(InputError, match=r"private/m\.yaml: cannot be read: Permission denied"):
        rehearse(loaded)


def test_an_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no such scenario.*'poc2-stateless'"):
        load.load_scenario("poc2-statless")
    with pytest.raises(InputError, match="no such file"):
        load.load_scenario("poc2-stateless.yaml")
