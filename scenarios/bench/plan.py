"""bench plan: plan() over many gateways, and the cost of one endpoint that changes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from core import names
from core.kube import Json
from core.manifests import parse_object
from core.model import KubeObject
from core.objects import Rejected
from core.plan import Planner
from scenarios.bench import Report, Row, Target, spread

SERVICES = 10
ENDPOINTS = 100
CHANGES = 40
NETWORK = "nad"


def run(quick: bool) -> Report:
    """Gateways of 10 Services of 100 endpoints each, all in one namespace."""
    rows: list[Row] = []
    slowest_ms = 0.0
    for gateways in (1, 10) if quick else (1, 10, 100):
        planner = Planner()
        models = [model_of(obj) for obj in objects(gateways)]
        begin_s = time.perf_counter()
        for model in models:
            planner.put(model)
        planner.plan()
        whole_s = time.perf_counter() - begin_s
        changes_s = []
        for number in range(CHANGES):
            changed = model_of(pod(0, 0, number % ENDPOINTS, ready=number // ENDPOINTS % 2 == 1))
            begin_s = time.perf_counter()
            planner.put(changed)
            planner.plan()
            changes_s.append(time.perf_counter() - begin_s)
        columns = spread(changes_s, "change_ms", 1e3)
        slowest_ms = columns["median_change_ms"]
        rows.append(
            {"gateways": gateways, "endpoints": gateways * SERVICES * ENDPOINTS, "whole_ms": round(whole_s * 1e3, 1)}
            | columns
        )
    target = Target(name=f"median_change_ms at {rows[-1]['gateways']} gateways", op="<", bound=20, value=slowest_ms)
    return Report(
        bench="plan",
        rows=rows,
        targets=[target],
        notes=["A change is one Pod that is ready or not; parsing its JSON is not counted, making the whole Plan is."],
    )


def model_of(obj: Json) -> KubeObject | Rejected:
    """The model of a benchmark's own object."""
    model = parse_object(obj)
    if model is None or isinstance(model, Rejected):
        raise AssertionError(f"the benchmark's own object is wrong: {model}")
    return model


def objects(gateways: int, *, services: int = SERVICES, endpoints: int = ENDPOINTS) -> Iterator[Json]:
    """The objects of so many gateways, with so many Services each and so many endpoints each."""
    selection = json.dumps([{"name": NETWORK, "interface": "net1"}])
    for g in range(gateways):
        yield {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": f"gateway-{g}", "namespace": "default"},
            "spec": {
                "gatewayClassName": names.STATELESS_LOAD_BALANCER,
                "listeners": [{"name": "all", "port": 4000, "protocol": "TCP"}],
                "infrastructure": {"annotations": {names.ENDPOINT_NETWORKS: selection}},
            },
        }
        for s in range(services):
            yield {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": f"svc-{g}-{s}", "labels": {names.PROXY_NAME: f"gateway-{g}"}},
                "spec": {"selector": {"app": f"app-{g}-{s}"}},
            }
            yield {
                "apiVersion": "l34.gateway.api.poc/v1alpha1",
                "kind": "L34Route",
                "metadata": {"name": f"route-{g}-{s}"},
                "spec": {
                    "parentRefs": [{"name": f"gateway-{g}"}],
                    "backendRefs": [{"name": f"svc-{g}-{s}", "port": 4000}],
                    "priority": 1,
                    "protocols": ["TCP"],
                    "destinationCIDRs": [f"20.{g}.{s}.1/32"],
                },
            }
            yield from (pod(g, s, i, ready=True) for i in range(endpoints))


def pod(g: int, s: int, i: int, *, ready: bool) -> Json:
    """One endpoint."""
    status = [{"name": f"default/{NETWORK}", "interface": "net1", "ips": [f"10.{g}.{s}.{i + 1}"]}]
    annotations = {names.NETWORK_STATUS: json.dumps(status), names.ATTACHED: json.dumps([f"20.{g}.{s}.1/32"])}
    name = f"app-{g}-{s}-{i}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "uid": name, "labels": {"app": f"app-{g}-{s}"}, "annotations": annotations},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }
