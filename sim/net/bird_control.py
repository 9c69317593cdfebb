"""BIRD's control socket: commands as birdc sends them, and what its answers say of BGP and BFD.

Source: BIRD 2.0 doc/reply_codes and nest/cmds.c: an answer is lines of ``NNNN-text`` (more follows), ``NNNN text`` (the last one), or
``␣text`` (the code of the line before).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.errors import TidegateError

ANSWER_DEADLINE_S = 2.0
FIRST_ERROR_CODE = 8000
PROTOCOL_ROW = 1002
BFD_ROW = 1020

_LINE = re.compile(r"(\d{4})([ -])(.*)", re.DOTALL)

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class BirdError(TidegateError):
    """BIRD is not there, or refused a command; the message has its words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BgpSession:
    """One BGP session. `state` is RFC 4271's: Idle, Connect, Active, OpenSent, OpenConfirm, Established.

    BIRD adds Passive, Close and Down.
    """

    protocol: str
    neighbor: IpAddress
    asn: int
    state: str

    @property
    def established(self) -> bool:
        return self.state == "Established"


@dataclass(frozen=True, slots=True, kw_only=True)
class BfdSession:
    """One BFD session. `state` is RFC 5880's: AdminDown, Down, Init, Up."""

    neighbor: IpAddress
    interface: str
    state: str


def ask(control: Path, command: str) -> tuple[tuple[int, str], ...]:
    """BIRD's answer to one command as (code, text) lines.

    Raises:
        BirdError: nobody listens, the answer did not come within two seconds, or BIRD refused the command.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_DEADLINE_S)
            connection.connect(str(control))
            received = connection.makefile("r", encoding="utf-8", errors="replace")
            _read_answer(received)  # the greeting
            connection.sendall(command.encode() + b"\n")
            lines = _read_answer(received)
    except OSError as error:
        raise BirdError(f"BIRD at {control} did not answer {command!r}: {error}") from error
    refusals = [text for code, text in lines if code >= FIRST_ERROR_CODE]
    if refusals:
        raise BirdError(f"BIRD at {control} refused {command!r}: {'; '.join(refusals)}")
    return lines


def _read_answer(received: Iterable[str]) -> tuple[tuple[int, str], ...]:
    lines: list[tuple[int, str]] = []
    code = 0
    for line in received:
        text = line.rstrip("\n")
        match = _LINE.fullmatch(text)
        if match is None:
            lines.append((code, text[1:]))
            continue
        code = int(match[1])
        lines.append((code, match[3]))
        if match[2] == " ":
            return tuple(lines)
    raise BirdError("BIRD closed its control socket in the middle of an answer")


def bgp_sessions(lines: Iterable[tuple[int, str]]) -> tuple[BgpSession, ...]:
    """The BGP sessions in the answer to ``show protocols all``; listeners that only wait for neighbors are left out."""
    found: list[BgpSession] = []
    protocol, fields = "", dict[str, str]()

    def finish() -> None:
        if "Neighbor address" in fields:
            # a link-local neighbor is shown with its interface: fe80::1%eth0
            neighbor = ipaddress.ip_address(fields["Neighbor address"].split("%")[0])
            found.append(
                BgpSession(
                    protocol=protocol, neighbor=neighbor, asn=int(fields["Neighbor AS"]), state=fields["BGP state"]
                )
            )
        fields.clear()

    for code, text in lines:
        if code == PROTOCOL_ROW:
            finish()
            protocol = text.split()[0]
        elif ":" in text:
            key, _, value = text.partition(":")
            fields.setdefault(key.strip(), value.strip())
    finish()
    return tuple(found)


def bfd_sessions(lines: Iterable[tuple[int, str]]) -> tuple[BfdSession, ...]:
    """The sessions in the answer to ``show bfd sessions``."""
    found = []
    for code, text in lines:
        words = text.split()
        if code != BFD_ROW or len(words) < 3 or words[0] == "IP":
            continue
        found.append(BfdSession(neighbor=ipaddress.ip_address(words[0]), interface=words[1], state=words[2]))
    return tuple(found)
