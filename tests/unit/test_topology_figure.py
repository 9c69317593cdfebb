"""The picture of a topology can be read: nothing overlaps, nothing is cut off, whatever the number of hosts."""

from __future__ import annotations

from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox, BboxBase

from scenarios.topology_figure import MOST_ROWS, common_prefix, topology_figure
from scenarios.topology_view import Host, TopologyView


def addresses(ipv4: str, ipv6: str, number: int, families: int) -> tuple[str, ...]:
    return (f"{ipv4}.{number}", f"{ipv6}::{number:x}")[:families]


def a_view(*, targets: int, gateways: int = 2, vlans: int = 1, families: int = 1) -> TopologyView:
    """Names, networks and addresses as the library's scenarios have them."""
    hosts = [
        Host(
            name=f"vpn-{'abc'[i]}",
            role="router",
            lines=("AS 4248829953", "200.100.0.100/32", "200:100::100/128")[: 1 + families],
            networks={f"vlan-{100 * (i + 1)}": addresses("169.254.100", "100:100", 150, families)},
        )
        for i in range(vlans)
    ]
    for i in range(1, gateways + 1):
        networks = {f"vlan-{100 * v}": addresses("169.254.100", "100:100", i, families) for v in range(1, vlans + 1)}
        networks["macvlan-nad-2"] = addresses("169.222.100", "fd00:222", 100 + i, families)
        hosts.append(
            Host(name=f"stateless-load-balancer-gateway-b-6d5f-{i:05}", role="gateway", lines=(), networks=networks)
        )
    hosts += [
        Host(
            name=f"example-target-application-b-7c4b-{i:05}",
            role="target",
            lines=(),
            networks={"macvlan-nad-2": addresses("169.222.100", "fd00:222", i, families)},
        )
        for i in range(1, targets + 1)
    ]
    return TopologyView(hosts=tuple(hosts), vips=("20.0.0.1/32", "2000::1/128")[:families])


def drawn_texts(view: TopologyView) -> tuple[dict[str, Bbox], BboxBase]:
    """Each text and where it stands, and the figure, in pixels. The same text in two places gives two entries."""
    figure = topology_figure(view)
    FigureCanvasAgg(figure)
    boxes = {
        f"{text.get_text()!r} at {text.get_position()}": text.get_window_extent()
        for text in figure.axes[0].texts
        if text.get_text()
    }
    return boxes, figure.bbox


@pytest.mark.parametrize("families", [1, 2])
@pytest.mark.parametrize(("targets", "gateways", "vlans"), [(1, 1, 1), (4, 2, 1), (8, 2, 1), (20, 4, 3), (200, 2, 1)])
def test_no_text_overlaps_another_or_is_cut_off(targets: int, gateways: int, vlans: int, families: int) -> None:
    view = a_view(targets=targets, gateways=gateways, vlans=vlans, families=families)
    texts, figure = drawn_texts(view)
    assert len(texts) > 5
    for name, box in texts.items():
        assert figure.x0 <= box.x0 < box.x1 <= figure.x1, name
        assert figure.y0 <= box.y0 < box.y1 <= figure.y1, name
    assert [(a, b) for (a, one), (b, other) in combinations(texts.items(), 2) if one.overlaps(other)] == []


def test_everyone_is_there_with_every_address() -> None:
    texts = " ".join(drawn_texts(a_view(targets=8, families=2))[0])
    for word in ("vpn-a", "169.254.100.150", "fd00:222::8", "169.222.100.102", "vlan-100", "macvlan-nad-2", "00008"):
        assert word in texts


def test_of_very_many_hosts_some_are_counted_only() -> None:
    texts = " ".join(drawn_texts(a_view(targets=200))[0])
    assert f"and {200 - MOST_ROWS + 1} more" in texts


def test_without_anything_there_is_an_empty_picture() -> None:
    assert len(drawn_texts(TopologyView(hosts=(), vips=()))[0]) == 1


def test_what_names_have_in_common_ends_at_a_dash() -> None:
    assert common_prefix(["target-application-b-1x", "target-application-b-1y"]) == "target-application-b-"
    assert common_prefix(["vpn-a", "vpn-b"]) == ""
    assert common_prefix(["stateless-load-balancer"]) == ""
