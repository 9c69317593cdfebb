"""Tables for people, on a terminal or in a pipe. Data goes to stdout."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import IO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_IN_A_PIPE = 200
"""Columns; wide enough that nothing that matters is wrapped."""


def console(stream: IO[str] | None = None) -> Console:
    """A console of the terminal's width; plain and wide when it is none."""
    stream = stream or sys.stdout
    width = shutil.get_terminal_size().columns if stream.isatty() else WIDTH_IN_A_PIPE
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, heading: bool = True) -> None:
    """A table; numbers to the right."""
    rows = [tuple(row) for row in rows]
    table = Table(box=SIMPLE_HEAD if heading else None, pad_edge=False, show_header=heading)
    for i, name in enumerate(head):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    to = console()
    with to.capture() as captured:
        to.print(table)
    # Nobody wants to paste the spaces that fill a table up.
    lines = [line.rstrip() for line in captured.get().splitlines()]
    first = next((i for i, line in enumerate(lines) if line), 0)
    to.file.write("\n".join(lines[first:]).rstrip() + "\n")


def print_line(text: str, style: str = "") -> None:
    """One line."""
    console().print(Text(text, style=style))


def mark(good: bool) -> Text:
    """``ok`` or ``FAILED``, in colour where there is some."""
    return Text("ok", style="green") if good else Text("FAILED", style="bold red")
