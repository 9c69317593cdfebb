"""Options that several commands have."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with examples under its help."""
    return argparse.ArgumentParser(
        prog=f"tidegate {name}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_manifests(to: argparse.ArgumentParser) -> None:
    """-f FILE..., at least one."""
    to.add_argument(
        "-f",
        "--filename",
        dest="files",
        metavar="FILE",
        type=Path,
        nargs="+",
        action="extend",
        required=True,
        help="manifests; of two objects with one name the later counts; - is standard input",
    )
    to.add_argument("--no-assumed-pods", action="store_true", help="plan with the Pods in the files only")


def write_json(value: Any) -> None:
    """One JSON object on stdout."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
