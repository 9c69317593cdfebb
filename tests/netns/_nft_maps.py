"""What the nft data plane has in the kernel of the calling thread's namespace, against what it should have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from core.model import Address
from core.plan import GatewayPlan
from live.agent.load_balancer import interfaces_of
from live.dataplane import nft, nft_marks
from live.dataplane.nft_maps import marks_of
from live.dataplane.nft_marks import MarkRoutes
from live.dataplane.nft_tables import load
from live.dataplane.nft_wire import NftSocket, Table
from live.routes import GATEWAY_TABLE
from live.rtnetlink import RouteSocket

TABLE: Final = Table(nft.TABLE)


def differences(planned: GatewayPlan, expected: Sequence[tuple[Address, ...]]) -> Iterator[str]:
    """Each bucket leads, over its mark and its route, to the target that `expected` says; and there is nothing that a fresh agent
    would not make: no map, set, chain, mark, rule or route of what was."""
    with RouteSocket() as routes, NftSocket() as kernel:
        state = load(kernel, TABLE)
        marks = MarkRoutes(reply_table=GATEWAY_TABLE).marks(routes)
        ruled = {rule.mark for rule in routes.rules() if rule.priority in nft_marks.TARGETS}
        capacity_bytes = kernel.transaction_bytes
    address_of = {mark: address for address, mark in marks.items()}
    found = {tuple(address_of.get(int(mark)) for mark in table) for table in state.maps.values()}
    if found != set(expected):
        yield f"the {len(state.maps)} bucket maps are not those of {len(set(expected))} pools"
    targets = {address for table in expected for address in table}
    if marks.keys() != targets or ruled != set(marks.values()):
        yield f"marks lead to {sorted(map(str, marks))}, rules to {len(ruled)} marks; targets are {sorted(map(str, targets))}"
        return
    forwarding = planned.forwarding
    used = {flow.pool: forwarding.pool_of(flow) for flow in forwarding.flows}
    tables = marks_of(used, marks)
    interfaces = (*interfaces_of(planned.gateway), nft.OWN.peer)
    wanted = nft._desired(forwarding, tables, interfaces, state, capacity_bytes).state()
    for what in ("chains", "sets", "counts"):
        if getattr(state, what) != getattr(wanted, what):
            yield f"{what} of nftables are {getattr(state, what)}, expected {getattr(wanted, what)}"
