"""Which data plane: the one that was asked for, or the faster one that this machine lets us have."""

from __future__ import annotations

from core.errors import InputError, MachineError, Problem
from core.ports import Dataplane


def choose(name: str) -> tuple[Dataplane, str]:
    """The data plane called `name` (``auto``, ``tc``, ``nft``), and why it is this one.

    Raises MachineError when `tc` was asked for and cannot be had, InputError for another name.
    """
    from live.dataplane import tc

    if name == "nft":
        return _nft(), "asked for"
    if name not in ("auto", "tc"):
        raise InputError(Problem(where="dataplane", what="no such data plane", found=name, expected="auto, tc or nft"))
    reason = tc.probe()
    if reason is None:
        return tc.TcDataplane(), "asked for" if name == "tc" else "BPF may be loaded here: tc is the faster one"
    if name == "tc":
        raise MachineError(f"the tc data plane cannot be used: {reason}", "run as root, or use the nft data plane")
    return _nft(), f"tc cannot be used: {reason}"


def _nft() -> Dataplane:
    from live.dataplane.nft import NftDataplane

    return NftDataplane()
