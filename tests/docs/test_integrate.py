"""The integration example does what its page says."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path
from typing import Any

import pytest

from stackd.client import Client, Stack, StackEnded
from tests.docs.markdown import ROOT, blocks
from tests.harness import KEY, Harness, harness

EXAMPLE = ROOT / "examples" / "integrate.py"
PAGE = ROOT / "docs" / "integrate.md"
LINES = 50


@pytest.fixture
def example(one_each: Harness) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


async def test_it_is_short(example: dict[str, Any]) -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= LINES


async def test_a_player_has_one_stack_with_a_flag_of_their_own(one_each: Harness, example: dict[str, Any]) -> None:
    first, again = [await asyncio.to_thread(example["start"], "alice") for _ in range(2)]
    other = await asyncio.to_thread(example["start"], "bob")
    assert first.stack_id == again.stack_id != other.stack_id
    assert first.status == "running"
    assert first.address == f"127.0.0.1:{first.ports[0].node_port}"
    pods = await one_each.objects("pods")
    flags = [
        pods[stack.stack_id]["spec"]["containers"][0]["env"] == [{"name": "FLAG", "value": example["flag"](player)}]
        for stack, player in ((first, "alice"), (other, "bob"))
    ]
    assert flags == [True, True]
    assert example["flag"]("alice") != example["flag"]("bob")


async def test_it_is_extended_and_goes_when_it_is_solved(one_each: Harness, example: dict[str, Any]) -> None:
    stack = await asyncio.to_thread(example["start"], "alice")
    (longer,) = await asyncio.to_thread(example["extend"], "alice")
    assert (longer.ttl_expires_at - stack.ttl_expires_at).total_seconds() == 600
    assert not await asyncio.to_thread(example["solve"], "alice", example["flag"]("bob"))
    assert await one_each.listed() == [stack.stack_id]
    assert await asyncio.to_thread(example["solve"], "alice", example["flag"]("alice"))
    await one_each.until_listed(0)
    assert await asyncio.to_thread(example["solve"], "alice", example["flag"]("alice")), "also without a stack"


async def test_a_stack_that_cannot_run_is_not_in_the_way_of_the_next_one(
    one_each: Harness, example: dict[str, Any]
) -> None:
    good, example["start"].__globals__["POD"] = (
        example["POD"],
        example["POD"].replace("nginx:stable", "challenge/nostart"),
    )
    with pytest.raises(StackEnded, match="failed"):
        await asyncio.to_thread(example["start"], "alice")
    example["start"].__globals__["POD"] = good
    assert (await asyncio.to_thread(example["start"], "alice")).status == "running"


async def test_with_a_template_the_flag_is_told_once_and_again_for_the_same_press(tmp_path: Path) -> None:
    template, program = (
        next(one.text for one in blocks(PAGE) if one.language == language and "template" in one.marks)
        for language in ("yaml", "python")
    )
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "web-1.yaml").write_text(template)
    flags: list[tuple[str, str]] = []
    async with harness(tmp_path, {"STACKD_TEMPLATES__DIRECTORY": str(tmp_path / "templates")}) as at:
        names: dict[str, Any] = {
            "Stack": Stack,
            "client": Client(at.url, KEY),
            "save_flag": lambda *told: flags.append(told),
        }
        exec(program, names)
        first, again = [await asyncio.to_thread(names["start"], "alice", "press-1") for _ in range(2)]
        other = await asyncio.to_thread(names["start"], "bob", "press-2")
    assert first.stack_id == again.stack_id != other.stack_id
    assert first.status == "running"
    assert [player for player, _ in flags] == ["alice", "alice", "bob"]
    assert flags[0] == flags[1]
    assert flags[0][1] != flags[2][1]
