"""`make kube-assets`: where it keeps what it builds, and what it says on machines without Go."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = (ROOT / "tools" / "envtest" / "go.mod").read_text()
FAKE_GO = """#!/bin/bash
echo "$*" >> "$CALLS"
case $1 in
  list) echo v1.99.1 ;;
  build) while [[ $1 != -o ]]; do shift; done; [[ $2 == */ ]] && echo made > "$2/${3##*/}" || echo made > "$2" ;;
  mod) printf '{\\n\\t"Dir": "%s",\\n\\t"Sum": "h1:"\\n}\\n' "$MODULES" ;;
esac
"""


def kube_assets(tools: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {"PATH": os.environ["PATH"], "HOME": str(tools.parent)}
    command = [str(tools / "kube-assets")]
    return subprocess.run(command, env=base | environment, capture_output=True, text=True, timeout=30, check=False)


def test_without_go_it_says_what_to_install_and_what_else_would_do(tmp_path: Path) -> None:
    done = kube_assets(ROOT / "tools", GO="no-such-go", HOME=str(tmp_path))
    assert done.returncode == 3
    assert done.stdout == ""
    assert re.search(r"Go is missing: install Go 1\.\d+\.\d+ or newer", done.stderr)
    assert "KUBEBUILDER_ASSETS" in done.stderr


def test_it_builds_once_for_each_set_of_versions(tmp_path: Path) -> None:
    tools, calls = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    shutil.copy(ROOT / "tools" / "kube-assets", tools)
    shutil.copytree(ROOT / "tools" / "envtest", tools / "envtest")
    crds = tmp_path / "modules" / "config" / "crd" / "standard"
    crds.mkdir(parents=True)
    (crds / "gateway.networking.k8s.io_gateways.yaml").write_text("kind: CustomResourceDefinition\n")
    go = tmp_path / "fake-go"
    go.write_text(FAKE_GO)
    go.chmod(0o755)
    environment = {"GO": str(go), "CALLS": str(calls), "MODULES": str(tmp_path / "modules")}

    first = kube_assets(tools, **environment)
    assert first.returncode == 0, first.stderr
    match = re.fullmatch(r"export KUBEBUILDER_ASSETS=(\S+)\n", first.stdout)
    assert match is not None
    folder = Path(match[1])
    assert folder.parent == tmp_path / ".cache" / "tidegate" / "kube-assets"
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    programs = {"etcd", "kube-apiserver", "kube-controller-manager", "kubectl"}
    assert made == programs | {"gateway-api/gateway.networking.k8s.io_gateways.yaml"}
    assert list(folder.parent.iterdir()) == [folder]

    before = calls.read_text()
    assert kube_assets(tools, **environment).stdout == first.stdout
    assert calls.read_text() == before

    module = tools / "envtest" / "go.mod"
    module.write_text(module.read_text() + "// another version\n")
    assert kube_assets(tools, **environment).stdout != first.stdout
    assert calls.read_text() != before


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    go = tmp_path / "fake-go"
    go.write_text('#!/bin/sh\n[ "$1" = list ]\n')
    go.chmod(0o755)
    done = kube_assets(ROOT / "tools", GO=str(go), HOME=str(tmp_path))
    assert done.returncode != 0
    assert done.stdout == ""
    assert list((tmp_path / ".cache" / "tidegate" / "kube-assets").iterdir()) == []


def test_every_staging_module_is_pinned_to_the_version_of_kubernetes() -> None:
    version = re.search(r"k8s\.io/kubernetes v1\.(\S+)", MODULE)
    assert version is not None
    staging = re.findall(r"^\t(k8s\.io/\S+) => (\S+) v0\.(\S+)$", MODULE, re.MULTILINE)
    assert len(staging) > 30
    assert all(name == by and number == version[1] for name, by, number in staging)
