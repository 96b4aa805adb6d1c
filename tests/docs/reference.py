"""The generated part of docs/api-reference.md: ``make reference`` writes it.

Each route with a request and the answer that a stackd on an embedded cluster gave to it, or the route above whose answer has the
same fields. Everything else comes from the
OpenAPI document, which comes from the route table and ``stackd.contract``. An answer stays on the page while it fits the
document and has all fields, so that pages of two versions can be compared.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import textwrap
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import jsonschema_rs

from stackd.config import Config
from stackd.embedded import EmbeddedCluster
from stackd.play import ROUTES
from stackd.web import examples
from stackd.web.openapi import document
from tests.harness import Client, fast_cluster, harness, until
from tests.templates import ABOUT, CHECK, WEB, folder_with

PAGE: Final = Path(__file__).parents[2] / "docs" / "api-reference.md"
MARK: Final = "<!-- `make reference` writes everything below. -->\n"
ROUTED = {"domain": "stacks.example.org", "gateway": "gateways/public", "http_listener": "http", "tls_listener": "tls"}
DOCUMENT: Final[dict[str, Any]] = document(ROUTES, Config.model_validate({"routes": ROUTED}))
SCHEMAS: Final[dict[str, Any]] = DOCUMENT["components"]["schemas"]
EVERYWHERE: Final = frozenset({"400", "401", "403", "408", "413", "415", "429", "431", "500", "503"})
WIDTH, LONGEST_VALUE, MOST_LINES, MOST_ENTRIES, SHORT = 120, 120, 14, 2, 2
Samples = Mapping[str, str]
"""The answer to each operation, by ``GET /path``: its status, an empty line, and its body."""

QUERIES: Final = {
    "DELETE /stacks": "label=player=7",
    "GET /activity": "action=create&limit=1",
    "GET /stacks/{stack_id}/logs": "tail=3",
}
"""The query of a request that shows less, or nothing, without one."""

LINKS: Final = {"STACKD_PLAY__URL": "https://stackd.example", "STACKD_PLAY__SECRET": "0123456789abcdef" * 2}
PREPARED: Final = {"POST /stacks/{stack_id}/start": "POST /stacks/{stack_id}/stop"}
"""What has to happen to the stack before."""


OF_A_TEMPLATE: Final = frozenset({"POST /stacks/{stack_id}/check"})
"""The requests about a stack of a template."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A method of a path, as the document describes it."""

    method: str
    path: str
    described: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> list[Mapping[str, Any]]:
        return list(self.described.get("parameters", ()))

    @cached_property
    def body(self) -> str:
        """The first example of the body: JSON, or another text; empty if the route takes none."""
        ((media, content),) = self.described.get("requestBody", {}).get("content", {"": {}}).items()
        if not media:
            return ""
        assert content.get("examples"), f"stackd/web/examples.py has no example of the body of {self.name}"
        value = next(iter(content["examples"].values()))["value"]
        return value if isinstance(value, str) else packed(value)

    @property
    def target(self) -> str:
        path, query = self.path, QUERIES.get(self.name, "")
        for each in self.parameters:
            if each["in"] == "path":
                path = path.replace(f"{{{each['name']}}}", quote(str(each["example"])))
        return f"{path}?{query}" if query else path

    @property
    def answers(self) -> dict[str, Mapping[str, Any]]:
        """The answers without an error, by status."""
        return {status: one for status, one in self.described["responses"].items() if "content" in one}

    def problem(self, sample: str) -> str:
        """Why the document does not describe this answer; empty if it does."""
        status, _, text = sample.partition("\n\n")
        answer = self.answers.get(status)
        if answer is None:
            return f"{self.name} answered {sample}"
        (content,) = answer["content"].items()
        if content[0] != "application/json":
            return ""
        if not text:  # an earlier route has the example
            return ""
        closed = _closed({**content[1]["schema"], "components": {"schemas": SCHEMAS}})
        wrong = [str(one) for one in jsonschema_rs.validator_for(closed).iter_errors(json.loads(text))]
        return f"{self.name}: {wrong[0]}" if wrong else ""


