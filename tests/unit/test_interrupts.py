"""Ctrl-C at the worst moment: while an object is being finalised."""

from __future__ import annotations

import subprocess
import sys

COMMAND = """
import signal, sys, threading, weakref
import scenarios.commands.list as command
from scenarios import cli

class Pool: pass

def until_interrupted(arguments):
    pool = Pool()
    weakref.finalize(pool, signal.raise_signal, signal.SIGINT)
    del pool
    print("goes on", flush=True)
    threading.Event().wait(90)
    return 0

command.main = until_interrupted
sys.exit(cli.main(["list"]))
"""


def test_an_interrupt_in_a_finalizer_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (130, "tidegate: interrupted\n")


def test_other_errors_in_finalizers_are_still_told() -> None:
    command = COMMAND.replace("signal.raise_signal, signal.SIGINT", "int, 'x'").replace(".wait(90)", ".wait(0)")
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0
    assert "ValueError: invalid literal" in done.stderr
