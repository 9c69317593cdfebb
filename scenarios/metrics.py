"""The names of what is measured: one table for expectations, results and the reference."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    name: str
    unit: str
    """``1`` for a count or a ratio."""
    doc: str
    per_traffic: bool = False
    """Also there as ``name[traffic]`` for each traffic of a scenario."""


METRICS = (
    Metric(name="connections_total", unit="1", doc="connections that were attempted", per_traffic=True),
    Metric(name="connections_failed", unit="1", doc="connections that were never established", per_traffic=True),
    Metric(name="connections_broken", unit="1", doc="connections that were established, then lost", per_traffic=True),
    Metric(
        name="connections_must_break",
        unit="1",
        doc="open connections whose target was another one after a change, as the core's tables say: they cannot survive",
        per_traffic=True,
    ),
    Metric(
        name="connections_may_break",
        unit="1",
        doc="open connections that only a table on the way of a change led elsewhere and back: lost if a packet met it",
        per_traffic=True,
    ),
    Metric(
        name="break_mismatches",
        unit="1",
        doc="connections, one by one, that broke but neither had to nor may, or that had to break and did not",
        per_traffic=True,
    ),
    Metric(name="targets_hit", unit="1", doc="targets that answered at least one connection", per_traffic=True),
    Metric(
        name="imbalance_max_over_mean",
        unit="1",
        doc="connections of the busiest target over the mean of the targets that there were for them; 1 is perfect",
        per_traffic=True,
    ),
    Metric(
        name="placement_mismatches",
        unit="1",
        doc="connections that another target answered than the core predicted before they were sent",
        per_traffic=True,
    ),
    Metric(name="connect_p50_s", unit="s", doc="median time to establish a connection", per_traffic=True),
    Metric(
        name="connect_p99_s", unit="s", doc="99th percentile of the time to establish a connection", per_traffic=True
    ),
    Metric(name="cluster_s", unit="s", doc="from the start until cluster and routers outside are up"),
    Metric(name="gateways_s", unit="s", doc="from the applied manifests until every gateway is programmed"),
    Metric(
        name="routing_s", unit="s", doc="from then until BGP and BFD are up and the VIPs are in every router outside"
    ),
    Metric(name="traffic_s", unit="s", doc="from the first connection to the last answer, timeline included"),
    Metric(name="total_s", unit="s", doc="from the start to the last answer, in the world's own time"),
)

BY_NAME = {metric.name: metric for metric in METRICS}
