"""The status of a Pod as the kubelet writes it. Pure: what the kubelet knows in, JSON out.

Source: kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle; pkg/kubelet/kubelet_pods.go (getPhase).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

from core.kube import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminated:
    """`exit_code` is 128 plus the signal's number when a signal ended it. Times are in seconds since the epoch."""

    exit_code: int
    started_s: float
    finished_s: float

    @property
    def reason(self) -> str:
        return "Completed" if self.exit_code == 0 else "Error"


ContainerState = Waiting | Running | Terminated


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerStatus:
    name: str
    image: str
    state: ContainerState
    ready: bool = False
    restarts: int = 0
    last: Terminated | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """What the kubelet knows of a Pod. `problem` is why it has no network yet; times are in seconds since the epoch."""

    containers: tuple[ContainerStatus, ...]
    restart_policy: str
    started_s: float
    pod_ips: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()
    problem: Waiting | None = None


def render_status(facts: PodFacts, previous: Sequence[Json], now_s: float) -> Json:
    """The status. `previous` are the conditions that were written last: a transition time changes only with its status."""
    phase = phase_of(facts)
    not_ready = [container.name for container in facts.containers if not container.ready]
    why = ("ContainersNotReady", f"containers with unready status: [{' '.join(not_ready)}]") if not_ready else ("", "")
    if phase == "Succeeded":
        why = ("PodCompleted", "")
    sandbox = (facts.problem.reason, facts.problem.message) if facts.problem else ("", "")
    conditions = [
        _condition("PodScheduled", True, ("", ""), previous, now_s),
        _condition("PodReadyToStartContainers", facts.problem is None, sandbox, previous, now_s),
        _condition("Initialized", True, ("", ""), previous, now_s),
        _condition("ContainersReady", not not_ready, why, previous, now_s),
        _condition("Ready", not not_ready, why, previous, now_s),
    ]
    status: Json = {
        "phase": phase,
        "conditions": conditions,
        "containerStatuses": [_container(container) for container in facts.containers],
        "startTime": rfc3339(facts.started_s),
    }
    if facts.problem is not None:
        status |= {"reason": facts.problem.reason, "message": facts.problem.message}
    for key, ips in (("host", facts.host_ips), ("pod", facts.pod_ips)):
        if ips:
            status |= {f"{key}IP": ips[0], f"{key}IPs": [{"ip": ip} for ip in ips]}
    return status


def phase_of(facts: PodFacts) -> str:
    """Pending until every container has been started once; Succeeded and Failed only when none will be started again."""
    states = [container.state for container in facts.containers]
    if any(
        isinstance(state, Waiting) and container.last is None
        for state, container in zip(states, facts.containers, strict=True)
    ):
        return "Pending"
    if facts.restart_policy == "Always" or not all(isinstance(state, Terminated) for state in states):
        return "Running"
    codes = [state.exit_code for state in states if isinstance(state, Terminated)]
    if any(codes):
        return "Running" if facts.restart_policy == "OnFailure" else "Failed"
    return "Succeeded"


def rfc3339(epoch_s: float) -> str:
    """The time as Kubernetes writes it, in whole seconds."""
    return datetime.fromtimestamp(int(epoch_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _condition(kind: str, holds: bool, why: tuple[str, str], previous: Sequence[Json], now_s: float) -> Json:
    status = "True" if holds else "False"
    changed = rfc3339(now_s)
    for condition in previous:
        if condition.get("type") == kind and condition.get("status") == status:
            changed = condition.get("lastTransitionTime", changed)
    made = {"type": kind, "status": status, "lastTransitionTime": changed}
    reason, message = why
    if reason and not holds:
        made["reason"] = reason
    if message and not holds:
        made["message"] = message
    return made


def _container(container: ContainerStatus) -> Json:
    status: Json = {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "ready": container.ready,
        "started": isinstance(container.state, Running),
        "restartCount": container.restarts,
        "state": _state(container.state),
    }
    if container.last is not None:
        status["lastState"] = _state(container.last)
    return status


def _state(state: ContainerState) -> Json:
    match state:
        case Waiting():
            return {"waiting": {"reason": state.reason, **({"message": state.message} if state.message else {})}}
        case Running():
            return {"running": {"startedAt": rfc3339(state.since_s)}}
        case Terminated():
            ended: Json = {
                "exitCode": state.exit_code,
                "reason": state.reason,
                "startedAt": rfc3339(state.started_s),
                "finishedAt": rfc3339(state.finished_s),
            }
            if state.exit_code > 128:
                ended["signal"] = state.exit_code - 128
            return {"terminated": ended}
        case _:
            assert_never(state)
