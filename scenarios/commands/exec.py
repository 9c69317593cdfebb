"""tidegate exec: a command in a host of the testbed."""

from __future__ import annotations

from scenarios.commands.options import parser


def main(arguments: list[str]) -> int:
    options = parser(
        "exec",
        "Runs a command in a host of the testbed: a router outside, a node or a Pod; the beginning of its name is enough. Returns the\n"
        "command's exit code.",
        "  tidegate exec vpn-b -- ip route\n"
        "  tidegate exec vpn-b -- birdc -s /run/tidegate/routers/vpn-b.ctl show protocols\n"
        "  tidegate exec example-target-application-b-0 -- ss -tn",
    )
    options.add_argument("host", metavar="HOST", help="its name, as `tidegate status` shows it")
    options.add_argument("command", metavar="COMMAND", nargs="+", help="after --")
    own, dashes, command = arguments, [], []
    if "--" in arguments:
        at = arguments.index("--")
        own, dashes, command = arguments[:at], ["--"], arguments[at + 1 :]
    chosen = options.parse_args([*own, *dashes, *command])

    from scenarios.testbed import execute

    return execute(chosen.host, command or chosen.command)
