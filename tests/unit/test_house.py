"""The house: names, dependencies, locked versions, and what tracked files may hold."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scenarios.cli import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "sim", "live", "scenarios")
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def declared_requirements() -> list[str]:
    groups: dict[str, list[str]] = PYPROJECT["dependency-groups"]
    return [*PYPROJECT["project"]["dependencies"], *(r for group in groups.values() for r in group)]


def tracked_files() -> Iterator[tuple[str, str]]:
    """Name and text of every file that git tracks; skips the test where there is no git checkout."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout: the tracked files are what is looked at")
    # A checkout of another user is read all the same: nothing is run from it.
    command = [git, "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z"]
    for name in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0"):
        path = ROOT / name
        if name and path.is_file():
            yield name, path.read_text(errors="replace")


# --- names -----------------------------------------------------------------------------------------------------


def claimants(package: str, path: Sequence[str]) -> set[str]:
    """The distributions on `path` that install files of the top-level `package`."""
    return {
        distribution.name
        for distribution in metadata.distributions(path=list(path))
        for file in distribution.files or ()
        if file.parts[0] in {package, f"{package}.py"}
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_claims_our_package_names(package: str) -> None:
    assert claimants(package, sys.path) <= {"tidegate"}
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin == str(ROOT / package / "__init__.py")


def test_another_claimant_of_a_name_would_be_found(tmp_path: Path) -> None:
    info = tmp_path / "orange_core-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orange-core\nVersion: 1\n")
    (info / "RECORD").write_text("core/__init__.py,,\norange_core-1.dist-info/RECORD,,\n")
    assert claimants("core", [str(tmp_path)]) == {"orange-core"}
    assert claimants("sim", [str(tmp_path)]) == set()


def test_distribution_is_never_uploaded() -> None:
    assert "Private :: Do Not Upload" in PYPROJECT["project"]["classifiers"]


# --- dependencies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requirement", declared_requirements())
def test_every_dependency_is_justified_beside_it(requirement: str) -> None:
    lines = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if f'"{requirement}",' in line]
    assert lines, f"{requirement} must have a line of its own"
    for line in lines:
        assert re.search(r"# \w.{9,}", line), f"say in a comment what {requirement} is for"


def test_core_may_import_no_dependency_but_numpy() -> None:
    contract = next(c for c in PYPROJECT["tool"]["importlinter"]["contracts"] if c["name"] == "core is pure")
    modules = {"PyYAML": "yaml"}
    names = [Requirement(r).name for r in PYPROJECT["project"]["dependencies"]]
    assert {modules.get(name, name) for name in names} - {"numpy"} <= set(contract["forbidden_modules"])


# --- locked versions -------------------------------------------------------------------------------------------


def locked_requirements() -> list[tuple[Requirement, list[str]]]:
    """Every requirement of constraints.txt with its options."""
    logical_lines = (ROOT / "constraints.txt").read_text().replace("\\\n", " ").splitlines()
    locked = []
    for line in logical_lines:
        requirement, *options = re.split(r"\s+(?=--)", line)
        locked.append((Requirement(requirement), options))
    return locked


def test_every_locked_version_is_exact_and_has_hashes_and_no_address() -> None:
    for requirement, options in locked_requirements():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert requirement.url is None
        assert options, f"{requirement} has no hash"
        for option in options:
            assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}\s*", option), f"{requirement}: {option}"
    assert not re.search(r"[/@#]|index|find-links", (ROOT / "constraints.txt").read_text())


@pytest.mark.parametrize("text", [*declared_requirements(), *PYPROJECT["build-system"]["requires"]])
def test_every_dependency_is_locked_in_a_version_that_it_allows(text: str) -> None:
    wanted = Requirement(text)
    versions = [
        specifier.version
        for requirement, _ in locked_requirements()
        if canonicalize_name(requirement.name) == canonicalize_name(wanted.name)
        for specifier in requirement.specifier
    ]
    assert versions, f"{wanted.name} is not in constraints.txt: run `make lock`"
    for version in versions:
        assert wanted.specifier.contains(version, prereleases=True), f"{text}: {version} is locked: run `make lock`"


# --- what CONTRIBUTING says exists ---------------------------------------------------------------------------------


def test_contributing_names_only_what_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    commands = set(re.findall(r"tidegate ([a-z]+)", text))
    assert {"run", "validate"} <= commands <= set(COMMANDS)
    targets = set(re.findall(r"make ([a-z]+(?:-[a-z]+)*)", text)) - {"of"}
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"setup", "test"} <= targets <= made
    paths = re.findall(r"(?:core|sim|live|scenarios|tests|tools|docs|examples)/[\w./-]*", text)
    assert [path for path in paths if not (ROOT / path).exists() and "NNNN" not in path] == []


# --- what tracked files may hold -------------------------------------------------------------------------------

FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.$}])/(?:work|root|home/\w+|opt/wheels)(?=/)"),
    "the address of a package registry": re.compile(
        r"pypi\.org|pythonhosted\.org|proxy\.golang\.org|sum\.golang\.org|registry\.npmjs|static\.crates\.io"
        r"|repo1?\.maven|deb\.debian\.org|security\.debian\.org"
    ),
}


def forbidden_in(text: str) -> list[str]:
    return [f"{what}: {match.group()}" for what, pattern in FORBIDDEN.items() for match in pattern.finditer(text)]


def test_tracked_files_hold_no_machine_paths_and_no_registry_addresses() -> None:
    found = [f"{name}: {problem}" for name, text in tracked_files() for problem in forbidden_in(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    ["cd " + "/work" + "/main", "'" + "/root" + "/.venv'", "/home" + "/me/x", "https://" + "pypi" + ".org/simple"],
)
def test_machine_paths_and_registry_addresses_would_be_found(text: str) -> None:
    assert len(forbidden_in(text)) == 1
