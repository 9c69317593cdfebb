"""Which program a container image stands for, and with which command line and environment it runs.

Pure: a container of a Pod's spec in, a `Launch` out. What the testbed cannot do is a `ContainerError` with the kubelet's own reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import TidegateError
from core.kube import Json

_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:(?:localhost|[a-zA-Z0-9.-]+[.:][a-zA-Z0-9.:-]*)/)?({_PATH}(?:/{_PATH})*)(?::[\w][\w.-]{{0,127}})?(?:@[a-z0-9+._-]+:[0-9a-fA-F]{{32,}})?"
)
"""[registry/]repository[:tag][@digest]. Source: distribution/reference grammar."""
_REFERENCE = re.compile(r"\$(?:\$|\(([A-Za-z_][A-Za-z0-9_.-]*)\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class ContainerError(TidegateError):
    """Why a container cannot start: `reason` as the kubelet gives it in `waiting`, and a message with the offending value."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """A program that is executed; `command` is the image's entry point."""

    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """A program that the fork server has loaded."""

    program: str


Program = Executed | Forked
TARGET_IMAGE = "tidegate-testbed/target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A container ready to start. `arguments` follow the entry point, `command` of an executed program is complete."""

    program: Program
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def find_program(image: str, programs: Mapping[str, Program]) -> Program:
    """The program of an image: the last part of the repository counts, whatever registry and tag stand around it.

    Raises:
        ContainerError: InvalidImageName or ErrImagePull.
    """
    match = _IMAGE.fullmatch(image)
    if match is None:
        raise ContainerError("InvalidImageName", f"couldn't parse image name {image!r}: invalid reference format")
    repository = match[1]
    for name, program in programs.items():
        if repository == name or repository.endswith("/" + name):
            return program
    known = ", ".join(sorted(programs))
    raise ContainerError("ErrImagePull", f"the testbed has no program for image {image!r}; it has: {known}")


def launch(container: Json, pod: Json, programs: Mapping[str, Program], base: Mapping[str, str]) -> Launch:
    """How to start a container. `base` is the environment that the testbed gives; `pod` must have its addresses in the status.

    `command` replaces the entry point and `args` follows it, with $(NAME) replaced by the environment, as in a cluster.

    Raises:
        ContainerError: InvalidImageName, ErrImagePull, or CreateContainerConfigError.
    """
    program = find_program(container.get("image") or "", programs)
    environment = dict(base)
    for entry in container.get("env") or ():
        environment[entry["name"]] = _value(entry, pod, environment)
    if container.get("envFrom"):
        raise _unsupported(container, "envFrom")
    command = tuple(expand(word, environment) for word in container.get("command") or ())
    arguments = tuple(expand(word, environment) for word in container.get("args") or ())
    if isinstance(program, Executed):
        entry_point = command or program.command
        # `command: [tidegate, …]` names the program of the image, which is not on the PATH of every machine.
        if command and command[0].rpartition("/")[2] == program.command[-1].rpartition("/")[2]:
            entry_point = (*program.command, *command[1:])
        program = Executed(command=(*entry_point, *arguments))
    elif command:
        raise _unsupported(container, "command", f"of {program.program}, which has a fixed one")
    return Launch(program=program, arguments=arguments, environment=environment)


def expand(text: str, environment: Mapping[str, str]) -> str:
    """`text` with $(NAME) replaced where NAME is known, $$ by $. Source: kubernetes third_party/forked/golang/expansion."""

    def replacement(match: re.Match[str]) -> str:
        name = match[1]
        return "$" if name is None else environment.get(name, match[0])

    return _REFERENCE.sub(replacement, text)


def _value(entry: Mapping[str, Any], pod: Json, environment: Mapping[str, str]) -> str:
    source = entry.get("valueFrom")
    if source is None:
        return expand(str(entry.get("value", "")), environment)
    field = (source.get("fieldRef") or {}).get("fieldPath")
    if field is None:
        raise ContainerError(
            "CreateContainerConfigError",
            f"env {entry['name']}: found {', '.join(source)}, and the testbed knows only fieldRef",
        )
    return field_of(pod, field)


def field_of(pod: Json, path: str) -> str:
    """The value of a downward API field. Source: kubernetes.io/docs/concepts/workloads/pods/downward-api.

    Raises:
        ContainerError: CreateContainerConfigError for an unknown field.
    """
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript is not None:
        return str((metadata.get(subscript[1]) or {}).get(subscript[2], ""))
    fields = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata.get("namespace", ""),
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": status.get("podIP", ""),
        "status.podIPs": ",".join(entry["ip"] for entry in status.get("podIPs") or ()),
        "status.hostIP": status.get("hostIP", ""),
        "status.hostIPs": ",".join(entry["ip"] for entry in status.get("hostIPs") or ()),
    }
    if path not in fields:
        raise ContainerError(
            "CreateContainerConfigError", f"fieldPath {path!r} is unknown; known are {', '.join(fields)}"
        )
    return str(fields[path])


def _unsupported(container: Json, field: str, why: str = "") -> ContainerError:
    where = f"container {container.get('name')!r}"
    return ContainerError("CreateContainerConfigError", f"{where}: the testbed does not support {field} {why}".rstrip())
