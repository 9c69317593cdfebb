"""What a kernel may lack and the nft data plane can do without, at the price of speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from live.dataplane import nft_expressions as nft
from live.dataplane.nft_wire import INET, NETDEV, NftSocket, Table
from live.netlink import NetlinkError

_TABLE: Final = "tidegate-probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What there is."""

    forwards: bool
    """Frames can be sent on from where they arrive (nft_fwd_netdev): there is a short way (nft_fast)."""
    defragment: bytes
    """A rule that makes the kernel defragment: without nft_tproxy it tracks connections too, which every packet then passes."""


def features(kernel: NftSocket) -> Features:
    """What this kernel has. Changes nothing."""
    forward = nft.constant(bytes(8)) + nft.forward(4, 1, 0)
    intercepts = _takes(kernel, INET, nft.intercepted())
    return Features(
        forwards=_takes(kernel, NETDEV, forward),
        defragment=nft.intercepted() if intercepts else nft.connection_state(),
    )


def _takes(kernel: NftSocket, family: int, rule: bytes) -> bool:
    """Whether the kernel would take the rule."""
    table = Table(_TABLE, family)
    try:
        kernel.commit([table.create(), table.chain("probe"), table.rule("probe", rule)], only_check=True)
    except NetlinkError:
        return False
    return True
