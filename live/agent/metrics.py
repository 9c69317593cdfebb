"""Counters and gauges in the Prometheus text format.

Written here because it is small: prometheus-client would cost 20 ms of CPU and 2 MB in every agent, and its registry is global.
Source: prometheus.io/docs/instrumenting/exposition_formats, "Text-based format", version 0.0.4.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


class Metric:
    """One metric: a value for each combination of label values. Safe for any number of threads."""

    def __init__(self, name: str, text: str, kind: Literal["counter", "gauge"]) -> None:
        self.name = name
        self._text = text
        self._kind = kind
        self._values: dict[Labels, float] = {}
        self._lock = threading.Lock()

    def add(self, amount: float = 1.0, **labels: str) -> None:
        """Adds `amount`; a counter only goes up."""
        if self._kind == "counter" and amount < 0:
            raise ValueError(f"counter {self.name} cannot go down by {amount}")
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def set(self, value: float, **labels: str) -> None:
        """Sets the value: of a gauge, or of a counter that is counted elsewhere (in the kernel)."""
        with self._lock:
            self._values[tuple(sorted(labels.items()))] = value

    def forget(self) -> None:
        """Drops all values: before those that still exist are set again."""
        with self._lock:
            self._values.clear()

    def render(self) -> str:
        """HELP, TYPE and one line for each combination of labels, in their order."""
        with self._lock:
            values = sorted(self._values.items())
        help_text = self._text.replace("\\", r"\\").replace("\n", r"\n")
        lines = [f"# HELP {self.name} {help_text}", f"# TYPE {self.name} {self._kind}"]
        lines += [f"{self.name}{_braces(labels)} {_number(value)}" for labels, value in values]
        return "\n".join(lines) + "\n"


class Registry:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        self._collectors: list[Callable[[], None]] = []

    def counter(self, name: str, text: str) -> Metric:
        """A new counter; its name ends in ``_total``."""
        if not name.endswith("_total"):
            raise ValueError(f"counter {name!r} must end in _total")
        return self._register(Metric(name, text, "counter"))

    def gauge(self, name: str, text: str) -> Metric:
        return self._register(Metric(name, text, "gauge"))

    def before_render(self, collect: Callable[[], None]) -> None:
        """`collect` is called before each `render`, to read what is counted elsewhere."""
        self._collectors.append(collect)

    def render(self) -> str:
        """All metrics, in the order of their registration."""
        for collect in self._collectors:
            collect()
        return "".join(metric.render() for metric in self._metrics.values())

    def _register(self, metric: Metric) -> Metric:
        if metric.name in self._metrics:
            raise ValueError(f"metric {metric.name} is registered already")
        self._metrics[metric.name] = metric
        return metric


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
