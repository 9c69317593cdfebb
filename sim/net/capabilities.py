"""What this machine can do: each capability has a name, is probed once, and says what to do when it is missing.

Probes change nothing: what needs the kernel's consent is tried in a throw-away namespace that ends with the probe.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from core.errors import MachineError

PROBE_DEADLINE_S = 10
MINIMUM_BIRD = (2, 0, 8)
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
BPF_OBJECT = Path("live/dataplane/tc.bpf.o")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One thing that the machine can or cannot do. `detail` is a version or the kernel's answer, `remedy` what gets it."""

    name: str
    purpose: str
    available: bool
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    purpose: str
    remedy: str
    run: Callable[[], tuple[bool, str]]


def names() -> tuple[str, ...]:
    """The names of all capabilities, in the order in which `doctor` prints them."""
    return tuple(_PROBES)


@cache
def probe(name: str) -> Capability:
    """The state of one capability; asked of the machine the first time, remembered after.

    Raises:
        KeyError: no capability has this name.
    """
    known = _PROBES[name]
    available, detail = known.run()
    return Capability(name=name, purpose=known.purpose, available=available, detail=detail, remedy=known.remedy)


def probe_all() -> tuple[Capability, ...]:
    """Every capability, for `tidegate doctor`."""
    return tuple(probe(name) for name in _PROBES)


def require(*wanted: str) -> None:
    """Returns when the machine has all that is wanted.

    Raises:
        MachineError: for all that is missing, with what gets each of it.
    """
    missing = [capability for name in wanted if not (capability := probe(name)).available]
    if missing:
        lacking = [f"{c.name!r} ({c.purpose}): {c.detail}" for c in missing]
        remedies = dict.fromkeys(c.remedy for c in missing)
        raise MachineError("this machine lacks " + "\n  and ".join(lacking), "\n  ".join(remedies))


def _in_namespace(command: str, *, more_flags: str = "") -> tuple[bool, str]:
    """Whether a shell command succeeds in namespaces of its own, and the last line of what it said."""
    flags = f"-{'Ur' if os.geteuid() else ''}nm{more_flags}"
    return _run(["unshare", flags, "sh", "-ec", command])


def _run(command: list[str]) -> tuple[bool, str]:
    environment = {**os.environ, "PATH": SYSTEM_PATH, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_DEADLINE_S, check=False, env=environment
        )
    except OSError as error:
        return False, f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return False, f"no answer within {PROBE_DEADLINE_S} s"
    said = (done.stdout + done.stderr).strip().splitlines()
    return done.returncode == 0, said[-1] if said else ("works" if done.returncode == 0 else f"exit {done.returncode}")


def _program(name: str, *version_arguments: str) -> Callable[[], tuple[bool, str]]:
    def run() -> tuple[bool, str]:
        found = shutil.which(name, path=SYSTEM_PATH)
        if found is None:
            return False, f"no program {name} on the PATH"
        if not version_arguments:
            return True, found
        return _run([found, *version_arguments])

    return run


def _link(arguments: str) -> Callable[[], tuple[bool, str]]:
    def run() -> tuple[bool, str]:
        works, said = _in_namespace(f"ip link add base type veth peer name other; ip link add {arguments}")
        return works, "works" if works else said

    return run


def _qdisc(arguments: str) -> Callable[[], tuple[bool, str]]:
    def run() -> tuple[bool, str]:
        works, said = _in_namespace(f"ip link add base type veth peer name other; tc qdisc add dev base {arguments}")
        return works, "works" if works else said

    return run


def _root() -> tuple[bool, str]:
    return os.geteuid() == 0, f"user id {os.geteuid()}"


def _namespaces() -> tuple[bool, str]:
    works, said = _in_namespace("mount -t tmpfs none /run && mount -t proc none /proc", more_flags="pf")
    how = "as root" if os.geteuid() == 0 else "as root of a user namespace"
    return works, how if works else said


def _nft() -> tuple[bool, str]:
    works, said = _in_namespace(
        "nft 'add table inet probe; add chain inet probe c { type filter hook input priority 0; };"
        " add rule inet probe c meta mark set jhash ip saddr . ip daddr mod 8 seed 0x1'; nft --version"
    )
    return works, said


def _nft_bridge() -> tuple[bool, str]:
    works, said = _in_namespace(
        "nft 'add table bridge probe; add chain bridge probe c { type filter hook forward priority 0; };"
        ' add rule bridge probe c iifname "base" numgen random mod 10000 < 1 drop\''
    )
    return works, "works" if works else said


def _bird() -> tuple[bool, str]:
    found = shutil.which("bird", path=SYSTEM_PATH)
    if found is None:
        return False, "no program bird on the PATH"
    works, said = _run([found, "--version"])
    words = said.split()
    numbers = tuple(int(part) for part in words[-1].split(".") if part.isdigit()) if words else ()
    if not works or len(numbers) < 2:
        return False, f"{found} --version said {said!r}"
    least = ".".join(map(str, MINIMUM_BIRD))
    return numbers >= MINIMUM_BIRD, said if numbers >= MINIMUM_BIRD else f"{said} is older than {least}"


