"""Reading fields of JSON: every problem is noted with its path and reading goes on, so that one look finds them all."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from core.kube import Json
from core.model import ANY_PORT, Address, ByteMatch, L4Protocol, ObjectRef, PortRange, Prefix
from core.problems import FieldProblem, Path

T = TypeVar("T")


class UnreadableError(ValueError):
    """A value that cannot be read. `expected` says what would be right."""

    def __init__(self, what: str, expected: str) -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected


def show(value: object) -> str:
    """An offending value as text, short enough for a line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


@dataclass(slots=True)
class Reader:
    """A JSON object, the path that leads to it, and the list that collects the problems."""

    ref: ObjectRef
    value: Json
    path: Path = ()
    problems: list[FieldProblem] = field(default_factory=list)

    def problem(self, key: str | int | None, what: str, found: object = None, expected: str = "") -> None:
        """Notes that the field `key` of this object is wrong."""
        path = self.path if key is None else (*self.path, key)
        self.problems.append(
            FieldProblem(
                ref=self.ref, path=path, what=what, found="" if found is None else show(found), expected=expected
            )
        )

    def object(self, key: str) -> Reader:
        """A reader of the object under `key`; an empty one when it is absent or null."""
        return self._child(key, self._typed(key, dict, "an object", {}))

    def objects(self, key: str) -> Iterator[Reader]:
        """Readers of the objects in the list under `key`."""
        for i, item in enumerate(self._typed(key, list, "a list", [])):
            where = Reader(self.ref, {}, (*self.path, key), self.problems)
            if isinstance(item, dict):
                yield Reader(self.ref, item, (*where.path, i), self.problems)
            else:
                where.problem(i, "wrong type", item, "an object")

    def text(self, key: str, default: str = "", *, required: bool = False) -> str:
        """The string under `key`."""
        if self.value.get(key) is None and required:
            self.problem(key, "required field is missing", expected="a string")
        return self._typed(key, str, "a string", default)

    def flag(self, key: str, default: bool = False) -> bool:
        """The boolean under `key`."""
        return self._typed(key, bool, "true or false", default)

    def integer(self, key: str, default: int, *, low: int, high: int, required: bool = False) -> int:
        """The integer under `key`, low <= value <= high."""
        value = self.value.get(key)
        expected = f"an integer from {low} to {high}"
        if value is None:
            if required:
                self.problem(key, "required field is missing", expected=expected)
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.problem(key, "not a valid number", value, expected)
            return default
        return value

    def labels(self, key: str) -> dict[str, str]:
        """The map of strings under `key`."""
        items = self._typed(key, dict, "a map of strings", {})
        for name, value in items.items():
            if not isinstance(value, str):
                self.problem(key, f"value of {name!r} has the wrong type", value, "a string (quote it)")
        return {name: value for name, value in items.items() if isinstance(value, str)}

    def parsed(self, key: str, parse: Callable[[str], T], default: T, *, required: bool = False) -> T:
        """The string under `key`, given to `parse`, which raises UnreadableError."""
        value = self.value.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            # Written without quotes or without its unit: `parse` knows what to ask for.
            before = len(self.problems)
            self._parse(key, str(value), parse, default)
            if len(self.problems) == before:
                self.problem(key, "wrong type", value, "a string (quote it)")
            return default
        text = self.text(key, required=required)
        return default if key not in self.value or text == "" else self._parse(key, text, parse, default)

    def parsed_items(self, key: str, parse: Callable[[str], T], *, required: bool = False) -> tuple[T, ...]:
        """The strings in the list under `key`, each given to `parse`."""
        items = self._typed(key, list, "a list of strings", [])
        if required and not items:
            self.problem(key, "required field is missing or empty", expected="a list with at least one element")
        reader = Reader(self.ref, {}, (*self.path, key), self.problems)
        values = []
        for i, item in enumerate(items):
            if not isinstance(item, str):
                reader.problem(i, "wrong type", item, "a string (quote it)")
                continue
            value = reader._parse(i, item, parse, None)
            if value is not None:
                values.append(value)
        return tuple(values)

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        """The string under `key`, one of `choices` whatever its case; returns it as `choices` spells it."""
        text = self.text(key, default)
        for name in choices:
            if name.lower() == text.lower():
                return name
        self.problem(key, "unknown value" + nearest(text, choices), text, "one of " + ", ".join(choices))
        return default

    def _child(self, key: str, value: Json) -> Reader:
        return Reader(self.ref, value, (*self.path, key), self.problems)

    def _typed(self, key: str, type_: type[T], expected: str, default: T) -> T:
        value: Any = self.value.get(key)
        if value is None:
            return default
        if not isinstance(value, type_):
            self.problem(key, "wrong type", value, expected)
            return default
        return value

    def _parse(self, key: str | int, text: str, parse: Callable[[str], T], default: T) -> T:
        try:
            return parse(text)
        except UnreadableError as error:
            self.problem(key, error.what, text, error.expected)
            return default


