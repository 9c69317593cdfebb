"""The Kubernetes API as `core.kube.KubeApi`: raw JSON in and out, informers that follow resources, safe for any number of threads."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from core.errors import ApiError
from core.kube import Json, ObjectName, Resource
from core.reflector import PAGE_LIMIT
from live.kube_http import APPLY_PATCH, MERGE_PATCH, KubeHttp, load_configuration
from live.kube_informer import WatchingInformer

CLOSE_TIMEOUT_S = 1.0


class KubeClient:
    """One API server. Implements `core.kube.KubeApi`; use it as a context manager, or `close` it."""

    def __init__(self, http: KubeHttp, *, jitter: Callable[[], float] = random.random) -> None:
        self._http = http
        self._jitter = jitter
        self._lock = threading.Lock()
        self._informers: list[WatchingInformer] = []

    def __enter__(self) -> KubeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def server(self) -> str:
        """Where the API server is, as a URL."""
        return self._http.server

    @property
    def informers(self) -> tuple[WatchingInformer, ...]:
        with self._lock:
            return tuple(self._informers)

    def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        """The object, or None when there is none."""
        try:
            return self._http.request("GET", resource.path(namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> tuple[Json, ...]:
        """All objects of a resource, read page by page from one consistent snapshot."""
        path, selectors = resource.path(namespace), _selectors(label_selector, field_selector)
        try:
            return self._list_pages(resource, path, {**selectors, "limit": str(PAGE_LIMIT)})
        except ApiError as error:
            if error.code != 410:
                raise
            # The snapshot that the continue token reads has expired: everything at once cannot.
            return self._list_pages(resource, path, selectors)

    def create(self, resource: Resource, obj: Json) -> Json:
        """The created object; ApiError 409 AlreadyExists when its name is taken."""
        namespace, _ = _name_of(obj)
        return self._http.request("POST", resource.path(namespace), body=_typed(resource, obj))

    def replace(self, resource: Resource, obj: Json, *, subresource: str | None = None) -> Json:
        """The stored object; ApiError 409 Conflict when `metadata.resourceVersion` is not the current one."""
        path = resource.path(*_name_of(obj), subresource)
        return self._http.request("PUT", path, body=_typed(resource, obj))

    def merge_patch(
        self, resource: Resource, namespace: str, name: str, patch: Json, *, subresource: str | None = None
    ) -> Json:
        """The object after an RFC 7386 merge patch."""
        path = resource.path(namespace, name, subresource)
        return self._http.request("PATCH", path, body=patch, content_type=MERGE_PATCH)

    def apply(
        self, resource: Resource, obj: Json, *, field_manager: str, subresource: str | None = None, force: bool = True
    ) -> Json:
        """The object after a server-side apply; without `force`, ApiError 409 Conflict when others own one of the fields."""
        query = {"fieldManager": field_manager, "force": "true" if force else "false"}
        path = resource.path(*_name_of(obj), subresource)
        return self._http.request("PATCH", path, query=query, body=_typed(resource, obj), content_type=APPLY_PATCH)

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        grace_period_s: int | None = None,
    ) -> None:
        """Deletes the object; nothing happens when it is gone already, or when `uid` is not its UID."""
        options: Json = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        try:
            self._http.request("DELETE", resource.path(namespace, name), body=options)
        except ApiError as error:
            if error.code != 404 and not (error.code == 409 and uid is not None):
                raise

    def watch(
        self,
        resource: Resource,
        on_change: Callable[[ObjectName], None],
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        on_synced: Callable[[], None] | None = None,
    ) -> WatchingInformer:
        """An informer that runs until the client is closed. `on_change` is called from its thread with each name that was added,
        changed or removed, after the cache has it; `on_synced` once, after the first list."""
        informer = WatchingInformer(
            self._http,
            resource,
            on_change,
            path=resource.path(namespace),
            selectors=_selectors(label_selector, field_selector),
            jitter=self._jitter,
            on_synced=on_synced,
        )
        with self._lock:
            self._informers.append(informer)
        informer.start()
        return informer

    def close(self) -> None:
        """Ends all watches at once and closes the connections; takes a second at most."""
        informers = self.informers
        for informer in informers:
            informer.stop()
        deadline_s = time.monotonic() + CLOSE_TIMEOUT_S
        for informer in informers:
            informer.join(max(0.0, deadline_s - time.monotonic()))
        self._http.close()

    def _list_pages(self, resource: Resource, path: str, query: dict[str, str]) -> tuple[Json, ...]:
        items: list[Json] = []
        while True:
            page = self._http.request("GET", path, query=query)
            items += [_typed(resource, item) for item in page.get("items") or ()]
            token = page.get("metadata", {}).get("continue")
            if not token:
                return tuple(items)
            query = {**query, "continue": token}


def connect(kubeconfig: Path | None = None) -> KubeClient:
    """A client of the API that `kubeconfig`, KUBECONFIG, the Pod's service account or ~/.kube/config points to.

    Raises:
        InputError: nothing is configured, or what is configured cannot be read.
    """
    return KubeClient(KubeHttp(load_configuration(kubeconfig)))


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    query = {}
    if label_selector is not None:
        query["labelSelector"] = label_selector
    if field_selector is not None:
        query["fieldSelector"] = field_selector
    return query


def _name_of(obj: Json) -> ObjectName:
    return obj["metadata"].get("namespace", ""), obj["metadata"].get("name", "")


def _typed(resource: Resource, obj: Json) -> Json:
    """The object with its type: lists of built-in resources leave it out of their items, and callers may too."""
    return {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
