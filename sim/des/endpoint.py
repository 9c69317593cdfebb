"""The endpoint agent of a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from core import names
from core.kube import PODS
from core.manifests import render
from core.model import Attachment, ObjectRef, Prefix, sorted_prefixes
from sim.des.fabric import PodPlace
from sim.des.kernel import Loop
from sim.des.nodes import TellReady
from sim.des.parts import Parts
from sim.des.seen import Key

CLIENT = "tidegate-endpoint"


class EndpointAgent:
    """Models: VIPs, and ways back for replies, made true in the Pods of its node and reported, all Pods of a turn together. Does not
    model: that Pods are served one after the other, next hops that are on no network of the Pod, refusals of the kernel.
    """

    def __init__(self, parts: Parts, place: PodPlace, tell_ready: TellReady) -> None:
        self.start_s = parts.latencies.agent_start_s
        self._parts = parts
        self._node = place.node
        self._tell_ready = tell_ready
        self._ends: list[Callable[[], None]] = []

    def start(self) -> None:
        latencies = self._parts.latencies
        loop = Loop(self._parts.kernel, self._turn, turn_s=latencies.attach_s, window_s=latencies.work_window_s)

        def tell(keys: Sequence[Key]) -> None:
            """The watch has a field selector: Pods of other nodes are not told of."""
            pods = (self._parts.api.seen.get(*key) for key in keys)
            if any(pod is None or pod["spec"].get("nodeName") == self._node for pod in pods):
                loop.wake()

        self._ends = [self._parts.api.watch(["Pod"], tell, client=f"{CLIENT}-{self._node}"), loop.stop]
        loop.wake()

    def stop(self) -> None:
        for end in self._ends:
            end()

    def _turn(self) -> None:
        changed = False
        for place in self._parts.fabric.places(self._node):
            pod = self._parts.api.seen.get("Pod", place.namespace, place.name)
            if pod is None or pod["metadata"]["uid"] != place.uid:
                continue
            annotations = pod["metadata"].get("annotations") or {}
            text = annotations.get(names.ATTACHMENT)
            if text is None and names.ATTACHED not in annotations:
                continue
            wanted, report = _meaning(text or "[]")
            if wanted != place.attachments:
                place.attachments = wanted
                changed = True
            if annotations.get(names.ATTACHED) != report:
                ref = ObjectRef(kind="Pod", namespace=place.namespace, name=place.name)
                body = render.head(ref, uid=place.uid, annotations={names.ATTACHED: report})
                self._parts.api.apply(PODS, body, client=f"{CLIENT}-{self._node}", subresource="status")
        if changed:
            self._parts.fabric.changed.fire()
        self._tell_ready(True)


@lru_cache(maxsize=256)
def _meaning(text: str) -> tuple[tuple[Attachment, ...], str]:
    """The attachments that an annotation holds, and the annotation that reports them when they are in place."""
    attachments = render.read_attachments(text)
    return attachments, render.attached_text(in_place(attachments))


def in_place(attachments: tuple[Attachment, ...]) -> tuple[Prefix, ...]:
    """The VIPs whose replies have a way back: sorted, none twice."""
    return sorted_prefixes(
        vip
        for attachment in attachments
        for vip in attachment.vips
        if any(hop.version == vip.version for hop in attachment.next_hops)
    )
