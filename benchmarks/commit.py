"""The floor of a create from a pool: an aiohttp handler that answers after one durable SQLite commit.

``python -m benchmarks.commit PORT BODY_FILE DATABASE``: the same event loop and the same body as stackd's. One thread
writes one row of text per request, and nothing else.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop
from aiohttp import web

from benchmarks.bare import serve


def application(body: bytes, database: Path) -> web.Application:
    """An application with one handler; its file has the same settings as stackd's."""
    connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE stacks (number INTEGER PRIMARY KEY, text TEXT NOT NULL)")
    text, writer = body.decode(), ThreadPoolExecutor(1)

    def commit() -> None:
        connection.execute("INSERT INTO stacks (text) VALUES (?)", (text,))

    async def create(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.get_running_loop().run_in_executor(writer, commit)
        return web.Response(status=201, body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/stacks", create)
    return app


def main(port: str, body: str, database: str) -> None:
    """Serve until killed."""
    app = application(Path(body).read_bytes(), Path(database))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(port), app))


if __name__ == "__main__":
    main(*sys.argv[1:])
