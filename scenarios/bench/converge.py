"""bench converge: from the change of one endpoint in the API to the first packet that follows it.

What runs is the product: the controller's process, a load balancer's process in a gateway's namespace, its data plane in the kernel;
and the imitated API server between them. Endpoints are Pods that exist in the API alone: their addresses are neighbours of the gateway
with a MAC address each, by which a packet that arrives tells whose it is.

A Pod is made unready, and ready again. The clock starts before the request is sent, and it stops at the first packet of a flow of that
Pod that goes elsewhere, or to it again; packets of the flow are sent every millisecond. So what is measured is: request, watch, plan,
slice, watch, forwarding, table, kernel.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np

from core import kube, names
from core.errors import TidegateError
from core.kube import Json
from core.lb.classifier import Packet
from core.lb.fingerprint import fingerprint
from core.lb.forwarding import Forwarding
from core.lb.forwarding import Target as LbTarget
from core.lb.index import Classifier
from core.manifests import parse_object
from core.manifests.workloads import LOAD_BALANCER_PORT
from core.model import L4Protocol
from core.objects import Objects
from core.plan import forwarding_of
from live.agent.load_balancer import READ
from live.kube import KubeClient, connect
from scenarios.api_servers import our_crds
from scenarios.bench import Report, Row, Target
from scenarios.bench.lab import Lab, Namespace, mac_of, udp_frame
from sim.net.namespaces import ip_batch, namespace_of

BOUND_MS: Final = 100.0
ENDPOINTS: Final = (10, 1000)
PLANES: Final = ("tc", "nft")
VIP: Final = IPv4Address("20.0.0.1")
CLIENT: Final = IPv4Address("200.100.0.1")
PORT: Final = 4000
GATEWAY: Final = "gateway"
NETWORK: Final = "nad"
FIRST_ENDPOINT: Final = IPv4Address("10.16.0.10")
HERE, THERE = "10.255.0.1", "10.255.0.2"
"""The bench, with the API server, and the gateway, on a network between them."""
DEADLINE_S: Final = 60.0
PROBE_S: Final = 0.001
PAUSE_S: Final = 0.1
"""Between two changes: a change of its own, not one of a storm."""
FIELD_MANAGER: Final = "tidegate-bench"


def run(quick: bool) -> Report:
    """Both data planes, few and many endpoints. Expects to be in a sandbox."""
    changes = 6 if quick else 200
    rows: list[Row] = []
    targets = []
    for plane in PLANES:
        for endpoints in ENDPOINTS[:1] if quick else ENDPOINTS:
            with ExitStack() as exits:
                world = _World(exits, plane, endpoints)
                followed_ms, sliced_ms = world.measure(changes)
            p99_ms = float(np.percentile(followed_ms, 99))
            rows.append(
                {"dataplane": plane, "endpoints": endpoints, "changes": len(followed_ms)}
                | {f"p{p}_ms": round(float(np.percentile(followed_ms, p)), 1) for p in (50, 99)}
                | {"max_ms": round(max(followed_ms), 1), "slice_p50_ms": round(float(np.percentile(sliced_ms, 50)), 1)}
            )
            name = f"p99_ms by {plane} at {endpoints} endpoints"
            targets.append(Target(name=name, op="<=", bound=BOUND_MS, value=round(p99_ms, 1)))
    return Report(
        bench="converge",
        rows=rows,
        targets=targets,
        notes=[
            "From before the request that changes a Pod's readiness to the first packet that follows it, wall time.",
            "slice_p50_ms: of that, until the EndpointSlice's change is seen by a watch: the controller's part.",
            f"A packet is sent every {PROBE_S * 1e3:g} ms; a change every {PAUSE_S * 1e3:g} ms after the last one was followed.",
        ],
    )


class _World:
    """API server, controller, one load balancer, and endpoints that are neighbours."""

    def __init__(self, exits: ExitStack, plane: str, endpoints: int) -> None:
        self._exits = exits
        self._folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-bench-")))
        self._lab = Lab.make(targets=1)
        exits.callback(self._lab.close)
        self._gateway = self._lab.gateways[0]
        self._endpoints = [FIRST_ENDPOINT + number for number in range(endpoints)]
        self._lay_networks()
        self._kubeconfig = self._start_api_server()
        self._api: KubeClient = connect(self._kubeconfig)
        exits.callback(self._api.close)
        self._slice_seen_s = 0.0
        self._slice_changed = threading.Event()
        self._create_objects()
        self._start(None, "controller", "--listen", "127.0.0.1:0")
        self._start(self._gateway, "agent", "load-balancer", "--gateway", f"default/{GATEWAY}", "--dataplane", plane)
        self._api.watch(kube.ENDPOINT_SLICES, self._see_slice)
        self._forwarding = self._converged()
        self._sender, self._receiver = self._sockets()

    # --- up --------------------------------------------------------------------------------------------------------------

    def _lay_networks(self) -> None:
        self._gateway.ip(
            "link set t0 down",
            "address flush dev t0",
            "link set t0 up",
            "address add 10.16.0.1/16 dev t0",
            *(f"neigh replace {a} lladdr {_mac_of(a).hex(':')} dev t0 nud permanent" for a in self._endpoints),
        )
        here = namespace_of(os.getpid())
        ip_batch(
            here,
            [
                "link set lo up",
                f"link add bench0 type veth peer name eth0 netns {self._gateway.path}",
                "link set bench0 up",
                f"address add {HERE}/30 dev bench0",
            ],
        )
        self._exits.callback(ip_batch, here, ["link delete bench0"])
        self._gateway.ip("link set eth0 up", f"address add {THERE}/30 dev eth0")

    def _start_api_server(self) -> Path:
        kubeconfig = self._folder / "kubeconfig"
        ready, said = os.pipe()
        command = ["-m", "sim.cluster.apiserver", "--listen", f"{HERE}:0", "--kubeconfig-out", str(kubeconfig)]
        self._popen(None, [*command, "--ready-fd", str(said)], said)
        os.close(said)
        with os.fdopen(ready, "rb") as answer:
            if not select.select([answer], [], [], DEADLINE_S)[0] or not answer.readline():
                raise TidegateError(f"the API server did not start: {self._log().read_text()[-500:]}")
        return kubeconfig

    def _start(self, where: Namespace | None, *command: str) -> None:
        self._popen(where, ["-m", "scenarios.cli", *command, "--kubeconfig", str(self._kubeconfig)])

    def _popen(self, where: Namespace | None, arguments: Sequence[str], pass_fd: int | None = None) -> None:
        def start() -> subprocess.Popen[bytes]:
            with self._log().open("ab") as log:
                return subprocess.Popen(
                    [sys.executable, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=() if pass_fd is None else (pass_fd,),
                )

        process = start() if where is None else where.run(start)
        self._exits.callback(process.wait)
        self._exits.callback(process.kill)

    def _log(self) -> Path:
        return self._folder / "log"

    def _create_objects(self) -> None:
        for crd in our_crds():
            self._api.apply(kube.CRDS, crd, field_manager=FIELD_MANAGER)
        for resource, obj in _written(len(self._endpoints)):
            self._api.apply(resource, obj, field_manager=FIELD_MANAGER)
        for number, address in enumerate(self._endpoints):
            self._api.create(kube.PODS, _pod(number, address))
            self._set_ready(number, ready=True)

    def _set_ready(self, number: int, *, ready: bool) -> None:
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        patch = {"status": {"phase": "Running", "conditions": conditions}}
        self._api.merge_patch(kube.PODS, "default", f"pod-{number}", patch, subresource="status")

    # --- what is so --------------------------------------------------------------------------------------------------------

    def _converged(self) -> Forwarding:
        """What the kernel of the gateway has when all endpoints stand in it."""
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            objects = Objects.of(
                model
                for resource in READ
                for raw in self._api.list(resource)
                if (model := parse_object(raw)) is not None
            )
            forwarding = forwarding_of(objects, "default", GATEWAY)
            stored = forwarding is not None and len(_targets(forwarding)) == len(self._endpoints)
            if forwarding is not None and stored and f'"{fingerprint(forwarding)}"' in self._metrics():
                return forwarding
            time.sleep(0.1)
        raise TidegateError(f"not converged within {DEADLINE_S:g} s: {self._log().read_text()[-1000:]}")

    def _metrics(self) -> str:
        try:
            with urllib.request.urlopen(f"http://{THERE}:{LOAD_BALANCER_PORT}/metrics", timeout=2) as answer:
                text: bytes = answer.read()
        except (urllib.error.URLError, OSError):
            return ""
        return text.decode()

    def _see_slice(self, _name: object) -> None:
        self._slice_seen_s = time.monotonic()
        self._slice_changed.set()

    # --- measuring ---------------------------------------------------------------------------------------------------------

    def _sockets(self) -> tuple[socket.socket, socket.socket]:
        def opened(interface: str) -> socket.socket:
            everything = 3
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(everything))
            made.bind((interface, everything))
            made.setblocking(False)
            self._exits.callback(made.close)
            return made

        sender = self._lab.client.run(lambda: opened("c0"))
        return sender, self._lab.targets[0].run(lambda: opened("net0"))

    def measure(self, changes: int) -> tuple[list[float], list[float]]:
        """Milliseconds until a packet followed, and until the slice had changed; each Pod is changed twice."""
        draw = np.random.default_rng(1)
        classifier = Classifier(self._forwarding)
        followed_ms, sliced_ms = [], []
        for _ in range(changes // 2):
            number = int(draw.integers(len(self._endpoints)))
            frame = self._frame_to(classifier, number)
            for ready in (False, True):
                time.sleep(PAUSE_S)
                self._slice_changed.clear()
                begin_s = time.monotonic()
                self._set_ready(number, ready=ready)
                end_s = self._followed(frame, _mac_of(self._endpoints[number]), arrives=ready)
                followed_ms.append((end_s - begin_s) * 1e3)
                if not self._slice_changed.wait(DEADLINE_S):
                    raise TidegateError("a packet followed a change that no EndpointSlice told of")
                sliced_ms.append((self._slice_seen_s - begin_s) * 1e3)
        return followed_ms, sliced_ms

    def _frame_to(self, classifier: Classifier, number: int) -> bytes:
        """A packet that goes to this endpoint while all are ready."""
        for port in count(1024):
            packet = Packet(
                source=CLIENT, destination=VIP, protocol=L4Protocol.UDP, source_port=port, destination_port=PORT
            )
            target = classifier.decide(packet).target
            if target is not None and target.address == self._endpoints[number]:
                macs = mac_of(self._gateway, "ext0"), mac_of(self._lab.client, "c0")
                return udp_frame(*macs, (CLIENT, VIP), (port, PORT))
        raise AssertionError

    def _followed(self, frame: bytes, mac: bytes, *, arrives: bool) -> float:
        """When the first packet arrived at this MAC address, or at another one."""
        deadline_s = time.monotonic() + DEADLINE_S
        while (now_s := time.monotonic()) < deadline_s:
            self._sender.send(frame)
            if not select.select([self._receiver], [], [], PROBE_S)[0]:
                continue
            arrived = self._receiver.recv(2048)
            if arrived[12:14] == b"\x08\x00" and arrived[30:34] == VIP.packed and (arrived[:6] == mac) == arrives:
                return now_s
            time.sleep(PROBE_S)
        raise TidegateError(f"no packet followed within {DEADLINE_S:g} s: {self._log().read_text()[-1000:]}")


def _targets(forwarding: Forwarding) -> set[LbTarget]:
    return {target for pool in forwarding.pools for target in pool.targets}


def _mac_of(endpoint: IPv4Address) -> bytes:
    return b"\x02\x00" + endpoint.packed


def _written(endpoints: int) -> list[tuple[kube.Resource, Json]]:
    """What a person writes: class, gateway, Service, route."""
    gateway_networks = [{"name": "outside", "interface": "ext0"}]
    annotations = {
        names.POD_NETWORKS: json.dumps(gateway_networks),
        names.ENDPOINT_NETWORKS: json.dumps([{"name": NETWORK, "interface": "net1"}]),
    }
    route_spec = {
        "parentRefs": [{"name": GATEWAY}],
        "backendRefs": [{"name": "service", "port": PORT}],
        "priority": 1,
        "protocols": ["TCP", "UDP"],
        "destinationCIDRs": [f"{VIP}/32"],
    }
    service_spec = {"selector": {"app": "app"}, "ports": [{"port": PORT}]}
    labels, limit = {names.PROXY_NAME: GATEWAY}, {names.MAX_ENDPOINTS: str(endpoints)}
    return [
        (kube.NAMESPACES, _object("v1", "Namespace", "default", {}, namespace=None)),
        (
            kube.GATEWAYS,
            _object(
                "gateway.networking.k8s.io/v1",
                "Gateway",
                GATEWAY,
                {
                    "gatewayClassName": names.STATELESS_LOAD_BALANCER,
                    "listeners": [{"name": "all", "port": PORT, "protocol": "TCP"}],
                    "infrastructure": {"annotations": annotations},
                },
            ),
        ),
        (kube.SERVICES, _object("v1", "Service", "service", service_spec, labels=labels, annotations=limit)),
        (kube.L34_ROUTES, _object("l34.gateway.api.poc/v1alpha1", "L34Route", "route", route_spec)),
    ]


def _pod(number: int, address: IPv4Address) -> Json:
    status = [{"name": f"default/{NETWORK}", "interface": "net1", "ips": [str(address)]}]
    annotations = {names.NETWORK_STATUS: json.dumps(status), names.ATTACHED: json.dumps([f"{VIP}/32"])}
    spec = {"containers": [{"name": "target", "image": "target"}]}
    return _object("v1", "Pod", f"pod-{number}", spec, labels={"app": "app"}, annotations=annotations)


def _object(
    version: str, kind: str, name: str, spec: Json, *, namespace: str | None = "default", **metadata: dict[str, str]
) -> Json:
    head: Json = {"name": name, **({"namespace": namespace} if namespace else {}), **metadata}
    return {"apiVersion": version, "kind": kind, "metadata": head, "spec": spec}
