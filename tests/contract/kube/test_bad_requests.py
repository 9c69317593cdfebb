"""Requests that cannot be understood."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.kube.client import MERGE, STRATEGIC, Client
from tests.contract.kube.samples import Gates, Namespace, config_map


@pytest.mark.parametrize("raw", [b"", b"{nope", b"[1]", b'"text"', b"\xff\xfe\x00"])
def test_malformed_bodies_are_bad_requests(api: Client, namespace: Namespace, raw: bytes) -> None:
    refused = api.request("POST", namespace.core("configmaps"), raw=raw)
    assert (refused.code, refused.reason) == (400, "BadRequest")
    assert refused.body["kind"] == "Status"


def test_another_kind_is_a_bad_request(api: Client, namespace: Namespace) -> None:
    refused = api.create(namespace.core("configmaps"), {**config_map("a"), "kind": "Secret"})
    assert (refused.code, refused.reason) == (400, "BadRequest")
    assert "cannot be handled as a ConfigMap" in refused.body["message"]


def test_another_version_is_a_bad_request(api: Client, namespace: Namespace) -> None:
    assert api.create(namespace.core("configmaps"), {**config_map("a"), "apiVersion": "v2"}).code == 400


def test_another_namespace_is_a_bad_request(api: Client, namespace: Namespace) -> None:
    refused = api.create(namespace.core("configmaps"), config_map("a", namespace="another"))
    assert refused.code == 400
    assert refused.body["message"] == (
        "the namespace of the provided object does not match the namespace sent on the request"
    )


def test_another_name_is_a_bad_request(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("configmaps"), config_map("a"))
    refused = api.replace(namespace.core("configmaps", "a"), config_map("b"))
    assert refused.code == 400
    assert refused.body["message"] == "the name of the object (b) does not match the name on the URL (a)"


def test_a_value_of_the_wrong_type_is_a_bad_request_on_built_in_kinds(api: Client, namespace: Namespace) -> None:
    refused = api.create(namespace.core("configmaps"), {**config_map("a"), "data": {"k": 1}})
    assert refused.code == 400
    assert refused.body["message"].startswith(
        'ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field'
    )


def test_a_kind_is_needed(api: Client, gates: Gates) -> None:
    refused = api.create(gates.path(), {"metadata": {"name": "a"}, "spec": {"name": "abc"}})
    assert refused.code == 400
    assert "Object 'Kind' is missing" in refused.body["message"]


def test_content_types(api: Client, namespace: Namespace, gates: Gates) -> None:
    path = namespace.core("configmaps", "a")
    api.create(namespace.core("configmaps"), config_map("a"))
    api.create(gates.path(), gates.gate("a"))
    refused = api.request("POST", namespace.core("configmaps"), raw=b"x", media="text/plain")
    assert (refused.code, refused.reason) == (415, "UnsupportedMediaType")
    assert api.request("PATCH", path, {}, media="application/json").code == 415
    assert api.request("PATCH", gates.path("a"), {}, media=STRATEGIC).code == 415
    assert api.request("PATCH", gates.path("a"), {}, media=MERGE + "; charset=utf-8").code == 200
    assert api.get(path, accept="text/html").code == 406


def test_yaml_goes_in_and_out(api: Client, namespace: Namespace) -> None:
    raw = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: written}\ndata: {k: v}\n"
    assert api.request("POST", namespace.core("configmaps"), raw=raw, media="application/yaml").code == 201
    answer = api.get(namespace.core("configmaps", "written"), accept="application/yaml")
    assert "kind: ConfigMap" in answer.body


@pytest.mark.parametrize("raw", [b"{}", b"k8s\x00", b"k8s\x00\xff\xff\xff", b"k8s\x00\x0a\x7f", b"k8s\x00\x12\x05ab"])
def test_malformed_protobuf_is_a_bad_request(api: Client, namespace: Namespace, raw: bytes) -> None:
    refused = api.request("POST", namespace.core("configmaps"), raw=raw, media="application/vnd.kubernetes.protobuf")
    assert (refused.code, refused.reason) == (400, "BadRequest")


def test_methods_that_do_not_fit_the_path(api: Client, namespace: Namespace) -> None:
    for method, path in (
        ("PUT", namespace.core("configmaps")),
        ("PATCH", namespace.core("configmaps")),
        ("POST", namespace.core("configmaps", "a")),
        ("POST", "/api/v1/configmaps"),
        ("DELETE", "/api/v1/configmaps"),
    ):
        refused = api.request(method, path, config_map("a"), media=MERGE if method == "PATCH" else "application/json")
        assert (refused.code, refused.reason) == (405, "MethodNotAllowed"), (method, path)


def test_unknown_subresources_are_not_found(api: Client, namespace: Namespace) -> None:
    api.create(namespace.core("configmaps"), config_map("a"))
    assert api.get(namespace.core("configmaps", "a", "status")).code == 404


def test_unknown_fields_warn_or_refuse_as_asked(api: Client, gates: Gates) -> None:
    extra = {"name": "abc", "bogus": 1, "keyed": [{"name": "x", "odd": 2}]}
    refused = api.create(gates.path(), gates.gate("a", extra), fieldValidation="Strict")
    assert refused.code == 400
    assert refused.body["message"] == (
        'Gate in version "v1" cannot be handled as a Gate: strict decoding error: unknown field "spec.bogus", '
        'unknown field "spec.keyed[0].odd"'
    )
    warned = api.create(gates.path(), gates.gate("a", extra), fieldValidation="Warn")
    assert warned.code == 201
    assert warned.headers.get("Warning", "").startswith('299 - "unknown field \\"spec.bogus\\""')
    silent = api.create(gates.path(), gates.gate("b", extra), fieldValidation="Ignore")
    assert "Warning" not in silent.headers
    assert "bogus" not in silent.body["spec"]


def test_fields_given_twice_are_refused_when_strict(api: Client, namespace: Namespace) -> None:
    raw = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b","name":"c"}}'
    refused = api.request("POST", namespace.core("configmaps"), raw=raw, fieldValidation="Strict")
    assert refused.code == 400
    assert 'duplicate field "metadata.name"' in refused.body["message"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"fieldValidation": "Maybe"}, 422),
        ({"dryRun": "Some"}, 422),
        ({"labelSelector": "a b c"}, 400),
        ({"fieldSelector": "spec.nothing=x"}, 400),
        ({"continue": "garbage", "limit": 1}, 400),
        ({"resourceVersion": "garbage"}, 400),
        ({"limit": "many"}, 400),
    ],
)
def test_bad_query_parameters(api: Client, namespace: Namespace, query: dict[str, Any], code: int) -> None:
    writes = "fieldValidation" in query or "dryRun" in query
    path = namespace.core("configmaps")
    refused = api.create(path, config_map("a"), **query) if writes else api.get(path, **query)
    assert refused.code == code, refused.body


def test_a_body_of_four_megabytes_is_too_large(api: Client, namespace: Namespace) -> None:
    refused = api.create(namespace.core("configmaps"), config_map("a", {"k": "x" * (4 << 20)}))
    assert refused.code == 413
