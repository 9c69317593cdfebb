"""Bad input of every kind, given to every command that reads some: exit code 2, and what was found where instead of what."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from scenarios import cli
from scenarios.load import EXAMPLES, LIBRARY

GOLDEN = Path(__file__).parents[1] / "golden"
PACKET = "TCP 200.100.0.100:40000 -> 20.0.0.1:4000"
MANIFEST = (EXAMPLES / "poc2" / "gateway.yaml").read_text()
SCENARIO = (LIBRARY / "poc2-stateless.yaml").read_text()
CASES: list[dict[str, Any]] = yaml.safe_load((GOLDEN / "bad-input.yaml").read_text())
ASSUMED = "assumed, with made-up names"


class Said(NamedTuple):
    code: int
    stdout: str
    stderr: list[str]
    """Lines; what a plan assumes is no complaint and left out."""


@pytest.fixture(autouse=True)
def _beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are named as a person names them, and nothing of this may ever start a world."""
    monkeypatch.chdir(tmp_path)

    def enter(*_: object) -> None:
        raise AssertionError("bad input was run")

    monkeypatch.setattr("scenarios.worlds.enter", enter)


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> Said:
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return Said(code, captured.out, [line for line in captured.err.splitlines() if not line.startswith(ASSUMED)])


def changed(case: dict[str, Any], text: str) -> str:
    assert case["old"] in text, "the golden file does not fit the example any more"
    return text.replace(case["old"], case["new"], 1)


def cases(of: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["of"] == of]


def good_beside() -> str:
    """The example with other names and addresses."""
    others = {
        "gateway-b": "gateway-g",
        "service-b": "service-g",
        "vpn-b": "vpn-g",
        "tcp-4000": "tcp-g",
        ".0.1/": ".0.9/",
    }
    text = MANIFEST
    for old, new in others.items():
        text = text.replace(old, new)
    return text


def gateways_of(planned: str) -> list[Any]:
    """What a plan has of Gateways, without what their assumed Pods' addresses, counted together, make different."""
    found = json.loads(planned)["gateways"]
    return [{key: gateway[key] for key in ("name", "vips", "peers", "flows")} for gateway in found]


def objects_without_a_word(text: str, said: list[str]) -> set[str]:
    """The objects of a file with a status that nothing was said about, as a plan calls them."""
    lines = [int(line.split(":")[1]) for line in said]
    found, first = set(), 1
    for document in text.split("---\n"):
        last = first + document.count("\n")
        if not any(first <= line <= last for line in lines):
            loaded = yaml.safe_load(document)
            if loaded["kind"] in ("Gateway", "GatewayRouter", "L34Route"):
                found.add(f"{loaded['kind']} default/{loaded['metadata']['name']}")
        first = last + 1
    return found


