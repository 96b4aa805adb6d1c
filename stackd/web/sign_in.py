"""The routes by which people sign in to the dashboard and out of it (``web.oidc``); they are for browsers only."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from html import escape
from typing import Final

from aiohttp import web

from stackd.errors import NotFound, StackdError, Unavailable
from stackd.lifecycle.ownership import Role
from stackd.model import AuditKind
from stackd.web.api import ApiCall, route
from stackd.web.oidc import CALLBACK, LOGIN, LOGOUT, SignIn
from stackd.web.pages import PROTECTION

log = logging.getLogger(__name__)

FAILED: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>stackd: not signed in</title>'
    "<h1>You are not signed in</h1><p>{}.</p>"
    '<p><a href="{}">Try again</a>, or <a href="/dashboard">use an API key</a>.</p>'
)


WRITE_SECONDS: Final = 5.0
"""How long a revocation waits until the Lease has it."""


@route("GET", LOGIN, public=True, standby=True)
async def login(call: ApiCall) -> web.Response:
    """Send a browser to the issuer; ``view`` is what the dashboard shows when it is back."""
    return await _answered(call, lambda sign_in: sign_in.begin(call.request.query.get("view", "")))


@route("GET", CALLBACK, public=True, standby=True)
async def callback(call: ApiCall) -> web.Response:
    """The issuer sends the browser back."""

    async def finish(sign_in: SignIn) -> web.Response:
        answer, key = await sign_in.finish(call.request)
        call.api.context.audit.note(AuditKind.SIGN_IN, f"signed in, scope {key.scope}", by=key.principal)
        return answer

    return await _answered(call, finish)


@route("POST", LOGOUT, public=True, standby=True)
async def logout(call: ApiCall) -> web.Response:
    """End the session of the browser that asks. One that would survive a restart is kept as a revoked link is, in the file
    and the Lease."""
    sign_in, context = call.api.keys.sign_in, call.api.context
    if session := sign_in.lasting(call.request):
        await context.store.links.revoke_one(*session, tenants=1)
        if context.gate.ownership.role is Role.OWNER:
            await context.gate.ownership.revocations_written(WRITE_SECONDS)
    return sign_in.leave(call.request)


async def _answered(call: ApiCall, answering: Callable[[SignIn], Awaitable[web.Response]]) -> web.Response:
    """The redirect, or a page for the person who waits for it: these two are no requests of a program."""
    keys = call.api.keys
    keys.refuse_many(call.request, attempt=False)
    try:
        if not keys.sign_in.offered:
            raise NotFound("nobody signs in here: [auth.oidc] has no issuer")
        return await answering(keys.sign_in)
    except StackdError as error:
        log.warning("a sign-in from %s failed: %s", keys.caller(call.request), error)
        if not isinstance(error, Unavailable):
            keys.refuse_many(call.request, attempt=True)
        return web.Response(
            status=error.code.status,
            text=FAILED.format(escape(error.sentence), LOGIN),
            content_type="text/html",
            headers=PROTECTION,
        )