def nearest(text: str, choices: tuple[str, ...]) -> str:
    """`` (did you mean 'x'?)`` when one of `choices` is close to `text`, else ``""``."""
    close = difflib.get_close_matches(text.lower(), [choice.lower() for choice in choices], n=1)
    match = next((choice for choice in choices if close and choice.lower() == close[0]), None)
    return f" (did you mean {match!r}?)" if match else ""


@lru_cache(maxsize=1 << 16)
def address(text: str) -> Address:
    """An IPv4 or IPv6 address."""
    try:
        found = ip_address(text)
    except ValueError:
        found = None
    if found is None or "%" in text:
        raise UnreadableError("not an IP address", "an IPv4 or IPv6 address, such as 20.0.0.1 or 2000::1")
    return found


@lru_cache(maxsize=1 << 12)
def prefix(text: str) -> Prefix:
    """A CIDR; host bits are masked away, as Go's net.ParseCIDR does."""
    expected = "a CIDR such as 20.0.0.1/32 or 2000::/64"
    if "/" not in text:
        raise UnreadableError("not a CIDR: the prefix length is missing", expected)
    try:
        if "%" in text or not re.fullmatch(r"[0-9]{1,3}", text.partition("/")[2]):
            raise ValueError(text)
        return ip_network(text, strict=False)
    except ValueError:
        raise UnreadableError("not a CIDR", expected) from None


_NEVER_VIRTUAL: tuple[Prefix, ...] = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32"),
        *("::/128", "::1/128", "::ffff:0.0.0.0/96", "fe80::/10", "ff00::/8"),
    )
)
"""This host, loopback, multicast, broadcast, IPv4-mapped and IPv6 link-local addresses (RFC 6890; RFC 4291, section 2.5): a packet
to one of them never reaches a gateway, and a Pod that holds them, or rules from them, loses its own network."""


def _check_virtual(found: Prefix) -> None:
    for never in _NEVER_VIRTUAL:
        if found.version == never.version and found.overlaps(never):
            raise UnreadableError(
                f"cannot be a virtual address: it has addresses of {never}",
                "unicast addresses to which clients can send, such as 20.0.0.1/32",
            )


@lru_cache(maxsize=1 << 14)
def vip(text: str) -> Prefix:
    """A CIDR of virtual addresses: `prefix`, without what can never be one."""
    found = prefix(text)
    _check_virtual(found)
    return found


def vip_address(text: str) -> Address:
    """One virtual address."""
    found = address(text)
    _check_virtual(ip_network(found))
    return found


def peer_address(text: str) -> Address:
    """The address of a router: unicast, on a network."""
    found = address(text)
    if found.is_unspecified or found.is_loopback or found.is_multicast or int(found) == 2**32 - 1:
        raise UnreadableError("cannot be the address of a router", "a unicast address on a network of the gateway pods")
    return found


_MOST_DIGITS = 10
"""Of a decimal number in a text: enough for 32 bits. Longer ones are refused before int() is asked, which is quadratic and bounded."""


