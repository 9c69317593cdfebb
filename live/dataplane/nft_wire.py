"""nftables over netlink: tables, chains, rules, sets and their elements, changed in transactions and read back.

The kernel's own language instead of `nft` text or libnftables' JSON, for the sake of tables of 65,537 elements: text takes 0.3 s and
libnftables 60 MB for each, numpy writes the same bytes in a few milliseconds. `nft list table inet tidegate` reads all of it.

Source: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h; net/netfilter/nf_tables_api.c.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from live.dataplane.nft_expressions import Verdict, counter, value, verdict_data
from live.netlink import (
    CREATE,
    NETLINK_NETFILTER,
    DumpInterruptedError,
    Message,
    NetlinkError,
    NetlinkSocket,
    attribute,
    attributes,
    be32,
    each_attribute,
    nested,
    string,
    text,
)

_SUBSYSTEM: Final = 10
INET, NETDEV = 1, 5
"""Families of tables: both versions of IP; frames at an interface."""
_APPEND: Final = 0x800
_ELEMENTS_BYTES: Final = 60_000
"""Elements of one message stand in one attribute, whose length has 16 bits."""

NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
NEWSET, GETSET, DELSET = 9, 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14

INTERVAL: Final = 0x4
MAP: Final = 0x8
_VERDICTS: Final = 0xFFFFFF00
_HOST_ORDER: Final = struct.pack("=BBIBBI", 0, 4, 1, 1, 4, 1)
"""User data that tells nft the byte order of keys and data: NFTNL_UDATA_SET_KEYBYTEORDER, …DATABYTEORDER."""
_INTERVAL_END: Final = 0x1
_ENOENT: Final = 2


@dataclass(frozen=True, slots=True)
class KeyType:
    """A type of set keys: nft's number for it and whether it is in host byte order, which only listings use; its length in bytes."""

    number: int
    length: int
    host_order: bool = False


IPV4_KEY: Final = KeyType(7, 4)
IPV6_KEY: Final = KeyType(8, 16)
PORT_KEY: Final = KeyType(13, 2)
MARK_KEY: Final = KeyType(19, 4, host_order=True)
NAME_KEY: Final = KeyType(41, 16, host_order=True)
BYTE_KEY: Final = KeyType(12, 1)
FAMILY_KEY: Final = KeyType(2, 1)
HOP: Final = {4: KeyType(7 << 6 | 20, 8), 6: KeyType(8 << 6 | 20, 20)}
"""An address and the index of an interface, by IP version: nft writes six bits a type of what is joined."""

_GENERIC: Final = struct.Struct(">BBH")
_ELEMENT: Final = np.dtype(
    [("head", "<u2", 2), ("key_head", "<u2", 4), ("key", "=u4"), ("data_head", "<u2", 4), ("data", "=u4")]
)
_KEY_ONLY: Final = np.dtype([("head", "<u2", 2), ("key_head", "<u2", 4), ("key", "=u4")])
_NESTED: Final = 0x8000

Marks = NDArray[np.uint32]


