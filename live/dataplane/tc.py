"""The `tc` data plane: a BPF program at the ingress of each interface (tc.bpf.c), its maps (tc_tables.py), and what holds them.

What is in the kernel stays there when the agent ends, held by pins on a BPF file system. An agent that starts knows nothing of the
maps that it finds: it loads its own program, fills its maps, and puts it in the place of the old one, link by link; each packet sees
the one or the other, and both say the truth. So a restart, an upgrade and maps that have become too small are one thing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Final

from core.errors import DataplaneError, MachineError
from core.lb.forwarding import Forwarding, Target
from core.model import Address
from core.ports import FlowCounter
from live import sysctl
from live.dataplane import bpf, libbpf, tc_slow
from live.dataplane.egress import Link, check_all, links, there_of
from live.dataplane.fence import Fence
from live.dataplane.tc_image import compile_flows
from live.dataplane.tc_places import Places, PoolPlaces
from live.dataplane.tc_program import (
    COMPILE_COMMAND,
    FRAGMENT_SHAPE,
    OBJECT,
    Constants,
    Drop,
    Program,
    new_fragments,
)
from live.dataplane.tc_tables import NoRoomError, Tables, sizes_of

log = logging.getLogger(__name__)

ANSWERS_PER_S: Final = 1000
"""RST and ICMP errors, of each CPU."""
_INGRESS: Final = "ingress-"
"""Of pins; then the index of the interface, for its name may have dots, which that file system refuses."""
_FOLDER: Final = "tidegate-"
SLOW_MTU_BYTES: Final = 1500
"""Without targets."""
_SLOW: Final = ("answer", "slow")
"""Programs and pins of the slow device, in the order in which they run."""
_PROG_TYPE_SCHED_CLS: Final = 3
_EINVAL: Final = 22


def default_pins() -> Path | None:
    """Where the pins of this network namespace are: on the BPF file system that was mounted last; None: there is none."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = [Path(fields[1]) for fields in mounts if fields[2] == "bpf"]
    return found[-1] / f"{_FOLDER}{Path('/proc/thread-self/ns/net').stat().st_ino}" if found else None


def at_work() -> bool:
    """Whether this data plane forwards in this network namespace, whoever gave it what."""
    pins = default_pins()
    pinned = [pins / name for name in _SLOW if (pins / name).exists()] if pins is not None else []
    try:
        # Pins of a namespace that is gone may be there, under the number that is now ours.
        return any(map(_is_attached, pinned))
    except DataplaneError:  # BPF may not be used any more: what is pinned cannot be looked at, but goes on
        return True


def probe() -> str | None:
    """Why this data plane cannot be used here; None: it can."""
    if reason := why_not_bpf():
        return reason
    pins = default_pins()
    if pins is None or not os.access(pins.parent, os.W_OK):
        return "no BPF file system is mounted that we may write to (mount -t bpf bpf /sys/fs/bpf)"
    return None


def why_not_bpf() -> str | None:
    """Why the program cannot be loaded or attached here; None: it can."""
    if not OBJECT.is_file():
        return f"{OBJECT.name} has not been compiled ({COMPILE_COMMAND})"
    if reason := libbpf.available():
        return reason
    try:
        with bpf.closing(bpf.load_trivial(_PROG_TYPE_SCHED_CLS)) as program:
            try:
                os.close(bpf.link_tcx_ingress(program, 0))
            except bpf.BpfError as error:
                # Interface 0 does not exist; a kernel without tcx does not even look for it.
                if error.errno == _EINVAL:
                    return "this kernel has no tcx links (Linux 6.6 has)"
    except DataplaneError as error:
        return f"BPF may not be used: {error}"
    return None


