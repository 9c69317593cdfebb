"""Three ways to change an object by a patch: merge (RFC 7386), JSON patch (RFC 6902), strategic merge.

Each returns a new value and changes neither the object nor the patch.
"""

from __future__ import annotations

from typing import Any

from sim.cluster.apimachinery.problems import Json
from sim.cluster.apimachinery.schema import ANY, Schema, copied


class PatchError(Exception):
    """A patch that is not one (`malformed`), or that does not fit the object."""

    def __init__(self, message: str, *, malformed: bool = False) -> None:
        super().__init__(message)
        self.malformed = malformed


def merge_patch(target: Any, patch: Any) -> Any:
    """The target after the patch. Source: RFC 7386 section 2, MergePatch."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def json_patch(target: Any, operations: Any) -> Any:
    """The target after all operations. Source: RFC 6902 section 4.

    Raises:
        PatchError: an operation that is not one, a path that is not there, a test that fails.
    """
    if not isinstance(operations, list):
        raise PatchError("a JSON patch is a list of operations", malformed=True)
    document = copied(target)
    for operation in operations:
        if not isinstance(operation, dict) or "op" not in operation or not isinstance(operation.get("path"), str):
            raise PatchError(f"an operation needs op and path: {operation}", malformed=True)
        document = _operate(document, operation)
    return document


def _operate(document: Any, operation: Json) -> Any:
    path = _tokens(operation["path"])
    match operation["op"]:
        case "add":
            return _add(document, path, copied(_value(operation)))
        case "remove":
            return _remove(document, path, operation["path"])[0]
        case "replace":
            return _replace(document, path, operation)
        case "move":
            rest, moved = _remove(document, _tokens(operation.get("from", "")), operation.get("from", ""))
            return _add(rest, path, moved)
        case "copy":
            return _add(
                document, path, copied(_find(document, _tokens(operation.get("from", "")), operation.get("from", "")))
            )
        case "test":
            if _find(document, path, operation["path"], missing_is_null=True) != operation.get("value"):
                raise PatchError(f"testing value {operation['path']} failed: test failed")
            return document
        case other:
            raise PatchError(f"Unexpected kind: {other}")


def _replace(document: Any, path: list[str], operation: Json) -> Any:
    value = copied(_value(operation))
    if not path:
        return value
    parent = _find(document, path[:-1], operation["path"])
    if isinstance(parent, list):
        parent[_index(parent, path[-1], operation["path"], len(parent) - 1)] = value
        return document
    # The real server takes a field that is not there too, against RFC 6902 section 4.3.
    return _add(document, path, value)


def _value(operation: Json) -> Any:
    if "value" not in operation:
        raise PatchError(f"operation {operation['op']} at {operation['path']} needs a value", malformed=True)
    return operation["value"]


def _tokens(pointer: str) -> list[str]:
    """The reference tokens of a JSON pointer. Source: RFC 6901 section 4."""
    if pointer == "":
        return []
    if not pointer.startswith("/"):
        raise PatchError(f"path {pointer!r} does not start with /", malformed=True)
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/")]


def _step(node: Any, token: str, pointer: str) -> Any:
    if isinstance(node, dict) and token in node:
        return node[token]
    if isinstance(node, list):
        return node[_index(node, token, pointer, len(node) - 1)]
    raise PatchError(f"path {pointer!r} is not in the object: missing value at {token!r}")


def _index(node: list[Any], token: str, pointer: str, last: int) -> int:
    if not token.lstrip("-").isdigit() or not 0 <= int(token) <= last:
        raise PatchError(f"path {pointer!r} is not in the object: {token!r} is not an index of a list of {len(node)}")
    return int(token)


def _find(document: Any, path: list[str], pointer: str, *, missing_is_null: bool = False) -> Any:
    node = document
    for position, token in enumerate(path):
        if missing_is_null and position == len(path) - 1 and isinstance(node, dict) and token not in node:
            return None
        node = _step(node, token, pointer)
    return node


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    pointer = "/" + "/".join(path)
    parent = _find(document, path[:-1], pointer)
    if isinstance(parent, dict):
        parent[path[-1]] = value
    elif isinstance(parent, list):
        at = len(parent) if path[-1] == "-" else _index(parent, path[-1], pointer, len(parent))
        parent.insert(at, value)
    else:
        raise PatchError(f"path {pointer!r} is not in the object: its parent holds no fields")
    return document


def _remove(document: Any, path: list[str], pointer: str) -> tuple[Any, Any]:
    if not path:
        raise PatchError("the whole object cannot be removed")
    parent = _find(document, path[:-1], pointer)
    removed = _step(parent, path[-1], pointer)
    if isinstance(parent, dict):
        del parent[path[-1]]
    else:
        del parent[int(path[-1])]
    return document, removed


def strategic_merge(target: Any, patch: Any, schema: Schema) -> Any:
    """The target after a strategic merge patch, with the merge keys of `schema`.

    The directives ``$patch`` (replace, delete, merge), ``$retainKeys``, ``$deleteFromPrimitiveList`` and ``$setElementOrder`` work.
    Source: kubernetes/community contributors/devel/sig-api-machinery/strategic-merge-patch.md.

    Raises:
        PatchError: an item without its merge key.
    """
    if not isinstance(patch, dict):
        return patch
    directive = patch.get("$patch")
    if directive == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    if directive == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    retained = patch.get("$retainKeys")
    if retained is not None:
        result = {name: value for name, value in result.items() if name in retained}
    for name, value in patch.items():
        if name.startswith("$setElementOrder/") and name.partition("/")[2] not in patch:
            name, value = name.partition("/")[2], []
            if not isinstance(result.get(name), list):
                continue
        if name.startswith("$"):
            continue
        child = schema.child(name) or ANY
        if value is None:
            result.pop(name, None)
        elif isinstance(value, list):
            result[name] = _merge_list(result.get(name), value, child, patch.get(f"$setElementOrder/{name}"))
        else:
            result[name] = strategic_merge(result.get(name), value, child)
    _delete_primitives(result, patch)
    return result


def _merge_list(target: Any, patch: list[Any], schema: Schema, order: list[Any] | None) -> list[Any]:
    key = schema.merge_key
    old = list(target) if isinstance(target, list) else []
    if key is None:
        return [one for one in patch if not (isinstance(one, dict) and "$patch" in one)]
    if key == "":
        merged = old + [one for one in patch if one not in old]
        return _ordered(merged, patch if order is None else order, old, key)
    items = schema.items or ANY
    if {"$patch": "replace"} in patch:
        return [one for one in patch if one != {"$patch": "replace"}]
    merged = list(old)
    for one in patch:
        if not isinstance(one, dict) or key not in one:
            raise PatchError(f"map: {one} does not contain declared merge key: {key}")
        at = next((index for index, mine in enumerate(merged) if mine.get(key) == one[key]), None)
        if one.get("$patch") == "delete":
            if at is not None:
                del merged[at]
        elif at is not None:
            merged[at] = strategic_merge(merged[at], one, items)
        else:
            merged.append(strategic_merge({}, one, items))
    return _ordered(merged, patch if order is None else order, old, key)


def _delete_primitives(result: Json, patch: Json) -> None:
    for name, values in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            field = name.partition("/")[2]
            result[field] = [one for one in result.get(field) or [] if one not in values]


def _ordered(merged: list[Any], patch: list[Any], server: list[Any], key: str) -> list[Any]:
    """The items of the patch in its order, and between them those that only the server has, by the server's order.

    Source: apimachinery pkg/util/strategicpatch/patch.go, normalizeElementOrder and mergeSortedSlice.
    """
    wanted = [_identity(one, key) for one in patch]
    places = [_identity(one, key) for one in server]
    right = sorted(
        (one for one in merged if _identity(one, key) in wanted), key=lambda one: wanted.index(_identity(one, key))
    )
    left = [one for one in merged if _identity(one, key) not in wanted]
    result: list[Any] = []
    while left and right:
        mine, theirs = _identity(left[0], key), _identity(right[0], key)
        before = mine in places and theirs in places and places.index(mine) < places.index(theirs)
        result.append(left.pop(0) if before else right.pop(0))
    return result + left + right


def _identity(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else item
