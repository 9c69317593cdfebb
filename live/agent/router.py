"""The router agent: BIRD beside a load balancer, announcing the VIPs that the load balancer has programmed, and the policy rules by
which replies leave to where the routers are."""

from __future__ import annotations

import argparse
import base64
import binascii
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from core import kube, names
from core.errors import ApiError, DataplaneError, InputError, Problem
from core.kube import Informer, KubeApi
from core.manifests import workloads
from core.model import Bgp, Gateway, GatewayRouter, SecretKey
from core.plan import gateway_ref, peers_of
from core.ports import Peer, PeerState, PolicyRoutes, Routing
from core.router import bird as bird_text
from core.secret import Secret
from live.agent.load_balancer import namespaced_name
from live.agent.process import AgentProcess, add_arguments
from live.agent.programmed import DEFAULT_ADDRESS, ProgrammedFollower
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
        self._routing: Routing | None = None
        self._peers: tuple[Peer, ...] = ()

    def reconcile(self) -> float:
        """Makes BIRD and the rules agree with the objects and with what is programmed, and reports the sessions.

        Returns the seconds until it wants to look at the sessions again.
        """
        known = self._programmed.vips
        if known is None and self._bird.pid is not None:
            return OBSERVE_EVERY_S  # we restart beside a BIRD that announces: nothing is withdrawn before the load balancer has spoken
        objects = self._store.objects()
        gateway = next((g for g in objects.gateways if g.meta.ref == self._gateway), None)
        vips = known.vips if known is not None else ()
        if known is not None:
            self._rules.apply(vips)
        self._peers = self._with_passwords(gateway, objects.routers)
        routing = Routing(
            router_id=self._router_id,
            peers=self._peers,
            announced=known.announced if known is not None else (),
            vips=vips,
            table=GATEWAY_TABLE,
        )
        if self._bird.configure(bird_text.render(routing)):
            log.info("BIRD configured", extra={"announced": [str(vip) for vip in routing.announced]})
        self._routing = routing
        self._reports.tell(self._peers, self.observe(), self._routers.objects().values())
        return OBSERVE_EVERY_S

    def leave(self, wait: Callable[[float], object]) -> None:
        """The pod ends: the VIPs are withdrawn, what is under way is carried for another moment, then BIRD says goodbye.

        Only the order to end leads here. An agent that dies leaves BIRD as it is, and its successor goes on with it.
        """
        if self._routing is not None and self._bird.pid is not None:
            self._bird.configure(bird_text.render(replace(self._routing, announced=())))
            log.info("VIPs withdrawn, leaving", extra={"drain_s": DRAIN_S})
            wait(DRAIN_S)
        self._bird.stop()

    def observe(self) -> tuple[PeerState, ...]:
        """What BIRD says of the peers, in their order."""
        sessions = {session.name: session for session in self._bird.sessions()}
        states = []
        for peer in self._peers:
            session = sessions.get(bird_text.protocol_name(peer.name))
            if session is not None:
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

    def _with_passwords(self, gateway: Gateway | None, routers: tuple[GatewayRouter, ...]) -> tuple[Peer, ...]:
        peers = []
        for peer in peers_of(gateway, routers) if gateway is not None else ():
            auth = peer.routing.auth if isinstance(peer.routing, Bgp) else None
            peers.append(peer if auth is None else replace(peer, password=self._password(auth)))
        return tuple(peers)

    def _password(self, where: SecretKey) -> Secret:
        """Raises InputError when there is none: a session must not come up without the password that was asked for.

        While the API does not answer, the password that it told last holds.
        """
        try:
            secret = self._api.get(kube.SECRETS, self._gateway.namespace, where.secret) or {}
        except ApiError:
            if where in self._passwords:
                return self._passwords[where]
            raise
        text = (secret.get("data") or {}).get(where.key)
        problem = Problem(where=f"Secret {self._gateway.namespace}/{where.secret}", what=f"no usable key {where.key!r}")
        if not isinstance(text, str):
            raise InputError(problem)
        try:
            self._passwords[where] = Secret(base64.b64decode(text, validate=True).decode())
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InputError(problem) from error
        return self._passwords[where]


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
