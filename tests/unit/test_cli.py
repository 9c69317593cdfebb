"""The command line as a person uses it: exit codes, messages, where data goes, and how soon help is there."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from core.errors import ApiError, MachineError
from scenarios import cli
from scenarios.load import EXAMPLES
from scenarios.progress import Progress
from scenarios.reference import reference

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
POC2 = [str(EXAMPLES / "poc2" / name) for name in ("applications.yaml", "gateway.yaml")]
DUALSTACK = [str(EXAMPLES / "poc2" / name) for name in ("applications.yaml", "dualstack.yaml")]


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scenarios.cli", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        cwd=ROOT,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "command", ["run", "list", "validate", "plan", "explain", "up", "exec", "status", "down", "doctor"]
)
def test_every_command_has_help_with_examples(command: str) -> None:
    assert command in cli.COMMANDS
    done = run(command, "--help")
    assert done.returncode == 0
    assert "examples:" in done.stdout
    assert f"tidegate {command}" in done.stdout


def test_help_costs_little_cpu_and_imports_nothing_heavy() -> None:
    code = "import sys; from scenarios.cli import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    before_s = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    after_s = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.startswith("usage: tidegate COMMAND")
    assert not {"numpy", "yaml", "rich", "kubernetes", "mininet", "matplotlib", "argparse", "asyncio"} & set(
        done.stderr.split("'")
    )
    assert after_s.ru_utime + after_s.ru_stime - before_s.ru_utime - before_s.ru_stime < 0.15


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ((), 2, "usage: tidegate COMMAND"),
        (("rnu",), 2, "unknown command 'rnu': did you mean 'run'?"),
        (("agent",), 2, "usage: tidegate agent AGENT"),
        (("agent", "routr"), 2, "did you mean 'router'?"),
        (("run",), 2, "the following arguments are required: SCENARIO"),
        (("run", "nothing-like-it"), 2, "nothing-like-it: no such scenario"),
        (
            ("run", "poc2-stateless", "--set", "dataplane=xdp"),
            2,
            "'dataplane' is wrong: found 'xdp', expected one of auto, tc, nft",
        ),
        (("run", "poc2-stateless", "--seed", "-1"), 2, "found '-1', expected a whole number"),
        (("run", "poc2-stateless", "--on", "moon"), 2, "invalid choice: 'moon'"),
        (("validate", "."), 2, ".: is a directory, expected a file"),
        (("plan", "-f", "nowhere.yaml"), 2, "nowhere.yaml: no such file"),
        (("explain", "TCP 1.2.3.4:5", "-f", *POC2), 2, "packet: cannot be read: found 'TCP 1.2.3.4:5'"),
        (("explain", "TPC 1.2.3.4:5 -> 20.0.0.1:4000", "-f", *POC2), 2, "unknown protocol: found 'TPC'"),
        (("explain", "TCP 1.2.3.4 -> 20.0.0.1:4000", "-f", *POC2), 2, "no address and port: found '1.2.3.4'"),
        (("explain", "TCP 1.2.3.4:70000 -> 20.0.0.1:4000", "-f", *POC2), 2, "port out of range: found '1.2.3.4:70000'"),
        (("explain", "TCP 1.2.3.4:1 -> [2000::1]:4000", "-f", *POC2), 2, "source and destination of two families"),
    ],
)
def test_bad_usage_and_input_give_exit_code_2_and_say_why(arguments: tuple[str, ...], code: int, expected: str) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert expected in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_validate_says_what_is_good_and_what_is_not() -> None:
    done = run("validate", "examples/poc2/gateway.yaml", "poc2-update", "tests/golden/bad-scenario.yaml")
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "examples/poc2/gateway.yaml: 6 objects, good",
        "poc2-update: scenario poc2-update with 8 objects, good",
    ]
    assert done.stderr.count("tests/golden/bad-scenario.yaml:") == 22


def test_list_as_json() -> None:
    names = [scenario["name"] for scenario in json.loads(run("list", "-o", "json").stdout)]
    assert names == sorted(names)
    assert "poc2-stateless" in names


def test_the_plan_of_the_example() -> None:
    done = run("plan", "-f", *POC2, "-o", "yaml")
    assert done.returncode == 0
    assert (
        "assumed, with made-up names and addresses: 4 pods of Deployment default/example-target-application-b"
        in done.stderr
    )
    assert done.stdout == (GOLDEN / "plan-poc2.yaml").read_text()
    assert yaml.safe_load(done.stdout) == json.loads(run("plan", "-f", *POC2, "-o", "json").stdout)


def test_the_plan_as_tables_shows_what_a_person_looks_for() -> None:
    text = run("plan", "-f", *DUALSTACK).stdout
    for word in (
        "20.0.0.1/32",
        "2000::1/128",
        "100:100::150",
        "8103 - 4248829953",
        "10179 - 10179",
        "300/300 ms x 5",
        "fd00:222::4",
    ):
        assert word in text
    assert "2 of 2 gateway pods are ready" in text


def test_without_assumed_pods_nothing_can_be_announced() -> None:
    (gateway,) = json.loads(run("plan", "-f", *POC2, "-o", "json", "--no-assumed-pods").stdout)["gateways"]
    assert gateway["vips"] == ["20.0.0.1/32"]
    assert gateway["announced"] == []


def test_a_plan_from_standard_input() -> None:
    text = "\n---\n".join(Path(path).read_text() for path in POC2)
    done = run("plan", "-f", "-", "-o", "json", stdin=text)
    assert [gateway["name"] for gateway in json.loads(done.stdout)["gateways"]] == ["default/gateway-b"]


def test_explain_agrees_with_the_plan_and_gives_reasons() -> None:
    found = json.loads(
        run("explain", "TCP 200.100.0.100:40000 -> 20.0.0.1:4000", "-f", *DUALSTACK, "-o", "json").stdout
    )
    assert found["verdict"].startswith(f"forwarded to {found['target']['address']}, slot {found['target']['slot']}")
    assert found["bucket"] == (found["hash"] * found["tableSize"]) >> 32
    assert [c["why"] for c in found["considered"]] == ["matches", "is IPv6"]
    other = json.loads(run("explain", "udp 200.100.0.100:40000 → 20.0.0.1:4001", "-f", *POC2, "-o", "json").stdout)
    assert other["verdict"] == "dropped silently: no route matches"
    assert other["considered"][0]["why"] == "protocol UDP is not TCP; destination port 4001 is not in 4000"
    nowhere = json.loads(run("explain", "ICMP 1.2.3.4 -> 9.9.9.9", "-f", *POC2, "-o", "json").stdout)
    assert nowhere["verdict"].startswith("not ours")


def test_explain_shows_every_target_with_its_share() -> None:
    text = run("explain", "ICMP 200.100.0.100 -> 20.0.0.1", "-f", *POC2).stdout
    assert text.count("25.0%") == 4
    assert text.count("->") == 2


def test_explain_shows_one_row_of_a_service_that_is_two_backends_and_what_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = """    port: 4000
    weight: 3
  - name: service-b
    port: 4000
    weight: 1
  - name: service-c
    port: 4000
    weight: 4
