"""The standard streams as a program needs them: always there, and when writing fails, something sensible happens.

Python's own say "[Errno 28] No space left on device" without a word of where, fail where nobody expects it when stderr is full, and are
None when whoever started the process closed them.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT = "standard output"


def open_standard_streams() -> None:
    """Replaces `sys.stdout` and `sys.stderr` by streams that know what to do when writing fails, and opens what is closed.

    On stdout: a reader that goes away is no error, and the command goes on to its own exit code; any other error says that it was
    standard output, once. On stderr: errors are ignored, since there is nowhere to tell them.
    """
    for name, mode in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            # The lowest number that is free is that of the stream: no file that is opened later gets what is printed.
            stream = os.fdopen(os.open(os.devnull, mode), "r" if name == "stdin" else "w", closefd=False)
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _stream(_Output, sys.stdout)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _stream(_Diagnostics, sys.stderr)


def _stream(kind: type[_Output | _Diagnostics], like: io.TextIOWrapper) -> io.TextIOWrapper:
    like.flush()
    raw = kind(like.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


class _Output(io.FileIO):
    """Standard output."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # What is still buffered goes nowhere, or Python would fail with it again when it ends.
            _discard(self.fileno())
            if isinstance(error, BrokenPipeError):
                return memoryview(data).nbytes
            raise OSError(error.errno, error.strerror, STDOUT) from error


class _Diagnostics(io.FileIO):
    """Standard error."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _discard(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
