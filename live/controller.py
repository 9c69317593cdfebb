"""The controller: reads the objects, makes a plan, and applies what the plan wants: workloads, slices, attachments, statuses.

Level-triggered: each turn looks at everything, and requests only what differs. Looking is cheap: the plan is made from what changed,
and what is the same object as in the last turn, planned and stored, is not compared again.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from core import kube, names
from core.binding import OUR_CLASSES
from core.endpoints import in_order_of_writing
from core.errors import ApiError
from core.kube import Informer, Json, KubeApi, ObjectName
from core.manifests import events, render, workloads
from core.model import Attachment, EndpointSlice, Gateway, GatewayClass, Meta, ObjectRef
from core.plan import Plan
from core.status import Status
from core.statuses import ROUTE_KINDS
from live.agent.process import AgentProcess, add_arguments
from live.apply import Applier
from live.leader import Candidate, Election
from live.sessions import forget_session, sessions, stale_sessions
from live.store import OwnWrites, PlanStore

log = logging.getLogger(__name__)

FIELD_MANAGER = "tidegate-controller"
RETRY_FAILED_S = 1.0
LEAST_REQUESTS = 20
"""Of those that no packet waits for, so many are made in each turn whatever else there is to do: some 20 ms."""
LEASE = "tidegate-controller"
LOST_EXIT_CODE = 1
_RESOURCES = {resource.kind: resource for resource in kube.PLANNED_FROM}
_WITH_STATUS = ("GatewayClass", "Gateway", "GatewayRouter", *ROUTE_KINDS)


_Key = tuple[str, str, str]
"""Kind, namespace, name; each is written to in one way only."""


class _Attempt(NamedTuple):
    """A request that may be needed: what it is made of, by identity, and what makes it, if the object differs, and tells so."""

    key: _Key
    of: tuple[object, ...]
    apply: Callable[[], bool]


def _same(known: tuple[object, ...] | None, new: tuple[object, ...]) -> bool:
    return known is not None and all(one is other for one, other in zip(known, new, strict=True))


class Controller:
    """One turn of the loop. `informers`: one for each of `kube.PLANNED_FROM`, and one of the Deployments."""

    def __init__(
        self,
        api: KubeApi,
        informers: dict[str, Informer],
        build: workloads.Build,
        now: Callable[[], str],
        news: Callable[[], bool] = lambda: False,
    ) -> None:
        """`news` tells whether something has changed since the turn began."""
        self._api = api
        self._news = news
        self._made = 0
        """Requests of this turn that no packet waits for."""
        self._applier = Applier(api, FIELD_MANAGER)
        # Slots are remembered on the slices alone: a turn that began before the last one's slices are seen would assign them anew.
        self._slices_written = OwnWrites(informers["EndpointSlice"], time.monotonic)
        self._slices_looked_up = False
        # Of a status that is not seen yet, a turn would take the news for news again.
        self._statuses_written = {kind: OwnWrites(informers[kind], time.monotonic) for kind in _WITH_STATUS}
        self._informers = informers | {"EndpointSlice": self._slices_written}
        self._store = PlanStore([self._informers[resource.kind] for resource in kube.PLANNED_FROM])
        self._settled: dict[_Key, tuple[object, ...]] = {}
        """What was planned and what is there, by objects that needed no request for it in the last turn."""
        self._attachments_seen: Mapping[ObjectRef, tuple[Attachment, ...]] = {}
        self._attached: dict[ObjectName, tuple[ObjectRef, Json]] = {}
        """Pods, as they are, that have what was planned for them when `_attachments_seen` was."""
        self._in_part: set[tuple[str, str]] = set()
        """Services of which a slice could not be written in this turn."""
        self._build = build
        self._now = now

    def reconcile(self) -> float | None:
        """Applies the plan. One object that the API refuses does not keep the others from being applied.

        Slices are what packets wait for: while there are many other requests to make, as when a thousand Pods get their attachments,
        a turn ends early for what is new, and the next one goes on.

        Returns the seconds until the next try when something was refused, or until the next look while a write of a slice is not seen.
        """
        if not self._slices_looked_up and self._refused(self._look_up_slices):
            return RETRY_FAILED_S
        wanted = self._store.plan()
        refused = 0
        before, self._settled = self._settled, {}
        for request in self._slices(wanted, before):
            refused += self._refused(request)
        self._made = 0
        for request in self._others(wanted, before):
            if self._made >= LEAST_REQUESTS and self._news():
                self._settled = before | self._settled
                break
            refused += self._refused(request)
        return RETRY_FAILED_S if refused else self._slices_written.look_again_s()

    def _look_up_slices(self) -> None:
        """Who wrote before us may have written what our watch has not told of yet."""
        ours = f"{names.SLICE_MANAGED_BY}={names.SLICE_MANAGER}"
        for slice_ in self._api.list(kube.ENDPOINT_SLICES, label_selector=ours):
            self._slices_written.note(slice_)
        self._slices_looked_up = True

    def _refused(self, request: Callable[[], object]) -> bool:
        try:
            request()
        except ApiError as error:
            log.warning("the API refused", extra={"code": error.code, "reason": error.reason, "why": error.message})
            return True
        return False

    def _others(self, wanted: Plan, before: Mapping[_Key, tuple[object, ...]]) -> Iterator[Callable[[], object]]:
        for attempts in (self._workloads, self._attachments, self._statuses):
            for attempt in attempts(wanted):
                if not self._is_settled(attempt.key, attempt.of, before):
                    yield partial(self._attempt, attempt)
        yield from self._removals(wanted)
        routers, pods = self._informers["GatewayRouter"].objects(), self._informers["Pod"].objects()
        if any(sessions(router) for router in routers.values()):
            for router, pod in stale_sessions(routers.values(), pods.values()):
                yield partial(forget_session, self._api, router, pod)

    def _is_settled(self, key: _Key, of: tuple[object, ...], before: Mapping[_Key, tuple[object, ...]]) -> bool:
        same = _same(before.get(key), of)
        if same:
            self._settled[key] = of
        return same

    def _attempt(self, attempt: _Attempt) -> None:
        if attempt.apply():
            self._made += 1
        else:
            self._settled[attempt.key] = attempt.of

    def _current(self, kind: str, name: ObjectName) -> Json | None:
        return self._informers[kind].objects().get(name)

    def _workloads(self, wanted: Plan) -> Iterator[_Attempt]:
        for planned in wanted.gateways:
            workload = workloads.workload(planned.gateway, planned.class_, self._build)
            if workload is not None:
                name = (workload["metadata"]["namespace"], workload["metadata"]["name"])
                current = self._current("Deployment", name)
                apply = partial(self._applier.apply, kube.DEPLOYMENTS, workload, current)
                yield _Attempt(("Deployment", *name), (planned.gateway, current), apply)

    def _slices(self, wanted: Plan, before: Mapping[_Key, tuple[object, ...]]) -> Iterator[Callable[[], object]]:
        self._in_part = set()
        services, stored = self._store.models(self._informers["Service"]), self._informers["EndpointSlice"].objects()
        changed: dict[ObjectRef, EndpointSlice] = {}
        for slice_ in wanted.slices:
            ref = slice_.meta.ref
            service = services[ref.namespace, slice_.service].meta
            of = (slice_, service, stored.get((ref.namespace, ref.name)))
            if not self._is_settled(("EndpointSlice", ref.namespace, ref.name), of, before):
                changed[ref] = slice_
        models = self._store.models(self._informers["EndpointSlice"]).values()
        known = {model.meta.ref: model for model in models if isinstance(model, EndpointSlice)} if changed else {}
        for slice_, gives in in_order_of_writing(changed.values(), wanted.slices, known):
            ref = slice_.meta.ref
            service = services[ref.namespace, slice_.service].meta
            yield partial(self._apply_slice, slice_, service, stored.get((ref.namespace, ref.name)), gives=gives)

    def _apply_slice(self, slice_: EndpointSlice, service: Meta, current: Json | None, *, gives: bool) -> None:
        """Of a write, the API's answer stands for the object until it is another one: it need not be compared with what was written.

        `gives`: the slice gives endpoints away, which it keeps while a slice that may take them could not be written.
        """
        ref, of_service = slice_.meta.ref, (slice_.meta.namespace, slice_.service)
        key = ("EndpointSlice", ref.namespace, ref.name)
        if gives and of_service in self._in_part:
            return

        def stored(answer: Json) -> None:
            self._slices_written.note(answer)
            self._settled[key] = (slice_, service, answer)

        body = render.endpoint_slice(slice_, service)
        try:
            written = self._applier.apply(kube.ENDPOINT_SLICES, body, current, stored=stored)
        except ApiError:
            self._in_part.add(of_service)
            raise
        if not written:
            self._settled[key] = (slice_, service, current)

    def _removals(self, wanted: Plan) -> Iterator[Callable[[], object]]:
        keep = {(slice_.meta.namespace, slice_.meta.name) for slice_ in wanted.slices}
        for name, raw in self._informers["EndpointSlice"].objects().items():
            labels = raw["metadata"].get("labels") or {}
            ours = labels.get(names.SLICE_MANAGED_BY) == names.SLICE_MANAGER
            if ours and name not in keep and (name[0], labels.get(names.SERVICE_NAME)) not in self._in_part:
                yield partial(self._remove_slice, name)
        given_away = self._given_away()
        for name, raw in self._informers["Deployment"].objects().items() if given_away else ():
            if workloads.gateway_of(raw) in given_away:
                yield partial(self._remove_workload, name, raw["metadata"]["uid"])

    def _given_away(self) -> set[ObjectRef]:
        """Gateways whose class is there, and is not the one of our workloads. While a class is missing, nothing is taken away."""
        classes = self._store.models(self._informers["GatewayClass"]).values()
        meaning = {class_: class_ for class_ in OUR_CLASSES}
        meaning |= {class_.meta.name: class_.controller for class_ in classes if isinstance(class_, GatewayClass)}
        gateways = self._store.models(self._informers["Gateway"]).values()
        carried = names.STATELESS_LOAD_BALANCER
        return {
            g.meta.ref for g in gateways if isinstance(g, Gateway) and meaning.get(g.class_name, carried) != carried
        }

    def _remove_workload(self, name: ObjectName, uid: str) -> None:
        self._api.delete(kube.DEPLOYMENTS, *name, uid=uid)
        self._applier.forget(kube.DEPLOYMENTS, *name)

    def _remove_slice(self, name: ObjectName) -> None:
        self._api.delete(kube.ENDPOINT_SLICES, *name)
        self._applier.forget(kube.ENDPOINT_SLICES, *name)
        self._slices_written.forget(name)

    def _attachments(self, wanted: Plan) -> Iterator[_Attempt]:
        """Of the Pods that differ from what they were when they had what was planned."""
        pods, planned, attached = self._informers["Pod"].objects(), wanted.attachments, self._attached
        gone = attached.keys() - pods.keys()
        for name in gone:
            self._applier.forget(kube.PODS, *name)
        if planned is not self._attachments_seen:
            seen, self._attachments_seen = self._attachments_seen, planned
            gone |= {name for name, (ref, _) in attached.items() if seen.get(ref) is not planned.get(ref)}
        for name in gone:
            del attached[name]
        for name, raw in [(name, raw) for name, raw in pods.items() if attached.get(name, (None, None))[1] is not raw]:
            ref = ObjectRef(kind="Pod", namespace=name[0], name=name[1])
            attachments = planned.get(ref, ())
            if attachments or names.ATTACHMENT in (raw["metadata"].get("annotations") or {}):
                apply = partial(self._apply_attachments, ref, attachments, raw)
                yield _Attempt(("Pod", *name), (attachments, raw), apply)
            else:
                attached[name] = (ref, raw)

    def _apply_attachments(self, ref: ObjectRef, attachments: tuple[Attachment, ...], raw: Json) -> bool:
        annotations = {names.ATTACHMENT: render.attachment_text(attachments)} if attachments else {}
        body = render.head(ref, uid=raw["metadata"]["uid"], annotations=annotations)
        written = self._applier.apply(kube.PODS, body, raw if attachments else None, "status")
        if not written:
            self._attached[ref.namespace, ref.name] = (ref, raw)
        return written

    def _statuses(self, wanted: Plan) -> Iterator[_Attempt]:
        now = self._now()
        there = {kind: writes.objects() for kind, writes in self._statuses_written.items()}
        for status in wanted.statuses:
            name = (status.ref.namespace, status.ref.name)
            current = there[status.ref.kind].get(name)
            if current is not None:
                apply = partial(self._write_status, status, current, now)
                yield _Attempt((status.ref.kind, *name), (status, current), apply)

    def _write_status(self, status: Status, current: Json, now: str) -> bool:
        if not render.concerns(status, current):
            return False
        body = render.status_object(status, current, now)
        stored = self._statuses_written[status.ref.kind].note
        written = self._applier.apply(_RESOURCES[status.ref.kind], body, current, "status", stored=stored)
        if written:
            for event in events.news(status, current):
                self._tell(event, current, now)
        return written

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
            resource.kind: process.watch(resource) for resource in (*kube.PLANNED_FROM, kube.DEPLOYMENTS)
        }
        build = workloads.Build(image=options.image, dataplane=options.dataplane)
        controller = Controller(process.kube, informers, build, rfc3339_now, process.has_news)
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
