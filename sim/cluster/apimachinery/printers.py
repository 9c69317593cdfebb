"""The columns that `kubectl get` shows of built-in kinds.

Source: kubernetes pkg/printers/internalversion/printers.go.
"""

from __future__ import annotations

from typing import Any, Final

from sim.cluster.apimachinery.kinds import Column
from sim.cluster.apimachinery.problems import Json

_NONE: Final = "<none>"


def _spec(obj: Json) -> Json:
    return obj.get("spec") or {}


def _status(obj: Json) -> Json:
    return obj.get("status") or {}


def _ready_containers(obj: Json) -> str:
    ready = sum(bool(one.get("ready")) for one in _status(obj).get("containerStatuses") or [])
    return f"{ready}/{len(_spec(obj).get('containers') or [])}"


def _restarts(obj: Json) -> str:
    return str(sum(int(one.get("restartCount", 0)) for one in _status(obj).get("containerStatuses") or []))


def pod_status(obj: Json) -> str:
    """What the STATUS column says: the phase, or a better reason from the containers."""
    status = _status(obj)
    text = status.get("reason") or status.get("phase") or "Unknown"
    for one in reversed(status.get("containerStatuses") or []):
        state = one.get("state") or {}
        waiting, terminated = state.get("waiting") or {}, state.get("terminated")
        if waiting.get("reason"):
            text = waiting["reason"]
        elif terminated is not None:
            text = terminated.get("reason") or f"ExitCode:{terminated.get('exitCode', 0)}"
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    return str(text)


def _ports(obj: Json) -> str:
    shown = [
        f"{port.get('port')}"
        + (f":{port['nodePort']}" if port.get("nodePort") else "")
        + f"/{port.get('protocol', 'TCP')}"
        for port in _spec(obj).get("ports") or []
    ]
    return ",".join(shown) or _NONE


def _external_addresses(obj: Json) -> str:
    spec = _spec(obj)
    ingress = (_status(obj).get("loadBalancer") or {}).get("ingress") or []
    addresses = [one.get("ip") or one.get("hostname", "") for one in ingress] + list(spec.get("externalIPs") or [])
    if addresses:
        return ",".join(addresses)
    return "<pending>" if spec.get("type") == "LoadBalancer" else _NONE


def _labels_text(labels: Any) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or _NONE


def _selector(obj: Json) -> str:
    selector = _spec(obj).get("selector") or {}
    return _labels_text(selector.get("matchLabels") if "matchLabels" in selector else selector)


def _template(obj: Json, field: str) -> str:
    containers = ((_spec(obj).get("template") or {}).get("spec") or {}).get("containers") or []
    return ",".join(str(one.get(field, "")) for one in containers)


def _node_conditions(obj: Json) -> str:
    ready = [one for one in _status(obj).get("conditions") or [] if one.get("type") == "Ready"]
    text = ("Ready" if ready[0].get("status") == "True" else "NotReady") if ready else "Unknown"
    return text + (",SchedulingDisabled" if _spec(obj).get("unschedulable") else "")


def _roles(obj: Json) -> str:
    prefix = "node-role.kubernetes.io/"
    return (
        ",".join(
            sorted(key.removeprefix(prefix) for key in obj["metadata"].get("labels") or {} if key.startswith(prefix))
        )
        or _NONE
    )


def _node_address(obj: Json, kind: str) -> str:
    addresses = _status(obj).get("addresses") or []
    return next((str(one.get("address")) for one in addresses if one.get("type") == kind), _NONE)


def _slice_ports(obj: Json) -> str:
    ports = [str(one["port"]) for one in obj.get("ports") or [] if "port" in one]
    return ",".join(ports) or "<unset>"


def _slice_addresses(obj: Json) -> str:
    addresses = [address for one in obj.get("endpoints") or [] for address in one.get("addresses") or []]
    if not addresses:
        return "<unset>"
    return ",".join(addresses[:3]) + (f" + {len(addresses) - 3} more..." if len(addresses) > 3 else "")


def _walk(obj: Json, path: tuple[str, ...]) -> Any:
    node: Any = obj
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _number(name: str, *path: str) -> Column:
    return Column(name=name, type="integer", value=lambda obj: _walk(obj, path) or 0)


def _text(name: str, *path: str, missing: str = _NONE, priority: int = 0) -> Column:
    return Column(name=name, priority=priority, value=lambda obj: str(_walk(obj, path) or missing))


NAME: Final = Column(
    name="Name",
    format="name",
    description="Name must be unique within a namespace.",
    value=lambda obj: obj["metadata"].get("name", ""),
)
AGE: Final = Column(name="Age", type="date", path=".metadata.creationTimestamp")
PLAIN: Final = (NAME, Column(name="Created At", type="date", path=".metadata.creationTimestamp"))

