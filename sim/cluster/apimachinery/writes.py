"""What happens when an object is created, replaced, patched or applied.

Source: apiserver pkg/registry/rest/create.go, update.go; pkg/registry/generic/registry/store.go; pkg/endpoints/handlers/patch.go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from sim.cluster.apimachinery import core_rules, fields, metadata, problems, schema, validation
from sim.cluster.apimachinery.fieldset import FieldSet
from sim.cluster.apimachinery.kinds import Kind, KindVersion, Registry
from sim.cluster.apimachinery.problems import Cause, Json, StatusError
from sim.cluster.apimachinery.store import Collection, Name, Record, Store

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
            raise target.invalid(target.name, [replace(cause, detail=cause.detail.replace("0:", "0x0:", 1))])
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
        obj = decode(target, body, options, warnings)
        if obj["metadata"].get("name", target.name) != target.name:
            cause = problems.invalid_value("metadata.name", obj["metadata"]["name"], "field is immutable")
            raise target.invalid(target.name, [cause])
        return self.update(target, record, obj, options, warnings)

    def apply(self, target: Target, body: Json, options: WriteOptions) -> Written:
        """Server-side apply: creates or changes the object.

        Raises:
            StatusError: 400, 404, 409 (somebody else's fields, or not the current version), 422.
        """
        _check_applied(target, body)
        warnings: list[str] = []
        config = decode(target, body, options, warnings, defaults=False)
        record = self.collection(target.kind).records.get(target.key)
        if record is None and target.subresource:
            raise target.missing()
        live = at_version(record.obj, target.api_version) if record is not None else None
        given = config["metadata"].get("resourceVersion")
        if live is None and (given or config["metadata"].get("uid")):
            raise target.conflict("StorageError: the object does not exist") if given else target.missing()
        merged = fields.applied(live, config, target.version.schema, self._writer(target, options), force=options.force)
        if live is not None and given and given != live["metadata"]["resourceVersion"]:
            raise target.conflict()
        form = schema.Form(drop_null=not target.kind.custom)
        merged = schema.normalise(merged, target.version.schema, form, [])
        if record is None:
            return self._insert(target, merged, options, warnings, owned=True)
        return self.update(target, record, merged, options, warnings, owned=True)

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
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {was['uid']}"
            raise target.conflict(why)
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
        meta = stored["metadata"]
        ends = (
            meta.get("deletionTimestamp") and not meta.get("finalizers") and not meta.get("deletionGracePeriodSeconds")
        )
        if ends and not (kind.plural == "namespaces" and (stored.get("spec") or {}).get("finalizers")):
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
        causes += validation.validate(obj, target.version.schema)
        causes += kind.rules.check(obj, old)
        if causes:
            raise target.invalid(obj["metadata"].get("name", ""), causes)


def at_version(obj: Json, api_version: str) -> Json:
    """The object as it is read at a version: kinds are converted by name alone, as CRDs do without a webhook."""
    return obj if obj["apiVersion"] == api_version else {**obj, "apiVersion": api_version}


def _stored_form(kind: Kind, obj: Json) -> Json:
    return at_version(obj, kind.storage_api_version)


def _next_generation(target: Target, old: Json, new: Json) -> Json:
    watched = target.kind.rules.generation
    if not watched or target.subresource:
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


def decode(target: Target, body: Any, options: WriteOptions, warnings: list[str], *, defaults: bool = True) -> Json:
    """The object of a request, with its unknown fields dropped and its defaults filled in.

    Raises:
        StatusError: 400 when it is not an object of the target's kind, version, name and namespace, or holds unknown fields and the
            client wants to know.
    """
    kind = target.kind
    if not isinstance(body, dict):
        raise problems.bad_request(
            f"the object provided is unrecognized (must be of type {kind.kind}): found {problems.shown(body)[:80]}"
        )
    found_version, found_kind = body.get("apiVersion", target.api_version), body.get("kind", kind.kind)
    if kind.custom and "kind" not in body:
        raise problems.bad_request(f"Object 'Kind' is missing in '{problems.shown(body)[:200]}'")
    if found_kind != kind.kind or found_version != target.api_version:
        group = f"{target.version.name}, Kind={kind.kind}"
        raise problems.bad_request(
            f"{found_kind} in version {found_version!r} cannot be handled as a {kind.kind}: no kind {found_kind!r} is registered here; "
            f"expected {kind.group}/{group}"
            if found_kind != kind.kind
            else f"the API version in the data ({found_version}) does not match the expected API version ({target.api_version})"
        )
    body = {**body, "apiVersion": target.api_version, "kind": kind.kind}
    if not isinstance(body.get("metadata"), dict):
        if body.get("metadata") is not None:
            raise _undecodable(
                target, f"json: cannot unmarshal {validation.type_of(body['metadata'])} into Go struct field .metadata"
            )
        body["metadata"] = {}
    unknown: list[str] = []
    form = schema.Form(drop_null=not kind.custom, defaults=defaults)
    known: Json = schema.normalise(body, target.version.schema, form, unknown)
    if unknown and options.validation != "Ignore":
        texts = [f'unknown field "{path}"' for path in unknown]
        if options.validation == "Strict":
            raise _undecodable(target, "strict decoding error: " + ", ".join(texts))
        warnings += texts
    _check_types(target, known)
    _check_place(target, known["metadata"])
    return known


def _undecodable(target: Target, why: str) -> StatusError:
    kind = target.kind.kind
    return problems.bad_request(f'{kind} in version "{target.version.name}" cannot be handled as a {kind}: {why}')


def _check_types(target: Target, obj: Json) -> None:
    """A built-in kind with a value of the wrong type cannot be decoded: 400. So it is for the metadata of every kind."""
    if target.kind.custom:
        causes = validation.validate(obj["metadata"], target.version.schema.properties["metadata"], "metadata")
    else:
        causes = validation.validate(obj, target.version.schema)
    wrong = [cause for cause in causes if cause.reason == "FieldValueTypeInvalid"]
    if wrong:
        found = wrong[0].detail.rpartition('"')[0].rpartition('"')[2]
        wanted = wrong[0].detail.partition("must be of type ")[2].partition(":")[0]
        found = {"boolean": "bool", "integer": "number"}.get(found, found)
        where = f"{target.kind.kind}.{wrong[0].field}"
        raise _undecodable(target, f"json: cannot unmarshal {found} into Go struct field {where} of type {wanted}")


def _check_place(target: Target, meta: Json) -> None:
    namespace, name = meta.get("namespace"), meta.get("name")
    if target.kind.namespaced and namespace and namespace != target.namespace:
        raise problems.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if target.name and name and name != target.name:
        raise problems.bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({target.name})"
        )


def _check_applied(target: Target, body: Any) -> None:
    if not isinstance(body, dict):
        raise problems.bad_request("error decoding YAML: expected an object")
    for name in ("apiVersion", "kind"):
        if not body.get(name):
            raise problems.bad_request(f"{name} must be set")
    given = (body.get("metadata") or {}).get("name")
    if given and given != target.name:
        raise problems.bad_request(f"name in URL does not match name in applied object: {target.name}, {given}")
