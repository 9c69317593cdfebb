"""Is this process alive, and is it ready? Answers come from checks that are asked anew each time, so none can be out of date."""

from __future__ import annotations

from collections.abc import Callable

Check = Callable[[], str | None]
"""Returns what is wrong, or None."""


class Health:
    """The checks of one process. Add them before the server starts."""

    def __init__(self) -> None:
        self._alive: dict[str, Check] = {}
        self._ready: dict[str, Check] = {}
        self.as_what = "ok"
        """What a process that is ready says it is: "standby", for one."""

    def must_live(self, name: str, check: Check) -> None:
        """When `check` finds something, only a restart of the process will help."""
        self._alive[name] = check

    def must_hold(self, name: str, check: Check) -> None:
        """While `check` finds something, the process is not ready."""
        self._ready[name] = check

    def why_dead(self) -> tuple[str, ...]:
        """One line for each thing that is wrong; empty when alive."""
        return _found(self._alive)

    def why_not_ready(self) -> tuple[str, ...]:
        """One line for each thing that is missing; empty when ready. A dead process is not ready."""
        return _found(self._alive) + _found(self._ready)


def _found(checks: dict[str, Check]) -> tuple[str, ...]:
    return tuple(f"{name}: {wrong}" for name, check in checks.items() if (wrong := check()) is not None)
