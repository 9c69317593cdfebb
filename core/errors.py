"""The errors of Tidegate, one small tree:

    TidegateError
    ├── InputError            a file, an option or an object that a person must correct (exit code 2)
    ├── MachineError          this machine cannot do what was asked (exit code 3)
    ├── ApiError              the Kubernetes API refused a request
    └── DataplaneError        the kernel refused a forwarding set, a route or a rule

Expected outcomes (a route that is rejected, a peer that is down) are values with a Gateway API reason, not exceptions.
"""

from __future__ import annotations

from dataclasses import dataclass


class TidegateError(Exception):
    """The root: every error that Tidegate raises on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with an input: what, where, and what to do.

    `where` is ``file:line`` or ``Kind namespace/name: field.path``; `found` is the offending value as text; `expected` says what
    would be right.
    """

    where: str
    what: str
    found: str = ""
    expected: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        if self.found:
            text += f": found {self.found}"
        if self.expected:
            text += f", expected {self.expected}"
        return text


class InputError(TidegateError):
    """Input that a person must correct. `problems` holds at least one Problem."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class MachineError(TidegateError):
    """This machine cannot do what was asked. `missing` names the capability, `remedy` the command that gets it."""

    def __init__(self, missing: str, remedy: str) -> None:
        super().__init__(f"{missing}; {remedy}")
        self.missing = missing
        self.remedy = remedy


class ApiError(TidegateError):
    """The Kubernetes API refused a request: HTTP `code`, `reason` of the Status object, and its message.

    `code` 0 means that no answer came (unreachable, reset, timed out). `retry_after_s` is what the server asked for, if it did.
    """

    def __init__(self, code: int, reason: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


class DataplaneError(TidegateError):
    """The kernel refused a change; the message names the operation, the object and the kernel's own words."""
