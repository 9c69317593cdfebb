"""Network namespaces from the inside: run a function or a command in one, without leaving one's own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from core.errors import DataplaneError

CLONE_NEWNET = 0x40000000
COMMAND_DEADLINE_S = 30

Result = TypeVar("Result")

SYSCTLS = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    # 5-tuple ECMP: flows, not addresses, are spread over the gateway pods
    ("net/ipv4/fib_multipath_hash_policy", "1"),
    ("net/ipv6/fib_multipath_hash_policy", "1"),
    # the way out and the way back differ by design
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    # an address is usable at once: nobody else is on these wires
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    # a cut wire must take the kernel's routes of both families with it, but not the addresses
    ("net/ipv6/conf/all/keep_addr_on_down", "1"),
    ("net/ipv6/conf/default/keep_addr_on_down", "1"),
)
BRIDGE_SYSCTLS = (
    # bridged frames run through nft otherwise, and lose a fifth of the speed
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
)

_libc = ctypes.CDLL(None, use_errno=True)


def namespace_of(pid: int) -> Path:
    """The file that stands for the network namespace of a process."""
    return Path(f"/proc/{pid}/ns/net")


def set_namespace(namespace: Path) -> None:
    """Moves the calling thread into a network namespace, for good. Source: setns(2)."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"setns: {os.strerror(number)}", str(namespace))
    finally:
        os.close(descriptor)


def within(namespace: Path, call: Callable[[], Result]) -> Result:
    """What `call` returns (or raises) in a thread of its own that has moved into `namespace`.

    Sockets that it opens and processes that it starts stay there; /proc/sys/net shows that namespace.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            set_namespace(namespace)
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001 (handed to the caller, whatever it is)
            failure.append(error)

    thread = threading.Thread(target=body, name=f"within {namespace}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def run_in(namespace: Path, command: list[str], text: str = "") -> str:
    """The standard output of a command that ran in `namespace` with `text` as its input.

    Raises:
        DataplaneError: it failed, with what it said, or did not end; it is killed then.
    """
    try:
        done = within(
            namespace,
            lambda: subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, check=False
            ),
        )
    except subprocess.TimeoutExpired as error:
        raise DataplaneError(
            f"{' '.join(command)} did not end within {COMMAND_DEADLINE_S:g} s; its input was: {text.strip()}"
        ) from error
    if done.returncode != 0:
        raise DataplaneError(f"{' '.join(command)} failed: {done.stderr.strip()}; its input was: {text.strip()}")
    return done.stdout


def ip_batch(namespace: Path, commands: Iterable[str], *, go_on: bool = False) -> None:
    """Runs many `ip` commands in one process, up to the first that fails; with `go_on` the others as well.

    Raises:
        DataplaneError: `ip` refused one; the message has its line number and the commands.
    """
    text = "\n".join(commands)
    if text:
        run_in(namespace, ["ip", *(["-force"] if go_on else []), "-batch", "-"], text + "\n")


def prepare(namespace: Path) -> None:
    """Sets the sysctls that the testbed relies on in a fresh namespace; the ones that this kernel lacks are left out."""

    def write() -> None:
        for name, value in (*SYSCTLS, *BRIDGE_SYSCTLS):
            path = Path("/proc/sys") / name
            if path.exists():
                path.write_text(value)

    within(namespace, write)
