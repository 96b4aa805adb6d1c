"""Request bodies: bytes to checked values, with a sentence for each thing that can be wrong."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterable
from typing import Any

import orjson
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

from stackd.errors import InvalidRequest, RequestTooLarge

SENTENCE_IDS = "stack_ids must be a list of stack ids"
ID_LIMIT = 253


async def read(request: web.Request, max_body: int, timeout: float) -> bytes:
    """The whole body. Raises RequestTooLarge (``server.max_body``), InvalidRequest where it is not valid HTTP, or
    HTTPRequestTimeout (``limits.slow_client_timeout``).
    """
    if request.content_length is not None and request.content_length > max_body:
        raise RequestTooLarge(_too_large(max_body))
    try:
        async with asyncio.timeout(timeout):
            await _go_on(request)
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except (RequestPayloadError, HttpProcessingError) as exc:
        raise InvalidRequest("the request body is not valid HTTP: its encoding or its length is wrong") from exc
    except web.HTTPRequestEntityTooLarge as exc:
        raise RequestTooLarge(_too_large(max_body)) from exc


async def _go_on(request: web.Request) -> None:
    """Tell a client that waits for it (``Expect: 100-continue``) to send its body."""
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and not request.content.is_eof():
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun


def _too_large(max_body: int) -> str:
    return f"the request body is larger than {max_body} bytes (server.max_body)"


def parse_object(body: bytes, known: Iterable[str], required: Iterable[str]) -> dict[str, Any]:
    """The body as a JSON object with only known fields and all required ones, whatever its Content-Type said."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"invalid request body: not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise InvalidRequest("invalid request body: a JSON object is expected")
    known = list(known)
    for name in value:
        if name not in known:
            raise InvalidRequest(f"invalid request body: unknown field {name!r}{_nearest(name, known)}")
    for name in required:
        if value.get(name) is None:
            raise InvalidRequest(f"invalid request body: {name} is required")
    return value


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def text(fields: dict[str, Any], name: str) -> str:
    """A field that must be a string."""
    value = fields[name]
    if not isinstance(value, str):
        raise InvalidRequest(f"invalid request body: {name} must be a string")
    return value


def stack_ids(fields: dict[str, Any], max_ids: int) -> list[str]:
    """The ids of a batch delete: trimmed, each once, in the order given; at least one, none of them blank."""
    values = fields["stack_ids"]
    if not isinstance(values, list):
        raise InvalidRequest(f"invalid request body: {SENTENCE_IDS}")
    if not values:
        raise InvalidRequest("invalid request body: stack_ids is empty")
    if len(values) > max_ids:
        raise RequestTooLarge(f"{len(values)} stack_ids; {max_ids} at most (batch_delete.max_ids)")
    ids: dict[str, None] = {}
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise InvalidRequest(f"invalid request body: stack_ids[{index}] must be a string")
        trimmed = value.strip()
        if not trimmed:
            raise InvalidRequest(f"invalid request body: stack_ids[{index}] is blank")
        if len(trimmed) > ID_LIMIT:
            raise InvalidRequest(f"invalid request body: stack_ids[{index}] is longer than {ID_LIMIT} characters")
        ids[trimmed] = None
    return list(ids)
