"""The labels, annotations and names by which objects belong together."""

from __future__ import annotations

DOMAIN = "l-3-4-gateway-api-poc"

# Labels.
PROXY_NAME = "service.kubernetes.io/service-proxy-name"
"""On Services, GatewayRouters and gateway pods: the Gateway, in the same namespace, that they belong to."""
GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
"""On what a Gateway's controller generates (Gateway API, GEP-1762)."""
SERVICE_NAME = "kubernetes.io/service-name"
SLICE_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
SLICE_MANAGER = "tidegate.l-3-4-gateway-api-poc"

# Annotations.
POD_NETWORKS = "k8s.v1.cni.cncf.io/networks"
NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"
ENDPOINT_NETWORKS = f"{DOMAIN}/networks"
MAX_ENDPOINTS = f"{DOMAIN}/service-max-endpoints"
REPLICAS = f"{DOMAIN}/replicas"
"""On a Gateway: how many pods carry it."""
SLOTS = f"{DOMAIN}/slots"
"""On an EndpointSlice: JSON object, Pod UID -> slot."""
VIPS = f"{DOMAIN}/vips"
"""On an EndpointSlice: JSON list of the VIPs that it speaks of; no endpoint is known to hold any other."""
PENDING_VIPS = f"{DOMAIN}/pending-vips"
"""On an EndpointSlice: JSON object, Pod UID -> the VIPs that a ready endpoint does not hold yet."""
ATTACHMENT = f"{DOMAIN}/attachment"
"""On an application Pod: JSON list of the desired VIPs and next hops, one element a gateway."""
ATTACHED = f"{DOMAIN}/attached"
"""On an application Pod: JSON list of the VIPs that are in place, with a way back for replies."""

# Selectors.
DUMMY_SELECTOR = f"{DOMAIN}/dummy-service-selector"
"""In a Service's selector: keeps Kubernetes' own EndpointSlices empty; it selects nothing."""

# Gateway classes, which are also controller names.
STATELESS_LOAD_BALANCER = f"{DOMAIN}/stateless-load-balancer"
KPNG = f"{DOMAIN}/kpng"
ISTIO = "istio"

GATEWAY_GROUP = "gateway.networking.k8s.io"
L34_GROUP = "l34.gateway.api.poc"
ALL_PORTS_PROTOCOL = f"{L34_GROUP}/L34"
"""A listener of this protocol takes L34Routes of every protocol and port; its own port number means nothing."""
