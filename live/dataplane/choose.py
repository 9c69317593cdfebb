"""Which data plane: the one that was asked for, or that is at work already, or the faster one that this machine lets us have."""

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
    """The data plane called `name` (``auto``, ``tc``, ``nft``). With ``auto`` an agent that starts anew goes on with the one whose
    tables are in this namespace: packets would meet the tables of the other one, and nobody would change them any more.

    Raises MachineError when `tc` was asked for, or is at work, and cannot be had; InputError for another name.
    """
    from live.dataplane import nft, tc

    if name == "nft":
        return Choice("nft", nft.NftDataplane(), "asked for")
    if name not in ("auto", "tc"):
        raise InputError(Problem(where="dataplane", what="no such data plane", found=name, expected="auto, tc or nft"))
    at_work = name == "auto" and tc.at_work()
    if name == "auto" and not at_work and nft.at_work():
        return Choice("nft", nft.NftDataplane(), "it is at work already")
    reason = tc.probe()
    if reason is None:
        why = "asked for" if name == "tc" else "BPF may be loaded here, and tc is the faster one"
        return Choice("tc", tc.TcDataplane(), "it is at work already" if at_work else why)
    if at_work:
        raise MachineError(
            f"the tc data plane is at work, and cannot be used any more: {reason}", "run as root, or make a new Pod"
        )
    if name == "tc":
        raise MachineError(f"the tc data plane cannot be used: {reason}", "run as root, or use the nft data plane")
    return Choice("nft", nft.NftDataplane(), f"tc cannot be used: {reason}")
