"""The routes of links for players and helpers: make one, list them, revoke one.

Owns: which links a key may make. A link can do no more than the key that makes it: a tenant's has the tenant's labels, and
of its templates.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Final

from aiohttp import web
from msgspec.structs import asdict

from stackd import contract
from stackd.clock import NANOSECONDS
from stackd.codes import ErrorCode
from stackd.errors import ClusterUnavailable, Conflict, NotFound, PermissionDenied
from stackd.keys import READ, ApiKey
from stackd.model import NO_LABELS, AuditKind
from stackd.names import matches_any
from stackd.play.players import players_of
from stackd.play.state import Shown
from stackd.play.tokens import LINK, LONGEST_TOKEN, PLAYER, new_code
from stackd.podspec.decoding import decode
from stackd.printable import printable
from stackd.store.links import KeptLink
from stackd.web import requests
from stackd.web.api import Answer, ApiCall, route
from stackd.web.auth import ADMIN
from stackd.web.bodies import encoder, rendered_entries, time_of
from stackd.web.listing import DEFAULT_PAGE, LARGEST_PAGE, cursor_for, cursor_of, end_of_page
from stackd.web.openapi import LINKS
from stackd.web.parameters import number, one_of
from stackd.web.requests import wrong
from stackd.web.responses import json_response, streamed_list
from stackd.web.sign_in import WRITE_SECONDS
from stackd.web.stacks import read_body

LONGEST_LIFE: Final = 366 * 86400
DEFAULT_LIFE: Final = "7d"
LONGEST_LINK_NAME = 40
OPEN: Final = b'{"links":['
READ_AT_ONCE: Final = 250
START: Final = (0, "")
CURSOR: Final = cursor_for("/links")
LIMIT: Final = number(
    "limit",
    f"Most links on a page ({DEFAULT_PAGE} if only a cursor is given). The answer then has `next_cursor`.",
    1,
    LARGEST_PAGE,
)
SCOPE: Final = one_of("scope", "Only links of helpers.", (READ,))
_entry: Final = encoder(contract.KeptLink)

OF_HELPERS: Final = frozenset({"scope", "name", "expires"})
WILD: Final = frozenset("*?")
LINK_ID: Final = re.compile(r"link-[0-9a-f]{16}")


@route(
    "POST", "/links", LINKS, Answer("The link.", contract.NewLink, status=201), body=contract.CreateLink, errors=(409,)
)
async def create_link(call: ApiCall) -> web.Response:
    """Make a link for a player, or for a helper.

    Whoever has the link starts stacks of these templates on the page /play, without a key. It is shown once, with a short code
    that can be typed on the page instead. With `each`, it is an open link: everybody who opens it is a player of their own. With
    `"scope": "read"`, which only an admin's key may send, it opens the dashboard, and what follows `#key=` is an API key of scope
    `read`.
    """
    given = requests.parse(await read_body(call), contract.CreateLink)
    play, signer = call.api.context.config.play, players_of(call).signer
    if not play.url or not signer:
        no_secret = "there is no secret; on stackd's machine, make it with: stackd links rotate"
        missing = "play.url is not set, the address by which browsers reach stackd" if signer else no_secret
        raise Conflict(f"there are no links here: {missing}", code=ErrorCode.PLAY_NOT_CONFIGURED)
    link = _link_of(call, given)
    token, code = signer.token(link), new_code() if link.stacks else ""
    if (over := len(token) - LONGEST_TOKEN) > 0:
        raise wrong("labels", f"name, labels and templates are too long for a link, by {over} bytes")
    code_digest = next(iter(signer.code_digests(code))) if code else ""
    await call.api.context.store.links.add(replace(link, code=code_digest))
    url = play.url + (f"/play#{token}" if link.stacks else f"/dashboard#key={token}")
    expires_at = time_of(link.expires_at)
    reads = "" if link.stacks else ", who reads the dashboard"
    what = f"{link.link_id} made: {link.name}{reads}, until {expires_at}"
    call.api.context.audit.note(AuditKind.LINK, what, by=call.key.principal)
    made = contract.NewLink(link_id=link.link_id, url=url, name=link.name, expires_at=expires_at, code=code)
    return json_response(made, 201)


@route("GET", "/links", LINKS, Answer("The links.", contract.LinkList), query=(SCOPE, LIMIT, CURSOR))
async def list_links(call: ApiCall) -> web.StreamResponse:
    """List the links that have not expired.

    Those that this file knows: a link also works if it does not. The links themselves are shown to nobody again. Without
    parameters: all of them.
    """
    cursor, limit, scope = call.parameters.get(CURSOR), call.parameters.get(LIMIT), call.parameters.get(SCOPE, "")
    if cursor is None and limit is None:
        return await streamed_list(call.request, OPEN, _entries(call, scope), b"]}")
    limit, page = limit or DEFAULT_PAGE, list[KeptLink]()
    async for links in _seen(call, scope, cursor or START):
        page += links
        if len(page) > limit:
            break
    next_cursor = cursor_of(page[limit - 1].created_at, page[limit - 1].link_id) if len(page) > limit else None
    return await streamed_list(call.request, OPEN, rendered_entries(page[:limit], _entry), end_of_page(next_cursor))


async def _entries(call: ApiCall, scope: str) -> AsyncGenerator[bytes, None]:
    comma = b""
    async for links in _seen(call, scope, START):
        yield comma
        async for piece in rendered_entries(links, _entry):
            yield piece
        comma = b","


async def _seen(call: ApiCall, scope: str, after: tuple[int, str]) -> AsyncGenerator[list[KeptLink], None]:
    """The links of this scope that the key may see, from after this place, as they are read from the file."""
    while kept := await call.api.context.store.links.page(after, READ_AT_ONCE):
        if seen := [one for one in kept if call.key.may_see(one.labels) and scope in ("", one.scope)]:
            yield [players_of(call).with_visits(one) for one in seen]
        after = kept[-1].created_at, kept[-1].link_id


@route("DELETE", "/links/{link_id}", LINKS, Answer("It is revoked.", contract.Revoked), errors=(409,))
async def revoke_link(call: ApiCall) -> web.Response:
    """Revoke a link.

    From now on it opens nothing, and its sessions and event streams end. Its stacks stay. An admin's key can revoke an id that
    this file does not know, too.
    """
    context, link_id = call.api.context, call.parts["link_id"]
    kept = await context.store.links.find(link_id)
    any_id = call.key.scope == ADMIN and LINK_ID.fullmatch(link_id)
    if not (any_id if kept is None else call.key.may_see(kept.labels)):
        raise NotFound(f"link not found: {link_id}", code=ErrorCode.LINK_NOT_FOUND)
    expires_at = context.clock.now() + LONGEST_LIFE * NANOSECONDS if kept is None else kept.expires_at
    is_new = link_id not in context.store.links.revoked
    maker = kept.by if kept is not None and call.key.tenant else None
    tenants = sum(key.tenant for key in context.config.auth.keys)
    await context.store.links.revoke_one(link_id, expires_at, maker, tenants)
    if is_new:
        of_whom = "" if kept is None else f": {kept.name}"
        context.audit.note(AuditKind.LINK, f"{link_id} revoked{of_whom}", by=call.key.principal)
    call.api.feed.wake()
    if not await context.gate.ownership.revocations_written(WRITE_SECONDS):
        sentence = f"{link_id} is revoked here, but Kubernetes does not have that yet: repeat the request"
        raise ClusterUnavailable(f"{sentence}, or the next owner of the stacks may not know it")
    return json_response(contract.Revoked(link_id=link_id))


@route("GET", "/play/links/{link_id}")
@route("GET", "/play/links/{link_id}/{visitor}")
async def show_player_page(call: ApiCall) -> web.Response:
    """What the page of a link shows, without values, to a key that may see the link: of an open link, to one of its visitors."""
    link_id, visitor = call.parts["link_id"], call.parts.get("visitor", "")
    kept = await call.api.context.store.links.find(link_id)
    if kept is None or kept.scope or not call.key.may_see(kept.labels):
        raise NotFound(f"link not found: {link_id}", code=ErrorCode.LINK_NOT_FOUND)
    players = players_of(call)
    key = players.key_of(kept.visited(visitor))
    return json_response(Shown(call.api.context, players, key, watched=True).everything())


def _link_of(call: ApiCall, given: contract.CreateLink) -> KeptLink:
    """The link that the body asks for. Raises InvalidRequest, PermissionDenied."""
    helper, is_open = given.scope is not None, given.each is not None
    if helper:
        _check_helper(call.key, given)
    if is_open != (given.total is not None):
        raise wrong("total", "the most stacks of all visitors goes with each, and each with total")
    labels = NO_LABELS if helper else _labels(call, given.labels, is_open=is_open)
    return KeptLink(
        link_id=f"link-{secrets.token_hex(8)}",
        name=_name(given.name or " ".join(labels.values())[:LONGEST_LINK_NAME]),
        labels=labels,
        templates=() if helper else _templates(call.key, given.templates or ()),
        stacks=0 if helper else given.stacks or 1,
        expires_at=(call.api.context.clock.now() // NANOSECONDS + _life(given.expires or DEFAULT_LIFE)) * NANOSECONDS,
        among=call.key.labels,
        total=given.total or 0,
        by=call.key.principal,
        player_name=printable(given.player_name or ""),
    )


def _check_helper(key: ApiKey, given: contract.CreateLink) -> None:
    """Raise PermissionDenied or InvalidRequest if this is no body of a helper's link."""
    if key.scope != ADMIN:
        raise PermissionDenied("only an API key of scope admin makes links for helpers")
    if extra := sorted(name for name, value in asdict(given).items() if value and name not in OF_HELPERS):
        raise wrong(extra[0], "does not go with scope: a helper starts nothing")


