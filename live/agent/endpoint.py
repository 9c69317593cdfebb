"""The endpoint agent: once a node; puts the VIPs and the way back for replies into the application Pods of its node, and reports what
is in place. Only then does an endpoint become ready."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core import kube, names
from core.errors import ApiError, DataplaneError, InputError, Problem
from core.kube import Informer, Json
from core.manifests import render, workloads
from core.model import Attachment, ObjectRef, Prefix
from core.ports import PodNetwork
from live.agent.metrics import Registry
from live.agent.process import AgentProcess, add_arguments
from live.apply import Applier
from live.podnet import KernelPodNetwork
from live.podns import CgroupNamespaces, FolderNamespaces, PodNamespaces, identity

log = logging.getLogger(__name__)

FIELD_MANAGER = "tidegate-endpoint"
LOOK_AGAIN_S = 0.2
"""A Pod that has an attachment but no namespace yet is being started: nothing tells when it is there."""
REPORT_AGAIN_S = 0.5
"""After the API did not take a report."""
VERIFY_S = 30.0
"""How often what is in place is looked at without a reason: somebody else may have changed it."""


_Namespace = tuple[Path, tuple[int, int] | None]
"""The file of a network namespace, and what it stands for. The kernel gives the number of a namespace that is gone to the next one; but
the file of one that a process holds has the process in its path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What was made true of a Pod."""

    text: str
    """The annotation."""
    namespace: _Namespace
    """Where: the kubelet may make a Pod's sandbox anew, and with it the namespace."""
    at_s: float
    in_place: tuple[Prefix, ...]

    def holds(self, text: str, namespace: _Namespace, now_s: float) -> bool:
        """Whether nothing asks for another look."""
        return (self.text, self.namespace) == (text, namespace) and now_s - self.at_s < VERIFY_S


class EndpointAgent:
    """One turn of the loop. `pods` follows the Pods of this node."""

    def __init__(
        self,
        pods: Informer,
        namespaces: PodNamespaces,
        network: Callable[[Path], PodNetwork],
        applier: Applier,
        now_s: Callable[[], float],
    ) -> None:
        self._pods = pods
        self._namespaces = namespaces
        self._network = network
        self._applier = applier
        self._now_s = now_s
        self._done: dict[str, _Done] = {}
        """By Pod UID."""
        self._complaints: dict[str, str] = {}
        """Pod UID -> what was last wrong with it."""

    def reconcile(self) -> float:
        """Makes every Pod agree with its annotation. One Pod that cannot be served does not keep the others from it.

        Returns the seconds until the next look.
        """
        wanted = {uid: pod for pod in self._pods.objects().values() if (uid := wants_attachment(pod)) is not None}
        for uid in self._done.keys() - wanted.keys():
            del self._done[uid]
        self._complaints = {uid: why for uid, why in self._complaints.items() if uid in wanted}
        found = self._namespaces.find(wanted.keys())
        again_s = VERIFY_S
        for uid, pod in wanted.items():
            if uid not in found:
                self._done.pop(uid, None)
                again_s = LOOK_AGAIN_S
                continue
            try:
                self._serve(uid, pod, found[uid])
            except (DataplaneError, ValueError, OSError) as error:  # the last one: its process ends just now
                again_s = LOOK_AGAIN_S
                self._complain(uid, pod, "a Pod cannot be served", error)
            except ApiError as error:
                # It is served; that this is not known yet must not keep the next Pod from it.
                again_s = min(again_s, REPORT_AGAIN_S)
                self._complain(uid, pod, "a Pod cannot be reported", error)
            else:
                self._complaints.pop(uid, None)
        return again_s

    def in_place(self) -> dict[str, str]:
        """Pod UID -> the text of the attachment that was last made true of it."""
        return {uid: done.text for uid, done in list(self._done.items())}

    def _complain(self, uid: str, pod: Json, what: str, error: Exception) -> None:
        """Once for each reason: an API server that is away would fill the log."""
        if self._complaints.get(uid) != str(error):
            self._complaints[uid] = str(error)
            log.warning(what, extra={"pod": pod["metadata"]["name"], "why": str(error)})

    def _serve(self, uid: str, pod: Json, netns: Path) -> None:
        annotations = pod["metadata"].get("annotations") or {}
        text = annotations.get(names.ATTACHMENT, "[]")
        namespace = (netns.resolve(), identity(netns))
        known = self._done.get(uid)
        if known is not None and known.holds(text, namespace, self._now_s()):
            in_place = known.in_place
        else:
            attachments: tuple[Attachment, ...] = render.read_attachments(text)
            in_place = self._network(netns).apply(attachments)
            self._done[uid] = _Done(text=text, namespace=namespace, at_s=self._now_s(), in_place=in_place)
            if known is None or known.in_place != in_place:
                log.info("attached", extra={"pod": pod["metadata"]["name"], "vips": [str(vip) for vip in in_place]})
        self._report(pod, in_place)

    def _report(self, pod: Json, in_place: tuple[Prefix, ...]) -> None:
        metadata = pod["metadata"]
        ref = ObjectRef(kind="Pod", namespace=metadata["namespace"], name=metadata["name"])
        annotations = {names.ATTACHED: render.attached_text(in_place)}
        body = render.head(ref, uid=metadata["uid"], annotations=annotations)
        self._applier.apply(kube.PODS, body, pod, "status")


def wants_attachment(pod: Json) -> str | None:
    """The UID of a Pod that has, or had, an attachment and still runs; None of any other."""
    metadata = pod["metadata"]
    annotations = metadata.get("annotations") or {}
    if names.ATTACHMENT not in annotations and names.ATTACHED not in annotations:
        return None
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return None
    return str(metadata["uid"])


def main(argv: list[str]) -> int:
    """`tidegate agent endpoint`."""
    parser = argparse.ArgumentParser(
        prog="tidegate agent endpoint", description="Puts VIPs and the way back for replies into the Pods of a node."
    )
    add_arguments(parser, listen=f":{workloads.ENDPOINT_PORT}")
    parser.add_argument("--node", default=os.environ.get("NODE_NAME"), help="name of this node (default: $NODE_NAME)")
    parser.add_argument(
        "--pods-dir",
        type=Path,
        default=os.environ.get("TIDEGATE_PODS_DIR"),
        help="folder with <uid>/netns of each Pod (default: $TIDEGATE_PODS_DIR, else the cgroup tree is searched)",
    )
    options = parser.parse_args(argv)
    if not options.node:
        raise InputError(Problem(where="--node", what="not given, and NODE_NAME is not set", expected="a node's name"))
    namespaces: PodNamespaces = FolderNamespaces(Path(options.pods_dir)) if options.pods_dir else CgroupNamespaces()
    with AgentProcess("endpoint", options) as process:
        agent = EndpointAgent(
            process.watch(kube.PODS, field_selector=f"spec.nodeName={options.node}"),
            namespaces,
            KernelPodNetwork,
            Applier(process.kube, FIELD_MANAGER),
            time.monotonic,
        )
        tell_attachments(process.metrics, agent)
        return process.run(agent.reconcile)


def tell_attachments(metrics: Registry, agent: EndpointAgent) -> None:
    """Adds what is in place to the metrics: the report to the API has the VIPs, but not the ways back, which change with every gateway
    pod."""
    info = metrics.gauge(
        "tidegate_attachment_info", "Always 1; by Pod UID, the digest of the attachment that is in place."
    )

    def collect() -> None:
        info.forget()
        for uid, text in agent.in_place().items():
            info.set(1, pod_uid=uid, digest=render.attachment_digest(text))

    metrics.before_render(collect)
