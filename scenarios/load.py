"""From a scenario's name or file to a Scenario that was checked, or every problem of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import InputError, Problem
from scenarios.decode import INVALID, Decoder, nearest
from scenarios.manifests import by_line
from scenarios.overrides import override
from scenarios.spec import Apply, Scenario, Step, Traffic, client_addresses, places
from scenarios.yamlsource import Node, parse_documents, read_text

LIBRARY = Path(__file__).parent / "library"
EXAMPLES = Path(__file__).parent.parent / "examples"

_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedScenario:
    """A scenario, and what its results must be able to say of where it came from."""

    scenario: Scenario
    path: Path
    text: str
    overrides: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def manifest_path(self, name: str) -> Path:
        """The file that `name` in the scenario means."""
        path = find_manifest(name, self.path)
        if path is None:
            raise AssertionError(f"{name} was found when the scenario was loaded")
        return path

    @property
    def node(self) -> Node:
        """The text, with the settings over it: where each value stands."""
        node = parse_documents(self.text, str(self.path))[0]
        problems: list[Problem] = []
        for setting in self.overrides:
            node = override(node, setting, problems)
        return node

    @property
    def manifests(self) -> tuple[Path, ...]:
        return tuple(self.manifest_path(name) for name in self.scenario.manifests)

    @property
    def updates(self) -> tuple[Path, ...]:
        """The manifests that the timeline applies."""
        applied = (step for step in self.scenario.timeline if isinstance(step, Apply))
        return tuple(self.manifest_path(name) for step in applied for name in step.manifests)


def library() -> tuple[Path, ...]:
    """The files of the scenarios that come with Tidegate, by name."""
    return tuple(sorted(LIBRARY.glob("*.yaml")))


def find_scenario(name: str) -> Path:
    """The file of a scenario given as a name of the library or as a path. Raises InputError."""
    by_name = {path.stem: path for path in library()}
    if name in by_name:
        return by_name[name]
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or "/" in name or exists(name):
        return path
    raise InputError(
        Problem(where=name, what="no such scenario", expected=f"a file, or of the library {nearest(name, by_name)}")
    )


def exists(name: str) -> bool:
    """Whether there is a file of that name; a name that no file can have is none."""
    return _is(Path(name).exists)


def _is(what: Callable[[], bool]) -> bool:
    """The answer about a path; where nobody may look, there is a file: whoever reads it is told why that cannot be."""
    try:
        return what()
    except PermissionError:
        return True
    except OSError:
        return False


def find_manifest(name: str, scenario: Path) -> Path | None:
    """The file that a scenario means by `name`: beside the scenario's file, or in examples."""
    candidates = (scenario.parent / name, EXAMPLES / name)
    return next((path for path in candidates if _is(path.is_file)), None)


def load_scenario(name: str, *, settings: Sequence[str] = (), seed: int | None = None) -> LoadedScenario:
    """The scenario of that name or file, with ``key=value`` `settings` over it. Raises InputError with every problem."""
    path = find_scenario(name)
    text = read_text(path)
    scenario = parse_scenario(text, path, settings)
    if seed is not None:
        scenario = replace(scenario, seed=seed)
    return LoadedScenario(scenario=scenario, path=path, text=text, overrides=tuple(settings))


def parse_scenario(text: str, path: Path, settings: Sequence[str] = ()) -> Scenario:
    """The scenario in a YAML text. Raises InputError with every problem."""
    documents = parse_documents(text, str(path))
    if not documents:
        raise InputError(Problem(where=str(path), what="is empty", expected="a scenario"))
    if len(documents) > 1:
        raise InputError(Problem(where=documents[1].where, what="a second document", expected="one scenario a file"))
    node = documents[0]
    if "apiVersion" in (node.value if isinstance(node.value, dict) else ()):
        raise InputError(Problem(where=node.where, what="is a Kubernetes manifest", expected="a scenario"))
    problems: list[Problem] = []
    for setting in settings:
        node = override(node, setting, problems)
    decoder = Decoder(problems=problems)
    scenario = decoder.read(node, Scenario, "scenario")
    if isinstance(scenario, Scenario):
        problems.extend(check(scenario, decoder, node, path))
    if problems or scenario is INVALID:
        raise InputError(*sorted(problems, key=by_line))
    loaded: Scenario = scenario
    return loaded


def check(scenario: Scenario, decoder: Decoder, node: Node, path: Path) -> Iterator[Problem]:
    """What the types cannot say: names, references, families, files."""

    def problem(where: str, what: str, found: str, expected: str) -> Problem:
        return Problem(where=where, what=what, found=repr(found), expected=expected)

    if not _NAME.fullmatch(scenario.name):
        yield problem(node.where_key("name"), "'name' is wrong", scenario.name, "lower-case letters, digits and dashes")
    yield from _missing_manifests(scenario.manifests, node, path)
    for action in scenario.timeline:
        if isinstance(action, Apply):
            yield from _missing_manifests(action.manifests, decoder.nodes[id(action)], path)
    yield from _duplicates(scenario.topology.routers, "router", decoder)
    yield from _duplicates(scenario.steps, "step", decoder)
    seen: dict[object, str] = {}
    for router in scenario.topology.routers:
        if router.hold_time_s in (1, 2):
            where = decoder.where(router, "hold_time_s")
            yield Problem(
                where=where,
                what="'hold_time_s' is wrong",
                found=str(router.hold_time_s),
                expected="0 or at least 3 (RFC 4271, 4.2)",
            )
        for address in router.addresses:
            other = seen.setdefault((router.vlan, address.ip), router.name)
            if other != router.name:
                yield problem(
                    decoder.where(router, "addresses"),
                    f"address of {other} on the same VLAN",
                    str(address.ip),
                    "another address",
                )
    yield from _references(scenario, decoder, node)
    yield from _order(scenario, decoder)
    for traffic in scenario.traffic:
        yield from _traffic(traffic, scenario, decoder)


