"""The router agent: BIRD beside a load balancer, announcing the VIPs that the load balancer has programmed, and the policy rules by
which replies leave to where the routers are."""

from __future__ import annotations

import argparse
import base64
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from core import kube, names
from core.errors import ApiError, DataplaneError, InputError, Problem
from core.kube import Informer, KubeApi
from core.manifests import workloads
from core.model import Bgp, SecretKey
from core.plan import gateway_ref, peers_of
from core.ports import NO_PASSWORD, Peer, PeerState, PolicyRoutes, Routing
from core.router import bird as bird_text
from core.secret import Secret
from live.agent.load_balancer import namespaced_name
from live.agent.process import AgentProcess, add_arguments
from live.agent.programmed import DEFAULT_ADDRESS, ProgrammedFollower, Vips
from live.bird import Bird
from live.routes import GATEWAY_TABLE, KernelPolicyRoutes
from live.sessions import SessionReports, rfc3339
from live.store import ModelStore

log = logging.getLogger(__name__)

OBSERVE_EVERY_S = 1.0
DRAIN_S = 2.0
"""How long a pod that leaves still carries packets after it has withdrawn its VIPs: those on their way, and replies of application
Pods whose next hops have not been told yet. Less than the pod's grace period (core.manifests.workloads)."""


class Router:
    """One turn of the loop."""

    def __init__(
        self,
        store: ModelStore,
        api: KubeApi,
        bird: Bird,
        rules: PolicyRoutes,
        programmed: ProgrammedFollower,
        *,
        gateway: tuple[str, str],
        pod: str,
        router_id: IPv4Address,
        routers: Informer,
    ) -> None:
        """`store` has the Gateway and its GatewayRouters; `routers` has the latter as they are."""
        self._store = store
        self._routers = routers
        self._api = api
        self._bird = bird
        self._rules = rules
        self._programmed = programmed
        self._gateway = gateway_ref(*gateway)
        self._router_id = router_id
        self._reports = SessionReports(api, pod)
        self._passwords: dict[SecretKey, Secret] = {}
        self._complaints: dict[SecretKey, str] = {}
        """What was last wrong with a password."""
        self._routing: Routing | None = None
        self._peers: tuple[Peer, ...] = ()

    def reconcile(self) -> float:
        """Makes BIRD and the rules agree with the objects and with what is programmed, and reports the sessions.

        A peer whose password cannot be had is left out: it keeps no other from what it has to know.

        Returns the seconds until it wants to look at the sessions again.
        """
        known = self._programmed.vips
        if known is None and self._bird.pid is not None:
            return OBSERVE_EVERY_S  # we restart beside a BIRD that announces: nothing is withdrawn before the load balancer has spoken
        objects = self._store.objects()
        gateway = next((g for g in objects.gateways if g.meta.ref == self._gateway), None)
        if known is not None:
            self._rules.apply(known.vips)
        wanted = peers_of(gateway, objects.routers) if gateway is not None else ()
        if self._routing is not None:
            # First what is known: an API server that does not answer holds up no withdrawal.
            self._tell_bird(wanted, known)
        for peer in wanted:
            self._look_up_password(peer)
        self._tell_bird(wanted, known)
        self._reports.tell(self._peers, self.observe(), self._routers.objects().values())
        return OBSERVE_EVERY_S

    def _tell_bird(self, wanted: Sequence[Peer], known: Vips | None) -> None:
        """Gives BIRD the peers, those that need a password and have none left out, and what is announced."""
        self._peers = tuple(self._with_password(peer) for peer in wanted)
        routing = Routing(
            router_id=self._router_id,
            peers=tuple(peer for peer in self._peers if not _lacks_password(peer)),
            announced=known.announced if known is not None else (),
            vips=known.vips if known is not None else (),
            table=GATEWAY_TABLE,
        )
        if self._bird.configure(bird_text.render(routing)):
            log.info("BIRD configured", extra={"announced": [str(vip) for vip in routing.announced]})
        self._routing = routing

    def leave(self, wait: Callable[[float], object]) -> None:
        """The pod ends: the VIPs are withdrawn, what is under way is carried for another moment, then BIRD says goodbye. A BIRD that
        does not take the withdrawal says goodbye at once.

        Only the order to end leads here. An agent that dies leaves BIRD as it is, and its successor goes on with it.
        """
        if self._routing is not None and self._bird.pid is not None:
            try:
                self._bird.configure(bird_text.render(replace(self._routing, announced=())))
            except DataplaneError as error:
                log.warning("VIPs not withdrawn before leaving", extra={"why": str(error)})
            else:
                log.info("VIPs withdrawn, leaving", extra={"drain_s": DRAIN_S})
                wait(DRAIN_S)
        self._bird.stop()

    def observe(self) -> tuple[PeerState, ...]:
        """What BIRD says of the peers, in their order."""
        sessions = {session.name: session for session in self._bird.sessions()}
        states = []
        for peer in self._peers:
            session = sessions.get(bird_text.protocol_name(peer.name))
            if _lacks_password(peer):
                states.append(PeerState(name=peer.name, up=False, session=NO_PASSWORD, bfd="", since="", announced=0))
            elif session is not None:
                states.append(
                    PeerState(
                        name=peer.name,
                        up=session.established,
                        session=session.state,
                        bfd=session.bfd or "",
                        since=rfc3339(session.since),
                        announced=sum(channel.exported for channel in session.channels),
                    )
                )
        return tuple(states)

    def no_way_out(self) -> str | None:
        """Why this pod cannot carry replies: no peer is up; None when one is, or when there is none to be up."""
        wanted = [peer.name for peer in self._peers if isinstance(peer.routing, Bgp)]
        if not wanted:
            return None
        try:
            states = self.observe()
        except DataplaneError as error:
            return str(error)
        if any(state.up for state in states):
            return None
        return "no BGP session is established: " + ", ".join(f"{s.name} is {s.session}" for s in states)

    def _with_password(self, peer: Peer) -> Peer:
        """The peer with the password that was read last, if it needs one."""
        where = _password_of(peer)
        return peer if where is None else replace(peer, password=self._passwords.get(where))

    def _look_up_password(self, peer: Peer) -> None:
        """Reads the password that the peer needs. As long as it cannot be read, the one that was read last holds.

        Raises ApiError when the API does not tell, and BIRD may have a session whose password was given by our predecessor.
        """
        where = _password_of(peer)
        if where is None:
            return
        try:
            self._passwords[where] = self._read_password(where)
        except (ApiError, InputError) as error:
            silent = isinstance(error, ApiError) and error.code != HTTPStatus.FORBIDDEN
            if silent and self._routing is None:
                raise
            if self._complaints.get(where) != str(error):
                self._complaints[where] = str(error)
                log.warning("no password for a session", extra={"router": str(peer.router), "why": str(error)})
        else:
            self._complaints.pop(where, None)

    def _read_password(self, where: SecretKey) -> Secret:
        """Raises InputError when there is none that can be used, ApiError when the API does not tell."""
        secret = self._api.get(kube.SECRETS, self._gateway.namespace, where.secret) or {}
        encoded = (secret.get("data") or {}).get(where.key)
        try:
            text = base64.b64decode(encoded, validate=True).decode() if isinstance(encoded, str) else ""
        except ValueError:
            text = ""
        if not bird_text.usable_password(text):
            problem = Problem(
                where=f"Secret {self._gateway.namespace}/{where.secret}",
                what=f"no usable key {where.key!r}",
                expected=f"1 to {bird_text.PASSWORD_LIMIT_BYTES} bytes of UTF-8, none a double quote, line break or NUL",
            )
            raise InputError(problem)
        return Secret(text)


