"""Finding Pods' network namespaces, in folders that look like the real ones."""

from __future__ import annotations

import os
from pathlib import Path

from live.podns import CgroupNamespaces, FolderNamespaces

UIDS = (
    "6f2a7c1e-0b1d-4c55-9a2e-3d9c1f6a7b01",
    "0d4b9f33-5a6e-4f0a-8c11-aa55bb66cc77",
    "11111111-2222-3333-4444-555555555555",
)


def process(proc: Path, pid: int, cgroup: str, namespace: Path) -> None:
    (proc / f"{pid}/ns").mkdir(parents=True)
    (proc / f"{pid}/cgroup").write_text(cgroup)
    os.link(namespace, proc / f"{pid}/ns/net")


def test_folder_of_the_imitated_kubelet(tmp_path: Path) -> None:
    (tmp_path / UIDS[0]).mkdir()
    (tmp_path / UIDS[0] / "netns").touch()
    assert FolderNamespaces(tmp_path).find(UIDS) == {UIDS[0]: tmp_path / UIDS[0] / "netns"}


def test_cgroups_of_both_drivers_and_versions(tmp_path: Path) -> None:
    proc, namespaces = tmp_path / "proc", [tmp_path / f"ns{n}" for n in range(3)]
    for namespace in namespaces:
        namespace.touch()
    node, first, second = namespaces
    process(proc, 1, "0::/init.scope\n", node)
    (proc / "self").symlink_to("1")
    (proc / "meminfo").touch()
    systemd = UIDS[0].replace("-", "_")
    process(proc, 20, f"0::/kubepods.slice/kubepods-pod{systemd}.slice/cri-containerd-77.scope\n", first)
    process(proc, 21, f"0::/kubepods.slice/kubepods-pod{systemd}.slice/cri-containerd-78.scope\n", first)
    process(proc, 30, f"4:memory:/kubepods/besteffort/pod{UIDS[1]}/99\n0::/\n", second)
    process(proc, 40, f"0::/kubepods/burstable/pod{UIDS[2]}/11\n", node)
    (proc / "50").mkdir()

    found = CgroupNamespaces(proc).find(UIDS)
    assert set(found) == set(UIDS[:2]), "a hostNetwork Pod has no network of its own"
    assert [found[uid].stat().st_ino for uid in UIDS[:2]] == [first.stat().st_ino, second.stat().st_ino]
    assert CgroupNamespaces(proc).find(UIDS[1:2]) == {UIDS[1]: proc / "30/ns/net"}
    assert CgroupNamespaces(proc).find([]) == {}
