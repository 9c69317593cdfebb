"""Deployments and DaemonSets become Pods, bound to nodes: the imitated controller manager and scheduler, a client of the API."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence

from core.errors import ApiError, TidegateError
from core.kube import DAEMON_SETS, DEPLOYMENTS, NODES, PODS, Informer, Json, KubeApi, ObjectName, Resource
from core.workqueue import WorkQueue
from sim.cluster.events import emit
from sim.cluster.owned_pods import OWNERS, is_ready, load_of, new_pod, next_step, view_of
from sim.cluster.rollout import PodView, revision_of, spread
from sim.cluster.workload_status import daemon_set_status, deployment_status, same_status

log = logging.getLogger(__name__)

FIELD_MANAGER = "workload-controller"
COMPONENT = "workload-controller"
STOP_DEADLINE_S = 5.0
WINDOW_S = 0.05
"""A workload of many Pods is looked at once in so long while they all come up, the first time at once."""

Key = tuple[str, ObjectName]
"""(kind of the owner, its name); kind "Pod" is a Pod without a node."""


class Workloads:
    """The controllers of both kinds and the scheduler: one thread, one queue."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._changed = threading.Condition()
        # One thread on one machine: there is nobody with whom a retry could collide, so no jitter.
        self._queue: WorkQueue[Key] = WorkQueue(jitter=lambda: 0.5, window_s=WINDOW_S)
        self._closed = False
        self._informers: dict[str, Informer] = {}
        self._created: dict[ObjectName, Json] = {}
        """Pods that were created, as long as the informer has not told of them."""
        self._deleted: set[str] = set()
        """UIDs of Pods whose deletion was asked for."""
        self._counts: dict[str, int] = {}
        """How many Pods each owner (by UID) has been given."""
        self._thread = threading.Thread(target=self._run, name="workloads", daemon=True)

    def start(self) -> None:
        for resource in (PODS, NODES, DEPLOYMENTS, DAEMON_SETS):
            informer = self._api.watch(resource, self._on_change(resource))
            with self._changed:
                self._informers[resource.kind] = informer
        # What was told before all informers were known found nothing to look in.
        for kind in OWNERS:
            self._add_all(kind)
        for pod in self._objects("Pod").values():
            self._add_pod_keys(pod)
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(STOP_DEADLINE_S)

    def _on_change(self, resource: Resource) -> _Listener:
        return _Listener(self, resource.kind)

    def changed(self, kind: str, name: ObjectName) -> None:
        """An object was added, changed or removed."""
        if kind == "Node":
            for owner_kind in OWNERS:
                self._add_all(owner_kind)
            for pod in self._objects("Pod").values():
                self._add_pod_keys(pod)
            return
        if kind in OWNERS:
            self._add((kind, name))
            return
        with self._changed:
            created = self._created.pop(name, None)
        known = self._objects("Pod").get(name) or created
        if known is not None:
            self._add_pod_keys(known)
        else:
            # It is gone, and its owner with it from the cache: every owner in the namespace may be meant.
            for owner_kind in OWNERS:
                for owner_name in self._objects(owner_kind):
                    if owner_name[0] == name[0]:
                        self._add((owner_kind, owner_name))

    def _add_pod_keys(self, pod: Json) -> None:
        metadata = pod["metadata"]
        if not pod["spec"].get("nodeName"):
            self._add(("Pod", (metadata["namespace"], metadata["name"])))
        for reference in metadata.get("ownerReferences") or ():
            if reference.get("kind") in OWNERS and reference.get("controller"):
                self._add((reference["kind"], (metadata["namespace"], reference["name"])))

    def _add_all(self, kind: str) -> None:
        for name in self._objects(kind):
            self._add((kind, name))

    def _add(self, key: Key) -> None:
        with self._changed:
            self._queue.add(key, time.monotonic())
            self._changed.notify_all()

    def _objects(self, kind: str) -> Mapping[ObjectName, Json]:
        informer = self._informers.get(kind)
        return informer.objects() if informer is not None else {}

    def _run(self) -> None:
        while (key := self._take()) is not None:
            try:
                self._reconcile(key)
            except (TidegateError, KeyError, TypeError, ValueError) as error:
                # A malformed object must not stop the others; it is tried again, and says why each time.
                log.warning("%s %s: %s: %s", key[0], "/".join(key[1]), type(error).__name__, error)
                with self._changed:
                    self._queue.failed(key, time.monotonic())
            else:
                with self._changed:
                    self._queue.done(key, time.monotonic())

    def _take(self) -> Key | None:
        with self._changed:
            while not self._closed:
                now_s = time.monotonic()
                if all(informer.synced for informer in self._informers.values()):
                    key = self._queue.take(now_s)
                    if key is not None:
                        return key
                due_s = self._queue.next_due_s()
                self._changed.wait(None if due_s is None else max(0.001, due_s - now_s))
            return None

    def _reconcile(self, key: Key) -> None:
        kind, name = key
        if kind == "Pod":
            self._schedule(name)
            return
        owner = self._objects(kind).get(name)
        if owner is None or "deletionTimestamp" in owner["metadata"]:
            return
        pods, terminating = self._pods_of(owner)
        views = tuple(view_of(pod, kind) for pod in pods)
        nodes = self._ready_nodes(owner["spec"]["template"]["spec"].get("nodeSelector") or {})
        revision = revision_of(owner["spec"]["template"])
        step = next_step(owner, kind, revision, views, terminating, nodes, self._load())
        for pod in step.delete:
            self._delete(name[0], pod)
        for node in step.create_on:
            self._create(owner, kind, revision, node)
        if step.create_on or step.delete:
            pods, _ = self._pods_of(owner)
            views = tuple(view_of(pod, kind) for pod in pods)
        self._write_status(owner, kind, revision, views, nodes)

    def _pods_of(self, owner: Json) -> tuple[list[Json], list[Json]]:
        """The Pods that the owner controls, in the order of their names: those that live, and those that are being deleted."""
        uid = owner["metadata"]["uid"]
        with self._changed:
            known = {**self._objects("Pod"), **self._created}
            deleted = set(self._deleted)
        own = [pod for _, pod in sorted(known.items()) if _controller_uid(pod) == uid]
        gone = [pod for pod in own if "deletionTimestamp" in pod["metadata"] or pod["metadata"]["uid"] in deleted]
        # A Pod that has failed for good serves nobody and is replaced; one that has succeeded, too (restartPolicy is Always).
        live = [
            pod
            for pod in own
            if pod not in gone and (pod.get("status") or {}).get("phase") not in ("Failed", "Succeeded")
        ]
        return live, gone

    def _create(self, owner: Json, kind: str, revision: str, node: str) -> None:
        metadata = owner["metadata"]
        while True:
            count = self._counts[metadata["uid"]] = self._counts.get(metadata["uid"], 0) + 1
            pod = new_pod(owner, kind, revision, node, count)
            try:
                created = self._api.create(PODS, pod)
            except ApiError as error:
                if error.code == 409:
                    continue  # the name was used before a restart of this controller
                emit(self._api, COMPONENT, owner, "FailedCreate", f"Error creating: {error}")
                raise
            key = (metadata["namespace"], created["metadata"]["name"])
            with self._changed:
                self._created[key] = created
                # The informer may have told of it before create returned.
                if key in self._objects("Pod"):
                    del self._created[key]
            return

    def _delete(self, namespace: str, pod: PodView) -> None:
        self._api.delete(PODS, namespace, pod.name, uid=pod.uid)
        with self._changed:
            known = {each["metadata"]["uid"] for each in self._objects("Pod").values()}
            self._deleted = {uid for uid in self._deleted if uid in known} | {pod.uid}

    def _schedule(self, name: ObjectName) -> None:
        """Binds a Pod that nobody has bound: one that a person has created."""
        pod = self._objects("Pod").get(name)
        if pod is None or pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
            return
        nodes = self._ready_nodes(pod["spec"].get("nodeSelector") or {})
        chosen = spread(1, (), nodes, self._load())
        if not chosen:
            emit(
                self._api, "scheduler", pod, "FailedScheduling", "no node is ready and matches the Pod's node selector"
            )
            return
        # POST …/pods/<name>/binding: the only way to the node of a Pod that exists.
        binding = Resource(group="", version="v1", plural=f"{PODS.plural}/{name[1]}/binding", kind="Binding")
        target = {"apiVersion": "v1", "kind": "Node", "name": chosen[0]}
        metadata = {"name": name[1], "namespace": name[0]}
        self._api.create(binding, {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target})

    def _load(self) -> Mapping[str, int]:
        with self._changed:
            return load_of({**self._objects("Pod"), **self._created}.values())

    def _ready_nodes(self, selector: Mapping[str, str]) -> tuple[str, ...]:
        """The ready, schedulable nodes whose labels match, in the order of their names."""
        return tuple(
            name
            for (_, name), node in sorted(self._objects("Node").items())
            if is_ready(node)
            and not node.get("spec", {}).get("unschedulable")
            and all((node["metadata"].get("labels") or {}).get(key) == value for key, value in selector.items())
        )

    def _write_status(
        self, owner: Json, kind: str, revision: str, pods: Sequence[PodView], nodes: Sequence[str]
    ) -> None:
        if kind == "Deployment":
            status = deployment_status(owner, revision, pods, time.time())
        else:
            status = daemon_set_status(owner, revision, pods, nodes)
        if same_status(owner.get("status") or {}, status):
            return
        metadata = owner["metadata"]
        wanted = {
            "apiVersion": "apps/v1",
            "kind": kind,
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]},
            "status": status,
        }
        self._api.apply(OWNERS[kind], wanted, field_manager=FIELD_MANAGER, subresource="status")


class _Listener:
    """Tells which kind of object changed."""

    def __init__(self, workloads: Workloads, kind: str) -> None:
        self._workloads = workloads
        self._kind = kind

    def __call__(self, name: ObjectName) -> None:
        self._workloads.changed(self._kind, name)


def _controller_uid(pod: Json) -> str | None:
    references = pod["metadata"].get("ownerReferences") or ()
    return next((str(reference["uid"]) for reference in references if reference.get("controller")), None)
