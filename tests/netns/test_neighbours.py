"""Neighbour entries are forgotten: those of the addresses that are named, and no others."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from live import neighbours
from sim.net.namespaces import ip_batch, run_in, within
from tests.netns._lab import add_namespace

pytestmark = pytest.mark.sandbox

MAC = "02:00:00:00:00:01"


def known(namespace_entries: str) -> set[str]:
    return {entry["dst"] for entry in json.loads(namespace_entries)}


def test_only_what_is_named_is_forgotten() -> None:
    here = add_namespace("here")
    ip_batch(
        here,
        [
            "link add name net1 type veth peer name other",
            "link set dev net1 up",
            "link set dev other up",
            *(f"neigh add {a} dev net1 lladdr {MAC} nud stale" for a in ("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2")),
            f"neigh add 10.0.0.3 dev net1 lladdr {MAC} nud permanent",
        ],
    )
    named = {ip_address(a) for a in ("10.0.0.1", "fd00::1", "10.0.0.3", "10.0.0.99")}
    within(here, lambda: neighbours.forget(named))
    left = known(run_in(here, ["ip", "-json", "neigh", "show"]))
    assert left == {"10.0.0.2", "fd00::2", "10.0.0.3"}, "a permanent entry is somebody's wish"
    within(here, lambda: neighbours.forget(()))
    assert known(run_in(here, ["ip", "-json", "neigh", "show"])) == left