def _password_of(peer: Peer) -> SecretKey | None:
    return peer.routing.auth if isinstance(peer.routing, Bgp) else None


def _lacks_password(peer: Peer) -> bool:
    """A session must not come up without the password that was asked for."""
    return _password_of(peer) is not None and peer.password is None


def main(argv: list[str]) -> int:
    """`tidegate agent router`."""
    parser = argparse.ArgumentParser(
        prog="tidegate agent router", description="Runs BIRD in a gateway pod: announces VIPs, takes in default routes."
    )
    pod = os.environ.get("POD_NAME", "router")
    add_arguments(parser, listen=f":{workloads.ROUTER_PORT}")
    parser.add_argument("--gateway", required=True, type=namespaced_name, metavar="NAMESPACE/NAME")
    parser.add_argument("--pod", default=pod, help="name of this pod (default: $POD_NAME)")
    parser.add_argument("--router-id", default=os.environ.get("POD_IP"), help="an IPv4 address (default: $POD_IP)")
    parser.add_argument("--programmed", default=DEFAULT_ADDRESS, metavar="HOST:PORT", help="of the load balancer")
    parser.add_argument(
        "--run-dir", type=Path, default=Path("/run/tidegate") / pod, help="BIRD's files (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    with AgentProcess("router", options) as process:
        bird = Bird(options.run_dir, on_death=process.wake)
        process.exits.callback(bird.close)
        programmed = ProgrammedFollower(process.wake, options.programmed)
        process.exits.callback(programmed.close)
        namespace, name = options.gateway
        gateways = process.watch(kube.GATEWAYS, namespace=namespace, field_selector=f"metadata.name={name}")
        routers = process.watch(kube.GATEWAY_ROUTERS, namespace=namespace, label_selector=f"{names.PROXY_NAME}={name}")
        router = Router(
            ModelStore([gateways, routers]),
            process.kube,
            bird,
            KernelPolicyRoutes(table=GATEWAY_TABLE),
            programmed,
            gateway=options.gateway,
            pod=options.pod,
            router_id=router_id(options.router_id),
            routers=routers,
        )
        process.health.must_hold("sessions", router.no_way_out)
        code = process.run(router.reconcile)
        router.leave(time.sleep)
        return code


def router_id(text: str | None) -> IPv4Address:
    """BGP's identifier of this router (RFC 4271, section 4.2): four octets."""
    try:
        found = ip_address(text or "")
    except ValueError:
        found = None
    if not isinstance(found, IPv4Address):
        problem = Problem(
            where="--router-id", what="not an IPv4 address", found=repr(text), expected="such as 10.0.0.5"
        )
        raise InputError(problem)
    return found
