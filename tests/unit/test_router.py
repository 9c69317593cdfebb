"""The router agent's turn, with a BIRD that only listens and an API server in memory."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest

from core.errors import ApiError
from core.kube import GATEWAY_ROUTERS, GATEWAYS, SECRETS, Resource
from core.model import Prefix
from live.agent.programmed import Programmed, ProgrammedFollower, serve_programmed
from live.agent.router import Router
from live.bird import Bird
from live.sessions import sessions
from live.store import ModelStore
from tests import objects
from tests.fakes import FakeApi
from tests.unit.fake_bird import FakeBird

DEADLINE_S = 10.0
A, B = ip_network("20.0.0.1/32"), ip_network("20.0.0.2/32")


class NoRules:
    """`core.ports.PolicyRoutes` of no namespace."""

    def apply(self, vips: Sequence[Prefix]) -> None:
        pass

    def remove(self) -> None:
        pass


class Pod:
    """A gateway pod with two peers: ``open``, and ``secured``, whose password is key ``k`` of the Secret ``bgp``."""

    def __init__(self, folder: Path, exits: ExitStack) -> None:
        self.fake = exits.enter_context(FakeBird(folder))
        self.api = FakeApi()
        exits.callback(self.api.close)
        secured = objects.router(
            "secured", address="169.254.100.151", bgp={"auth": {"keySource": "bgp", "keyName": "k"}}
        )
        self.api.create(GATEWAYS, objects.gateway())
        self.api.create(GATEWAY_ROUTERS, objects.router("open"))
        self.api.create(GATEWAY_ROUTERS, secured)
        self._programmed = Programmed()
        server = serve_programmed(self._programmed, "127.0.0.1:0")
        exits.callback(server.close)
        self._heard = threading.Event()
        self._follower = ProgrammedFollower(self._heard.set, f"127.0.0.1:{server.port}")
        exits.callback(self._follower.close)
        bird = Bird(folder)
        exits.callback(bird.close)
        routers = self.api.watch(GATEWAY_ROUTERS, lambda _: None)
        self.router = Router(
            ModelStore([self.api.watch(GATEWAYS, lambda _: None), routers]),
            self.api,
            bird,
            NoRules(),
            self._follower,
            gateway=("default", "gw"),
            pod="pod",
            router_id=IPv4Address("10.0.0.1"),
            routers=routers,
        )

    def announces(self, *vips: Prefix) -> str:
        """BIRD's configuration after a turn in which these are programmed."""
        self._heard.clear()
        self._programmed.publish(announced=vips, vips=[A, B])
        assert self._heard.wait(DEADLINE_S)
        self.router.reconcile()
        assert self.fake.running is not None
        return self.fake.running

    def set_password(self, password: bytes) -> None:
        self.api.delete(SECRETS, "default", "bgp")
        data = {"k": base64.b64encode(password).decode()}
        self.api.create(SECRETS, {"metadata": {"name": "bgp", "namespace": "default"}, "data": data})

    def session(self, router: str) -> list[str]:
        stored = self.api.get(GATEWAY_ROUTERS, "default", router)
        return [session["session"] for session in sessions(stored or {})]


def refusal(code: int) -> Callable[[str, Resource, str], None]:
    """The API server does not give Secrets away."""

    def refuse(verb: str, resource: Resource, name: str) -> None:
        if resource is SECRETS:
            raise ApiError(code, "Refused", f"{verb} {name}")

    return refuse


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    with ExitStack() as exits:
        yield Pod(tmp_path, exits)


def test_a_router_without_its_password_is_left_out_and_keeps_no_other_from_a_withdrawal(
    pod: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "live.agent.router"):
        assert f"route {A} " in pod.announces(A, B)
        running = pod.announces(B)
    assert f"route {A} " not in running
    assert "peer_open" in running
    assert "peer_secured" not in running, "no session without the password that was asked for"
    assert pod.session("secured") == ["NoPassword"]
    assert [record.message for record in caplog.records] == ["no password for a session"]
    assert "secured is NoPassword" in (pod.router.no_way_out() or "")
    pod.set_password(b"s3cret")
    assert 'password "s3cret"' in pod.announces(A)


@pytest.mark.parametrize("password", [b"", b'a"b', b"a\nb", b"a\0b", b"\xff", pytest.param(b"a" * 81, id="long")])
def test_a_password_that_bird_cannot_use_is_none(pod: Pod, password: bytes) -> None:
    """BIRD refuses the whole text for the first three, shortens one with a NUL, and crashes on a very long one."""
    pod.set_password(password)
    running = pod.announces(A)
    assert "peer_open" in running
    assert "peer_secured" not in running


@pytest.mark.parametrize("code", [0, 403, 500])
def test_a_password_that_was_read_holds_while_it_cannot_be_read(pod: Pod, code: int) -> None:
    """A Secret that is replaced is gone for a moment: no session ends for that."""
    pod.set_password(b"s3cret")
    pod.announces(A)
    pod.api.delete(SECRETS, "default", "bgp")
    assert 'password "s3cret"' in pod.announces(B)
    pod.api.refuse = refusal(code)
    assert 'password "s3cret"' in pod.announces(A)


def test_a_withdrawal_does_not_wait_for_a_password_to_be_read(pod: Pod) -> None:
    """An API server that is not to be reached answers after many seconds, or never."""
    pod.set_password(b"s3cret")
    assert f"route {A} " in pod.announces(A, B)
    running_when_asked: list[str | None] = []

    def ask(_verb: str, resource: Resource, _name: str) -> None:
        if resource is SECRETS:
            running_when_asked.append(pod.fake.running)

    pod.api.refuse = ask
    pod.announces(B)
    (running,) = running_when_asked
    assert running is not None
    assert f"route {A} " not in running
    assert 'password "s3cret"' in running


@pytest.mark.parametrize("code", [0, 403, 500])
def test_an_api_that_keeps_quiet_ends_no_session_of_a_predecessor(pod: Pod, code: int) -> None:
    """A router agent that has just come back does not know the password yet, with which BIRD has a session."""
    pod.api.refuse = refusal(code)
    if code == 403:
        assert "peer_secured" not in pod.announces(A), "403 is an answer"
        return
    with pytest.raises(ApiError):
        pod.announces(A)
    assert pod.fake.running is None


@pytest.mark.parametrize("code", [0, 403, 500])
def test_a_password_that_was_never_read_delays_no_withdrawal(pod: Pod, code: int) -> None:
    pod.announces(A, B)
    pod.api.refuse = refusal(code)
    running = pod.announces(B)
    assert f"route {A} " not in running
    assert "peer_secured" not in running


@pytest.mark.parametrize("mute", [False, True])
def test_a_bird_that_does_not_take_the_withdrawal_is_ended_at_once(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, mute: bool
) -> None:
    done: list[object] = []
    monkeypatch.setattr(Bird, "stop", lambda _: done.append("ended"))
    pod.announces(A)
    pod.fake.mute = mute
    pod.router.leave(done.append)
    assert done == (["ended"] if mute else [2.0, "ended"])
