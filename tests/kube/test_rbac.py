"""live/deploy/rbac.yaml on a real API server: each component may do what it needs and nothing else, every verb and resource in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.kube import ALL_RESOURCES
from tests.contract.kube.client import DISCOVERY, Client, Json, Server
from tests.kube.needs import EVERYWHERE, GATEWAYS_NAMESPACE, NEEDS, OWN_NAMESPACE, Right, covers

RBAC = Path(__file__).parents[2] / "live" / "deploy" / "rbac.yaml"
ACCESS = "rbac.authorization.k8s.io"
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
MORE_VERBS = (
    # Verbs that only access rules know. Source: kubernetes.io/docs/reference/access-authn-authz/authorization, "Request verbs".
    *(("impersonate", "", resource) for resource in ("users", "groups", "serviceaccounts")),
    *((verb, ACCESS, resource) for verb in ("bind", "escalate") for resource in ("roles", "clusterroles")),
    *((verb, "certificates.k8s.io", "signers") for verb in ("approve", "sign", "attest")),
    ("use", "", "everything"),
    *((verb, "*", "*") for verb in (*VERBS, "*")),
    *((verb, "", "*") for verb in (*VERBS, "*")),
)
OTHER_NAMESPACE = "kube-system"
NOBODY = "system:serviceaccount:tidegate-system:nobody"
TRUST_BUNDLES = {Right(verb, "certificates.k8s.io", "clustertrustbundles") for verb in ("get", "list", "watch")}
OF_EVERYBODY = TRUST_BUNDLES | {
    # What Kubernetes itself binds to every ServiceAccount: system:cluster-trust-bundle-discovery above, and system:basic-user.
    Right("create", group, resource)
    for group, resource in (
        ("authorization.k8s.io", "selfsubjectaccessreviews"),
        ("authorization.k8s.io", "selfsubjectrulesreviews"),
        ("authentication.k8s.io", "selfsubjectreviews"),
    )
}
ASKING_AT_ONCE = 3


def path_of(obj: Json) -> str:
    group, _, version = obj["apiVersion"].rpartition("/")
    metadata = obj["metadata"]
    prefix = f"/apis/{group}/{version}" if group else f"/api/{version}"
    namespace = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{prefix}{namespace}/{obj['kind'].lower()}s/{metadata['name']}"


@pytest.fixture(scope="module")
def installed(api: Client) -> Client:
    """The server with rbac.yaml."""
    for obj in yaml.safe_load_all(RBAC.read_text()):
        done = api.apply(path_of(obj), obj, "operator")
        assert done.code in (200, 201), done.body
    return api


def resources(api: Client) -> Iterator[tuple[str, str, bool]]:
    """(group, resource or resource/subresource, namespaced) of all that the server has, and of all our kinds."""
    for root in ("/api", "/apis"):
        for group in api.get(root, accept=DISCOVERY).body["items"]:
            for version in group["versions"]:
                for resource in version["resources"]:
                    name, namespaced = resource["resource"], resource["scope"] == "Namespaced"
                    for subresource in ("", *(sub["subresource"] for sub in resource.get("subresources") or ())):
                        yield group["metadata"].get("name", ""), "/".join(filter(None, (name, subresource))), namespaced
    for kind in ALL_RESOURCES:
        for subresource in ("", "/status", "/finalizers", "/scale"):
            yield kind.group, kind.plural + subresource, kind.namespaced


@pytest.fixture(scope="module")
def questions(installed: Client) -> list[Right]:
    """Every verb on every resource: everywhere, in the Gateways' namespace, in Tidegate's own and in another."""
    namespaces = (GATEWAYS_NAMESPACE, OWN_NAMESPACE, OTHER_NAMESPACE)
    found = set()
    for group, resource, namespaced in resources(installed):
        for scope in (EVERYWHERE, *namespaces) if namespaced else (EVERYWHERE,):
            found |= {Right(verb, group, resource, scope) for verb in VERBS}
    for verb, group, resource in MORE_VERBS:
        found |= {Right(verb, group, resource, scope) for scope in (EVERYWHERE, *namespaces)}
    return sorted(found)


def is_allowed(api: Client, user: str, asked: Right) -> bool:
    """What the server's authorizer says. Source: SubjectAccessReview, authorization.k8s.io/v1."""
    resource, _, subresource = asked.resource.partition("/")
    attributes = {"verb": asked.verb, "group": asked.group, "resource": resource, "namespace": asked.scope}
    attributes["subresource"] = subresource
    namespace = user.split(":")[2]
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": groups, "resourceAttributes": attributes},
    }
    answer = api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    assert answer.code == 201, answer.body
    allowed: bool = answer.body["status"]["allowed"]
    return allowed


