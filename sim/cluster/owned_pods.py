"""The Pods of a Deployment or DaemonSet as objects of the API: how one is made, and what a rollout sees of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from core.kube import DAEMON_SETS, DEPLOYMENTS, Json
from sim.cluster.rollout import (
    PodView,
    Step,
    daemon_set_step,
    deployment_step,
    deployment_strategy,
    max_unavailable_of,
    pod_suffix,
)

OWNERS = {"Deployment": DEPLOYMENTS, "DaemonSet": DAEMON_SETS}
HASH_LABEL = {"Deployment": "pod-template-hash", "DaemonSet": "controller-revision-hash"}
LONGEST_OWNER_NAME = 52
"""Characters of an owner's name in the names of its Pods."""


def next_step(
    owner: Json,
    kind: str,
    revision: str,
    pods: Sequence[PodView],
    terminating: Sequence[Json],
    nodes: Sequence[str],
    load: Mapping[str, int],
) -> Step:
    """What the owner needs next. `pods` live, `terminating` are being deleted; `load` counts all Pods on each of the ready `nodes`."""
    if kind == "DaemonSet":
        return daemon_set_step(
            revision=revision,
            max_unavailable=max_unavailable_of(owner, len(nodes)),
            pods=pods,
            nodes=nodes,
            occupied=[pod["spec"].get("nodeName", "") for pod in terminating],
        )
    replicas = int(owner["spec"].get("replicas", 1))
    return deployment_step(
        replicas=replicas,
        revision=revision,
        strategy=deployment_strategy(owner, replicas),
        pods=pods,
        terminating=len(terminating),
        nodes=nodes,
        load=load,
    )


def new_pod(owner: Json, kind: str, revision: str, node: str, count: int) -> Json:
    """The owner's `count`-th Pod, bound to `node`."""
    metadata, template = owner["metadata"], owner["spec"]["template"]
    meta = template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{metadata['name'][:LONGEST_OWNER_NAME]}-{revision}-{pod_suffix(metadata['name'], revision, count)}",
            "namespace": metadata["namespace"],
            "labels": {**(meta.get("labels") or {}), HASH_LABEL[kind]: revision},
            "annotations": dict(meta.get("annotations") or {}),
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": kind,
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {**template["spec"], "nodeName": node},
    }


def view_of(pod: Json, kind: str) -> PodView:
    """What a rollout of an owner of that kind looks at."""
    metadata = pod["metadata"]
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        revision=(metadata.get("labels") or {}).get(HASH_LABEL[kind], ""),
        node=pod["spec"].get("nodeName", ""),
        ready=is_ready(pod),
    )


def is_ready(obj: Json) -> bool:
    """Whether a Pod or Node has the condition Ready."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in conditions)


def load_of(pods: Iterable[Json]) -> Mapping[str, int]:
    """How many of the Pods each node has; "" are those without one."""
    load: dict[str, int] = {}
    for pod in pods:
        node = pod["spec"].get("nodeName", "")
        load[node] = load.get(node, 0) + 1
    return load
