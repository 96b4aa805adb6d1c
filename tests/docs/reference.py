"""The generated part of docs/api-reference.md: ``make reference`` writes it.

Each route with a request and the answer that a stackd on an embedded cluster gave to it; each object field by field, each
with a value from these answers. Everything else comes from the OpenAPI document, which comes from the route table and
``stackd.contract``. An answer stays on the page while it fits the document, so that pages of two versions can be compared.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import jsonschema_rs

from stackd.config import Config
from stackd.embedded import EmbeddedCluster
from stackd.web import examples
from stackd.web.app import ROUTES
from stackd.web.openapi import document
from tests.harness import Client, fast_cluster, harness, until
from tests.templates import ABOUT, CHECK, WEB, folder_with

PAGE: Final = Path(__file__).parents[2] / "docs" / "api-reference.md"
MARK: Final = "<!-- `make reference` writes everything below. -->\n"
ROUTED = {"domain": "stacks.example.org", "gateway": "gateways/public", "http_listener": "http", "tls_listener": "tls"}
DOCUMENT: Final[dict[str, Any]] = document(ROUTES, Config.model_validate({"routes": ROUTED}))
SCHEMAS: Final[dict[str, Any]] = DOCUMENT["components"]["schemas"]
EVERYWHERE: Final = frozenset({"400", "401", "403", "408", "413", "415", "429", "431", "500", "503"})
LONGEST_VALUE, MOST_LINES = 120, 14
UNKNOWN: Final = "…"
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

SUCH_AS: Final = {
    "Idempotency-Key": "press-4711",
    "If-Match": '"6804aa27d53fbbaf"',
    "Last-Event-ID": "69855e88-61",
    "container": "app",
    "cpu": "500m",
    "cursor": "MTc5NjA3NzU4MTIzNzc=",
    "data": '{"stack_id": "stack-716b6384dd477b0b"}',
    "each": "visitor",
    "detail": "0/2 nodes are available: 2 Insufficient cpu.",
    "ephemeral_storage": "1Gi",
    "id": "69855e88-61",
    "key": "platform",
    "kind": "pods",
    "memory": "512Mi",
    "node": "worker-1",
    "path": "spec.hostNetwork",
    "player_message": "Your instance has ended. Start a new one.",
    "removed": ["pods stack-716b6384dd477b0b"],
    "stack": "stack-716b6384dd477b0b",
    "state": "pulling",
    "template": "web-1",
    "text": "unknown field",
    "url": "https://716b6384dd477b0b.stacks.example.org",
}
"""Values of parameters and fields that no answer has, by name."""


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
        return value if isinstance(value, str) else json.dumps(value, indent=2)

    @property
    def target(self) -> str:
        """The request's path and query."""
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
    link = await at.post("/links", next(iter(examples.OTHERS["CreateLink"].values())), 201)
    stack_id = kept or await at.running(labels={"player": "7"})
    return {examples.STACK_ID: stack_id, examples.JOB_ID: job_id, examples.LINK_ID: link["link_id"]}


async def _answer(at: Client, method: str, target: str, body: bytes | None) -> str:
    if not target.endswith("/events"):
        reply = await at.call(method, target, body)
        text = reply.text
        if reply.headers["Content-Type"].startswith("application/json"):
            text = json.dumps(_shortened(reply.json), indent=2, ensure_ascii=False)
        return f"{reply.status}\n\n{text.rstrip()}"
    async with at.session.get(at.url + target, headers={"X-API-KEY": at.key}) as stream:
        events = [await stream.content.readuntil(b"\n\n")]
        for stack in await at.stacks():
            await at.do("extend", stack["stack_id"], "1m")
        events.append(await stream.content.readuntil(b"\n\n"))
        return f"{stream.status}\n\n{b''.join(events).decode().rstrip()}"


