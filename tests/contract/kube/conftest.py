"""Every test here runs against the imitated API server, and against a real one where KUBEBUILDER_ASSETS names its binaries."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import require
from tests.contract.kube import servers
from tests.contract.kube.client import Client, Server
from tests.contract.kube.samples import Gates, Namespace, make_gates

_KINDS: Final = ("imitated", "real")
_numbers = itertools.count(1)


def _is_wanted(kind: str) -> bool:
    """The real server's tests appear only where it is, or where it is required: elsewhere one skip says so for all."""
    return kind == "imitated" or servers.assets() is not None or "kube" in os.environ.get("REQUIRE", "").split(",")


@contextlib.contextmanager
def _running(kind: str, folder: Path, *options: str) -> Iterator[Server]:
    """`options` are the imitated server's."""
    if kind == "imitated":
        with servers.imitated(folder, *options) as server:
            yield server
        return
    binaries = servers.assets()
    require(
        "kube",
        binaries is not None,
        "KUBEBUILDER_ASSETS names no folder with etcd, kube-apiserver, kube-controller-manager",
    )
    assert binaries is not None
    with servers.real(binaries, folder) as server:
        yield server


_WANTED: Final = [kind for kind in _KINDS if _is_wanted(kind)]


@pytest.fixture(scope="session", params=_WANTED)
def api_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server, shared by all tests: each keeps to its own namespace and API group."""
    with _running(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture(params=_WANTED)
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A running server of the test's own. Bookmarks come often: only these tell a client that a store was lost, and went back."""
    with _running(request.param, tmp_path, "--bookmark-interval-s", "0.2") as server:
        yield server


@pytest.fixture
def api(api_server: Server) -> Client:
    """A client of the server."""
    return Client(api_server)


@pytest.fixture
def namespace(api: Client) -> Iterator[Namespace]:
    """A fresh namespace; it is deleted when the test is over, which nobody waits for."""
    name = f"contract-{next(_numbers)}"
    made = api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    assert made.code == 201, made.body
    yield Namespace(name)
    api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def gates(api: Client, namespace: Namespace) -> Iterator[Gates]:
    """The kind Gate in a group of the test's own."""
    made = make_gates(api, namespace, f"{namespace.name}.tidegate.test")
    yield made
    api.delete(made.crd_path)