class Table:
    """Messages about one table; each method returns what to put into a transaction."""

    def __init__(self, name: str, family: int = INET) -> None:
        self.name = name
        self.family = family
        self._set_id = 0

    def message(self, kind: int, flags: int, body: bytes, what: str) -> Message:
        """Any message, about this table if the body begins with its name."""
        return Message(_SUBSYSTEM << 8 | kind, flags, _GENERIC.pack(self.family, 0, 0) + body, f"nft: {what}")

    def create(self) -> Message:
        """The table, if it is not there."""
        return self.message(NEWTABLE, CREATE, text(1, self.name), f"adding table {self.name}")

    def delete(self) -> Message:
        """The table with all that is in it."""
        return self.message(DELTABLE, 0, text(1, self.name), f"deleting table {self.name}")

    def base_chain(self, name: str, hook: int, priority: int) -> Message:
        """A filter chain that the kernel enters at `hook`, if it is not there."""
        where = nested(4, be32(1, hook), be32(2, priority))
        body = text(1, self.name) + text(3, name) + where + be32(5, Verdict.ACCEPT) + text(7, "filter")
        return self.message(NEWCHAIN, CREATE, body, f"adding chain {name}")

    def ingress_chain(self, name: str, interface: str) -> Message:
        """A filter chain of a table of frames, which the kernel enters with what arrives at `interface`, if it is not there."""
        where = nested(4, be32(1, 0), be32(2, 0), text(3, interface))
        body = text(1, self.name) + text(3, name) + where + be32(5, Verdict.ACCEPT) + text(7, "filter")
        return self.message(NEWCHAIN, CREATE, body, f"adding chain {name}")

    def chain(self, name: str) -> Message:
        """A chain that rules go to, if it is not there."""
        return self.message(NEWCHAIN, CREATE, text(1, self.name) + text(3, name), f"adding chain {name}")

    def delete_chain(self, name: str) -> Message:
        return self.message(DELCHAIN, 0, text(1, self.name) + text(3, name), f"deleting chain {name}")

    def rule(self, chain: str, expressions: bytes) -> Message:
        """A rule at the end of a chain."""
        body = text(1, self.name) + text(2, chain) + nested(4, expressions)
        return self.message(NEWRULE, CREATE | _APPEND, body, f"adding a rule to chain {chain}")

    def delete_rules(self, chain: str) -> Message:
        """All rules of a chain."""
        return self.message(DELRULE, 0, text(1, self.name) + text(2, chain), f"deleting the rules of chain {chain}")

    def set(
        self,
        name: str,
        key: KeyType,
        *,
        flags: int = 0,
        verdicts: bool = False,
        data: KeyType | None = None,
        size: int = 0,
    ) -> Message:
        """A set; a map from keys to `data`; with `verdicts` a map from keys to verdicts. `size`: its fixed capacity."""
        self._set_id += 1
        body = text(1, self.name) + text(2, name) + be32(10, self._set_id)
        body += be32(3, flags | (MAP if verdicts or data else 0)) + be32(4, key.number) + be32(5, key.length)
        if verdicts:
            body += be32(6, _VERDICTS)
        elif data:
            body += be32(6, data.number) + be32(7, data.length)
        if key.host_order:
            body += attribute(13, _HOST_ORDER)
        if size:
            body += nested(9, be32(1, size))
        return self.message(NEWSET, CREATE, body, f"adding set {name}")

    def counting_set(self, name: str, key: KeyType, *, data: KeyType | None = None, size: int = 0) -> Message:
        """A set, or a map to `data`, whose elements count the packets that were looked up."""
        made = self.set(name, key, data=data, size=size)
        return Message(made.kind, made.flags, made.body + nested(17, counter()), made.what)

    def delete_set(self, name: str) -> Message:
        return self.message(DELSET, 0, text(1, self.name) + text(2, name), f"deleting set {name}")

    def add_elements(self, name: str, elements: Sequence[bytes]) -> Iterator[Message]:
        """`elements` as `element`, `interval_element` … made them."""
        return self._elements(NEWSETELEM, CREATE, name, _packed(elements))

    def delete_elements(self, name: str, elements: Sequence[bytes]) -> Iterator[Message]:
        return self._elements(DELSETELEM, 0, name, _packed(elements))

    def add_pairs(self, name: str, keys: Marks, data: Marks) -> Iterator[Message]:
        """Elements of a map from marks to marks; both of shape (n,)."""
        return self._elements(NEWSETELEM, CREATE, name, _chunks(_pairs(keys, data)))

    def delete_keys(self, name: str, keys: Marks) -> Iterator[Message]:
        """Elements of a map from marks to marks, by their keys."""
        return self._elements(DELSETELEM, 0, name, _chunks(_keys(keys)))

    def _elements(self, kind: int, flags: int, name: str, chunks: Iterator[bytes]) -> Iterator[Message]:
        head = text(1, self.name) + text(2, name)
        verb = "adding" if kind == NEWSETELEM else "deleting"
        for chunk in chunks:
            yield self.message(kind, flags, head + nested(3, chunk), f"{verb} elements of {name}")