def _closed(schema: Any) -> Any:
    """The schema, but no object may have more fields than are described."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items() if key != "examples"}
    if isinstance(closed.get("properties"), dict) and closed.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


OPERATIONS: Final = [
    Operation(method=method.upper(), path=path, described=described)
    for path, methods in DOCUMENT["paths"].items()
    for method, described in methods.items()
]


# ---- the answers


async def ask(operations: Iterable[Operation] = OPERATIONS) -> dict[str, str]:
    """Send the request of each operation to a stackd; ids in the answers become those of the requests."""
    samples = {}
    async with _stackd() as (owner, standby):
        for each in sorted(operations, key=lambda one: one.path == "/takeover"):
            ids = await _stack_and_job(owner)
            if each.name in OF_A_TEMPLATE:
                ids[examples.STACK_ID] = await owner.running({"template": "web-1"})
            if before := PREPARED.get(each.name):
                method, path = before.split(" ")
                await owner.call(method, path.format(stack_id=ids[examples.STACK_ID]))
            at = await standby() if each.path == "/takeover" else owner
            target, body = each.target, each.body
            for shown, real in ids.items():
                target = target.replace(shown, real)
            answer = await _answer(at, each.method, target, body.encode() or None)
            if job := re.search(r"job-[0-9a-f]{16}", answer):
                await until(lambda: owner.get(f"/stacks/batch/{job[0]}"), lambda seen: seen["status"] == "completed")
            for shown, real in ids.items():
                answer = answer.replace(real, shown)
            samples[each.name] = answer
    return samples


@asynccontextmanager
async def _stackd() -> AsyncIterator[tuple[Client, Any]]:
    """A stackd with a template, and a function that starts a standby beside it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "two").mkdir()
        settings = folder_with(folder, web_1=WEB + ABOUT + CHECK) | LINKS
        async with AsyncExitStack() as running:
            cluster = await running.enter_async_context(EmbeddedCluster(fast_cluster()))

            async def standby() -> Client:
                starting = harness(folder / "two", cluster=cluster, host="vm2", wait=False)
                at = await running.enter_async_context(starting)
                await at.until_metric("stackd_standby", 1)
                return at

            yield await running.enter_async_context(harness(folder, settings, cluster=cluster, host="vm1")), standby


async def _stack_and_job(at: Client) -> dict[str, str]:
    """The ids of the only stack, which runs, and of a finished job, by those of the examples."""
    job_id = await at.batch_delete("stack-1", "stack-2")
    await at.finished_job(job_id)
    kept = ""
    for stack in await at.stacks():
        if kept or stack["status"] not in ("creating", "running"):
            await at.delete(stack["stack_id"])
        else:
            kept = stack["stack_id"]
            await at.until_status(kept, "running")
    link = await at.post("/links", next(iter(examples.BODIES["CreateLink"].values())), 201)
    said = (await at.get("/messages"))["messages"] or [await at.post("/messages", {"text": "Ten minutes left."}, 201)]
    stack_id = kept or await at.running(labels={"player": "7"})
    ids = {examples.STACK_ID: stack_id, examples.JOB_ID: job_id, examples.LINK_ID: link["link_id"]}
    return ids | {examples.MESSAGE_ID: said[0]["message_id"]}


async def _answer(at: Client, method: str, target: str, body: bytes | None) -> str:
    if not target.endswith("/events"):
        reply = await at.call(method, target, body)
        text = reply.text
        if reply.headers["Content-Type"].startswith("application/json"):
            text = packed(_shortened(reply.json))
        return f"{reply.status}\n\n{text.rstrip()}"
    async with at.session.get(at.url + target, headers={"X-API-KEY": at.key}) as stream:
        events = [await stream.content.readuntil(b"\n\n")]
        for stack in await at.stacks():
            await at.do("extend", stack["stack_id"], "1m")
        events.append(await stream.content.readuntil(b"\n\n"))
        return f"{stream.status}\n\n{b''.join(events).decode().rstrip()}"


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value[:MOST_ENTRIES]]
    return value[:LONGEST_VALUE] + "…" if isinstance(value, str) and len(value) > LONGEST_VALUE else value


