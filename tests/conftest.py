"""Shared by all tests: what a test needs of the machine, and how loudly it is missed."""

from __future__ import annotations

import os
import signal

import pytest

# A shell without job control has what it runs in the background ignore Ctrl-C, and that is inherited: by the programs under test, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def require(capability: str, available: bool, reason: str) -> None:
    """Skips the test with `reason` unless `available`; fails it instead when REQUIRE names the capability.

    REQUIRE is a comma-separated list of ``netns``, ``bpf``, ``kube`` and ``shared``.
    """
    if available:
        return
    if capability in os.environ.get("REQUIRE", "").split(","):
        pytest.fail(f"REQUIRE={os.environ['REQUIRE']} but {capability} is missing: {reason}", pytrace=False)
    pytest.skip(f"needs {capability}: {reason}")
