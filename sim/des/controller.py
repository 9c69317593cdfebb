"""The controller: plans, and applies what the plan wants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from core import names
from core.endpoints import in_order_of_writing
from core.kube import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    GATEWAY_CLASSES,
    GATEWAY_ROUTERS,
    GATEWAYS,
    L34_ROUTES,
    PODS,
    TCP_ROUTES,
    UDP_ROUTES,
    Json,
    Resource,
)
from core.manifests import render, workloads
from core.model import Attachment, ObjectRef
from core.objects import Objects
from core.plan import Plan
from sim.des.fabric import PodPlace
from sim.des.kernel import Loop
from sim.des.nodes import TellReady
from sim.des.parts import Parts

CLIENT = "tidegate-controller"
READS = (
    "GatewayClass",
    "Gateway",
    "GatewayRouter",
    "L34Route",
    "TCPRoute",
    "UDPRoute",
    "Service",
    "Pod",
    "EndpointSlice",
    "Namespace",
    "ReferenceGrant",
)
_WITH_STATUS = {
    resource.kind: resource
    for resource in (GATEWAY_CLASSES, GATEWAYS, GATEWAY_ROUTERS, L34_ROUTES, TCP_ROUTES, UDP_ROUTES)
}


class Controller:
    """Models: the controller's loop: the core's plan of what it has seen, and of that what differs from what it applied last. Does not
    model: requests that fail, a second controller, leader election.
    """

    def __init__(self, parts: Parts, place: PodPlace, tell_ready: TellReady, build: workloads.Build) -> None:
        self.start_s = parts.latencies.agent_start_s
        self._parts = parts
        self._name = place.name
        self._tell_ready = tell_ready
        self._build = build
        self._attached: dict[str, tuple[Attachment, ...]] = {}
        """Pod UID -> the attachments that were applied last."""
        self._applied: dict[tuple[str, str, str, str], object] = {}
        """(kind, namespace, name, subresource) -> the value that was made JSON and applied last."""

    def start(self) -> None:
        latencies = self._parts.latencies
        self._loop = Loop(self._parts.kernel, self._turn, turn_s=latencies.plan_s, window_s=latencies.work_window_s)
        self._end_watch = self._parts.api.watch(READS, self._loop.wake, client=CLIENT)
        self._loop.wake()

    def stop(self) -> None:
        self._end_watch()
        self._loop.stop()

    def _turn(self) -> None:
        objects = self._parts.api.seen.objects()
        wanted = self._parts.api.seen.plan()
        self._workloads(wanted)
        self._slices(wanted, objects)
        self._attachments(wanted, objects)
        self._statuses(wanted)
        self._tell_ready(True)

    def _apply(
        self, resource: Resource, ref: ObjectRef, value: object, body: Callable[[], Json], subresource: str = ""
    ) -> None:
        """Applies `body()` when `value`, from which it is made, is another than last time, or the object is not there."""
        key = (ref.kind, ref.namespace, ref.name, subresource)
        there = self._parts.api.get(ref.kind, ref.namespace, ref.name) is not None
        if (there and key in self._applied and self._applied[key] == value) or (subresource and not there):
            return
        self._parts.api.apply(resource, body(), client=CLIENT, subresource=subresource)
        self._applied[key] = value

    def _workloads(self, wanted: Plan) -> None:
        for planned in wanted.gateways:
            workload = workloads.workload(planned.gateway, planned.class_, self._build)
            if workload is not None:
                metadata = workload["metadata"]
                ref = ObjectRef(kind="Deployment", namespace=metadata["namespace"], name=metadata["name"])
                self._apply(DEPLOYMENTS, ref, workload, partial(dict, workload))

    def _slices(self, wanted: Plan, objects: Objects) -> None:
        services = {(service.meta.namespace, service.meta.name): service.meta for service in objects.services}
        known = {slice_.meta.ref: slice_ for slice_ in objects.slices}
        for slice_, _ in in_order_of_writing(wanted.slices, wanted.slices, known):
            service = services[(slice_.meta.namespace, slice_.service)]
            body = partial(render.endpoint_slice, slice_, service)
            self._apply(ENDPOINT_SLICES, slice_.meta.ref, (slice_, service.uid), body)
        keep = {slice_.meta.ref for slice_ in wanted.slices}
        for stored in objects.slices:
            if stored.managed_by == names.SLICE_MANAGER and stored.meta.ref not in keep:
                self._parts.api.delete(ENDPOINT_SLICES, stored.meta.namespace, stored.meta.name, client=CLIENT)

    def _attachments(self, wanted: Plan, objects: Objects) -> None:
        attached = {}
        for pod in objects.pods:
            ref, uid = pod.meta.ref, pod.meta.uid
            attachments = attached[uid] = wanted.attachments.get(ref, ())
            there = self._parts.api.get("Pod", ref.namespace, ref.name)
            if self._attached.get(uid, ()) != attachments and there is not None:
                annotations = {names.ATTACHMENT: render.attachment_text(attachments)} if attachments else {}
                body = render.head(ref, uid=uid, annotations=annotations)
                self._parts.api.apply(PODS, body, client=CLIENT, subresource="status")
        self._attached = attached

    def _statuses(self, wanted: Plan) -> None:
        now = self._parts.kernel.wall()
        for status in wanted.statuses:
            current = self._parts.api.get(status.ref.kind, status.ref.namespace, status.ref.name)
            body = partial(render.status_object, status, current, now)
            self._apply(_WITH_STATUS[status.ref.kind], status.ref, status, body, "status")
