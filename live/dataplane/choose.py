"""Which data plane: the one that was asked for, or the faster one that this machine lets us have."""

from __future__ import annotations

from typing import NamedTuple

from core.errors import InputError, MachineError, Problem
from core.ports import Dataplane


class Choice(NamedTuple):
    """A data plane, its name (``tc`` or ``nft``), and why it is this one."""

    name: str
    dataplane: Dataplane
    reason: str


def choose(name: str) -> Choice:
    """The data plane called `name` (``auto``, ``tc``, ``nft``).

    Raises MachineError when `tc` was asked for and cannot be had, InputError for another name.
    """
    from live.dataplane import tc

    if name == "nft":
        return Choice("nft", _nft(), "asked for")
    if name not in ("auto", "tc"):
        raise InputError(Problem(where="dataplane", what="no such data plane", found=name, expected="auto, tc or nft"))
    reason = tc.probe()
    if reason is None:
        why = "asked for" if name == "tc" else "BPF may be loaded here, and tc is the faster one"
        return Choice("tc", tc.TcDataplane(), why)
    if name == "tc":
        raise MachineError(f"the tc data plane cannot be used: {reason}", "run as root, or use the nft data plane")
    return Choice("nft", _nft(), f"tc cannot be used: {reason}")


def _nft() -> Dataplane:
    from live.dataplane.nft import NftDataplane

    return NftDataplane()
