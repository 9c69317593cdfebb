"""The `Table` form of objects, which kubectl asks for to print them.

Source: apimachinery pkg/apis/meta/v1/types.go, Table; apiextensions-apiserver pkg/registry/customresource/tableconvertor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sim.cluster.apimachinery import jsonpath
from sim.cluster.apimachinery.kinds import Column, KindVersion
from sim.cluster.apimachinery.problems import Json


def definitions(version: KindVersion) -> list[Json]:
    """The columns, as a Table declares them."""
    return [
        {
            "name": column.name,
            # An age is worked out here, so what the client gets is text.
            "type": "string" if column.type == "date" else column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in version.columns
    ]


def table(
    version: KindVersion, objects: Iterable[Json], metadata: Json, include: str, now: datetime, *, head: bool = True
) -> Json:
    """A Table of `objects`. `include` is what each row holds of its object: ``Metadata``, ``Object`` or ``None``."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions(version) if head else None,
        "rows": [_row(version, obj, include, now) for obj in objects],
    }


def _row(version: KindVersion, obj: Json, include: str, now: datetime) -> Json:
    row: Json = {"cells": [cell(column, obj, now) for column in version.columns]}
    if include == "Object":
        row["object"] = obj
    elif include != "None":
        row["object"] = partial(obj)
    return row


def partial(obj: Json) -> Json:
    """The object's PartialObjectMetadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def cell(column: Column, obj: Json, now: datetime) -> Any:
    """What a column shows of an object."""
    if column.value is not None:
        return column.value(obj)
    found = jsonpath.compiled(column.path)(obj)
    if not found or found == [None]:
        return "<unknown>" if column.type == "date" else None
    if column.type == "date":
        return age(str(found[0]), now)
    if column.type in ("integer", "number", "boolean"):
        return found[0]
    # Of several the first: apiextensions-apiserver pkg/registry/customresource/tableconvertor/tableconvertor.go.
    return found[0] if isinstance(found[0], str) else json.dumps(found[0], separators=(",", ":"))


def age(timestamp: str, now: datetime) -> str:
    """How long ago that was: ``5s``, ``3m12s``, ``2h``. Source: apimachinery pkg/util/duration, HumanDuration."""
    try:
        then = datetime.fromisoformat(timestamp)
    except ValueError:
        return "<unknown>"
    seconds = int((now - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds())
    if seconds < -1:
        return "<invalid>"
    seconds = max(seconds, 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m" + (f"{seconds % 60}s" if seconds % 60 else "")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h" + (f"{minutes % 60}m" if minutes % 60 else "")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d" + (f"{hours % 24}h" if hours % 24 else "")
    return f"{days}d" if days < 730 else f"{days // 365}y"
