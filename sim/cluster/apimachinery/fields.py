"""Who owns which field: managedFields, server-side apply, conflicts.

Source: kubernetes.io/docs/reference/using-api/server-side-apply; structured-merge-diff merge/update.go; apimachinery
pkg/util/managedfields.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Final

from sim.cluster.apimachinery import fieldset, typed
from sim.cluster.apimachinery.fieldset import FieldSet
from sim.cluster.apimachinery.problems import Json, StatusError, bad_request
from sim.cluster.apimachinery.schema import Schema

APPLY: Final = "Apply"
UPDATE: Final = "Update"
BEFORE_FIRST_APPLY: Final = "before-first-apply"
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"

# Source: apimachinery pkg/util/managedfields/internal/stripmeta.go
_NOBODYS: Final[FieldSet] = {
    "f:apiVersion": {},
    "f:kind": {},
    "f:metadata": {
        ".": {},
        **{
            f"f:{name}": {}
            for name in (
                "name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation",
                "managedFields", "resourceVersion",
            )
        },
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Who writes, through which door, and when."""

    name: str
    api_version: str
    now: str
    subresource: str = ""
    ignored: FieldSet
    """Fields that this door does not write (status at the object's own URL, everything else at its status)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    manager: str
    operation: str
    api_version: str
    subresource: str
    time: str
    fields: FieldSet

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """An applier is the same in every version of the kind; an updater is another one."""
        return self.manager, self.operation, self.subresource, "" if self.operation == APPLY else self.api_version


_Owners = dict[tuple[str, str, str, str], _Entry]


def _owners(obj: Json | None) -> _Owners:
    listed = (obj or {}).get("metadata", {}).get("managedFields") or []
    entries = (
        _Entry(
            manager=one.get("manager", ""),
            operation=one.get("operation", ""),
            api_version=one.get("apiVersion", ""),
            subresource=one.get("subresource", ""),
            time=one.get("time", ""),
            fields=one.get("fieldsV1") or {},
        )
        for one in listed
        if one.get("operation") in (APPLY, UPDATE)
    )
    return {entry.identity: entry for entry in entries}


def _with_owners(obj: Json, owners: _Owners) -> Json:
    entries = sorted(
        (entry for entry in owners.values() if entry.fields),
        key=lambda entry: (entry.operation, entry.time, entry.manager, entry.api_version, entry.subresource),
    )
    listed = [
        {
            "manager": entry.manager,
            "operation": entry.operation,
            "apiVersion": entry.api_version,
            **({"time": entry.time} if entry.time else {}),
            "fieldsType": "FieldsV1",
            "fieldsV1": entry.fields,
            **({"subresource": entry.subresource} if entry.subresource else {}),
        }
        for entry in entries
    ]
    metadata = {name: value for name, value in obj.get("metadata", {}).items() if name != "managedFields"}
    if listed:
        metadata["managedFields"] = listed
    return {**obj, "metadata": metadata}


def _unowned(obj: Json | None) -> Json:
    """The object without its managedFields."""
    if obj is None:
        return {}
    metadata = obj.get("metadata", {})
    if "managedFields" not in metadata:
        return obj
    return {**obj, "metadata": {name: value for name, value in metadata.items() if name != "managedFields"}}


def updated(live: Json | None, new: Json, schema: Schema, writer: Writer) -> Json:
    """`new` with its managedFields after `writer` replaced `live` by it (or created it).

    managedFields given in `new` replace those of `live`; an empty first entry takes them all away, as in the real server. From then
    on nobody owns anything, until somebody applies.
    Source: merge/update.go, Updater.Update; managedfields/internal/skipnonapplied.go.
    """
    given = new.get("metadata", {}).get("managedFields")
    owners = _owners(new if given else live)
    if live is not None and not owners:
        return _with_owners(new, {})
    difference = typed.compare(_unowned(live), _unowned(new), schema)
    changed = fieldset.union(difference.added, difference.modified)
    me = _Entry(
        manager=writer.name, operation=UPDATE, api_version=writer.api_version, subresource=writer.subresource,
        time=writer.now, fields={},
    )  # fmt: skip
    _take(owners, fieldset.union(changed, difference.removed), except_for=me.identity)
    gained = _ownable(changed, writer)
    mine = owners.get(me.identity)
    before = mine.fields if mine is not None else {}
    after = fieldset.union(fieldset.difference(before, difference.removed), gained)
    if mine is None or after != before:
        owners[me.identity] = replace(me, fields=after)
    return _with_owners(new, owners)


def _ownable(fields: FieldSet, writer: Writer) -> FieldSet:
    return fieldset.difference(fieldset.difference(fields, _NOBODYS), writer.ignored, deep=True)


def _take(owners: _Owners, lost: FieldSet, except_for: tuple[str, str, str, str]) -> None:
    """Takes `lost` from every owner but one."""
    if not lost:
        return
    for identity, entry in list(owners.items()):
        if identity != except_for:
            owners[identity] = replace(entry, fields=fieldset.difference(entry.fields, lost))


def applied(live: Json | None, config: Json, schema: Schema, writer: Writer, *, force: bool) -> Json:
    """The object after `writer` applied `config` to `live` (None: there is none yet), with its managedFields.

    Fields that the writer applied before and does not give any more are removed, unless somebody else owns them. `live` itself is
    returned when nothing changes.
    Source: merge/update.go, Updater.Apply.

    Raises:
        StatusError: 409 with the fields that others own and `config` would change, unless `force`; 500, as the
            real server has it, for a list without its keys.
    """
    if config.get("metadata", {}).get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    base = _unowned(live)
    owners = _owners(live)
    if live is not None and not owners:
        owners = _owner_before_first_apply(base, schema, writer)
    try:
        mine = _ownable(typed.field_set(config, schema), writer)
        merged: Any = typed.merge(base, config, schema)
    except typed.ListKeyError as problem:
        meta = config.get("metadata", {})
        version = config["apiVersion"]
        kind = f"{version if '/' in version else '/' + version}, Kind={config['kind']}"
        where = f"{meta.get('namespace', '')}/{meta.get('name', '')}; {kind}"
        raise StatusError(500, "", f"failed to create typed patch object ({where}): {problem}") from problem
    me = _Entry(
        manager=writer.name, operation=APPLY, api_version=writer.api_version, subresource=writer.subresource,
        time=writer.now, fields=mine,
    )  # fmt: skip
    last = owners.get(me.identity)
    if last is not None and last.fields:
        keep = mine
        for identity, entry in owners.items():
            if identity != me.identity:
                keep = fieldset.union(keep, entry.fields)
        merged = typed.without(merged, last.fields, keep, schema)
    difference = typed.compare(base, merged, schema)
    changed = _ownable(fieldset.union(difference.added, difference.modified), writer)
    _refuse_conflicts(owners, changed, me.identity, _last_applied(base, schema, writer), force=force)
    _take(owners, fieldset.union(changed, difference.removed), except_for=me.identity)
    if last is not None and difference.same and last.fields == mine and last.api_version == me.api_version:
        return live if live is not None else merged
    owners[me.identity] = me
    return _with_owners(merged, owners)


def _owner_before_first_apply(live: Json, schema: Schema, writer: Writer) -> _Owners:
    """Who owns what is in an object of which nobody owns anything. Source: managedfields/internal/skipnonapplied.go."""
    fields = _ownable(typed.compare({}, live, schema).added, writer)
    entry = _Entry(
        manager=BEFORE_FIRST_APPLY, operation=UPDATE, api_version=writer.api_version, subresource=writer.subresource,
        time=writer.now, fields=fields,
    )  # fmt: skip
    return {entry.identity: entry}


def _last_applied(live: Json, schema: Schema, writer: Writer) -> FieldSet:
    """What kubectl's client-side apply gave and still holds: kubectl's server-side apply may change that without a conflict.

    Source: apimachinery pkg/util/managedfields/internal/lastappliedmanager.go.
    """
    text = (live.get("metadata", {}).get("annotations") or {}).get(LAST_APPLIED)
    if writer.name != "kubectl" or not text:
        return {}
    try:
        last = json.loads(text)
        given = typed.field_set(last, schema)
    except (ValueError, typed.ListKeyError):
        return {}
    differs = typed.compare(last, live, schema)
    return fieldset.difference(fieldset.difference(given, differs.modified), differs.removed)


def _refuse_conflicts(
    owners: _Owners, changed: FieldSet, me: tuple[str, str, str, str], allowed: FieldSet, *, force: bool
) -> None:
    if force or not fieldset.difference(changed, allowed):
        return
    changed = fieldset.difference(changed, allowed)
    conflicts: list[tuple[str, str]] = []
    for identity, entry in sorted(owners.items(), key=lambda item: item[0]):
        if identity != me:
            whom = f'conflict with "{entry.manager}"'
            if entry.subresource:
                whom += f' with subresource "{entry.subresource}"'
            if entry.operation == UPDATE:
                whom += f" using {entry.api_version}"
            conflicts += [(whom, path) for path in fieldset.paths(fieldset.intersection(entry.fields, changed))]
    if conflicts:
        raise apply_conflict(conflicts)


def apply_conflict(conflicts: list[tuple[str, str]]) -> StatusError:
    """409 with one cause a field. Each conflict is (with whom, path of the field)."""
    causes = [{"reason": "FieldManagerConflict", "message": whom, "field": path} for whom, path in conflicts]
    plural = "s" if len(conflicts) > 1 else ""
    if len({whom for whom, _ in conflicts}) == 1:
        whom = conflicts[0][0].replace("conflict with", f"conflict{plural} with", 1)
        listed = (
            f": {conflicts[0][1]}" if len(conflicts) == 1 else ":" + "".join(f"\n- {path}" for _, path in conflicts)
        )
        text = whom + listed
    else:
        groups: dict[str, list[str]] = {}
        for whom, path in conflicts:
            groups.setdefault(whom, []).append(path)
        text = "\n".join(
            whom.replace("conflict with", "conflicts with", 1) + ":" + "".join(f"\n- {path}" for path in paths)
            for whom, paths in groups.items()
        )
    return StatusError(
        409, "Conflict", f"Apply failed with {len(conflicts)} conflict{plural}: {text}", details={"causes": causes}
    )
