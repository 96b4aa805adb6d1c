"""Errors as answers: one table from exception to status, and the one form that every error has.

The form is ``{"error": "<sentence>"}`` (design, section 1).
"""

from __future__ import annotations

import logging

import orjson
from aiohttp import web

from stackd import errors

log = logging.getLogger(__name__)

STATUSES: dict[type[BaseException], int] = {
    errors.InvalidRequest: 400,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.RequestTooLarge: 413,
    errors.IdempotencyKeyReused: 422,
    errors.TooManyRequests: 429,
    errors.Unavailable: 503,
}

INTERNAL = 500
SENTENCES = {404: "no such route", 408: "the request did not arrive in time", INTERNAL: "internal server error"}
ERROR_LIMIT = 4096
JSON = "application/json"


def status_of(error: BaseException) -> int:
    """The HTTP status of an error; 500 for what the table does not know."""
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    return INTERNAL


def problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> web.Response:
    """An error answer."""
    body = orjson.dumps({"error": sentence[:ERROR_LIMIT]})
    return web.Response(status=status, body=body, content_type=JSON, headers=headers)


def problem_of(error: BaseException) -> web.Response:
    """The answer to an error that ended a request; what the table does not know is logged here, and only here."""
    if isinstance(error, web.HTTPException):
        return _from_aiohttp(error)
    status = status_of(error)
    if status == INTERNAL:
        log.error("a request failed unexpectedly", exc_info=error)
        return problem(INTERNAL, SENTENCES[INTERNAL])
    if isinstance(error, errors.LabelLimitReached):
        return _with_existing(status, error)
    headers = {}
    if isinstance(error, errors.Unavailable | errors.TooManyRequests):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "ApiKey"
    return problem(status, str(error), headers)


def _with_existing(status: int, error: errors.LabelLimitReached) -> web.Response:
    body = orjson.dumps({"error": str(error)[:ERROR_LIMIT], "stack_id": error.stack_id})
    return web.Response(status=status, body=body, content_type=JSON)


def _from_aiohttp(error: web.HTTPException) -> web.Response:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return problem(413, "the request body is too large")
    return problem(error.status, SENTENCES.get(error.status, error.reason.lower()))
