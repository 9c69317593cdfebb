"""The Kubernetes API as its clients see it: resources, and the port through which objects are read and written.

Objects are raw JSON (``dict``): typed models cost ten times the memory and seven times the time. Only `core.manifests` knows what is
in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Json = dict[str, Any]
ObjectName = tuple[str, str]
"""(namespace, name); the namespace of a cluster-scoped object is the empty string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One REST resource: where its objects are found."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of the collection, of one object, or of its subresource.

        Source: kubernetes.io/docs/reference/using-api/api-concepts, "Resource URIs".
        """
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


PODS = Resource(group="", version="v1", plural="pods", kind="Pod")
SERVICES = Resource(group="", version="v1", plural="services", kind="Service")
SECRETS = Resource(group="", version="v1", plural="secrets", kind="Secret")
EVENTS = Resource(group="", version="v1", plural="events", kind="Event")
NAMESPACES = Resource(group="", version="v1", plural="namespaces", kind="Namespace", namespaced=False)
NODES = Resource(group="", version="v1", plural="nodes", kind="Node", namespaced=False)
ENDPOINT_SLICES = Resource(group="discovery.k8s.io", version="v1", plural="endpointslices", kind="EndpointSlice")
DEPLOYMENTS = Resource(group="apps", version="v1", plural="deployments", kind="Deployment")
DAEMON_SETS = Resource(group="apps", version="v1", plural="daemonsets", kind="DaemonSet")
LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")
CRDS = Resource(
    group="apiextensions.k8s.io",
    version="v1",
    plural="customresourcedefinitions",
    kind="CustomResourceDefinition",
    namespaced=False,
)
GATEWAY_CLASSES = Resource(
    group="gateway.networking.k8s.io", version="v1", plural="gatewayclasses", kind="GatewayClass", namespaced=False
)
GATEWAYS = Resource(group="gateway.networking.k8s.io", version="v1", plural="gateways", kind="Gateway")
TCP_ROUTES = Resource(group="gateway.networking.k8s.io", version="v1", plural="tcproutes", kind="TCPRoute")
UDP_ROUTES = Resource(group="gateway.networking.k8s.io", version="v1", plural="udproutes", kind="UDPRoute")
HTTP_ROUTES = Resource(group="gateway.networking.k8s.io", version="v1", plural="httproutes", kind="HTTPRoute")
REFERENCE_GRANTS = Resource(
    group="gateway.networking.k8s.io", version="v1beta1", plural="referencegrants", kind="ReferenceGrant"
)
L34_ROUTES = Resource(group="l34.gateway.api.poc", version="v1alpha1", plural="l34routes", kind="L34Route")
GATEWAY_ROUTERS = Resource(
    group="l34.gateway.api.poc", version="v1alpha1", plural="gatewayrouters", kind="GatewayRouter"
)
NETWORKS = Resource(
    group="k8s.cni.cncf.io",
    version="v1",
    plural="network-attachment-definitions",
    kind="NetworkAttachmentDefinition",
)

PLANNED_FROM = (
    GATEWAY_CLASSES,
    GATEWAYS,
    GATEWAY_ROUTERS,
    L34_ROUTES,
    TCP_ROUTES,
    UDP_ROUTES,
    SERVICES,
    PODS,
    ENDPOINT_SLICES,
    NAMESPACES,
    REFERENCE_GRANTS,
)
"""The kinds that `core.plan` reads."""

ALL_RESOURCES = (
    PODS, SERVICES, SECRETS, EVENTS, NAMESPACES, NODES, ENDPOINT_SLICES, DEPLOYMENTS, DAEMON_SETS, LEASES, CRDS,
    GATEWAY_CLASSES, GATEWAYS, TCP_ROUTES, UDP_ROUTES, HTTP_ROUTES, REFERENCE_GRANTS, L34_ROUTES, GATEWAY_ROUTERS,
    NETWORKS,
)  # fmt: skip


class Informer(Protocol):
    """A cache of one resource that follows the API server: list, then watch, then again whatever happens."""

    @property
    def synced(self) -> bool:
        """Whether the first list is complete."""

    @property
    def version(self) -> str | None:
        """The newest resourceVersion that the server has told of, None before the first list: `objects` has all changes up to it."""

    def objects(self) -> Mapping[ObjectName, Json]:
        """A snapshot of the objects; they are shared, so nobody changes them."""


class KubeApi(Protocol):
    """The Kubernetes API. Every method may raise `core.errors.ApiError` with the server's status code and reason."""

    def get(self, resource: Resource, namespace: str, name: str) -> Json | None:
        """The object, or None when there is none."""

    def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Iterable[Json]:
        """All objects of a resource, of every namespace when `namespace` is None."""

    def create(self, resource: Resource, obj: Json) -> Json:
        """The created object; 409 AlreadyExists when its name is taken."""

    def replace(self, resource: Resource, obj: Json, *, subresource: str | None = None) -> Json:
        """The stored object; 409 Conflict when `metadata.resourceVersion` is not the current one."""

    def merge_patch(
        self, resource: Resource, namespace: str, name: str, patch: Json, *, subresource: str | None = None
    ) -> Json:
        """The object after an RFC 7386 merge patch."""

    def apply(
        self, resource: Resource, obj: Json, *, field_manager: str, subresource: str | None = None, force: bool = True
    ) -> Json:
        """The object after a server-side apply of the fields in `obj`; fields that this manager no longer gives are removed."""

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

    def watch(
        self,
        resource: Resource,
        on_change: Callable[[ObjectName], None],
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Informer:
        """An informer that runs until the client is closed; `on_change` is called, from its thread, with each object's name
        that was added, changed or removed, after the cache has it."""
