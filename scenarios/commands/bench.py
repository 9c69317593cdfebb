"""tidegate bench: measures, compares with the targets, and says which are missed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from scenarios.bench import BENCHES, Report
from scenarios.commands.options import parser, write_json
from scenarios.results import provenance


def main(arguments: list[str]) -> int:
    options = parser(
        "bench",
        "Measures one thing, side by side with its peer or its limit. Exit code 1: a target was missed.\n\n"
        + "\n".join(f"  {name:10} {bench.summary}" for name, bench in BENCHES.items()),
        "  tidegate bench tables\n  tidegate bench plan -o json\n  tidegate bench tables --write docs/bench",
    )
    options.add_argument("name", choices=tuple(BENCHES), metavar="NAME", help=", ".join(BENCHES))
    options.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options.add_argument("--quick", action="store_true", help="fewer repetitions: for a look, not for numbers to keep")
    options.add_argument("--write", type=Path, metavar="DIR", help="also writes NAME.md with the table and provenance")
    chosen = options.parse_args(arguments)
    if BENCHES[chosen.name].needs:
        _enter(BENCHES[chosen.name].needs, arguments)
    run: Callable[[bool], Report] = importlib.import_module(BENCHES[chosen.name].module).run
    # Another's load takes nothing of CPU times but cache, and all of it of wall times: whoever reads the numbers must know.
    load = " ".join(f"{average:.1f}" for average in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    report = run(chosen.quick)
    where = {**provenance(), "load_average_before": load}
    if chosen.output == "json":
        write_json(
            {
                "bench": report.bench,
                "rows": list(report.rows),
                "targets": [
                    {"name": t.name, "op": t.op, "bound": t.bound, "value": t.value, "ok": t.ok} for t in report.targets
                ],
                "provenance": {**where, "notes": list(report.notes)},
            }
        )
    else:
        _print(report)
    if chosen.write is not None:
        chosen.write.mkdir(parents=True, exist_ok=True)
        (chosen.write / f"{report.bench}.md").write_text(markdown(report, where), encoding="utf-8")
    return 0 if report.ok else 1


def _enter(needs: tuple[str, ...], arguments: list[str]) -> None:
    """Goes on in throw-away namespaces, as another process; returns when it is there already. Raises MachineError."""
    from sim.net import sandbox
    from sim.net.capabilities import require

    if not sandbox.entered():
        require(*needs)
        sandbox.enter([sys.executable, "-m", "scenarios.cli", "bench", *arguments])


def _print(report: Report) -> None:
    from scenarios.tables import mark, print_line, print_table

    columns = list(report.rows[0]) if report.rows else []
    print_table(columns, [tuple(row[column] for column in columns) for row in report.rows])
    for note in report.notes:
        print_line(note)
    print_line("")
    print_table(
        ("target", "bound", "measured", ""),
        [(t.name, f"{t.op} {t.bound:g}", t.value, mark(t.ok)) for t in report.targets],
    )


def markdown(report: Report, where: dict[str, object]) -> str:
    """The report as a page of the documentation."""
    columns = list(report.rows[0]) if report.rows else []
    lines = [f"# tidegate bench {report.bench}", "", BENCHES[report.bench].summary + ".", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in report.rows]
    lines += ["", "| target | bound | measured | |", "| --- | --- | --- | --- |"]
    lines += [f"| {t.name} | {t.op} {t.bound:g} | {t.value:g} | {'ok' if t.ok else 'missed'} |" for t in report.targets]
    lines += ["", *(f"* {note}" for note in report.notes)]
    lines += [f"* {key}: {value}" for key, value in where.items()]
    return "\n".join(lines) + "\n"
