"""Which attachment gets which table of a Pod."""

from __future__ import annotations

from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from core.model import Attachment
from live.podnet import POD_PRIORITY, POD_TABLE, tables
from live.rtnetlink import RouteSpec, RuleSpec, default_of


def vip(n: int) -> IPv4Network:
    return IPv4Network((n, 32))


def attachment(*numbers: int) -> Attachment:
    return Attachment(vips=tuple(map(vip, numbers)))


def rules_of(by_table: dict[int, Attachment]) -> list[RuleSpec]:
    return [
        RuleSpec(version=4, priority=POD_PRIORITY, table=table, source=source)
        for table, each in by_table.items()
        for source in each.vips
    ]


def test_new_attachments_take_the_lowest_tables() -> None:
    assert tables([attachment(1), attachment(), attachment(2, 2)], [], []) == {
        POD_TABLE: attachment(1),
        POD_TABLE + 1: attachment(2),
    }


def test_a_table_is_kept_while_one_vip_stays_and_not_reused_at_once() -> None:
    before = rules_of({POD_TABLE: attachment(1), POD_TABLE + 1: attachment(2, 3)})
    assert tables([attachment(4), attachment(3, 5)], before, []) == {
        POD_TABLE + 1: attachment(3, 5),
        POD_TABLE + 2: attachment(4),
    }


def test_the_larger_claim_wins_a_table_and_the_earlier_one_among_equals() -> None:
    before = rules_of({POD_TABLE: attachment(1, 2, 3)})
    assert tables([attachment(1), attachment(2, 3)], before, [])[POD_TABLE] == attachment(2, 3)
    assert tables([attachment(1), attachment(2)], before, [])[POD_TABLE] == attachment(1)


def test_a_table_with_routes_left_in_it_is_not_free() -> None:
    left = RouteSpec(destination=default_of(4), table=POD_TABLE, metric=1)
    assert set(tables([attachment(1)], [], [left])) == {POD_TABLE + 1}


attachments = st.lists(st.lists(st.integers(0, 12), max_size=5).map(lambda some: attachment(*some)), max_size=5)


@given(attachments, attachments)
def test_every_vip_has_one_table_and_a_second_look_changes_nothing(
    first: list[Attachment], then: list[Attachment]
) -> None:
    before = rules_of(dict(tables(first, [], [])))
    chosen = dict(tables(then, before, []))
    placed = [source for each in chosen.values() for source in each.vips]
    assert len(placed) == len(set(placed))
    assert set(placed) == {source for each in then for source in each.vips}
    assert dict(tables(then, rules_of(chosen), [])) == chosen
    for each in chosen.values():
        owner = next(a for a in then if each.vips[0] in a.vips)
        assert set(each.vips) <= set(owner.vips)
