"""Logs: one JSON object a line on stderr, for machines to read and people to grep.

Keys: ``ts`` (RFC 3339, UTC), ``level``, ``logger``, ``msg``, then whatever was given as ``extra``. Nothing in a message depends on the
occasion; what does is a field: ``log.info("BIRD runs", extra={"pid": 7})``.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON. Values that JSON cannot hold are written as ``str`` gives them, a Secret redacted."""

    def __init__(self, **constant: str) -> None:
        super().__init__()
        self._constant = constant

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            **self._constant,
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _OWN_ATTRIBUTES)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logs(component: str, *, level: str = "info", stream: TextIO | None = None) -> None:
    """Sends the logs of the whole process to `stream` (stderr), each line with the name of the component.

    Libraries are heard from WARNING on: what they do in detail is not the operator's business.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(component=component))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for package in ("core", "live"):
        logging.getLogger(package).setLevel(level.upper())