def _bpf() -> tuple[bool, str]:
    """Asks the kernel for the smallest map (BPF_MAP_CREATE of an array with one element); its descriptor is closed at once."""
    bpf_system_call = {"x86_64": 321, "aarch64": 280}.get(os.uname().machine)
    if bpf_system_call is None:
        return False, f"no bpf(2) number known for {os.uname().machine}"
    libc = ctypes.CDLL(None, use_errno=True)
    map_type_array, key_bytes, value_bytes, entries = 2, 4, 4, 1
    attributes = (ctypes.c_uint32 * 32)(map_type_array, key_bytes, value_bytes, entries)
    descriptor = libc.syscall(bpf_system_call, 0, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if descriptor < 0:
        return False, f"bpf(2): {os.strerror(ctypes.get_errno())}"
    os.close(descriptor)
    works, said = _in_namespace("mount -t bpf none /mnt")
    return works, "maps and bpffs" if works else said


def _bpf_object() -> tuple[bool, str]:
    root = Path(__file__).resolve().parents[2]
    return (root / BPF_OBJECT).is_file(), str(BPF_OBJECT)


def _libbpf() -> tuple[bool, str]:
    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError as error:
        return False, str(error)
    return True, "libbpf.so.1"


def _exabgp() -> tuple[bool, str]:
    beside = Path(sys.executable).parent / "exabgp"
    if beside.exists():
        return True, "beside the interpreter"
    return _program("exabgp")()


def _apt(package: str) -> str:
    return f"get it with: sudo apt-get install {package}"


_OWN_KERNEL = "it is a part of the kernel: load the module or boot a kernel that has it"

_PROBES: dict[str, _Probe] = {
    "root": _Probe(
        purpose="BPF, and nothing else, needs it",
        remedy="run it as root, or go on with the nft data plane",
        run=_root,
    ),
    "namespaces": _Probe(
        purpose="throw-away network, mount and PID namespaces",
        remedy="run it as root, or allow unprivileged user namespaces with: sudo sysctl -w"
        " user.max_user_namespaces=10000 (Debian: kernel.unprivileged_userns_clone=1; Ubuntu:"
        " kernel.apparmor_restrict_unprivileged_userns=0)",
        run=_namespaces,
    ),
    "mnexec": _Probe(
        purpose="Mininet's hosts", remedy=_apt("mininet"), run=_program("mnexec")
    ),
    "ip": _Probe(purpose="links and addresses", remedy=_apt("iproute2"), run=_program("ip", "-Version")),
    "tc": _Probe(purpose="rates", remedy=_apt("iproute2"), run=_program("tc", "-Version")),
    "nft": _Probe(purpose="the nft data plane, cuts and loss", remedy=_apt("nftables"), run=_nft),
    "bird": _Probe(purpose="BGP and BFD, outside and in gateway pods", remedy=_apt("bird2"), run=_bird),
    "exabgp": _Probe(
        purpose="BGP peers that a scenario scripts", remedy="install it with: make setup", run=_exabgp
    ),
    "veth": _Probe(purpose="wires", remedy=_OWN_KERNEL, run=_link("probe type veth peer name probe2")),
    "bridge": _Probe(purpose="networks", remedy=_OWN_KERNEL, run=_link("probe type bridge")),
    "macvlan": _Probe(
        purpose="real macvlan devices; the testbed does without",
        remedy=_OWN_KERNEL,
        run=_link("link base name probe type macvlan"),
    ),
    "vlan": _Probe(
        purpose="real VLAN devices; the testbed does without",
        remedy=_OWN_KERNEL,
        run=_link("link base name probe type vlan id 100"),
    ),
    "tbf": _Probe(
        purpose="rate limits", remedy=_OWN_KERNEL, run=_qdisc("root tbf rate 1mbit burst 15000 latency 50ms")
    ),
    "netem": _Probe(purpose="delay", remedy=_OWN_KERNEL, run=_qdisc("root netem delay 1ms")),
    "clsact": _Probe(purpose="the tc data plane's hook", remedy=_OWN_KERNEL, run=_qdisc("clsact")),
    "nft-bridge": _Probe(purpose="blackholes and loss", remedy=_OWN_KERNEL, run=_nft_bridge),
    "bpf": _Probe(
        purpose="the tc data plane", remedy="run it as root, or choose the nft data plane: --set dataplane=nft", run=_bpf
    ),
    "libbpf": _Probe(purpose="loading the tc data plane", remedy=_apt("libbpf1"), run=_libbpf),
    "bpf-object": _Probe(
        purpose="the tc data plane, compiled", remedy="compile it with: make setup", run=_bpf_object
    ),
    "clang": _Probe(purpose="compiling the tc data plane", remedy=_apt("clang libbpf-dev"), run=_program("clang")),
    "tcpdump": _Probe(
        purpose="reading captures; writing them needs none", remedy=_apt("tcpdump"), run=_program("tcpdump")
    ),
}  # fmt: skip