def rights_of(api: Client, user: str, questions: Sequence[Right]) -> set[Right]:
    """Those of `questions` to which the answer is yes."""

    def ask(part: Sequence[Right]) -> list[Right]:
        client = Client(api.server)  # a connection of its own
        return [asked for asked in part if is_allowed(client, user, asked)]

    with ThreadPoolExecutor(ASKING_AT_ONCE) as pool:
        parts = pool.map(ask, [questions[start::ASKING_AT_ONCE] for start in range(ASKING_AT_ONCE)])
        return {allowed for part in parts for allowed in part}


def test_every_resource_is_asked_about(questions: list[Right]) -> None:
    asked = {(right.group, right.resource) for right in questions}
    assert {("", "secrets"), ("", "pods/exec"), ("", "serviceaccounts/token"), ("apps", "deployments/scale")} <= asked
    assert {(ACCESS, "clusterrolebindings"), ("l34.gateway.api.poc", "gatewayrouters/status")} <= asked
    assert len(asked) > 150


@pytest.mark.parametrize("user", NEEDS)
def test_a_component_may_do_what_it_needs_and_nothing_else(
    installed: Client, questions: list[Right], user: str
) -> None:
    needed = NEEDS[user] | OF_EVERYBODY
    assert needed <= set(questions)
    expected = {asked for asked in questions if covers(needed, asked)}
    found = rights_of(installed, user, questions)
    assert sorted(found - expected) == [], "too much is allowed"
    assert sorted(expected - found) == [], "something that is needed is not allowed"


def test_a_right_too_many_would_be_found(installed: Client, questions: list[Right]) -> None:
    """And who is bound to nothing may do nothing but what everybody may."""
    some = [asked for asked in questions if asked.group in ("", *(right.group for right in OF_EVERYBODY))]
    assert rights_of(installed, NOBODY, some) == OF_EVERYBODY
    role = {
        "apiVersion": f"{ACCESS}/v1",
        "kind": "Role",
        "metadata": {"name": "too-much", "namespace": OTHER_NAMESPACE},
        "rules": [{"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]}],
    }
    binding = {
        "apiVersion": f"{ACCESS}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "too-much", "namespace": OTHER_NAMESPACE},
        "roleRef": {"apiGroup": ACCESS, "kind": "Role", "name": "too-much"},
        "subjects": [{"kind": "ServiceAccount", "name": "nobody", "namespace": "tidegate-system"}],
    }
    try:
        for obj in (role, binding):
            assert installed.apply(path_of(obj), obj, "operator").code == 201
        assert rights_of(installed, NOBODY, some) - OF_EVERYBODY == {
            Right("create", "", "pods/eviction", OTHER_NAMESPACE)
        }
    finally:
        for obj in (binding, role):
            installed.delete(path_of(obj))


def as_component(api: Client, user: str) -> Client:
    """A client with a token of the component's ServiceAccount, as a kubelet would get it."""
    _, _, namespace, name = user.split(":")
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    issued = api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", request)
    assert issued.code == 201, issued.body
    server = api.server
    token = issued.body["status"]["token"]
    return Client(Server(name="real", url=server.url, kubeconfig=server.kubeconfig, token=token, ca=server.ca))


@pytest.mark.parametrize("user", NEEDS)
def test_the_token_of_a_component_is_its_own_and_opens_no_more(installed: Client, user: str) -> None:
    component = as_component(installed, user)
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    known = component.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
    assert known.body["status"]["userInfo"]["username"] == user
    pods: dict[str, Any] = {f"system:serviceaccount:{GATEWAYS_NAMESPACE}:tidegate-gateway": 403}
    assert component.get("/api/v1/pods").code == pods.get(user, 200)
    secrets = component.get(f"/api/v1/namespaces/{GATEWAYS_NAMESPACE}/secrets")
    assert (secrets.code, secrets.reason) == (403, "Forbidden")
