"""The virtual network on a real API server: the same expectations hold, and every component asks only for what it may."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.kube import (
    CRDS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    GATEWAY_CLASSES,
    GATEWAYS,
    SECRETS,
    SERVICES,
    TCP_ROUTES,
    UDP_ROUTES,
    Json,
)
from sim.cluster.real_control_plane import AUDIT_LOG
from sim.net import capabilities
from tests.conftest import require
from tests.contract.kube.client import Answer, Client
from tests.kube.needs import EVERYWHERE, NEEDS, Right, covers, right

ROOT = Path(__file__).parents[2]
SEED = ROOT.parent / "shared" / "seed"
DEADLINE_S = 110
SERVED_DEADLINE_S = 10
SCENARIOS = ("poc2-stateless", "poc2-update", "poc2-dualstack")
NOT_SEEN = {
    # No scenario of SCENARIOS has a BGP password, nor these kinds, nor a GatewayClass object.
    right("get", SECRETS, scope="default"),
    *(right("patch", kind, "status") for kind in (GATEWAY_CLASSES, TCP_ROUTES, UDP_ROUTES)),
    # None deletes a Service that has endpoints, or gives a Gateway to another class.
    right("delete", ENDPOINT_SLICES),
    right("delete", DEPLOYMENTS),
    # Asked by an admission plugin on the controller's behalf (OwnerReferencesPermissionEnforcement, which is on), and not audited.
    right("update", SERVICES, "finalizers"),
    right("update", GATEWAYS, "finalizers"),
}


@pytest.fixture(scope="module")
def able(assets: Path) -> None:
    """Skips where there is no real API server, or no virtual network."""
    del assets  # being there is all
    for name in ("namespaces", "mnexec", "nft", "bird", "veth", "bridge"):
        found = capabilities.probe(name)
        require("netns", found.available, f"{found.detail}; {found.remedy}")


def tidegate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scenarios.cli", *arguments]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=DEADLINE_S, cwd=ROOT, check=False
    )


def run(out: Path, scenario: str) -> dict[str, Any]:
    arguments = ("run", scenario, "--on", "mininet", "--set", "api=real", "--no-figures")
    done = tidegate(*arguments, "--out", str(out), "-o", "json")
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


class Runs:
    """The result of each scenario, played when it is first asked for. poc2-update has the seed's own manifests where they are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._results: dict[str, dict[str, Any]] = {}

    def __getitem__(self, scenario: str) -> dict[str, Any]:
        if scenario not in self._results:
            with_seed = scenario == "poc2-update" and SEED.is_dir()
            self._results[scenario] = run(self._folder, str(self._write_seeds_update()) if with_seed else scenario)
        return self._results[scenario]

    def _write_seeds_update(self) -> Path:
        text = (ROOT / "scenarios" / "library" / "poc2-update.yaml").read_text()
        text = text.replace("- poc2/gateway.yaml", f"- {SEED}/examples/stateless-load-balancer-gateway-api.yaml")
        text = text.replace("poc2/update.yaml", f"{SEED}/examples/stateless-load-balancer-gateway-api-update.yaml")
        assert text.count(str(SEED)) == 2
        path = self._folder / "poc2-update.yaml"
        path.write_text(text)
        return path


