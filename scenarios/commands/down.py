"""tidegate down: ends the testbed."""

from __future__ import annotations

from scenarios.commands.options import parser


def main(arguments: list[str]) -> int:
    parser("down", "Ends the testbed; returns when nothing of it is left.", "  tidegate down").parse_args(arguments)

    from scenarios.testbed import end

    end()
    return 0
