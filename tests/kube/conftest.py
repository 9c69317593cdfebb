"""A real API server for the tests of this folder: built by `make kube-assets`, named by KUBEBUILDER_ASSETS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.contract.kube import servers
from tests.contract.kube.client import Client


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder with the binaries of a real control plane."""
    folder = servers.assets()
    require("kube", folder is not None, "KUBEBUILDER_ASSETS names no real control plane; `make kube-assets` builds one")
    assert folder is not None
    return folder


@pytest.fixture(scope="session")
def api(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a real API server that may do everything."""
    with servers.real(assets, tmp_path_factory.mktemp("real")) as server:
        yield Client(server)
