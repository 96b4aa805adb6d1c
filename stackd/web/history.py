"""The routes that tell what became of a stack: its timeline, and what its containers wrote."""

from __future__ import annotations

import orjson
from aiohttp import web

from stackd.errors import StackNotFound
from stackd.lifecycle.logs import read_logs
from stackd.model import Happening
from stackd.times import from_nanoseconds
from stackd.web.api import Call, json_response
from stackd.web.parameters import Parameters

DEFAULT_TAIL = 200
LONGEST_TAIL = 10_000


async def timeline(call: Call) -> web.Response:
    """``GET /stacks/{stack_id}/timeline``: also of a stack that is gone, for ``stacks.keep_history``."""
    stack_id = call.request.match_info["stack_id"]
    store = call.api.room.store
    happenings = await store.timeline(stack_id)
    if not happenings and stack_id not in store.stacks:
        raise StackNotFound(stack_id)
    return json_response(orjson.dumps({"stack_id": stack_id, "events": [_fields(one) for one in happenings]}))


async def logs(call: Call) -> web.Response:
    """``GET /stacks/{stack_id}/logs``: from the cluster while the pod is there, else what was kept of its end."""
    parameters = Parameters(call.request, ("tail", "container"))
    tail = parameters.number("tail", 1, LONGEST_TAIL) or DEFAULT_TAIL
    stack_id = call.request.match_info["stack_id"]
    text = await read_logs(call.api.room, stack_id, tail=tail, container=parameters.get("container") or "")
    return web.Response(text=text, content_type="text/plain", headers={"X-Content-Type-Options": "nosniff"})


def _fields(one: Happening) -> dict[str, object]:
    fields = {
        "at": from_nanoseconds(one.at),
        "kind": one.kind,
        "reason": one.reason,
        "message": one.message,
        "by": one.by,
    }
    return fields | ({"count": one.count} if one.count > 1 else {})
