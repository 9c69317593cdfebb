"""The figures of a run as PNG. matplotlib is imported by whoever draws: it costs half a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scenarios.measure import MeasuredTraffic
from scenarios.topology_figure import common_prefix, topology_figure
from scenarios.topology_view import TopologyView

DPI = 130
PREDICTED = "#b0c4d8"
MEASURED = "#2f6690"
MOST_PANELS_A_ROW = 3
MOST_NAMES = 60
"""Targets that have their name below; of more, every second, third, … has."""


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
    across, down = min(len(traffic), MOST_PANELS_A_ROW), -(-len(traffic) // MOST_PANELS_A_ROW)
    panel = min(max(4.5, 1.1 * min(widest, 6) + 0.35 * max(0, widest - 6)), 16.0 / across)
    figure = Figure(figsize=(panel * across, 3.6 * down), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for axes, one in zip(panels, traffic, strict=False):
        _draw_counts(axes, one)
    for axes in panels[len(traffic) :]:
        axes.axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return _save(figure, path)


def _draw_counts(axes: Axes, one: MeasuredTraffic) -> None:
    predicted, measured = one.predicted_counts(), one.measured_counts()
    names = sorted(predicted | measured)
    for offset, counts, colour, label in (
        (-0.2, predicted, PREDICTED, "predicted"),
        (0.2, measured, MEASURED, "measured"),
    ):
        heights = [counts[name] for name in names]
        bars = axes.bar([i + offset for i in range(len(names))], heights, 0.4, color=colour, label=label)
        if len(names) <= 12:
            axes.bar_label(bars, fontsize=8 if len(names) <= 6 else 6)
    step = max(1, -(-len(names) // MOST_NAMES))
    prefix = common_prefix(names)
    shown = [name.removeprefix(prefix) for name in names[::step]]
    axes.set_xticks(range(0, len(names), step), shown, rotation=0 if len(names) <= 6 else 90, fontsize=7)
    axes.set_xlabel(f"{prefix}…" if prefix else "", fontsize=7, color="#555555")
    axes.set_title(f"{one.traffic.name}: {one.traffic.connections} to {one.traffic.to}", fontsize=10)
    axes.set_ylabel("connections")
    axes.spines[["top", "right"]].set_visible(False)


def draw_topology(view: TopologyView, path: Path) -> Path:
    """Routers outside, gateway pods and targets in three columns; the networks between them with everyone's addresses."""
    return _save(topology_figure(view), path)
