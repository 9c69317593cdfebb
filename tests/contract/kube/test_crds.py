"""Kinds that are made over the API: validation, defaults, pruning, versions."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import objects
from tests.conftest import require
from tests.contract.kube.client import DEADLINE_S, Client, Json
from tests.contract.kube.samples import Gates, Namespace, gate_crd

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared"


def test_a_crd_says_that_its_kind_is_served(api: Client, gates: Gates) -> None:
    crd = api.get(gates.crd_path).body
    conditions = {one["type"]: one["status"] for one in crd["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}
    assert crd["status"]["storedVersions"] == ["v1"]
    assert crd["spec"]["names"]["listKind"] == "GateList"
    assert crd["spec"]["names"]["singular"] == "gate"
    assert api.get(gates.path()).body["kind"] == "GateList"


def test_defaults_are_filled_in(api: Client, gates: Gates) -> None:
    spec = api.create(gates.path(), gates.gate("a", {"name": "abc", "keyed": [{"name": "x"}]})).body["spec"]
    assert spec == {"name": "abc", "size": 3, "mode": "A", "keyed": [{"name": "x", "value": "dv"}]}


def test_a_null_makes_room_for_a_default(api: Client, gates: Gates) -> None:
    spec = api.create(gates.path(), gates.gate("a", {"name": "abc", "size": None, "nothing": None})).body["spec"]
    assert (spec["size"], spec["nothing"]) == (3, None)


def test_unknown_fields_are_pruned_but_where_they_are_welcome(api: Client, gates: Gates) -> None:
    spec = {"name": "abc", "bogus": 1, "free": {"any": {"thing": [1]}}}
    made = api.create(gates.path(), {**gates.gate("a", spec), "junk": 2}).body
    assert "junk" not in made
    assert "bogus" not in made["spec"]
    assert made["spec"]["free"] == {"any": {"thing": [1]}}


@pytest.mark.parametrize(
    ("spec", "causes"),
    [
        ({}, {("FieldValueRequired", "spec.name")}),
        ({"name": None}, {("FieldValueRequired", "spec.name")}),
        ({"name": "a"}, {("FieldValueInvalid", "spec.name")}),
        ({"name": "ABC"}, {("FieldValueInvalid", "spec.name")}),
        ({"name": "abcdefgh"}, {("FieldValueTooLong", "spec.name")}),
        ({"name": 5}, {("FieldValueTypeInvalid", "spec.name")}),
        ({"name": "abc", "size": 0}, {("FieldValueInvalid", "spec.size")}),
        ({"name": "abc", "size": 99}, {("FieldValueInvalid", "spec.size")}),
        ({"name": "abc", "size": "3"}, {("FieldValueTypeInvalid", "spec.size")}),
        ({"name": "abc", "mode": "C"}, {("FieldValueNotSupported", "spec.mode")}),
        ({"name": "abc", "on": "yes"}, {("FieldValueTypeInvalid", "spec.on")}),
        ({"name": "abc", "port": 1.5}, {("FieldValueTypeInvalid", "spec.port")}),
        ({"name": "abc", "list": ["a", "b", "c"]}, {("FieldValueTooMany", "spec.list")}),
        ({"name": "abc", "list": "a"}, {("FieldValueTypeInvalid", "spec.list")}),
        ({"name": "abc", "map": {"k": "v"}}, {("FieldValueTypeInvalid", "spec.map.k")}),
        ({"name": "abc", "keyed": [{"value": "v"}]}, {("FieldValueRequired", "spec.keyed[0].name")}),
        ({"name": "abc", "keyed": [{"name": "x"}, {"name": "x"}]}, {("FieldValueDuplicate", "spec.keyed[1]")}),
        ({"name": "abc", "set": ["a", "a"]}, {("FieldValueDuplicate", "spec.set[1]")}),
        (
            {"name": "abc", "size": 0, "mode": "C"},
            {("FieldValueInvalid", "spec.size"), ("FieldValueNotSupported", "spec.mode")},
        ),
        ("text", {("FieldValueTypeInvalid", "spec")}),
    ],
)
def test_what_does_not_fit_the_schema_is_invalid(
    api: Client, gates: Gates, spec: Any, causes: set[tuple[str, str]]
) -> None:
    refused = api.create(gates.path(), gates.gate("a", spec))
    assert (refused.code, refused.reason) == (422, "Invalid")
    assert refused.causes == causes
    assert refused.body["message"].startswith(f'Gate.{gates.group} "a" is invalid: ')


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": 5}, 'spec.name: Invalid value: "integer": spec.name in body must be of type string: "integer"'),
        ({"name": "abc", "mode": "C"}, 'spec.mode: Unsupported value: "C": supported values: "A", "B"'),
        ({}, "spec.name: Required value"),
        ({"name": "a"}, 'spec.name: Invalid value: "a": spec.name in body should be at least 2 chars long'),
        ({"name": "ABC"}, "spec.name: Invalid value: \"ABC\": spec.name in body should match '^[a-z]+$'"),
        ({"name": "abcdefgh"}, "spec.name: Too long: may not be more than 5 bytes"),
        (
            {"name": "abc", "size": 99},
            "spec.size: Invalid value: 99: spec.size in body should be less than or equal to 10",
        ),
        ({"name": "abc", "list": ["a", "b", "c"]}, "spec.list: Too many: 3: must have at most 2 items"),
        ({"name": "abc", "set": ["a", "a"]}, 'spec.set[1]: Duplicate value: "a"'),
    ],
)
def test_the_words_of_the_refusal(api: Client, gates: Gates, spec: Any, message: str) -> None:
    refused = api.create(gates.path(), gates.gate("a", spec))
    assert refused.body["message"] == f'Gate.{gates.group} "a" is invalid: {message}'


def test_numbers_beyond_their_format_are_refused(api: Client, gates: Gates) -> None:
    """An AS number of 32 bits is above int32 and within int64."""
    assert api.create(gates.path(), gates.gate("a", {"name": "abc", "asn": 4248829953})).code == 201
    refused = api.create(gates.path(), gates.gate("b", {"name": "abc", "size": 4248829953}))
    assert refused.code == 422
    assert "must be of type integer with format int32 in spec.size" in refused.body["message"]


def test_patches_are_validated_too(api: Client, gates: Gates) -> None:
    api.create(gates.path(), gates.gate("a"))
    assert api.merge(gates.path("a"), {"spec": {"size": 99}}).causes == {("FieldValueInvalid", "spec.size")}
    assert api.apply(gates.path("a"), gates.gate("a", {"name": "abc", "mode": "C"}), "one", force=True).code == 422
    assert api.get(gates.path("a")).body["spec"] == {"name": "abc", "size": 3, "mode": "A"}


def test_a_changed_crd_takes_effect(api: Client, gates: Gates) -> None:
    crd = api.get(gates.crd_path).body
    for version in crd["spec"]["versions"]:
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["extra"] = {"type": "string"}
    assert api.replace(gates.crd_path, crd).code == 200
    # The real server takes a moment, and says neither when it begins nor when it is done.
    ends = time.monotonic() + DEADLINE_S
    numbers = itertools.count()
    while time.monotonic() < ends:
        made = api.create(gates.path(), gates.gate(f"a{next(numbers)}", {"name": "abc", "extra": "x"}))
        if made.code == 201 and made.body["spec"].get("extra") == "x":
            return
    raise AssertionError("the new field is still pruned")


def _schema(spec: Json) -> Json:
    return {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda crd: crd["metadata"].update(name="other.names.test"), "metadata.name"),
        (lambda crd: crd["spec"]["versions"][0].update(storage=False), "spec.versions"),
        (lambda crd: crd["spec"]["versions"][0].pop("schema"), "spec.versions[0].schema.openAPIV3Schema"),
        (lambda crd: crd["spec"].update(scope="Galaxy"), "spec.scope"),
    ],
)
def test_bad_crds_are_refused(api: Client, namespace: Namespace, change: Any, field: str) -> None:
    crd = gate_crd(f"bad-{namespace.name}.tidegate.test")
    change(crd)
    refused = api.create(CRDS, crd)
    assert (refused.code, refused.reason) == (422, "Invalid")
    assert field in {where for _, where in refused.causes}


def test_a_schema_must_say_the_type_of_everything(api: Client, namespace: Namespace) -> None:
    crd = gate_crd(f"bad-{namespace.name}.tidegate.test")
    for version in crd["spec"]["versions"]:
        version["schema"] = _schema({"properties": {"x": {"type": "string"}}})
    refused = api.create(CRDS, crd)
    assert refused.code == 422
    assert "must not be empty for specified object fields" in refused.body["message"]


def test_a_kind_goes_with_its_crd_and_takes_its_objects_along(api: Client, gates: Gates) -> None:
    api.create(gates.path(), gates.gate("a"))
    version = api.get(gates.path()).meta["resourceVersion"]
    with api.watch(gates.path(), resourceVersion=version) as watch:
        assert api.delete(gates.crd_path).code == 200
        watch.until("DELETED", "a")
    api.wait_gone(gates.crd_path)


def _documents(folder: Path) -> list[Json]:
    return [
        document
        for path in sorted(folder.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document
    ]


@pytest.mark.parametrize("folder", [SHARED / "gateway-api", SHARED / "seed" / "crds"])
def test_crds_of_others_apply_unchanged(api: Client, folder: Path) -> None:
    require("shared", folder.is_dir(), f"{folder.name} is not beside the checkout")
    for crd in _documents(folder):
        path = f"{CRDS}/{crd['metadata']['name']}"
        applied = api.apply(path, crd, "contract", force=True, fieldValidation="Strict")
        assert applied.code in (200, 201), applied.body
        api.wait_for(path, lambda obj: "storedVersions" in (obj.get("status") or {}))
    for crd in _documents(folder):
        assert api.delete(f"{CRDS}/{crd['metadata']['name']}").code == 200
        api.wait_gone(f"{CRDS}/{crd['metadata']['name']}")


def test_our_own_crds_take_what_the_seed_has(api: Client, namespace: Namespace) -> None:
    for crd in _documents(ROOT / "live" / "deploy" / "crds"):
        path = f"{CRDS}/{crd['metadata']['name']}"
        assert api.apply(path, crd, "contract", force=True).code in (200, 201)
        api.wait_for(path, lambda obj: (obj.get("status") or {}).get("conditions"))
    router = {
        "apiVersion": "l34.gateway.api.poc/v1alpha1",
        "kind": "GatewayRouter",
        "metadata": {"name": "r"},
        "spec": {"address": "169.254.100.150", "interface": "vlan-200", "bgp": {"remoteASN": 4248829953}},
    }
    made = api.create(namespace.of("l34.gateway.api.poc/v1alpha1", "gatewayrouters"), router)
    assert made.code == 201, made.body
    router["spec"].pop("address")  # type: ignore[attr-defined]  # the spec of the literal above is a dict
    refused = api.create(namespace.of("l34.gateway.api.poc/v1alpha1", "gatewayrouters"), router)
    assert ("FieldValueRequired", "spec.address") in refused.causes
    route = objects.l34_route(backendRefs=[{"name": "svc", "port": 4000}], priority=-2147483648)
    for count in (33, 5000):
        # Fault 6 of the proof-of-concept: more than 32.
        cidrs = [f"{{}}.{i // 250}.{i % 250}.0/32" for i in range(count)]
        route["metadata"] = {"name": f"of-{count}"}
        route["spec"] |= {
            "destinationCIDRs": [cidr.format(20) for cidr in cidrs],
            "sourceCIDRs": [cidr.format(30) for cidr in cidrs],
        }
        made = api.create(namespace.of("l34.gateway.api.poc/v1alpha1", "l34routes"), route)
        assert made.code == 201, made.body
        assert made.body["spec"].items() >= {k: v for k, v in route["spec"].items() if k.endswith("CIDRs")}.items()
