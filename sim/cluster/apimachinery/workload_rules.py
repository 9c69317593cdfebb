"""What is special about Pods and the kinds that make them.

Source: kubernetes pkg/apis/core/v1/defaults.go, pkg/apis/apps/v1/defaults.go, pkg/registry/core/pod/strategy.go,
pkg/apis/core/validation/validation.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sim.cluster.apimachinery import problems
from sim.cluster.apimachinery.core_rules import one_a_family
from sim.cluster.apimachinery.kinds import Rules
from sim.cluster.apimachinery.metadata import check_labels
from sim.cluster.apimachinery.problems import Cause, Json
from sim.cluster.apimachinery.schema import copied
from sim.cluster.apimachinery.selectors import match_labels

# Source: validation.go, ValidatePodUpdate.
_MAY_CHANGE: Final = (
    "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
    "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


_TOLERATIONS: Final = tuple(
    {"key": f"node.kubernetes.io/{why}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    for why in ("not-ready", "unreachable")
)


def _filled_template(spec: Json) -> Json:
    """A copy of a PodSpec with the defaults that depend on other fields, as far as templates get them."""
    spec = copied(spec)
    host_network = bool(spec.get("hostNetwork"))
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        if not isinstance(container, dict):
            continue
        image = str(container.get("image", ""))
        if image and "imagePullPolicy" not in container:
            tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
            latest = "@" not in image and tag in ("", "latest")
            container["imagePullPolicy"] = "Always" if latest else "IfNotPresent"
        for port in container.get("ports") or []:
            if host_network and "hostPort" not in port:
                port["hostPort"] = port.get("containerPort")
    if spec.get("serviceAccountName") or spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"] = spec.get("serviceAccountName") or spec["serviceAccount"]
    return spec


def _fill_pod(obj: Json) -> Json:
    if not isinstance(obj.get("spec"), dict):
        return obj
    spec = _filled_template(obj["spec"])
    spec.setdefault("enableServiceLinks", True)
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        resources = container.get("resources") or {}
        for name, limit in (resources.get("limits") or {}).items():
            resources.setdefault("requests", {}).setdefault(name, limit)
    return {**obj, "spec": spec}


def _fill_workload(obj: Json) -> Json:
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return obj
    spec = dict(spec)
    template = spec.get("template")
    if isinstance(template, dict) and isinstance(template.get("spec"), dict):
        spec["template"] = {**template, "spec": _filled_template(template["spec"])}
    for name, defaults in (
        ("strategy", {"maxUnavailable": "25%", "maxSurge": "25%"}),
        ("updateStrategy", {"maxUnavailable": 1, "maxSurge": 0}),
    ):
        strategy = spec.get(name)
        if isinstance(strategy, dict) and strategy.get("type") == "RollingUpdate":
            spec[name] = {**strategy, "rollingUpdate": {**defaults, **(strategy.get("rollingUpdate") or {})}}
    return {**obj, "spec": spec}


def _born_with(status: Json) -> Callable[[Json], Json]:
    return lambda obj: {**obj, "status": dict(status)}


def quality_of_service(spec: Json) -> str:
    """The QoS class of a Pod. Source: kubernetes.io/docs/concepts/workloads/pods/pod-qos."""
    all_resources = [container.get("resources") or {} for container in spec.get("containers") or []]
    if not any(one.get("requests") or one.get("limits") for one in all_resources):
        return "BestEffort"
    guaranteed = all(
        {"cpu", "memory"} <= set(one.get("limits") or {}) and (one.get("requests") or one["limits"]) == one["limits"]
        for one in all_resources
    )
    return "Guaranteed" if guaranteed else "Burstable"


def _pod_born(obj: Json) -> Json:
    """What admission and the registry add. Source: plugin/pkg/admission/{priority,defaulttolerationseconds}."""
    spec = {"priority": 0, "preemptionPolicy": "PreemptLowerPriority", **(obj.get("spec") or {})}
    own = spec.get("tolerations") or []
    tolerated = {one.get("key") for one in own if one.get("effect") in (None, "", "NoExecute")}
    if None not in tolerated:
        spec["tolerations"] = [*own, *(dict(one) for one in _TOLERATIONS if one["key"] not in tolerated)]
    return {**obj, "spec": spec, "status": {"phase": "Pending", "qosClass": quality_of_service(spec)}}


def _changeable(spec: Json) -> Json:
    """The spec without what an update may change."""
    rest = {name: value for name, value in spec.items() if name not in ("activeDeadlineSeconds", "tolerations")}
    for name in ("containers", "initContainers"):
        rest[name] = [
            {key: value for key, value in container.items() if key != "image"} for container in rest.get(name) or []
        ]
    rest.pop("schedulingGates", None)
    return rest


def _repetitions(spec: Json, path: str) -> list[Cause]:
    """Names of containers are unique among all, names of ports and places of mounts within one. Environment variables may repeat.

    Source: validation.go, ValidatePodSpec.
    """
    causes: list[Cause] = []
    containers = {one.get("name") for one in spec.get("containers") or []}
    for index, one in enumerate(spec.get("initContainers") or []):
        if one.get("name") in containers:
            causes.append(problems.duplicate(f"{path}.initContainers[{index}].name", one["name"]))
    for field in ("initContainers", "containers"):
        for place, one in enumerate(spec.get(field) or []):
            names = [port.get("name") for port in one.get("ports") or []]
            causes += [
                problems.duplicate(f"{path}.{field}[{place}].ports[{index}].name", name)
                for index, name in enumerate(names)
                if name and name in names[:index]
            ]
            places = [mount.get("mountPath") for mount in one.get("volumeMounts") or []]
            causes += [
                problems.invalid_value(f"{path}.{field}[{place}].volumeMounts[{index}].mountPath", at, "must be unique")
                for index, at in enumerate(places)
                if at in places[:index]
            ]
    return causes


def _check_pod(obj: Json, old: Json | None) -> list[Cause]:
    if old is None:
        return _repetitions(obj["spec"], "spec")
    addresses = [one.get("ip") for one in (obj.get("status") or {}).get("podIPs") or []]
    if not one_a_family(addresses):
        text = "may specify no more than one IP for each IP family"
        return [problems.invalid_value("status.podIPs", [{"IP": address} for address in addresses], text)]
    if obj["spec"] is not old["spec"] and _changeable(obj["spec"]) != _changeable(old["spec"]):
        return [problems.forbidden_field("spec", f"pod updates may not change fields other than {_MAY_CHANGE}")]
    return []


def _check_workload(obj: Json, old: Json | None) -> list[Cause]:
    causes: list[Cause] = []
    spec = obj.get("spec") or {}
    selector, template = spec.get("selector"), spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if not isinstance(selector, dict):
        text = "`selector` does not match template `labels`"
        return [problems.invalid_value("spec.template.metadata.labels", labels or None, text)]
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        text = "empty selector is invalid for deployment"
        causes.append(
            problems.invalid_value("spec.selector", selector, text.replace("deployment", obj["kind"].lower()))
        )
    elif not match_labels(selector, labels):
        text = "`selector` does not match template `labels`"
        causes.append(problems.invalid_value("spec.template.metadata.labels", labels, text))
    causes += check_labels(template.get("metadata") or {}, "spec.template")
    causes += _repetitions(template.get("spec") or {}, "spec.template.spec")
    if (policy := (template.get("spec") or {}).get("restartPolicy", "Always")) != "Always":
        causes.append(problems.unsupported("spec.template.spec.restartPolicy", policy, ["Always"]))
    if old is not None and selector != old["spec"].get("selector"):
        causes.append(problems.invalid_value("spec.selector", selector, "field is immutable"))
    return causes


def _pod_grace_period_s(obj: Json) -> int:
    """Source: pkg/registry/core/pod/strategy.go, CheckGracefulDelete."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    return int(spec.get("terminationGracePeriodSeconds", 30))


POD: Final = Rules(
    fill=_fill_pod,
    born=_pod_born,
    check=_check_pod,
    generation=("spec",),
    grace_period_s=_pod_grace_period_s,
    answers_deleted_object=True,
)
DEPLOYMENT: Final = Rules(
    fill=_fill_workload, born=_born_with({}), check=_check_workload, generation=("spec", "annotations")
)
REPLICA_SET: Final = Rules(
    fill=_fill_workload, born=_born_with({"replicas": 0}), check=_check_workload, generation=("spec",)
)
DAEMON_SET: Final = Rules(
    fill=_fill_workload,
    born=_born_with(
        {"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}
    ),
    check=_check_workload,
    generation=("spec",),
)
