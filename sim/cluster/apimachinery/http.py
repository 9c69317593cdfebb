"""The wire: HTTP requests to the operations of the server, and their outcomes to answers."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aiohttp import web

from sim.cluster.apimachinery import (
    deletes,
    discovery,
    documents,
    patch,
    problems,
    protobuf,
    requests,
    selectors,
    subobjects,
)
from sim.cluster.apimachinery.answers import Answers
from sim.cluster.apimachinery.cluster import Cluster
from sim.cluster.apimachinery.decode import undecodable
from sim.cluster.apimachinery.faults import Faults
from sim.cluster.apimachinery.problems import Json, StatusError
from sim.cluster.apimachinery.reads import ListQuery, page, version_number
from sim.cluster.apimachinery.requests import Route, encode
from sim.cluster.apimachinery.store import ADDED, CompactedError
from sim.cluster.apimachinery.targets import Target, WriteOptions
from sim.cluster.apimachinery.watch import DEFAULT_TIMEOUT_S, Watch
from sim.cluster.apimachinery.writes import Written

_HEALTH: Final = ("/healthz", "/livez", "/readyz")
_PATCHES: Final = (requests.JSON_PATCH, requests.MERGE_PATCH, requests.STRATEGIC_PATCH, requests.APPLY_PATCH)
_CUSTOM_PATCHES: Final = (requests.JSON_PATCH, requests.MERGE_PATCH, requests.APPLY_PATCH)


@dataclass(slots=True, kw_only=True, eq=False)
class Service:
    """Answers requests to a cluster. `log` takes one event and its fields."""

    cluster: Cluster
    log: Callable[..., None]
    token: str = ""
    bookmark_interval_s: float = 60.0
    faults: Faults | None = None
    admin: Callable[[web.BaseRequest], Any] | None = None
    address: str = ""
    watches: set[Watch] = field(default_factory=set)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to a request; never raises but for a connection that is gone."""
        try:
            if self.admin is not None and request.path.startswith("/tidegate/"):
                answer: web.StreamResponse = await self.admin(request)
                return answer
            if self.faults is not None and self.faults.on:
                struck = await self._strike(request, self.faults)
                if struck is not None:
                    return struck
            return await self._answer(request)
        except StatusError as error:
            return _refusal(error)
        except web.HTTPRequestEntityTooLarge:
            limit = "Request entity too large: limit is 3145728"
            return _refusal(StatusError(413, "RequestEntityTooLarge", limit))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001  a fault of the server's own: told to the client and to the log, whole
            self.log("fault of the server", path=request.path, trace=traceback.format_exc())
            return _refusal(StatusError(500, "InternalError", f"Internal error occurred: {error!r}"))

    async def _strike(self, request: web.BaseRequest, faults: Faults) -> web.StreamResponse | None:
        verb = _verb(request, requests.route(request.path))
        client = request.remote or ""
        fault = faults.strike(verb, request.path, client, time.monotonic())
        if fault is None:
            return None
        faults.count(fault.name, client)
        self.log("fault", action=fault.action, verb=verb, path=request.path)
        match fault.action:
            case "status":
                raise fault.error()
            case "garbage":
                return web.Response(body=b'\x00{"kind": "Po\xff', content_type=requests.JSON)
            case "hang":
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(faults.cleared.wait(), max(fault.until_s - time.monotonic(), 0))
                return None
            case "stale":
                return self._list_before(request, fault.behind)
            case _:
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("a fault that was asked for")

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path in _HEALTH:
            return web.Response(text="ok")
        if self.token:
            given = request.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
                raise problems.unauthorized()
        route = requests.route(path)
        if route is None or not route.plural:
            return self._document(request, route)
        kind = self.cluster.registry.find(route.group, route.plural)
        version = kind.version(route.version) if kind is not None else None
        if kind is None or version is None:
            if (route.group, route.version) in self.cluster.registry.group_versions():
                raise problems.page_not_found()
            return _no_page()
        if not kind.namespaced and route.namespace is not None:
            raise problems.page_not_found()
        target = Target(
            kind=kind,
            version=version,
            namespace=route.namespace or "",
            name=route.name,
            subresource=route.subresource,
        )
        if kind.namespaced and route.name and route.namespace is None:
            raise problems.page_not_found()
        return await self._operate(request, route, target)

    async def _operate(self, request: web.BaseRequest, route: Route, target: Target) -> web.StreamResponse:
        answers = Answers(target, requests.form(request.headers.get("Accept", "")), self.cluster.sources.now)
        known = [name for name, _, _ in discovery.subresources(target.kind, target.version)]
        if route.subresource and route.subresource not in known:
            raise problems.page_not_found()
        match _verb(request, route):
            case "get":
                return self._get(request, target, answers)
            case "list":
                return self._list(request, target, answers)
            case "watch":
                return await self._watch(request, target, answers)
            case "create" if not route.name and (route.namespace is not None or not target.kind.namespaced):
                return await self._create(request, target, answers)
            case "create" if route.subresource == "binding":
                return await self._bind(request, target)
            case "update" if route.name and route.subresource != "binding":
                return await self._update(request, target, answers)
            case "patch" if route.name and route.subresource != "binding":
                return await self._patch(request, target, answers)
            case "delete" if not route.subresource:
                return await self._delete(request, target, answers)
            case "deletecollection" if route.namespace is not None or not target.kind.namespaced:
                return await self._delete_all(request, target, answers)
        raise problems.method_not_allowed()

    def _document(self, request: web.BaseRequest, route: Route | None) -> web.StreamResponse:
        if request.method != "GET":
            if route is None and request.path not in ("/api", "/apis", "/version"):
                return _no_page()
            raise problems.method_not_allowed()
        accept = request.headers.get("Accept", "")
        found = documents.document(self.cluster.registry, request.path, accept, self.address)
        if found is None:
            return _no_page()
        value, media = found
        return web.Response(body=encode(value), headers={"Content-Type": media})

    # Reading

    def _get(self, request: web.BaseRequest, target: Target, answers: Answers) -> web.StreamResponse:
        record = self.cluster.writer.current(target)
        if target.subresource == "scale":
            return answers.json(subobjects.scale_of(record.obj))
        return answers.one(record, 200, include=request.query.get("includeObject", "Metadata"))

    def _query(self, request: web.BaseRequest, target: Target) -> ListQuery:
        query = request.query
        fields = query.get("fieldSelector", "")
        if target.name:
            fields = f"metadata.name={target.name}"
        return ListQuery(
            namespace=target.namespace or None,
            selected=selectors.both(query.get("labelSelector", ""), fields, target.kind.selectable),
            limit=requests.number(query, "limit"),
            continue_at=query.get("continue", ""),
            resource_version=query.get("resourceVersion", ""),
            version_match=query.get("resourceVersionMatch", ""),
        )

    def _list(self, request: web.BaseRequest, target: Target, answers: Answers) -> web.StreamResponse:
        collection = self.cluster.writer.collection(target.kind)
        found = page(self.cluster.store, collection, self._query(request, target))
        return answers.many(found, include=request.query.get("includeObject", "Metadata"))

    def _list_before(self, request: web.BaseRequest, behind: int) -> web.StreamResponse | None:
        """A list as it was `behind` versions ago; None when it is not known any more, or of no kind that there is."""
        route = requests.route(request.path)
        kind = self.cluster.registry.find(route.group, route.plural) if route is not None else None
        version = kind.version(route.version) if kind is not None and route is not None else None
        if kind is None or version is None or route is None:
            return None
        target = Target(kind=kind, version=version, namespace=route.namespace or "", name="", subresource="")
        then = max(self.cluster.store.version - behind, self.cluster.writer.collection(kind).oldest, 1)
        query = replace(
            self._query(request, target), resource_version=str(then), version_match="Exact", limit=0, continue_at=""
        )
        answers = Answers(target, requests.form(request.headers.get("Accept", "")), self.cluster.sources.now)
        return answers.many(page(self.cluster.store, self.cluster.writer.collection(kind), query), include="Metadata")

    async def _watch(self, request: web.BaseRequest, target: Target, answers: Answers) -> web.StreamResponse:
        query, asked = self._query(request, target), request.query
        store, collection = self.cluster.store, self.cluster.writer.collection(target.kind)
        initial = requests.truth(asked, "sendInitialEvents")
        if initial and (query.version_match != "NotOlderThan" or not requests.truth(asked, "allowWatchBookmarks")):
            cause = problems.forbidden_field(
                "resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            )
            raise problems.invalid("ListOptions", "meta.k8s.io", "", [cause])
        timeout_s = requests.number(asked, "timeoutSeconds")
        watch = Watch(
            store=store,
            collection=collection,
            namespace=query.namespace,
            selected=query.selected,
            encoded=answers.watched(asked.get("includeObject", "Metadata")),
            bookmark=answers.bookmark,
            bookmarks=requests.truth(asked, "allowWatchBookmarks"),
            bookmark_interval_s=self.bookmark_interval_s,
            timeout_s=float(timeout_s or DEFAULT_TIMEOUT_S),
            client=request.remote or "",
            path=request.path,
            transport=request.transport,
        )
        first: list[bytes] = []
        version = version_number(query.resource_version) if query.resource_version else 0
        if initial or version == 0:
            if asked.get("sendInitialEvents", "true") not in ("false", "0"):
                records = page(store, collection, ListQuery(namespace=query.namespace, selected=query.selected)).records
                first += [b'{"type":"%s","object":%s}\n' % (ADDED.encode(), watch.encoded(one)) for one in records]
            if initial:
                ended = encode(watch.bookmark(str(store.version), True))
                first.append(b'{"type":"BOOKMARK","object":%s}\n' % ended)
        else:
            try:
                for change in collection.since(version):
                    watch.follow(collection, change)
            except CompactedError as error:
                watch.end(problems.expired(str(error)))
        return await self._stream(request, watch, first)

    async def _stream(self, request: web.BaseRequest, watch: Watch, first: list[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": requests.JSON, "Cache-Control": "no-cache, private"})
        response.enable_chunked_encoding()
        # The watch follows before anything is awaited: no change between its past and its future is lost.
        watch.collection.listeners.append(watch.follow)
        self.watches.add(watch)
        try:
            await response.prepare(request)
            await watch.run(response, first)
        except ConnectionError as error:
            self.log("watch gone", path=request.path, why=str(error))
        finally:
            watch.collection.listeners.remove(watch.follow)
            self.watches.discard(watch)
        return response

    # Writing

    def _options(self, request: web.BaseRequest, *, applies: bool = False, patches: bool = False) -> WriteOptions:
        agent = request.headers.get("User-Agent", "")
        return requests.write_options(request.query, agent, applies=applies, patches=patches)

    async def _body(self, request: web.BaseRequest, target: Target, options: WriteOptions, warnings: list[str]) -> Any:
        media = requests.media_type(request.headers.get("Content-Type", "")) or requests.JSON
        if media == protobuf.MEDIA_TYPE and not target.kind.custom:
            return protobuf.decode(await request.read())
        if media not in (requests.JSON, requests.YAML):
            raise problems.unsupported_media_type((requests.JSON, requests.YAML, protobuf.MEDIA_TYPE))
        twice: list[str] | None = [] if "fieldValidation" in request.query else None
        body = requests.parse_body(await request.read(), media, target.kind.kind, note_duplicates=twice)
        if twice and options.validation != "Ignore":
            texts = [f'duplicate field "{name}"' for name in twice]
            if options.validation == "Strict":
                raise undecodable(target, "strict decoding error: " + ", ".join(texts))
            warnings += texts
        return body

    def _written(self, answers: Answers, written: Written) -> web.StreamResponse:
        return answers.one(written.record, 201 if written.created else 200, warnings=written.warnings)

    async def _create(self, request: web.BaseRequest, target: Target, answers: Answers) -> web.StreamResponse:
        options = self._options(request)
        warnings: list[str] = []
        body = await self._body(request, target, options, warnings)
        written = self.cluster.writer.create(target, body, options)
        written.warnings[:0] = warnings
        return self._written(answers, written)

    async def _update(self, request: web.BaseRequest, target: Target, answers: Answers) -> web.StreamResponse:
        options = self._options(request)
        warnings: list[str] = []
        body = await self._body(request, target, options, warnings)
        if target.subresource == "scale":
            return self._scaled(target, answers, lambda _: body, options)
        written = self.cluster.writer.replace(target, body, options)
        written.warnings[:0] = warnings
        return self._written(answers, written)

    async def _patch(self, request: web.BaseRequest, target: Target, answers: Answers) -> web.StreamResponse:
        media = requests.media_type(request.headers.get("Content-Type", ""))
        accepted = _CUSTOM_PATCHES if target.kind.custom else _PATCHES
        if media not in _PATCHES:
            raise StatusError(415, "UnsupportedMediaType", "415: Unsupported Media Type", details={})
        if media not in accepted:
            raise problems.unsupported_media_type(accepted)
        applies = media == requests.APPLY_PATCH
        options = self._options(request, applies=applies, patches=True)
        body = requests.parse_body(await request.read(), media, target.kind.kind)
        if applies and target.subresource != "scale":
            return self._written(answers, self.cluster.writer.apply(target, body, options))
        if not applies and media != requests.JSON_PATCH and not isinstance(body, dict):
            raise problems.bad_request(f"error decoding patch: expected an object, found {problems.shown(body)[:80]}")

        def change(old: Json) -> Any:
            try:
                if media == requests.JSON_PATCH:
                    return patch.json_patch(old, body)
                if media == requests.STRATEGIC_PATCH:
                    return patch.strategic_merge(old, body, target.version.schema)
                return patch.merge_patch(old, body)
            except patch.PatchError as problem:
                if problem.malformed:
                    raise problems.bad_request(f"error decoding patch: {problem}") from problem
                message = "the server rejected our request due to an error in our request"
                self.log("patch does not fit", path=request.path, why=str(problem))
                raise StatusError(422, "Invalid", message, details={}) from problem

        if target.subresource == "scale":
            return self._scaled(target, answers, change, options)
        return self._written(answers, self.cluster.writer.patch(target, change, options))

    def _scaled(
        self, target: Target, answers: Answers, change: Callable[[Json], Json], options: WriteOptions
    ) -> web.StreamResponse:
        written = self.cluster.writer.patch(
            target, lambda old: subobjects.with_scale(old, change(subobjects.scale_of(old))), options
        )
        return answers.json(subobjects.scale_of(written.record.obj))

    async def _bind(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        options = self._options(request)
        body = await self._body(request, target, options, [])
        writer = self.cluster.writer
        record = writer.current(target)
        pod = subobjects.bound(record.obj, body if isinstance(body, dict) else {}, self.cluster.sources.timestamp())
        writer.put_or_finish(target.kind, target.key, pod)
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return web.Response(status=201, body=encode(body), content_type=requests.JSON)

    async def _delete_options(self, request: web.BaseRequest) -> deletes.DeleteOptions:
        raw = await request.read()
        media = requests.media_type(request.headers.get("Content-Type", "")) or requests.JSON
        if raw and media not in (requests.JSON, requests.YAML, protobuf.MEDIA_TYPE):
            raise problems.unsupported_media_type((requests.JSON, requests.YAML, protobuf.MEDIA_TYPE))
        body: Any = None
        if raw:
            as_json = media != protobuf.MEDIA_TYPE
            body = requests.parse_body(raw, media, "DeleteOptions") if as_json else protobuf.decode(raw)
        return deletes.options_of(body, lambda name: request.query.get(name, ""))

    async def _delete(self, request: web.BaseRequest, target: Target, answers: Answers) -> web.StreamResponse:
        options = await self._delete_options(request)
        record, gone = deletes.delete(self.cluster.writer, target, options)
        if gone and not target.kind.rules.answers_deleted_object:
            meta = record.obj["metadata"]
            return answers.json(problems.success(meta["name"], target.kind.group, target.kind.plural, meta["uid"]))
        return answers.one(record, 200)

    async def _delete_all(self, request: web.BaseRequest, target: Target, answers: Answers) -> web.StreamResponse:
        options = await self._delete_options(request)
        collection = self.cluster.writer.collection(target.kind)
        found = page(self.cluster.store, collection, self._query(request, target))
        for record in found.records:
            meta = record.obj["metadata"]
            one = Target(
                kind=target.kind, version=target.version, namespace=meta.get("namespace", ""), name=meta["name"]
            )
            deletes.delete(self.cluster.writer, one, options)
        return answers.many(found, include="Metadata")


def _no_page() -> web.Response:
    """What the real server says about a path that it knows nothing of."""
    return web.Response(status=404, text="404 page not found\n")


def _verb(request: web.BaseRequest, route: Route | None) -> str:
    """What the request does, in the words of RBAC."""
    named = route is not None and bool(route.name)
    match request.method:
        case "GET":
            if not (route is not None and route.subresource) and requests.truth(request.query, "watch"):
                return "watch"
            return "get" if named else "list"
        case "POST":
            return "create"
        case "PUT":
            return "update"
        case "PATCH":
            return "patch"
        case "DELETE":
            return "delete" if named else "deletecollection"
        case _:
            return ""


def _refusal(error: StatusError) -> web.Response:
    headers = {}
    seconds = (error.details or {}).get("retryAfterSeconds")
    if seconds is not None:
        headers["Retry-After"] = str(seconds)
    return web.Response(status=error.code, body=encode(error.status), content_type=requests.JSON, headers=headers)
