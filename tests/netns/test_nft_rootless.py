"""The nft data plane for an ordinary user, in a user namespace."""

from __future__ import annotations

import subprocess

import pytest

from tests import ordinary_user
from tests.conftest import require

PROGRAM = """
import socket
from ipaddress import ip_address, ip_network
from core.lb.forwarding import Backend, Flow, Forwarding, Pool, Target
from core.model import ANY_PORT, L4Protocol
from live.dataplane.nft import NftDataplane, probe
from live.dataplane.nft_wire import NftSocket
from pyroute2 import IPRoute

with IPRoute() as kernel:
    kernel.link("add", ifname="net1", kind="veth", peer="net2")
    index = kernel.link_lookup(ifname="net1")[0]
    kernel.link("set", index=index, state="up")
    kernel.addr("add", index=index, address="10.2.0.1", prefixlen=24)
assert probe() is None, probe()
def forwarding(targets):
    members = tuple(
        Target(service="a/b", slot=n, address=ip_address("10.2.0.10") + n, pod="") for n in range(targets)
    )
    pool = Pool(name="pool", version=4, backends=(Backend(service="a/b", weight=1, targets=members),))
    flow = Flow(name="f", version=4, pool="pool", priority=0, protocols=tuple(L4Protocol), sources=(),
                destinations=(ip_network("20.0.0.1"),), destination_ports=(ANY_PORT,), source_ports=(ANY_PORT,))
    return Forwarding(flows=(flow,), pools=(pool,))

plane = NftDataplane(transaction_bytes=LIMIT_BYTES)
for targets in (4, 3, 4):
    plane.apply(forwarding(targets), interfaces=("net1",))
    with NftSocket() as kernel:
        (name,) = [name for name in kernel.sets("tidegate") if name.startswith("pool-")]
        buckets, marks = kernel.pairs("tidegate", name)
    assert len(buckets) == 65537, len(buckets)
    assert len(set(marks.tolist())) == targets
    assert len(plane.counters()) == targets
plane.remove()
with NftSocket() as kernel:
    assert kernel.chains("tidegate") == []
print("done")
"""


def as_ordinary_user(*words: str) -> list[str]:
    return ordinary_user.command("unshare", "--map-root-user", "--net", *words)


@pytest.mark.parametrize("limit_bytes", [None, 2 * 212_992 - 4096])
def test_the_default_table_is_programmed(limit_bytes: int | None) -> None:
    """As this kernel allows; and as one does that keeps the send buffer of an ordinary user to its default net.core.wmem_max."""
    tried = subprocess.run(as_ordinary_user("true"), capture_output=True, text=True, check=False)
    require("netns", tried.returncode == 0, f"no user namespace for an ordinary user: {tried.stderr.strip()}")
    ordinary_user.require_ordinary_user()
    done = subprocess.run(
        as_ordinary_user(ordinary_user.interpreter(), "-c", PROGRAM.replace("LIMIT_BYTES", str(limit_bytes))),
        cwd=ordinary_user.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
