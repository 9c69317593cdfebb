"""Lists: selected, paged, at a version.

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Retrieving large results sets in chunks", "Resource versions".
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from sim.cluster.apimachinery import problems
from sim.cluster.apimachinery.problems import Json
from sim.cluster.apimachinery.selectors import Test
from sim.cluster.apimachinery.store import Collection, CompactedError, Name, Record, Store

_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue "
    "parameter."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """What a list asks for; `limit` 0 is no limit."""

    namespace: str | None = None
    selected: Test | None = None
    limit: int = 0
    continue_at: str = ""
    resource_version: str = ""
    version_match: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list, and the ListMeta that goes with it."""

    records: list[Record]
    metadata: Json


def page(store: Store, collection: Collection, query: ListQuery) -> Page:
    """The objects that a list asks for.

    Raises:
        StatusError: 400 for a query that cannot be; 410 for a version, or a page, of too long ago; 504 for a version still to come.
    """
    version, start = store.version, None
    records = collection.records
    try:
        if query.continue_at:
            if query.resource_version:
                raise problems.bad_request("specifying resource version is not allowed when using continue")
            version, start = _token(query.continue_at)
            records = collection.as_of(version)
        elif query.resource_version not in ("", "0"):
            asked = version_number(query.resource_version)
            if asked > store.version:
                raise problems.version_too_large(asked, store.version)
            if query.version_match == "Exact" or (query.limit and not query.version_match):
                version, records = asked, collection.as_of(asked)
    except CompactedError as error:
        if query.continue_at:
            raise problems.expired(_TOO_OLD) from error
        raise problems.expired("The resourceVersion for the provided list is too old.") from error
    names = sorted(name for name in records if query.namespace is None or name[0] == query.namespace)
    if start is not None:
        names = [name for name in names if name >= start]
    return _cut(records, names, version, query)


def _cut(records: dict[Name, Record], names: list[Name], version: int, query: ListQuery) -> Page:
    found: list[Record] = []
    for position, name in enumerate(names):
        record = records[name]
        if query.selected is not None and not query.selected(record.obj):
            continue
        if query.limit and len(found) == query.limit:
            metadata: Json = {"resourceVersion": str(version), "continue": _encode(version, name)}
            if query.selected is None:
                metadata["remainingItemCount"] = len(names) - position
            return Page(found, metadata)
        found.append(record)
    return Page(found, {"resourceVersion": str(version)})


def version_number(text: str) -> int:
    """A resourceVersion as a number.

    Raises:
        StatusError: 400 when it is none.
    """
    if not text.isdigit():
        cause = problems.invalid_value("resourceVersion", text, f'strconv.ParseUint: parsing "{text}": invalid syntax')
        raise problems.bad_request(f"invalid resource version: {cause}")
    return int(text)


def _encode(version: int, name: Name) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": list(name)}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _token(text: str) -> tuple[int, Name]:
    try:
        token = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        namespace, name = token["start"]
        return int(token["rv"]), (str(namespace), str(name))
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise problems.bad_request(f"invalid continue token: continue key is not valid: {error}") from error
