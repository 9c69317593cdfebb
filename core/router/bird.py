"""The configuration text of BIRD 2 for a gateway pod's router.

VIPs are static routes that are announced to every peer of their family; only default routes are taken in, and go, as ECMP over all
peers, to a kernel table of their own.

Source: BIRD 2.0 User's Guide, chapters 3 (configuration) and 6 (BFD, BGP, Device, Kernel, Static).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from core.model import Bfd, Bgp, Static, sorted_prefixes
from core.ports import Peer, Routing

CONNECT_DELAY_S = 1
CONNECT_RETRY_S = 2
"""BIRD's defaults (5 s and 120 s) keep a gateway pod without routes for seconds after its start."""
ERROR_WAIT_S = (1, 2)
ERROR_FORGET_S = 5
"""BIRD's default error wait (60,300) keeps a peer away for a minute after one lost session."""
PASSWORD_LIMIT_BYTES = 80
"""Of TCP_MD5SIG_MAXKEYLEN (linux/tcp.h); BIRD itself takes more, never connects, and from 5,000 on crashes."""
_DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}


def protocol_name(peer: str) -> str:
    """A BIRD symbol for a GatewayRouter's name; prefixed, because a name such as ``vpn`` is a keyword of BIRD's grammar.

    Every character that a symbol cannot have is written as its code, so that two names never become one.
    """
    return "peer_" + re.sub(r"[^A-Za-z0-9]", lambda match: f"_{ord(match[0]):x}_", peer)


def usable_password(text: str) -> bool:
    """Whether BIRD and the kernel use all of `text`, and nothing else, as a password."""
    return 0 < len(text.encode()) <= PASSWORD_LIMIT_BYTES and not set(text) & set('"\n\0')


def render(routing: Routing) -> str:
    """BIRD's configuration for `routing`: equal sets give equal text."""
    return "\n".join([*_head(routing), *_tables(routing), *_peers(routing.peers)]) + "\n"


def _head(routing: Routing) -> Iterator[str]:
    yield "# Written by tidegate; changes are overwritten."
    yield "log stderr all;"
    yield "timeformat protocol iso long;"
    yield f"router id {routing.router_id};"
    yield "protocol device {}"


def _tables(routing: Routing) -> Iterator[str]:
    for version in (4, 6):
        yield f"protocol static vips{version} {{"
        yield f"    ipv{version};"
        yield from (
            f"    route {vip} unreachable;" for vip in sorted_prefixes(routing.announced) if vip.version == version
        )
        yield "}"
        yield f"protocol kernel kernel{version} {{"
        yield f"    kernel table {routing.table};"
        yield "    merge paths yes;"
        yield f"    ipv{version} {{"
        yield "        import none;"
        yield f'        export where net = {_DEFAULT[version]} && proto != "vips{version}";'
        yield "    };"
        yield "}"


def _peers(peers: Sequence[Peer]) -> Iterator[str]:
    if any(peer.routing.bfd for peer in peers):
        yield "protocol bfd {}"
    for peer in sorted(peers, key=lambda peer: peer.name):
        match peer.routing:
            case Bgp():
                yield from _bgp(peer, peer.routing)
            case Static():
                yield from _static(peer, peer.routing)


def _bgp(peer: Peer, bgp: Bgp) -> Iterator[str]:
    version = peer.address.version
    yield f"protocol bgp {protocol_name(peer.name)} {{"
    yield f"    local port {bgp.local_port} as {bgp.local_asn};"
    yield f"    neighbor {peer.address} port {bgp.remote_port} as {bgp.remote_asn};"
    yield f'    interface "{peer.interface}";'
    yield "    direct;"
    yield f"    hold time {bgp.hold_time_s};"
    yield f"    connect delay time {CONNECT_DELAY_S};"
    yield f"    connect retry time {CONNECT_RETRY_S};"
    yield f"    error wait time {ERROR_WAIT_S[0]}, {ERROR_WAIT_S[1]};"
    yield f"    error forget time {ERROR_FORGET_S};"
    if peer.password is not None:
        yield f'    password "{_quoted(peer.password.reveal())}";'
    if bgp.bfd is not None:
        yield from _bfd(bgp.bfd)
    yield f"    ipv{version} {{"
    yield f"        import where net = {_DEFAULT[version]};"
    yield f'        export where proto = "vips{version}";'
    yield "    };"
    yield "}"


def _bfd(bfd: Bfd) -> Iterator[str]:
    yield "    bfd {"
    yield f"        min tx interval {bfd.min_tx_ms} ms;"
    yield f"        min rx interval {bfd.min_rx_ms} ms;"
    yield f"        multiplier {bfd.multiplier};"
    yield "    };"


def _quoted(text: str) -> str:
    if not usable_password(text):
        raise ValueError(f"a password has 1 to {PASSWORD_LIMIT_BYTES} bytes, none a double quote, line break or NUL")
    return text


def _static(peer: Peer, static: Static) -> Iterator[str]:
    """A default route over a router that does not speak BGP; with BFD it goes when the path does."""
    version = peer.address.version
    bfd = " bfd" if static.bfd else ""
    yield f"protocol static {protocol_name(peer.name)} {{"
    yield f"    ipv{version};"
    yield f'    route {_DEFAULT[version]} via {peer.address} dev "{peer.interface}"{bfd};'
    yield "}"
