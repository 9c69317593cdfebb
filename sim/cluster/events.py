"""Events, as `kubectl describe` shows them."""

from __future__ import annotations

import hashlib
import logging
import time

from core.errors import ApiError
from core.kube import EVENTS, Json, KubeApi
from sim.cluster.pod_status import rfc3339

log = logging.getLogger(__name__)


def emit(api: KubeApi, component: str, involved: Json, reason: str, message: str, *, type_: str = "Warning") -> None:
    """Writes an event about an object, or counts one more when the same was written before.

    An API that refuses it is logged and no more: an event only tells of the work, it is not the work.
    """
    metadata = involved["metadata"]
    namespace = metadata.get("namespace") or "default"
    digest = hashlib.blake2s(f"{metadata.get('uid')}/{reason}/{message}".encode(), digest_size=8).hexdigest()
    name = f"{metadata['name']}.{digest}"
    now = rfc3339(time.time())
    try:
        existing = api.get(EVENTS, namespace, name)
        if existing is not None:
            patch = {"count": int(existing.get("count") or 1) + 1, "lastTimestamp": now}
            api.merge_patch(EVENTS, namespace, name, patch)
            return
        api.create(
            EVENTS,
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": namespace},
                "involvedObject": {
                    "apiVersion": involved.get("apiVersion", "v1"),
                    "kind": involved.get("kind", "Pod"),
                    "name": metadata["name"],
                    "namespace": metadata.get("namespace", ""),
                    "uid": metadata.get("uid", ""),
                },
                "reason": reason,
                "message": message,
                "type": type_,
                "source": {"component": component},
                "reportingComponent": component,
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
            },
        )
    except ApiError as error:
        log.warning("event %s about %s was not written: %s", reason, metadata["name"], error)
