"""Tokens of ServiceAccounts, as a kubelet gets them: by the TokenRequest API, each bound to its Pod, which takes it along when it goes.

Modelled: who a Pod is. Not modelled: the projected volume (a container finds a kubeconfig instead), renewal (a token lasts for a day).
Source: kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin, "Bound service account tokens".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from core.kube import Json, KubeApi, Resource

LIFETIME_S = 86_400


class ServiceAccountTokens:
    """`config` makes a kubeconfig of a token; `pods_dir` gets ``<uid>/kubeconfig`` of each Pod."""

    def __init__(self, api: KubeApi, config: Callable[[str], Json], pods_dir: Path) -> None:
        self._api = api
        self._config = config
        self._pods_dir = pods_dir

    def kubeconfig_of(self, pod: Json) -> Path:
        """A kubeconfig with which a Pod's containers are its ServiceAccount; without a name in its spec they are nobody.

        Raises:
            ApiError: 404 when there is no such ServiceAccount.
        """
        metadata = pod["metadata"]
        account = pod["spec"].get("serviceAccountName")
        token = self._token(metadata, account) if account else ""
        path = self._pods_dir / str(metadata["uid"]) / "kubeconfig"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(self._config(token)))
        return path

    def _token(self, metadata: Json, account: str) -> str:
        # POST …/serviceaccounts/<name>/token
        request = Resource(group="", version="v1", plural=f"serviceaccounts/{account}/token", kind="TokenRequest")
        pod = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
        wanted = {
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": account, "namespace": metadata["namespace"]},
            "spec": {"audiences": [], "expirationSeconds": LIFETIME_S, "boundObjectRef": pod},
        }
        return str(self._api.create(request, wanted)["status"]["token"])
