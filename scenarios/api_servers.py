"""Whose Kubernetes API a virtual cluster runs on: the imitated server, or a real kube-apiserver as an operator would have set it up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, assert_never

import live
import sim.cluster
from core.errors import ApiError, MachineError
from core.kube import ALL_RESOURCES, CRDS, Json, KubeApi, Resource
from scenarios.spec import ApiServer
from scenarios.yamlsource import read_documents
from sim.cluster.cluster_network import ClusterNetwork
from sim.cluster.control_plane import ControlPlane
from sim.cluster.pod_sandbox import KubeconfigOf
from sim.cluster.real_control_plane import PROGRAMS, RealControlPlane
from sim.cluster.service_accounts import ServiceAccountTokens
from sim.net.topology import VirtualNetwork

FIELD_MANAGER = "tidegate-installer"
DEPLOY = Path(live.__file__ or "").parent / "deploy"
NETWORKS_CRD = Path(sim.cluster.__file__ or "").parent / "network_attachment_definitions.yaml"
ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
GATEWAY_API_VARIABLE = "TIDEGATE_GATEWAY_API_CRDS"
BESIDE_CHECKOUT = Path(__file__).parents[2] / "shared" / "gateway-api"
SERVED_DEADLINE_S = 30.0
SERVED_POLL_S = 0.02
_ACCESS = {
    resource.kind: resource
    for resource in (
        Resource(group="", version="v1", plural="serviceaccounts", kind="ServiceAccount"),
        *(
            Resource(group="rbac.authorization.k8s.io", version="v1", plural=plural, kind=kind, namespaced=namespaced)
            for plural, kind, namespaced in (
                ("roles", "Role", True),
                ("rolebindings", "RoleBinding", True),
                ("clusterroles", "ClusterRole", False),
                ("clusterrolebindings", "ClusterRoleBinding", False),
            )
        ),
        Resource(group="", version="v1", plural="namespaces", kind="Namespace", namespaced=False),
    )
}


class ApiServerOfRun(Protocol):
    """What a run needs of its API server, from nothing to where Tidegate is installed."""

    kubeconfig: Path
    """For who may do everything; it exists when `start` has returned."""

    def start(self) -> None:
        """Returns when the server answers."""

    def stop(self) -> None:
        """Ends it."""

    def prepare(self, api: KubeApi) -> None:
        """Installs CRDs, of others and ours, and what our components may do; returns when the kinds are served."""

    def kubeconfig_of(self, api: KubeApi, pods_dir: Path) -> KubeconfigOf | None:
        """How Pods get their credentials; None: they all use `kubeconfig`."""


class ImitatedApiServer(ControlPlane):
    """It has the kinds of others built in, and lets everybody do everything."""

    def prepare(self, api: KubeApi) -> None:
        """Installs our CRDs, which are served at once."""
        for crd in our_crds():
            api.apply(CRDS, crd, field_manager=FIELD_MANAGER)

    def kubeconfig_of(self, api: KubeApi, pods_dir: Path) -> KubeconfigOf | None:  # noqa: ARG002 (the Protocol's signature)
        """None: nobody is asked who they are."""
        return None


class RealApiServer(RealControlPlane):
    """A kube-apiserver with the CRDs of the Gateway API and of Multus, and live/deploy/rbac.yaml in force."""

    def __init__(self, network: VirtualNetwork, *, run_dir: Path, log_dir: Path, cluster: ClusterNetwork) -> None:
        """Raises MachineError when the binaries or the CRDs of the Gateway API are missing."""
        super().__init__(network, binaries=binaries(), run_dir=run_dir, log_dir=log_dir, cluster=cluster)
        self._gateway_api = gateway_api_folder()

    def prepare(self, api: KubeApi) -> None:
        """Installs CRDs and access rules as `kubectl apply` would, and waits until the kinds are served."""
        crds = [*gateway_api_crds(self._gateway_api), *_documents(NETWORKS_CRD), *our_crds()]
        for crd in crds:
            api.apply(CRDS, crd, field_manager=FIELD_MANAGER)
        for rule in _documents(DEPLOY / "rbac.yaml"):
            api.apply(_ACCESS[rule["kind"]], rule, field_manager=FIELD_MANAGER)
        _wait_served(api, crds)

    def kubeconfig_of(self, api: KubeApi, pods_dir: Path) -> KubeconfigOf | None:
        """A token of the Pod's ServiceAccount, bound to the Pod."""
        return ServiceAccountTokens(api, self.config, pods_dir).kubeconfig_of


