"""The picture of a topology: routers outside, gateway pods and targets in columns, the networks between them as vertical lines.

Everything is in inches, so that text keeps its size and its distance whatever the number of hosts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from scenarios.topology_view import Host, TopologyView

COLOURS = {"router": "#f3d9b1", "gateway": "#bcd8c1", "target": "#c9d6ea"}
TITLES = {"router": "outside", "gateway": "gateway pods", "target": "targets"}
LINE = "#555555"
MOST_ROWS = 24
"""Hosts of a column that are drawn; the others are counted."""
MOST_VIPS = 6
SHORT_NAME = 12
"""Characters."""

BOX_WIDTH = 1.5
GAP = 2.7
"""Between the boxes of two columns; half of it has room for an address."""
TEXT_HEIGHT = 0.15
LINK_HEIGHT = 0.4
"""One address above a link, the others below."""
PADDING = 0.12
MARGIN = 0.2
SIDE = 0.6
"""Left and right: what stands above a column may be wider than its boxes."""
HEAD = 1.2
"""Titles above the columns."""


def topology_figure(view: TopologyView) -> Figure:
    """The figure, as large as it must be."""
    columns = [column for role in TITLES if (column := _Column.of(view, role)).hosts]
    tallest = max((column.height for column in columns), default=1.0)
    width = max(5.0, len(columns) * BOX_WIDTH + (len(columns) - 1) * GAP + 2 * SIDE)
    height = tallest + HEAD + 2 * MARGIN
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    places: dict[str, tuple[float, float]] = {}
    for i, column in enumerate(columns):
        x = SIDE + BOX_WIDTH / 2 + i * (BOX_WIDTH + GAP)
        places.update(column.places(x, MARGIN + (tallest + column.height) / 2))
        _draw_title(axes, column, x, height - MARGIN - 0.4)
    for left, right in pairwise(columns):
        _draw_networks(axes, view.networks_of(left.role, right.role), (left, right), places)
    for column in columns:
        _draw_boxes(axes, column, places)
    axes.text(width / 2, height - MARGIN, _vips(view), ha="center", va="center", fontsize=10)
    return figure


def _vips(view: TopologyView) -> str:
    shown, more = view.vips[:MOST_VIPS], len(view.vips) - MOST_VIPS
    return f"virtual addresses: {', '.join(shown) or 'none'}" + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """The hosts of one role that are drawn."""

    role: str
    hosts: tuple[Host, ...]
    more: int
    prefix: str
    """What all of their names begin with; it stands once, above them."""
    pitch: float

    @staticmethod
    def of(view: TopologyView, role: str) -> _Column:
        hosts = view.of_role(role)
        drawn = hosts if len(hosts) <= MOST_ROWS else hosts[: MOST_ROWS - 1]
        links = max((len(_links(host, view, role)) for host in drawn), default=0)
        lines = max((2 + len(host.lines) for host in drawn), default=0)
        return _Column(
            role=role,
            hosts=drawn,
            more=len(hosts) - len(drawn),
            prefix=common_prefix([host.name for host in hosts]),
            pitch=PADDING + max(lines * TEXT_HEIGHT + 0.1, links * LINK_HEIGHT),
        )

    @property
    def height(self) -> float:
        return self.pitch * (len(self.hosts) + bool(self.more))

    def places(self, x: float, top: float) -> Iterator[tuple[str, tuple[float, float]]]:
        """The centre of each host, and of the line that counts the others."""
        for i, name in enumerate([host.name for host in self.hosts] + ([""] if self.more else [])):
            yield name or f"more {self.role}", (x, top - (i + 0.5) * self.pitch)


def _links(host: Host, view: TopologyView, role: str) -> tuple[str, ...]:
    """The networks on the side where the host has most of them."""
    roles = list(TITLES)
    at = roles.index(role)
    sides = [view.networks_of(role, other) for other in roles[max(0, at - 1) : at + 2] if other != role]
    return max((tuple(n for n in side if n in host.networks) for side in sides), key=len, default=())


def common_prefix(names: Sequence[str]) -> str:
    """What several names begin with, up to a dash; ``""`` when they are short enough to stand whole."""
    if len(names) < 2 or max(map(len, names)) <= SHORT_NAME:
        return ""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind("-", 0, same) + 1]


def _draw_title(axes: Axes, column: _Column, x: float, y: float) -> None:
    axes.text(x, y, TITLES[column.role], ha="center", va="center", fontsize=11, weight="bold")
    if column.prefix:
        axes.text(x, y - 0.22, f"{column.prefix}…", ha="center", va="center", fontsize=7, color=LINE)


def _draw_networks(
    axes: Axes,
    networks: Sequence[str],
    columns: tuple[_Column, _Column],
    places: Mapping[str, tuple[float, float]],
) -> None:
    """The networks that two neighbouring columns share, side by side; each has its own height at every host."""
    top = max(places[host.name][1] + LINK_HEIGHT * len(networks) / 2 for column in columns for host in column.hosts)
    for n, network in enumerate(networks):
        ends: list[float] = []
        x = sum(places[column.hosts[0].name][0] for column in columns) / 2 + 0.3 * (n - (len(networks) - 1) / 2)
        for column in columns:
            for host in column.hosts:
                if network in host.networks:
                    own = [name for name in networks if name in host.networks]
                    host_x, centre = places[host.name]
                    y = centre + LINK_HEIGHT * ((len(own) - 1) / 2 - own.index(network))
                    ends.append(y)
                    _draw_link(axes, (host_x, x), y, host.networks[network])
        # The leftmost name is the highest: none stands on a line or on another name.
        name_y = top + 0.25 + 0.17 * (len(networks) - 1 - n)
        axes.plot([x, x], [min(ends) - 0.15, name_y], color=LINE, linewidth=3, solid_capstyle="round")
        axes.text(x - 0.04, name_y + 0.05, network, ha="left", va="bottom", fontsize=8, style="italic")


def _draw_link(axes: Axes, ends: tuple[float, float], y: float, addresses: Sequence[str]) -> None:
    """From a host's box to a network: the first address above, the others below."""
    host_x, network_x = ends
    right = network_x > host_x
    edge = host_x + (BOX_WIDTH / 2 if right else -BOX_WIDTH / 2)
    axes.plot([edge, network_x], [y, y], color=LINE, linewidth=1, zorder=1)
    x, side = (edge + 0.08, "left") if right else (edge - 0.08, "right")
    for i, address in enumerate(addresses):
        size = 7 if len(address) <= 22 else 7 * 22 / len(address)
        at, va = (y + 0.03, "bottom") if i == 0 else (y - 0.03 - 0.12 * (i - 1), "top")
        axes.text(x, at, address, ha=side, va=va, fontsize=size, color="#333333")


def _draw_boxes(axes: Axes, column: _Column, places: Mapping[str, tuple[float, float]]) -> None:
    height = column.pitch - PADDING
    for host in column.hosts:
        x, y = places[host.name]
        axes.add_patch(
            FancyBboxPatch(
                (x - BOX_WIDTH / 2, y - height / 2),
                BOX_WIDTH,
                height,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=COLOURS[column.role],
                edgecolor=LINE,
            )
        )
        lines = (*_wrapped(host.name.removeprefix(column.prefix)), *host.lines)
        size = min(7.5, 7.5 * 24 / max(map(len, lines)))
        axes.text(x, y, "\n".join(lines), ha="center", va="center", fontsize=size)
    if column.more:
        x, y = places[f"more {column.role}"]
        axes.text(x, y, f"and {column.more} more", ha="center", va="center", fontsize=8, style="italic")


def _wrapped(name: str) -> tuple[str, ...]:
    """A long name on two lines, broken at a dash."""
    middle = name.rfind("-", 0, len(name) // 2 + 6)
    return (name,) if len(name) <= 22 or middle < 0 else (name[: middle + 1], name[middle + 1 :])
