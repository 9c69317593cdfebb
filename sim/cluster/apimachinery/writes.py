"""What happens when an object is created, replaced, patched or applied.

Source: apiserver pkg/registry/rest/create.go, update.go; pkg/registry/generic/registry/store.go; pkg/endpoints/handlers/patch.go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from sim.cluster.apimachinery import core_rules, fields, metadata, problems, schema, validation
from sim.cluster.apimachinery.decode import check_applied, decode
from sim.cluster.apimachinery.fieldset import FieldSet
from sim.cluster.apimachinery.kinds import Kind, Registry
from sim.cluster.apimachinery.problems import Cause, Json, StatusError
from sim.cluster.apimachinery.store import Collection, Name, Record, Store
from sim.cluster.apimachinery.targets import Target, WriteOptions, at_version

_FROM_THE_OLD: Final = (
    "name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the time and the made-up parts of objects come from."""

    now: Callable[[], datetime]
    uid: Callable[[], str]
    suffix: Callable[[], str]
    """Five letters or digits for a generated name."""

    def timestamp(self) -> str:
        """Now, to the second, as objects carry it."""
        return self.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Written:
    """The outcome: the object, whether it is new, and warnings for the client."""

    record: Record
    created: bool = False
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Writer:
    """Writes objects into the store by the rules of their kinds."""

    store: Store
    registry: Registry
    sources: Sources

    def collection(self, kind: Kind) -> Collection:
        return self.store.collection(kind.group, kind.plural)

    def current(self, target: Target) -> Record:
        """The stored object.

        Raises:
            StatusError: 404.
        """
        record = self.collection(target.kind).records.get(target.key)
        if record is None:
            raise target.missing()
        return record

    def create(self, target: Target, body: Json, options: WriteOptions) -> Written:
        """Stores a new object.

        Raises:
            StatusError: 400, 404 (no such namespace), 409, 422.
        """
        warnings: list[str] = []
        obj = decode(target, body, options, warnings)
        if obj["metadata"].get("resourceVersion"):
            raise StatusError(500, "", "resourceVersion should not be set on objects to be created")
        return self._insert(target, obj, options, warnings, owned=False)

    def replace(self, target: Target, body: Json, options: WriteOptions) -> Written:
        """Stores an object over the one of its name.

        Raises:
            StatusError: 400, 404, 409 (not the current version), 422.
        """
        warnings: list[str] = []
        obj = decode(target, body, options, warnings)
        record = self.collection(target.kind).records.get(target.key)
        rules = target.kind.rules
        given = obj["metadata"].get("resourceVersion")
        if record is None:
            if rules.replace_creates and not target.subresource and not given:
                return self._insert(target, obj, options, warnings, owned=False)
            raise target.missing()
        if not given and rules.replace_needs_version:
            cause = problems.invalid_value("metadata.resourceVersion", 0, "must be specified for an update")
            raise problems.invalid(target.kind.plural, target.kind.group, target.name, [cause])
        return self.update(target, record, obj, options, warnings)

    def patch(self, target: Target, change: Callable[[Json], Any], options: WriteOptions) -> Written:
        """Stores what `change` makes of the object.

        Raises:
            StatusError: 400, 404, 409, 422.
        """
        record = self.current(target)
        old = at_version(record.obj, target.api_version)
        body = change(old)
        warnings: list[str] = []
        try:
            obj = decode(target, body, options, warnings)
        except StatusError as error:
            if target.kind.custom or "cannot unmarshal" not in error.message:
                raise
            # The real server shows the whole object here; the part that matters comes last.
            why = error.message.partition(": ")[2]
            raise problems.invalid("", "", "", [problems.invalid_value("patch", "...", why)]) from error
        if obj["metadata"].get("name", target.name) != target.name:
            cause = problems.invalid_value("metadata.name", obj["metadata"]["name"], "field is immutable")
            raise target.invalid(target.name, [cause])
        return self.update(target, record, _with_same_uid(target, obj, old), options, warnings)

    def apply(self, target: Target, body: Json, options: WriteOptions) -> Written:
        """Server-side apply: creates or changes the object.

        Raises:
            StatusError: 400, 404, 409 (somebody else's fields, or not the current version), 422.
        """
        check_applied(target, body)
        warnings: list[str] = []
        config = decode(target, body, options, warnings, defaults=False)
        record = self.collection(target.kind).records.get(target.key)
        if record is None and target.subresource:
            raise target.missing()
        live = at_version(record.obj, target.api_version) if record is not None else None
        given = config["metadata"].get("resourceVersion")
        if live is None and (given or config["metadata"].get("uid")):
            why = f"uid mismatch: the provided object specified uid {config['metadata'].get('uid')}, and no existing object was found"
            raise target.conflict("StorageError: the object does not exist" if given else why)
        merged = fields.applied(live, config, target.version.schema, self._writer(target, options), force=options.force)
        if live is not None and given and given != live["metadata"]["resourceVersion"]:
            raise target.conflict()
        form = schema.Form(drop_null=not target.kind.custom)
        merged = schema.normalise(merged, target.version.schema, form, [])
        if record is None:
            return self._insert(target, merged, options, warnings, owned=True)
        return self.update(target, record, _with_same_uid(target, merged, record.obj), options, warnings, owned=True)

    def _writer(self, target: Target, options: WriteOptions) -> fields.Writer:
        return fields.Writer(
            name=options.manager,
            api_version=target.api_version,
            now=self.sources.timestamp(),
            subresource=target.subresource,
            ignored=self._ignored(target),
        )

    @staticmethod
    def _ignored(target: Target) -> FieldSet:
        if not target.version.status:
            return {}
        return target.kind.ignored(target.subresource)

    def _insert(self, target: Target, obj: Json, options: WriteOptions, warnings: list[str], *, owned: bool) -> Written:
        kind, rules = target.kind, target.kind.rules
        name = target.name or self._name(obj["metadata"])
        meta: Json = {
            **{key: value for key, value in obj["metadata"].items() if key not in ("resourceVersion", "selfLink")},
            "name": name,
            "uid": self.sources.uid(),
            "creationTimestamp": self.sources.timestamp(),
        }
        for name_of in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
            meta.pop(name_of, None)
        if kind.namespaced:
            meta["namespace"] = target.namespace
        else:
            meta.pop("namespace", None)
        if rules.generation:
            meta["generation"] = 1
        obj = rules.fill({**obj, "metadata": meta})
        if not owned:
            obj = fields.updated(None, obj, target.version.schema, self._writer(target, options))
        if rules.born is not None:
            obj = rules.born(obj)
        elif target.version.status:
            obj = {key: value for key, value in obj.items() if key != "status"}
        # Dropping the status may leave room for its default, as in the real server.
        if target.version.status and target.kind.custom:
            obj = schema.normalise(obj, target.version.schema, schema.Form(drop_null=False), [])
        if (kind.group, kind.plural) == ("", "services"):
            services = [record.obj for record in self.collection(kind).records.values()]
            obj = core_rules.allocate_service(obj, services)
        self._check(target, obj, None)
        self._check_namespace(target, name)
        collection = self.collection(kind)
        key = (target.namespace, name)
        if key in collection.records:
            raise problems.already_exists(kind.group, kind.plural, name)
        stored = _stored_form(kind, obj)
        record = Record(0, stored) if options.dry_run else self.store.put(collection, key, stored)
        return Written(record, created=True, warnings=warnings)

    def _name(self, meta: Json) -> str:
        name = meta.get("name") or ""
        if name or not meta.get("generateName"):
            return str(name)
        return str(meta["generateName"])[: metadata.GENERATED_NAME_BYTES] + self.sources.suffix()

    def _check_namespace(self, target: Target, name: str) -> None:
        """Source: apiserver pkg/admission/plugin/namespace/lifecycle/admission.go."""
        if not target.kind.namespaced:
            return
        record = self.store.collection("", "namespaces").records.get(("", target.namespace))
        if record is None:
            raise problems.not_found("", "namespaces", target.namespace)
        if record.obj["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {target.namespace} because it is being terminated"
            cause = Cause(
                reason="NamespaceTerminating",
                field="metadata.namespace",
                detail=f"namespace {target.namespace} is being terminated",
            )
            raise problems.forbidden(target.kind.group, target.kind.plural, name, why, [cause])

    def update(
        self,
        target: Target,
        record: Record,
        new: Json,
        options: WriteOptions,
        warnings: list[str],
        *,
        owned: bool = False,
    ) -> Written:
        """Stores `new` (decoded, at the target's version) over `record`; nothing happens when it says the same.

        Raises:
            StatusError: 409, 422.
        """
        old = at_version(record.obj, target.api_version)
        meta, was = new["metadata"], old["metadata"]
        if meta.get("uid", was["uid"]) != was["uid"]:
            key = "/".join(filter(None, ("/registry", target.kind.plural, target.namespace, target.name)))
            raise target.conflict(
                f"StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: "
                f"UID in precondition: {meta['uid']}, UID in object meta: {was['uid']}"
            )
        if meta.get("resourceVersion", was["resourceVersion"]) not in (was["resourceVersion"], ""):
            raise target.conflict()
        new = self._combined(target, old, new)
        if new.get("spec") is not old.get("spec") or "spec" not in new:
            new = target.kind.rules.fill(new)
        if not owned:
            new = fields.updated(old, new, target.version.schema, self._writer(target, options))
        if new == old:
            return Written(record, warnings=warnings)
        new = _next_generation(target, old, new)
        self._check(target, new, old)
        stored = _stored_form(target.kind, new)
        if options.dry_run:
            return Written(Record(record.version, stored), warnings=warnings)
        return Written(self.put_or_finish(target.kind, target.key, stored), warnings=warnings)

    def put_or_finish(self, kind: Kind, key: Name, stored: Json) -> Record:
        """Stores an object, or removes it when all that kept it from going were finalizers that it has no more."""
        collection = self.collection(kind)
        if is_over(kind, stored):
            return self.store.remove(collection, key, stored)
        return self.store.put(collection, key, stored)

    @staticmethod
    def _combined(target: Target, old: Json, new: Json) -> Json:
        """The parts that this URL writes from `new`, all others from `old`."""
        meta = dict(new["metadata"])
        for key in _FROM_THE_OLD:
            meta.pop(key, None)
            if key in old["metadata"]:
                meta[key] = old["metadata"][key]
        meta["resourceVersion"] = old["metadata"]["resourceVersion"]
        if "managedFields" not in meta and "managedFields" in old["metadata"]:
            meta["managedFields"] = old["metadata"]["managedFields"]
        if target.subresource == "status":
            if target.kind.rules.status_writes_metadata:
                if "ownerReferences" in old["metadata"]:
                    meta["ownerReferences"] = old["metadata"]["ownerReferences"]
                else:
                    meta.pop("ownerReferences", None)
            else:
                meta = {**old["metadata"], "managedFields": meta.get("managedFields", [])}
                if not meta["managedFields"]:
                    del meta["managedFields"]
            combined = {**{key: value for key, value in old.items() if key != "status"}, "metadata": meta}
            return {**combined, "status": new["status"]} if "status" in new else combined
        if target.version.status:
            combined = {**{key: value for key, value in new.items() if key != "status"}, "metadata": meta}
            return {**combined, "status": old["status"]} if "status" in old else combined
        return {**new, "metadata": meta}

    def _check(self, target: Target, obj: Json, old: Json | None) -> None:
        kind = target.kind
        causes = metadata.check(obj["metadata"], kind.rules.name_is)
        if old is not None:
            causes += metadata.check_update(obj["metadata"], old["metadata"])
        misfits = validation.validate(obj, target.version.schema)
        causes += [_in_words_of(target, cause) for cause in misfits]
        causes += kind.rules.check(obj, old)
        if causes:
            raise target.invalid(obj["metadata"].get("name", ""), causes)


def is_over(kind: Kind, stored: Json) -> bool:
    """Whether an object that is being deleted has nothing left to wait for."""
    meta = stored["metadata"]
    waits = meta.get("finalizers") or meta.get("deletionGracePeriodSeconds")
    if not meta.get("deletionTimestamp") or waits:
        return False
    return not (kind.plural == "namespaces" and (stored.get("spec") or {}).get("finalizers"))


def _with_same_uid(target: Target, new: Json, old: Json) -> Json:
    """A UID that is given is a precondition of a replacement, which says 409; in a patch it is a field that nobody may change, and that
    the status of a custom kind does not look at.
    """
    meta, uid = new["metadata"], old["metadata"]["uid"]
    if meta.get("uid", uid) == uid:
        return new
    if target.subresource == "status" and not target.kind.rules.status_writes_metadata:
        return {**new, "metadata": {**meta, "uid": uid}}
    raise target.invalid(target.name, [problems.invalid_value("metadata.uid", meta["uid"], "field is immutable")])


def _in_words_of(target: Target, cause: Cause) -> Cause:
    if not target.kind.custom:
        return validation.in_builtin_words(cause)
    if target.subresource == "status":
        # The real server validates a status on its own, and says so.
        return replace(cause, detail=cause.detail.replace(f"{cause.field} in body", f"{cause.field[7:]} in body"))
    return cause


def _stored_form(kind: Kind, obj: Json) -> Json:
    return at_version(obj, kind.storage_api_version)


def _next_generation(target: Target, old: Json, new: Json) -> Json:
    watched = target.kind.rules.generation
    if not watched or target.subresource == "status":
        return new
    if watched == ("*",):
        names = (set(old) | set(new)) - {"metadata", "apiVersion", *(("status",) if target.version.status else ())}
        changed = any(old.get(name) != new.get(name) for name in names)
    else:
        changed = any(_part(old, name) != _part(new, name) for name in watched)
    if not changed:
        return new
    meta = new["metadata"]
    return {**new, "metadata": {**meta, "generation": int(meta.get("generation", 0)) + 1}}


def _part(obj: Json, name: str) -> Any:
    return obj["metadata"].get(name) if name in ("labels", "annotations") else obj.get(name)
