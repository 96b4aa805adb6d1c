"""Answers that are rendered while they are sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stackd.web.responses import streamed_list


async def test_a_client_that_leaves_before_the_end_of_a_list_is_no_defect() -> None:
    """It was answered, and logged, as a 500."""
    ended: list[BaseException | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield b"{}"
            assert request.transport is not None
            request.transport.abort()

        try:
            response = await streamed_list(request, b"[", pieces(), b"]")
        except BaseException as error:
            ended.append(error)
            raise
        ended.append(None)
        return response

    app = web.Application()
    app.router.add_get("/", handler)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(server.make_url("/")) as answer:
                await answer.read()
    assert ended == [None]
