"""Names, labels, finalizers: what holds for the metadata of every object.

Source: apimachinery pkg/api/validation/objectmeta.go, pkg/util/validation/validation.go.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sim.cluster.apimachinery import problems
from sim.cluster.apimachinery.problems import Cause, Json

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED: Final = re.compile(rf"(?:{_SUBDOMAIN}/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_LABEL_VALUE: Final = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_NAMES: Final = {
    "label": (
        re.compile(_LABEL), 63,
        ("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an "
        "alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"),
    ),
    "subdomain": (
        re.compile(_SUBDOMAIN), 253,
        ("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with "
        "an alphanumeric character (e.g. 'example.com', regex used for validation is "
        r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"),
    ),
    "path": (re.compile(r"(?!\.\.?$)[^/%]+"), 253, "may not be '.' or '..' and may not contain '/' or '%'"),
}  # fmt: skip
_STANDARD_FINALIZERS: Final = ("kubernetes", "orphan", "foregroundDeletion")
GENERATED_NAME_BYTES: Final = 58
"""A generated name is at most 63 bytes: 58 of its prefix, and five that are made up."""
MOST_ANNOTATIONS_BYTES: Final = 256 * 1024
"""Keys and values of all annotations of an object together. Source: objectmeta.go, TotalAnnotationSizeLimitB."""


def check(metadata: Json, name_is: str) -> list[Cause]:
    """What is wrong with an object's metadata."""
    causes = [*_check_name(metadata.get("name"), name_is), *check_labels(metadata, "metadata")]
    for index, finalizer in enumerate(metadata.get("finalizers") or []):
        if finalizer not in _STANDARD_FINALIZERS and "/" not in finalizer:
            text = "name is neither a standard finalizer name nor is it fully qualified"
            causes.append(problems.invalid_value(f"metadata.finalizers[{index}]", finalizer, text))
    for index, reference in enumerate(metadata.get("ownerReferences") or []):
        path = f"metadata.ownerReferences[{index}]"
        empty = [field for field in ("apiVersion", "kind", "name", "uid") if reference.get(field) == ""]
        causes += [problems.required(f"{path}.{field}", "must not be empty") for field in empty]
        if (reference.get("apiVersion"), reference.get("kind")) == ("v1", "Event"):
            causes.append(problems.invalid_value(path, reference, "/v1, Kind=Event is disallowed from being an owner"))
    controllers = [one for one in metadata.get("ownerReferences") or [] if one.get("controller")]
    if len(controllers) > 1:
        text = "Only one reference can have Controller set to true"
        causes.append(problems.invalid_value("metadata.ownerReferences", metadata["ownerReferences"], text))
    return causes


def check_labels(metadata: Json, path: str) -> list[Cause]:
    """What is wrong with labels and annotations: those of an object, or of a template."""
    causes: list[Cause] = []
    for field in ("labels", "annotations"):
        for key, value in (metadata.get(field) or {}).items():
            causes += _check_key(f"{path}.{field}", key if field == "labels" else key.lower())
            if field == "labels" and (len(value) > 63 or not _LABEL_VALUE.fullmatch(value)):
                causes.append(problems.invalid_value(f"{path}.labels", value, _LABEL_VALUE_TEXT))
    annotations = metadata.get("annotations") or {}
    if sum(len(text.encode()) for pair in annotations.items() for text in pair) > MOST_ANNOTATIONS_BYTES:
        causes.append(problems.too_long(f"{path}.annotations", MOST_ANNOTATIONS_BYTES))
    return causes


_LABEL_VALUE_TEXT: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


def _check_name(name: Any, name_is: str) -> list[Cause]:
    if not name:
        return [problems.required("metadata.name", "name or generateName is required")]
    return check_named("metadata.name", name, name_is)


def check_named(field: str, name: str, name_is: str) -> list[Cause]:
    """What is wrong with a name, which is a ``label``, a ``subdomain`` or a part of a ``path``."""
    pattern, limit, text = _NAMES[name_is]
    if len(name) > limit:
        return [problems.invalid_value(field, name, f"must be no more than {limit} bytes")]
    return [] if pattern.fullmatch(name) else [problems.invalid_value(field, name, text)]


def _check_key(field: str, key: str) -> list[Cause]:
    if len(key.rpartition("/")[2]) <= 63 and _QUALIFIED.fullmatch(key):
        return []
    text = (
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
        "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
    )
    return [problems.invalid_value(field, key, text)]


def check_update(new: Json, old: Json) -> list[Cause]:
    """What an update of metadata may not do: add finalizers to an object that is being deleted."""
    if not old.get("deletionTimestamp"):
        return []
    added = [one for one in new.get("finalizers") or [] if one not in (old.get("finalizers") or [])]
    if not added:
        return []
    shown = ", ".join(f'"{one}"' for one in added)
    text = f"no new finalizers can be added if the object is being deleted, found new finalizers []string{{{shown}}}"
    return [problems.forbidden_field("metadata.finalizers", text)]