@pytest.mark.parametrize("case", cases("manifest"))
def test_manifests(case: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """What is broken is said, and everything else of the file is planned: what belongs to the same Gateway, and another Gateway."""
    Path("m.yaml").write_text(changed(case, MANIFEST))
    Path("s.yaml").write_text(SCENARIO.replace("poc2/gateway.yaml", "m.yaml"))
    for command in (["validate", "m.yaml"], ["explain", PACKET, "-f", "m.yaml"], ["run", "s.yaml"]):
        assert say(capsys, *command) == (2, "", case["said"])
    assert not Path("results").exists()
    Path("good.yaml").write_text(good_beside())
    # The networks are there already.
    text = changed(case, MANIFEST) + "---\n" + good_beside().split("---\n", 2)[2]
    Path("m.yaml").write_text(text)
    planned = say(capsys, "plan", "-f", "m.yaml", "-o", "json")
    assert (planned.code, planned.stderr) == (2, case["said"])
    (good,) = gateways_of(say(capsys, "plan", "-f", "good.yaml", "-o", "json").stdout)
    assert good in gateways_of(planned.stdout)
    others = objects_without_a_word(text, case["said"])
    assert len(others) >= 4
    assert others <= {status["object"] for status in json.loads(planned.stdout)["statuses"]}


@pytest.mark.parametrize("case", cases("relations"))
def test_objects_that_do_not_fit_together(case: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Good Gateways beside them are planned as they are without them."""
    Path("good.yaml").write_text(good_beside())
    Path("m.yaml").write_text(changed(case, MANIFEST.split("---\n", 2)[2]))
    lines_before = MANIFEST.count("\n") - Path("m.yaml").read_text().count("\n") + case["new"].count("\n")
    lines_before -= case["old"].count("\n")
    Path("m.yaml").write_text("\n" * lines_before + Path("m.yaml").read_text())
    alone = say(capsys, "plan", "-f", "good.yaml", "-o", "json")
    assert alone.code == 0
    planned = say(capsys, "plan", "-f", "good.yaml", "m.yaml", "-o", "json")
    assert (planned.code, planned.stderr) == (2, case["said"])
    (good,) = gateways_of(alone.stdout)
    assert good in gateways_of(planned.stdout)
    assert say(capsys, "validate", "good.yaml", "m.yaml") == (2, "good.yaml: 6 objects, good\n", case["said"])
    explained = say(capsys, "explain", PACKET.replace("20.0.0.1", "20.0.0.9"), "-f", "good.yaml", "m.yaml")
    assert (explained.code, explained.stderr) == (0, case["said"])


def test_two_gateways_with_one_vip_and_two_routes_of_one_priority(capsys: pytest.CaptureFixture[str]) -> None:
    documents = MANIFEST.split("---\n")
    second = "---\n".join(documents[2:5]).replace("gateway-b", "gateway-c").replace("tcp-4000", "tcp-c")
    Path("m.yaml").write_text(MANIFEST + "---\n" + second.replace("vpn-b-v4", "vpn-c-v4"))
    planned = say(capsys, "plan", "-f", "m.yaml")
    assert planned.code == 2
    assert planned.stderr == [
        (
            "m.yaml:116: Gateway default/gateway-c: VIP 20.0.0.1/32 is announced to the same router by Gateway default/gateway-b, "
            "which is older: give one of them other addresses or another router"
        )
    ]
    Path("m.yaml").write_text(MANIFEST + "---\n" + documents[4].replace("tcp-4000", "tcp-z"))
    planned = say(capsys, "plan", "-f", "m.yaml")
    assert planned.code == 2
    assert planned.stderr == [
        (
            "m.yaml:123: L34Route default/tcp-z: L34Route default/tcp-4000, of the same priority, gets packets that both match: "
            "give one of them another priority"
        )
    ]


def test_a_file_that_is_a_part_of_something_is_no_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    """A route alone: its Gateway and its Service are elsewhere."""
    Path("m.yaml").write_text(MANIFEST.split("---\n")[4])
    assert say(capsys, "validate", "m.yaml") == (0, "m.yaml: 1 object, good\n", [])


def test_kinds_that_nobody_reads_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A group that is misspelt would be taken for somebody else's: good is said only of what was looked at."""
    other = "apiVersion: l34.gateway.api.pco/v1\nkind: L34Route\nmetadata: {name: n}\n---\n"
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%d}\n---\n"
    Path("m.yaml").write_text(other + config % 1 + config % 2 + MANIFEST.split("---\n")[4])
    said = (
        "m.yaml: 4 objects, good; not looked at, for Tidegate does not read these kinds: "
        "L34Route of l34.gateway.api.pco (m.yaml:1), ConfigMap of v1 (m.yaml:5)\n"
    )
    assert say(capsys, "validate", "m.yaml") == (0, said, [])


def test_a_router_on_a_vlan_that_no_network_is(capsys: pytest.CaptureFixture[str]) -> None:
    """It would wait for its setup deadline."""
    Path("s.yaml").write_text(SCENARIO.replace("vlan: 200", "vlan: 201"))
    said = [
        (
            "s.yaml:14: no network of the manifests is the VLAN of router 'vpn-b': found 201, "
            "expected the vlanId of a NetworkAttachmentDefinition: 200"
        )
    ]
    for command in ("validate", "run", "up"):
        assert say(capsys, command, "s.yaml") == (2, "", said)
    assert say(capsys, "run", "poc2-stateless", "--set", "topology.routers.vpn-b.vlan=7").code == 2


def test_a_real_api_server_without_its_programs_leaves_no_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    code, stdout, (first, second) = say(capsys, "run", "poc2-stateless", "--set", "api=real")
    assert (code, stdout) == (3, "")
    assert first.startswith("tidegate: a real API server needs the programs")
    assert "make kube-assets" in second
    assert not Path("results").exists()


def test_doctor_says_whether_a_real_api_server_can_be_had(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def real_api() -> dict[str, Any]:
        capsys.readouterr()
        cli.main(["doctor", "-o", "json"])
        (found,) = [c for c in json.loads(capsys.readouterr().out)["capabilities"] if c["name"] == "real-api"]
        return dict(found)

    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    without = real_api()
    assert (without["available"], without["needed"]) == (False, False)
    assert "KUBEBUILDER_ASSETS is not set" in without["detail"]
    assert "make kube-assets" in without["remedy"]
    for program in ("etcd", "kube-apiserver", "kube-controller-manager"):
        (tmp_path / program).touch()
    (tmp_path / "gateway-api").mkdir()
    (tmp_path / "gateway-api" / "gateways.yaml").touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert real_api()["available"]


@pytest.mark.parametrize("case", cases("scenario"))
def test_scenarios(case: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(changed(case, SCENARIO))
    for command in (["run", "s.yaml"], ["up", "s.yaml"], ["validate", "s.yaml"]):
        assert say(capsys, *command) == (2, "", case["said"])


@pytest.mark.parametrize("key", ["labels", "annotations"])
@pytest.mark.parametrize(
    "value",
    ["[a, b]", "5", "text", "{app: 5}", "{k8s.v1.cni.cncf.io/networks: [x]}", "{k8s.v1.cni.cncf.io/networks: 5}"],
)
def test_pod_templates_whose_labels_are_none(key: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = (EXAMPLES / "poc2" / "applications.yaml").read_text().splitlines()
    (line,) = [i for i, text in enumerate(deployment) if text == f"      {key}:"]
    text = "\n".join([*deployment[:line], f"      {key}: {value}", f"      x-{key}:", *deployment[line + 1 :], ""])
    Path("a.yaml").write_text(text)
    Path("m.yaml").write_text(MANIFEST)
    Path("s.yaml").write_text(SCENARIO.replace("poc2/applications.yaml", "a.yaml"))
    for command in (["validate", "a.yaml"], ["plan", "-f", "a.yaml", "m.yaml"], ["run", "s.yaml"]):
        code, _, stderr = say(capsys, *command)
        assert code == 2
        assert any(said.startswith(f"a.yaml:{line + 1}: Deployment default/example-target") for said in stderr)


def test_a_scenario_is_found_by_its_whole_path_whatever_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("poc2-update", "scn", "scn.yaml"):
        (tmp_path / name).write_text(SCENARIO)
        for given in (name, f"./{name}", str(tmp_path / name)):
            found = say(capsys, "validate", given)
            assert found == (0, f"{given}: scenario poc2-stateless with 7 objects, good\n", [])


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
FILES = {
    "empty.yaml": (b"", "empty.yaml: is empty"),
    "comment.yaml": (b"# nothing\n---\n", "comment.yaml: is empty"),
    "binary.yaml": (b"kind: x\n\x7fELF\x02\xff\xfe", "binary.yaml:2: is a binary file: found byte 0xff, expected UTF-8 text"),
    "nul.yaml": (b"a: b\nc: \x00\n", "nul.yaml:2: is a binary file"),
    "utf-16.yaml": ("a: b".encode("utf-16"), "utf-16.yaml:1: is a binary file: found byte 0xff"),
    "broken.yaml": (b"a: [1, 2\nb: {", "broken.yaml:2: broken YAML: did not find expected ',' or ']'"),
    "quote.yaml": (b'a: "never closed\n', "quote.yaml:2: broken YAML: found unexpected end of stream"),
    "text.yaml": (b"hello\n", "text.yaml:1: "),
    "list.yaml": (b"- a\n- b\n", "list.yaml:1: "),
    "bomb.yaml": (BOMB.encode(), "bomb.yaml:5: aliases stand for more than 100000 values"),
    "circle.yaml": (b"a: &a [*a]\n", "circle.yaml:1: alias *a contains itself"),
    "deep.yaml": (b"[" * 100_000, "deep.yaml:1: is nested deeper than 100 levels"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "command", [["validate"], ["plan", "-f"], ["explain", PACKET, "-f"], ["run"]], ids=lambda c: c[0]
)
def test_files_that_hold_nothing_of_use(name: str, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = FILES[name]
    Path(name).write_bytes(content)
    code, stdout, stderr = say(capsys, *command, name)
    assert (code, stdout) == (2, "")
    assert stderr[0].startswith(expected)


@pytest.mark.parametrize(
    "command", [["validate"], ["plan", "-f"], ["explain", PACKET, "-f"], ["run"]], ids=lambda c: c[0]
)
def test_what_is_no_file(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder.yaml").mkdir()
    assert say(capsys, *command, "folder.yaml") == (2, "", ["folder.yaml: is a directory, expected a file"])
    missing = ["nowhere.yaml: no such file, expected the path of a file that exists"]
    assert say(capsys, *command, "nowhere.yaml") == (2, "", missing)
    for odd in ("/dev/zero", "/dev/null"):
        assert say(capsys, *command, odd) == (2, "", [f"{odd}: is no regular file, expected a file with YAML"])
    os.mkfifo("pipe.yaml")
    assert say(capsys, *command, "pipe.yaml") == (2, "", ["pipe.yaml: is no regular file, expected a file with YAML"])
    Path("circle.yaml").symlink_to("circle.yaml")
    for odd in ("circle.yaml", "x" * 5000, "x" * 300 + ".yaml", "a\0.yaml"):
        code, stdout, stderr = say(capsys, *command, odd)
        assert (code, stdout) == (2, "")
        assert stderr[0].startswith(f"{odd}: ")


def test_the_good_documents_of_a_file_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    documents = MANIFEST.split("---\n")
    route = documents[4]
    broken = [
        "apiVersion: v1\nkind: [Service\n",
        'note: "never closed\n',
        BOMB,
        route.replace("name: tcp-4000", "name: another").replace("priority: 1", "priority: high"),
        documents[5],
    ]
    Path("good.yaml").write_text(MANIFEST)
    Path("m.yaml").write_text("---\n".join([*documents, *broken]))
    good, found = (
        say(capsys, "plan", "-f", "good.yaml", "-o", "json"),
        say(capsys, "plan", "-f", "m.yaml", "-o", "json"),
    )
    assert (good.code, found.code) == (0, 2)
    planned = [yaml.safe_load(text.stdout) for text in (good, found)]
    assert planned[0]["gateways"] == planned[1]["gateways"]
    lines = [line.split(": ", 1) for line in found.stderr]
    assert [what.split(":")[0] for _, what in lines] == [
        "broken YAML",
        "broken YAML",
        "aliases stand for more than 100000 values",
        "L34Route default/another",
        "the same object twice",
    ]
    numbers = [int(where.removeprefix("m.yaml:")) for where, _ in lines]
    assert numbers == sorted(numbers)
    assert numbers[0] > MANIFEST.count("\n")


def test_a_broken_update_is_found_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(EXAMPLES / "poc2", "poc2")
    update = Path("poc2/update.yaml")
    update.write_text(update.read_text().replace("20.0.0.1/32", "20.0.0.1/64"))
    Path("s.yaml").write_text((LIBRARY / "poc2-update.yaml").read_text())
    for command in ("run", "validate"):
        code, stdout, (line, *_) = say(capsys, command, "s.yaml")
        assert (code, stdout) == (2, "")
        assert line.startswith("poc2/update.yaml:")
        assert "not a CIDR: found '20.0.0.1/64'" in line


def test_very_many_broken_documents_are_not_read_to_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.yaml").write_text("a: [\n---\n" * 10_000)
    code, _, stderr = say(capsys, "validate", "m.yaml")
    assert (code, len(stderr)) == (2, 101)
    assert stderr[-1].endswith("is the 100th broken document of this file: the rest was not read")


def test_ten_thousand_lines_are_no_problem(capsys: pytest.CaptureFixture[str]) -> None:
    route = MANIFEST.split("---\n")[4]
    routes = [
        route.replace("name: tcp-4000", f"name: r-{i}").replace("20.0.0.1/32", f"20.1.{i // 250}.{i % 250}/32")
        for i in range(700)
    ]
    text = "---\n".join([MANIFEST, *routes])
    assert text.count("\n") > 10_000
    Path("m.yaml").write_text(text)
    assert say(capsys, "validate", "m.yaml") == (0, "m.yaml: 706 objects, good\n", [])
    planned = say(capsys, "plan", "-f", "m.yaml", "-o", "json")
    assert planned.code == 0
    assert len(yaml.load(planned.stdout, yaml.CSafeLoader)["gateways"][0]["vips"]) == 701
