"""What a request is about, and how it wants to write."""

from __future__ import annotations

from dataclasses import dataclass

from sim.cluster.apimachinery import problems
from sim.cluster.apimachinery.kinds import Kind, KindVersion
from sim.cluster.apimachinery.problems import Cause, Json, StatusError
from sim.cluster.apimachinery.store import Name


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request is about: an object, or its subresource, read and written at one version of the API."""

    kind: Kind
    version: KindVersion
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def api_version(self) -> str:
        return f"{self.kind.group}/{self.version.name}" if self.kind.group else self.version.name

    @property
    def key(self) -> Name:
        return self.namespace, self.name

    def missing(self) -> StatusError:
        return problems.not_found(self.kind.group, self.kind.plural, self.name)

    def conflict(self, why: str = "") -> StatusError:
        return problems.conflict(self.kind.group, self.kind.plural, self.name, why)

    def invalid(self, name: str, causes: list[Cause]) -> StatusError:
        return problems.invalid(self.kind.kind, self.kind.group, name, causes)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How to write: by whom, for real or not, how strict about unknown fields."""

    manager: str = "unknown"
    dry_run: bool = False
    validation: str = "Warn"
    force: bool = False


def at_version(obj: Json, api_version: str) -> Json:
    """The object as it is read at a version: kinds are converted by name alone, as CRDs do without a webhook."""
    return obj if obj["apiVersion"] == api_version else {**obj, "apiVersion": api_version}
