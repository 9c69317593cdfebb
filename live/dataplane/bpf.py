"""bpf(2): maps, batches, pins and links, by their numbers; standard library only.

Descriptors are plain numbers that their owner closes with `os.close`. Every function raises DataplaneError with the operation and the
kernel's words; `errno` of it tells why.

Source: linux/bpf.h (union bpf_attr); bpf(2).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Final

from core.errors import DataplaneError

SYSCALL: Final = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_ATTRIBUTE_BYTES: Final = 144
MMAPABLE: Final = 1 << 10
BPF_FS_MAGIC: Final = 0xCAFE4A11

_MAP_CREATE, _LOOKUP, _UPDATE = 0, 1, 2
_PROG_LOAD, _OBJ_PIN, _OBJ_GET, _TEST_RUN, _INFO = 5, 6, 7, 10, 15
_LOOKUP_BATCH, _UPDATE_BATCH, _LINK_CREATE, _LINK_UPDATE, _LINK_DETACH = 24, 26, 28, 29, 34

TCX_INGRESS: Final = 46

_libc = ctypes.CDLL(None, use_errno=True)


class BpfError(DataplaneError):
    """bpf(2) failed with `errno`."""

    def __init__(self, what: str, errno: int) -> None:
        super().__init__(f"{what}: {os.strerror(errno)}")
        self.errno = errno


class MapType(IntEnum):
    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    ARRAY_OF_MAPS = 12


def _bpf(command: int, attributes: bytes, what: str) -> tuple[int, bytes]:
    """(result, attributes as the kernel left them)."""
    number = SYSCALL.get(os.uname().machine)
    if number is None:
        raise BpfError(f"{what}: no bpf(2) number is known for {os.uname().machine}", 38)
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), _ATTRIBUTE_BYTES))
    result = _libc.syscall(number, command, buffer, ctypes.c_uint(len(buffer)))
    if result < 0:
        raise BpfError(what, ctypes.get_errno())
    return result, buffer.raw


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


# --- maps ------------------------------------------------------------------------------------------------------------------


def create_map(
    kind: MapType, *, key_bytes: int, value_bytes: int, entries: int, flags: int = 0, inner: int = 0, name: str = ""
) -> int:
    """A new map; `inner` is a map that those in an ARRAY_OF_MAPS look like."""
    attributes = struct.pack("=IIIIIII16s", kind, key_bytes, value_bytes, entries, flags, inner, 0, name.encode()[:15])
    return _bpf(_MAP_CREATE, attributes, f"creating BPF map {name} of {entries} entries of {value_bytes} bytes")[0]


def create_filled(value: bytes | memoryview, *, value_bytes: int, name: str) -> int:
    """A new array map of one element of `value_bytes` that begins with `value`; written through memory, so it costs one copy."""
    fd = create_map(MapType.ARRAY, key_bytes=4, value_bytes=value_bytes, entries=1, flags=MMAPABLE, name=name)
    page = mmap.PAGESIZE
    with mmap.mmap(fd, (value_bytes + page - 1) // page * page) as memory:
        memory[: len(value)] = bytes(value)
    return fd


def update(fd: int, key: int, value: bytes, what: str) -> None:
    """Sets the element of an array. For an ARRAY_OF_MAPS `value` is a descriptor, and when this returns no program that is running
    sees the old map any more (the kernel waits for it)."""
    keys = ctypes.create_string_buffer(struct.pack("=I", key), 4)
    values = ctypes.create_string_buffer(value, len(value))
    _bpf(_UPDATE, struct.pack("=I4xQQQ", fd, _address(keys), _address(values), 0), what)


def update_many(fd: int, keys: Sequence[int], values: bytes, what: str) -> None:
    """Sets several elements of an array, `values` one behind the other; for an ARRAY_OF_MAPS it waits once for all."""
    if not keys:
        return
    key_buffer = ctypes.create_string_buffer(struct.pack(f"={len(keys)}I", *keys), 4 * len(keys))
    value_buffer = ctypes.create_string_buffer(values, len(values))
    attributes = struct.pack("=QQQQIIQQ", 0, 0, _address(key_buffer), _address(value_buffer), len(keys), fd, 0, 0)
    _bpf(_UPDATE_BATCH, attributes, what)


def lookup(fd: int, key: int, value_bytes: int, what: str) -> bytes:
    """The element of an array."""
    keys = ctypes.create_string_buffer(struct.pack("=I", key), 4)
    values = ctypes.create_string_buffer(value_bytes)
    _bpf(_LOOKUP, struct.pack("=I4xQQQ", fd, _address(keys), _address(values), 0), what)
    return values.raw


def lookup_all(fd: int, *, entries: int, value_bytes: int, what: str) -> bytes:
    """All elements of an array, one behind the other; of a per-CPU array each once a CPU, in multiples of 8 bytes."""
    keys = ctypes.create_string_buffer(4 * entries)
    values = ctypes.create_string_buffer(value_bytes * entries)
    token = ctypes.create_string_buffer(4)
    attributes = struct.pack("=QQQQIIQQ", 0, _address(token), _address(keys), _address(values), entries, fd, 0, 0)
    _bpf(_LOOKUP_BATCH, attributes, what)
    return values.raw


@cache
def possible_cpus() -> int:
    """How many values an element of a per-CPU map has."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1


