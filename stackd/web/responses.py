"""Responses: ready JSON, JSON in pieces, and errors.

Owns: the form of an error, ``{"error": "<sentence>", "code": "<code>"}`` with the documented fields beside it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import hdrs, web

from stackd import contract, errors
from stackd.codes import ErrorCode
from stackd.contract import LONGEST_ERROR, Body
from stackd.logs import REQUEST_ID
from stackd.podspec import by_line
from stackd.web.bodies import encode

log = logging.getLogger(__name__)
request_log = logging.getLogger("stackd.request")

JSON: Final = "application/json"
SERVER_NAME: Final = "stackd"
REQUEST_ID_HEADER: Final = "X-Request-ID"
NOT_KEPT: Final = "no-store"
"""Answers hold data that needs a key, so no cache between stackd and the client may keep them."""


def set_head(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Set the headers that every answer has, unless it is being sent already.

    After a request that has chunks or offers another protocol, the connection is closed: aiohttp's parser may keep trailers as
    headers of the next request, which is another caller's behind a proxy.
    """
    if response.prepared:
        return
    headers = response.headers
    if hdrs.TRANSFER_ENCODING in request.headers or hdrs.UPGRADE in request.headers:
        response.force_close()
        headers[hdrs.CONNECTION] = "close"
    headers[REQUEST_ID_HEADER] = REQUEST_ID.get()
    headers[hdrs.SERVER] = SERVER_NAME
    headers.setdefault(hdrs.CACHE_CONTROL, NOT_KEPT)


async def begin(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Send the head of an answer whose body follows in pieces."""
    set_head(request, response)
    await response.prepare(request)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of the pages; ``tag`` changes with its bytes."""

    body: bytes
    media: str
    tag: str


def json_response(body: bytes | Body, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A body, or ready-made JSON, as an answer."""
    raw = body if isinstance(body, bytes) else encode(body)
    return web.Response(body=raw, status=status, headers=headers, content_type=JSON)


async def streamed_list(
    request: web.BaseRequest,
    first: bytes,
    entries: AsyncGenerator[bytes, None],
    end: bytes,
    *,
    compressed: bool = True,
) -> web.StreamResponse:
    """A list as JSON, sent in pieces at the reader's pace; ``compressed`` for who takes that."""
    response = web.StreamResponse()
    response.content_type = JSON
    if compressed and request.method != hdrs.METH_HEAD:  # which would get the end of an empty compressed body
        response.enable_compression()
    try:
        await begin(request, response)
        if request.method == hdrs.METH_HEAD:
            return response
        await response.write(first)
        async with aclosing(entries):
            async for piece in entries:
                await response.write(piece)
        await response.write_eof(end)
    except ConnectionError:  # the client has left
        return response
    except errors.StackdError as error:
        # Part of the answer is sent already. The connection ends without the rest, so the reader knows that it is cut.
        request_log.warning("an answer could not be sent in full: %s", error)
        if request.transport is not None:
            request.transport.abort()
    return response


def problem(code: ErrorCode, error: str, headers: dict[str, str] | None = None, **fields: Any) -> web.Response:
    """An error response; ``fields`` are further ones of ``contract.Error``."""
    fields.setdefault("player_message", code.players)
    return json_response(contract.Error(error=error[:LONGEST_ERROR], code=code, **fields), code.status, headers)


def problem_of(error: BaseException, *, to_player: bool = False) -> web.Response:
    """The response to an error that ended a request; a player gets nothing but its code and what players may read. Errors
    that the table does not have are logged only here."""
    if not isinstance(error, errors.StackdError) or error.code is ErrorCode.INTERNAL_ERROR:
        log.error("a request failed unexpectedly", exc_info=error)
        return problem(ErrorCode.INTERNAL_ERROR, "internal server error")
    headers = {}
    if isinstance(error, errors.Unavailable | errors.TooManyRequests):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = "ApiKey, Bearer"
    if error.code is ErrorCode.UNSUPPORTED_CODING:
        headers["Accept-Encoding"] = "identity"
    if error.detail:
        request_log.info("%d: %s", error.code.status, error, extra={"same": (error.code, str(error))})
    if to_player:
        message = error.player_message
        return problem(error.code, message, headers, player_message=message)
    return problem(
        error.code,
        error.sentence,
        headers,
        reasons=tuple(by_line(getattr(error, "reasons", ()))),
        stack_id=error.stack_id if isinstance(error, errors.LabelLimitReached) else "",
        detail=error.detail[:LONGEST_ERROR],
        player_message=error.player_message,
    )
