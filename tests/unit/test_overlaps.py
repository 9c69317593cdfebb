"""Of routes that match the same packets the first in matching order gets them; of one priority, the other says so."""

from __future__ import annotations

import pytest

from core import overlaps
from core.kube import Json
from core.manifests import parse
from core.plan import plan
from core.status import RouteStatus
from tests import objects

OLD, YOUNG = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


def said(*routes: Json) -> tuple[list[str], dict[str, str]]:
    """The routes of the flows in matching order; and what the Accepted condition of each route says."""
    result = plan(parse([objects.gateway(), objects.service(), *routes])[0])
    flows = [flow.name.split("/")[2] for flow in result.gateways[0].forwarding.flows]
    messages = {}
    for status in result.statuses:
        if isinstance(status, RouteStatus):
            ((accepted, _),) = [parent.conditions for parent in status.parents]
            assert (accepted.type, accepted.status) == ("Accepted", True)
            messages[status.ref.name] = accepted.message
    return list(dict.fromkeys(flows)), messages


@pytest.mark.parametrize("names", [("a", "z"), ("z", "a")], ids="-".join)
@pytest.mark.parametrize(
    ("spec", "overtaken"),
    [
        ({}, True),
        ({"destinationPorts": ["3000-5000"]}, True),
        ({"destinationPorts": ["1", "3999-4001", "any"]}, True),
        ({"destinationPorts": ["4001"]}, False),
        ({"priority": 2}, False),
        ({"priority": -1}, False),
        ({"protocols": ["UDP"]}, False),
        ({"protocols": ["UDP", "TCP"]}, True),
        ({"destinationCIDRs": ["20.0.0.2/32"]}, False),
        ({"destinationCIDRs": ["20.0.0.0/24"]}, True),
        ({"destinationCIDRs": ["30.0.0.0/24", "20.0.0.0/31"]}, True),
        ({"destinationCIDRs": ["20.0.1.0/24"]}, False),
        ({"destinationCIDRs": ["2000::1/128"]}, False),
        ({"sourcePorts": ["1-10"]}, True),
        ({"sourceCIDRs": ["1.0.0.0/8"]}, True),
        ({"byteMatches": ["tcp[13:1] & 0x02 = 2"]}, True),
        ({"byteMatches": ["tcp[2:2] = 4000"]}, True),
        ({"byteMatches": ["tcp[2:2] = 4001"]}, False),
        ({"byteMatches": ["udp[4:2] = 8"]}, False),
    ],
    ids=str,
)
def test_a_route_that_is_overtaken_says_so(names: tuple[str, str], spec: Json, overtaken: bool) -> None:
    """Whichever of the two has the wider prefix, and whatever they are called."""
    older, younger = names
    plain: Json = {}
    for first, second in ((plain, spec), (spec, plain)):
        flows, messages = said(
            objects.aged(objects.l34_route(older, **first), OLD),
            objects.aged(objects.l34_route(younger, **second), YOUNG),
        )
        told = f"L34Route default/{older}, of the same priority and older, gets the packets that match both"
        assert (told in messages[younger]) is overtaken
        assert "gets the packets" not in messages[older]
        priorities = (first.get("priority", 1), second.get("priority", 1))
        assert flows == ([older, younger] if priorities[0] >= priorities[1] else [younger, older])


@pytest.mark.parametrize(
    ("one", "other", "overtaken"),
    [
        ({"sourceCIDRs": ["1.0.0.0/8"]}, {"sourceCIDRs": ["3.0.0.0/8", "1.2.0.0/16"]}, True),
        ({"sourceCIDRs": ["1.0.0.0/8"]}, {"sourceCIDRs": ["2.0.0.0/8"]}, False),
        ({"sourceCIDRs": ["1::/16"]}, {}, False),
        ({"sourcePorts": ["1-10"]}, {"sourcePorts": ["20", "10-15"]}, True),
        ({"sourcePorts": ["1-10"]}, {"sourcePorts": ["11-15"]}, False),
        ({"byteMatches": ["tcp[13:1] & 0x02 = 2"]}, {"byteMatches": ["tcp[13:1] & 0x10 = 0x10"]}, True),
        ({"byteMatches": ["tcp[13:1] & 0x02 = 2"]}, {"byteMatches": ["tcp[12:2] & 0x0006 = 4"]}, False),
    ],
)
def test_what_tells_two_routes_apart(one: Json, other: Json, overtaken: bool) -> None:
    _, messages = said(
        objects.aged(objects.l34_route("older", **one), OLD),
        objects.aged(objects.l34_route("a-younger", **other), YOUNG),
    )
    assert ("L34Route default/older" in messages["a-younger"]) is overtaken


def test_among_thousands_of_routes_one_that_is_overtaken_is_found() -> None:
    """Hosts of one prefix beside each other, a port each; one of them is there twice, and one gets nothing because of the prefix."""
    hosts = [
        objects.l34_route(
            f"m{i}", destinationCIDRs=[f"20.0.{i // 250}.{i % 250}/32"], destinationPorts=[str(1 + i % 7)]
        )
        for i in range(2000)
    ]
    twice = objects.l34_route("z", destinationCIDRs=["20.0.5.7/32"], destinationPorts=["any"])
    wide = objects.l34_route("a", destinationCIDRs=["20.0.7.0/24"], destinationPorts=["7"])
    _, messages = said(*hosts, twice, wide)
    overtaken = {name: text.split("; ")[1].split(",")[0] for name, text in messages.items() if "; " in text}
    inside = {f"m{i}" for i in range(1750, 2000) if i % 7 == 6}
    assert overtaken.pop("z") == "L34Route default/m1257"
    # COMPARED_AT_A_PREFIX of them are sure to be found; the first in the alphabet is the older one.
    assert set(overtaken.values()) == {"L34Route default/a"}
    assert overtaken.keys() <= inside
    assert len(overtaken) >= min(len(inside), overlaps.COMPARED_AT_A_PREFIX)


def test_one_route_with_many_vips_hides_no_other() -> None:
    many = [f"20.0.0.{i}/32" for i in range(4 * overlaps.COMPARED)]
    first = objects.aged(objects.l34_route("first", destinationCIDRs=many, sourcePorts=["1"]), OLD)
    second = objects.aged(objects.l34_route("second", destinationCIDRs=many[:1], sourcePorts=["2"]), OLD)
    wide = objects.aged(objects.l34_route("wide", destinationCIDRs=["20.0.0.0/16"], sourcePorts=["2"]), YOUNG)
    assert "L34Route default/second" in said(first, second, wide)[1]["wide"]
