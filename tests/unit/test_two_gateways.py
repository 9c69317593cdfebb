"""Two gateways that have one address: where packets go depends on the router outside, and on the longest prefix that it is told."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from core.kube import Json
from core.manifests import parse
from scenarios.assumed import with_assumed_pods
from scenarios.explain import explain, read_packet
from scenarios.load import EXAMPLES, LoadedScenario, load_scenario
from scenarios.manifests import desired, read_manifests
from scenarios.predict import plan_of, predict, predict_on_the_way
from scenarios.progress import Progress
from scenarios.runner import run
from scenarios.sim_world import SimWorld
from scenarios.tuples import five_tuples

PACKET = read_packet("TCP 200.100.0.100:40000 -> 20.0.0.1:4000")
B, A = (f"example-target-application-{x}-" for x in "ba")
VPN_A = "  - {name: vpn-a, vlan: 100, addresses: [169.254.101.150/24], client_addresses: [200.101.0.100/32]}\n"
OTHER_NAMES = [
    ("gateway-b", "gateway-a"), ("vpn-b", "vpn-a"), ("service-b", "service-a"), ("application-b", "application-a"),
    ("name: tcp-4000\nspec:\n  parent", "name: tcp-4000-a\nspec:\n  parent"), ("application-name: b", "application-name: a"),
]  # fmt: skip
OTHER_WIRE = [("vlan-200", "vlan-100"), ('"vlanId": 200', '"vlanId": 100'), ("169.254.100.", "169.254.101.")]
WIDER = [("destinationCIDRs: [20.0.0.1/32]", "destinationCIDRs: [20.0.0.0/24]")]


class NoEvents:
    def event(self, t_s: float, event: str, **more: object) -> None:
        pass


def scenario(folder: Path, changes: list[tuple[str, str]], *, routers: str = "") -> LoadedScenario:
    """poc2-stateless, and gateway-a (before gateway-b by name) that is gateway-b with `changes`."""
    files = [EXAMPLES / "poc2" / "applications.yaml", EXAMPLES / "poc2" / "gateway.yaml"]
    other = "\n---\n".join(path.read_text() for path in files)
    for old, new in changes:
        assert old in other, old
        other = other.replace(old, new)
    (folder / "other.yaml").write_text(other)
    text = load_scenario("poc2-stateless").text
    text = text.replace("- poc2/gateway.yaml\n", "- other.yaml\n- poc2/gateway.yaml\n")
    text = text.replace("traffic:\n", f"{routers}traffic:\n")
    if routers:
        text = text.replace("  connections: 400\n", "  connections: 400\n" + OTHER_TRAFFIC)
    (folder / "scenario.yaml").write_text(text)
    return load_scenario(str(folder / "scenario.yaml"))


OTHER_TRAFFIC = "- {name: others, from: vpn-a, to: '20.0.0.1:4000', connections: 400}\n"


def objects_of(loaded: LoadedScenario, *without: str) -> list[Json]:
    """What a cluster has when all is up; the Deployments of these names have no Pods."""
    objects = desired(read_manifests(loaded.manifests))
    for obj in objects:
        if obj["kind"] == "Deployment" and obj["metadata"]["name"] in without:
            obj["spec"]["replicas"] = 0
    return with_assumed_pods(objects)[0]


def reached(loaded: LoadedScenario, objects: list[Json], traffic: int = 0) -> set[str]:
    """The Pods that the connections of a traffic go to."""
    one = loaded.scenario.traffic[traffic]
    router = loaded.scenario.router(one.source)
    found = predict(objects, five_tuples(one, router, 1), from_s=0.0, until_s=0.0, router=router)
    return {found.names[pod] for pod in found.pod if pod >= 0}


def four(prefix: str) -> set[str]:
    return {f"{prefix}{i}" for i in range(1, 5)}


def test_each_router_reaches_the_gateway_that_it_meets(tmp_path: Path) -> None:
    loaded = scenario(tmp_path, OTHER_NAMES + OTHER_WIRE, routers=VPN_A)
    objects = objects_of(loaded)
    assert reached(loaded, objects) == four(B)
    assert reached(loaded, objects, 1) == four(A)
    # Neither takes over what the other one no longer has.
    assert reached(loaded, objects_of(loaded, B.rstrip("-"))) == set()
    assert reached(loaded, objects_of(loaded, A.rstrip("-"))) == four(B)


def test_the_longest_prefix_that_is_announced_goes_first(tmp_path: Path) -> None:
    loaded = scenario(tmp_path, OTHER_NAMES + WIDER)
    assert reached(loaded, objects_of(loaded)) == four(B)
    assert reached(loaded, objects_of(loaded, B.rstrip("-"))) == four(A)


def test_tables_on_the_way_are_those_of_the_same_gateway(tmp_path: Path) -> None:
    for changes, routers in ((OTHER_NAMES + OTHER_WIRE, VPN_A), (OTHER_NAMES + WIDER, "")):
        loaded = scenario(tmp_path, changes, routers=routers)
        router = loaded.scenario.router("vpn-b")
        tuples = five_tuples(loaded.scenario.traffic[0], router, 1)
        written = with_slices(objects_of(loaded))
        (found,) = predict_on_the_way([parse(written)[0]], tuples, from_s=0.0, until_s=0.0, router=router)
        assert set(found.names) == four(B)


def with_slices(objects: list[Json]) -> list[Json]:
    from core.manifests import render

    services = {service.meta.name: service.meta for service in parse(objects)[0].services}
    return objects + [render.endpoint_slice(each, services[each.service]) for each in plan_of(objects).slices]


@pytest.mark.parametrize(
    ("changes", "routers"), [(OTHER_NAMES + OTHER_WIRE, VPN_A), (OTHER_NAMES + WIDER, "")], ids=["routers", "prefixes"]
)
def test_virtual_time_agrees(tmp_path: Path, changes: list[tuple[str, str]], routers: str) -> None:
    world = SimWorld()
    loaded = scenario(tmp_path, changes, routers=routers)
    outcome = run(loaded, world, NoEvents(), Progress(world.now_s, io.StringIO(), quiet=True))
    assert not outcome.error
    assert outcome.metrics["connections_failed"] == outcome.metrics["placement_mismatches"] == 0
    for one, prefix in zip(outcome.traffic, (B, A), strict=False):
        assert all(name.startswith(prefix) for name in one.connections.names)
        assert len(one.connections.names) == 4


def test_explain_names_the_longest_prefix_and_says_who_else_has_it(tmp_path: Path) -> None:
    plan = plan_of(objects_of(scenario(tmp_path, OTHER_NAMES + WIDER)))
    found = explain(plan, PACKET)
    assert found.gateway is not None
    assert (found.gateway.gateway.meta.name, found.also) == ("gateway-b", ())
    plan = plan_of(objects_of(scenario(tmp_path, OTHER_NAMES + OTHER_WIRE, routers=VPN_A)))
    found = explain(plan, PACKET)
    assert found.gateway is not None
    assert found.gateway.gateway.meta.name == "gateway-a"
    assert [other.gateway.meta.name for other in found.also] == ["gateway-b"]


def test_explain_says_that_a_destination_is_withdrawn_and_who_has_it_then(tmp_path: Path) -> None:
    loaded = scenario(tmp_path, OTHER_NAMES + WIDER)
    found = explain(plan_of(objects_of(loaded, B.rstrip("-"))), PACKET)
    assert found.verdict.startswith("forwarded to ")
    assert found.gateway is not None
    assert found.gateway.gateway.meta.name == "gateway-a"
    found = explain(plan_of(objects_of(loaded, A.rstrip("-"), B.rstrip("-"))), PACKET)
    assert found.verdict == "withdrawn: no router outside has a route, since no backend of this destination is usable"
    assert found.gateway is not None
    assert found.gateway.gateway.meta.name == "gateway-b"
