"""The figures of a run as PNG. matplotlib is imported by whoever draws: it costs half a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scenarios.measure import MeasuredTraffic
from scenarios.topology_view import Host, TopologyView

DPI = 130
PREDICTED = "#b0c4d8"
MEASURED = "#2f6690"
COLOURS = {"router": "#f3d9b1", "gateway": "#bcd8c1", "target": "#c9d6ea"}
TITLES = {"router": "outside", "gateway": "gateway pods", "target": "targets"}
COLUMN = 1.8
"""Distance of two columns; a row is 1 high."""
HALF_BOX = 0.36
"""About half of a host's width: addresses stand between it and the network."""


def draw_all(folder: Path, view: TopologyView | None, traffic: Sequence[MeasuredTraffic]) -> tuple[Path, ...]:
    """Draws what there is; returns the files."""
    files = []
    if view is not None:
        files.append(draw_topology(view, folder / "topology.png"))
    if traffic:
        files.append(draw_targets(traffic, folder / "connections-per-target.png"))
    return tuple(files)


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    # Without this the file would name matplotlib's version.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def draw_targets(traffic: Sequence[MeasuredTraffic], path: Path) -> Path:
    """Connections per target, predicted beside measured; one panel a traffic."""
    widest = max(len(one.measured_counts()) for one in traffic)
    figure = Figure(
        figsize=(max(5.0, 1.2 * widest) * min(len(traffic), 3), 3.6 * -(-len(traffic) // 3)), layout="constrained"
    )
    panels = figure.subplots(-(-len(traffic) // 3), min(len(traffic), 3), squeeze=False).flat
    for axes, one in zip(panels, traffic, strict=False):
        predicted, measured = one.predicted_counts(), one.measured_counts()
        names = sorted(predicted | measured)
        for offset, counts, colour, label in (
            (-0.2, predicted, PREDICTED, "predicted"),
            (0.2, measured, MEASURED, "measured"),
        ):
            bars = axes.bar(
                [i + offset for i in range(len(names))],
                [counts[name] for name in names],
                0.4,
                color=colour,
                label=label,
            )
            if len(names) <= 12:
                axes.bar_label(bars, fontsize=8)
        axes.set_xticks(
            range(len(names)),
            [_short(name, names) for name in names],
            rotation=0 if len(names) <= 6 else 90,
            fontsize=8,
        )
        axes.set_title(f"{one.traffic.name}: {one.traffic.connections} to {one.traffic.to}", fontsize=10)
        axes.set_ylabel("connections")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return _save(figure, path)


def _short(name: str, names: Sequence[str]) -> str:
    """A name without what all of them begin with, up to the last dash."""
    first, last = min(names), max(names)
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    return name[first.rfind("-", 0, common) + 1 :]


def draw_topology(view: TopologyView, path: Path) -> Path:
    """Routers outside, gateway pods and targets in three columns; the networks between them with everyone's addresses."""
    roles = [role for role in ("router", "gateway", "target") if view.of_role(role)]
    tallest = max((len(view.of_role(role)) for role in roles), default=1)
    figure = Figure(figsize=(3.9 * len(roles), max(2.6, 0.95 * tallest + 1.0)), layout="constrained")
    axes = figure.subplots()
    places = {
        host.name: place for i, role in enumerate(roles) for host, place in _column(view.of_role(role), COLUMN * i)
    }
    for left, right in pairwise(roles):
        _draw_networks(axes, view, (left, right), places)
    for host in view.hosts:
        _draw_host(axes, host, places[host.name])
    for i, role in enumerate(roles):
        axes.text(COLUMN * i, tallest / 2 + 0.3, TITLES[role], ha="center", fontsize=10, weight="bold")
    axes.set_title(f"virtual addresses: {', '.join(view.vips) or 'none'}", fontsize=10)
    axes.set_xlim(-0.55, COLUMN * (len(roles) - 1) + 0.55)
    axes.set_ylim(-tallest / 2, tallest / 2 + 0.55)
    axes.axis("off")
    return _save(figure, path)


def _column(hosts: Sequence[Host], x: float) -> list[tuple[Host, tuple[float, float]]]:
    """Hosts from top to bottom, centred."""
    return [(host, (x, (len(hosts) - 1) / 2 - i)) for i, host in enumerate(hosts)]


def _draw_networks(
    axes: Axes, view: TopologyView, roles: tuple[str, str], places: Mapping[str, tuple[float, float]]
) -> None:
    """The networks that two neighbouring columns share, each a vertical bus between them."""
    left, right = roles
    shared = view.networks_of(left, right)
    for n, network in enumerate(shared):
        members = [host for role in roles for host in view.of_role(role) if network in host.networks]
        heights = [places[host.name][1] for host in members]
        x = (places[members[0].name][0] + places[members[-1].name][0]) / 2 + 0.16 * (n - (len(shared) - 1) / 2)
        bottom, top = min(heights) - 0.2, max(heights) + 0.2
        axes.plot([x, x], [bottom, top], color="#555555", linewidth=3, solid_capstyle="round")
        axes.text(x, top + 0.2, network, ha="center", fontsize=8, style="italic")
        for host in members:
            host_x, y = places[host.name]
            edge = host_x + (HALF_BOX if host_x < x else -HALF_BOX)
            axes.plot([host_x, x], [y, y], color="#555555", linewidth=1, zorder=1)
            axes.text(
                (edge + x) / 2,
                y + 0.04,
                "\n".join(host.networks[network]),
                ha="center",
                va="bottom",
                fontsize=6.5,
                color="#333333",
            )


def _draw_host(axes: Axes, host: Host, place: tuple[float, float]) -> None:
    text = "\n".join((_wrapped(host.name), *host.lines))
    box = {"boxstyle": "round,pad=0.5", "facecolor": COLOURS[host.role], "edgecolor": "#555555"}
    axes.text(*place, text, ha="center", va="center", fontsize=7.5, bbox=box)


def _wrapped(name: str) -> str:
    """A long name on two lines, broken at a dash."""
    middle = name.rfind("-", 0, len(name) // 2 + 6)
    return name if len(name) <= 24 or middle < 0 else f"{name[: middle + 1]}\n{name[middle + 1 :]}"
