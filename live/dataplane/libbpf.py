"""The ELF object to programs in the kernel, by libbpf through ctypes: it relocates maps and loads, we bring the maps.

Source: bpf/libbpf.h, version 1.0 and later.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Final

from core.errors import DataplaneError, MachineError

LIBRARY: Final = "libbpf.so.1"
_LogFunction = CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_SIGNATURES: Final[dict[str, tuple[object, list[object]]]] = {
    "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__close": (None, [c_void_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__next_map": (c_void_p, [c_void_p, c_void_p]),
    "bpf_object__find_program_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_map__name": (c_char_p, [c_void_p]),
    "bpf_map__reuse_fd": (c_int, [c_void_p, c_int]),
    "bpf_map__initial_value": (c_void_p, [c_void_p, POINTER(c_size_t)]),
    "bpf_map__set_initial_value": (c_int, [c_void_p, c_char_p, c_size_t]),
    "bpf_program__set_log_buf": (c_int, [c_void_p, c_void_p, c_size_t]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "libbpf_set_print": (c_void_p, [_LogFunction]),
}


def _silent(_level: int, _form: bytes, _arguments: int) -> int:
    """libbpf's own messages; what matters of them is in our exception."""
    return 0


_SILENT: Final = _LogFunction(_silent)


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY, use_errno=True)
    except OSError as error:
        raise MachineError(f"{LIBRARY} is missing ({error})", "get it with: sudo apt-get install libbpf1") from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.libbpf_set_print(_SILENT)
    return library


def available() -> str | None:
    """Why there is no libbpf; None: there is."""
    try:
        _library()
    except MachineError as error:
        return error.missing
    return None


def load(
    path: Path,
    *,
    maps: Mapping[str, int],
    constants: bytes,
    programs: Sequence[str],
) -> dict[str, int]:
    """Descriptors of the `programs` of the object at `path`, by name; the caller closes them.

    `maps` are descriptors by name, which stay the caller's; `constants` is the whole content of .rodata.

    Raises DataplaneError with the end of the verifier's log when the kernel refuses a program.
    """
    library = _library()
    handle = library.bpf_object__open_file(os.fsencode(path), None)
    if not handle:
        raise DataplaneError(f"{path} is no BPF object: {os.strerror(ctypes.get_errno())}; compile it with: make setup")
    try:
        _bring_maps(library, handle, path, maps, constants)
        logs = {name: ctypes.create_string_buffer(1 << 16) for name in programs}
        found = {name: _program(library, handle, path, name) for name in programs}
        for name, program in found.items():
            library.bpf_program__set_log_buf(program, logs[name], len(logs[name]))
        error = library.bpf_object__load(handle)
        if error:
            raise DataplaneError(_refusal(path, -error, {name: log.value for name, log in logs.items()}))
        return {name: os.dup(library.bpf_program__fd(program)) for name, program in found.items()}
    finally:
        library.bpf_object__close(handle)


def _program(library: ctypes.CDLL, handle: int, path: Path, name: str) -> int:
    program: int | None = library.bpf_object__find_program_by_name(handle, name.encode())
    if not program:
        raise DataplaneError(f"{path} has no program {name}; compile it anew with: make setup")
    return program


def _bring_maps(library: ctypes.CDLL, handle: int, path: Path, maps: Mapping[str, int], constants: bytes) -> None:
    for name, fd in maps.items():
        found = library.bpf_object__find_map_by_name(handle, name.encode())
        if not found or library.bpf_map__reuse_fd(found, fd):
            raise DataplaneError(f"{path} has no map {name} such as ours; compile it anew with: make setup")
    internal = library.bpf_object__next_map(handle, None)
    while internal and not library.bpf_map__name(internal).endswith(b".rodata"):
        internal = library.bpf_object__next_map(handle, internal)
    size = c_size_t(0)
    if internal:
        library.bpf_map__initial_value(internal, byref(size))
    if size.value != len(constants):
        raise DataplaneError(
            f"{path} has {size.value} bytes of constants, not {len(constants)}; compile it anew: make setup"
        )
    library.bpf_map__set_initial_value(internal, constants, len(constants))


def _refusal(path: Path, errno: int, logs: Mapping[str, bytes]) -> str:
    said = [f"{name}: {log.decode(errors='replace')[-600:].strip()}" for name, log in logs.items() if log]
    return f"loading {path.name}: {os.strerror(errno)}" + "".join(f"\n{line}" for line in said)
