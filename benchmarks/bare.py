"""The floor of reads: the simplest possible aiohttp handler, which answers given bytes.

``python -m benchmarks.bare PORT STATUS_FILE LIST_FILE``: the same event loop and the same bodies as stackd's, and no
key, no route table, no state.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop
from aiohttp import web


def application(status: bytes, everything: bytes) -> web.Application:
    """An application with two handlers, each returning ready bytes."""

    async def read_status(_: web.Request) -> web.Response:
        return web.Response(body=status, content_type="application/json")

    async def read_all(_: web.Request) -> web.Response:
        return web.Response(body=everything, content_type="application/json")

    app = web.Application()
    app.router.add_get("/stacks", read_all)
    app.router.add_get("/stacks/{stack_id}/status", read_status)
    return app


async def serve(port: int, app: web.Application) -> None:
    """Serve forever."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


def main(port: str, status: str, everything: str) -> None:
    """Serve until killed."""
    app = application(Path(status).read_bytes(), Path(everything).read_bytes())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(port), app))


if __name__ == "__main__":
    main(*sys.argv[1:])
