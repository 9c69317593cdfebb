"""Where the kernel itself sends packets: what a data plane that chooses interfaces must agree with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection

from core.model import Address


def ways_out(addresses: Collection[Address]) -> dict[Address, tuple[int, int]]:
    """(interface, its MTU in bytes) by address, in the namespace of the calling thread."""
    ordered = sorted(addresses, key=str)
    links = {link["ifname"]: (link["ifindex"], link["mtu"]) for link in json.loads(_ip("link", "show"))}
    questions = "".join(f"route get {address}\n" for address in ordered)
    answers = _ip("-batch", "-", asked=questions).splitlines() if ordered else []
    routes = [json.loads(line)[0] for line in answers if line.strip()]
    return {address: links[route["dev"]] for address, route in zip(ordered, routes, strict=True)}


def _ip(*arguments: str, asked: str = "") -> str:
    command = ["ip", "-json", *arguments]
    return subprocess.run(command, input=asked, capture_output=True, text=True, timeout=20, check=True).stdout
