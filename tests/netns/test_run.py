"""`tidegate run` and `tidegate up`, from end to end: real agents, BIRD, kernel and TCP; every connection where it was predicted."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from core.errors import InputError
from scenarios import testbed as testbed_place
from sim.net import capabilities
from tests import ordinary_user
from tests.conftest import require

ROOT = Path(__file__).parents[2]
SEED = ROOT.parent / "shared" / "seed" / "examples"
DEADLINE_S = 90


@pytest.fixture(autouse=True)
def _able() -> None:
    for name in ("namespaces", "mnexec", "nft", "bird", "veth", "bridge"):
        found = capabilities.probe(name)
        require("netns", found.available, f"{found.detail}; {found.remedy}")


def require_plane(dataplane: str) -> None:
    if dataplane == "tc":
        for name in ("bpf", "libbpf", "bpf-object", "clsact"):
            found = capabilities.probe(name)
            require("bpf", found.available, f"{found.detail}; {found.remedy}")


def tidegate(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scenarios.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, cwd=ROOT, check=False, **options)


def run(out: Path, *arguments: str, **options: Any) -> dict[str, Any]:
    done = tidegate("run", *arguments, "--out", str(out), "-o", "json", **options)
    assert done.returncode == 0, done.stdout + done.stderr + evidence(out)
    result: dict[str, Any] = json.loads(done.stdout)
    assert list(result) == ["scenario", "world", "seed", "ok", "expectations", "metrics", "out"]
    assert result["ok"]
    return result


def evidence(out: Path) -> str:
    """What is needed to understand a failure that may not come again: wrong connections, what happened when, what the agents said."""
    found = []
    for path in sorted(out.glob("*/*/connections.csv")):
        rows = list(csv.DictReader(path.open()))
        found += [str(row) for row in rows if row["lost_s"] or row["error"] or row["predicted"] != row["answered_by"]][
            :20
        ]
    for pattern in (
        "events.jsonl",
        "logs/*load-balancer.log",
        "logs/*_endpoint.log",
        "logs/*controller.log",
        "logs/run.log",
    ):
        for path in sorted(out.glob(f"*/*/{pattern}")):
            found += [path.name, *path.read_text().splitlines()[-60:]]
    return "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("dataplane", ["tc", "nft"])
@pytest.mark.parametrize("scenario", ["poc2-stateless", "poc2-update", "poc2-dualstack"])
def test_the_library_runs_on_both_data_planes(tmp_path: Path, scenario: str, dataplane: str) -> None:
    require_plane(dataplane)
    result = run(tmp_path, scenario, "--set", f"dataplane={dataplane}")
    metrics = result["metrics"]
    assert metrics["connections_failed"] == metrics["connections_broken"] == metrics["placement_mismatches"] == 0
    assert metrics["targets_hit"] == 4
    folder = Path(result["out"])
    assert {
        "manifest.json",
        "summary.json",
        "samples.csv",
        "events.jsonl",
        "topology.png",
        "connections-per-target.png",
    } <= {path.name for path in folder.iterdir()}
    facts = json.loads((folder / "manifest.json").read_text())["facts"]
    assert (facts["dataplane"], facts["dataplane_reason"]) == (dataplane, "asked for")


@pytest.mark.slow
def test_an_ordinary_user_needs_no_root() -> None:
    ordinary_user.require_ordinary_user()
    with ordinary_user.folder() as out:
        arguments = ("-m", "scenarios.cli", "run", "poc2-stateless", "--out", str(out), "-o", "json")
        done = subprocess.run(
            ordinary_user.python(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads(done.stdout)
        manifest = json.loads((Path(result["out"]) / "manifest.json").read_text())
    assert result["ok"]
    assert result["metrics"]["connections_total"] == 400
    facts = manifest["facts"]
    assert facts["dataplane"] == "nft"
    assert facts["dataplane_reason"].startswith("tc cannot be used: ")


@pytest.mark.slow
def test_the_manifests_of_the_seed_run_unchanged(tmp_path: Path) -> None:
    require("shared", SEED.is_dir(), "the seed's example manifests beside the checkout")
    text = (ROOT / "scenarios" / "library" / "poc2-update.yaml").read_text()
    text = text.replace("- poc2/gateway.yaml", f"- {SEED}/stateless-load-balancer-gateway-api.yaml")
    text = text.replace("poc2/update.yaml", f"{SEED}/stateless-load-balancer-gateway-api-update.yaml")
    (tmp_path / "seed.yaml").write_text(text)
    result = run(tmp_path, str(tmp_path / "seed.yaml"), "--no-figures")
    assert result["metrics"]["connections_total"] == 450


@pytest.mark.slow
def test_a_good_run_warns_of_nothing(tmp_path: Path) -> None:
    """What a person greps a log for is there only when something is wrong."""
    folder = Path(run(tmp_path, "poc2-stateless", "--no-figures")["out"])
    lines = [f"{path.name}: {line}" for path in (folder / "logs").iterdir() for line in path.read_text().splitlines()]
    assert len(lines) > 10
    bad = re.compile(r"warn|error|traceback|exception|critical", re.IGNORECASE)
    assert [line for line in lines if bad.search(line)] == []


@pytest.mark.slow
def test_a_terminal_sees_what_is_going_on(tmp_path: Path) -> None:
    """A spinner while a phase lasts, then its line; nothing of the spinner when nobody looks."""
    command = [sys.executable, "-m", "scenarios.cli", "run", "poc2-stateless", "--no-figures", "--out", str(tmp_path)]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, cwd=ROOT, env=environment) as process:
        os.close(theirs)
        seen = b""
        # Linux ends a pty whose last writer has gone with EIO.
        with contextlib.suppress(OSError):
            while block := os.read(ours, 4096):
                seen += block
        os.close(ours)
        assert process.wait(DEADLINE_S) == 0
    text = seen.decode()
    phases = ["starting the cluster …", "cluster up: 2 nodes", "programming the gateways …", "gateways programmed"]
    phases += [
        "BGP and BFD up",
        "traffic: 400 connections",
        "measured",
        "placement_mismatches",
        "poc2-stateless: good",
    ]
    places = [text.find(phase) for phase in phases]
    assert -1 not in places
    assert places == sorted(places)
    assert "\x1b[" in text
    plain = tidegate("run", "poc2-stateless", "--no-figures", "--out", str(tmp_path))
    assert "\x1b" not in plain.stdout + plain.stderr
    assert "…" not in plain.stderr


class Left(NamedTuple):
    """What a run might leave behind on a machine."""

    processes: frozenset[str]
    """Those that are in a namespace which the run had made."""
    links: frozenset[str]
    mounts: frozenset[str]
    pins: frozenset[str]
    files: frozenset[str]


class Namespaces:
    """Namespaces that a run has made. They are held open, lest the kernel gives their numbers to others' namespaces meanwhile."""

    KINDS = ("net", "mnt", "pid", "user")

    def __init__(self, family: Iterable[Path]) -> None:
        self._held: dict[str, int] = {}
        others = {name for _, name in self._of(Path("/proc/self"))}
        for process in family:
            for path, name in self._of(process):
                if name not in others and name not in self._held:
                    with contextlib.suppress(OSError):  # the process has gone
                        self._held[name] = os.open(path, os.O_RDONLY)

    def _of(self, process: Path) -> Iterator[tuple[Path, str]]:
        for kind in self.KINDS:
            with contextlib.suppress(OSError):
                path = process / "ns" / kind
                yield path, os.readlink(path)  # noqa: PTH115 (the text of a magic link, not a path)

    def __len__(self) -> int:
        return len(self._held)

    def processes(self) -> frozenset[str]:
        """The processes of this machine that are in one of them."""
        everyone = (path for path in Path("/proc").iterdir() if path.name.isdecimal())
        return frozenset(path.name for path in everyone if any(name in self._held for _, name in self._of(path)))

    def close(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)


