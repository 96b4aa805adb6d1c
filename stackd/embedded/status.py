"""The refusals of the API as exceptions, each with the Status body of Kubernetes. Uses no HTTP library.

Each has a function that creates it: bad_request, unauthorized, forbidden, not_found, already_exists, conflict,
invalid, …
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from stackd.embedded.resources import Json, Resource


class StatusError(Exception):
    """A refusal: an HTTP code and its Status."""

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers: dict[str, str] = {}
        self.metadata: Json = {}

    def status(self) -> Json:
        """The Status object."""
        body: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        if self.details is not None:
            body["details"] = self.details
        body["code"] = self.code
        return body

    def body(self) -> bytes:
        """The Status object as JSON."""
        return orjson.dumps(self.status())


@dataclass(frozen=True, slots=True)
class StatusCause:
    """One thing that is wrong with a field of an object."""

    field: str
    reason: str
    message: str


def required(field: str, detail: str = "") -> StatusCause:
    """The field is required."""
    return StatusCause(field, "FieldValueRequired", "Required value" + (f": {detail}" if detail else ""))


def wrong(field: str, value: object, detail: str) -> StatusCause:
    """The field's value is invalid."""
    shown = orjson.dumps(value).decode()
    return StatusCause(field, "FieldValueInvalid", f"Invalid value: {shown}: {detail}")


def duplicate(field: str, value: object) -> StatusCause:
    """The value is a duplicate."""
    return StatusCause(field, "FieldValueDuplicate", f"Duplicate value: {orjson.dumps(value).decode()}")


def unsupported(field: str, value: object, supported: tuple[str, ...]) -> StatusCause:
    """The value is not one of the supported ones."""
    choices = ", ".join(f'"{choice}"' for choice in sorted(supported))
    message = f"Unsupported value: {orjson.dumps(value).decode()}: supported values: {choices}"
    return StatusCause(field, "FieldValueNotSupported", message)


def not_allowed(field: str, detail: str) -> StatusCause:
    """The field may not be set, or not to this value."""
    return StatusCause(field, "FieldValueForbidden", f"Forbidden: {detail}")


def invalid(resource: Resource, name: str, causes: list[StatusCause]) -> StatusError:
    """422: the object is invalid, with a cause for each field."""
    texts = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes))
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = _details(name, resource, resource.kind)
    details["causes"] = [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes]
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    return StatusError(422, "Invalid", f'{kind} "{name}" is invalid: {listed}', details)


def bad_request(message: str) -> StatusError:
    """400."""
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    """401."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(resource: Resource, name: str, message: str, causes: list[Json] | None = None) -> StatusError:
    """403: admission refuses the object."""
    details = _details(name, resource)
    if causes:
        details["causes"] = causes
    subject = f'{resource.qualified} "{name}"' if name else resource.qualified
    return StatusError(403, "Forbidden", f"{subject} is forbidden: {message}", details)


def not_found(resource: Resource, name: str) -> StatusError:
    """404 for an object."""
    return StatusError(404, "NotFound", f'{resource.qualified} "{name}" not found', _details(name, resource))


def no_such_path() -> StatusError:
    """404 for a resource that is not served."""
    return StatusError(404, "NotFound", "the server could not find the requested resource", {})


def method_not_allowed() -> StatusError:
    """405."""
    message = "the server does not allow this method on the requested resource"
    return StatusError(405, "MethodNotAllowed", message, {})


def already_exists(resource: Resource, name: str) -> StatusError:
    """409: the name is taken."""
    message = f'{resource.qualified} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, _details(name, resource))


def conflict(resource: Resource, name: str, message: str, *, kind: str | None = None) -> StatusError:
    """409: a precondition does not hold."""
    subject = f"{kind}.{resource.group}" if kind and resource.group else kind or resource.qualified
    full = f'Operation cannot be fulfilled on {subject} "{name}": {message}'
    return StatusError(409, "Conflict", full, _details(name, resource, kind))


def expired(message: str) -> StatusError:
    """410: the requested version is too old."""
    return StatusError(410, "Expired", message)


def unsupported_media_type(message: str) -> StatusError:
    """415."""
    return StatusError(415, "UnsupportedMediaType", message)


def injected(code: int, retry_after: float) -> StatusError:
    """The response of a failing server (fault `status`)."""
    reasons = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}
    messages = {
        429: "Too many requests, please try again later.",
        500: "Internal error occurred: injected",
        503: "the server is currently unable to handle the request",
    }
    message = messages.get(code, "injected failure")
    details = {"retryAfterSeconds": int(retry_after)} if retry_after else None
    error = StatusError(code, reasons.get(code, ""), message, details)
    if retry_after:
        error.headers["Retry-After"] = str(int(retry_after))
    return error


def _details(name: str, resource: Resource, kind: str | None = None) -> Json:
    details = {"name": name, "group": resource.group, "kind": kind or resource.plural}
    return {key: value for key, value in details.items() if value}