def _shortened(value: Any) -> Any:
    """The value with long texts cut."""
    if isinstance(value, dict):
        return {key: _shortened(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    return value[:LONGEST_VALUE] + "…" if isinstance(value, str) and len(value) > LONGEST_VALUE else value


# ---- the page


def samples_of(page: str) -> dict[str, str]:
    """The answers on a page."""
    found = {}
    for section in page.partition(MARK)[2].split("\n### `")[1:]:
        if answer := re.search(r"^Answer (\d+):\n\n```\w*\n(.*?)\n```$", section, re.MULTILINE | re.DOTALL):
            found[section.partition("`")[0]] = f"{answer[1]}\n\n{answer[2]}"
    return found


def rendered(page: str, samples: Samples) -> str:
    """The page with its hand-written head and these answers."""
    values = values_in(samples)
    tags = [one["name"] for one in DOCUMENT["tags"]]
    lines = ["", "## All routes", "", "| route | |", "|---|---|"]
    lines += [f"| [`{one.name}`](#{_anchor(one.name)}) | {one.described['summary']} |" for one in OPERATIONS]
    for tag in tags:
        lines += ["", f"## {tag}", "", next(one["description"] for one in DOCUMENT["tags"] if one["name"] == tag)]
        for one in OPERATIONS:
            if tag in one.described["tags"]:
                lines += ["", *_operation(one, samples.get(one.name, ""))]
    lines += ["", "## Objects", "", "Each field with a value that it can have. `?` marks a field that may be left out."]
    for name, schema in sorted(SCHEMAS.items()):
        lines += ["", *_object(name, schema, values)]
    return page.partition(MARK)[0] + MARK + "\n".join(lines) + "\n"


def _operation(one: Operation, sample: str) -> list[str]:
    summary = one.described["summary"]
    lines = [f"### `{one.name}`", "", summary if summary.endswith("?") else f"{summary}.", *_text(one.described)]
    if one.parameters:
        lines += ["", "| parameter | such as | |", "|---|---|---|", *map(_parameter, one.parameters)]
    lines += ["", *(_outcome(status, answer) for status, answer in one.answers.items())]
    more = [status for status in one.described["responses"] if status not in EVERYWHERE | one.answers.keys()]
    lines += [f"- {', '.join(more)}: an [error](errors.md)"] if more else []
    body = one.body.splitlines()
    lines += ["", "```", f"{one.method} {one.target}", *([""] if body else []), *body, "```"]
    status, _, text = sample.partition("\n\n")
    shown = text.splitlines()
    if not text.startswith("{") and len(shown) > MOST_LINES:
        shown = [*shown[:MOST_LINES], "…"]
    return [*lines, "", f"Answer {status}:", "", "```json" if text.startswith("{") else "```", *shown, "```"]


def _text(described: Mapping[str, Any]) -> list[str]:
    """The description, with an empty line before it and before its list."""
    lines: list[str] = [""] if described["description"].strip() else []
    for line in described["description"].strip().splitlines():
        lines += [""] if line.startswith("- ") and lines[-1] and not lines[-1].startswith(("- ", "  ")) else []
        lines.append(line)
    return lines


def _outcome(status: str, answer: Mapping[str, Any]) -> str:
    ((media, content),) = answer["content"].items()
    return f"- {status}: {answer['description']} {_type(content['schema']) if media.endswith('json') else f'`{media}`'}"


def _parameter(one: Mapping[str, Any]) -> str:
    value = sample_of(one)
    value = value[0] if isinstance(value, list) else value
    where = {"query": "", "path": " in the path", "header": " (header)"}[one["in"]]
    about = _cell(one["description"]) + (" May be repeated." if one["schema"].get("type") == "array" else "")
    return f"| `{one['name']}`{where} | {_code(value)} | {about} |"


def _object(name: str, schema: Mapping[str, Any], values: Mapping[tuple[str, str], Any]) -> list[str]:
    if name == "ErrorCode":
        return [f"### {name}", "", "One of the codes in [Errors](errors.md#all-codes)."]
    lines = [f"### {name}", *_text({"description": inspect.cleandoc(schema["description"])})]
    if "properties" not in schema:
        return lines
    required = schema.get("required", ())
    lines += ["", "| field | type | such as | |", "|---|---|---|---|"]
    for field, kind in schema["properties"].items():
        value = value_of(name, field, kind, values)
        described = kind.get("description", "")
        optional = "" if field in required else "?"
        lines.append(f"| `{field}`{optional} | {_type(kind)} | {_code(value)} | {_cell(described)} |")
    return lines


def _type(schema: Mapping[str, Any]) -> str:
    """The type, in words; that of an object links to it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{_anchor(name)})"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    kinds = schema.get("type", "any")
    names = [kinds] if isinstance(kinds, str) else list(kinds)
    if names[0] == "array":
        names[0] = f"list of {_type(schema['items'])}"
    elif isinstance(schema.get("additionalProperties"), dict):
        names[0] = f"object of {_type(schema['additionalProperties'])}"
    elif "format" in schema and schema["format"] == "date-time":
        names[0] = "time"
    if "enum" in schema:
        return "one of " + ", ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    return " or ".join(names)


def sample_of(parameter: Mapping[str, Any]) -> Any:
    """A value of the parameter."""
    schema, name = parameter["schema"], parameter["name"]
    return parameter["example"] if "example" in parameter else _first_that_fits(schema, _sample(schema, name))


def value_of(schema: str, field: str, kind: Mapping[str, Any], values: Mapping[tuple[str, str], Any]) -> Any:
    """A value of the field: the schema's own, else what other schemas have in a field of this name."""
    own = [values[schema, field]] if (schema, field) in values else [*kind.get("examples", ())]
    others = [values[field, _type(kind)]] if (field, _type(kind)) in values else []
    return _first_that_fits(kind, *own, *others, _sample(kind, field))


def fits(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether the schema allows the value."""
    return jsonschema_rs.is_valid({**schema, "components": {"schemas": SCHEMAS}}, value)


def _first_that_fits(schema: Mapping[str, Any], *values: Any) -> Any:
    return next((value for value in values if fits(schema, value)), _sample(schema))


def _sample(schema: Mapping[str, Any], name: str = "") -> Any:
    """A value of the schema, for a field or parameter of this name."""
    if name in SUCH_AS:
        return SUCH_AS[name]
    if "$ref" in schema:
        return _sample(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    for value in (schema.get("const"), *schema.get("examples", ()), *schema.get("enum", ())):
        if value is not None:
            return value
    kind = schema.get("type", "string")
    kind = kind if isinstance(kind, str) else kind[0]
    if kind == "object":
        return {key: _sample(each, key) for key, each in schema.get("properties", {}).items()}
    if kind == "array":
        return [_sample(schema["items"], name)]
    plain = {"string": UNKNOWN, "integer": schema.get("minimum", 0), "number": 1.5, "boolean": True, "null": None}
    return plain[kind]


def values_in(samples: Samples) -> dict[tuple[str, str], Any]:
    """A value of each field of the examples and the answers, the first that is not empty: by schema and field, and by field
    and type for the schemas that none of them has."""
    found: dict[tuple[str, str], Any] = {}
    for schema, value in _shown(samples):
        _collect(schema, value, found)
    return found


def _shown(samples: Samples) -> Iterator[tuple[Any, Any]]:
    for one in OPERATIONS:
        contents = [one.described.get("requestBody", {}), *one.described["responses"].values()]
        for media in (each["content"].get("application/json", {}) for each in contents if "content" in each):
            for example in media.get("examples", {}).values():
                yield media["schema"], example["value"]
        status, _, text = samples.get(one.name, "").partition("\n\n")
        if text.startswith("{"):
            yield one.answers[status]["content"]["application/json"]["schema"], json.loads(text)


def _collect(schema: Any, value: Any, found: dict[tuple[str, str], Any], name: str = "") -> None:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _collect(SCHEMAS[name], value, found, name)
    for each in schema.get("anyOf", ()):
        _collect(each, value, found)
    if isinstance(value, list) and "items" in schema:
        for each in value:
            _collect(schema["items"], each, found)
    elif isinstance(value, dict) and "properties" in schema:
        for field, inner in value.items():
            if field in schema["properties"]:
                for key in ((name, field), (field, _type(schema["properties"][field]))):
                    found[key] = found.get(key) or inner
                _collect(schema["properties"][field], inner, found)
    elif isinstance(value, dict) and isinstance(schema.get("additionalProperties"), dict):
        for inner in value.values():
            _collect(schema["additionalProperties"], inner, found)
    return None


def _code(value: Any) -> str:
    text = json.dumps(_shortened(value), ensure_ascii=False)
    text = text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"
    return f"`{text}`".replace("|", r"\|")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


async def _main() -> None:
    page = PAGE.read_text()
    older, asked = samples_of(page), await ask()
    samples = {}
    for one in OPERATIONS:
        assert not (problem := one.problem(asked[one.name])), problem
        fits = one.name in older and not one.problem(older[one.name])
        samples[one.name] = older[one.name] if fits else asked[one.name]
    PAGE.write_text(rendered(page, samples))


if __name__ == "__main__":
    asyncio.run(_main())
