"""The control plane's host with a real Kubernetes API server on it: etcd, kube-apiserver, and the two controllers that tidy up.

What is real: storage, admission, validation, access rules (RBAC) and their enforcement, tokens of ServiceAccounts, watches, garbage
collection. Nodes, Pods and workloads are imitated all the same: kube-controller-manager runs without its Deployment, DaemonSet,
EndpointSlice and node controllers, because `Workloads` and `Kubelet` are these.
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import ssl
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from core.kube import Json
from sim.cluster.cluster_network import ClusterNetwork
from sim.cluster.control_plane import PORT, ControlPlaneError, add_host
from sim.net.node import NetworkHost
from sim.net.topology import VirtualNetwork

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
START_DEADLINE_S = 60.0
READY_POLL_S = 0.05
READY_TIMEOUT_S = 2.0
ETCD = "http://127.0.0.1:2379"
ETCD_PEER = "http://127.0.0.1:2380"
SERVICE_CIDRS = "10.96.0.0/16,fd00:96::/112"
CONTROLLERS = "garbage-collector-controller,namespace-controller"
AUDIT_LOG = "audit.jsonl"
"""In the folder of logs: every request that a ServiceAccount made, one audit.k8s.io Event a line, without bodies."""

# Only what ServiceAccounts ask, once it is answered. Watches are told of when they begin.
_AUDIT_POLICY: Json = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}


class RealControlPlane:
    """The host `control-plane` with the real API server, and the run's own place on the cluster's network. `binaries` has PROGRAMS."""

    def __init__(
        self, network: VirtualNetwork, *, binaries: Path, run_dir: Path, log_dir: Path, cluster: ClusterNetwork
    ) -> None:
        self._network = network
        self._binaries = binaries
        self._cluster = cluster
        self._folder = run_dir / "control-plane"
        self._logs = log_dir
        self._started: list[subprocess.Popen[bytes]] = []
        self._token = secrets.token_urlsafe(24)
        address = cluster.control_plane[0].ip
        self._address = str(address)
        self._url = f"https://{address}:{PORT}"
        self.kubeconfig = run_dir / "kubeconfig"
        """For every client that may do everything; it exists when `start` has returned."""

    def start(self) -> None:
        """Adds the host, attaches the run itself, starts the servers; returns when the API server is ready.

        Raises:
            ControlPlaneError: a server ended, or the API server was not ready in time.
        """
        host = add_host(self._network, self._cluster)
        self._folder.mkdir(parents=True, mode=0o700)
        try:
            self._run(host, "etcd", self._etcd())
            server = self._run(host, "kube-apiserver", self._apiserver())
            self._wait(server)
            self.kubeconfig.write_text(json.dumps(self.config(self._token)))
            self.kubeconfig.chmod(0o600)
            # Nobody waits for it: it tidies up behind deletions.
            self._run(host, "kube-controller-manager", self._controller_manager())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the servers. All that they know ends with the run, so there is nothing for which they would need time."""
        for process in reversed(self._started):
            process.kill()
        for process in self._started:
            process.wait()
        self._started.clear()

    def config(self, token: str) -> Json:
        """A kubeconfig for who has `token`; ``""``: for nobody in particular."""
        authority = base64.b64encode((self._folder / "certs" / "apiserver.crt").read_bytes()).decode()
        cluster = {"server": self._url, "certificate-authority-data": authority}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "testbed",
            "clusters": [{"name": "testbed", "cluster": cluster}],
            "users": [{"name": "testbed", "user": {"token": token} if token else {}}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
        }

    def _run(self, host: NetworkHost, program: str, flags: Mapping[str, str]) -> subprocess.Popen[bytes]:
        command = [str(self._binaries / program), *(f"--{name}={value}" for name, value in flags.items())]
        with (self._logs / f"{program}.log").open("ab") as log:
            process: subprocess.Popen[bytes] = host.popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )
        self._started.append(process)
        return process

    def _etcd(self) -> Mapping[str, str]:
        return {
            "data-dir": str(self._folder / "etcd"),
            "listen-client-urls": ETCD,
            "advertise-client-urls": ETCD,
            "listen-peer-urls": ETCD_PEER,
            "initial-advertise-peer-urls": ETCD_PEER,
            "initial-cluster": f"default={ETCD_PEER}",
            # Nothing outlives the run, so nothing has to reach a disk.
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        }

    def _apiserver(self) -> Mapping[str, str]:
        tokens = self._folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self._token},testbed,testbed,"system:masters"\n')
        policy = self._folder / "audit-policy.json"
        policy.write_text(json.dumps(_AUDIT_POLICY))
        certificates = self._folder / "certs"
        # The server makes certificate and key by itself; the same key signs the tokens of ServiceAccounts.
        key = str(certificates / "apiserver.key")
        return {
            "etcd-servers": ETCD,
            "bind-address": self._address,
            "advertise-address": self._address,
            "secure-port": str(PORT),
            "cert-dir": str(certificates),
            "token-auth-file": str(tokens),
            "authorization-mode": "RBAC",
            # Tokens come from the imitated kubelet; volumes, through which the plugin would hand them out, are not modelled.
            "disable-admission-plugins": "ServiceAccount",
            # The strictest that a cluster may be about owner references: rbac.yaml must do for it.
            "enable-admission-plugins": "OwnerReferencesPermissionEnforcement",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": key,
            "service-account-signing-key-file": key,
            "service-cluster-ip-range": SERVICE_CIDRS,
            "audit-policy-file": str(policy),
            "audit-log-path": str(self._logs / AUDIT_LOG),
        }

    def _controller_manager(self) -> Mapping[str, str]:
        return {
            "kubeconfig": str(self.kubeconfig),
            "controllers": CONTROLLERS,
            "leader-elect": "false",
            "use-service-account-credentials": "false",
            "secure-port": "0",
        }

    def _wait(self, server: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + START_DEADLINE_S
        while not self._is_ready():
            ended = [process for process in self._started if process.poll() is not None]
            if ended or time.monotonic() > deadline_s:
                what = "ended" if ended else f"was not ready within {START_DEADLINE_S:g} s"
                program = "kube-apiserver" if not ended or server in ended else "etcd"
                words = (self._logs / f"{program}.log").read_text(errors="replace").splitlines()[-3:]
                raise ControlPlaneError(f"{program} {what}: {'; '.join(words)}")
            time.sleep(READY_POLL_S)

    def _is_ready(self) -> bool:
        try:
            trusting = ssl.create_default_context(cafile=str(self._folder / "certs" / "apiserver.crt"))
            server = http.client.HTTPSConnection(self._address, PORT, timeout=READY_TIMEOUT_S, context=trusting)
            try:
                server.request("GET", "/readyz", headers={"Authorization": f"Bearer {self._token}"})
                return server.getresponse().status == http.HTTPStatus.OK
            finally:
                server.close()
        except (OSError, http.client.HTTPException):
            return False  # no certificate yet, or nobody listens yet
