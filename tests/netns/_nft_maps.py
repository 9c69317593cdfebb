"""What the nft data plane has in the kernel of the calling thread's namespace, against what it should have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from core.lb.forwarding import Forwarding
from core.model import Address
from live.dataplane import nft
from live.dataplane.nft_marks import MarkRoutes
from live.dataplane.nft_tables import load
from live.dataplane.nft_wire import NftSocket, Table
from live.routes import GATEWAY_TABLE
from live.rtnetlink import RouteSocket

TABLE: Final = Table(nft.TABLE)


def differences(expected: Sequence[tuple[Address | None, ...]]) -> Iterator[str]:
    """Each bucket leads, over its mark and its route, to the target that `expected` says; no other map and no other mark is there."""
    with NftSocket() as kernel:
        state = load(kernel, TABLE)
        marks = MarkRoutes(reply_table=GATEWAY_TABLE).marks()
    address_of = {mark: address for address, mark in marks.items()}
    found = {tuple(address_of.get(int(mark)) for mark in table) for table in state.maps.values()}
    # A pool that rejects everything needs no map.
    wanted = {table for table in expected if any(table)}
    if found != wanted:
        yield f"the {len(state.maps)} bucket maps are not those of {len(wanted)} pools"
    targets = {address for table in expected for address in table if address is not None}
    if marks.keys() != targets:
        yield f"marks lead to {sorted(map(str, marks))}; targets are {sorted(map(str, targets))}"


def leftovers(forwarding: Forwarding, interfaces: Sequence[str]) -> Iterator[str]:
    """What a fresh agent, which adopts what it finds, takes away or adds: nothing, when there is just what should be."""
    before = _names()
    nft.NftDataplane().apply(forwarding, interfaces=interfaces)
    after = _names()
    yield from (f"{name} was left over" for name in before - after)
    yield from (f"{name} was missing" for name in after - before)


def _names() -> set[str]:
    """Everything of ours, by what it is called."""
    with RouteSocket() as routes, NftSocket() as kernel:
        return {
            *(f"chain {name}" for name in kernel.chains(nft.TABLE)),
            *(f"set {name}" for name in kernel.sets(nft.TABLE)),
            *map(str, routes.rules()),
            *(f"{route} via {route.next_hops}" for route in routes.routes()),
        }
