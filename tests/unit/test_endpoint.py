"""The endpoint agent's turn, with folders for namespaces and an API server in memory; `tests/netns` has real Pods."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from core import names
from core.errors import DataplaneError
from core.kube import PODS
from core.manifests import render
from core.model import Attachment, Prefix
from live.agent.endpoint import FIELD_MANAGER, LOOK_AGAIN_S, VERIFY_S, EndpointAgent, tell_attachments
from live.agent.metrics import Registry
from live.apply import Applier
from live.podns import FolderNamespaces
from tests import objects
from tests.fakes import FakeApi

VIP = ip_network("20.0.0.1/32")


class Node:
    """A node with Pods whose namespaces are files: `held` has what was put into each, by its identity."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[int, tuple[Prefix, ...]] = {}
        self.broken: set[Path] = set()
        self.applied = 0
        self.now_s = 0.0
        self.api = FakeApi()
        self.agent = EndpointAgent(
            self.api.watch(PODS, lambda _: None),
            FolderNamespaces(folder),
            lambda netns: Network(self, netns),
            Applier(self.api, FIELD_MANAGER),
            lambda: self.now_s,
        )

    def add_pod(self, index: int) -> Path:
        """Returns the file of its namespace."""
        pod = objects.pod(index, attached=())
        pod["metadata"]["annotations"][names.ATTACHMENT] = render.attachment_text(
            (Attachment(vips=(VIP,), next_hops=()),)
        )
        uid: str = self.api.create(PODS, pod)["metadata"]["uid"]
        self.add_sandbox(uid)
        return self.folder / uid / "netns"

    def add_sandbox(self, uid: str) -> None:
        (self.folder / uid).mkdir()
        (self.folder / uid / "netns").touch()

    def attached(self, index: int) -> str:
        pod = self.api.get(PODS, "default", f"app-{index}")
        assert pod is not None
        return str(pod["metadata"]["annotations"][names.ATTACHED])


class Network:
    def __init__(self, node: Node, netns: Path) -> None:
        self._node, self._netns = node, netns

    def apply(self, attachments: Sequence[Attachment]) -> tuple[Prefix, ...]:
        self._node.applied += 1
        if self._netns in self._node.broken:
            raise DataplaneError("its interface has gone")
        vips = tuple(vip for attachment in attachments for vip in attachment.vips)
        self._node.held[self._netns.stat().st_ino] = vips
        return vips

    def remove(self) -> None:
        raise AssertionError("nobody asks for it")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_what_is_in_place_is_looked_at_again_after_a_while_only(node: Node) -> None:
    node.add_pod(0)
    assert node.agent.reconcile() == VERIFY_S
    node.agent.reconcile()
    assert node.applied == 1
    node.now_s = VERIFY_S
    node.agent.reconcile()
    assert node.applied == 2


def test_what_is_in_place_of_the_ways_back_is_told_when_it_is_and_not_before(node: Node) -> None:
    """A run that deletes a gateway pod waits for it: the VIPs, which the report to the API has, stay the same."""
    netns = node.add_pod(0)
    node.agent.reconcile()
    ((uid, before),) = node.agent.in_place().items()
    after = render.attachment_text((Attachment(vips=(VIP,), next_hops=(ip_address("10.2.0.9"),)),))
    node.api.merge_patch(PODS, "default", "app-0", {"metadata": {"annotations": {names.ATTACHMENT: after}}})
    node.broken.add(netns)
    node.agent.reconcile()
    assert node.agent.in_place() == {uid: before}
    node.broken.clear()
    node.agent.reconcile()
    assert node.agent.in_place() == {uid: after}
    metrics = Registry()
    tell_attachments(metrics, node.agent)
    digest = render.attachment_digest(after)
    assert f'tidegate_attachment_info{{digest="{digest}",pod_uid="{uid}"}} 1\n' in metrics.render()


def test_a_sandbox_that_was_made_anew_is_served_at_once(node: Node) -> None:
    """The kubelet does that: the Pod and its UID stay, its network is a new one."""
    netns = node.add_pod(0)
    node.agent.reconcile()
    netns.rename(netns.with_name("former"))  # a file that stays keeps its number from being given again
    netns.touch()
    node.agent.reconcile()
    assert node.held[netns.stat().st_ino] == (VIP,)


def test_a_sandbox_of_another_process_is_another_even_if_the_kernel_gave_it_the_same_number(node: Node) -> None:
    netns = node.add_pod(0)
    first, second = node.folder / "20", node.folder / "30"
    netns.rename(first)
    netns.symlink_to(first)
    node.agent.reconcile()
    netns.unlink()
    second.hardlink_to(first)
    netns.symlink_to(second)
    node.agent.reconcile()
    assert node.applied == 2


def test_a_sandbox_that_was_away_is_served_again(node: Node) -> None:
    netns = node.add_pod(0)
    node.agent.reconcile()
    away = netns.with_name("away")
    netns.rename(away)
    assert node.agent.reconcile() == LOOK_AGAIN_S
    away.rename(netns)
    node.agent.reconcile()
    assert node.applied == 2


def test_a_pod_that_cannot_be_served_keeps_no_other_from_it(node: Node) -> None:
    node.broken.add(node.add_pod(0))
    node.add_pod(1)
    assert node.agent.reconcile() == LOOK_AGAIN_S
    assert node.attached(1) == render.attached_text((VIP,))
