"""What is wrong with a field of an object, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import Problem
from core.model import ObjectRef

Path = tuple[str | int, ...]
"""From the object to the field: names of fields and indexes of lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldProblem:
    """One thing that is wrong with one field of one object."""

    ref: ObjectRef
    path: Path
    what: str
    found: str = ""
    expected: str = ""

    @property
    def field(self) -> str:
        """The path as people write it: ``spec.listeners[0].port``."""
        text = ""
        for part in self.path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
        return text

    def at(self, where: str | None = None) -> Problem:
        """The problem as an error of an input; `where` is ``file:line`` when it came from a file."""
        field_ = f"{self.ref}: {self.field}" if where else self.field
        what = f"{field_}: {self.what}" if field_ else self.what
        return Problem(where=where or str(self.ref), what=what, found=self.found, expected=self.expected)

    def __str__(self) -> str:
        return str(self.at())
