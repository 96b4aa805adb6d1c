"""A writing process is killed with kill -9: what it acknowledged is in the file, and nothing is there by halves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store.building import open_store

ROOT = Path(__file__).parents[2]

WRITER = """
import asyncio, pathlib, sys
from stackd.clock import SystemClock
from stackd.model import DeleteReason, PortRange
from stackd.store import Store
from tests.store.building import new_stack, stack_id

async def one(store, number):
    while True:
        await store.stacks.reserve(new_stack(number, ports=2))
        print("+", number, flush=True)
        if number % 3 == 0:
            await store.stacks.mark_deleting([stack_id(number)], DeleteReason.REQUEST)
            print("?", number, flush=True)
            await store.stacks.remove([stack_id(number)])
            print("-", number, flush=True)
        number += 8

async def main():
    store = await Store.open(pathlib.Path(sys.argv[1]), clock=SystemClock(), node_ports=PortRange(20000, 32767))
    await asyncio.gather(*(one(store, number) for number in range(8)))

asyncio.run(main())
"""


def run_and_kill(path: Path, lines: int) -> list[str]:
    """Run the writer until it has acknowledged ``lines`` writes, kill it, and return all acknowledgements."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.readlines()
    return [line for line in said if line.endswith("\n")]


@pytest.mark.parametrize("lines", [1, 7, 40, 133, 400])
async def test_what_was_acknowledged_before_a_kill_is_there_after_it(path: Path, lines: int) -> None:
    said = await asyncio.to_thread(run_and_kill, path, lines)
    assert len(said) >= lines
    reserved = {int(line.split()[1]) for line in said if line.startswith("+")}
    begun = {int(line.split()[1]) for line in said if line.startswith("?")}
    removed = {int(line.split()[1]) for line in said if line.startswith("-")}
    store = await open_store(path, ports=(20000, 32767))
    there = {int(stack.stack_id.removeprefix("stack-"), 16): stack for stack in store.stacks}
    expected = reserved - {number for number in reserved if number % 3 == 0}
    assert expected <= there.keys()
    assert not removed & there.keys()
    assert all(there[number].deleting_since is not None for number in begun & there.keys())
    ports = [port.node_port for stack in there.values() for port in stack.ports]
    assert len(ports) == len(set(ports)) == 2 * len(there) == store.ports.used
    await store.close()
