"""Lists of stacks by filter: pages of the list, and a delete by label.

Owns: the parameters of ``GET /stacks`` and the format of cursors. A cursor names the last stack of a page, so that
pages neither repeat nor skip stacks while others are created and deleted.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from itertools import islice

import orjson
from aiohttp import web

from stackd.errors import InvalidRequest
from stackd.model import JobRequest, Stack, list_key
from stackd.web.api import JOB_ID, ApiCall
from stackd.web.bodies import OPEN, accepted_many_body, in_turns, is_late, listed_body, read_late, rendered
from stackd.web.requests import Parameters
from stackd.web.responses import json_response, streamed_json
from stackd.web.stack_fields import FILTERS_MANY, FILTERS_ONCE, POD_SPEC, StackSelection, chosen_fields, renderer

PAGING = ("limit", "cursor", "fields")
LARGEST_PAGE = 1000
DEFAULT_PAGE = 100


async def list_matching(call: ApiCall) -> web.StreamResponse:
    """``GET /stacks`` with parameters."""
    parameters = Parameters(call.request, (*FILTERS_ONCE, *PAGING), FILTERS_MANY)
    selection, fields = StackSelection(parameters), chosen_fields(parameters)
    limit = parameters.number("limit", 1, LARGEST_PAGE)
    cursor = parameters.get("cursor")
    if cursor is not None and limit is None:
        limit = DEFAULT_PAGE
    stacks = call.view.stacks()
    start = 0 if cursor is None else bisect_right(stacks, position_of(cursor), key=list_key)
    page: list[Stack] = []
    async for stack in in_turns(islice(stacks, start, None)):
        if selection.matches(stack):
            page.append(stack)
            if limit is not None and len(page) > limit:
                break
    more = limit is not None and len(page) > limit
    shown = page[:limit] if more else page
    end = (
        b"]}"
        if limit is None
        else b'],"next_cursor":%b}' % orjson.dumps(cursor_of(*list_key(shown[-1])) if more else None)
    )
    render = renderer(fields) if fields else listed_body
    if (not fields or POD_SPEC in fields) and any(map(is_late, shown)):
        pieces = [OPEN, *rendered(shown, render), end]
        return await streamed_json(call.request, read_late(pieces, call.api.context.store, render))
    return json_response(OPEN + b",".join([render(stack) async for stack in in_turns(shown)]) + end)


async def delete_matching(call: ApiCall) -> web.Response:
    """``DELETE /stacks?label=…``: a batch-delete job of all stacks that match."""
    parameters = Parameters(call.request, FILTERS_ONCE, FILTERS_MANY)
    selection = StackSelection(parameters)
    if not parameters.all("label"):
        raise InvalidRequest("a label is required to delete by, such as DELETE /stacks?label=team=7")
    ids = [stack.stack_id async for stack in in_turns(call.view.stacks()) if selection.matches(stack)]
    job = await call.api.batch.submit(ids, JobRequest(by=call.key.name))
    call.request[JOB_ID] = job.job_id
    return json_response(accepted_many_body(job), status=202)


def cursor_of(at: int, name: str) -> str:
    """The cursor of a page that ends with what has this time and name."""
    return base64.urlsafe_b64encode(f"{at} {name}".encode()).decode().rstrip("=")


def position_of(cursor: str, route: str = "GET /stacks") -> tuple[int, str]:
    """The time and the name with which the cursor's page ended. Raises InvalidRequest."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, name = text.split(" ")
        return int(at), name
    except (ValueError, binascii.Error):
        raise InvalidRequest(f"cursor must be the next_cursor of an answer of {route}") from None