class TcDataplane:
    """`core.ports.Dataplane` by BPF. For one network namespace: that of the thread that calls it.

    `pins` is a folder on a BPF file system that is this namespace's alone; it is made if need be.

    Raises MachineError when the object has not been compiled or there is no BPF file system.
    """

    def __init__(
        self, *, pins: Path | None = None, answers_per_s: int = ANSWERS_PER_S, object_path: Path = OBJECT
    ) -> None:
        found = pins or default_pins()
        if found is None or not bpf.is_bpffs(found if found.exists() else found.parent):
            where = f"{found.parent} is not" if found else "there is no"
            raise MachineError(f"{where} BPF file system", "mount one with: mount -t bpf bpf /sys/fs/bpf")
        if not object_path.is_file():
            raise MachineError(f"{object_path.name} has not been compiled", f"compile it with: {COMPILE_COMMAND}")
        self._pins = found
        self._object = object_path
        self._answers_per_s = answers_per_s
        self._at_work = Lock()
        """Counters are read by other threads than that of `apply`, which closes the maps that they are read from."""
        self._tables: Tables | None = None
        self._fragments: int | None = None
        self._unreachable: frozenset[Target] = frozenset()
        self._fence = Fence()
        self._places = Places()
        self._slow: tuple[Link, Link] | None = None
        self._forwarding: Forwarding | None = None
        self._surroundings: tuple[tuple[str, ...], int, bool, Mapping[str, Link]] | None = None
        """Interfaces, MTU of the slow device, whether it needs IPv6, and all links, as of the last `apply` that succeeded."""

    def apply(self, forwarding: Forwarding, *, interfaces: Sequence[str]) -> None:
        """Makes `forwarding` true for packets that arrive on `interfaces` (tc_tables.py says in which order), and for no others.

        Targets on no network of this namespace get nothing: their packets are dropped and counted, never sent elsewhere.

        Raises DataplaneError when the kernel refuses, or, when all is done for the others, when an interface does not exist.
        """
        there = links()
        with self._at_work:
            self._apply(forwarding, there_of(interfaces, there), there)
        check_all(interfaces, there)

    def _apply(self, forwarding: Forwarding, interfaces: tuple[str, ...], there: Mapping[str, Link]) -> None:
        places = self._places.look(forwarding.pools, there)
        self._tell_unreachable(frozenset(target for found in places.values() for target in found.unreachable))
        mtus = [found.least_mtu_bytes for found in places.values() if found.least_mtu_bytes is not None]
        ipv6 = any(flow.version == 6 for flow in forwarding.flows)
        surroundings = interfaces, min(mtus, default=SLOW_MTU_BYTES), ipv6, there
        known, self._surroundings = self._surroundings, None
        # The same set again is an occasion to look whether all that it rests on is still there. A new one need not wait for that.
        look = forwarding is self._forwarding or surroundings != known
        if look or self._slow is None:
            self._slow = self._prepare(*surroundings[:3])
            self._fence.look_again()
        entrance, exit_ = self._slow
        vips = {vip for flow in forwarding.flows for vip in flow.destinations}
        self._fence.extend(vips, interfaces, entrance.index)
        before = self._tables
        self._fill(forwarding, places, entrance.index)
        try:
            if look or self._tables is not before:
                self._attach(exit_, [there[name] for name in interfaces])
        finally:
            if before is not None and before is not self._tables:
                before.program.close()
        self._fence.narrow(vips, interfaces)
        self._forwarding, self._surroundings = forwarding, surroundings

    def _prepare(self, interfaces: Sequence[str], mtu_bytes: int, ipv6: bool) -> tuple[Link, Link]:
        """Makes what the program needs around it; returns the two ends of the slow device."""
        for parameter in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            sysctl.ensure(parameter, "1")
        sysctl.accept_any_source(interfaces)
        sysctl.accept_mixed_fragments()
        if not self._pins.exists():
            _sweep(self._pins.parent)
            self._pins.mkdir()
        return tc_slow.ensure(mtu_bytes, ipv6=ipv6)

    def _tell_unreachable(self, unreachable: frozenset[Target]) -> None:
        for target in sorted(unreachable - self._unreachable, key=lambda t: (t.service, t.slot, str(t.address))):
            log.warning(
                "target on no network of ours: its packets are dropped",
                extra={"target": str(target.address), "service": target.service, "pod": target.pod},
            )
        self._unreachable = unreachable

    def _fill(self, forwarding: Forwarding, places: Mapping[str, PoolPlaces], slow_ifindex: int) -> None:
        constants = Constants(
            slow_ifindex=slow_ifindex,
            fragment_mark=tc_slow.MARK,
            answer_mark=tc_slow.ANSWER_MARK,
            answers_per_s=self._answers_per_s,
        )
        old = self._tables
        known = old is not None and old.has_flows(forwarding.flows)
        decisions = old.decisions if old is not None and known else compile_flows(forwarding.flows)
        needed = sizes_of(forwarding, decisions, places)
        if (
            old is not None
            and not old.in_doubt
            and old.program.constants == constants
            and old.program.sizes.hold(needed)
        ):
            try:
                old.fill(forwarding, decisions, places)
            except NoRoomError:
                log.info("the maps are full, loading a bigger program")
            else:
                return
        program = Program(needed.roomy(), constants, self._fragment_map(), self._object)
        try:
            self._tables = Tables(program, carried=old.totals() if old is not None else {})
            self._tables.fill(forwarding, decisions, places)
        except BaseException:
            self._tables = old
            program.close()
            raise

    def _fragment_map(self) -> int:
        """The pinned map, if it is of our shape, else a new one in its place."""
        if self._fragments is None:
            path = self._pins / "fragments"
            fd = bpf.pinned(path)
            if fd is not None and bpf.map_shape(fd) != FRAGMENT_SHAPE:
                os.close(fd)
                path.unlink()
                fd = None
            if fd is None:
                fd = new_fragments()
                bpf.pin(fd, path)
            self._fragments = fd
        return self._fragments

    # --- links -------------------------------------------------------------------------------------------------------------

    def _attach(self, slow: Link, interfaces: Sequence[Link]) -> None:
        """Gives every link our program: those of the slow device first, so that nothing is sent there in vain."""
        assert self._tables is not None
        programs = self._tables.program.programs
        # They run in the order in which they were attached: both anew if one is missing.
        if not all(self._renew(name, programs[f"tg_{name}"], slow.index) for name in _SLOW):
            for name in _SLOW:
                self._pin_anew(name, bpf.link_tcx_ingress(programs[f"tg_{name}"], slow.index))
        for link in interfaces:
            name = f"{_INGRESS}{link.index}"
            if not self._renew(name, programs["tg_ingress"], link.index):
                self._pin_anew(name, bpf.link_tcx_ingress(programs["tg_ingress"], link.index))
        wanted = {f"{_INGRESS}{link.index}" for link in interfaces}
        for path in self._pins.glob(f"{_INGRESS}*"):
            if path.name not in wanted:
                bpf.unpin_link(path)

    def _renew(self, name: str, program: int, ifindex: int) -> bool:
        """Gives the pinned link this program; False: there is no link to that interface, nor a pin any more."""
        fd = bpf.pinned(self._pins / name)
        if fd is None:
            return False
        with bpf.closing(fd):
            if bpf.link_ifindex(fd) == ifindex:
                bpf.update_link(fd, program)
                return True
        bpf.unpin_link(self._pins / name)
        return False

    def _pin_anew(self, name: str, fd: int) -> None:
        """Pins a link in the place of what was pinned there, and closes its descriptor."""
        with bpf.closing(fd):
            bpf.unpin_link(self._pins / name)
            bpf.pin(fd, self._pins / name)

    # --- the rest of the port ------------------------------------------------------------------------------------------------

    def counters(self) -> Sequence[FlowCounter]:
        """By flow and target, since this object's first `apply`; targets that are gone for longer are missing."""
        with self._at_work:
            totals = self._tables.totals() if self._tables is not None else {}
        summed: dict[tuple[str, Address | None], tuple[int, int]] = {}
        for ((flow, _), target), (packets, octets) in totals.items():
            before = summed.get((flow, target), (0, 0))
            summed[flow, target] = before[0] + packets, before[1] + octets
        return tuple(
            FlowCounter(flow=flow, target=target, packets=packets, bytes=octets)
            for (flow, target), (packets, octets) in summed.items()
        )

    def drops(self) -> dict[Drop, int]:
        """Packets to our VIPs that were dropped, by reason, since the program was loaded."""
        with self._at_work:
            return self._tables.program.drops() if self._tables is not None else dict.fromkeys(Drop, 0)

    def program_descriptor(self) -> int:
        """The ingress program, for tests that run it on frames of their own (`bpf.run_once`).

        Raises DataplaneError before the first `apply`.
        """
        if self._tables is None:
            raise DataplaneError("nothing has been applied yet, so no program is loaded")
        return self._tables.program.programs["tg_ingress"]

    def remove(self) -> None:
        """Takes links, pins, maps and the slow device out of the kernel, whoever put them there."""
        if self._pins.exists():
            for path in (*self._pins.glob(f"{_INGRESS}*"), *(self._pins / name for name in _SLOW)):
                bpf.unpin_link(path)
            for path in self._pins.iterdir():
                path.unlink()
            self._pins.rmdir()
        self.close()
        self._fence.remove()
        tc_slow.remove()
        self._slow = self._surroundings = None

    def close(self) -> None:
        """Lets go of descriptors; what is attached stays and forwards."""
        if self._tables is not None:
            self._tables.program.close()
            self._tables = None
        if self._fragments is not None:
            os.close(self._fragments)
            self._fragments = None


def _sweep(root: Path) -> None:
    """Removes the pins of network namespaces that are gone: a Pod that dies takes its devices along, but no pins."""
    for folder in root.glob(f"{_FOLDER}*"):
        slow_links = [folder / name for name in _SLOW if (folder / name).exists()]
        if slow_links and not any(map(_is_attached, slow_links)):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


def _is_attached(pin: Path) -> bool:
    fd = bpf.pinned(pin)
    if fd is None:
        return False
    with bpf.closing(fd):
        return bpf.link_ifindex(fd) != 0
