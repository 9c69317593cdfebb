"""What a kind is to the server: its names, versions, schema, subresources, and what is special about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sim.cluster.apimachinery.fieldset import FieldSet
from sim.cluster.apimachinery.problems import Cause, Json
from sim.cluster.apimachinery.schema import Schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column that `kubectl get` prints: where its value is found, and how it is shown.

    `value` is a JSONPath (``.spec.nodeName``); the columns of built-in kinds have a function instead. Columns of a `priority` above 0
    are shown with ``-o wide``.
    """

    name: str
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0
    path: str = ""
    value: Callable[[Json], object] | None = None


def _unchanged(obj: Json) -> Json:
    return obj


def _no_causes(_obj: Json, _old: Json | None) -> list[Cause]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    """What a kind does beyond its schema. The functions never change the object that they are given."""

    fill: Callable[[Json], Json] = _unchanged
    """Defaults that depend on other fields."""
    born: Callable[[Json], Json] | None = None
    """The object as it is created; None drops its status when the kind has a status subresource."""
    check: Callable[[Json, Json | None], list[Cause]] = _no_causes
    """What is wrong with an object, given the old one on an update."""
    generation: tuple[str, ...] = ()
    """Top-level fields whose change bumps metadata.generation; ("*",) is all but metadata and status."""
    grace_period_s: Callable[[Json], int] | None = None
    """How long a deleted object lives on until somebody confirms; None: it goes at once."""
    name_is: str = "subdomain"
    replace_needs_version: bool = False
    replace_creates: bool = False
    answers_deleted_object: bool = False
    status_writes_metadata: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KindVersion:
    """A version of the API at which a kind is read and written."""

    name: str
    schema: Schema
    columns: tuple[Column, ...] = ()
    status: bool = False
    """Whether status is a subresource."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind:
    """One kind of object and the resource where it is found. `versions` are those that are served, the storage version included."""

    group: str
    plural: str
    kind: str
    versions: tuple[KindVersion, ...]
    storage: str
    namespaced: bool = True
    singular: str = ""
    list_kind: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    fields: frozenset[str] = frozenset()
    """Fields that a field selector may name, besides metadata.name and metadata.namespace."""
    custom: bool = False
    """Whether it is made by a CRD: other patches, other messages."""
    scale: bool = False
    rules: Rules = field(default_factory=Rules)

    @property
    def storage_api_version(self) -> str:
        return f"{self.group}/{self.storage}" if self.group else self.storage

    @property
    def selectable(self) -> frozenset[str]:
        return self.fields | _SELECTABLE

    def version(self, name: str) -> KindVersion | None:
        """The version of this name, None when it is not served."""
        return next((version for version in self.versions if version.name == name), None)

    def ignored(self, subresource: str) -> FieldSet:
        """The fields that writes through the object's URL, or through its status, leave alone."""
        if subresource == "status":
            return _SPEC if self.rules.status_writes_metadata else _SPEC_AND_METADATA
        return _STATUS


_SELECTABLE: Final = frozenset({"metadata.name", "metadata.namespace"})
_STATUS: Final[FieldSet] = {"f:status": {}}
_SPEC: Final[FieldSet] = {
    "f:spec": {},
    "f:metadata": {"f:deletionTimestamp": {}, "f:ownerReferences": {}},
}
_SPEC_AND_METADATA: Final[FieldSet] = {"f:spec": {}, "f:metadata": {}}


@dataclass(slots=True)
class Registry:
    """The kinds that the server knows, by group and plural. `generation` changes with every change of it."""

    kinds: dict[tuple[str, str], Kind] = field(default_factory=dict)
    generation: int = 0

    def add(self, kind: Kind) -> None:
        """Adds a kind, in the place of the one with its group and plural."""
        self.kinds[kind.group, kind.plural] = kind
        self.generation += 1

    def remove(self, group: str, plural: str) -> None:
        """Removes a kind, if it is there."""
        if self.kinds.pop((group, plural), None) is not None:
            self.generation += 1

    def find(self, group: str, plural: str) -> Kind | None:
        """The kind behind a resource's URL."""
        return self.kinds.get((group, plural))

    def by_kind(self, group: str, kind: str) -> Kind | None:
        """The kind of this name."""
        return next((one for one in self.kinds.values() if one.group == group and one.kind == kind), None)

    def group_versions(self) -> Iterator[tuple[str, str]]:
        """Every (group, version) with something in it, the core group first, then by name; the preferred version first in its group."""
        seen: dict[str, list[str]] = {}
        for kind in self.kinds.values():
            for version in kind.versions:
                versions = seen.setdefault(kind.group, [])
                if version.name not in versions:
                    versions.append(version.name)
        for group in sorted(seen):
            for version_name in sorted(seen[group], key=_stability):
                yield group, version_name

    def of(self, group: str, version: str) -> list[tuple[Kind, KindVersion]]:
        """The kinds that are served in a group version, by plural."""
        found = [
            (kind, served)
            for kind in self.kinds.values()
            if kind.group == group and (served := kind.version(version)) is not None
        ]
        return sorted(found, key=lambda pair: pair[0].plural)


def _stability(version: str) -> tuple[int, int, int]:
    """Sorts v2 before v1 before v1beta2 before v1alpha1. Source: apimachinery pkg/version/helpers.go."""
    for rank, word in ((2, "alpha"), (1, "beta")):
        major, found, minor = version.removeprefix("v").partition(word)
        if found and major.isdigit():
            return rank, -int(major), -int(minor or 0)
    major = version.removeprefix("v")
    return (0, -int(major), 0) if major.isdigit() else (3, 0, 0)
