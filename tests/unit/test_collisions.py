"""Addresses and ports that two would have at the same time are refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import InputError
from scenarios.load import EXAMPLES, LIBRARY, load_scenario
from scenarios.rehearsal import rehearse

RANGE = '"ipRanges": [{"range": "169.254.100.0/24", "exclude": ["169.254.100.150/32"]}]'
STEP = (
    "timeline:\n- {name: more, action: scale, deployment: example-target-application-b, replicas: 5, after: clients}\n"
)


def problems(folder: Path, *, range_: str = RANGE, traffic: str = "", first: str = "", steps: str = "") -> list[str]:
    """Of poc2-stateless with another range on its VLAN, more traffic, and more said of the first one."""
    gateway = (EXAMPLES / "poc2" / "gateway.yaml").read_text()
    assert RANGE in gateway
    (folder / "gateway.yaml").write_text(gateway.replace(RANGE, range_))
    text = (LIBRARY / "poc2-stateless.yaml").read_text().replace("poc2/gateway.yaml", "gateway.yaml")
    text = text.replace("  connections: 400\n", f"  connections: 400\n{first}{traffic}")
    (folder / "scenario.yaml").write_text(text + steps)
    try:
        rehearse(load_scenario(str(folder / "scenario.yaml")))
    except InputError as error:
        return [str(problem).removeprefix(f"{folder}/") for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "range_",
    [
        '"ipRanges": [{"range": "169.254.100.0/24"}]',
        '"range": "169.254.100.0/24", "exclude": ["169.254.100.151/32"]',
        '"range": "169.254.100.140-169.254.100.150/24"',
        '"ipRanges": [{"range": "169.254.101.0/24"}, {"range": "169.254.100.0/24", "range_start": "169.254.100.150"}]',
    ],
)
def test_a_router_whose_address_pods_may_be_given(tmp_path: Path, range_: str) -> None:
    (said,) = problems(tmp_path, range_=range_)
    assert said.startswith(
        "scenario.yaml:15: a Pod may be given the address of router 'vpn-b': found 169.254.100.150, in"
    )
    assert said.endswith("or 169.254.100.150/32 among its exclude")


@pytest.mark.parametrize(
    "range_",
    [
        RANGE,
        '"range": "169.254.100.0/24", "exclude": ["169.254.100.151/28"]',
        '"range": "169.254.100.0/24", "range_end": "169.254.100.149"',
        '"range": "100:100::/64", "range_start": "100:100::1:0"',
    ],
)
def test_a_router_whose_address_no_pod_is_given(tmp_path: Path, range_: str) -> None:
    assert problems(tmp_path, range_=range_) == []


LONG = "  mode: long\n"
RANDOM = "  source_ports: random\n"


@pytest.mark.parametrize(
    ("first", "second", "steps", "shared"),
    [
        ("", "", "", 400),
        ("", "first_source_port: 20300, ", "", 100),
        ("  at_s: 1\n", "at_s: 1, ", "", 400),
        (LONG, "at_s: 20, ", "", 400),
        (LONG, "after: clients, ", "", 400),
        (LONG, "after: more, delay_s: 5, ", STEP, 400),
        ("  first_source_port: 65136\n", "first_source_port: 65535, connections: 1, ", "", 1),
        ("", "mode: long, ", "", 400),
        (RANDOM, "first_source_port: 1024, connections: 64512, ", "", 400),
    ],
)
def test_traffic_with_the_same_connections(tmp_path: Path, first: str, second: str, steps: str, shared: int) -> None:
    (said,) = problems(tmp_path, traffic=other(second), first=first, steps=steps)
    assert "'clients' and 'others' have the same connections open at the same time: " in said
    assert f"found {shared} with the same source address and port" in said


@pytest.mark.parametrize(
    ("first", "second", "steps"),
    [
        ("", "first_source_port: 20400, ", ""),
        ("", "protocol: UDP, ", ""),
        ("", "to: '20.0.0.1:4001', ", ""),
        ("", "after: clients, ", ""),
        ("", "after: clients, mode: long, ", ""),
        ("", "after: more, mode: long, ", STEP),
        ("", "at_s: 20, mode: long, ", ""),
        ("", "at_s: 20, ", ""),
        (RANDOM, "first_source_port: 20000, connections: 1, ", ""),
    ],
)
def test_traffic_with_connections_of_its_own(tmp_path: Path, first: str, second: str, steps: str) -> None:
    assert problems(tmp_path, traffic=other(second), first=first, steps=steps) == []


def other(more: str) -> str:
    to, connections = (
        "" if "to:" in more else "to: '20.0.0.1:4000', ",
        "" if "connections" in more else "connections: 400, ",
    )
    return f"- {{name: others, from: vpn-b, {to}{connections}{more}}}\n"


def test_a_router_elsewhere_may_have_the_same_ports(tmp_path: Path) -> None:
    text = (LIBRARY / "poc2-stateless.yaml").read_text()
    text = text.replace(
        "traffic:\n",
        "  - {name: vpn-c, vlan: 200, addresses: [169.254.100.150/24], client_addresses: [200.101.0.1/32]}\ntraffic:\n",
    )
    text = text.replace("addresses: [169.254.100.150/24], c", "addresses: [169.254.99.9/24], c")
    text += "- connections_broken == 0\n"
    text = text.replace(
        "expectations:\n", "- {name: others, from: vpn-c, to: '20.0.0.1:4000', connections: 400}\nexpectations:\n"
    )
    (tmp_path / "scenario.yaml").write_text(text)
    assert rehearse(load_scenario(str(tmp_path / "scenario.yaml"))).objects
