"""The imitated Kubernetes API server, as a process.

    python -m sim.cluster.apiserver --listen 127.0.0.1:8001 --kubeconfig-out kubeconfig

It keeps everything in memory and starts empty. It is ready when the kubeconfig file appears (whole, by a rename), when the
line ``ready`` has been written to the file descriptor of ``--ready-fd``, and when ``/readyz`` answers. SIGTERM and SIGINT stop
it. It logs JSON lines on stderr.

Fidelity: the API as clients see it, admission, validation and storage included. Not imitated: authorisation, webhooks, CEL rules
(``x-kubernetes-validations``), conversion of CRDs by webhook, answers in protobuf; `docs/imitated-api-server.md` has the whole table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.garbage import GarbageCollector
from sim.cluster.apimachinery.cluster import Cluster
from sim.cluster.apimachinery.faults import Faults
from sim.cluster.apimachinery.http import Service
from sim.cluster.apimachinery.listening import Listening
from sim.cluster.apimachinery.store import Store
from sim.cluster.apimachinery.writes import Sources

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""No vowels, so no words. Source: apimachinery pkg/util/rand/rand.go."""

COLLECT_S = 0.2
"""Between two looks for garbage among what is new. Python by itself walks through all objects at times: 100 ms with 1,000 Pods."""


def log(event: str, **fields: Any) -> None:
    """Writes one event as a line of JSON on stderr."""
    line = {"ts": round(time.time(), 6), "component": "apiserver", "event": event, **fields}
    sys.stderr.write(json.dumps(line, separators=(",", ":")) + "\n")
    sys.stderr.flush()


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sim.cluster.apiserver", description="The imitated Kubernetes API server."
    )
    parser.add_argument("--listen", default="127.0.0.1:8001", metavar="HOST:PORT", help="port 0 takes a free one")
    parser.add_argument("--kubeconfig-out", type=Path, metavar="FILE", help="written when the server is ready")
    parser.add_argument("--ready-fd", type=int, metavar="N", help="a file descriptor that gets the line 'ready'")
    parser.add_argument("--token", default="", help="a bearer token that every request must carry")
    parser.add_argument("--allow-faults", action="store_true", help="serve /tidegate/faults")
    parser.add_argument(
        "--bookmark-interval-s", type=float, default=60.0, metavar="S", help="between bookmarks of a watch"
    )
    parser.add_argument(
        "--keep-changes", type=int, default=20_000, metavar="N", help="of each resource, for watches from the past"
    )
    return parser


def kubeconfig(url: str, token: str) -> str:
    """A kubeconfig for the server, as JSON, which is YAML too."""
    user = {"token": token} if token else {}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tidegate",
        "clusters": [{"name": "tidegate", "cluster": {"server": url}}],
        "users": [{"name": "tidegate", "user": user}],
        "contexts": [
            {"name": "tidegate", "context": {"cluster": "tidegate", "user": "tidegate", "namespace": "default"}}
        ],
        "preferences": {},
    }
    return json.dumps(config, indent=2) + "\n"


def _sources() -> Sources:
    randomness = random.SystemRandom()
    return Sources(
        now=lambda: datetime.now(UTC),
        uid=lambda: str(uuid.uuid4()),
        suffix=lambda: "".join(randomness.choice(_ALPHABET) for _ in range(5)),
    )


def _announce(options: argparse.Namespace, url: str) -> None:
    if options.kubeconfig_out is not None:
        path: Path = options.kubeconfig_out
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(kubeconfig(url, options.token))
        unfinished.replace(path)
    if options.ready_fd is not None:
        os.write(options.ready_fd, b"ready\n")
        os.close(options.ready_fd)


async def serve(options: argparse.Namespace) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        OSError: the address cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    settling = False

    garbage = GarbageCollector()

    def settle() -> None:
        nonlocal settling
        settling = False
        cluster.settle()

    def collect() -> None:
        garbage.collect(loop.time())
        loop.call_later(COLLECT_S, collect)

    def wanted() -> None:
        # Once for all that a request leaves to do, and after its answer.
        nonlocal settling
        if not settling:
            settling = True
            loop.call_soon(settle)

    cluster = Cluster(_sources(), wanted, Store(keep_changes=options.keep_changes))
    service = Service(
        cluster=cluster,
        log=log,
        token=options.token,
        bookmark_interval_s=options.bookmark_interval_s,
        faults=Faults() if options.allow_faults else None,
    )
    host, _, port = options.listen.rpartition(":")
    listening = Listening(service=service, host=host.strip("[]"), port=int(port), log=log)
    await listening.start()
    service.address = listening.address
    if options.allow_faults:
        service.admin = listening.admin
    collect()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    usage = time.process_time()
    log("ready", url=f"http://{listening.address}", cpu_s=round(usage, 3), faults=options.allow_faults)
    _announce(options, f"http://{listening.address}")
    await stopped.wait()
    log("stopping", version=cluster.store.version)
    await listening.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the process. Returns its exit code: 2 when the command line or the address is no good."""
    parser = arguments()
    options = parser.parse_args(argv)
    host, found, port = options.listen.rpartition(":")
    if not found or not host or not port.isdigit() or int(port) > 65535:
        parser.error(f"--listen: found {options.listen!r}, expected HOST:PORT, like 127.0.0.1:8001")
    try:
        asyncio.run(serve(options))
    except OSError as error:
        log("cannot listen", address=options.listen, error=str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
