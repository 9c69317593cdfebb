"""A short text that equal forwarding sets have in common: what a load balancer has programmed can be compared from outside."""

from __future__ import annotations

import hashlib

from core.lb.forwarding import Forwarding


def fingerprint(forwarding: Forwarding) -> str:
    """16 hexadecimal digits of a hash of everything in `forwarding`; the same in every process and on every machine."""
    return hashlib.blake2b(repr(forwarding).encode(), digest_size=8).hexdigest()