def packed(value: Any, indent: str = "") -> str:
    """JSON in few lines: each has as many fields or entries as fit."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent + line) <= WIDTH or not isinstance(value, dict | list):
        return line
    inner, (opens, closes) = indent + "  ", "{}" if isinstance(value, dict) else "[]"
    parts = (
        [f"{json.dumps(key)}: {packed(each, inner)}" for key, each in value.items()]
        if isinstance(value, dict)
        else [packed(each, inner) for each in value]
    )
    lines = [inner + parts[0]]
    for part in parts[1:]:
        together = f"{lines[-1]}, {part}"
        if len(together) < WIDTH and "\n" not in together:
            lines[-1] = together
        else:
            lines[-1] += ","
            lines.append(inner + part)
    return "\n".join([opens, *lines, indent + closes])


# ---- the page


def samples_of(page: str) -> dict[str, str]:
    found = {}
    for section in page.partition(MARK)[2].split("\n### `")[1:]:
        if answer := re.search(r"^→ (\d+)[^\n]*\n(.*?)\n?```$", section, re.MULTILINE | re.DOTALL):
            found[section.partition("`")[0]] = f"{answer[1]}\n\n{answer[2]}"
    return found


def rendered(page: str, samples: Samples) -> str:
    """The page with its hand-written head and these answers."""
    lines: list[str] = []
    said: dict[str, str] = {}  # by which route first, of parameters and of the objects that are answers
    for tag in DOCUMENT["tags"]:
        lines += ["", f"## {tag['name']}", "", tag["description"]]
        for one in OPERATIONS:
            if tag["name"] in one.described["tags"]:
                lines += ["", *_operation(one, samples.get(one.name, ""), said)]
    return page.partition(MARK)[0] + MARK + "\n".join(lines) + "\n"


def _operation(one: Operation, sample: str, said: dict[str, str]) -> list[str]:
    lines = [f"### `{one.name}`", "", *_text(one.described)]
    given = _parameters(one, said)
    lines += ["", *given] if given else []
    lines += [*([] if given else [""]), *_outcomes(one)]
    status, _, text = sample.partition("\n\n")
    ((_, content),) = one.answers.get(status, {}).get("content", {"": {}}).items()
    schema = content.get("schema", {"only": one.name})
    first = said.setdefault(json.dumps(schema.get("anyOf", [schema])[0]), one.name)
    shown = text.splitlines()
    if first != one.name and len(shown) > SHORT:
        status, shown = f"{status}, as the answer of {first}", []
    if not text.startswith("{") and len(shown) > MOST_LINES:
        shown = [*shown[:MOST_LINES], "…"]
    return [*lines, "", "```", f"{one.method} {one.target}", *one.body.splitlines(), f"→ {status}", *shown, "```"]


def _outcomes(one: Operation) -> list[str]:
    lines = [f"- → {status}: {answer['description']}" for status, answer in one.answers.items()]
    more = [status for status in one.described["responses"] if status not in EVERYWHERE | one.answers.keys()]
    lines[-1] += f" Or {', '.join(more)}, an [error](errors.md)." if more else ""
    return lines


def _text(described: Mapping[str, Any]) -> list[str]:
    """The summary and the description; an empty line before a list."""
    summary = described["summary"]
    text = f"{summary if summary.endswith('?') else f'{summary}.'} {described['description'].strip()}"
    prose, *items = re.split(r"\n+(?=- )", text.strip())
    return [
        *textwrap.wrap(" ".join(prose.split()), WIDTH + 8, break_on_hyphens=False),
        *([""] if items else []),
        *items,
    ]


def _parameters(one: Operation, said: dict[str, str]) -> list[str]:
    """A line for each parameter; several that an earlier route ``said`` are named in one."""
    groups: dict[str, dict[str, str]] = {}
    for each in one.parameters:
        if each["in"] != "path":
            line = _parameter(each)
            groups.setdefault(said.setdefault(line, one.name), {})[f"`{each['name']}`"] = line
    lines: list[str] = []
    for route, group in groups.items():
        anchor = re.sub(r"[^a-z_ -]", "", route.lower()).replace(" ", "-")
        short = f"- {', '.join(group)}: as in [`{route}`](#{anchor})"
        lines += [short] if route != one.name and len(group) > 1 else group.values()
    return lines


def _parameter(one: Mapping[str, Any]) -> str:
    if one["name"] == "Idempotency-Key":
        return "- `Idempotency-Key` (header): see [Repeating a request](#repeating-a-request)"
    where = " (header)" if one["in"] == "header" else ""
    more = " May be repeated." if one["schema"].get("type") == "array" else ""
    return f"- `{one['name']}`{where}: {' '.join(one['description'].split())}{more}"


def _names(sample: str) -> set[str]:
    """The fields that an answer shows."""
    return set(re.findall(r'"(\w+)":', sample))


async def _main() -> None:
    page = PAGE.read_text()
    older, asked = samples_of(page), await ask()
    samples = {}
    for one in OPERATIONS:
        assert not (problem := one.problem(asked[one.name])), problem
        before = older.get(one.name, "")
        fits = _names(before) == _names(asked[one.name]) and not one.problem(before)
        samples[one.name] = before if fits else asked[one.name]
    PAGE.write_text(rendered(page, samples))


if __name__ == "__main__":
    asyncio.run(_main())
