"""How long things take: fixed numbers, one for each mechanism, each with its source.

"testbed" as a source is the virtual network of this project on two cores (`tidegate run poc2-scale --on mininet` and its logs);
"measured" is the mechanism by itself on such a machine; "estimate" says what it was reckoned from. Orders of magnitude are meant, not
digits: what must be right in virtual time is what happens, and in which order.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.router.bird import CONNECT_DELAY_S
from core.workqueue import WINDOW_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Seconds."""

    api_server_start_s: float = 1.3
    """From the start to an API server that answers, with nodes and routers outside. Source: testbed, `cluster_s`."""
    watch_s: float = 0.005
    """From a write to the moment at which everyone who watches has been told. Source: estimate, one chunk of an HTTP
    answer and its parsing on a machine that does other things as well."""
    work_window_s: float = WINDOW_S
    """A controller or agent takes a turn at most this often. Source: core.workqueue.WINDOW_S."""
    plan_s: float = 0.010
    """A turn of the controller, or of a workload controller: plan, and requests to the API. Source: measured, plan() of 1,000
    endpoints and a request."""
    sandbox_s: float = 0.050
    """A Pod's namespace with its interfaces and addresses (CNI). Source: measured, Mininet: 50 hosts in 1.0 s,
    several at once."""
    target_start_s: float = 0.050
    """A target from its sandbox to listening ports, from the fork server. Source: estimate, fork and
    five sockets."""
    agent_start_s: float = 0.8
    """A process of ours from its sandbox to its first turn: interpreter, imports, first lists. Source: budget of an agent, held by a
    test."""
    probe_s: float = 0.1
    """From being ready to being seen so by the kubelet. Source: sim.cluster.containers.QUICK_PROBE_S."""
    unready_s: float = 3.0
    """From not being ready any more to being seen so. Source: core.manifests.workloads: period 1 s; Kubernetes: failureThreshold 3."""
    terminate_s: float = 0.050
    """From a Pod's deletion to the end of its processes, which listen to SIGTERM. Source: estimate,
    a signal and a wait."""
    attach_s: float = 0.020
    """VIPs, rules and routes of the Pods of one node. Source: estimate, some ten netlink requests a Pod."""
    program_s: float = 0.026
    """A new table of 65,537 entries in the kernel. Source: measured, tc array-of-maps: create, batch
    fill, swap."""
    bird_configure_s: float = 0.010
    """BIRD takes a new configuration over its socket. Source: estimate, two commands over a Unix socket."""
    bgp_establish_s: float = CONNECT_DELAY_S + 0.1
    """From a configured neighbour to Established. Source: core.router.bird.CONNECT_DELAY_S; measured: 0.9 to 1.4 s with it."""
    bfd_up_s: float = 0.3
    """From Established to BFD up: an interval of 300 ms. Source: testbed, `routing_s`."""
    bgp_update_s: float = 0.040
    """From an announcement or withdrawal to the kernel's route in the router outside. Source: measured:
    under 50 ms, withdrawals 4 to 40 ms."""
    bgp_down_s: float = 0.040
    """From the end of a router's process to its routes withdrawn outside: its TCP connections are closed by the kernel. Source:
    measured: 4 to 40 ms."""
    connect_s: float = 0.0003
    """A TCP handshake and the first answer. Source: estimate, some tens of microseconds a hop between namespaces. The testbed's client
    sees 20 ms, because it opens hundreds at once in one process, and so measures itself."""
    short_s: float = 0.0003
    """The rest of a short connection: one request, one answer, closed. Source: as above."""
