"""tidegate explain: the way of one packet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from scenarios.commands.options import add_manifests, parser, write_json

if TYPE_CHECKING:
    from core.lb.forwarding import Pool
    from scenarios.explain import Explanation


def main(arguments: list[str]) -> int:
    options = parser(
        "explain",
        "Shows where a packet goes: route, bucket, slot and target, and why not the others. Without Pods or EndpointSlices in the\n"
        "files, the Pods of their Deployments and gateways are assumed.",
        "  cd examples/poc2\n"
        "  tidegate explain 'TCP 200.100.0.100:40000 -> 20.0.0.1:4000' -f applications.yaml gateway.yaml\n"
        "  tidegate explain 'TCP [200:100::100]:40000 -> [2000::1]:4000' -f applications.yaml dualstack.yaml",
    )
    options.add_argument("packet", help="'PROTOCOL SOURCE:PORT -> DESTINATION:PORT'; ICMP has no ports")
    add_manifests(options)
    options.add_argument("-o", "--output", choices=("table", "json"), default="table")
    chosen = options.parse_args(arguments)

    from core.errors import InputError
    from scenarios.explain import explain, read_packet
    from scenarios.inputs import plan_files

    packet = read_packet(chosen.packet)
    planned = plan_files(chosen.files, assume_pods=not chosen.no_assumed_pods)
    if planned.problems:
        # Half of the routes would give a wrong reason, which is worse than none.
        raise InputError(*planned.problems)
    if line := planned.assumed_line():
        sys.stderr.write(line + "\n")
    for doubt in planned.doubts:
        sys.stderr.write(f"{doubt}\n")
    found = explain(planned.plan, packet)
    if chosen.output == "json":
        write_json(_json(found))
    else:
        _print(found)
    return 0


def _json(found: Explanation) -> dict[str, Any]:
    decision = found.decision
    target = decision.target
    return {
        "verdict": found.verdict,
        "gateway": str(found.gateway.gateway.meta.ref) if found.gateway else None,
        "flow": decision.flow.name if decision.flow else None,
        "hash": found.hash,
        "bucket": decision.bucket,
        "tableSize": decision.pool.table_size if decision.pool else None,
        "target": (
            {"service": target.service, "slot": target.slot, "address": str(target.address), "pod": target.pod}
            if target
            else None
        ),
        "considered": [{"flow": c.flow.name, "chosen": c.chosen, "why": c.why} for c in found.considered],
        "elsewhere": found.elsewhere,
        "announced": found.announced,
        "also": [str(gateway.gateway.meta.ref) for gateway in found.also],
    }


def _print(found: Explanation) -> None:
    from scenarios.tables import print_line, print_table

    print_line(found.verdict, "bold")
    decision = found.decision
    if found.gateway is None:
        return
    for other in found.also:
        name, packet = other.gateway.meta.ref, found.packet
        print_line(f"{name} has {packet.destination} too: a packet reaches the gateway that its router outside meets")
    print_line("")
    gateway = found.gateway.gateway.meta.ref
    rows = [
        ("gateway", str(gateway)),
        ("flow hash", f"0x{found.hash:08x} (seed 0x{found.gateway.forwarding.seed:08x})"),
    ]
    if decision.pool is not None:
        rows += [("route", decision.pool.name), ("bucket", f"{decision.bucket} of {decision.pool.table_size}")]
    print_table(("", ""), rows, heading=False)
    print_line("")
    print_table(("", "flow", "why"), [("->" if c.chosen else "", c.flow.name, c.why) for c in found.considered])
    if found.elsewhere:
        print_line(f"{found.elsewhere} more flows have other destinations")
    if decision.pool is not None and decision.bucket is not None:
        print_line("")
        _print_pool(decision.pool, decision.bucket)


def _print_pool(pool: Pool, bucket: int) -> None:
    """Who has how many of the buckets; one Service may be several backends, so it is the bucket that says which row is meant."""
    import numpy as np

    from core.lb.forwarding import REJECT, pool_table
    from scenarios.tables import print_table

    table = pool_table(pool)
    rows: list[tuple[int, object, str, str]] = [
        (i, target.slot, str(target.address), target.pod) for i, target in enumerate(pool.targets)
    ]
    if (table == REJECT).any():
        rows.append((REJECT, "", "rejected actively", ""))
    counts = [int(np.count_nonzero(table == i)) for i, *_ in rows]
    print_table(
        ("", "slot", "target", "pod", "buckets", "share"),
        [
            ("->" if table[bucket] == i else "", *columns, count, f"{count / table.size:.1%}")
            for (i, *columns), count in zip(rows, counts, strict=True)
        ],
    )