"""
    empty = "---\napiVersion: v1\nkind: Service\nmetadata: {name: service-c}\nspec: {clusterIP: None, ports: [{port: 4000}]}\n"
    gateway = tmp_path / "gateway.yaml"
    manifest = Path(POC2[1]).read_text()
    gateway.write_text(manifest.replace("    port: 4000\n  priority", twice + "  priority") + empty)
    seen = set()
    for port in range(40000, 40012):
        assert cli.main(["explain", f"TCP 200.100.0.100:{port} -> 20.0.0.1:4000", "-f", POC2[0], str(gateway)]) == 0
        text = capsys.readouterr().out
        pool = text[text.index("buckets") :].splitlines()[2:]
        assert len(pool) == 9
        assert sum(float(line.split()[-1].rstrip("%")) for line in pool) == pytest.approx(100, abs=0.5)
        (marked,) = (line for line in pool if line.lstrip().startswith("->"))
        rejected = "rejected actively" in marked
        assert rejected == text.startswith("rejected actively")
        (line,) = (line for line in pool if "rejected actively" in line)
        assert line.split()[-1] == "50.0%"
        seen.add(rejected)
        if len(seen) == 2:
            return
    raise AssertionError(f"of twelve packets all were {'rejected' if seen == {True} else 'forwarded'}")


def fake_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def fails(_arguments: list[str]) -> int:
        raise error

    import scenarios.commands.list as command

    monkeypatch.setattr(command, "main", fails)
    return cli.main(["list"])


def test_errors_become_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert fake_command(monkeypatch, MachineError("no bird", "get it with: apt-get install bird2")) == 3
    assert capsys.readouterr().err == "tidegate: no bird\n  get it with: apt-get install bird2\n"
    assert fake_command(monkeypatch, ApiError(409, "Conflict", "no")) == 1
    assert fake_command(monkeypatch, KeyboardInterrupt()) == 130
    assert fake_command(monkeypatch, RuntimeError("oops")) == 70
    assert "a fault of Tidegate itself: RuntimeError: oops" in capsys.readouterr().err


def test_a_phase_that_is_interrupted_while_it_begins_says_so_before_the_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before `with` knows that the phase has begun, nobody ends it: it ends with the frame that it began in."""

    def is_interrupted(_arguments: list[str]) -> int:
        never_left = ExitStack()
        never_left.enter_context(Progress(lambda: 0.0).phase("boot", "making nodes", "nodes made"))
        raise KeyboardInterrupt

    import scenarios.commands.list as command

    monkeypatch.setattr(command, "main", is_interrupted)
    assert cli.main(["list"]) == 130
    *_, phase, last = capsys.readouterr().err.splitlines()
    assert phase.split()[:3] == ["✗", "making", "nodes"]
    assert last == "tidegate: interrupted"


def test_a_fault_shows_its_traceback_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="oops"):
        fake_command(monkeypatch, RuntimeError("oops"))


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "scenarios.cli", "--help"],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
            cwd=ROOT,
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs" / "scenarios.md").read_text() == reference(), (
        "python -m scenarios.reference > docs/scenarios.md"
    )
