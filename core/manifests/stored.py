"""Lists in the status of an object as it stands, whoever wrote it: what does not look as it should is not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.kube import Json


def elements(holder: Mapping[str, Any], key: str) -> list[Json]:
    """The objects in the list `key`."""
    found = holder.get(key)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def named(holder: Mapping[str, Any], key: str, name: str) -> dict[str, Json]:
    """The objects in the list `key`, by the text in their field `name`; of several, the last."""
    return {item[name]: item for item in elements(holder, key) if isinstance(item.get(name), str)}
