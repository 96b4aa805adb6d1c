"""Find stacks: filters, pages and chosen fields of the list, and what a delete by label means by "all".

Owns: the parameters of ``GET /stacks`` and the form of a cursor, which names the last stack of a page, so that pages stay
true to each other while stacks come and go.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

import orjson
from aiohttp import web

from stackd.errors import InvalidRequest
from stackd.model import Stack, StackStatus
from stackd.web import answers
from stackd.web.api import JOB_ID, Call, json_response
from stackd.web.listing import HOLD_SECONDS
from stackd.web.parameters import Parameters

FILTERS_ONCE = ("node",)
FILTERS_MANY = ("label", "status")
PAGING = ("limit", "cursor", "fields")
LARGEST_PAGE = 1000
DEFAULT_PAGE = 100
LONGEST_NAME = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which stacks are meant: all of ``labels`` (a None matches any value), any of ``statuses``, the ``node``."""

    labels: tuple[tuple[str, str | None], ...] = ()
    statuses: frozenset[StackStatus] = frozenset()
    node: str | None = None

    def matches(self, stack: Stack) -> bool:
        """Whether this one is meant."""
        if self.statuses and stack.status not in self.statuses:
            return False
        if self.node is not None and stack.node_id != self.node:
            return False
        return all(
            key in stack.labels if value is None else stack.labels.get(key) == value for key, value in self.labels
        )


async def found(call: Call) -> web.Response:
    """``GET /stacks`` with parameters."""
    parameters = Parameters(call.request, (*FILTERS_ONCE, *PAGING), FILTERS_MANY)
    wanted, fields = filter_of(parameters), fields_of(parameters)
    limit = parameters.number("limit", 1, LARGEST_PAGE)
    cursor = parameters.get("cursor")
    if cursor is not None and limit is None:
        limit = DEFAULT_PAGE
    stacks = call.api.room.store.stacks.ordered()
    start = 0 if cursor is None else bisect_right(stacks, _position(cursor), key=_key)
    matching = (stack for stack in islice(stacks, start, None) if wanted.matches(stack))
    page = list(matching) if limit is None else list(islice(matching, limit + 1))
    more = limit is not None and len(page) > limit
    shown = page[:limit] if more else page
    body = b'{"stacks":[' + b",".join(await _rendered(shown, fields)) + b"]"
    if limit is not None:
        body += b',"next_cursor":' + orjson.dumps(_cursor(shown[-1]) if more else None)
    return json_response(body + b"}")


async def delete_found(call: Call) -> web.Response:
    """``DELETE /stacks?label=…``: a batch-delete job of all that match."""
    parameters = Parameters(call.request, FILTERS_ONCE, FILTERS_MANY)
    wanted = filter_of(parameters)
    if not wanted.labels:
        raise InvalidRequest("a label is required to delete by, such as DELETE /stacks?label=team=7")
    ids = [stack.stack_id for stack in call.api.room.store.stacks.ordered() if wanted.matches(stack)]
    job = await call.api.batch.submit(ids, by=call.key.name)
    call.request[JOB_ID] = job.job_id
    return json_response(orjson.dumps({"job_id": job.job_id, "total": job.total}), status=202)


def filter_of(parameters: Parameters) -> Filter:
    """The filter that label, status and node say. Raises InvalidRequest."""
    node = parameters.get("node")
    if node is not None and not 0 < len(node) <= LONGEST_NAME:
        raise InvalidRequest(f"node must be the name of a node, of 1 to {LONGEST_NAME} characters")
    return Filter(
        labels=tuple(_label(text) for text in parameters.all("label")),
        statuses=frozenset(status_of("status", text) for text in parameters.all("status")),
        node=node,
    )


def fields_of(parameters: Parameters) -> tuple[str, ...]:
    """The chosen fields in the documented order; empty for the documented entry. Raises InvalidRequest."""
    text = parameters.get("fields")
    if text is None:
        return ()
    names = set(text.split(","))
    unknown = sorted(names - answers.FIELDS.keys())
    if unknown:
        raise InvalidRequest(f"fields: there is no field {unknown[0][:64]!r}; there are {', '.join(answers.FIELDS)}")
    return tuple(name for name in answers.FIELDS if name in names)


def status_of(name: str, text: str) -> StackStatus:
    """A status by its name. Raises InvalidRequest."""
    try:
        return StackStatus(text)
    except ValueError:
        raise InvalidRequest(f"{name} must be one of {', '.join(StackStatus)}, not {text[:64]!r}") from None


def _label(text: str) -> tuple[str, str | None]:
    key, given, value = text.partition("=")
    if not key:
        raise InvalidRequest("label must be key=value, or key for any value")
    return key, value if given else None


async def _rendered(stacks: Sequence[Stack], fields: tuple[str, ...]) -> list[bytes]:
    """Each stack as JSON; everybody else gets a turn in between."""
    render: Callable[[Stack], bytes] = answers.listed_body
    if fields:
        render = answers.chooser(fields)
    made: list[bytes] = []
    began = perf_counter()
    for stack in stacks:
        made.append(render(stack))
        if perf_counter() - began >= HOLD_SECONDS:
            await asyncio.sleep(0)
            began = perf_counter()
    return made


def _key(stack: Stack) -> tuple[int, str]:
    return stack.created_at, stack.stack_id


def _cursor(stack: Stack) -> str:
    return base64.urlsafe_b64encode(f"{stack.created_at} {stack.stack_id}".encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[int, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        created_at, stack_id = text.split(" ")
        return int(created_at), stack_id
    except (ValueError, binascii.Error):
        raise InvalidRequest("cursor is not one that an answer of GET /stacks has given") from None