@pytest.fixture(scope="module")
def runs(able: None, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    del able  # being there is all
    return Runs(tmp_path_factory.mktemp("runs"))


def audited(result: dict[str, Any]) -> Iterator[Json]:
    """The requests of ServiceAccounts, each once."""
    for line in (Path(result["out"]) / "logs" / AUDIT_LOG).read_text().splitlines():
        event = json.loads(line)
        if event["stage"] == "ResponseComplete" or event["verb"] == "watch":
            yield event


def right_used(event: Json) -> Right:
    about = event["objectRef"]
    resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
    return Right(event["verb"], about.get("apiGroup", ""), resource, about.get("namespace", EVERYWHERE))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_expectations_hold(runs: Runs, scenario: str) -> None:
    result = runs[scenario]
    assert result["ok"]
    assert result["metrics"]["placement_mismatches"] == result["metrics"]["connections_failed"] == 0
    manifest = json.loads((Path(result["out"]) / "manifest.json").read_text())
    assert manifest["facts"]["api"] == "real"


@pytest.mark.slow
@pytest.mark.timeout(3 * DEADLINE_S + 30)  # alone, it plays all of SCENARIOS
def test_components_ask_for_nothing_that_they_may_not(runs: Runs) -> None:
    for result in map(runs.__getitem__, SCENARIOS):
        events = list(audited(result))
        assert {event["user"]["username"] for event in events} == set(NEEDS)
        for event in events:
            assert covers(NEEDS[event["user"]["username"]], right_used(event)), event
            assert event.get("responseStatus", {}).get("code") not in (401, 403), event


@pytest.mark.slow
@pytest.mark.timeout(3 * DEADLINE_S + 30)  # alone, it plays all of SCENARIOS
def test_components_need_what_they_may(runs: Runs) -> None:
    """Nothing stands among the needs that nobody asks for."""
    used: dict[str, set[Right]] = {user: set() for user in NEEDS}
    for result in map(runs.__getitem__, SCENARIOS):
        for event in audited(result):
            found = right_used(event)
            mine = used[event["user"]["username"]]
            # Whoever writes objects of any namespace names theirs.
            mine |= {found, Right(found.verb, found.group, found.resource)}
            if found.verb == "patch" and event["responseStatus"]["code"] == 201:
                mine |= {Right("create", found.group, found.resource)}
    unused = {needed for user, rights in NEEDS.items() for needed in rights if needed not in used[user]}
    assert unused == NOT_SEEN


@pytest.mark.slow
def test_what_has_not_changed_is_not_written_again(runs: Runs) -> None:
    """The API server gives back objects in a form of its own; a controller that does not know it would write for ever."""
    writes = [right_used(event).resource for event in audited(runs["poc2-stateless"]) if event["verb"] == "patch"]
    assert 1 <= writes.count("endpointslices") < 20
    assert writes.count("deployments") == 1


@pytest.mark.usefixtures("able")
def test_without_binaries_it_says_how_to_get_them(tmp_path: Path) -> None:
    done = tidegate("run", "poc2-stateless", "--set", "api=real", "--out", str(tmp_path), KUBEBUILDER_ASSETS="")
    assert done.returncode == 3
    assert "KUBEBUILDER_ASSETS" in done.stderr
    assert "make kube-assets" in done.stderr


@pytest.mark.usefixtures("able")
def test_without_the_gateway_api_it_says_how_to_get_it(tmp_path: Path) -> None:
    arguments = ("run", "poc2-stateless", "--set", "api=real", "--out", str(tmp_path))
    done = tidegate(*arguments, TIDEGATE_GATEWAY_API_CRDS=str(tmp_path))
    assert done.returncode == 3
    assert "TIDEGATE_GATEWAY_API_CRDS" in done.stderr


def documents(path: Path) -> list[Json]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def create_when_served(api: Client, collection: str, obj: Json) -> Answer:
    """The answer to a create, once the collection is there at all: a CRD says that it is before every part of the server knows."""
    deadline_s = time.monotonic() + SERVED_DEADLINE_S
    while (made := api.create(collection, obj)).code == 404 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return made


def test_our_crd_takes_the_as_number_that_the_seeds_own_refuses(api: Client) -> None:
    require("shared", SEED.is_dir(), "the seed beside the checkout")
    manifests = documents(SEED / "examples" / "stateless-load-balancer-gateway-api.yaml")
    router = next(obj for obj in manifests if obj["kind"] == "GatewayRouter")
    assert router["spec"]["bgp"]["remoteASN"] > 2**31
    collection = f"/apis/{router['apiVersion']}/namespaces/default/gatewayrouters"
    for folder, code in ((SEED / "crds", 422), (ROOT / "live" / "deploy" / "crds", 201)):
        (crd,) = documents(folder / "gatewayrouters.yaml")
        path = f"{CRDS.path()}/{crd['metadata']['name']}"
        assert api.apply(path, crd, folder.parent.name).code == 201
        try:
            api.wait_for(path, lambda obj: "storedVersions" in (obj.get("status") or {}))
            made = create_when_served(api, collection, router)
            assert made.code == code, made.body
            if code == 422:
                assert "int32" in made.body["message"]
        finally:
            api.delete(path)
            api.wait_gone(path)