def decimal(text: str) -> int:
    """The number that decimal digits stand for.

    Raises UnreadableError for anything else, and for more digits than any field holds.
    """
    if not text.isascii() or not text.isdecimal() or len(text) > _MOST_DIGITS:
        raise UnreadableError("not a number", "decimal digits")
    return int(text)


def interface_name(text: str) -> str:
    """The name of a network interface (linux/net/core/dev.c, dev_valid_name), less what configuration files cannot quote."""
    if not re.fullmatch(r"[A-Za-z0-9_.@-]{1,15}", text) or text in (".", ".."):
        raise UnreadableError("not a name of an interface", "1 to 15 letters, digits and _ . - @, such as vlan-200")
    return text


def port_range(text: str) -> PortRange:
    """``80``, ``80-90`` or ``any``."""
    if text.strip().lower() == "any":
        return ANY_PORT
    match = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", text)
    expected = "a port, a range such as 3000-4000, or any; ports are 0 to 65535"
    if match is None:
        raise UnreadableError("not a port range", expected)
    first = decimal(match[1])
    last = decimal(match[2]) if match[2] is not None else first
    if max(first, last) > 65535:
        raise UnreadableError("port out of range", expected)
    if first > last:
        raise UnreadableError("reversed port range", f"{last}-{first}")
    return PortRange(first=first, last=last)


def l4_protocol(text: str) -> L4Protocol:
    """TCP, UDP or SCTP, whatever the case."""
    try:
        return L4Protocol[text.upper()]
    except KeyError:
        names = tuple(L4Protocol.__members__)
        raise UnreadableError("unknown protocol" + nearest(text, names), "one of " + ", ".join(names)) from None


_BYTE_MATCH = re.compile(
    r"\s*(tcp|udp|sctp)\s*\[\s*([0-9]{1,5})\s*:\s*([0-9]{1,5})\s*\]\s*"
    r"(?:&\s*(0x[0-9a-f]{1,16})\s*)?=\s*(0x[0-9a-f]{1,16}|[0-9]{1,10})\s*",
    re.IGNORECASE,
)
LONGEST_L4_HEADER_BYTES = 60
"""A TCP header with all its options (RFC 9293, section 3.1: Data Offset is four bits of 32-bit words)."""


def byte_match(text: str) -> ByteMatch:
    """``tcp[2:2] & 0x00ff = 5001``."""
    match = _BYTE_MATCH.fullmatch(text)
    if match is None:
        raise UnreadableError("not a byte match", "such as tcp[2:2] = 5001 or udp[0:4] & 0x0000ffff = 0x1389")
    offset, length = int(match[2]), int(match[3])
    if length not in (1, 2, 4):
        raise UnreadableError("length of a byte match", "1, 2 or 4 bytes")
    if offset + length > LONGEST_L4_HEADER_BYTES:
        raise UnreadableError(
            "byte match beyond the L4 header", f"offset + length of {LONGEST_L4_HEADER_BYTES} at most"
        )
    full = (1 << 8 * length) - 1
    mask = int(match[4], 16) if match[4] else full
    value = int(match[5], 0) if match[5].lower().startswith("0x") else int(match[5])
    if mask > full or value > full:
        raise UnreadableError("mask or value longer than the field", f"{length} bytes: at most {full} (0x{full:x})")
    return ByteMatch(protocol=L4Protocol[match[1].upper()], offset=offset, length=length, mask=mask, value=value)


_UNIT_MS: dict[str, int | Fraction] = {
    "h": 3_600_000,
    "m": 60_000,
    "s": 1000,
    "ms": 1,
    "us": Fraction(1, 1000),
    "µs": Fraction(1, 1000),
}


def duration_ms(text: str) -> int:
    """A Go duration such as 300ms, 24s, 1m30s or 1.5s, in milliseconds, rounded (time.ParseDuration)."""
    expected = "a duration with its unit, such as 300ms, 24s or 1m30s"
    parts = re.findall(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(h|ms|us|µs|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise UnreadableError("not a duration", expected)
    return round(sum(Fraction(number) * _UNIT_MS[unit] for number, unit in parts))
