"""tidegate doctor: what this machine can do."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from scenarios.commands.options import parser, write_json

if TYPE_CHECKING:
    from sim.net.capabilities import Capability

NEEDED = ("namespaces", "mnexec", "ip", "nft", "bird", "veth", "bridge")
"""Without these nothing runs in the virtual network."""


def main(arguments: list[str]) -> int:
    options = parser(
        "doctor",
        "Shows what this machine can do, and the command that gets what is missing. Exit code 3 when the virtual network cannot run.",
        "  tidegate doctor\n  tidegate doctor -o json",
    )
    options.add_argument("-o", "--output", choices=("table", "json"), default="table")
    chosen = options.parse_args(arguments)

    from sim.net.capabilities import probe_all

    found = (*probe_all(), _maglev_object(), _real_api_server())
    missing = [capability for capability in found if capability.name in NEEDED and not capability.available]
    if chosen.output == "json":
        write_json({"ok": not missing, "capabilities": [asdict(c) | {"needed": c.name in NEEDED} for c in found]})
        return 3 if missing else 0
    from scenarios.tables import print_line, print_table

    print_table(
        ("capability", "here", "for", "how to get it"),
        [
            (
                c.name,
                ("yes: " if c.available else "no: ") + c.detail,
                c.purpose + ("" if c.name in NEEDED else " (optional)"),
                "" if c.available else c.remedy,
            )
            for c in found
        ],
    )
    if missing:
        print_line(f"The virtual network cannot run here: {', '.join(c.name for c in missing)} missing.")
        return 3
    from scenarios.worlds import why_not_tc

    reason = why_not_tc()
    plane = f"nft, because tc cannot be used: {reason}" if reason else "tc"
    print_line(f"The virtual network can run here; dataplane=auto means {plane}.")
    return 0


def _maglev_object() -> Capability:
    """Whether tables are computed in C here. The core's own affair: it is asked for what it uses."""
    from core.lb import maglev_native
    from sim.net.capabilities import Capability

    native = maglev_native.native_walk()
    return Capability(
        name="maglev-object",
        purpose="Maglev tables ten times sooner than in Python",
        available=not isinstance(native, str),
        detail=native if isinstance(native, str) else "core/lb/libmaglev.so",
        remedy="compile it with: rm -f core/lb/libmaglev.so; make setup",
    )


def _real_api_server() -> Capability:
    """Whether `--set api=real` may be asked for. The programs and CRDs are looked for where such a run would look."""
    from core.errors import MachineError
    from scenarios.api_servers import binaries, gateway_api_folder
    from sim.net.capabilities import Capability

    try:
        detail, remedy = f"{binaries()}, CRDs of the Gateway API in {gateway_api_folder()}", ""
    except MachineError as error:
        detail, remedy = error.missing, error.remedy
    return Capability(
        name="real-api",
        purpose="worlds on a real kube-apiserver: --set api=real",
        available=not remedy,
        detail=detail,
        remedy=remedy,
    )