def _missing_manifests(names: Iterable[str], node: Node, path: Path) -> Iterator[Problem]:
    for i, name in enumerate(names):
        if find_manifest(name, path) is not None:
            continue
        where = node.line_at(("manifests", i))
        if _is((path.parent / name).is_dir):
            yield Problem(where=where, what="is a directory", found=repr(name), expected="a file")
            continue
        known = {file.relative_to(EXAMPLES).as_posix() for file in EXAMPLES.rglob("*.yaml")}
        expected = f"a file beside the scenario, or of examples {nearest(name, known)}"
        yield Problem(where=where, what="no such manifest", found=repr(name), expected=expected)


def _duplicates(specs: Iterable[object], noun: str, decoder: Decoder) -> Iterator[Problem]:
    seen: set[str] = set()
    for spec in specs:
        name: str = spec.name  # type: ignore[attr-defined] # routers and steps have names
        where = decoder.where(spec, "name")
        if not _NAME.fullmatch(name):
            yield Problem(
                where=where, what="'name' is wrong", found=repr(name), expected="lower-case letters, digits and dashes"
            )
        if name in seen:
            yield Problem(where=where, what=f"a second {noun} of this name", found=repr(name), expected="another name")
        seen.add(name)


def _references(scenario: Scenario, decoder: Decoder, node: Node) -> Iterator[Problem]:
    """Names of routers, steps and traffic that are used and are not there."""
    # Names as they are written: an element that could not be read is no reason to say that others refer to nothing.
    routers = _written_names(node, "topology", "routers")
    traffics = _written_names(node, "traffic")
    steps = traffics | _written_names(node, "timeline")
    uses = [(traffic, "from", traffic.source, routers, "router") for traffic in scenario.traffic]
    uses += [(step, "after", step.after, steps - {step.name}, "step") for step in scenario.steps if step.after]  # type: ignore[misc]
    for spec, name, used, known, noun in uses:
        if used not in known:
            expected = nearest(used, known) if known else f"a {noun}, and there is none"
            yield Problem(where=decoder.where(spec, name), what=f"no such {noun}", found=repr(used), expected=expected)
    for expectation in scenario.expectations:
        for traffic in (expectation.traffic, expectation.other_traffic):
            if traffic and traffic not in traffics:
                yield Problem(
                    where=decoder.where(expectation),
                    what="no such traffic",
                    found=repr(traffic),
                    expected=nearest(traffic, traffics) if traffics else "traffic, and there is none",
                )


def _written_names(node: Node, *path: str) -> set[str]:
    """The names of the elements of a list."""
    for key in path:
        if not isinstance(node.value, Mapping) or key not in node.value:
            return set()
        node = node.value[key].node
    items = node.value if isinstance(node.value, tuple) else ()
    return {item.value["name"].node.text for item in items if isinstance(item.value, Mapping) and "name" in item.value}


def _order(scenario: Scenario, decoder: Decoder) -> Iterator[Problem]:
    """Steps that begin twice, or wait for themselves."""
    by_name: dict[str, Step] = {step.name: step for step in scenario.steps}
    for step in scenario.steps:
        if step.after is not None and step.at_s is not None:
            yield Problem(
                where=decoder.where(step, "at_s"),
                what="'at_s' and 'after' together",
                found=f"in {step.name!r}",
                expected="one of them",
            )
        if step.after is None and step.delay_s:
            yield Problem(
                where=decoder.where(step, "delay_s"),
                what="'delay_s' without 'after'",
                found=f"in {step.name!r}",
                expected="'at_s'",
            )
        chain = [step.name]
        while (after := by_name[chain[-1]].after) is not None and after in by_name and after not in chain:
            chain.append(after)
        if after == step.name and len(chain) > 1:
            yield Problem(
                where=decoder.where(step, "after"),
                what="steps wait for each other",
                found=" after ".join([*chain, after]),
                expected="no circle",
            )


def _traffic(traffic: Traffic, scenario: Scenario, decoder: Decoder) -> Iterator[Problem]:
    """Families and port space."""
    routers = [router for router in scenario.topology.routers if router.name == traffic.source]
    if not routers:
        return
    version = traffic.to.address.version
    prefixes = client_addresses(routers[0], version)
    if not prefixes:
        yield Problem(
            where=decoder.where(traffic, "to"),
            what=f"IPv{version} traffic from a router without an IPv{version} client address",
            found=repr(str(traffic.to)),
            expected=f"an IPv{version} prefix in client_addresses of {traffic.source}",
        )
        return
    room = places(traffic, routers[0])
    if traffic.connections > room:
        yield Problem(
            where=decoder.where(traffic, "connections"),
            what="more connections than source addresses and ports",
            found=str(traffic.connections),
            expected=f"at most {room}",
        )