class NftSocket:
    """nftables of the calling thread's network namespace."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(NETLINK_NETFILTER)

    @property
    def transaction_bytes(self) -> int:
        """How large a transaction may be."""
        return self._netlink.send_buffer_bytes - 4096

    def close(self) -> None:
        self._netlink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def commit(self, messages: Sequence[Message], *, only_check: bool = False) -> None:
        """Makes all changes at once, or none. `only_check`: none in any case.

        Raises NetlinkError with the kernel's first objection.
        """
        if not messages:
            return
        begin, end = (
            Message(kind, 0, _GENERIC.pack(0, 0, _SUBSYSTEM), f"nft: {verb} a transaction")
            for kind, verb in ((0x10, "beginning"), (0x11, "ending"))
        )
        if errors := self._netlink.batch(begin, messages, None if only_check else end):
            raise errors[0]

    def chains(self, table: str, family: int = INET) -> list[str]:
        """The names of the chains of a table; empty when there is no such table."""
        return [string(values[3]) for values in self._list(GETCHAIN, table, "listing chains", family)]

    def sets(self, table: str, family: int = INET) -> dict[str, int]:
        """The fixed capacity (0: none) of the sets and maps of a table by name; empty when there is no such table."""
        return {
            string(values[2]): int.from_bytes(attributes(values.get(9, b"")).get(1, b""), "big")
            for values in self._list(GETSET, table, "listing sets", family)
        }

    def rules(self, table: str, family: int = INET) -> Counter[str]:
        """How many rules each chain of a table has."""
        return Counter(string(values[2]) for values in self._list(GETRULE, table, "listing rules", family))

    def length(self, table: str, name: str, family: int = INET) -> int:
        """How many elements a set or map has, ends of intervals included."""
        return sum(1 for chunk in self._element_lists(table, name, family) for _ in each_attribute(chunk))

    def _list(self, kind: int, table: str, what: str, family: int = INET) -> list[dict[int, bytes]]:
        message = Table(table, family).message(kind, 0, text(1, table), what)
        found = [attributes(body[4:]) for body in self._dump(message)]
        return [values for values in found if string(values.get(1, b"")) == table]

    def pairs(self, table: str, name: str, family: int = INET) -> tuple[Marks, Marks]:
        """Keys and data of a map from marks to marks, in any order; both of shape (n,)."""
        keys, data = [], []
        for chunk in self._element_lists(table, name, family):
            if len(chunk) % _ELEMENT.itemsize:
                raise NetlinkError(f"nft: elements of {name} have an unknown shape", 22)
            elements = np.frombuffer(chunk, _ELEMENT)
            keys.append(elements["key"])
            data.append(elements["data"])
        empty = np.empty(0, np.uint32)
        return np.concatenate([empty, *keys]), np.concatenate([empty, *data])

    def counts(self, table: str, name: str, family: int = INET) -> dict[bytes, tuple[int, int]]:
        """(packets, bytes) by key of the elements of a counting set; empty when it does not exist."""
        found = {}
        for chunk in self._element_lists(table, name, family):
            for _, element in each_attribute(chunk):
                values = attributes(element)
                key = attributes(values[1])[1]
                # NFTA_SET_ELEM_EXPR of one expression, else a list of them
                expression = attributes(values[7] if 7 in values else attributes(values[11])[1])
                numbers = attributes(expression[2])
                found[key] = struct.unpack(">Q", numbers[2])[0], struct.unpack(">Q", numbers[1])[0]
        return found

    def data(self, table: str, name: str, family: int = INET) -> dict[bytes, bytes]:
        """Keys of a set or map and their data, without counters; empty when it does not exist."""
        found = {}
        for chunk in self._element_lists(table, name, family):
            for _, one in each_attribute(chunk):
                values = attributes(one)
                found[attributes(values[1])[1]] = attributes(values.get(2, b"")).get(1, b"")
        return found

    def _element_lists(self, table: str, name: str, family: int = INET) -> Iterator[bytes]:
        body = text(1, table) + text(2, name)
        message = Table(table, family).message(GETSETELEM, 0, body, f"listing elements of {name}")
        for body in self._dump(message):
            if elements := attributes(body[4:]).get(3):
                yield elements

    def _dump(self, message: Message) -> list[bytes]:
        attempts = 10
        while True:
            attempts -= 1
            try:
                return [body for _, body in self._netlink.dump(message)]
            except DumpInterruptedError:
                if not attempts:
                    raise
            except NetlinkError as error:
                if error.errno == _ENOENT:
                    return []
                raise


# --- elements --------------------------------------------------------------------------------------------------------------


def element(key: bytes) -> bytes:
    """An element of a set."""
    return nested(1, value(1, key))


def pair(key: bytes, data: bytes) -> bytes:
    """An element of a map."""
    return nested(1, value(1, key), value(2, data))


def dispatch(key: bytes, chain: str) -> bytes:
    """An element of a map to chains."""
    return nested(1, value(1, key), verdict_data(2, Verdict.GOTO, chain))


def interval_elements(ranges: Sequence[tuple[int, int]], length: int) -> list[bytes]:
    """Elements of an interval set of `length`-byte keys; `ranges` (first, last) are sorted and do not touch."""
    made = []
    for first, last in ranges:
        made.append(element(first.to_bytes(length, "big")))
        made += _end(last, length)
    return made


def dispatch_elements(ranges: Sequence[tuple[int, int, str]], length: int) -> list[bytes]:
    """Elements of an interval map to chains: (first, last, chain), sorted, not overlapping."""
    made = []
    for first, last, chain in ranges:
        made.append(dispatch(first.to_bytes(length, "big"), chain))
        made += _end(last, length)
    return made


def _end(last: int, length: int) -> list[bytes]:
    """What closes an interval: the first value after it, unless there is none."""
    if last + 1 >= 1 << 8 * length:
        return []
    return [nested(1, value(1, (last + 1).to_bytes(length, "big")), be32(3, _INTERVAL_END))]


def _packed(elements: Sequence[bytes]) -> Iterator[bytes]:
    """Elements joined to chunks that fit into one attribute."""
    chunk: list[bytes] = []
    used = 0
    for each in elements:
        if used + len(each) > _ELEMENTS_BYTES:
            yield b"".join(chunk)
            chunk, used = [], 0
        chunk.append(each)
        used += len(each)
    if chunk:
        yield b"".join(chunk)


def _chunks(elements: NDArray[np.void]) -> Iterator[bytes]:
    step = _ELEMENTS_BYTES // elements.dtype.itemsize
    for first in range(0, len(elements), step):
        yield elements[first : first + step].tobytes()


def _pairs(keys: Marks, data: Marks) -> NDArray[np.void]:
    made = np.empty(len(keys), _ELEMENT)
    made["head"] = (_ELEMENT.itemsize, 1 | _NESTED)
    made["key_head"] = (12, 1 | _NESTED, 8, 1)
    made["key"] = keys
    made["data_head"] = (12, 2 | _NESTED, 8, 1)
    made["data"] = data
    return made


def _keys(keys: Marks) -> NDArray[np.void]:
    made = np.empty(len(keys), _KEY_ONLY)
    made["head"] = (_KEY_ONLY.itemsize, 1 | _NESTED)
    made["key_head"] = (12, 1 | _NESTED, 8, 1)
    made["key"] = keys
    return made
