"""Server-side apply of what is wanted, and no request for what is there already."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from core.errors import ApiError
from core.kube import Json, KubeApi, Resource

log = logging.getLogger(__name__)

Target = tuple[str, str, str, str | None]
"""(plural, namespace, name, subresource)."""


class Applier:
    """Applies objects with one field manager. It remembers what it applied last, because a field that is no longer wanted cannot be
    seen in the object as it is; a new process applies everything once.
    """

    def __init__(self, kube: KubeApi, field_manager: str) -> None:
        self._kube = kube
        self._field_manager = field_manager
        self._applied: dict[Target, Json] = {}

    def apply(
        self,
        resource: Resource,
        wanted: Json,
        current: Json | None,
        subresource: str | None = None,
        *,
        stored: Callable[[Json], None] | None = None,
    ) -> bool:
        """Makes the fields of `wanted` so, when `current` differs from them or `wanted` from what was applied last.

        Returns whether a request was made; `stored` is called with what the API answered. An object that has gone meanwhile is nothing
        to apply a subresource to.

        Raises:
            ApiError: the API refused.
        """
        metadata = wanted["metadata"]
        target = (resource.plural, metadata.get("namespace", ""), metadata["name"], subresource)
        if current is not None and self._applied.get(target) == wanted and covers(current, wanted):
            return False
        try:
            answer = self._kube.apply(resource, wanted, field_manager=self._field_manager, subresource=subresource)
        except ApiError as error:
            if error.code == 404 and subresource is not None:
                self._applied.pop(target, None)
                return True
            raise
        self._applied[target] = wanted
        if stored is not None:
            stored(answer)
        log.debug("applied", extra={"object": "/".join(map(str, target))})
        return True

    def apply_changed(self, resource: Resource, wanted: Json, subresource: str | None = None) -> bool:
        """The same for fields that nobody else writes and that the object need not be looked at for: applied when `wanted` differs from
        what was applied last."""
        return self.apply(resource, wanted, wanted, subresource)

    def forget(self, resource: Resource, namespace: str, name: str) -> None:
        """The object is gone: what was applied to it means nothing any more."""
        for subresource in (None, "status"):
            self._applied.pop((resource.plural, namespace, name, subresource), None)


def covers(current: Any, wanted: Any) -> bool:
    """Whether `current` holds every field of `wanted` with its value; servers add fields, but no elements of lists.

    An empty list or map is the same as none: the API server gives back null, or nothing, for what is stored as an empty one.
    """
    if current is None and isinstance(wanted, dict | list):
        return not wanted
    if isinstance(wanted, dict):
        return isinstance(current, dict) and all(
            covers(current[key], v) if key in current else v in ({}, []) for key, v in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(current, list)
            and len(current) == len(wanted)
            and all(covers(one, other) for one, other in zip(current, wanted, strict=True))
        )
    return bool(current == wanted)
