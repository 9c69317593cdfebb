"""What clients learn about the server before they ask for objects."""

from __future__ import annotations

import pytest

from core import kube
from tests.contract.kube.client import DISCOVERY, Client
from tests.contract.kube.samples import Gates


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
def test_health_is_ok(api: Client, path: str) -> None:
    answer = api.get(path)
    assert (answer.code, answer.body) == (200, "ok")


def test_version_says_major_and_minor(api: Client) -> None:
    assert api.get("/version").body["major"] == "1"


def test_core_group_is_v1(api: Client) -> None:
    answer = api.get("/api").body
    assert (answer["kind"], answer["versions"]) == ("APIVersions", ["v1"])


def test_groups_name_their_preferred_version(api: Client) -> None:
    groups = {group["name"]: group for group in api.get("/apis").body["groups"]}
    assert groups["apps"]["preferredVersion"] == {"groupVersion": "apps/v1", "version": "v1"}
    assert api.get("/apis/apps").body["kind"] == "APIGroup"


def test_resources_tell_verbs_short_names_and_subresources(api: Client) -> None:
    listed = {one["name"]: one for one in api.get("/api/v1").body["resources"]}
    pods = listed["pods"]
    assert (pods["kind"], pods["namespaced"], pods["singularName"], pods["shortNames"]) == ("Pod", True, "pod", ["po"])
    expected = {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
    assert set(pods["verbs"]) == expected
    assert set(listed["pods/status"]["verbs"]) == {"get", "patch", "update"}
    assert listed["namespaces"]["namespaced"] is False


@pytest.mark.parametrize("path", ["/api", "/apis"])
def test_aggregated_discovery_is_one_answer(api: Client, path: str) -> None:
    answer = api.get(path, accept=DISCOVERY)
    assert answer.headers["Content-Type"].startswith("application/json;g=apidiscovery.k8s.io;v=v2")
    assert answer.body["kind"] == "APIGroupDiscoveryList"
    found = {
        (group["metadata"].get("name", ""), version["version"], resource["resource"])
        for group in answer.body["items"]
        for version in group["versions"]
        for resource in version["resources"]
    }
    assert (("", "v1", "pods") if path == "/api" else ("apps", "v1", "deployments")) in found


def test_new_kinds_are_discovered(api: Client, gates: Gates) -> None:
    versions = api.get(f"/apis/{gates.group}").body["versions"]
    assert [one["version"] for one in versions] == ["v1", "v1beta1"]
    listed = {one["name"]: one for one in api.get(f"/apis/{gates.group}/v1").body["resources"]}
    assert listed["gates"]["shortNames"] == ["ga"]
    assert "gates/status" in listed


def test_openapi_tells_that_patches_take_field_validation(api: Client) -> None:
    path = api.get("/openapi/v3").body["paths"]["apis/apps/v1"]["serverRelativeURL"].partition("?")[0]
    patch = api.get(path).body["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert patch["x-kubernetes-group-version-kind"]["kind"] == "Deployment"
    assert "fieldValidation" in {parameter["name"] for parameter in patch["parameters"]}


def test_every_resource_that_our_clients_use_is_served(api: Client) -> None:
    if not api.server.imitated:
        pytest.skip("a real server gets the kinds of CRDs when somebody applies them")
    from_crds = {kube.L34_ROUTES, kube.GATEWAY_ROUTERS}
    missing = [one.path() for one in kube.ALL_RESOURCES if one not in from_crds and api.get(one.path()).code != 200]
    assert missing == []


def test_unknown_paths_groups_and_resources_are_404(api: Client) -> None:
    for path in ("/nothing", "/apis/nothing.test", "/apis/nothing.test/v1/things", "/api/v1/things"):
        assert api.get(path).code == 404, path
    assert api.get("/api/v1/things").reason == "NotFound"
