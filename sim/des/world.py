"""The virtual-time world: its parts put together."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from core.kube import DEPLOYMENTS, Json, Resource
from core.lb.placement import FiveTuples
from core.manifests.workloads import Build
from core.model import L4Protocol
from sim.apps.target import TCP_PORTS, UDP_PORTS
from sim.cluster.images import TARGET_IMAGE, ContainerError, Executed, Forked, find_program
from sim.des.api import Api
from sim.des.controller import Controller
from sim.des.endpoint import EndpointAgent
from sim.des.fabric import Fabric, PodPlace
from sim.des.gateway import GatewayPod
from sim.des.kernel import US, Kernel
from sim.des.latencies import Latencies
from sim.des.nodes import MakeProgram, Nodes, TellReady
from sim.des.parts import Parts
from sim.des.routing import Ecmp, FixedRouting, OutsideRouter, Rib, Routing
from sim.des.traffic import Drive
from sim.des.workloads import Workloads

PERSON = "tidegate-run"
_IMAGES: dict[str, Executed | Forked] = {
    "tidegate": Executed(command=("tidegate",)),
    TARGET_IMAGE: Forked(program="target"),
}
_SERVED = frozenset([(L4Protocol.TCP, port) for port in TCP_PORTS] + [(L4Protocol.UDP, port) for port in UDP_PORTS])


class VirtualWorld:
    """A cluster with Tidegate on it and routers outside, in virtual time. Time passes only in `advance`.

    Deterministic: what happens depends on the arguments of the calls and their order only.
    """

    def __init__(
        self,
        *,
        nodes: int,
        routers: Iterable[OutsideRouter],
        latencies: Latencies | None = None,
        routing: Routing | None = None,
        ecmp: Ecmp | None = None,
    ) -> None:
        self.kernel = kernel = Kernel()
        self.latencies = latencies = latencies or Latencies()
        self.api = Api(kernel, watch_s=latencies.watch_s)
        self.fabric = Fabric(kernel, routers, ecmp)
        self.gateways: dict[str, GatewayPod] = {}
        """Gateway pods by the UIDs of their Pods."""
        self._parts = Parts(
            kernel=kernel,
            api=self.api,
            latencies=latencies,
            fabric=self.fabric,
            routing=routing or FixedRouting(kernel, latencies),
        )
        Workloads(kernel, self.api, latencies)
        self._nodes = Nodes(kernel, self.api, latencies, self.fabric, self._program_of)
        for number in range(1, nodes + 1):
            self._nodes.add(f"node-{number}")

    # --- time -----------------------------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return self.kernel.now_s

    @property
    def cluster_quiet(self) -> bool:
        """Nothing is under way that would change the cluster by itself, sessions that come up left out."""
        return self.kernel.under_way == 0

    @property
    def quiet(self) -> bool:
        """Nothing is under way that would change the cluster or its routes by itself."""
        return self.cluster_quiet and self.kernel.routing_under_way == 0

    def advance(self, until_s: float) -> bool:
        """Goes to the next moment at which something happens, or to `until_s`; False when nothing happens before."""
        return self.kernel.step(round(until_s * US))

    def settle(self, *, limit_s: float) -> None:
        """Lets time pass until the world is quiet. Raises TimeoutError when it is not within `limit_s`."""
        end_s = self.now_s + limit_s
        while not self.quiet:
            if not self.advance(end_s):
                raise TimeoutError(f"the virtual world is not quiet after {limit_s:g} s of its time")

    # --- what a person does -----------------------------------------------------------------------------------------------------

    def apply(self, resource: Resource, obj: Json) -> None:
        """Server-side apply. Raises ApiError."""
        self.api.apply(resource, obj, client=PERSON)

    def scale(self, namespace: str, deployment: str, replicas: int) -> None:
        """Raises ApiError when there is no such Deployment."""
        self.api.patch(DEPLOYMENTS, namespace, deployment, {"spec": {"replicas": replicas}}, client=PERSON)

    def delete(self, resource: Resource, namespace: str, name: str) -> None:
        self.api.delete(resource, namespace, name, client=PERSON)

    def drive(self, *, router: str, tuples: FiveTuples, stays_open: bool, timeout_s: float) -> Drive:
        """Opens connections now."""
        return Drive(
            self.kernel,
            self.fabric,
            self.latencies,
            router=router,
            tuples=tuples,
            stays_open=stays_open,
            timeout_s=timeout_s,
        )

    def rib(self, router: str) -> Rib:
        """What a router outside has learned."""
        return self.fabric.ribs[router]

    # --- what images stand for -----------------------------------------------------------------------------------------------------

    def _program_of(self, pod: Json) -> MakeProgram:
        """What the containers of a Pod do together. Raises ContainerError."""
        containers = pod["spec"]["containers"]
        programs = [find_program(container.get("image") or "", _IMAGES) for container in containers]
        if programs == [_IMAGES[TARGET_IMAGE]]:
            return partial(_Target, self._parts)
        arguments = [tuple(container.get("args") or ()) for container in containers]
        for words in arguments:
            match words:
                case ("controller", *rest):
                    build = Build(dataplane=_option(rest, "--dataplane", "auto"))
                    return partial(self._controller, build)
                case ("agent", "endpoint", *_):
                    return partial(EndpointAgent, self._parts)
                case ("agent", "load-balancer", *rest):
                    return partial(self._gateway, _option(rest, "--gateway", ""))
                case _:
                    continue
        raise ContainerError("RunContainerError", f"no model of what {arguments} of image 'tidegate' do")

    def _controller(self, build: Build, place: PodPlace, tell_ready: TellReady) -> Controller:
        return Controller(self._parts, place, tell_ready, build)

    def _gateway(self, gateway: str, place: PodPlace, tell_ready: TellReady) -> GatewayPod:
        namespace, _, name = gateway.partition("/")
        made = self.gateways[place.uid] = GatewayPod(self._parts, place, tell_ready, namespace, name)
        return made


def _option(words: list[str], name: str, default: str) -> str:
    return words[words.index(name) + 1] if name in words[:-1] else default


class _Target:
    """Models: the testbed's target, which listens on its ports as soon as it runs. Does not model: what it answers."""

    def __init__(self, parts: Parts, place: PodPlace, tell_ready: TellReady) -> None:
        self.start_s = parts.latencies.target_start_s
        self._fabric, self._place, self._tell_ready = parts.fabric, place, tell_ready

    def start(self) -> None:
        self._place.listening = _SERVED
        self._fabric.changed.fire()
        self._tell_ready(True)

    def stop(self) -> None:
        self._place.listening = frozenset()
        self._fabric.changed.fire()