def what_there_is(made: Namespaces | None = None) -> Left:
    """`made`: the namespaces in which processes are looked for."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return Left(
        processes=made.processes() if made else frozenset(),
        links=frozenset(line.split(": ")[1] for line in links.splitlines()),
        mounts=frozenset(Path("/proc/self/mounts").read_text().splitlines()),
        pins=frozenset(str(path) for path in Path("/sys/fs/bpf").rglob("*")),
        files=frozenset(str(path) for folder in ("/run", "/run/netns") for path in Path(folder).glob("*")),
    )


def assert_nothing_is_left(before: Left, made: Namespaces) -> None:
    """Of what a run had made; waits for the kernel, which takes namespaces apart behind the back of whoever ended them."""
    assert len(made) > 0, "nothing had been begun: the test would show nothing"
    until_s = time.monotonic() + 10
    while (left := new_in(before, what_there_is(made))) and time.monotonic() < until_s:
        time.sleep(0.02)
    made.close()
    assert left == {}


def new_in(before: Left, after: Left) -> dict[str, frozenset[str]]:
    """What is there now and was not before, by kind."""
    return {kind: new for kind, old, now in zip(Left._fields, before, after, strict=True) if (new := now - old)}


def descendants(process: int) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            yield Path("/proc") / child
            yield from descendants(int(child))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "phase", "dataplane"),
    [
        ("poc2-stateless", "on mininet", "nft"),
        ("poc2-stateless", "cluster up", "tc"),
        ("poc2-stateless", "gateways programmed", "nft"),
        ("poc2-update", "BGP and BFD up", "tc"),
        ("poc2-stateless", "traffic", "tc"),
    ],
)
def test_nothing_is_left_after_kill_9(tmp_path: Path, scenario: str, phase: str, dataplane: str) -> None:
    """`phase` ends the line after which the run is killed: in the middle of what comes next."""
    require_plane(dataplane)
    before = what_there_is()
    command = [sys.executable, "-m", "scenarios.cli", "run", scenario, "--out", str(tmp_path)]
    command += ["--set", f"dataplane={dataplane}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stderr is not None
    with process.stderr:
        assert any(phase in line for line in process.stderr)
        made = Namespaces([Path(f"/proc/{process.pid}"), *descendants(process.pid)])
        process.send_signal(signal.SIGKILL)
        process.wait()
        # stderr is at its end when the last process that holds it has gone
        process.stderr.read()
    assert_nothing_is_left(before, made)


@pytest.mark.slow
def test_ctrl_c_ends_a_run_in_one_line(tmp_path: Path) -> None:
    before = what_there_is()
    command = [sys.executable, "-m", "scenarios.cli", "run", "poc2-update", "--out", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    assert process.stderr is not None
    with process.stderr:
        assert any("gateways programmed" in line for line in process.stderr)
        made = Namespaces(descendants(process.pid))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everyone in the foreground
        said = process.stderr.read()
    assert process.wait() == 130
    assert "Traceback" not in said
    assert f"\n{said}".endswith("\ntidegate: interrupted\n")
    assert_nothing_is_left(before, made)


@pytest.fixture
def testbed(tmp_path: Path) -> Iterator[dict[str, str]]:
    environment = os.environ | {"TIDEGATE_TESTBED": str(tmp_path)}
    done = tidegate("up", "poc2-stateless", "--out", str(tmp_path), env=environment)
    assert done.returncode == 0, done.stderr
    yield environment
    assert tidegate("down", env=environment).returncode == 0


@pytest.mark.slow
def test_an_interactive_testbed(testbed: dict[str, str]) -> None:
    again = tidegate("up", "poc2-stateless", env=testbed)
    assert (again.returncode, "a testbed is up already" in again.stderr) == (2, True)
    status = json.loads(tidegate("status", "-o", "json", env=testbed).stdout)
    assert status["missing"] == ""
    assert [route["prefix"] for route in status["routes"]] == ["20.0.0.1/32"]
    assert len(status["routes"][0]["over"]) == 2
    routes = tidegate("exec", "vpn-b", "--", "ip", "route", "show", "20.0.0.1", env=testbed)
    assert routes.stdout.count("nexthop via 169.254.100.") == 2
    assert tidegate("exec", "vpn", "--", "cat", env=testbed, input="hello").stdout == "hello"
    assert tidegate("exec", "vpn-b", "--", "sh", "-c", "exit 7", env=testbed).returncode == 7
    assert "no host is called 'nowhere'" in tidegate("exec", "nowhere", "--", "true", env=testbed).stderr


def test_without_a_testbed_its_commands_say_so(tmp_path: Path) -> None:
    for command in (["status"], ["down"], ["exec", "vpn-b", "--", "true"]):
        done = tidegate(*command, env=os.environ | {"TIDEGATE_TESTBED": str(tmp_path)})
        assert (done.returncode, done.stderr) == (2, "testbed: no testbed is up, expected tidegate up SCENARIO first\n")


def test_a_second_testbed_is_refused_while_the_first_is_set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers nobody yet, and must find its place free when it is ready to."""
    monkeypatch.setenv("TIDEGATE_TESTBED", str(tmp_path))
    with testbed_place.reserve():
        second = tidegate("up", "poc2-stateless", "--out", str(tmp_path))
    assert second.returncode == 2
    assert "testbed: a testbed is being set up, or ends" in second.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]
    with testbed_place.reserve(), pytest.raises(InputError), testbed_place.reserve():
        raise AssertionError("its place was given twice")