# --- programs and links ----------------------------------------------------------------------------------------------------


def load_trivial(program_type: int, *, result: int = 0) -> int:
    """A program of two instructions that returns `result`: what a probe asks the kernel for, or (2, TC_ACT_SHOT) a drop."""
    instructions = ctypes.create_string_buffer(
        struct.pack("=BBhi", 0xB7, 0, 0, result) + struct.pack("=BBhi", 0x95, 0, 0, 0), 16
    )
    licence = ctypes.create_string_buffer(b"Dual MIT/GPL")
    attributes = struct.pack(
        "=IIQQIIQII16sII", program_type, 2, _address(instructions), _address(licence), 0, 0, 0, 0, 0, b"", 0, 0
    )
    return _bpf(_PROG_LOAD, attributes, "loading a BPF program")[0]


def link_tcx_ingress(program: int, ifindex: int) -> int:
    """Attaches a program to the ingress of an interface of this network namespace, for as long as the link lives."""
    attributes = struct.pack("=IIII", program, ifindex, TCX_INGRESS, 0)
    return _bpf(_LINK_CREATE, attributes, f"attaching BPF to the ingress of interface {ifindex}")[0]


def update_link(link: int, program: int) -> None:
    """Replaces the program of a link; each packet sees the old or the new one."""
    _bpf(_LINK_UPDATE, struct.pack("=IIII", link, program, 0, 0), "replacing the BPF program of a link")


def link_ifindex(link: int) -> int:
    """The interface of a tcx link; 0: it is gone."""
    info = _info(link, 64)
    return int(struct.unpack_from("=I", info, 16)[0])


def map_shape(fd: int) -> tuple[int, int, int, int]:
    """(type, key_bytes, value_bytes, entries)."""
    kind, _, key_bytes, value_bytes, entries = struct.unpack_from("=IIIII", _info(fd, 64))
    return kind, key_bytes, value_bytes, entries


def _info(fd: int, length: int) -> bytes:
    buffer = ctypes.create_string_buffer(length)
    _bpf(_INFO, struct.pack("=IIQ", fd, length, _address(buffer)), "reading about a BPF object")
    return buffer.raw


def run_once(program: int, frame: bytes) -> tuple[int, bytes]:
    """(return code, frame afterwards) of a tc program on a frame that nothing is done with."""
    given = ctypes.create_string_buffer(frame, len(frame))
    room = ctypes.create_string_buffer(len(frame) + 256)
    attributes = struct.pack("=IIIIQQII", program, 0, len(frame), len(room), _address(given), _address(room), 1, 0)
    _, answer = _bpf(_TEST_RUN, attributes, "running a BPF program on a test frame")
    code, _, length = struct.unpack_from("=III", answer, 4)
    return code, room.raw[:length]


# --- pins ------------------------------------------------------------------------------------------------------------------


def pin(fd: int, path: Path) -> None:
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, struct.pack("=QII", _address(name), fd, 0), f"pinning {path}")


def pinned(path: Path) -> int | None:
    """A descriptor of what is pinned at `path`; None: nothing is."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    try:
        return _bpf(_OBJ_GET, struct.pack("=QII", _address(name), 0, 0), f"opening the pin {path}")[0]
    except BpfError as error:
        if error.errno == 2:
            return None
        raise


def unpin_link(path: Path) -> None:
    """Takes what is pinned at `path` off its interface, then the pin away; when this returns no packet runs through it any more.

    Without the first, the kernel lets go of a link whose last pin has gone when it has time to (linux/kernel/bpf/inode.c, an inode is
    freed after a grace period; kernel/bpf/tcx.c, tcx_link_detach waits for one).
    """
    link = pinned(path)
    if link is None:
        return
    with closing(link):
        _bpf(_LINK_DETACH, struct.pack("=I", link), f"detaching the link that is pinned at {path}")
    path.unlink()


def is_bpffs(path: Path) -> bool:
    """Whether `path` lies on a BPF file system."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), buffer):
        return False
    return bool(struct.unpack_from("=q", buffer.raw)[0] & 0xFFFFFFFF == BPF_FS_MAGIC)


@contextmanager
def closing(fd: int) -> Iterator[int]:
    """Closes the descriptor in the end."""
    try:
        yield fd
    finally:
        os.close(fd)
