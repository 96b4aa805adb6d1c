"""The routes of the page /play: what a player may start, the player's stacks, and what a player may do about them.

They are the page's own, so they are not in the API's description; ``docs/links.md`` has them for pages of other platforms.
An error has its code and what a player may read, nothing else. Times are seconds from now, because phones' clocks are wrong.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, cast

from aiohttp import web
from msgspec import json

from stackd.codes import ErrorCode
from stackd.contract import Request
from stackd.errors import ClusterUnavailable, Conflict, StackNotFound, TooLongALife, Unauthenticated
from stackd.lifecycle.verbs import delete, extend, restart
from stackd.model import Stack
from stackd.play.players import players_of
from stackd.play.state import Shown, offer_of
from stackd.play.tokens import LinkKey
from stackd.store import Claim
from stackd.store.links import Link
from stackd.web import requests, stacks
from stackd.web.api import CALLER, ApiCall, route
from stackd.web.idempotency import StoredResponse
from stackd.web.responses import json_response

_of_player = partial(route, players=True)
ROUND_A_LINK = string.whitespace + ".,;:!?)>]}'\"…"
"""What comes along when somebody copies a link from a sentence."""


class OpenLink(Request, frozen=True, kw_only=True):
    """A player's browser opens a link."""

    token: Annotated[str | None, "What follows the `#` of the link."] = None
    code: Annotated[str | None, "Its short code, as somebody has typed it."] = None


class StartOfPlayer(Request, frozen=True, kw_only=True):
    """A player starts a stack."""

    template: Annotated[str, "The template's name."]
    replace: Annotated[str | None, "A stack of the player's that is stopped first."] = None


@route("POST", "/play/session", public=True, asks=True)
async def open_session(call: ApiCall) -> web.Response:
    """Exchange a link's token or code for a cookie; of an open link, each browser gets one of its own."""
    players = players_of(call)
    players.require_own_page(call.request)
    given = requests.parse(await stacks.read_body(call), OpenLink)
    token = (given.token or "").strip(ROUND_A_LINK)
    if given.code:
        link, token = await players.of_code(call.request, given.code)
    else:
        link = players.signer.read_token(token)
    link = players.valid(link)
    call.request[CALLER] = LinkKey.of(link).principal
    if link.total:
        link = _same_link(call, link) or players.new_visitor(call.request, link)
    players.note_visit(link)
    response = web.Response(status=204)
    players.remember(call.request, response, players.signer.session(link, token), players.remaining(link))
    players.opened(call.request)
    return response


def _same_link(call: ApiCall, link: Link) -> Link | None:
    """The session that the browser has of this open link already."""
    with suppress(Unauthenticated):
        session = players_of(call).session(call.request)
        return session if session.link_id == link.link_id else None
    return None


@route("DELETE", "/play/session", public=True, standby=True)
async def close_session(call: ApiCall) -> web.Response:
    """Have the browser forget the session."""
    players_of(call).require_own_page(call.request)
    response = web.Response(status=204)
    players_of(call).remember(call.request, response)
    return response


@_of_player("GET", "/play/stacks")
async def list_player_stacks(call: ApiCall) -> web.Response:
    """What the player may start and has."""
    return json_response(_shown(call).everything())


@_of_player("POST", "/play/stacks")
async def start_player_stack(call: ApiCall) -> web.Response:
    """Start a stack of a template, after another one is stopped if ``replace`` names it. A player has one of each template: a
    second start returns it. A repetition with the same Idempotency-Key gets the first answer again."""

    async def run(body: bytes, claim: Claim | None) -> StoredResponse:
        given = requests.parse(body, StartOfPlayer)
        wanted = {"template": given.template, "if_exists": "return"}
        with call.api.limits.create(call.key.principal.id):
            parsed = await requests.create_body(call.view, json.encode(wanted))
            if (other := call.view.get(given.replace or "")) is not None:
                call.api.limits.per_label.check(parsed.create_request.labels, call.key.among)
                await call.api.context.gate.admitted()
                await _stop(call, call.view.changeable(other))
            stack, status = await stacks.made(call, parsed, claim)
        return StoredResponse(status=status, body=_shown(call).stack(stack))

    async def again(claim: Claim) -> bytes:
        if (stack := call.view.get(claim.stack_id or "")) is None:
            raise Conflict("what this Idempotency-Key has started is gone", code=ErrorCode.ANSWER_GONE)
        return _shown(call).stack(stack)

    return await stacks.first_answer(call, run, again)


@_of_player("POST", "/play/stacks/{stack_id}/extend")
async def extend_player_stack(call: ApiCall) -> web.Response:
    """Extend a stack by as much, and as often, as its template says."""
    await stacks.require_no_body(call)
    stack = call.changeable
    more = offer_of(call.api.context, stack)
    if not more.times:
        raise TooLongALife(f"the template of {stack.stack_id} allows no extensions", "")
    with _acting(call, stack):
        stack = await extend(call.api.context, stack.stack_id, more.by, by=call.key.principal, times=more.times)
    return json_response(_shown(call).stack(stack))


@_of_player("POST", "/play/stacks/{stack_id}/restart")
async def restart_player_stack(call: ApiCall) -> web.Response:
    """Give a stack a fresh pod."""
    await stacks.require_no_body(call)
    with _acting(call, call.stack):
        stack = await stacks.fresh(call, restart)
    return json_response(_shown(call).stack(stack))


@_of_player("DELETE", "/play/stacks/{stack_id}")
async def stop_player_stack(call: ApiCall) -> web.Response:
    """Stop a stack, which deletes it."""
    await stacks.require_no_body(call)
    stack = call.changeable
    await _stop(call, stack)
    remaining = call.view.get(stack.stack_id)
    shown = _shown(call)
    return json_response(shown.nothing(stack.template or "") if remaining is None else shown.stack(remaining))


@contextmanager
def _acting(call: ApiCall, stack: Stack) -> Iterator[None]:
    """What is done meanwhile is the player's own."""
    acting = players_of(call).acting
    acting.add(stack.stack_id)
    try:
        yield
    finally:
        acting.discard(stack.stack_id)


async def _stop(call: ApiCall, stack: Stack) -> None:
    """Delete the stack. If the cluster does not confirm that now, it is deleted later, and counts no more."""
    players_of(call).stopped.add(stack.stack_id)
    with suppress(ClusterUnavailable, StackNotFound):
        await delete(call.api.context, stack.stack_id, by=call.key.principal)


def _shown(call: ApiCall) -> Shown:
    return Shown(call.api.context, players_of(call), cast(LinkKey, call.key))
