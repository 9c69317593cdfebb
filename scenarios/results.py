"""The results folder of a run: results/<scenario>/<utc>-<short id>/.

manifest.json     where it came from: scenario text, seed, versions, machine, wall-clock times; the only file with any of them
summary.json      expectations and metrics
samples.csv       t_s, entity, metric, value, unit
connections.csv   one line a connection: 5-tuple, predicted and measured target, times
events.jsonl      what happened when
*.png             figures
logs/             what the processes of the world wrote
"""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import json
import os
import platform
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from core.errors import InputError, Problem
from scenarios.load import LoadedScenario
from scenarios.measure import MeasuredTraffic, answer, fate
from scenarios.runner import Outcome, summary

SCHEMA_VERSION = 1
PACKAGES = (
    "tidegate",
    "numpy",
    "PyYAML",
    "kubernetes",
    "pyroute2",
    "simpy",
    "mininet",
    "exabgp",
    "aiohttp",
    "matplotlib",
)
GIT_DEADLINE_S = 5


class RunFolder:
    """One results folder, while a run writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = datetime.datetime.now(datetime.UTC)
        self._start_s = time.monotonic()
        self._events = (path / "events.jsonl").open("w", encoding="utf-8")

    @staticmethod
    def create(out: Path, scenario: str) -> RunFolder:
        """A new folder below `out`. Raises InputError when it cannot be made."""
        utc = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        path = out / scenario / f"{utc}-{secrets.token_hex(3)}"
        try:
            (path / "logs").mkdir(parents=True)
        except OSError as error:
            problem = Problem(
                where=str(out), what=f"cannot be made: {error.strerror}", expected="--out DIR where you may write"
            )
            raise InputError(problem) from None
        return RunFolder(path)

    @property
    def logs(self) -> Path:
        """Where the world's processes write."""
        return self.path / "logs"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.close()

    def event(self, t_s: float, event: str, **more: object) -> None:
        """One line of events.jsonl."""
        self._events.write(json.dumps({"t_s": round(t_s, 6), "event": event, **more}, ensure_ascii=False) + "\n")
        self._events.flush()

    def write(self, loaded: LoadedScenario, outcome: Outcome) -> None:
        """All files but the figures and the logs; summary.json last: a folder that has it is complete."""
        self._json("manifest.json", self._provenance(loaded, outcome))
        self._csv("samples.csv", ("t_s", "entity", "metric", "value", "unit"), _samples(outcome))
        self._csv("connections.csv", _CONNECTION_COLUMNS, _connections(outcome))
        self._json("summary.json", summary(outcome))

    def _json(self, name: str, value: Any) -> None:
        (self.path / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _csv(self, name: str, head: tuple[str, ...], rows: Iterator[tuple[object, ...]]) -> None:
        with (self.path / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(head)
            writer.writerows(rows)

    def _provenance(self, loaded: LoadedScenario, outcome: Outcome) -> dict[str, Any]:
        """Where the results came from."""
        return {
            "schema_version": SCHEMA_VERSION,
            "scenario": outcome.scenario.name,
            "scenario_text": loaded.text,
            "scenario_sha256": loaded.sha256,
            "settings": list(loaded.overrides),
            "seed": outcome.scenario.seed,
            "world": outcome.world,
            "error": outcome.error,
            "start": self._start.isoformat(timespec="milliseconds"),
            "duration_s": round(time.monotonic() - self._start_s, 3),
            **provenance(),
            "facts": dict(outcome.facts),
        }


def provenance() -> dict[str, object]:
    """The code and the machine that results come from."""
    return {
        "git": git_state(),
        "python": platform.python_version(),
        "packages": dict(_versions()),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        # Windows has no such thing.
        "user_id": os.geteuid() if hasattr(os, "geteuid") else None,
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def git_state() -> dict[str, str | bool]:
    """The commit of this checkout, and whether files differ from it; empty outside of a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(Path(__file__).parent), *arguments],
                capture_output=True,
                text=True,
                timeout=GIT_DEADLINE_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None  # no git, or no checkout: the versions of the packages must do
        return done.stdout.strip()

    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain")
    return {} if commit is None or status is None else {"commit": commit, "dirty": bool(status)}


def _samples(outcome: Outcome) -> Iterator[tuple[object, ...]]:
    """What was seen at time zero and at the end, and the time that each connection took."""
    for observation in (outcome.before, outcome.after):
        for sample in observation.samples if observation else ():
            yield round(sample.t_s, 6), sample.entity, sample.metric, sample.value, sample.unit
    for one in outcome.traffic:
        yield from _target_samples(one)


def _target_samples(one: MeasuredTraffic) -> Iterator[tuple[object, ...]]:
    connections = one.connections
    end_s = float(max(connections.started_s, default=0.0))
    predicted = one.predicted_counts()
    for name, count in sorted(one.measured_counts().items()):
        yield round(end_s, 6), name, f"connections_predicted[{one.traffic.name}]", predicted[name], "1"
        yield round(end_s, 6), name, f"connections_measured[{one.traffic.name}]", count, "1"
    for i in range(len(connections.tuples)):
        if connections.established[i]:
            took_s = float(connections.established_s[i] - connections.started_s[i])
            yield (
                round(float(connections.started_s[i]), 6),
                f"{one.traffic.name}/{i}",
                "connect_s",
                round(took_s, 6),
                "s",
            )


_CONNECTION_COLUMNS = (
    "traffic", "protocol", "source", "source_port", "destination", "destination_port", "predicted", "answered_by",
    "started_s", "established_s", "lost_s", "error", "by_the_tables",
)  # fmt: skip


def _connections(outcome: Outcome) -> Iterator[tuple[object, ...]]:
    def time_(value: float) -> object:
        return "" if value != value else round(float(value), 6)

    for one in outcome.traffic:
        connections, tuples = one.connections, one.connections.tuples
        must, may = one.must_break(), one.may_break()
        for i in range(len(tuples)):
            yield (
                one.traffic.name,
                tuples.protocol.name,
                tuples.sources[tuples.source[i]],
                int(tuples.source_port[i]),
                tuples.destination,
                tuples.destination_port,
                fate(one.predictions[0], i),
                answer(connections, i),
                time_(connections.started_s[i]),
                time_(connections.established_s[i]),
                time_(connections.lost_s[i]),
                connections.errors.get(i, ""),
                "must break" if must[i] else "may break" if may[i] else "",
            )
