"""Readiness probes: what a container's spec asks for, and one attempt."""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass
from typing import Any

from core.kube import Json
from sim.cluster.images import ContainerError

SUCCESS_CODES = range(200, 400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """An HTTP or TCP readiness probe; the thresholds count attempts in a row. `host` empty means the Pod's address."""

    host: str
    port: int
    path: str | None
    headers: tuple[tuple[str, str], ...] = ()
    period_s: float = 10.0
    timeout_s: float = 1.0
    initial_delay_s: float = 0.0
    successes: int = 1
    failures: int = 3


def readiness_probe(container: Json) -> Probe | None:
    """The readiness probe of a container, None when it has none.

    Raises:
        ContainerError: CreateContainerConfigError for a kind of probe, a scheme or a port that the testbed cannot do.
    """
    spec = container.get("readinessProbe")
    if not spec:
        return None
    action: dict[str, Any] | None = spec.get("httpGet") or spec.get("tcpSocket")
    if action is None or str(action.get("scheme") or "HTTP").upper() != "HTTP":
        found = ", ".join(key for key in spec if key in ("exec", "grpc", "httpGet"))
        raise ContainerError(
            "CreateContainerConfigError",
            f"container {container['name']!r}: readinessProbe {found}: the testbed knows httpGet over HTTP and tcpSocket",
        )
    return Probe(
        host=str(action.get("host") or ""),
        port=_port(container, action.get("port")),
        path=str(action.get("path") or "/") if spec.get("httpGet") else None,
        headers=tuple((header["name"], header["value"]) for header in action.get("httpHeaders") or ()),
        period_s=float(spec.get("periodSeconds") or 10),
        timeout_s=float(spec.get("timeoutSeconds") or 1),
        initial_delay_s=float(spec.get("initialDelaySeconds") or 0),
        successes=int(spec.get("successThreshold") or 1),
        failures=int(spec.get("failureThreshold") or 3),
    )


def attempt(probe: Probe, address: str) -> str | None:
    """None when the probe succeeds, else why it failed."""
    host = probe.host or address
    try:
        if probe.path is None:
            socket.create_connection((host, probe.port), probe.timeout_s).close()
            return None
        connection = http.client.HTTPConnection(host, probe.port, timeout=probe.timeout_s)
        try:
            headers = {"User-Agent": "kube-probe/testbed", "Connection": "close", **dict(probe.headers)}
            connection.request("GET", probe.path, headers=headers)
            answer = connection.getresponse()
            body = answer.read(1024)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        return f"Readiness probe failed: {str(error) or type(error).__name__}"
    if answer.status in SUCCESS_CODES:
        return None
    return f"Readiness probe failed: HTTP probe failed with statuscode: {answer.status}: {body.decode(errors='replace').strip()}"


def _port(container: Json, port: object) -> int:
    if isinstance(port, int):
        return port
    for entry in container.get("ports") or ():
        if entry.get("name") == port:
            return int(entry["containerPort"])
    raise ContainerError(
        "CreateContainerConfigError", f"container {container['name']!r}: readinessProbe port {port!r} is no port of it"
    )
