"""README: every command in it works, every path exists, every output is what is really put out."""

from __future__ import annotations

import re
import shlex
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest

from scenarios import cli, worlds
from scenarios.load import library, load_scenario
from tests.unit.test_house import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS: list[str] = re.findall(r"^```\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
TIDEGATE = ".venv/bin/tidegate "


def block(beginning: str) -> str:
    """The one block that begins so."""
    (found,) = (text for text in BLOCKS if text.startswith(beginning))
    return found


def commands() -> list[list[str]]:
    """The words of every tidegate command in a block, without comments."""
    lines = [line for text in BLOCKS for line in text.splitlines() if re.match(r"(\.venv/bin/)?tidegate ", line)]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_paths_and_links_exist() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert {"docs/overview.svg", "docs/scenarios.md", "CONTRIBUTING.md", "docs/decisions"} <= set(links)
    paths = links + re.findall(r"(?<![\w./])(?:core|sim|live|scenarios|tests|docs|examples)/[\w./-]*\w", README)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_make_targets_and_commands_exist() -> None:
    targets = set(re.findall(r"make ([a-z]+)", README))
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= targets <= known
    words = {words[0] for words in commands()} | set(re.findall(r"`tidegate ([a-z]+)", README))
    assert {"explain", "run", "plan", "up", "doctor", "validate"} <= words <= set(cli.COMMANDS)


def test_the_scenarios_are_those_of_the_library() -> None:
    table = re.findall(r"^\| `([a-z]+[0-9]*-[a-z-]+)` \|", README, re.MULTILINE)
    assert sorted(table) == [path.stem for path in library()]


def test_what_is_said_of_the_worlds_is_true() -> None:
    rows = re.findall(r"^\|[^|]+\| `([a-z]+)` \|.*\| ([^|]+) \|$", README, re.MULTILINE)
    assert {name for name, _ in rows} == {"mininet", "sim", "kind"}
    assert {name for name, today in rows if not today.startswith("not yet")} == set(worlds.NAMES)


def test_explain_says_what_stands_there(capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = (words for words in commands() if words[0] == "explain")
    assert cli.main(words) == 0
    assert capsys.readouterr().out == block("forwarded to")


def test_the_other_commands_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands():
        if words[0] == "plan":
            assert cli.main(words) == 0
        elif words[0] in ("run", "up"):
            settings = [value for option, value in pairwise(words) if option == "--set"]
            assert load_scenario(words[1], settings=settings).scenario.name == words[1]
    assert "2000::1/128" in capsys.readouterr().out


def test_the_demo_ends_as_it_stands_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The simulation has the same tables: they follow from the core. (That the testbed has them too is tests/netns/test_run.py.)"""
    assert "tidegate run poc2-stateless --on mininet" in (ROOT / "Makefile").read_text()
    demo = block("poc2-stateless on mininet: ")
    assert demo.startswith(f"poc2-stateless on mininet: {load_scenario('poc2-stateless').scenario.title}\n")
    assert cli.main(["run", "poc2-stateless", "--on", "sim", "--no-figures", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    # Up to the folder's name, which says when it was.
    assert demo[demo.index(" target ") :].partition("results in ")[0] == captured.out.partition("results in ")[0]
    phases = [re.sub(r" +[0-9.]+ s$", "", line) for line in captured.err.splitlines() if line.startswith("  ✓")]
    assert phases == [re.sub(r" +[0-9.]+ s$", "", line) for line in demo.splitlines() if line.startswith("  ✓")]


def test_the_first_connection_is_the_one_that_is_explained(tmp_path: Path) -> None:
    assert cli.main(["run", "poc2-stateless", "--on", "sim", "--no-figures", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/*/connections.csv")
    lines = path.read_text().splitlines()
    _, protocol, source, port, destination, destination_port, predicted, measured, *_ = lines[1].split(",")
    (words,) = (words for words in commands() if words[0] == "explain")
    assert words[1] == f"{protocol} {source}:{port} -> {destination}:{destination_port}"
    pods = sorted({line.split(",")[6] for line in lines[1:]})
    assert pods.index(predicted) == pods.index(measured) == 1
    assert "pod example-target-application-b-2\n" in block("forwarded to")


def test_the_files_of_a_run_are_those_that_are_explained(tmp_path: Path) -> None:
    assert cli.main(["run", "poc2-stateless", "--on", "sim", "--figures", "--out", str(tmp_path)]) == 0
    (folder,) = tmp_path.glob("*/*")
    table = README.partition("Each run leaves a folder")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z-]+\.[a-z]+|logs/)`", table))
    assert named == {path.name + "/" * path.is_dir() for path in folder.iterdir()}


def test_the_picture_is_one() -> None:
    root = ElementTree.parse(ROOT / "docs" / "overview.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = " ".join(root.itertext())
    scenario = load_scenario("poc2-stateless").scenario
    (router,) = scenario.topology.routers
    client = router.client_addresses[0].network_address
    for word in (router.name, str(client), f"VLAN {router.vlan}", str(scenario.traffic[0].to), "Maglev"):
        assert word in text
