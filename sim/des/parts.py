"""What the moving parts of the virtual-time world share."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.lb.forwarding import Forwarding
from core.objects import Objects
from core.plan import forwarding_of
from sim.des.api import Api
from sim.des.fabric import Fabric
from sim.des.kernel import Kernel
from sim.des.latencies import Latencies
from sim.des.routing import Routing


class Forwardings:
    """`core.plan.forwarding_of`, computed once for all pods of a gateway; an equal set is the same object as before."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[Objects, Forwarding]] = {}

    def of(self, objects: Objects, namespace: str, name: str) -> Forwarding:
        known = self._known.get((namespace, name))
        if known is not None and known[0] is objects:
            return known[1]
        wanted = forwarding_of(objects, namespace, name) or Forwarding()
        if known is not None and known[1] == wanted:
            wanted = known[1]
        self._known[(namespace, name)] = (objects, wanted)
        return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The world as its programs see it."""

    kernel: Kernel
    api: Api
    latencies: Latencies
    fabric: Fabric
    routing: Routing
    forwardings: Forwardings = field(default_factory=Forwardings)
