"""What is made of the kernel's answers, by a kernel that says what it is told to."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from live import rtnetlink
from live.rtnetlink import AddressSpec, Change, RouteSocket, RtnetlinkError, RuleSpec

NEWADDR, ERROR, DONE = 20, 2, 3
MULTI, INTERRUPTED = 0x2, 0x10


def address(last: int, flags: int = MULTI) -> tuple[int, int, bytes]:
    body = struct.pack("=4BI", socket.AF_INET, 24, 0, 0, 7)
    body += b"".join(struct.pack("=HH", 8, kind) + bytes([10, 0, 0, last]) for kind in (1, 2))
    return NEWADDR, flags, body


def done(code: int = 0, flags: int = MULTI) -> tuple[int, int, bytes]:
    return DONE, flags, struct.pack("=i", code)


Answer = Sequence[Sequence[tuple[int, int, bytes]]]
"""Datagrams of messages: (kind, flags, body)."""


@contextmanager
def kernel_that_says(*answers: Answer, sequence_error: int = 0) -> Iterator[RouteSocket]:
    """A socket whose n-th request is answered by the n-th of `answers`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.settimeout(10)

    def answer() -> None:
        for datagrams in answers:
            (sequence,) = struct.unpack_from("=I", theirs.recv(1 << 16), 8)
            for messages in datagrams:
                theirs.send(
                    b"".join(
                        struct.pack("=IHHII", 16 + len(body), kind, flags, sequence + sequence_error, 0) + body
                        for kind, flags, body in messages
                    )
                )

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with ours, theirs, RouteSocket(connection=ours) as made:
            yield made
            thread.join()
    finally:
        thread.join()


def spec(last: int) -> AddressSpec:
    return AddressSpec(address=ip_address(f"10.0.0.{last}"), prefix_bits=24, interface=7)


def test_a_listing_ends_with_the_kernels_word_and_not_with_a_datagram() -> None:
    with kernel_that_says([[address(1), address(2)], [address(3)], [done()]]) as kernel:
        assert kernel.addresses() == [spec(1), spec(2), spec(3)]


@pytest.mark.parametrize(
    "interrupted",
    [
        [[address(1, MULTI | INTERRUPTED)], [done()]],
        [[address(1)], [done(flags=MULTI | INTERRUPTED)]],
    ],
)
def test_an_interrupted_listing_is_made_again(interrupted: Answer) -> None:
    with kernel_that_says(interrupted, interrupted, [[address(2)], [done()]]) as kernel:
        assert kernel.addresses() == [spec(2)]


def test_a_listing_that_is_always_interrupted_is_an_error() -> None:
    interrupted = [[done(flags=MULTI | INTERRUPTED)]]
    with (
        kernel_that_says(*[interrupted] * 10) as kernel,
        pytest.raises(RtnetlinkError, match=r"listing addresses: .*keeps changing"),
    ):
        kernel.addresses()


def test_a_listing_that_fails_at_its_end_is_an_error() -> None:
    with (
        kernel_that_says([[address(1)], [done(-90)]]) as kernel,
        pytest.raises(RtnetlinkError, match="listing addresses: Message too long") as caught,
    ):
        kernel.addresses()
    assert caught.value.errno == 90


def test_answers_to_other_requests_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtnetlink, "ANSWER_DEADLINE_S", 0.05)
    with (
        kernel_that_says([[address(1)], [done()]], sequence_error=1) as kernel,
        pytest.raises(RtnetlinkError, match=r"listing addresses: .*no answer from the kernel"),
    ):
        kernel.addresses()


def acknowledgement(code: int) -> Answer:
    return [[(ERROR, 0, struct.pack("=i", -code) + bytes(16) + bytes(8))]]


def test_all_changes_are_tried_and_what_is_so_already_is_no_error() -> None:
    sources = [RuleSpec(version=4, priority=n, table=5) for n in (1, 2, 3)]
    with (
        kernel_that_says(*map(acknowledgement, (17, 1, 0, 2, 16))) as kernel,
        pytest.raises(RtnetlinkError, match="adding IPv4 rule 2 lookup 5: Operation not permitted"),
    ):
        kernel.apply(Change(rules=sources, old_rules=sources[:2]))
