"""What tenants write cannot affect the terminal of whoever looks at it; and what is new in a log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stackd.cli import output as render
from stackd.cli.output import line
from stackd.client import Client, Plan
from stackd.client.operations import _added
from tests.harness import request_for
from tests.unit.cli.conftest import Shell


def test_a_tab_of_a_tenant_is_no_field_of_a_line() -> None:
    stack: dict[str, Any] = {"stack_id": "stack-1", "status": "failed", "addresses": [], "created_at": NOW}
    stack |= {"status_reason": "a\tb\rc", "node_id": "f\tg", "ttl_expires_at": NOW, "labels": {"x": "d\te"}}
    assert line(render.cells(stack)).count("\t") == len(render.cells(stack)) - 1


NOW = "2026-01-01T00:00:00Z"


EVIL = "\x1b]0;taken\x07\x1b[2J\x9b31m\u202egnp"
OBEYED = set("\x1b\x07\x9b\u202e")


async def test_no_view_of_a_stack_lets_its_text_through(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    body = request_for("registry.example/nostart")
    body["pod_spec"] += f"\n      command: [{json.dumps(f'/gone{EVIL}')}]"
    stack_id = (await shell.at.create(body))["stack_id"]
    await shell.at.until_status(stack_id, "failed")
    for shown, *words in (
        ("taken", "show", stack_id),
        ("taken", "show", stack_id, "--spec"),
        (stack_id, "list"),
        ("taken", "timeline", stack_id, "--json"),
    ):
        out = await shell.on_terminal("stacks", *words)
        assert (shown in out, OBEYED & set(out)) == (True, set()), words
    document = json.loads(await shell.good("show", stack_id, "--json"))
    assert document == await shell.at.stack(stack_id), "for another program, it is the same document"
    assert EVIL in document["status_message"]
    wrong = request_for("nginx")["pod_spec"] + f"\n      {json.dumps(f'evil{EVIL}')}: 1"
    errors = await shell.failing(1, "create", "-f", "-", stdin=wrong)
    assert ("Error: " in errors, "evil" in errors, OBEYED & set(errors)) == (True, True, set())
    plan = {"blocked": "", "held": [], "actions": [{"action": "end", "name": "stack-1", "why": f"end: {EVIL}"}]}
    monkeypatch.setattr(Client, "reconcile", lambda *_: Plan.of(plan))
    output = (await shell.any_command("reconcile")).output
    assert ("stack-1" in output, OBEYED & set(output)) == (True, set())


async def test_a_log_is_escaped_in_a_pipe_too_because_that_often_ends_at_a_terminal(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"one{EVIL}\ttwo\n"
    monkeypatch.setattr(Client, "logs", lambda *_, **__: text)
    out = await shell.good("logs", "stack-1")
    assert ("taken" in out, out.endswith("\ttwo\n"), OBEYED & set(out)) == (True, True, set())
    assert await shell.good("logs", "stack-1", "--raw") == text, "for another program, if it asks for that"


@pytest.mark.parametrize(
    ("before", "now", "more"),
    [
        ("", "a\n", "a\n"), ("a\n", "a\nb\n", "b\n"), ("a\nb\n", "b\nc\n", "c\n"), ("a\n", "a\n", ""),
        ("a\nb\n", "x\ny\n", "x\ny\n"), ("ab\n", "cab\nd\n", "cab\nd\n"),
    ],
)  # fmt: skip
def test_what_is_new_in_a_log_is_found_also_where_its_beginning_is_cut_off(before: str, now: str, more: str) -> None:
    assert _added(before, now) == more
