"""Which Pods a Deployment or DaemonSet creates and deletes next. Pure, level-triggered: only what there is counts, not how it came.

Fidelity: there are no ReplicaSets, a workload owns its Pods itself; revisions are told apart by a hash of the template.

Source: kubernetes.io/docs/concepts/workloads/controllers/deployment, "Rolling Update"; pkg/controller/deployment/rolling.go.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.kube import Json

ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Without vowels, as Kubernetes makes names. Source: k8s.io/apimachinery/pkg/util/rand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """What a rollout looks at. Pods that are being deleted are not shown to it."""

    name: str
    uid: str
    revision: str
    node: str
    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do next: a node for every Pod to create, and the Pods to delete."""

    create_on: tuple[str, ...] = ()
    delete: tuple[PodView, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """`max_surge` Pods above, `max_unavailable` below the desired number; `recreate` ends all old ones first."""

    max_surge: int
    max_unavailable: int
    recreate: bool = False


def revision_of(template: Json) -> str:
    """Ten characters that depend on the Pod template only."""
    return _code(json.dumps(template, sort_keys=True, separators=(",", ":")), 10)


def pod_suffix(owner: str, revision: str, count: int) -> str:
    """Five characters for the name of the `count`-th Pod of an owner: the same in every run, and later in the order of names than those
    of all earlier Pods of this owner and revision.

    Slots follow the age of Pods, creationTimestamp has whole seconds, and Pods of one second are ordered by their names. With random
    names, as Kubernetes makes them, slots would depend on where a second happens to end, and no two runs could be compared.
    """
    letters = sorted(ALPHABET)
    names = len(letters) ** 5
    # Half of all names are left for counting up from where this owner begins.
    number = (_number(f"{owner}/{revision}") % (names // 2) + count) % names
    suffix = ""
    for _ in range(5):
        number, index = divmod(number, len(letters))
        suffix = letters[index] + suffix
    return suffix


def deployment_strategy(deployment: Json, replicas: int) -> Strategy:
    """The strategy of a Deployment; 25 % each unless it says otherwise, and never both zero."""
    spec = deployment["spec"].get("strategy") or {}
    if spec.get("type") == "Recreate":
        return Strategy(max_surge=0, max_unavailable=replicas, recreate=True)
    rolling: Mapping[str, Any] = spec.get("rollingUpdate") or {}
    surge = _share(rolling.get("maxSurge", "25%"), replicas, round_up=True)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), replicas, round_up=False)
    return Strategy(max_surge=surge, max_unavailable=unavailable if surge or unavailable else 1)


def deployment_step(
    *,
    replicas: int,
    revision: str,
    strategy: Strategy,
    pods: Sequence[PodView],
    terminating: int,
    nodes: Sequence[str],
    load: Mapping[str, int],
) -> Step:
    """The next step of a Deployment. `nodes` are ready; `load` counts all Pods on each. Nothing is created while there is no node."""
    new = [pod for pod in pods if pod.revision == revision]
    old = [pod for pod in pods if pod.revision != revision]
    if strategy.recreate and (old or terminating):
        return Step(delete=tuple(old))
    room = max(0, replicas + strategy.max_surge - len(pods))
    create = min(max(0, replicas - len(new)), room)
    surplus = _worst_first(new)[: max(0, len(new) - replicas)]
    return Step(
        create_on=spread(create, pods, nodes, load),
        delete=(*surplus, *_old_to_delete(replicas, strategy, new, old)),
    )


def daemon_set_step(
    *, revision: str, max_unavailable: int, pods: Sequence[PodView], nodes: Sequence[str], occupied: Iterable[str] = ()
) -> Step:
    """The next step of a DaemonSet: one Pod on each of `nodes`, old ones replaced as `max_unavailable` allows.

    `occupied` are nodes on which a Pod is still ending: its successor waits, because it may want the same ports.
    """
    by_node: dict[str, list[PodView]] = {}
    for pod in pods:
        by_node.setdefault(pod.node, []).append(pod)
    occupied = frozenset(occupied)
    create = tuple(node for node in nodes if node not in by_node and node not in occupied)
    surplus = [pod for node, there in by_node.items() for pod in (there[1:] if node in nodes else there)]
    kept = [there[0] for node, there in by_node.items() if node in nodes]
    old = [pod for pod in kept if pod.revision != revision]
    unavailable = len(nodes) - sum(pod.ready for pod in kept)
    broken = [pod for pod in old if not pod.ready]
    sound = [pod for pod in old if pod.ready][: max(0, max_unavailable - unavailable)]
    return Step(create_on=create, delete=(*surplus, *broken, *sound))


def spread(count: int, pods: Sequence[PodView], nodes: Sequence[str], load: Mapping[str, int]) -> tuple[str, ...]:
    """Nodes for `count` new Pods: where the owner has fewest, then where there are fewest of all, then in the order of `nodes`."""
    if not nodes or not count:
        return ()
    own = {node: sum(pod.node == node for pod in pods) for node in nodes}
    total = {node: load.get(node, 0) for node in nodes}
    chosen = []
    for _ in range(count):
        node = min(nodes, key=lambda name: (own[name], total[name], nodes.index(name)))
        own[node] += 1
        total[node] += 1
        chosen.append(node)
    return tuple(chosen)


def max_unavailable_of(daemon_set: Json, nodes: int) -> int:
    """How many Pods of a DaemonSet may be down during an update; OnDelete updates none."""
    spec = daemon_set["spec"].get("updateStrategy") or {}
    if spec.get("type") == "OnDelete":
        return 0
    return max(1, _share((spec.get("rollingUpdate") or {}).get("maxUnavailable", 1), nodes, round_up=True))


def _old_to_delete(
    replicas: int, strategy: Strategy, new: Sequence[PodView], old: Sequence[PodView]
) -> tuple[PodView, ...]:
    """Old Pods that may go: those that serve nobody first, never leaving fewer ready ones than the strategy allows."""
    minimum = replicas - strategy.max_unavailable
    new_unready = sum(not pod.ready for pod in new)
    budget = max(0, len(new) + len(old) - minimum - new_unready)
    broken = [pod for pod in old if not pod.ready][:budget]
    ready = sum(pod.ready for pod in (*new, *old))
    sound_budget = max(0, min(budget - len(broken), ready - minimum))
    sound = [pod for pod in old if pod.ready][:sound_budget]
    return (*broken, *sound)


def _worst_first(pods: Sequence[PodView]) -> list[PodView]:
    """Not ready before ready, later names before earlier ones: the order in which surplus Pods go."""
    return sorted(sorted(pods, key=lambda pod: pod.name, reverse=True), key=lambda pod: pod.ready)


def _share(value: int | str, total: int, *, round_up: bool) -> int:
    """An IntOrString: a number, or a percentage of `total`."""
    if isinstance(value, str) and value.endswith("%"):
        share = int(value[:-1]) * total / 100
        return math.ceil(share) if round_up else math.floor(share)
    return int(value)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2s(text.encode()).digest(), "big")


def _code(text: str, length: int) -> str:
    number = _number(text)
    letters = []
    for _ in range(length):
        number, index = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[index])
    return "".join(letters)
