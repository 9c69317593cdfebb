"""Deployments and DaemonSets become Pods, bound to nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from core.kube import PODS, Json
from sim.cluster.owned_pods import OWNERS, is_ready, load_of, new_pod, next_step, view_of
from sim.cluster.rollout import PodView, revision_of, spread
from sim.cluster.workload_status import daemon_set_status, deployment_status, same_status
from sim.des.api import Api
from sim.des.kernel import Kernel, Loop
from sim.des.latencies import Latencies
from sim.des.seen import Key

CLIENT = "workload-controller"


class Workloads:
    """The controllers of both kinds, and the scheduler.

    Models: rollouts, scaling, names, revisions and nodes of Pods, by the rules of the testbed (sim.cluster.rollout); one turn for all
    that changed at one moment. Does not model: node selectors, ReplicaSets, resources. It reads what is stored, as if its own
    writes were known to it at once.
    """

    def __init__(self, kernel: Kernel, api: Api, latencies: Latencies) -> None:
        self._kernel = kernel
        self._api = api
        self._counts: dict[str, int] = {}
        """How many Pods each owner (by UID) has been given."""
        self._revisions: dict[str, tuple[Json, str]] = {}
        """UID of an owner -> its template and the template's revision."""
        self._views: dict[Key, tuple[Json, PodView]] = {}
        """The Pods, and how a rollout sees them."""
        self._visible: dict[Key, _Visible] = {}
        self._dirty: set[str] = set()
        """UIDs of owners whose Pods have changed."""
        self._loop = Loop(kernel, self._turn, turn_s=latencies.plan_s, window_s=0.0)
        api.watch(("Node", *OWNERS), self._owners_changed)
        api.watch(["Pod"], self._pods_changed)

    def _owners_changed(self, _: Sequence[Key]) -> None:
        self._dirty |= {owner["metadata"]["uid"] for owner in self._api.objects(OWNERS)}
        self._loop.wake()

    def _pods_changed(self, keys: Sequence[Key]) -> None:
        """Most changes of Pods mean nothing to a rollout."""
        for key in keys:
            pod = self._api.seen.get(*key)
            known = self._visible.get(key)
            if pod is None:
                self._visible.pop(key, None)
                self._views.pop(key, None)
            else:
                self._visible[key] = _visible(pod)
            if self._visible.get(key) != known:
                self._dirty |= (known or self._visible[key]).owners
                self._loop.wake()

    def _turn(self) -> None:
        nodes = tuple(sorted(node["metadata"]["name"] for node in self._api.objects(["Node"])))
        dirty, self._dirty = self._dirty, set()
        for owner in self._api.objects(OWNERS):
            if owner["metadata"]["uid"] in dirty:
                self._reconcile(owner, nodes)
        for pod in self._api.objects(["Pod"]):
            if not pod["spec"].get("nodeName"):
                self._schedule(pod, nodes)

    def _reconcile(self, owner: Json, nodes: tuple[str, ...]) -> None:
        kind = owner["kind"]
        revision = self._revision(owner)
        own = sorted(self._api.owned(owner["metadata"]["uid"]), key=lambda pod: str(pod["metadata"]["name"]))
        live = [self._view(pod, kind) for pod in own if "deletionTimestamp" not in pod["metadata"]]
        ending = [pod for pod in own if "deletionTimestamp" in pod["metadata"]]
        step = next_step(owner, kind, revision, live, ending, nodes, {})
        if step.create_on:
            step = next_step(owner, kind, revision, live, ending, nodes, self._load())
        for gone in step.delete:
            self._api.delete(PODS, owner["metadata"]["namespace"], gone.name, client=CLIENT)
        live += [self._view(self._create(owner, revision, node), kind) for node in step.create_on]
        left = {pod.name for pod in step.delete}
        self._write_status(owner, revision, [pod for pod in live if pod.name not in left], nodes)

    def _view(self, pod: Json, kind: str) -> PodView:
        key = ("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])
        known = self._views.get(key)
        if known is None or known[0] is not pod:
            known = self._views[key] = (pod, view_of(pod, kind))
        return known[1]

    def _revision(self, owner: Json) -> str:
        uid, template = owner["metadata"]["uid"], owner["spec"]["template"]
        known = self._revisions.get(uid)
        if known is None or known[0] is not template:
            known = self._revisions[uid] = (template, revision_of(template))
        return known[1]

    def _create(self, owner: Json, revision: str, node: str) -> Json:
        metadata, kind = owner["metadata"], owner["kind"]
        while True:
            count = self._counts[metadata["uid"]] = self._counts.get(metadata["uid"], 0) + 1
            pod = new_pod(owner, kind, revision, node, count)
            if self._api.get("Pod", metadata["namespace"], pod["metadata"]["name"]) is None:
                return self._api.create(PODS, pod, client=CLIENT)

    def _schedule(self, pod: Json, nodes: Sequence[str]) -> None:
        """Binds a Pod that nobody has bound: one that a person has created."""
        for node in spread(1, (), nodes, self._load()):
            name = pod["metadata"]["name"]
            self._api.patch(PODS, pod["metadata"]["namespace"], name, {"spec": {"nodeName": node}}, client=CLIENT)

    def _load(self) -> Mapping[str, int]:
        return load_of(self._api.objects(["Pod"]))

    def _write_status(self, owner: Json, revision: str, pods: Sequence[PodView], nodes: Sequence[str]) -> None:
        if owner["kind"] == "Deployment":
            status = deployment_status(owner, revision, pods, self._kernel.epoch_s())
        else:
            status = daemon_set_status(owner, revision, pods, nodes)
        if not same_status(owner.get("status") or {}, status):
            metadata = {key: owner["metadata"][key] for key in ("name", "namespace", "uid")}
            wanted = {"metadata": metadata, "status": status}
            self._api.apply(OWNERS[owner["kind"]], wanted, client=CLIENT, subresource="status")


class _Visible(NamedTuple):
    """What the controllers see of a Pod that can change, and the UIDs of its owners."""

    bound: bool
    ending: bool
    ready: bool
    owners: frozenset[str]


def _visible(pod: Json) -> _Visible:
    return _Visible(
        bound=bool(pod["spec"].get("nodeName")),
        ending="deletionTimestamp" in pod["metadata"],
        ready=is_ready(pod),
        owners=frozenset(owner["uid"] for owner in pod["metadata"].get("ownerReferences") or ()),
    )
