"""The address at which stackd says that it listens, and how it accepts clients there."""

from __future__ import annotations

import asyncio
import select
import socket
from contextlib import ExitStack
from itertools import count, pairwise
from pathlib import Path

import pytest

from stackd.cli.options import loop_factory
from stackd.web.serving import host_and_port
from tests.harness import harness


@pytest.mark.parametrize(
    ("host", "text"),
    [("127.0.0.1", "127.0.0.1:8081"), ("::", "[::]:8081"), ("::1", "[::1]:8081"), ("localhost", "localhost:8081")],
)
def test_an_ipv6_address_stands_in_brackets(host: str, text: str) -> None:
    assert host_and_port(host, 8081) == text


def test_clients_that_connect_at_once_are_accepted_in_one_turn_of_the_loop(tmp_path: Path) -> None:
    """A turn is long while many connections are busy."""

    async def turns(clients: int) -> int:
        async with harness(tmp_path) as at:
            with ExitStack() as connected:
                waiting = [
                    connected.enter_context(socket.create_connection(("127.0.0.1", at.port))) for _ in range(clients)
                ]
                for client in waiting:
                    client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                for turn in count():
                    if len(select.select(waiting, [], [], 0)[0]) == clients:
                        return turn
                    await asyncio.sleep(0)
        raise AssertionError

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        assert runner.run(turns(100)) < 20


async def test_a_client_that_sends_many_requests_at_once_gets_one_answer_in_a_turn_of_the_loop(tmp_path: Path) -> None:
    """From Python 3.12 on, aiohttp's tasks are eager: without a pause, all are answered before anybody else."""
    async with harness(tmp_path) as at:
        requests, answered = at.daemon.context.metrics.route("GET", "/openapi.json"), [0]
        _, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 30)
        async with asyncio.timeout(30):
            while answered[-1] < 30:
                answered.append(requests.codes.total())
                await asyncio.sleep(0)
        writer.transport.abort()
        assert max(after - before for before, after in pairwise(answered)) == 1
