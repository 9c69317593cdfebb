"""What the server tells about itself: discovery, OpenAPI, version, by path."""

from __future__ import annotations

from typing import Final

from sim.cluster.apimachinery import discovery, openapi, requests
from sim.cluster.apimachinery.kinds import Registry
from sim.cluster.apimachinery.problems import Json

_AGGREGATED: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_PATHS: Final = ("/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version")


def document(registry: Registry, path: str, accept: str, address: str) -> tuple[Json, str] | None:
    """The document at a path and its media type, None when there is none. `address` is host:port of the server.

    Raises:
        StatusError: 406, the document is not to be had in a form that `accept` names.
    """
    path = path.rstrip("/") or "/"
    if path in ("/api", "/apis") and "as=APIGroupDiscoveryList" in accept:
        if requests.form(accept).shape == "APIGroupDiscoveryList":
            return discovery.aggregated(registry, core=path == "/api"), _AGGREGATED
    elif path.startswith("/openapi"):
        requests.form(accept)
    found = _found(registry, path, address)
    return None if found is None else (found, requests.JSON)


def _found(registry: Registry, path: str, address: str) -> Json | None:
    match path:
        case "/":
            return {"paths": list(_PATHS)}
        case "/api":
            return discovery.core_versions(address)
        case "/apis":
            return discovery.group_list(registry)
        case "/version":
            return dict(discovery.VERSION)
        case "/openapi/v2":
            return openapi.swagger(registry)
        case "/openapi/v3":
            return openapi.index(registry)
        case _:
            described = path.startswith("/openapi/v3/")
            route = requests.route(path.removeprefix("/openapi/v3") if described else path)
            if route is None:
                return discovery.group(registry, path.removeprefix("/apis/")) if path.startswith("/apis/") else None
            if described:
                return openapi.document(registry, route.group, route.version)
            return discovery.resource_list(registry, route.group, route.version)