def make_api_server(
    which: ApiServer,
    network: VirtualNetwork,
    *,
    run_dir: Path,
    log_dir: Path,
    cluster: ClusterNetwork,
    allow_faults: bool = False,
) -> ApiServerOfRun:
    """The API server of a run, not started yet; `allow_faults` is for the imitated one.

    Raises MachineError when this machine lacks what it takes.
    """
    match which:
        case ApiServer.IMITATED:
            return ImitatedApiServer(
                network, run_dir=run_dir, log_dir=log_dir, cluster=cluster, allow_faults=allow_faults
            )
        case ApiServer.REAL:
            return RealApiServer(network, run_dir=run_dir, log_dir=log_dir, cluster=cluster)
        case _:
            assert_never(which)


def binaries() -> Path:
    """The folder with a real control plane. Raises MachineError when there is none."""
    named = os.environ.get(ASSETS_VARIABLE, "")
    missing = [name for name in PROGRAMS if not (Path(named) / name).is_file()]
    if named and not missing:
        return Path(named).resolve()
    found = f"{ASSETS_VARIABLE}={named} has no {', '.join(missing)}" if named else f"{ASSETS_VARIABLE} is not set"
    raise MachineError(
        f"a real API server needs the programs {', '.join(PROGRAMS)}, and {found}",
        f'`make kube-assets` builds them and prints the line that sets {ASSETS_VARIABLE}: eval "$(make kube-assets)"',
    )


def gateway_api_folder() -> Path:
    """The folder with the CRDs of the Gateway API. Raises MachineError when there is none."""
    named = os.environ.get(GATEWAY_API_VARIABLE, "")
    beside_binaries = Path(os.environ.get(ASSETS_VARIABLE, "")) / "gateway-api"
    for folder in (Path(named),) if named else (beside_binaries.resolve(), BESIDE_CHECKOUT):
        if any(folder.glob("*.yaml")):
            return folder
    raise MachineError(
        f"no CRDs of the Gateway API in {named or beside_binaries}",
        "`make kube-assets` puts them beside its programs; or set "
        f"{GATEWAY_API_VARIABLE} to a folder with the YAML files of the standard channel, v1.6 or newer",
    )


def gateway_api_crds(folder: Path) -> list[Json]:
    """The CRDs in `folder` of the kinds that Tidegate reads, and no others: each costs the server start-up time."""
    wanted = {f"{resource.plural}.{resource.group}" for resource in ALL_RESOURCES}
    found = (document for path in sorted(folder.glob("*.yaml")) for document in _documents(path))
    return [crd for crd in found if crd["kind"] == CRDS.kind and crd["metadata"]["name"] in wanted]


def our_crds() -> list[Json]:
    """The CRDs of live/deploy."""
    return [crd for path in sorted((DEPLOY / "crds").glob("*.yaml")) for crd in _documents(path)]


def _documents(path: Path) -> Iterator[Json]:
    for document in read_documents(path):
        yield document.json()


def _wait_served(api: KubeApi, crds: Iterable[Json]) -> None:
    """Returns when every served version can be listed: the condition Established says so before every part of the server knows."""
    deadline_s = time.monotonic() + SERVED_DEADLINE_S
    for resource in [resource for crd in crds for resource in _served(crd)]:
        while True:
            try:
                api.list(resource)
            except ApiError as error:
                if error.code != 404 or time.monotonic() > deadline_s:
                    raise
                time.sleep(SERVED_POLL_S)
            else:
                break


def _served(crd: Json) -> Iterator[Resource]:
    spec = crd["spec"]
    for version in spec["versions"]:
        if version["served"]:
            yield Resource(
                group=spec["group"],
                version=version["name"],
                plural=spec["names"]["plural"],
                kind=spec["names"]["kind"],
                namespaced=spec["scope"] == "Namespaced",
            )
