"""What the server answers when it refuses: Status objects with the real server's codes, reasons and messages.

Source: k8s.io/apimachinery pkg/api/errors/errors.go and pkg/util/validation/field/errors.go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One reason why an object is refused; `detail` is the message without the field."""

    reason: str
    field: str
    detail: str

    def __str__(self) -> str:
        return f"{self.field}: {self.detail}"


class StatusError(Exception):
    """A request that is refused. `status` is the body of the answer."""

    def __init__(self, code: int, reason: str, message: str, *, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    @property
    def status(self) -> Json:
        """The Status object, as JSON."""
        body: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        if self.details is not None:
            body["details"] = self.details
        return {**body, "code": self.code}


def success(name: str, group: str, plural: str, uid: str) -> Json:
    """The Status that answers a delete when the object is gone."""
    details = {"name": name, **({"group": group} if group else {}), "kind": plural, "uid": uid}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def qualified(group: str, plural: str) -> str:
    """``plural.group``, or ``plural`` in the core group."""
    return f"{plural}.{group}" if group else plural


def _details(name: str, group: str, kind: str) -> Json:
    return {**({"name": name} if name else {}), **({"group": group} if group else {}), "kind": kind}


def not_found(group: str, plural: str, name: str) -> StatusError:
    return StatusError(
        404, "NotFound", f'{qualified(group, plural)} "{name}" not found', details=_details(name, group, plural)
    )


def already_exists(group: str, plural: str, name: str) -> StatusError:
    return StatusError(
        409,
        "AlreadyExists",
        f'{qualified(group, plural)} "{name}" already exists',
        details=_details(name, group, plural),
    )


def conflict(group: str, plural: str, name: str, why: str = "") -> StatusError:
    """409; by default because the object has another resourceVersion by now."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {qualified(group, plural)} "{name}": {why}'
    return StatusError(409, "Conflict", message, details=_details(name, group, plural))


def forbidden(group: str, plural: str, name: str, why: str, causes: Sequence[Cause] = ()) -> StatusError:
    named = f' "{name}"' if name else ""
    details = _details(name, group, plural)
    if causes:
        details["causes"] = [_cause_json(cause) for cause in causes]
    return StatusError(403, "Forbidden", f"{qualified(group, plural)}{named} is forbidden: {why}", details=details)


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def page_not_found() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource", details={})


def method_not_allowed() -> StatusError:
    message = "the server does not allow this method on the requested resource"
    return StatusError(405, "MethodNotAllowed", message, details={})


def unsupported_media_type(accepted: Iterable[str]) -> StatusError:
    message = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted)
    return StatusError(415, "UnsupportedMediaType", message)


def not_acceptable(accepted: Iterable[str]) -> StatusError:
    message = "406: Not Acceptable\n\nAvailable representations: " + ", ".join(accepted)
    return StatusError(406, "NotAcceptable", message, details={})


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def expired(message: str) -> StatusError:
    return StatusError(410, "Expired", message)


def version_too_large(asked: int, current: int) -> StatusError:
    """A list at a version that does not exist yet: 504, try again in a second."""
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return StatusError(504, "Timeout", message, details={"causes": [cause], "retryAfterSeconds": 1})


def _cause_json(cause: Cause) -> Json:
    return {"reason": cause.reason, "message": cause.detail, "field": cause.field}


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> StatusError:
    """422 with its causes. `kind` is the object's kind, not the plural."""
    texts = list(dict.fromkeys(str(cause) for cause in causes))
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = {**_details(name, group, kind), "causes": [_cause_json(cause) for cause in causes]}
    return StatusError(422, "Invalid", f'{qualified(group, kind)} "{name}" is invalid: {listed}', details=details)


def shown(value: Any) -> str:
    """A value as field errors print it: strings quoted, the rest as JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def required(field: str, detail: str = "") -> Cause:
    return Cause(reason="FieldValueRequired", field=field, detail="Required value" + (f": {detail}" if detail else ""))


def invalid_value(field: str, value: Any, detail: str) -> Cause:
    return Cause(reason="FieldValueInvalid", field=field, detail=f"Invalid value: {shown(value)}: {detail}")


def wrong_type(field: str, value: Any, detail: str) -> Cause:
    return Cause(reason="FieldValueTypeInvalid", field=field, detail=f"Invalid value: {shown(value)}: {detail}")


def unsupported(field: str, value: Any, supported: Iterable[Any]) -> Cause:
    values = ", ".join(shown(one if isinstance(one, str) else shown(one)) for one in supported)
    detail = f"Unsupported value: {shown(value)}: supported values: {values}"
    return Cause(reason="FieldValueNotSupported", field=field, detail=detail)


def forbidden_field(field: str, detail: str) -> Cause:
    return Cause(reason="FieldValueForbidden", field=field, detail=f"Forbidden: {detail}")


def duplicate(field: str, value: Any) -> Cause:
    return Cause(reason="FieldValueDuplicate", field=field, detail=f"Duplicate value: {shown(value)}")


def too_long(field: str, limit: int) -> Cause:
    return Cause(reason="FieldValueTooLong", field=field, detail=f"Too long: may not be more than {limit} bytes")


def too_many(field: str, actual: int, limit: int) -> Cause:
    items = "item" if limit == 1 else "items"
    return Cause(
        reason="FieldValueTooMany", field=field, detail=f"Too many: {actual}: must have at most {limit} {items}"
    )
