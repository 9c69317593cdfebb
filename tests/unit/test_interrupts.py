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


AT_THE_END = """
import signal, weakref, time
from scenarios.interrupts import delivered

class Pool: pass

interrupts = 0
try:
    with delivered():
        pool = Pool()
        weakref.finalize(pool, signal.raise_signal, signal.SIGINT)
        del pool
except KeyboardInterrupt:
    interrupts += 1
for _ in range(10):
    try:
        time.sleep(0.05)
    except KeyboardInterrupt:
        interrupts += 1
print(interrupts)
"""


def test_an_interrupt_that_is_lost_at_the_very_end_comes_once() -> None:
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_other_errors_in_finalizers_are_still_told() -> None:
    command = COMMAND.replace("signal.raise_signal, signal.SIGINT", "int, 'x'").replace(".wait(90)", ".wait(0)")
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0
    assert "ValueError: invalid literal" in done.stderr
