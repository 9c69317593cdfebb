"""A scenario gone through before anything runs: its manifests and each other, its routers, the objects of its timeline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import live
from core import kube
from core.errors import InputError, Problem
from core.manifests.workloads import Build, workload
from core.model import ObjectRef
from core.plan import Plan
from scenarios.collisions import collisions
from scenarios.crosscheck import cross_problems
from scenarios.decode import nearest
from scenarios.load import LoadedScenario
from scenarios.manifests import ManifestObject, by_line, desired, network_config, read_manifests
from scenarios.predict import plan_of
from scenarios.spec import Action, Apply, Delete, Scale, Step
from scenarios.yamlsource import read_documents
from sim.cluster.networks import vlan_bridge

DEPLOY = Path(live.__file__ or "").parent / "deploy"
_WRITTEN = frozenset(
    resource.kind
    for resource in (
        *(kube.GATEWAY_CLASSES, kube.GATEWAYS, kube.GATEWAY_ROUTERS, kube.REFERENCE_GRANTS, kube.NETWORKS),
        *(kube.L34_ROUTES, kube.TCP_ROUTES, kube.UDP_ROUTES, kube.HTTP_ROUTES),
        *(kube.SERVICES, kube.SECRETS, kube.DEPLOYMENTS, kube.DAEMON_SETS),
    )
)
"""Kinds whose objects somebody writes. A cluster makes those of the others, under names that nobody knows before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a scenario has to work with."""

    objects: tuple[ManifestObject, ...]
    """Those of its manifests, and those that its timeline applies."""
    doubts: tuple[Problem, ...]
    """What is wrong between them; to see how it is rejected may be what the scenario is for."""


def rehearse(loaded: LoadedScenario) -> Rehearsal:
    """The objects of the scenario, and what is wrong between them.

    Raises InputError for what is wrong with one by itself; for routers on a VLAN that none of their networks is, since they would never
    meet a gateway; for actions on objects that are not there; and for `collisions`.
    """
    objects = read_manifests([*loaded.manifests, *loaded.updates])
    plan = plan_of(desired(objects))
    problems = [
        *_lonely_routers(loaded, objects),
        *_missing_targets(loaded, objects, plan),
        *collisions(loaded, objects),
    ]
    if problems:
        raise InputError(*sorted(dict.fromkeys(problems), key=by_line))
    doubts = dict.fromkeys(cross_problems(plan, objects, ()))
    return Rehearsal(objects=objects, doubts=tuple(sorted(doubts, key=by_line)))


def _lonely_routers(loaded: LoadedScenario, objects: Iterable[ManifestObject]) -> Iterator[Problem]:
    known = {config.bridge for found in objects if (config := network_config(found)) is not None}
    vlans = sorted(int(bridge.rpartition(".")[2]) for bridge in known if re.fullmatch(r"eth0\.[0-9]+", bridge))
    for i, router in enumerate(loaded.scenario.topology.routers):
        if vlan_bridge(router.vlan) not in known:
            yield Problem(
                where=loaded.node.line_at(("topology", "routers", i, "vlan")),
                what=f"no network of the manifests is the VLAN of router {router.name!r}",
                found=str(router.vlan),
                expected="the vlanId of a NetworkAttachmentDefinition: "
                + (", ".join(map(str, vlans)) or "there is none"),
            )


def _missing_targets(loaded: LoadedScenario, objects: Sequence[ManifestObject], plan: Plan) -> Iterator[Problem]:
    """Actions on objects that neither the manifests have nor what was applied before."""
    files: Mapping[str, tuple[Path, ...]] = {
        step.name: tuple(loaded.manifest_path(name) for name in step.manifests)
        for step in loaded.scenario.timeline
        if isinstance(step, Apply)
    }
    for i, action in enumerate(loaded.scenario.timeline):
        match action:
            case Apply():
                continue
            case Scale():
                kind, name, key = "Deployment", action.deployment, "deployment"
            case Delete():
                kind, name, key = action.kind, action.object_name, "object"
            case _:
                assert_never(action)
        resource = next((known for known in kube.ALL_RESOURCES if known.kind == kind), None)
        if resource is None:
            kinds = {known.kind for known in kube.ALL_RESOURCES}
            where = loaded.node.line_at(("timeline", i, "kind"))
            yield Problem(where=where, what="unknown kind", found=repr(kind), expected=nearest(kind, kinds))
            continue
        earlier = [files[name] for name in files if not _later(name, action, loaded.scenario.steps)]
        sources = {str(path) for paths in (loaded.manifests, *earlier) for path in paths}
        there = {found.ref for found in objects if found.known and found.node.source in sources}
        ref = ObjectRef(kind=kind, namespace=action.namespace if resource.namespaced else "", name=name)
        if kind in _WRITTEN and ref not in there and ref not in _made(plan):
            same = {str(known) for known in there if known.kind == kind}
            yield Problem(
                where=loaded.node.line_at(("timeline", i, key)),
                what=f"no such {kind} when {action.name!r} begins",
                found=repr(str(ref)),
                expected=nearest(str(ref), same) if same else "one of the manifests, and there is none",
            )


def _made(plan: Plan) -> set[ObjectRef]:
    """What no manifest of the scenario has: what the controller makes, and Tidegate itself."""
    workloads = [workload(planned.gateway, planned.class_, Build()) for planned in plan.gateways]
    installed = (document.json() for path in DEPLOY.glob("*.yaml") for document in read_documents(path))
    return {_ref(obj) for obj in (*workloads, *installed) if obj is not None}


def _ref(obj: kube.Json) -> ObjectRef:
    metadata = obj["metadata"]
    return ObjectRef(kind=obj["kind"], namespace=metadata.get("namespace", ""), name=metadata["name"])


def _later(name: str, action: Action, steps: Sequence[Step]) -> bool:
    """Whether the step `name` surely begins after `action`: by its `at_s`, or because it waits for it."""
    by_name = {step.name: step for step in steps}
    step = by_name[name]
    if step.after is None and action.after is None:
        return (step.at_s or 0.0) > (action.at_s or 0.0)
    while step.after is not None:
        step = by_name[step.after]
        if step.name == action.name:
            return True
    return False
