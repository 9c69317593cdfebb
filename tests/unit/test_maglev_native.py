"""The walk in C: what is loaded, what is not and why, and how it is compiled."""

from __future__ import annotations

import _ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.lb import maglev, maglev_native, maglev_walk
from scenarios.commands import doctor
from tests.conftest import require

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "core" / "lb" / "maglev.c"
OTHER_MACHINE = b"\x08\x00"  # EM_MIPS, linux/elf-em.h


def compiled(source: Path, target: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shutil.which("bash") or "bash", str(ROOT / "tools" / "compile-shared"), str(source), str(target)],
        env=dict(os.environ) if path is None else {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """An object of what the source says now."""
    require("bpf", shutil.which("clang") is not None, "clang is missing")
    target = tmp_path / "fresh.so"
    done = compiled(SOURCE, target)
    assert done.returncode == 0, done.stderr
    return target


def test_what_make_setup_has_compiled_is_what_is_used() -> None:
    native = maglev_native.native_walk()
    require("bpf", Path(maglev_native.OBJECT).exists(), "core/lb/libmaglev.so is not compiled: run `make setup`")
    assert not isinstance(native, str), native
    assert maglev.best_walk() is native
    assert Path(maglev_native.OBJECT).parent == SOURCE.parent


def test_a_fresh_object_is_used(fresh: Path) -> None:
    assert not isinstance(maglev_native.load(str(fresh)), str)


def test_arguments_are_left_as_they_are(fresh: Path) -> None:
    walk = maglev_native.load(str(fresh))
    assert not isinstance(walk, str)
    arguments = [np.array(numbers, np.int32) for numbers in ([0, 1, 1], [3, 3], [1, 6])]
    copies = [array.copy() for array in arguments]
    order, offsets, skips = arguments
    table = walk(order, offsets, skips, 7)
    # 0 has 3; 1 walks on from there by 6, to 2 and 1; 0 finds 4; 1 finds 0 and 6; 0 finds 5.
    assert table.tolist() == [1, 1, 1, 0, 0, 0, 1]
    assert all(np.array_equal(array, copy) for array, copy in zip(arguments, copies, strict=True))


def test_without_an_object_python_does_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    why = maglev_native.load(str(tmp_path / "libmaglev.so"))
    assert isinstance(why, str)
    assert "libmaglev.so" in why
    monkeypatch.setattr(maglev_native, "native_walk", lambda: why)
    assert maglev.best_walk() is maglev_walk.walk
    assert maglev.populate({0: 1, 1: 3}, 7).shape == (7,)


def test_an_object_of_another_machine_is_not_used(fresh: Path) -> None:
    content = bytearray(fresh.read_bytes())
    content[18:20] = OTHER_MACHINE if sys.byteorder == "little" else OTHER_MACHINE[::-1]
    fresh.write_bytes(content)
    assert isinstance(maglev_native.load(str(fresh)), str)


def test_what_is_no_object_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "x.so").write_text("nonsense")
    assert isinstance(maglev_native.load(str(tmp_path / "x.so")), str)


def test_an_object_without_our_function_is_not_used() -> None:
    why = maglev_native.load(_ctypes.__file__)
    assert isinstance(why, str)
    assert "is of another version" in why


def test_an_object_with_other_tables_is_not_used(tmp_path: Path) -> None:
    require("bpf", shutil.which("clang") is not None, "clang is missing")
    text = SOURCE.read_text()
    stale = text.replace("(int32_t)i;", "(int32_t)t;")
    assert stale != text
    (tmp_path / "stale.c").write_text(stale)
    assert compiled(tmp_path / "stale.c", tmp_path / "stale.so").returncode == 0
    why = maglev_native.load(str(tmp_path / "stale.so"))
    assert isinstance(why, str)
    assert "gives other tables" in why


def test_doctor_says_which_one_computes_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sim.net.capabilities.probe_all", tuple)
    for walk, available, detail in ((maglev_walk.walk, True, "libmaglev.so"), ("not for here", False, "not for here")):
        monkeypatch.setattr(maglev_native, "native_walk", lambda walk=walk: walk)
        assert doctor.main(["-o", "json"]) == 0
        capabilities = json.loads(capsys.readouterr().out)["capabilities"]
        (found,) = (each for each in capabilities if each["name"] == "maglev-object")
        assert (found["available"], found["needed"]) == (available, False)
        assert detail in found["detail"]
        assert "make setup" in found["remedy"]


# --- compiling ---------------------------------------------------------------------------------------------------------------


def test_without_a_compiler_setup_goes_on(tmp_path: Path) -> None:
    done = compiled(SOURCE, tmp_path / "x.so", path=str(tmp_path))
    assert done.returncode == 0
    assert "clang and cc are missing" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_with_a_compiler_that_cannot_setup_goes_on(tmp_path: Path) -> None:
    (tmp_path / "cc").write_text("#!/bin/false\n")
    (tmp_path / "cc").chmod(0o755)
    for program in ("rm", "false"):
        (tmp_path / program).symlink_to(shutil.which(program) or "")
    done = compiled(SOURCE, tmp_path / "x.so", path=str(tmp_path))
    assert done.returncode == 0
    assert "makes no shared objects" in done.stderr
    assert not (tmp_path / "x.so").exists()


def test_a_source_that_is_wrong_stops_setup_and_leaves_no_object(tmp_path: Path) -> None:
    require("bpf", shutil.which("clang") is not None, "clang is missing")
    (tmp_path / "x.c").write_text("int x = ;\n")
    assert compiled(tmp_path / "x.c", tmp_path / "x.so").returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.c"]


def test_the_object_needs_no_library(fresh: Path) -> None:
    assert b"libc.so" not in fresh.read_bytes()


def test_make_compiles_again_what_has_changed() -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is missing: what it would do is asked of it")
    target = "core/lb/libmaglev.so"
    done = subprocess.run(
        [make, "--dry-run", "--what-if=core/lb/maglev.c", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"tools/compile-shared core/lb/maglev.c {target}" in done.stdout
