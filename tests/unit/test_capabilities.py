"""Capabilities: probed once, named, and with a way out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from core.errors import MachineError
from sim.net import capabilities


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    capabilities.probe.cache_clear()
    yield
    capabilities.probe.cache_clear()


def test_every_capability_has_a_purpose_an_answer_and_a_remedy() -> None:
    for capability in capabilities.probe_all():
        assert capability.purpose
        assert capability.detail
        assert capability.remedy
    assert len(set(capabilities.names())) == len(capabilities.names())


def test_a_program_that_is_missing_is_a_machine_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "SYSTEM_PATH", "/nowhere")
    for name, package in (("bird", "bird2"), ("mnexec", "mininet"), ("tcpdump", "tcpdump")):
        with pytest.raises(MachineError, match=f"lacks '{name}'.*no program {name}") as caught:
            capabilities.require(name)
        assert caught.value.remedy == f"get it with: sudo apt-get install {package}"


def test_an_old_bird_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "/usr/sbin/bird")
    monkeypatch.setattr(capabilities, "_run", lambda _: (True, "BIRD version 1.6.8"))
    capability = capabilities.probe("bird")
    assert not capability.available
    assert capability.detail == "BIRD version 1.6.8 is older than 2.0.8"


def test_a_probe_that_hangs_is_a_missing_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("ip", 10)

    monkeypatch.setattr(subprocess, "run", hang)
    assert capabilities.probe("veth").detail == "no answer within 10 s"


def test_a_machine_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(command: list[str]) -> tuple[bool, str]:
        asked.append(command)
        return True, "works"

    monkeypatch.setattr(capabilities, "_run", run)
    for _ in range(3):
        capabilities.require("bridge")
    assert len(asked) == 1
