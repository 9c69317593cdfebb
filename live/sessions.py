"""What gateway pods report of their sessions: `status.sessions` of the GatewayRouters, an element a pod.

Each pod writes its own element, with a field manager of its own; nobody writes when a pod is gone. The controller takes such
elements away: it applies nothing in the name of the pod's field manager, and what that manager owned goes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import inf

from core import kube, names
from core.errors import ApiError
from core.kube import Json, KubeApi
from core.manifests import render
from core.model import ObjectRef
from core.ports import Peer, PeerState
from live.apply import Applier

log = logging.getLogger(__name__)


def session_manager(pod: str) -> str:
    """The field manager of a pod's reports."""
    return f"tidegate-router-{pod}"


class SessionReports:
    """This pod's elements. A report that the API does not take is made again with the next `tell`, and raises nothing: what the pod
    does for packets does not depend on it."""

    def __init__(self, api: KubeApi, pod: str) -> None:
        self._pod = pod
        self._applier = Applier(api, session_manager(pod))
        self._failing = False

    def tell(self, peers: Sequence[Peer], states: Sequence[PeerState], routers: Iterable[Json]) -> None:
        """Reports the state of each peer that has one. `routers`: the GatewayRouters as they are; an element that somebody has taken
        away is written again."""
        by_name = {state.name: state for state in states}
        current = {router["metadata"]["name"]: router for router in routers}
        failed: ApiError | None = None
        for peer in peers:
            if peer.name in by_name and (
                failed is None or failed.code
            ):  # a server that is not reached is not asked again
                try:
                    self._tell(peer.router, by_name[peer.name], current.get(peer.router.name))
                except ApiError as error:
                    failed = error
        if failed is not None and not self._failing:
            log.warning("a session could not be reported, will retry", extra={"why": str(failed)})
        self._failing = failed is not None

    def _tell(self, router: ObjectRef, state: PeerState, current: Json | None) -> None:
        mine = [session for session in sessions(current or {}) if session.get("pod") == self._pod]
        body = session_status(router, self._pod, _as_told(state, mine))
        seen = render.head(router) | {"status": {"sessions": mine}}
        self._applier.apply(kube.GATEWAY_ROUTERS, body, seen, "status")


def _as_told(state: PeerState, told: Iterable[Json]) -> PeerState:
    """The state with the time that was told before, if that is the same but for its last second: BIRD works it out anew each time it is
    asked, from two clocks, and is a millisecond off now and then."""
    for session in told:
        since = str(session.get("since") or "")
        if session.get("session") == state.session and _seconds_between(since, state.since) <= 1.0:
            return replace(state, since=since)
    return state


def _seconds_between(one: str, other: str) -> float:
    try:
        return abs((datetime.fromisoformat(one) - datetime.fromisoformat(other)).total_seconds())
    except ValueError:
        return inf


def session_status(router: ObjectRef, pod: str, state: PeerState) -> Json:
    """This pod's element of the GatewayRouter's status.sessions."""
    session = {"pod": pod, "session": state.session, "bfd": state.bfd, "announced": state.announced}
    since = {"since": state.since} if state.since else {}
    return render.head(router) | {"status": {"sessions": [session | since]}}


def sessions(router: Json) -> list[Json]:
    """The elements of a GatewayRouter's status.sessions."""
    found = (router.get("status") or {}).get("sessions")
    return [element for element in found if isinstance(element, dict)] if isinstance(found, list) else []


def stale_sessions(routers: Iterable[Json], pods: Iterable[Json]) -> Iterator[tuple[ObjectRef, str]]:
    """(GatewayRouter, name of the pod) of each element whose pod no longer carries the router's Gateway."""
    carrying = {(pod["metadata"]["namespace"], pod["metadata"]["name"]): _gateway(pod) for pod in pods}
    for router in routers:
        metadata = router["metadata"]
        ref = ObjectRef(kind="GatewayRouter", namespace=metadata["namespace"], name=metadata["name"])
        for session in sessions(router):
            pod = str(session.get("pod"))
            if carrying.get((ref.namespace, pod), "") != _gateway(router) or not _gateway(router):
                yield ref, pod


def forget_session(api: KubeApi, router: ObjectRef, pod: str) -> None:
    """Takes a pod's element away. Raises ApiError when the API refuses; a GatewayRouter that is gone is no error."""
    # No status at all: an empty one that is emptied thereby becomes null in the API server, which its schema refuses.
    try:
        api.apply(kube.GATEWAY_ROUTERS, render.head(router), field_manager=session_manager(pod), subresource="status")
    except ApiError as error:
        if error.code != 404:
            raise
    log.info("session of a pod that is gone", extra={"router": str(router), "pod": pod})


def _gateway(obj: Json) -> str:
    return str((obj["metadata"].get("labels") or {}).get(names.PROXY_NAME, ""))


def rfc3339(since: str) -> str:
    """BIRD's ``iso long`` local time in UTC; ``""`` when it is none."""
    try:
        return datetime.fromisoformat(since).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return ""
