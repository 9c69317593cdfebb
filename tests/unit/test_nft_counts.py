"""Which set counts the packets of a flow."""

from __future__ import annotations

from live.dataplane.nft_counts import capacity_of, count_sets, flow_of

KEY = "default/route-v4-701b98b51a20"


def test_a_set_has_room_for_more_and_is_kept_until_it_has_none() -> None:
    first = count_sets({}, {KEY: range(4)})[KEY]
    assert (capacity_of(first), flow_of(first)) == (16, KEY)
    assert count_sets({first: range(4)}, {KEY: range(8, 20)})[KEY] == first, "all old and all new ones at once"
    grown = count_sets({first: range(4)}, {KEY: range(8, 21)})[KEY]
    assert (capacity_of(grown), flow_of(grown)) == (128, KEY), "17 at once, and four times the room"
    assert count_sets({grown: range(13)}, {KEY: range(1)})[KEY] == grown, "none shrinks"


def test_flows_have_sets_of_their_own() -> None:
    names = count_sets({}, {KEY: range(2), f"{KEY}-16": range(2)})
    assert len(set(names.values())) == 2
    assert {flow_of(name) for name in names.values()} == names.keys()


def test_the_larger_of_two_is_kept_and_a_set_of_another_make_is_not() -> None:
    small, large, other = f"count-{KEY}-16", f"count-{KEY}-64", f"count-{KEY}"
    for present in ([small, large, other], [other, large, small]):
        assert count_sets(dict.fromkeys(present, range(2)), {KEY: range(2)}) == {KEY: large}
    assert count_sets({other: range(2)}, {KEY: range(2)}) == {KEY: small}