def _name(name: str) -> str:
    if not name.isprintable() or " ".join(name.split()) != name or not name:
        raise wrong("name", "must be printable characters with single spaces between them")
    return name


def _labels(call: ApiCall, given: Mapping[str, str], *, is_open: bool) -> Mapping[str, str]:
    """The key's labels and those of the body; one player's link needs some that tell the player from others."""
    labels = call.view.labels_of_create(requests.unreserved(given), NO_LABELS)
    own = {name: value for name, value in labels.items() if name not in call.key.labels}
    if not all(own.values()):
        raise wrong("labels", "a label of a link needs a value")
    if is_open and PLAYER in {name.lower() for name in own}:
        raise wrong("labels", f"{PLAYER} is given to each visitor; leave it out")
    if not is_open and not own:
        raise wrong("labels", 'give at least one that is the player\'s own, such as {"player": "seat-12"}')
    all_labels = {**labels, **({PLAYER: "visitor", LINK: "link"} if is_open else {})}
    requests.check_required(all_labels, call.api.context.config.limits.required_labels)
    decode(contract.Labels, all_labels, "labels")
    return labels


def _templates(key: ApiKey, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns, each no wider than one of the key's."""
    for pattern in patterns if key.templates else ():
        if pattern not in key.templates and (WILD & set(pattern) or not matches_any(key.templates, pattern)):
            theirs = ", ".join(key.templates)
            raise wrong("templates", f"this API key may use {theirs}; name one of them, or such a pattern")
    return patterns or key.templates


def _life(text: str) -> int:
    seconds = requests.duration_of("expires", text)
    if not 1 <= seconds <= LONGEST_LIFE:
        raise wrong("expires", f'must be a time such as "7d", from 1s to {LONGEST_LIFE // 86400}d')
    return int(seconds)
