"""Kernel parameters, also where /proc/sys is read-only, as it is in most Pods."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from core.errors import DataplaneError
from live import sysctl

pytestmark = pytest.mark.sandbox

MAX_DIST = Path("/proc/sys/net/ipv4/ipfrag_max_dist")


def make_read_only() -> None:
    subprocess.run(["mount", "--bind", "/proc/sys", "/proc/sys"], check=True)
    subprocess.run(["mount", "--options", "remount,bind,ro", "/proc/sys"], check=True)
    with pytest.raises(OSError, match="Read-only"):
        MAX_DIST.write_text("64")


@pytest.mark.parametrize(("before", "after"), [("64", "4096"), ("4095", "4096"), ("5000", "5000"), ("0", "0")])
def test_fragments_may_come_as_mixed_as_is_enough(before: str, after: str) -> None:
    MAX_DIST.write_text(before)
    sysctl.accept_mixed_fragments()
    assert MAX_DIST.read_text().strip() == after


@pytest.mark.parametrize("value", ["4096", "5000", "0"])
def test_a_read_only_value_that_is_enough_will_do(value: str) -> None:
    MAX_DIST.write_text(value)
    make_read_only()
    sysctl.accept_mixed_fragments()


def test_a_read_only_value_that_is_not_is_told_with_what_to_do() -> None:
    MAX_DIST.write_text("64")
    make_read_only()
    with pytest.raises(
        DataplaneError, match=r"^net\.ipv4\.ipfrag_max_dist is 64 and must be 4096, .*Read-only.*securityContext"
    ):
        sysctl.accept_mixed_fragments()