POD: Final = (
    NAME,
    Column(name="Ready", value=_ready_containers),
    Column(name="Status", value=pod_status),
    Column(name="Restarts", value=_restarts),
    AGE,
    _text("IP", "status", "podIP", priority=1),
    _text("Node", "spec", "nodeName", priority=1),
    _text("Nominated Node", "status", "nominatedNodeName", priority=1),
    Column(name="Readiness Gates", priority=1, value=lambda _: _NONE),
)
SERVICE: Final = (
    NAME,
    _text("Type", "spec", "type"),
    _text("Cluster-IP", "spec", "clusterIP"),
    Column(name="External-IP", value=_external_addresses),
    Column(name="Port(s)", value=_ports),
    AGE,
    Column(name="Selector", priority=1, value=_selector),
)
SECRET: Final = (
    NAME,
    _text("Type", "type"),
    Column(name="Data", type="integer", value=lambda obj: len(obj.get("data") or {})),
    AGE,
)
CONFIG_MAP: Final = (
    NAME,
    Column(
        name="Data", type="integer", value=lambda obj: len(obj.get("data") or {}) + len(obj.get("binaryData") or {})
    ),
    AGE,
)
SERVICE_ACCOUNT: Final = (NAME, AGE)
NAMESPACE: Final = (NAME, _text("Status", "status", "phase"), AGE)
EVENT: Final = (
    Column(name="Last Seen", type="date", path=".lastTimestamp"),
    _text("Type", "type", missing=""),
    _text("Reason", "reason", missing=""),
    Column(
        name="Object",
        value=lambda obj: (
            f"{str((obj.get('involvedObject') or {}).get('kind', '')).lower()}/{(obj.get('involvedObject') or {}).get('name', '')}"
        ),
    ),
    Column(name="Message", value=lambda obj: str(obj.get("message", "")).strip()),
    Column(name="Count", type="integer", priority=1, value=lambda obj: obj.get("count", 1)),
    Column(name="Name", priority=1, value=lambda obj: obj["metadata"].get("name", "")),
)
NODE: Final = (
    NAME,
    Column(name="Status", value=_node_conditions),
    Column(name="Roles", value=_roles),
    AGE,
    _text("Version", "status", "nodeInfo", "kubeletVersion", missing=""),
    Column(name="Internal-IP", priority=1, value=lambda obj: _node_address(obj, "InternalIP")),
    Column(name="External-IP", priority=1, value=lambda obj: _node_address(obj, "ExternalIP")),
)
ENDPOINT_SLICE: Final = (
    NAME,
    _text("AddressType", "addressType"),
    Column(name="Ports", value=_slice_ports),
    Column(name="Endpoints", value=_slice_addresses),
    AGE,
)
DEPLOYMENT: Final = (
    NAME,
    Column(name="Ready", value=lambda obj: f"{_status(obj).get('readyReplicas', 0)}/{_spec(obj).get('replicas', 0)}"),
    _number("Up-to-date", "status", "updatedReplicas"),
    _number("Available", "status", "availableReplicas"),
    AGE,
    Column(name="Containers", priority=1, value=lambda obj: _template(obj, "name")),
    Column(name="Images", priority=1, value=lambda obj: _template(obj, "image")),
    Column(name="Selector", priority=1, value=_selector),
)
DAEMON_SET: Final = (
    NAME,
    _number("Desired", "status", "desiredNumberScheduled"),
    _number("Current", "status", "currentNumberScheduled"),
    _number("Ready", "status", "numberReady"),
    _number("Up-to-date", "status", "updatedNumberScheduled"),
    _number("Available", "status", "numberAvailable"),
    Column(
        name="Node Selector", value=lambda obj: _labels_text(_walk(obj, ("spec", "template", "spec", "nodeSelector")))
    ),
    AGE,
    Column(name="Containers", priority=1, value=lambda obj: _template(obj, "name")),
    Column(name="Images", priority=1, value=lambda obj: _template(obj, "image")),
    Column(name="Selector", priority=1, value=_selector),
)
REPLICA_SET: Final = (
    NAME,
    _number("Desired", "spec", "replicas"),
    _number("Current", "status", "replicas"),
    _number("Ready", "status", "readyReplicas"),
    AGE,
)
LEASE: Final = (NAME, _text("Holder", "spec", "holderIdentity", missing=""), AGE)
CRD: Final = PLAIN
ROLE: Final = PLAIN
ROLE_BINDING: Final = (
    NAME,
    Column(
        name="Role",
        value=lambda obj: f"{(obj.get('roleRef') or {}).get('kind')}/{(obj.get('roleRef') or {}).get('name')}",
    ),
    AGE,
)
