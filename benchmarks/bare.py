"""The floor of reads: the simplest possible aiohttp handler, which answers given bytes.

``python -m benchmarks.bare PORT STATUS_FILE LIST_FILE``: the same event loop and the same bodies as stackd's, and no
key, no route table, no state.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from aiohttp import web


def _always(body: bytes) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return answer


def serve(port: int, status: bytes, everything: bytes) -> None:
    app = web.Application()
    app.router.add_get("/stacks", _always(everything))
    app.router.add_get("/stacks/{stack_id}/status", _always(status))
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=port, backlog=1024, access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    serve(int(sys.argv[1]), *(Path(name).read_bytes() for name in sys.argv[2:]))
