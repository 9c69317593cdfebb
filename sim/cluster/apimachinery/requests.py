"""What a request asks for: the resource behind its path, the form of the answer, the options of its query.

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Resource URIs", "Receiving resources as Tables".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sim.cluster.apimachinery import problems
from sim.cluster.apimachinery.problems import Json
from sim.cluster.apimachinery.targets import WriteOptions

JSON: Final = "application/json"
YAML: Final = "application/yaml"
MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path, taken apart. `namespace` is None when the path names none."""

    group: str
    version: str
    plural: str = ""
    namespace: str | None = None
    name: str = ""
    subresource: str = ""


def route(path: str) -> Route | None:
    """What is behind a path, None when it is not one of a resource, nor of a group version."""
    parts = [part for part in path.split("/") if part]
    if len(parts) >= 2 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 3 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace: str | None = None
    if (
        len(rest) >= 3
        and rest[0] == "namespaces"
        and not (not group and len(rest) == 3 and rest[2] in ("status", "finalize"))
    ):
        namespace, rest = rest[1], rest[2:]
    if len(rest) > 3:
        return None
    plural, name, subresource = (*rest, "", "", "")[:3]
    return Route(group=group, version=version, plural=plural, namespace=namespace, name=name, subresource=subresource)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the answer is wanted: as objects, as a Table, or as their metadata alone; as JSON or YAML."""

    shape: str = ""
    yaml: bool = False


_SHAPES: Final = ("Table", "PartialObjectMetadata", "PartialObjectMetadataList", "APIGroupDiscoveryList")


def form(accept: str) -> Form:
    """The first form of an Accept header that this server has.

    Raises:
        StatusError: 406, it has none of them.
    """
    if not accept:
        return Form()
    for part in accept.split(","):
        media, *parameters = (one.strip() for one in part.split(";"))
        if media not in (JSON, "*/*", "application/*", YAML):
            continue
        values = dict(one.split("=", 1) for one in parameters if "=" in one)
        shape = values.get("as", "")
        if shape and (shape not in _SHAPES or (shape == "Table" and values.get("v") != "v1")):
            continue
        if shape == "APIGroupDiscoveryList" and values.get("v") != "v2":
            continue
        return Form(shape=shape.removesuffix("List") if shape.startswith("Partial") else shape, yaml=media == YAML)
    raise problems.not_acceptable((JSON, YAML))


def media_type(header: str) -> str:
    """The media type of a Content-Type header, without its parameters."""
    return header.partition(";")[0].strip().lower()


class _Twice(dict[str, Any]):
    """An object with fields that were given twice."""

    names: tuple[str, ...] = ()


def parse_body(raw: bytes, media: str, kind: str, *, note_duplicates: list[str] | None = None) -> Any:
    """The value of a body that should hold a `kind`. The paths of fields that are given twice are appended to `note_duplicates`.

    Raises:
        StatusError: 400 when it cannot be read.
    """
    if media in (YAML, APPLY_PATCH):
        return _parse_yaml(raw)
    try:
        if note_duplicates is None:
            return json.loads(raw)
        value = json.loads(raw, object_pairs_hook=_noting)
        _find_duplicates(value, "", note_duplicates)
    except (ValueError, RecursionError) as error:
        shown = raw[:200].decode(errors="replace") or "<empty>"
        raise problems.bad_request(
            f"the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: "
            f"{error} ({shown})"
        ) from error
    return value


def _noting(pairs: list[tuple[str, Any]]) -> Json:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    names = [name for name, _ in pairs]
    marked = _Twice(result)
    marked.names = tuple(sorted({name for name in names if names.count(name) > 1}))
    return marked


def _find_duplicates(value: Any, path: str, out: list[str]) -> None:
    if isinstance(value, dict):
        if isinstance(value, _Twice):
            out += [f"{path}{name}" for name in value.names]
        for name, inner in value.items():
            _find_duplicates(inner, f"{path}{name}.", out)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _find_duplicates(inner, f"{path.rstrip('.')}[{index}].", out)


def _parse_yaml(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        import yaml  # only people write YAML by hand: programs send JSON

        try:
            return yaml.safe_load(raw)
        except (yaml.YAMLError, RecursionError) as error:
            raise problems.bad_request(f"error decoding YAML: {error}") from error


def write_options(query: Mapping[str, str], user_agent: str, *, applies: bool, patches: bool) -> WriteOptions:
    """The options of a create, an update or a patch.

    Raises:
        StatusError: 400 or 422 for options that cannot be.
    """
    kind = "PatchOptions" if patches else "UpdateOptions"
    causes = []
    manager = query.get("fieldManager", "")
    if applies and not manager:
        causes.append(problems.required("fieldManager", "is required for apply patch"))
    if len(manager) > 128:
        causes.append(problems.too_long("fieldManager", 128))
    if patches and not applies and "force" in query:
        causes.append(problems.forbidden_field("force", "may not be specified for non-apply patch"))
    dry_run = query.get("dryRun", "")
    if dry_run not in ("", "All"):
        causes.append(problems.unsupported("dryRun", dry_run, ["All"]))
    validation = query.get("fieldValidation", "")
    if validation not in ("", "Strict", "Warn", "Ignore"):
        causes.append(problems.unsupported("fieldValidation", validation, ["Ignore", "Strict", "Warn"]))
    if causes:
        raise problems.invalid(kind, "meta.k8s.io", "", causes)
    return WriteOptions(
        manager=manager or user_agent.partition("/")[0][:128] or "unknown",
        dry_run=dry_run == "All",
        validation=validation or "Warn",
        force=query.get("force", "") in ("true", "1"),
    )


def number(query: Mapping[str, str], name: str) -> int:
    """A whole number of the query, 0 when it is not there.

    Raises:
        StatusError: 400 when it is none.
    """
    text = query.get(name, "")
    if not text:
        return 0
    try:
        return int(text)
    except ValueError as error:
        raise problems.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax ({name})') from error


def truth(query: Mapping[str, str], name: str) -> bool:
    """Whether a flag of the query is set; there without a value counts."""
    return name in query and query[name].lower() not in ("false", "0")


def encode(value: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
