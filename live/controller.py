"""The controller: reads the objects, makes a plan, and applies what the plan wants: workloads, slices, attachments, statuses.

Level-triggered: each turn looks at everything, and requests only what differs.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

from core import kube, names
from core.errors import ApiError
from core.kube import Informer, Json, KubeApi, ObjectName, Resource
from core.manifests import events, render, workloads
from core.model import ObjectRef
from core.plan import Plan, plan
from core.status import Status
from live.agent.process import AgentProcess, add_arguments
from live.apply import Applier
from live.leader import Candidate, Election
from live.sessions import forget_session, stale_sessions
from live.store import ModelStore, OwnWrites

log = logging.getLogger(__name__)

FIELD_MANAGER = "tidegate-controller"
RETRY_FAILED_S = 1.0
LEASE = "tidegate-controller"
LOST_EXIT_CODE = 1
READ = (
    kube.GATEWAY_CLASSES,
    kube.GATEWAYS,
    kube.GATEWAY_ROUTERS,
    kube.L34_ROUTES,
    kube.TCP_ROUTES,
    kube.UDP_ROUTES,
    kube.SERVICES,
    kube.PODS,
    kube.ENDPOINT_SLICES,
    kube.NAMESPACES,
    kube.REFERENCE_GRANTS,
)
"""What a plan is made from."""

_RESOURCES = {resource.kind: resource for resource in READ}


class Controller:
    """One turn of the loop. `informers`: one for each of READ, and one of the Deployments."""

    def __init__(
        self,
        api: KubeApi,
        informers: dict[str, Informer],
        build: workloads.Build,
        now: Callable[[], str],
    ) -> None:
        self._api = api
        self._applier = Applier(api, FIELD_MANAGER)
        # Slots are remembered on the slices alone: a turn that began before the last one's slices are seen would assign them anew.
        self._slices_written = OwnWrites(informers["EndpointSlice"], time.monotonic)
        self._informers = informers | {"EndpointSlice": self._slices_written}
        self._store = ModelStore([self._informers[resource.kind] for resource in READ])
        self._build = build
        self._now = now

    def reconcile(self) -> float | None:
        """Applies the plan. One object that the API refuses does not keep the others from being applied.

        Returns the seconds until the next try when something was refused.
        """
        wanted = plan(self._store.objects())
        refused = 0
        for request in self._requests(wanted):
            try:
                request()
            except ApiError as error:
                refused += 1
                log.warning("the API refused", extra={"code": error.code, "reason": error.reason, "why": error.message})
        return RETRY_FAILED_S if refused else None

    def _requests(self, wanted: Plan) -> Iterator[Callable[[], object]]:
        yield from self._workloads(wanted)
        yield from self._slices(wanted)
        yield from self._attachments(wanted)
        yield from self._statuses(wanted)
        routers, pods = self._informers["GatewayRouter"].objects(), self._informers["Pod"].objects()
        for router, pod in stale_sessions(routers.values(), pods.values()):
            yield partial(forget_session, self._api, router, pod)

    def _current(self, kind: str, name: ObjectName) -> Json | None:
        return self._informers[kind].objects().get(name)

    def _apply(
        self, resource: Resource, wanted: Json, current: Json | None, subresource: str | None = None
    ) -> Callable[[], object]:
        return partial(self._applier.apply, resource, wanted, current, subresource)

    def _workloads(self, wanted: Plan) -> Iterator[Callable[[], object]]:
        for planned in wanted.gateways:
            workload = workloads.workload(planned.gateway, planned.class_, self._build)
            if workload is not None:
                name = (workload["metadata"]["namespace"], workload["metadata"]["name"])
                yield self._apply(kube.DEPLOYMENTS, workload, self._current("Deployment", name))

    def _slices(self, wanted: Plan) -> Iterator[Callable[[], object]]:
        services = {s.meta.ref: s.meta for s in self._store.objects().services}
        stored = self._informers["EndpointSlice"].objects()
        for slice_ in wanted.slices:
            ref = slice_.meta.ref
            service = services[ObjectRef(kind="Service", namespace=ref.namespace, name=slice_.service)]
            body = render.endpoint_slice(slice_, service)
            current = stored.get((ref.namespace, ref.name))
            note = self._slices_written.note
            yield partial(self._applier.apply, kube.ENDPOINT_SLICES, body, current, stored=note)
        keep = {(slice_.meta.namespace, slice_.meta.name) for slice_ in wanted.slices}
        for name, raw in stored.items():
            labels = raw["metadata"].get("labels") or {}
            if labels.get(names.SLICE_MANAGED_BY) == names.SLICE_MANAGER and name not in keep:
                yield partial(self._remove_slice, name)

    def _remove_slice(self, name: ObjectName) -> None:
        self._api.delete(kube.ENDPOINT_SLICES, *name)
        self._applier.forget(kube.ENDPOINT_SLICES, *name)
        self._slices_written.forget(name)

    def _attachments(self, wanted: Plan) -> Iterator[Callable[[], object]]:
        for name, raw in self._informers["Pod"].objects().items():
            ref = ObjectRef(kind="Pod", namespace=name[0], name=name[1])
            attachments = wanted.attachments.get(ref, ())
            has = names.ATTACHMENT in (raw["metadata"].get("annotations") or {})
            if not attachments and not has:
                continue
            annotations = {names.ATTACHMENT: render.attachment_text(attachments)} if attachments else {}
            body = render.head(ref, uid=raw["metadata"]["uid"], annotations=annotations)
            yield self._apply(kube.PODS, body, raw if attachments else None, "status")

    def _statuses(self, wanted: Plan) -> Iterator[Callable[[], object]]:
        now = self._now()
        for status in wanted.statuses:
            current = self._current(status.ref.kind, (status.ref.namespace, status.ref.name))
            if current is not None:
                yield partial(self._write_status, status, current, now)

    def _write_status(self, status: Status, current: Json, now: str) -> None:
        body = render.status_object(status, current, now)
        if self._applier.apply(_RESOURCES[status.ref.kind], body, current, "status"):
            for event in events.news(status, current):
                self._tell(event, current, now)

    def _tell(self, event: events.Event, about: Json, now: str) -> None:
        """An Event that the API does not take is lost, as Events may be."""
        namespace = about["metadata"].get("namespace") or "default"
        try:
            existing = self._api.get(kube.EVENTS, namespace, events.event_name(event, about))
            body = events.event_object(event, about, existing, now)
            self._api.apply(kube.EVENTS, body, field_manager=FIELD_MANAGER)
        except ApiError as error:
            log.warning("an Event is lost", extra={"reason": event.reason, "why": error.message})


def rfc3339_now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def main(argv: list[str]) -> int:
    """`tidegate controller`."""
    options = _arguments(argv)
    with AgentProcess("controller", options) as process:
        informers: dict[str, Informer] = {
            resource.kind: process.watch(resource) for resource in (*READ, kube.DEPLOYMENTS)
        }
        build = workloads.Build(image=options.image, dataplane=options.dataplane)
        controller = Controller(process.kube, informers, build, rfc3339_now)
        if not options.leader_elect:
            return process.run(controller.reconcile)
        election = _stand_for_election(process, options)
        return process.run(lambda: controller.reconcile() if election.leads() else None)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tidegate controller",
        description="Reads Gateways and routes, and writes workloads, EndpointSlices, attachments and statuses.",
    )
    add_arguments(parser, listen=f":{workloads.CONTROLLER_PORT}")
    parser.add_argument("--image", default="tidegate", help="of the gateway pods (default: %(default)s)")
    parser.add_argument(
        "--dataplane", default="auto", choices=("auto", "tc", "nft"), help="of the gateway pods (default: %(default)s)"
    )
    parser.add_argument(
        "--leader-elect",
        action="store_true",
        help=f"write only while holding the Lease {LEASE}: of several controllers one does",
    )
    parser.add_argument(
        "--lease-namespace",
        default=os.environ.get("POD_NAMESPACE", "default"),
        help="of the Lease (default: $POD_NAMESPACE, else 'default')",
    )
    # Of a Pod's container, one process runs at a time: after a crash the next one takes up the Lease where it is.
    identity = os.environ.get("POD_NAME") or f"{socket.gethostname()}_{uuid.uuid4()}"
    parser.add_argument("--identity", default=identity, help="in the Lease (default: $POD_NAME, else one that is new)")
    return parser.parse_args(argv)


def _stand_for_election(process: AgentProcess, options: argparse.Namespace) -> Election:
    """An election that is under way until the process leaves. A standby follows all objects, so that it can take over at once."""
    leader = process.metrics.gauge("tidegate_leader", "1 when this process is the one that writes, else 0.")
    process.health.as_what = "standby"
    leader.set(0)

    def elected() -> None:
        process.health.as_what = "ok"
        leader.set(1)
        process.wake()

    candidate = Candidate(process.kube, namespace=options.lease_namespace, name=LEASE, identity=options.identity)
    election = Election(candidate, on_elected=elected, on_lost=_end_at_once)
    election.start()
    process.exits.callback(election.stop)
    return election


def _end_at_once() -> None:
    """Another one may write from now on: not even the turn that is under way may go on."""
    os._exit(LOST_EXIT_CODE)
