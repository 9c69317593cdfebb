"""What happens when an object is deleted.

Source: apiserver pkg/registry/rest/delete.go, pkg/registry/generic/registry/store.go; kubernetes.io/docs/concepts/architecture/
garbage-collection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sim.cluster.apimachinery import problems
from sim.cluster.apimachinery.problems import Json
from sim.cluster.apimachinery.store import Record
from sim.cluster.apimachinery.targets import Target
from sim.cluster.apimachinery.writes import Writer, is_over

ORPHAN: Final = "orphan"
FOREGROUND: Final = "foregroundDeletion"
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOptions:
    """How to delete: `propagation` is ``Background``, ``Foreground``, ``Orphan`` or nothing."""

    grace_period_s: int | None = None
    propagation: str = ""
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False


def options_of(body: Any, query: Callable[[str], str]) -> DeleteOptions:
    """The options of a request, from its body or else from its query.

    Raises:
        StatusError: 400 for what is not DeleteOptions, 422 for options that contradict each other.
    """
    if body is not None and not isinstance(body, dict):
        raise problems.bad_request(f"DeleteOptions must be an object: found {problems.shown(body)[:80]}")
    given: Json = body or {}
    grace = given.get("gracePeriodSeconds", query("gracePeriodSeconds") or None)
    orphan = given.get("orphanDependents", {"true": True, "false": False}.get(query("orphanDependents")))
    propagation = given.get("propagationPolicy") or query("propagationPolicy")
    causes = []
    if orphan is not None and propagation:
        causes.append(
            problems.invalid_value(
                "propagationPolicy", propagation, "orphanDependents and deletionPropagation cannot be both set"
            )
        )
    if propagation not in ("", "Background", "Foreground", "Orphan"):
        causes.append(
            problems.unsupported("propagationPolicy", propagation, ["Foreground", "Background", "Orphan", "nil"])
        )
    if causes:
        raise problems.invalid("DeleteOptions", "meta.k8s.io", "", causes)
    if orphan is not None:
        propagation = "Orphan" if orphan else "Background"
    preconditions = given.get("preconditions") or {}
    dry_run = given.get("dryRun") or ([query("dryRun")] if query("dryRun") else [])
    try:
        grace_period_s = None if grace is None else int(grace)
    except (TypeError, ValueError) as error:
        raise problems.bad_request(f"gracePeriodSeconds must be an integer: found {grace!r}") from error
    return DeleteOptions(
        grace_period_s=grace_period_s,
        propagation=propagation,
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
        dry_run="All" in dry_run,
    )


def delete(writer: Writer, target: Target, options: DeleteOptions) -> tuple[Record, bool]:
    """Deletes an object, or marks it as being deleted. Returns its last state, and whether it is gone.

    Raises:
        StatusError: 404; 409 when a precondition does not hold.
    """
    record = writer.current(target)
    _check_preconditions(target, record.obj["metadata"], options)
    kind, collection = target.kind, writer.collection(target.kind)
    meta: Json = dict(record.obj["metadata"])
    finalizers = _finalizers(meta, options.propagation)
    grace_s = 0
    if kind.rules.grace_period_s is not None:
        grace_s = kind.rules.grace_period_s(record.obj)
        if options.grace_period_s is not None and grace_s > 0:
            grace_s = max(options.grace_period_s, 0)
    namespace_content = kind.plural == "namespaces" and not kind.group
    already = meta.get("deletionTimestamp") is not None
    if already and not _shortens(meta, grace_s, options):
        if finalizers == (meta.get("finalizers") or []):
            return record, False
    elif grace_s == 0 and not finalizers and not namespace_content:
        if options.dry_run:
            return record, True
        if kind.rules.grace_period_s is None:
            return writer.store.remove(collection, target.key), True
        # What may wait is marked first, even when there is nothing to wait for.
        _mark(meta, 0, writer.sources.now())
        marked = writer.store.put(collection, target.key, {**record.obj, "metadata": meta})
        return writer.store.remove(collection, target.key, marked.obj), True
    if finalizers:
        meta["finalizers"] = finalizers
    else:
        meta.pop("finalizers", None)
    if not already or _shortens(meta, grace_s, options):
        _mark(meta, grace_s, writer.sources.now())
    obj: Json = {**record.obj, "metadata": meta}
    if namespace_content:
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
        meta.pop("deletionGracePeriodSeconds", None)
    # A second delete with another policy may take away the last finalizer.
    gone = is_over(kind, obj)
    if options.dry_run:
        return Record(record.version, obj), gone
    return writer.put_or_finish(kind, target.key, obj), gone


def _mark(meta: Json, grace_s: int, now: datetime) -> None:
    """Says in `meta` that the object is being deleted, `grace_s` after it was first asked for."""
    asked = now.astimezone(UTC)
    if meta.get("deletionTimestamp"):
        ends = datetime.strptime(meta["deletionTimestamp"], _TIME).replace(tzinfo=UTC)
        asked = ends - timedelta(seconds=meta.get("deletionGracePeriodSeconds") or 0)
    elif meta.get("generation"):
        meta["generation"] += 1
    meta["deletionTimestamp"] = (asked + timedelta(seconds=grace_s)).strftime(_TIME)
    meta["deletionGracePeriodSeconds"] = grace_s


def _shortens(meta: Json, grace_s: int, options: DeleteOptions) -> bool:
    """Whether a second delete makes the first one's grace period shorter."""
    current = meta.get("deletionGracePeriodSeconds")
    return current is not None and options.grace_period_s is not None and grace_s < current


def _check_preconditions(target: Target, meta: Json, options: DeleteOptions) -> None:
    why = ""
    if options.uid and options.uid != meta["uid"]:
        why = (
            f"the UID in the precondition ({options.uid}) does not match the UID in record ({meta['uid']}). "
            "The object might have been deleted and then recreated"
        )
    elif options.resource_version and options.resource_version != meta["resourceVersion"]:
        why = (
            f"the ResourceVersion in the precondition ({options.resource_version}) does not match the ResourceVersion in record "
            f"({meta['resourceVersion']}). The object might have been modified"
        )
    if why:
        raise problems.conflict(target.kind.group, target.kind.kind, meta["name"], why)


def _finalizers(meta: Json, propagation: str) -> list[str]:
    """The finalizers with which the object waits: the collector's own follow from the propagation policy."""
    current = list(meta.get("finalizers") or [])
    if propagation:
        current = [one for one in current if one not in (ORPHAN, FOREGROUND)]
    if propagation == "Orphan":
        current.append(ORPHAN)
    elif propagation == "Foreground":
        current.append(FOREGROUND)
    return current
