"""YAML with lines: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import InputError
from scenarios.yamlsource import MAX_DEPTH, parse_documents, read_documents


def problems(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_documents(text, "f.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4000", 4000),
        ("'4000'", "4000"),
        ("!!str 4000", "4000"),
        ("yes", True),
        ("off", False),
        ("0x10", 16),
        ("-017", -15),
        ("08", 8.0),
        ("1_000", 1000),
        ("1.5e3", 1500.0),
        ("~", None),
        ("10:30", "10:30"),
        ("2026-01-01", "2026-01-01"),
        ("1e999", "1e999"),
        ("2000::1", "2000::1"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_mean_what_they_mean_to_kubectl(text: str, value: object) -> None:
    (document,) = parse_documents(f"key: {text}\n", "f.yaml")
    assert document.json() == {"key": value}


def test_lines_of_values_and_keys() -> None:
    first, second = parse_documents("---\na:\n  b: [1,\n    2]\n---\n# only a comment\n---\nc: 3\n", "f.yaml")
    assert first.line_at(("a", "b", 1)) == "f.yaml:4"
    assert first.line_at(("a", "b")) == "f.yaml:3"
    assert first.line_at(("a", "missing", "below")) == "f.yaml:2"
    assert second.line_at(("c",)) == "f.yaml:8"


def test_anchors_aliases_and_merges_are_expanded() -> None:
    (document,) = parse_documents("base: &b {x: 1, y: 2}\nother: {<<: *b, y: 3}\nagain: *b\n", "f.yaml")
    assert document.json() == {"base": {"x": 1, "y": 2}, "other": {"x": 1, "y": 3}, "again": {"x": 1, "y": 2}}


def test_every_key_that_stands_twice_is_named() -> None:
    assert problems("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n") == [
        "f.yaml:4: the same key twice in one mapping: found 'c' again, first in line 3, expected one of them",
        "f.yaml:5: the same key twice in one mapping: found 'a' again, first in line 1, expected one of them",
    ]


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    (problem,) = problems("\n".join(lines))
    assert "aliases stand for more than 100000 values" in problem
    assert problem.startswith("f.yaml:5")


def test_an_alias_that_contains_itself_is_refused() -> None:
    assert problems("a: &x [1, *x]\n") == ["f.yaml:1: alias *x contains itself"]
    assert problems("a: *nowhere\n") == ["f.yaml:1: alias *nowhere has no anchor before it"]


@pytest.mark.parametrize("text", ["[" * (MAX_DEPTH + 1), "- " * (MAX_DEPTH + 1) + "x"])
def test_endless_nesting_is_refused(text: str) -> None:
    assert f"nested deeper than {MAX_DEPTH} levels" in problems(text)[0]


@pytest.mark.parametrize("merge", ["*a{}", "{{<<: *a{}}}"])
def test_aliases_nest_no_deeper_than_what_is_written_out(merge: str) -> None:
    half = MAX_DEPTH // 2
    lines = ["- &a0 " + "{x: " * half + "1" + "}" * half]
    lines += [f"- &a{i} " + "{x: " * half + merge.format(i - 1) + "}" * half for i in (1, 2)]
    (problem,) = problems("\n".join(lines))
    assert problem == f"f.yaml:2: with alias *a0 is nested deeper than {MAX_DEPTH} levels"
    (document,) = parse_documents(lines[0] + "\n- " + "[" * (half - 1) + "*a0" + "]" * (half - 1), "f.yaml")
    assert document.depth == MAX_DEPTH


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2\nb: 3\n", "f.yaml:2: broken YAML"),
        ("a:\n\tb: 1\n", "there is a tab in this line"),
        ("a: !!python/object:os.system x\n", "f.yaml:1: unknown tag"),
        ("a: !mine {b: 1}\n", "f.yaml:1: unknown tag: found !mine"),
        ("a: !!int five\n", "f.yaml:1: is no !!int"),
        ("? {a: 1}\n: 2\n", "f.yaml:1: a key must be a word"),
        ("<<: 3\n", "<< merges mappings only"),
        ("a: \x01\n", "f.yaml:1"),
    ],
)
def test_what_is_broken_is_named_with_its_line(text: str, expected: str) -> None:
    assert expected in "\n".join(problems(text))


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n---\n")
    (tmp_path / "binary.yaml").write_bytes(b"a: 1\n\xff\xfe\x00")
    expected = {
        "missing.yaml": "no such file",
        ".": "is a directory",
        "empty.yaml": "is empty",
        "binary.yaml": "is a binary file: found byte 0xff",
    }
    for name, what in expected.items():
        with pytest.raises(InputError, match=what):
            read_documents(tmp_path / name)
    with pytest.raises(InputError, match="is no regular file"):
        read_documents(Path("/dev/null"))


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_documents(tmp_path / "bom.yaml")[0].json() == {"a": 1, "b": 2}
