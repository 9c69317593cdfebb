"""Is everything as the plan says, and nothing else there? Kernel, API and plan of a world, laid side by side.

Looked at from outside: what the agents say of themselves counts only for which data plane runs.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from ipaddress import ip_network
from pathlib import Path

from core import names
from core.manifests import render, workloads
from core.model import Address, Pod, Prefix
from core.plan import GatewayPlan
from live.agent.load_balancer import interfaces_of
from live.apply import covers
from live.bird import Bird
from live.dataplane import fence, tc_slow
from live.dataplane.fence import OWN_TABLE
from live.dataplane.nft_marks import _PRIORITIES as MARKS
from live.podnet import FORMER_PRIORITY, POD_PRIORITY, POD_TABLE
from live.routes import GATEWAY_PRIORITY, GATEWAY_TABLE, joined
from live.rtnetlink import RouteKind, RouteSocket, RuleSpec
from scenarios.convergence import View
from sim.net.namespaces import run_in, within
from tests.netns import _bpf_maps, _nft_maps
from tests.netns._world import GATEWAY, LOOK_EVERY_S, World

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
SETTLE_S = 15.0
"""What the milestones do not wait for: session reports once a second, marks that stay a moment longer than their targets."""


def assert_converged(world: World) -> None:
    """Kernel, API and plan agree, within a deadline; and what is there then is all that there is."""
    world.converge()
    until_s = time.monotonic() + SETTLE_S
    while found := list(differences(world)):
        assert time.monotonic() < until_s, "\n".join(found)
        time.sleep(10 * LOOK_EVERY_S)
    if world.dataplane == "nft":
        assert not list(_leftovers(world))


def _leftovers(world: World) -> Iterator[str]:
    """What a fresh load balancer would take away."""
    planned = next(p for p, _ in world.view().balancers() if p.gateway.meta.name == GATEWAY)
    forwarding, interfaces = planned.forwarding, interfaces_of(planned.gateway)
    for pod in world.gateway_pods():
        found = within(world.netns(pod), lambda: list(_nft_maps.leftovers(forwarding, interfaces)))
        yield from (f"{pod.meta.name}: {what}" for what in found)


def differences(world: World) -> Iterator[str]:
    """What is missing, and what is too much; one line each."""
    view = world.view()
    planned = next(p for p, _ in view.balancers() if p.gateway.meta.name == GATEWAY)
    yield from _statuses(view)
    yield from _sessions(view, planned, world.gateway_pods())
    yield from _workloads(view)
    for pod in world.gateway_pods():
        yield from _of_pod(pod, _gateway_kernel(world, pod, planned))
        yield from _of_pod(pod, _bird(world, pod, planned))
    for pod in view.objects.pods:
        if not pod.meta.deleting and pod.meta.namespace == "default" and names.PROXY_NAME not in pod.meta.labels:
            yield from _of_pod(pod, _application_kernel(world, pod, view))
    for node in ("node-1", "node-2"):
        with RouteSocket(world.mininet.network.host(node).namespace) as kernel:
            yield from (f"{node}: {rule}" for rule in kernel.rules())
            yield from (f"{node}: {route}" for route in kernel.routes())


# --- the API ----------------------------------------------------------------------------------------------------------------


def _statuses(view: View) -> Iterator[str]:
    """Every status is what the plan says; transition times are whatever they were."""
    raw = {(obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]): obj for obj in view.raw}
    for status in view.plan.statuses:
        current = raw.get((status.ref.kind, status.ref.namespace, status.ref.name))
        if current is None or not covers(current, render.status_object(status, current, "never")):
            yield f"the status of {status.ref} is not as the plan says: {(current or {}).get('status')}"


def _sessions(view: View, planned: GatewayPlan, pods: tuple[Pod, ...]) -> Iterator[str]:
    """Each GatewayRouter reports the session of every gateway pod, and of no other."""
    for peer in planned.peers:
        obj = next(o for o in view.raw if o["kind"] == "GatewayRouter" and o["metadata"]["name"] == peer.router.name)
        announced = sum(vip.version == peer.address.version for vip in planned.announced)
        expected = {pod.meta.name: ("Established", "Up", announced) for pod in pods}
        reported = (obj.get("status") or {}).get("sessions") or ()
        found = {s["pod"]: (s.get("session"), s.get("bfd"), s.get("announced")) for s in reported}
        if found != expected:
            yield f"sessions of {peer.router}: {found}, expected {expected}"
        for pod, since in {s["pod"]: s.get("since") for s in reported}.items():
            if not (isinstance(since, str) and RFC_3339.fullmatch(since)):
                yield f"sessions of {peer.router}: that of {pod} does not say since when: {since!r}"


def _workloads(view: View) -> Iterator[str]:
    """One Deployment for each Gateway, and as it should be."""
    kept = {}
    for obj in view.raw:
        owners = obj["metadata"].get("ownerReferences") or ()
        if obj["kind"] == "Deployment" and any(owner["kind"] == "Gateway" for owner in owners):
            kept[obj["metadata"]["namespace"], obj["metadata"]["name"]] = obj
    expected = set()
    for planned in view.plan.gateways:
        wanted = workloads.workload(planned.gateway, planned.class_, workloads.Build())
        assert wanted is not None
        name = (wanted["metadata"]["namespace"], wanted["metadata"]["name"])
        expected.add(name)
        replicas = {"spec": {"replicas": wanted["spec"]["replicas"]}}
        if not covers(kept.get(name), replicas):
            yield f"Deployment {'/'.join(name)} is not as the plan says"
    yield from (f"Deployment {'/'.join(name)} is left over" for name in kept.keys() - expected)


# --- gateway pods -----------------------------------------------------------------------------------------------------------


def _gateway_kernel(world: World, pod: Pod, planned: GatewayPlan) -> Iterator[str]:
    """Rules and routes of the VIPs' replies, BIRD's default route in their table, and the data plane."""
    who, netns = pod.meta.name, world.netns(pod)
    with RouteSocket(netns) as kernel:
        rules, routes = kernel.rules(), kernel.routes(GATEWAY_TABLE, protocol=None)
        own = {route.destination for route in kernel.routes(OWN_TABLE)}
    balanced = {vip for flow in planned.forwarding.flows for vip in flow.destinations}
    yield from _unlike(who, "VIPs for what the pod itself sends", own, balanced)
    wanted = {_reply_rule(vip, GATEWAY_PRIORITY, GATEWAY_TABLE) for vip in joined(planned.vips)}
    yield from _unlike(who, "rules", {r for r in rules if r.priority == GATEWAY_PRIORITY}, wanted)
    for version in (4, 6):
        peers = {p.address for p in planned.peers if p.address.version == version}
        mine = [r for r in routes if r.destination.version == version and r.kind is RouteKind.UNICAST]
        yield from _unlike(who, "ways out", {hop.address for r in mine for hop in r.next_hops}, peers)
        blackholes = [r for r in routes if r.destination.version == version and r.kind is RouteKind.BLACKHOLE]
        if len(blackholes) != bool(planned.vips):
            yield f"{who}: {len(blackholes)} blackholes of IPv{version}"
    yield from _unlike(who, "fences", within(netns, fence._rules), fence._rules_for(interfaces_of(planned.gateway)))
    of_plane = MARKS if world.dataplane == "nft" else {tc_slow.PRIORITY}
    known = {GATEWAY_PRIORITY, *fence._PRIORITIES, *of_plane}
    yield from _unlike(who, "other rules", {str(r) for r in rules if r.priority not in known}, set())
    if world.dataplane == "tc":
        pid = world.pids(pod)["load-balancer"]
        yield from (f"{who}: {what}" for what in _bpf_maps.differences(pid, netns, planned.forwarding))
    else:
        interfaces = interfaces_of(planned.gateway)
        found = within(netns, lambda: list(_nft_maps.differences(planned.forwarding, interfaces)))
        yield from (f"{who}: {what}" for what in found)


def _bird(world: World, pod: Pod, planned: GatewayPlan) -> Iterator[str]:
    """BIRD has exactly the announced VIPs and a default route from each router."""
    who, folders = pod.meta.name, _bird_folders(world, pod)
    if len(folders) != 1:
        yield f"{who}: control sockets of BIRD: {folders}"
        return
    bird = Bird(folders[0])
    vips = {route.prefix for route in bird.routes() if route.protocol.startswith("vips")}
    yield from _unlike(who, "VIPs in BIRD", vips, set(planned.announced))
    defaults = {route.protocol for route in bird.routes() if not route.protocol.startswith("vips")}
    if len(defaults) != len(planned.peers):
        yield f"{who}: BIRD has default routes from {defaults} of {len(planned.peers)} routers"


def _bird_folders(world: World, pod: Pod) -> list[Path]:
    pid = world.pids(pod)["router"]
    return [path.parent for path in Path(f"/proc/{pid}/root/run/tidegate").glob("*/bird.ctl")]


def bird_of(world: World, pod: Pod) -> Bird:
    """The BIRD of a gateway pod."""
    (folder,) = _bird_folders(world, pod)
    return Bird(folder)


# --- application Pods --------------------------------------------------------------------------------------------------------


def _of_pod(pod: Pod, found: Iterator[str]) -> Iterator[str]:
    """`found` in a Pod that may be going, or may not be there yet: that is a difference, too."""
    try:
        yield from list(found)
    except (KeyError, OSError) as error:
        yield f"{pod.meta.name} comes or goes: {error!r}"


def _application_kernel(world: World, pod: Pod, view: View) -> Iterator[str]:
    """The VIPs on lo, a rule each, and the way back over all gateway pods that are ready; nothing of former ones."""
    who, netns = pod.meta.name, world.netns(pod)
    attachments = view.plan.attachments.get(pod.meta.ref, ())
    (loopback,) = json.loads(run_in(netns, ["ip", "-json", "address", "show", "dev", "lo"]))
    held = {ip_network(f"{a['local']}/{a['prefixlen']}", strict=False) for a in loopback["addr_info"]}
    held = {vip for vip in held if not vip.network_address.is_loopback}
    yield from _unlike(who, "VIPs", held, {vip for a in attachments for vip in a.vips})
    with RouteSocket(netns) as kernel:
        rules, routes = kernel.rules(), kernel.routes()
    former = {rule for rule in rules if rule.priority == FORMER_PRIORITY}
    rules = [rule for rule in rules if rule not in former]
    sources = {rule.source for rule in rules if rule.priority == POD_PRIORITY}
    if {rule.source or rule.destination for rule in former} & sources:
        yield f"{who}: VIPs that it holds go nowhere: {former}"
    yield from _unlike(who, "rules", sources, {vip for a in attachments for vip in a.vips})
    if len(rules) != len(sources):
        yield f"{who}: {len(rules)} rules for {len(sources)} VIPs"
    hops_by: dict[tuple[int, int], set[Address]] = {}
    for route in routes:
        for hop in route.next_hops:
            if hop.address is not None:
                hops_by.setdefault((route.table, hop.address.version), set()).add(hop.address)
    for vip in sorted((source for source in sources if source is not None), key=str):
        has = {hop for rule in rules if rule.source == vip for hop in hops_by.get((rule.table, vip.version), ())}
        wanted = {hop for a in attachments if vip in a.vips for hop in a.next_hops if hop.version == vip.version}
        yield from _unlike(who, f"next hops of {vip}", has, wanted)
    if {rule.table for rule in rules} != {route.table for route in routes if route.table >= POD_TABLE}:
        yield f"{who}: tables without a rule, or rules without a table: {rules}; {routes}"


def _reply_rule(vip: Prefix, priority: int, table: int) -> RuleSpec:
    return RuleSpec(version=vip.version, priority=priority, table=table, source=vip)


def _unlike(who: str, what: str, found: AbstractSet[object], wanted: AbstractSet[object]) -> Iterator[str]:
    if found != wanted:
        yield f"{who}: {what} are {sorted(map(str, found))}, expected {wanted}"
