"""The statuses of Deployments and DaemonSets. Pure but for the clock, which is an argument."""

from __future__ import annotations

from collections.abc import Sequence

from core.kube import Json
from sim.cluster.pod_status import rfc3339
from sim.cluster.rollout import PodView, deployment_strategy


def deployment_status(owner: Json, revision: str, pods: Sequence[PodView], now_s: float) -> Json:
    """The status of a Deployment whose living Pods are `pods`; `now_s` is in seconds since the epoch."""
    replicas = int(owner["spec"].get("replicas", 1))
    ready = sum(pod.ready for pod in pods)
    updated = sum(pod.revision == revision for pod in pods)
    enough = ready >= replicas - deployment_strategy(owner, replicas).max_unavailable
    complete = updated == replicas == len(pods) == ready
    why = "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable"
    available = _condition(owner, "Available", enough, why, now_s)
    how = "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated"
    progressing = _condition(owner, "Progressing", True, how, now_s)
    return {
        "observedGeneration": owner["metadata"].get("generation", 1),
        "replicas": len(pods),
        "updatedReplicas": updated,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(0, replicas - ready),
        "conditions": [available, progressing],
    }


def daemon_set_status(owner: Json, revision: str, pods: Sequence[PodView], nodes: Sequence[str]) -> Json:
    """The status of a DaemonSet whose living Pods are `pods` and that wants one on each of `nodes`."""
    ready = sum(pod.ready for pod in pods)
    return {
        "observedGeneration": owner["metadata"].get("generation", 1),
        "desiredNumberScheduled": len(nodes),
        "currentNumberScheduled": sum(pod.node in nodes for pod in pods),
        "numberMisscheduled": sum(pod.node not in nodes for pod in pods),
        "numberReady": ready,
        "numberAvailable": ready,
        "numberUnavailable": max(0, len(nodes) - ready),
        "updatedNumberScheduled": sum(pod.revision == revision for pod in pods),
    }


def _condition(owner: Json, kind: str, holds: bool, reason: str, now_s: float) -> Json:
    status = "True" if holds else "False"
    now = rfc3339(now_s)
    made = {"type": kind, "status": status, "reason": reason, "lastUpdateTime": now}
    for condition in (owner.get("status") or {}).get("conditions") or ():
        if condition.get("type") == kind and condition.get("status") == status:
            return {**made, "lastTransitionTime": condition.get("lastTransitionTime", now)}
    return {**made, "lastTransitionTime": now}


def same_status(known: Json, wanted: Json) -> bool:
    """Whether nothing but times would change."""

    def timeless(status: Json) -> Json:
        conditions = [
            {key: value for key, value in condition.items() if not key.endswith("Time")}
            for condition in status.get("conditions") or ()
        ]
        return {**{key: status.get(key) for key in wanted}, "conditions": conditions}

    return timeless(known) == timeless(wanted)
