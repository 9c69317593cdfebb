"""The table of docs/imitated-api-server.md: each row is shown on both servers, and nothing is shown that is not in the table."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from core.kube import SERVICES
from live.kube import connect
from tests.contract.kube.client import TABLE, Client, Json, Server
from tests.contract.kube.samples import Gates, Namespace, config_map, gate_crd, pod

PAGE: Final = Path(__file__).parents[3] / "docs" / "imitated-api-server.md"
DEADLINE_S: Final = 20.0
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

Test = TypeVar("Test", bound=Callable[..., None])
_shown: list[str] = []


def shows(what: str) -> Callable[[Test], Test]:
    """The test shows the row of the table that begins with `what`."""

    def note(test: Test) -> Test:
        _shown.append(what)
        return test

    return note


def rows() -> list[tuple[str, ...]]:
    """(what, the imitated server, why it does not matter) of each row."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]) for line in lines]
    assert cells[0] == ("what", "the imitated server", "why it does not matter here")
    return cells[2:]


def test_every_row_is_shown_and_has_its_reason() -> None:
    assert [what for what, _, _ in rows()] == _shown
    assert all(len(row) == 3 and all(row) for row in rows())


def as_somebody(server: Server, token: str) -> Client:
    return Client(Server(name=server.name, url=server.url, kubeconfig=server.kubeconfig, token=token, ca=server.ca))


def wait_served(api: Client, path: str) -> None:
    ends_s = time.monotonic() + DEADLINE_S
    while api.get(path).code == 404:
        assert time.monotonic() < ends_s
        time.sleep(0.05)  # a kind is served a moment after its CRD says so


@shows("access")
def test_access(api: Client, namespace: Namespace) -> None:
    stranger = as_somebody(api.server, "wrong").get(namespace.core("pods"))
    nobody = as_somebody(api.server, "").get(namespace.core("pods"))
    assert (stranger.code, nobody.code) == ((200, 200) if api.server.imitated else (401, 403))
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}}
    api.create(namespace.core("serviceaccounts"), account)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    issued = api.create(namespace.core("serviceaccounts", "sa", "token"), request)
    assert issued.code == (404 if api.server.imitated else 201)
    if not api.server.imitated:
        refused = as_somebody(api.server, issued.body["status"]["token"]).get(namespace.core("pods"))
        assert (refused.code, refused.reason) == (403, "Forbidden")


@shows("transport")
def test_transport(api: Client) -> None:
    answer = api.get("/api/v1/namespaces/default")
    assert api.server.url.startswith("http://" if api.server.imitated else "https://")
    assert ("X-Kubernetes-Pf-Flowschema-Uid" in answer.headers) != api.server.imitated
    assert ("Audit-Id" in answer.headers) != api.server.imitated


@shows("admission")
def test_admission(api: Client, namespace: Namespace) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace.name}}
    taints = (api.create("/api/v1/nodes", node).body.get("spec") or {}).get("taints")
    api.delete(f"/api/v1/nodes/{namespace.name}")
    assert taints == (
        None if api.server.imitated else [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]
    )
    webhooks = api.get("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations")
    assert webhooks.code == (404 if api.server.imitated else 200)


def crd_with(group: str, spec: Json, schema: Json) -> Json:
    """The CRD of Gate with more in its spec, and in the schema of a Gate's spec."""
    crd = copy.deepcopy(gate_crd(group))
    crd["spec"].update(spec)
    for version in crd["spec"]["versions"]:
        version["schema"]["openAPIV3Schema"]["properties"]["spec"].update(schema)
    return crd


@shows("CEL rules (`x-kubernetes-validations`)")
def test_cel(api: Client, namespace: Namespace) -> None:
    group = f"{namespace.name}.cel.test"
    gates = Gates(group, namespace.name)
    wrong = crd_with(group, {}, {"x-kubernetes-validations": [{"rule": "self.name ("}]})
    assert api.create(CRDS, wrong, dryRun="All").code == (201 if api.server.imitated else 422)
    rule = {"rule": "self.name != 'bad'", "message": "not this name"}
    made = api.create(CRDS, crd_with(group, {}, {"x-kubernetes-validations": [rule]}))
    assert made.code == 201
    kept = made.body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert kept["x-kubernetes-validations"] == [rule]
    wait_served(api, gates.path())
    assert api.create(gates.path(), gates.gate("good", {"name": "good"})).code == 201
    refused = api.create(gates.path(), gates.gate("bad", {"name": "bad"}))
    api.delete(gates.crd_path)
    if api.server.imitated:
        assert refused.code == 201
    else:
        assert (refused.code, refused.causes) == (422, {("FieldValueInvalid", "spec")})
        assert "not this name" in refused.body["message"]


