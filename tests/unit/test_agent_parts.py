"""What agents have in common: logs, metrics, health, HTTP."""

from __future__ import annotations

import http.client
import io
import json
import logging
from collections.abc import Iterator

import pytest

from core.errors import InputError
from core.secret import Secret
from live.agent.health import Health
from live.agent.logs import configure_logs
from live.agent.metrics import Registry
from live.agent.serve import Answer, HttpServer, agent_routes, split_address

# --- logs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Where logs go; the loggers are as before afterwards."""
    names = (None, "core", "live")
    before = [
        (logging.getLogger(name), logging.getLogger(name).level, list(logging.getLogger(name).handlers))
        for name in names
    ]
    stream = io.StringIO()
    configure_logs("router", level="debug", stream=stream)
    yield stream
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def test_a_log_line_is_one_json_object_with_its_fields(logged: io.StringIO) -> None:
    logging.getLogger("live.bird").info("BIRD runs", extra={"pid": 7, "why": "line\nbreak"})
    (line,) = logged.getvalue().splitlines()
    record = json.loads(line)
    assert record.pop("ts").endswith("Z")
    assert record == {
        "level": "info",
        "logger": "live.bird",
        "msg": "BIRD runs",
        "component": "router",
        "pid": 7,
        "why": "line\nbreak",
    }


def test_an_exception_is_one_line_too(logged: io.StringIO) -> None:
    try:
        raise ValueError("a fault")
    except ValueError:
        logging.getLogger("live.bird").exception("failed")
    (line,) = logged.getvalue().splitlines()
    assert "ValueError: a fault" in json.loads(line)["exception"]


def test_libraries_are_heard_from_warning_on(logged: io.StringIO) -> None:
    logging.getLogger("urllib3").info("connection 7")
    assert logged.getvalue() == ""


def test_secrets_do_not_reach_the_log(logged: io.StringIO) -> None:
    secret = Secret("hunter2")
    logging.getLogger("live").warning("password %s", secret, extra={"auth": {"password": secret}, "all": [secret]})
    assert "hunter2" not in logged.getvalue()
    assert "hunter2" not in f"{secret} {secret!r} {secret:>20}"
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2")
    assert secret != "hunter2"


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_are_rendered_as_prometheus_reads_them() -> None:
    registry = Registry()
    packets = registry.counter("tidegate_packets_total", 'Packets.\nBy "target".')
    ready = registry.gauge("tidegate_ready", "Ready.")
    packets.add(2, target="a", service='x"\\\n')
    packets.add(target="a", service='x"\\\n')
    registry.before_render(lambda: ready.set(0.5))
    assert registry.render() == (
        '# HELP tidegate_packets_total Packets.\\nBy "target".\n'
        "# TYPE tidegate_packets_total counter\n"
        'tidegate_packets_total{service="x\\"\\\\\\n",target="a"} 3\n'
        "# HELP tidegate_ready Ready.\n"
        "# TYPE tidegate_ready gauge\n"
        "tidegate_ready 0.5\n"
    )


def test_metrics_that_make_no_sense_are_refused() -> None:
    registry = Registry()
    packets = registry.counter("packets_total", "")
    with pytest.raises(ValueError, match="-1"):
        packets.add(-1)
    with pytest.raises(ValueError, match="_total"):
        registry.counter("packets", "")
    with pytest.raises(ValueError, match="already"):
        registry.gauge("packets_total", "")


# --- HTTP -------------------------------------------------------------------------------------------------------------


def fetch(server: HttpServer, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_health_readiness_and_metrics_are_served() -> None:
    health, registry = Health(), Registry()
    registry.gauge("up", "Up.").set(1)
    missing: list[str] = ["no BGP session"]
    hanging: list[str] = []
    health.must_hold("bgp", lambda: missing[0] if missing else None)
    health.must_live("loop", lambda: hanging[0] if hanging else None)
    server = HttpServer("127.0.0.1:0", agent_routes(health, registry))
    try:
        assert fetch(server, "/healthz") == (200, "ok\n")
        assert fetch(server, "/readyz?verbose=1") == (503, "bgp: no BGP session\n")
        missing.clear()
        assert fetch(server, "/readyz") == (200, "ok\n")
        assert fetch(server, "/readyz", "HEAD") == (200, "")
        hanging.append("has not turned for 60 s")
        assert fetch(server, "/healthz") == (503, "loop: has not turned for 60 s\n")
        assert fetch(server, "/readyz")[0] == 503
        assert "up 1\n" in fetch(server, "/metrics")[1]
        assert fetch(server, "/nothing") == (404, "/nothing is none of: /healthz /readyz /metrics\n")
    finally:
        server.close()


def test_an_empty_host_listens_on_both_families() -> None:
    server = HttpServer(":0", {"/": lambda _: Answer(text="here")})
    try:
        for host in ("127.0.0.1", "::1"):
            connection = http.client.HTTPConnection(host, server.port, timeout=5)
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"here"
            connection.close()
    finally:
        server.close()


def test_an_address_that_is_taken_is_the_persons_to_correct() -> None:
    server = HttpServer("127.0.0.1:0", {})
    try:
        with pytest.raises(InputError, match="in use"):
            HttpServer(f"127.0.0.1:{server.port}", {})
    finally:
        server.close()


@pytest.mark.parametrize(
    ("address", "split"), [("10.0.0.1:80", ("10.0.0.1", 80)), ("[::1]:80", ("::1", 80)), (":9080", ("", 9080))]
)
def test_addresses(address: str, split: tuple[str, int]) -> None:
    assert split_address(address) == split


@pytest.mark.parametrize("address", ["9080", "host:http", "host:70000", ""])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InputError, match="expected host:port"):
        split_address(address)
