"""A scenario whose routers or timeline cannot work is refused before anything runs, and what is wrong between its manifests is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import InputError
from scenarios import cli
from scenarios.load import EXAMPLES, LIBRARY, load_scenario
from scenarios.rehearsal import rehearse

SCALE = "{name: s, action: scale, deployment: %s, replicas: 5, %s}"
DELETE = "{name: d, action: delete, kind: %s, object: %s, %s}"
APPLY = "{name: a, action: apply, manifests: [more.yaml], %s}"
MORE = """\
apiVersion: l34.gateway.api.poc/v1alpha1
kind: L34Route
metadata: {name: more}
spec:
  parentRefs: [{name: gateway-b}]
  backendRefs: [{name: %s, port: 4000}]
  priority: 1
  protocols: [TCP]
  destinationCIDRs: [20.0.0.7/32]
"""


def scenario(folder: Path, *timeline: str, service: str = "service-b", gateway: tuple[str, str] = ("", "")) -> str:
    """The file of a scenario: poc2-stateless with a timeline, `more.yaml` beside it, and a change of the gateway's manifest."""
    text = (LIBRARY / "poc2-stateless.yaml").read_text().replace("poc2/gateway.yaml", "gateway.yaml")
    path = folder / "scenario.yaml"
    path.write_text(text + "timeline:\n" + "".join(f"- {step}\n" for step in timeline) if timeline else text)
    (folder / "gateway.yaml").write_text((EXAMPLES / "poc2" / "gateway.yaml").read_text().replace(*gateway))
    (folder / "more.yaml").write_text(MORE % service)
    return str(path)


def problems(path: str, *settings: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        rehearse(load_scenario(path, settings=settings))
    return [f"{Path(p.where).name}: {p.what}: {p.found}: {p.expected}" for p in caught.value.problems]


@pytest.mark.parametrize("name", [path.stem for path in sorted(LIBRARY.glob("*.yaml"))])
def test_the_library_is_good(name: str) -> None:
    found = rehearse(load_scenario(name))
    assert found.objects
    assert found.doubts == ()


def test_manifests_that_are_wrong_together_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run goes on: to see what is rejected, and how, may be what the scenario is for."""
    monkeypatch.chdir(tmp_path)
    path = scenario(tmp_path, gateway=("- name: service-b", "- name: servise-b"))
    assert cli.main(["validate", path]) == cli.BAD_INPUT
    said = capsys.readouterr()
    doubt = "L34Route default/tcp-4000: Service default/servise-b does not exist: create it, or correct backendRefs\n"
    assert said.err.startswith(f"{tmp_path / 'gateway.yaml'}:")
    assert said.err.endswith(doubt)
    assert said.out == ""
    assert cli.main(["run", "--on", "sim", "--set", "setup_deadline_s=5", path]) == cli.FAILED
    ran = capsys.readouterr().err
    assert ran.startswith(said.err)
    assert ran.count(doubt) == 1
    assert "poc2-stateless on sim" in ran


def test_what_the_timeline_applies_is_looked_at_too(tmp_path: Path) -> None:
    path = scenario(tmp_path, APPLY % "at_s: 1", service="nope")
    (doubt,) = rehearse(load_scenario(path)).doubts
    assert doubt.where == str(tmp_path / "more.yaml") + ":6"
    assert doubt.what.startswith("L34Route default/more: Service default/nope does not exist")


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (SCALE % ("nope", "at_s: 1"), "no such Deployment when 's' begins: 'Deployment default/nope'"),
        (
            SCALE % ("example-target-application-b, namespace: other", "at_s: 1"),
            "no such Deployment when 's' begins: 'Deployment other/example-target-application-b'",
        ),
        (DELETE % ("L34Route", "nope", "at_s: 1"), "no such L34Route when 'd' begins: 'L34Route default/nope'"),
        (DELETE % ("UDPRoute", "u", "at_s: 1"), "'UDPRoute default/u': one of the manifests, and there is none"),
        (DELETE % ("L34Rout", "tcp-4000", "at_s: 1"), "unknown kind: 'L34Rout': 'L34Route'"),
    ],
)
def test_an_action_on_what_is_not_there_has_file_and_line(tmp_path: Path, step: str, said: str) -> None:
    path = scenario(tmp_path, step)
    (found,) = problems(path)
    lines = Path(path).read_text().splitlines()
    assert found.startswith(f"scenario.yaml:{len(lines)}: ")
    assert said in found


@pytest.mark.parametrize(
    "steps",
    [
        (SCALE % ("example-target-application-b", "at_s: 1"),),
        (SCALE % ("stateless-load-balancer-gateway-b", "at_s: 1"),),
        (DELETE % ("Deployment", "tidegate-controller, namespace: tidegate-system", "at_s: 1"),),
        (DELETE % ("L34Route", "tcp-4000", "at_s: 1"),),
        (DELETE % ("Pod", "whatever-its-name-is", "at_s: 1"),),
        (APPLY % "at_s: 1", DELETE % ("L34Route", "more", "at_s: 1")),
        (DELETE % ("L34Route", "more", "at_s: 2"), APPLY % "at_s: 1"),
        (APPLY % "after: clients", DELETE % ("L34Route", "more", "after: a")),
        (APPLY % "after: clients", DELETE % ("L34Route", "more", "at_s: 60")),
    ],
)
def test_an_action_on_what_is_there_by_then_is_good(tmp_path: Path, steps: tuple[str, ...]) -> None:
    assert rehearse(load_scenario(scenario(tmp_path, *steps))).doubts == ()


@pytest.mark.parametrize(
    "steps",
    [
        (APPLY % "at_s: 2", DELETE % ("L34Route", "more", "at_s: 1")),
        (APPLY % "after: d", DELETE % ("L34Route", "more", "after: clients")),
    ],
)
def test_an_action_on_what_is_there_only_later_is_not(tmp_path: Path, steps: tuple[str, ...]) -> None:
    (said,) = problems(scenario(tmp_path, *steps))
    assert "no such L34Route when 'd' begins: 'L34Route default/more'" in said


def test_what_a_setting_made_wrong_is_said_of_the_setting(tmp_path: Path) -> None:
    path = scenario(tmp_path, SCALE % ("example-target-application-b", "at_s: 1"))
    (said,) = problems(path, "timeline.s.deployment=nope")
    assert said.startswith("--set timeline.s.deployment=nope: no such Deployment")


def test_a_router_on_a_vlan_that_no_network_is(tmp_path: Path) -> None:
    (said,) = problems(scenario(tmp_path), "topology.routers.vpn-b.vlan=7")
    assert said.startswith(
        "--set topology.routers.vpn-b.vlan=7: no network of the manifests is the VLAN of router 'vpn-b': 7"
    )
