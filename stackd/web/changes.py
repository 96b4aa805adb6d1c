"""The routes with which a stack's user changes it while it lives: extend, stop, start, restart.

A start asks as much of the cluster as a create does, and counts as one for the limits of a key.
"""

from __future__ import annotations

from aiohttp import web

from stackd.lifecycle.extend import extend
from stackd.lifecycle.replay import Answer
from stackd.lifecycle.restart import restart, start, stop
from stackd.store import Claim
from stackd.web import answers, bodies, orders
from stackd.web.api import Call, json_response
from stackd.web.stacks import read_body, replayable, replayed

EXTEND_FIELDS = ("ttl",)


async def extend_stack(call: Call) -> web.Response:
    """``POST /stacks/{stack_id}/extend``"""
    body = await read_body(call)
    room, stack_id, by = call.api.room, call.request.match_info["stack_id"], call.key.name
    fields = bodies.parse_object(body, EXTEND_FIELDS, EXTEND_FIELDS)
    seconds = orders.ttl_of(fields, room.config.stacks.max_ttl)
    again = replayable(call, body)
    if again is None:
        return json_response(answers.detail_body(await extend(room, stack_id, seconds, by=by)))

    async def run(claim: Claim) -> Answer:
        stack = await extend(room, stack_id, seconds, by=by, claim=claim, answer=answers.detail_body)
        return Answer(status=200, body=answers.detail_body(stack))

    return replayed(await call.api.replays.once(again, run))


async def stop_stack(call: Call) -> web.Response:
    """``POST /stacks/{stack_id}/stop``"""
    stack = await stop(call.api.room, call.request.match_info["stack_id"], by=call.key.name)
    return json_response(answers.detail_body(stack))


async def start_stack(call: Call) -> web.Response:
    """``POST /stacks/{stack_id}/start``"""
    with call.api.limits.create(call.key.name):
        stack = await start(call.api.room, call.request.match_info["stack_id"], by=call.key.name)
    return json_response(answers.detail_body(stack))


async def restart_stack(call: Call) -> web.Response:
    """``POST /stacks/{stack_id}/restart``"""
    with call.api.limits.create(call.key.name):
        stack = await restart(call.api.room, call.request.match_info["stack_id"], by=call.key.name)
    return json_response(answers.detail_body(stack))
