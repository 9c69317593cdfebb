"""The subresources with objects of their own: `scale` and `binding`."""

from __future__ import annotations

from sim.cluster.apimachinery import problems
from sim.cluster.apimachinery.problems import Json


def scale_of(obj: Json) -> Json:
    """The Scale of a Deployment or ReplicaSet. Source: kubernetes api/autoscaling/v1."""
    meta = obj["metadata"]
    labels = ((obj.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            name: meta[name]
            for name in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
            if name in meta
        },
        "spec": {"replicas": (obj.get("spec") or {}).get("replicas", 0)},
        "status": {
            "replicas": (obj.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def with_scale(obj: Json, scale: Json) -> Json:
    """The object with the replicas of a Scale.

    Raises:
        StatusError: 400 when they are no number from 0.
    """
    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        raise problems.bad_request(f"spec.replicas must be a whole number from 0: found {problems.shown(replicas)}")
    meta = dict(obj["metadata"])
    given = (scale.get("metadata") or {}).get("resourceVersion")
    if given:
        meta["resourceVersion"] = given
    return {**obj, "metadata": meta, "spec": {**obj["spec"], "replicas": replicas}}


def bound(pod: Json, binding: Json, now: str) -> Json:
    """The Pod on the node that a Binding names.

    Raises:
        StatusError: 400 without a node, 409 when it is on one already.
    """
    node = (binding.get("target") or {}).get("name")
    if not node:
        raise problems.bad_request(f"target.name must name a node: found {problems.shown(binding.get('target'))}")
    name = pod["metadata"]["name"]
    current = pod["spec"].get("nodeName")
    if current:
        why = f'pod {name} is already assigned to node "{current}"'
        raise problems.conflict("", "pods/binding", name, why)
    condition = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now}
    status = pod.get("status") or {}
    others = [one for one in status.get("conditions") or [] if one.get("type") != "PodScheduled"]
    return {
        **pod,
        "spec": {**pod["spec"], "nodeName": node},
        "status": {**status, "conditions": [*others, condition]},
    }