@shows("conversion of versions")
def test_conversion(api: Client, namespace: Namespace) -> None:
    group = f"{namespace.name}.conversion.test"
    gates = Gates(group, namespace.name)
    webhook = {"conversionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1:1/convert"}}
    crd = crd_with(group, {"conversion": {"strategy": "Webhook", "webhook": webhook}}, {})
    assert api.create(CRDS, crd).code == 201
    wait_served(api, gates.path())
    made = api.create(gates.path(version="v1beta1"), gates.gate("a", version="v1beta1"))
    api.delete(gates.crd_path)
    if api.server.imitated:
        assert made.code == 201
    else:
        assert made.code == 500
        assert "conversion webhook" in made.body["message"]


@shows("built-in kinds")
def test_built_in_kinds(api: Client, namespace: Namespace) -> None:
    for path in ("/apis/batch/v1/jobs", "/apis/networking.k8s.io/v1/networkpolicies", "/api/v1/replicationcontrollers"):
        assert api.get(path).code == (404 if api.server.imitated else 200)
    body = pod("a")
    body["spec"]["affinity"] = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
    }
    assert api.create(namespace.core("pods"), body).code == (201 if api.server.imitated else 422)


@shows("empty structures of built-in kinds")
def test_empty_structures(api: Client, namespace: Namespace) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": namespace.name}}
    status = api.create("/api/v1/nodes", node).body.get("status")
    api.delete(f"/api/v1/nodes/{namespace.name}")
    if api.server.imitated:
        assert status is None
    else:
        assert status["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 0}}
        assert set(status["nodeInfo"].values()) == {""}


@shows("Gateway API, NetworkAttachmentDefinition")
def test_kinds_of_others(api: Client) -> None:
    """Where nobody has installed a CRD."""
    for group, plural in (
        ("gateway.networking.k8s.io/v1", "gateways"),
        ("k8s.cni.cncf.io/v1", "network-attachment-definitions"),
    ):
        assert api.get(f"{CRDS}/{plural}.{group.partition('/')[0]}").code == 404
        assert api.get(f"/apis/{group}/{plural}").code == (200 if api.server.imitated else 404)


@shows("garbage collection, namespaces, CRD status")
def test_garbage_collection(api: Client, namespace: Namespace) -> None:
    left = 0
    for number in range(20):
        meta = api.create(namespace.core("configmaps"), config_map(f"owner{number}")).meta
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": meta["name"], "uid": meta["uid"]}
        api.create(namespace.core("configmaps"), config_map(f"child{number}", ownerReferences=[owner]))
        api.delete(namespace.core("configmaps", meta["name"]))
        left += api.get(namespace.core("configmaps", f"child{number}")).code == 200
        api.wait_gone(namespace.core("configmaps", f"child{number}"))
    assert (left == 0) == api.server.imitated


def service(name: str) -> Json:
    spec = {"type": "NodePort", "ports": [{"port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


@shows("managedFields of an Update that creates")
def test_managed_fields_of_an_update_that_creates(api: Client, namespace: Namespace) -> None:
    made = api.create(namespace.core("services"), service("a")).meta
    fields = made["managedFields"][0]["fieldsV1"]["f:spec"]
    assert ("." in fields) == api.server.imitated
    assert {"f:type", "f:ports"} <= set(fields)


@shows("messages of 400s about types and JSON")
def test_messages(api: Client, namespace: Namespace) -> None:
    refused = api.create(namespace.core("configmaps"), {**config_map("a"), "data": {"k": 1}})
    assert (refused.code, refused.reason) == (400, "BadRequest")
    path = "ConfigMap.data.k" if api.server.imitated else "ConfigMap.data"
    assert refused.body["message"].endswith(f"into Go struct field {path} of type string")


@shows("several causes of one 422")
def test_several_causes(api: Client, gates: Gates) -> None:
    wrong = {"name": "TOOLONG", "size": 99, "mode": "Z", "on": "x"}
    orders = set()
    for _ in range(40):
        refused = api.create(gates.path(), gates.gate("a", wrong))
        causes = [cause["field"] for cause in refused.body["details"]["causes"]]
        assert sorted(causes) == ["spec.mode", "spec.name", "spec.on", "spec.size"]
        orders.add(tuple(causes))
    assert (orders == {tuple(f"spec.{name}" for name in wrong)}) == api.server.imitated


@shows("cluster addresses, node ports")
def test_addresses(api: Client, namespace: Namespace) -> None:
    given = set()
    for _ in range(3):
        spec = api.create(namespace.core("services"), service("a")).body["spec"]
        given.add((spec["clusterIP"], spec["ports"][0]["nodePort"]))
        api.delete(namespace.core("services", "a"))
    assert (len(given) == 1) == api.server.imitated


@shows("protobuf")
def test_protobuf(api: Client, namespace: Namespace) -> None:
    only = api.get(f"/api/v1/namespaces/{namespace.name}", accept=PROTOBUF)
    assert only.code == (406 if api.server.imitated else 200)
    either = api.get(f"/api/v1/namespaces/{namespace.name}", accept=f"{PROTOBUF},application/json")
    wanted = "application/json" if api.server.imitated else PROTOBUF
    assert (either.code, either.headers["Content-Type"]) == (200, wanted)


@shows("`pods/log`, `pods/exec`, `pods/eviction`, `namespaces/finalize`, `events.k8s.io`")
def test_subresources_that_are_not_there(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("pods"), pod("a"))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}}
    whole = api.get(f"/api/v1/namespaces/{namespace.name}").body
    answers = [
        api.get("/apis/events.k8s.io/v1/events").code,
        api.get(namespace.core("pods", "a", "log")).code,
        api.create(namespace.core("pods", "a", "exec"), {}).code,
        api.create(namespace.core("pods", "a", "eviction"), eviction).code,
        api.replace(f"/api/v1/namespaces/{namespace.name}/finalize", whole).code,
    ]
    # No node runs the Pod, so it has no logs, and nothing to enter.
    assert answers == ([404] * 5 if api.server.imitated else [200, 204, 400, 201, 200])


@shows("watch cache, lists at `resourceVersion=0`")
def test_lists_from_the_cache(api: Client, namespace: Namespace) -> None:
    """Such a list may be from before what was just written."""
    stale = 0
    ends_s = time.monotonic() + (1.0 if api.server.imitated else DEADLINE_S)
    for number in range(10_000):
        api.create(namespace.core("configmaps"), config_map(f"c{number}"))
        listed = api.get(namespace.core("configmaps"), accept=TABLE, resourceVersion="0").body["rows"]
        stale += len(listed) <= number
        assert f"c{number}" in {
            row["cells"][0] for row in api.get(namespace.core("configmaps"), accept=TABLE).body["rows"]
        }
        if stale or time.monotonic() > ends_s:
            break
    assert (stale == 0) == api.server.imitated


@shows("a watch from a version that is still to come")
def test_watch_from_the_future(api: Client, namespace: Namespace) -> None:
    path = namespace.core("configmaps")
    future = int(api.get(path).meta["resourceVersion"]) + 10_000
    watch = api.watch(path, resourceVersion=future, timeoutSeconds=1)
    assert watch.code == 200
    made = api.create(path, config_map("a"))
    assert int(made.meta["resourceVersion"]) < future
    assert [event["type"] for event in watch.rest()] == (["ADDED"] if api.server.imitated else [])


@shows("storage")
def test_storage(own_server: Server) -> None:
    """A restart; our client follows the server either way. That a test can compact on request: test_imitated_process.py."""
    spec = {"ports": [{"port": 80}]}

    def body(name: str) -> Json:
        return {"metadata": {"namespace": "default", "name": name}, "spec": spec}

    with connect(own_server.kubeconfig) as client:
        seen: list[Any] = []
        informer = client.watch(SERVICES, seen.append, namespace="default")
        assert informer.wait_synced(DEADLINE_S)

        def wait_seen(*names: str) -> None:
            ends_s = time.monotonic() + DEADLINE_S
            while {name for _, name in informer.objects()} - {"kubernetes"} != set(names):
                assert time.monotonic() < ends_s, informer.objects().keys()
                time.sleep(0.02)

        for name in ("a", "b"):
            client.create(SERVICES, body(name))
        wait_seen("a", "b")
        own_server.restart()
        client.create(SERVICES, body("c"))
        wait_seen(*("c" if own_server.imitated else "abc"))
        assert {name for _, name in seen} >= {"a", "b", "c"}
