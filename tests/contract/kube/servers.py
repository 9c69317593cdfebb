"""Starts the two servers of the contract: the imitated one, and a real kube-apiserver where there is one.

The real one is taken from the folder that KUBEBUILDER_ASSETS names (the envtest convention): etcd, kube-apiserver, and
kube-controller-manager for what follows from deletes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.contract.kube.client import Server

ROOT: Final = Path(__file__).parents[3]
START_DEADLINE_S: Final = 60.0
_TOKEN: Final = "contract"


def assets() -> Path | None:
    """The folder with a real control plane, None when there is none."""
    named = os.environ.get("KUBEBUILDER_ASSETS", "")
    folder = Path(named)
    wanted = ("etcd", "kube-apiserver", "kube-controller-manager")
    return folder if named and all((folder / name).exists() for name in wanted) else None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _start_imitated(folder: Path, listen: str, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """The imitated server; returns when it is ready."""
    ready, tell = os.pipe()
    command = [sys.executable, "-m", "sim.cluster.apiserver", "--listen", listen]
    command += ["--kubeconfig-out", str(folder / "kubeconfig"), "--ready-fd", str(tell), *options]
    with (folder / "apiserver.log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log, pass_fds=(tell,), cwd=ROOT)
    os.close(tell)
    try:
        readable, _, _ = select.select([ready], [], [], START_DEADLINE_S)
        told = os.read(ready, 100) if readable else b""
        if told != b"ready\n":
            _stop(process)
            raise AssertionError(f"the server is not ready: {(folder / 'apiserver.log').read_text()}")
    finally:
        os.close(ready)
    return process


@contextlib.contextmanager
def imitated(folder: Path, *options: str) -> Iterator[Server]:
    """The imitated server on a free port of the loopback interface."""
    running = [_start_imitated(folder, "127.0.0.1:0", options)]
    kubeconfig = folder / "kubeconfig"
    config: dict[str, Any] = json.loads(kubeconfig.read_text())
    url: str = config["clusters"][0]["cluster"]["server"]

    def restart() -> None:
        process = running.pop()
        process.kill()
        process.wait()
        running.append(_start_imitated(folder, url.removeprefix("http://"), options))

    try:
        token = config["users"][0]["user"].get("token", "")
        yield Server(name="imitated", url=url, kubeconfig=kubeconfig, token=token, restart=restart)
    finally:
        for process in running:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _etcd(binary: Path, folder: Path, client: int, peer: int) -> list[str]:
    own, other = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    return [
        str(binary), "--data-dir", str(folder / "etcd"), "--listen-client-urls", own, "--advertise-client-urls", own,
        "--listen-peer-urls", other, "--initial-advertise-peer-urls", other, "--initial-cluster", f"default={other}",
        "--unsafe-no-fsync",
    ]  # fmt: skip


def _apiserver(binary: Path, folder: Path, etcd: int, port: int) -> list[str]:
    key = folder / "sa.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    (folder / "tokens.csv").write_text(f'{_TOKEN},admin,admin,"system:masters"\n')
    return [
        str(binary), "--etcd-servers", f"http://127.0.0.1:{etcd}", "--cert-dir", str(folder / "certs"),
        "--bind-address", "127.0.0.1", "--secure-port", str(port), "--token-auth-file", str(folder / "tokens.csv"),
        "--authorization-mode", "RBAC", "--disable-admission-plugins", "ServiceAccount",
        "--service-account-issuer", "https://contract.test", "--service-account-key-file", str(key),
        "--service-account-signing-key-file", str(key), "--service-cluster-ip-range", "10.96.0.0/16",
    ]  # fmt: skip


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    request = urllib.request.Request(f"{url}/readyz", headers={"Authorization": f"Bearer {_TOKEN}"})
    ends = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < ends:
        assert process.poll() is None, f"kube-apiserver ended: {log.read_text()[-2000:]}"
        with (
            contextlib.suppress(OSError, urllib.error.URLError),
            urllib.request.urlopen(request, context=trusting, timeout=2),
        ):
            return
        time.sleep(0.1)  # the server tells nobody when it is ready; the deadline is above
    raise AssertionError(f"kube-apiserver was not ready in {START_DEADLINE_S} s: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def real(binaries: Path, folder: Path) -> Iterator[Server]:
    """A real kube-apiserver with its etcd, and the controllers that collect garbage and empty namespaces."""
    etcd_port, peer_port, port = _free_port(), _free_port(), _free_port()
    url = f"https://127.0.0.1:{port}"
    started: dict[str, subprocess.Popen[bytes]] = {}

    def start(command: list[str]) -> None:
        name = Path(command[0]).name
        with (folder / f"{name}.log").open("ab") as log:
            # It goes with these tests, however they end.
            started[name] = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log)

    def start_apiserver() -> None:
        start(apiserver)
        _wait_ready(url, started["kube-apiserver"], folder / "kube-apiserver.log")

    def restart() -> None:
        started["kube-apiserver"].kill()
        started["kube-apiserver"].wait()
        start_apiserver()

    try:
        start(_etcd(binaries / "etcd", folder, etcd_port, peer_port))
        apiserver = _apiserver(binaries / "kube-apiserver", folder, etcd_port, port)
        start_apiserver()
        ca = folder / "certs" / "apiserver.crt"
        kubeconfig = folder / "kubeconfig"
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "contract",
            "clusters": [{"name": "contract", "cluster": {"server": url, "certificate-authority": str(ca)}}],
            "users": [{"name": "contract", "user": {"token": _TOKEN}}],
            "contexts": [{"name": "contract", "context": {"cluster": "contract", "user": "contract"}}],
        }  # fmt: skip
        kubeconfig.write_text(json.dumps(config))
        start([
            str(binaries / "kube-controller-manager"), "--kubeconfig", str(kubeconfig), "--leader-elect=false",
            "--controllers", "garbage-collector-controller,namespace-controller", "--secure-port", "0",
            "--use-service-account-credentials=false",
        ])  # fmt: skip
        yield Server(name="real", url=url, kubeconfig=kubeconfig, token=_TOKEN, ca=ca, restart=restart)
    finally:
        for process in reversed(started.values()):
            _stop(process)
