"""Kernel parameters below /proc/sys of the calling thread's network namespace."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from core.errors import DataplaneError

_ROOT: Final = Path("/proc/sys")
FRAGMENTS_APART: Final = 4096
"""Far more than the ways of a network mix; far fewer than the 65,536 identifiers that a source has before it uses one again."""


def read(name: str) -> str:
    """The value of the parameter with the path `name` (``net/ipv4/ip_forward``), or ``""`` when this kernel has none."""
    try:
        return (_ROOT / name).read_text().strip()
    except FileNotFoundError:
        return ""


def ensure(name: str, value: str) -> None:
    """Sets a parameter unless it has the value already: a read-only /proc/sys that is right is good enough.

    Raises DataplaneError when it is not right and cannot be set.
    """
    found = read(name)
    if found in (value, ""):
        return
    try:
        (_ROOT / name).write_text(value)
    except OSError as error:
        dotted = name.replace("/", ".")
        raise DataplaneError(
            f"{dotted} is {found} and must be {value}, but cannot be set: {error.strerror}; set it in the Pod's securityContext"
            f" (sysctls), or let the agent run with a writable /proc/sys"
        ) from error


def accept_any_source(interfaces: Iterable[str]) -> None:
    """IPv4 packets that come in at `interfaces` may be from anywhere: replies of a VIP come from where no route leads to it.

    Of rp_filter the interface's own value and that of "all" count, the higher one (ip-sysctl.rst); many distributions set 2, and even
    that loses replies, because the routes are not those of the main table. Raises DataplaneError as `ensure` does.
    """
    for name in ("all", *interfaces):
        ensure(f"net/ipv4/conf/{name}/rp_filter", "0")


def accept_mixed_fragments() -> None:
    """IPv4 fragments of many datagrams of one source may come mixed.

    The kernel gives a datagram up when more than 64 fragments of its source have come between two of its own. Behind a carrier's NAT a
    source is many clients, and where routers hash ports the first fragments go another way than the others. IPv6 knows no such limit.
    A higher limit, or none (0), is left as it is. Source: net/ipv4/ip_fragment.c (ip_frag_too_far); RFC 4963. Raises DataplaneError as
    `ensure` does.
    """
    name = "net/ipv4/ipfrag_max_dist"
    found = read(name)
    if found != "0" and int(found or FRAGMENTS_APART) < FRAGMENTS_APART:
        ensure(name, str(FRAGMENTS_APART))
