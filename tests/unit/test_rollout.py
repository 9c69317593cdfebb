"""What a Deployment or DaemonSet does next."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cluster.rollout import (
    PodView,
    Step,
    Strategy,
    daemon_set_step,
    deployment_step,
    deployment_strategy,
    pod_suffix,
    revision_of,
    spread,
)
from sim.cluster.workload_status import daemon_set_status, deployment_status, same_status

NODES = ("node-1", "node-2")


def pod(name: str, revision: str = "new", *, ready: bool = True, node: str = "node-1") -> PodView:
    return PodView(name=name, uid=name, revision=revision, node=node, ready=ready)


def deployment(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "d", "generation": 3}, "spec": spec}


def step(
    replicas: int, *pods: PodView, surge: int = 1, unavailable: int = 0, terminating: int = 0, recreate: bool = False
) -> Step:
    return deployment_step(
        replicas=replicas,
        revision="new",
        strategy=Strategy(max_surge=surge, max_unavailable=unavailable, recreate=recreate),
        pods=pods,
        terminating=terminating,
        nodes=NODES,
        load={},
    )


def test_missing_pods_are_created_round_robin() -> None:
    assert step(4).create_on == ("node-1", "node-2", "node-1", "node-2")
    assert step(2, pod("a")).create_on == ("node-2",)


def test_surplus_pods_go_those_that_serve_nobody_first() -> None:
    assert [p.name for p in step(1, pod("a"), pod("b"), pod("c", ready=False)).delete] == ["c", "b"]
    assert [p.name for p in step(0, pod("a")).delete] == ["a"]


def test_an_update_adds_before_it_takes_away() -> None:
    old = [pod(f"o{n}", "old") for n in range(4)]
    first = step(4, *old)
    assert (len(first.create_on), first.delete) == (1, ())
    waiting = step(4, *old, pod("n0", ready=False))
    assert (waiting.create_on, waiting.delete) == ((), ())
    second = step(4, *old, pod("n0"))
    assert (second.create_on, [p.name for p in second.delete]) == ((), ["o0"])


def test_old_pods_that_are_not_ready_go_at_once() -> None:
    old = [pod("o0", "old"), pod("o1", "old", ready=False), pod("o2", "old")]
    assert [p.name for p in step(3, *old, surge=0, unavailable=1).delete] == ["o1"]


def test_recreate_ends_all_before_it_begins() -> None:
    assert len(step(2, pod("o0", "old"), pod("o1", "old"), recreate=True).delete) == 2
    assert step(2, terminating=1, recreate=True).create_on == ()
    assert len(step(2, recreate=True).create_on) == 2


@pytest.mark.parametrize(
    ("rolling", "replicas", "expected"),
    [
        (None, 4, (1, 1)),
        (None, 2, (1, 0)),
        ({"maxSurge": 2, "maxUnavailable": 0}, 10, (2, 0)),
        ({"maxSurge": "50%", "maxUnavailable": "50%"}, 3, (2, 1)),
        ({"maxSurge": 0, "maxUnavailable": 0}, 3, (0, 1)),
        ({"maxSurge": 0, "maxUnavailable": "10%"}, 3, (0, 1)),
    ],
)
def test_shares_are_rounded_as_kubernetes_rounds_them(rolling: Any, replicas: int, expected: tuple[int, int]) -> None:
    strategy = deployment_strategy(deployment(strategy={"rollingUpdate": rolling} if rolling else {}), replicas)
    assert (strategy.max_surge, strategy.max_unavailable) == expected


@given(
    replicas=st.integers(0, 8),
    before=st.integers(0, 8),
    surge=st.integers(0, 4),
    unavailable=st.integers(0, 4),
    data=st.data(),
)
def test_an_update_ends_and_keeps_its_promises(
    replicas: int, before: int, surge: int, unavailable: int, data: st.DataObject
) -> None:
    if surge == unavailable == 0:
        unavailable = 1
    strategy = Strategy(max_surge=surge, max_unavailable=unavailable)
    pods = [pod(f"o{n}", "old") for n in range(before)]
    count = 0
    for _ in range(100):
        taken = deployment_step(
            replicas=replicas, revision="new", strategy=strategy, pods=pods, terminating=0, nodes=NODES, load={}
        )
        ready_before = sum(p.ready for p in pods)
        pods = [p for p in pods if p not in taken.delete]
        if ready_before >= replicas - unavailable:
            assert sum(p.ready for p in pods) >= replicas - unavailable
        for node in taken.create_on:
            count += 1
            pods.append(pod(f"n{count}", ready=False, node=node))
        if taken.create_on:
            assert len(pods) <= replicas + surge
        unready = [index for index, p in enumerate(pods) if not p.ready]
        if unready:
            index = data.draw(st.sampled_from(unready))
            pods[index] = pod(pods[index].name, pods[index].revision, node=pods[index].node)
        elif not taken.create_on and not taken.delete:
            break
    assert [p.revision for p in pods] == ["new"] * replicas


def test_a_daemon_set_is_once_on_each_node() -> None:
    def steps(*pods: PodView, nodes: tuple[str, ...] = NODES, occupied: tuple[str, ...] = ()) -> Any:
        return daemon_set_step(revision="new", max_unavailable=1, pods=pods, nodes=nodes, occupied=occupied)

    assert steps().create_on == NODES
    assert steps(pod("a")).create_on == ("node-2",)
    assert steps(pod("a"), occupied=("node-2",)).create_on == ()
    assert [p.name for p in steps(pod("a"), pod("b"), pod("c", node="node-2")).delete] == ["b"]
    assert [p.name for p in steps(pod("a"), pod("c", node="node-2"), nodes=("node-1",)).delete] == ["c"]


def test_a_daemon_set_is_updated_one_node_after_the_other() -> None:
    def deleted(*pods: PodView) -> list[str]:
        return [p.name for p in daemon_set_step(revision="new", max_unavailable=1, pods=pods, nodes=NODES).delete]

    assert deleted(pod("a", "old"), pod("b", "old", node="node-2")) == ["a"]
    assert deleted(pod("b", "old", node="node-2")) == []
    assert deleted(pod("a", ready=False), pod("b", "old", node="node-2")) == []
    assert deleted(pod("a"), pod("b", "old", node="node-2")) == ["b"]


def test_pods_go_where_there_are_fewest() -> None:
    assert spread(1, (), NODES, {"node-1": 5, "node-2": 1}) == ("node-2",)
    assert spread(1, (pod("a", node="node-2"),), NODES, {"node-1": 5}) == ("node-1",)
    assert spread(3, (), (), {}) == ()


def test_names_depend_on_what_they_name_only() -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"x": 1, "y": 2}}
    assert revision_of(template) == revision_of({"spec": {"y": 2, "x": 1}, "metadata": {"labels": {"a": "b"}}})
    assert revision_of(template) != revision_of({**template, "spec": {"x": 1}})
    assert pod_suffix("d", "r", 1) == pod_suffix("d", "r", 1) != pod_suffix("e", "r", 1)


def test_names_sort_in_the_order_of_creation() -> None:
    for owner, revision in (("d", "r"), ("d", "s"), ("example-target-application-b", "7c5ddbdf54")):
        names = [pod_suffix(owner, revision, count) for count in range(1, 3000)]
        assert names == sorted(set(names))
        assert {len(name) for name in names} == {5}


def test_statuses_count_and_keep_their_transition_times() -> None:
    owner = deployment(replicas=2)
    pods = [pod("a"), pod("b", "old", ready=False)]
    status = deployment_status(owner, "new", pods, 1_000_000_000.0)
    counts = {key: value for key, value in status.items() if key != "conditions"}
    assert counts == {
        "observedGeneration": 3,
        "replicas": 2,
        "updatedReplicas": 1,
        "readyReplicas": 1,
        "availableReplicas": 1,
        "unavailableReplicas": 1,
    }
    later = deployment_status({**owner, "status": status}, "new", pods, 1_000_000_060.0)
    assert later["conditions"][0]["lastTransitionTime"] == "2001-09-09T01:46:40Z"
    assert same_status(status, later)
    assert not same_status(status, deployment_status(owner, "new", [pod("a"), pod("b")], 1_000_000_060.0))
    counted = daemon_set_status(owner, "new", pods, NODES)
    assert (counted["desiredNumberScheduled"], counted["numberReady"], counted["updatedNumberScheduled"]) == (2, 1, 1)
