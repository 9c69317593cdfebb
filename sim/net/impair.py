"""What can go wrong with a wire: cut, blackholed, lossy, slow, late.

All of it is done where the wire ends in its bridge, outside of the host: nothing in the host can see a blackhole or get around it, and
what tc has redirected past the host's own nft hooks is hit as well.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from sim.net.capabilities import require
from sim.net.namespaces import ip_batch, run_in
from sim.net.topology import Port, VirtualNetwork

TABLE = "tidegate_impair"
LOSS_STEPS = 10_000
"""Loss is drawn as a number below this: steps of a hundredth of a percent."""
BURST_BYTES = 32_000
QUEUE_MS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """The state of one wire, the same in both directions; the default is a sound one.

    `cut`: no carrier, both ends see it. `blackhole`: every frame vanishes and nobody is told. `loss`: fraction of the frames that
    vanish, 0 to 1. `rate_bit_s`: frames beyond it wait, then are dropped. `delay_ms`: added each way.
    """

    cut: bool = False
    blackhole: bool = False
    loss: float = 0.0
    rate_bit_s: int | None = None
    delay_ms: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.loss <= 1.0:
            raise ValueError(f"loss {self.loss}: expected a fraction from 0 to 1")
        if self.rate_bit_s is not None and self.rate_bit_s <= 0:
            raise ValueError(f"rate {self.rate_bit_s} bit/s: expected a positive number")
        if self.delay_ms < 0:
            raise ValueError(f"delay {self.delay_ms} ms: expected 0 or more")


SOUND = Impairment()


class Impairments:
    """The impairments of a virtual network's wires. `set` declares what one wire is to be like, whatever it was before."""

    def __init__(self, network: VirtualNetwork) -> None:
        self._network = network
        self._lock = threading.Lock()
        self._state: dict[tuple[str, str], Impairment] = {}

    def set(self, host: str, interface: str, wanted: Impairment) -> None:
        """Makes the wire of a host's interface as wanted.

        Raises:
            KeyError: there is no such host or interface.
            MachineError: this kernel cannot delay (netem), limit (tbf) or drop on a bridge (nft-bridge).
            DataplaneError: the kernel refused.
        """
        if wanted.delay_ms:
            require("tc", "netem")
        if wanted.rate_bit_s is not None and not wanted.delay_ms:
            require("tc", "tbf")
        if wanted.blackhole or wanted.loss:
            require("nft", "nft-bridge")
        with self._lock:
            port = self._network.port(host, interface)
            before = self._state.get((host, interface), SOUND)
            self._state[host, interface] = wanted
            if (before.rate_bit_s, before.delay_ms) != (wanted.rate_bit_s, wanted.delay_ms):
                self._shape(host, interface, port, before, wanted)
            if (before.blackhole, before.loss) != (wanted.blackhole, wanted.loss):
                self._filter(port)
            if before.cut != wanted.cut:
                ip_batch(port.namespace, [f"link set {port.name} {'down' if wanted.cut else 'up'}"])

    def state(self, host: str, interface: str) -> Impairment:
        """What the wire is like."""
        with self._lock:
            return self._state.get((host, interface), SOUND)

    def cut(self, host: str, interface: str) -> None:
        self.set(host, interface, replace(self.state(host, interface), cut=True))

    def blackhole(self, host: str, *interfaces: str) -> None:
        """Drops all frames of the given interfaces, or of every interface of the host when none is given, without a word."""
        names = interfaces or self._interfaces(host)
        for interface in names:
            self.set(host, interface, replace(self.state(host, interface), blackhole=True))

    def mend(self, host: str, *interfaces: str) -> None:
        """Makes the given wires, or all of the host, sound again."""
        for interface in interfaces or self._interfaces(host):
            self.set(host, interface, SOUND)

    def _interfaces(self, host: str) -> tuple[str, ...]:
        view = next(view for view in self._network.hosts() if view.name == host)
        return tuple(attachment.interface for attachment in view.attachments)

    def _filter(self, changed: Port) -> None:
        """Rewrites the drop rules of one bridge in one transaction."""
        rules = []
        for (host, interface), impairment in self._state.items():
            try:
                port = self._network.port(host, interface)
            except KeyError:
                continue  # the host is gone, and its port name will not come again
            if port.network != changed.network:
                continue
            chance = f"numgen random mod {LOSS_STEPS} < {round(impairment.loss * LOSS_STEPS)}"
            if impairment.blackhole or impairment.loss:
                drawn = "" if impairment.blackhole else chance
                rules += [f'iifname "{port.name}" {drawn} drop', f'oifname "{port.name}" {drawn} drop']
        lines = [
            f"add table bridge {TABLE}",  # so that there is one to delete
            f"delete table bridge {TABLE}",
            f"add table bridge {TABLE}",
            f"add chain bridge {TABLE} wire {{ type filter hook forward priority 0; }}",
            *(f"add rule bridge {TABLE} wire {rule}" for rule in rules),
        ]
        run_in(changed.namespace, ["nft", "-f", "-"], "\n".join(lines) + "\n")

    def _shape(self, host: str, interface: str, port: Port, before: Impairment, wanted: Impairment) -> None:
        discipline = _discipline(wanted)
        shaped = before.rate_bit_s is not None or before.delay_ms
        for namespace, device in ((port.namespace, port.name), (self._network.host(host).namespace, interface)):
            if discipline is not None:
                run_in(namespace, ["tc", "qdisc", "replace", "dev", device, "root", *discipline])
            elif shaped:
                run_in(namespace, ["tc", "qdisc", "del", "dev", device, "root"])


def _discipline(wanted: Impairment) -> list[str] | None:
    if wanted.delay_ms:
        rate = [] if wanted.rate_bit_s is None else ["rate", f"{wanted.rate_bit_s}bit"]
        return ["netem", "delay", f"{wanted.delay_ms}ms", *rate]
    if wanted.rate_bit_s is not None:
        return ["tbf", "rate", f"{wanted.rate_bit_s}bit", "burst", str(BURST_BYTES), "latency", f"{QUEUE_MS}ms"]
    return None
