"""The routes of links for players and helpers: make one, list them, revoke one.

Owns: which links a key may make. A link can do no more than the key that makes it: a tenant's has the tenant's labels, and
of its templates.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from stackd import contract
from stackd.clock import NANOSECONDS
from stackd.codes import ErrorCode
from stackd.contract import fields_of
from stackd.errors import ClusterUnavailable, Conflict, InvalidRequest, NotFound, PermissionDenied, Reason
from stackd.keys import ApiKey
from stackd.links import LINK, LONGEST_TOKEN, PLAYER, READ, Link
from stackd.model import NO_LABELS, AuditKind
from stackd.names import LONGEST_LABEL, matches_any
from stackd.store.links import KeptLink
from stackd.web import requests
from stackd.web.api import Answer, ApiCall, route
from stackd.web.auth import ADMIN
from stackd.web.bodies import encoder, rendered_entries, time_of
from stackd.web.listing import DEFAULT_PAGE, LARGEST_PAGE, cursor_for, cursor_of, listed
from stackd.web.parameters import number, one_of, seconds_of
from stackd.web.responses import json_response, streamed_json
from stackd.web.stacks import read_body

LINKS: Final = "Links"
LONGEST_LIFE: Final = 366 * 86400
DEFAULT_LIFE: Final = "7d"
MOST_PATTERNS, LONGEST_LINK_NAME = 16, 40
WRITE_SECONDS: Final = 5.0
"""How long a revocation waits until the Lease has it."""

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

WORDS: Final = {"each": "visitor", "scope": READ}
"""The fields that have one value, if they are given."""

OF_HELPERS: Final = frozenset({"scope", "name", "expires"})
FIELDS: Final = {each.name: each for each in fields_of(contract.CreateLink)}
WILD: Final = frozenset("*?")
LINK_ID: Final = re.compile(r"link-[0-9a-f]{16}")


@route(
    "POST", "/links", LINKS, Answer("The link.", contract.NewLink, status=201), body=contract.CreateLink, errors=(409,)
)
async def create_link(call: ApiCall) -> web.Response:
    """Make a link for a player, or for a helper.

    Whoever has the link starts stacks of these templates on the page /play, without a key. It is shown once. With `each`, it is
    an open link: everybody who opens it is a player of their own. With `"scope": "read"`, which only an admin's key may send, it
    opens the dashboard, and what follows `#key=` is an API key of scope `read`.
    """
    fields = requests.parse_object(await read_body(call), contract.CreateLink)
    play, signer = call.api.context.config.play, call.api.players.signer
    if not play.url or not signer:
        no_secret = "there is no secret; on stackd's machine, make it with: stackd links rotate"
        missing = "play.url is not set, the address by which browsers reach stackd" if signer else no_secret
        raise Conflict(f"there are no links here: {missing}", code=ErrorCode.PLAY_NOT_CONFIGURED)
    link = _link_of(call, fields)
    token = signer.token(link)
    if (over := len(token) - LONGEST_TOKEN) > 0:
        raise _wrong("labels", f"name, labels and templates are too long for a link, by {over} bytes")
    await call.api.context.store.links.add(link, call.key.principal)
    url = play.url + (f"/play#{token}" if link.stacks else f"/dashboard#key={token}")
    expires_at = time_of(link.expires_at * NANOSECONDS)
    reads = "" if link.stacks else ", who reads the dashboard"
    what = f"{link.link_id} made: {link.name}{reads}, until {expires_at}"
    call.api.context.audit.note(AuditKind.LINK, what, by=call.key.principal)
    return json_response(contract.NewLink(link_id=link.link_id, url=url, name=link.name, expires_at=expires_at), 201)


@route("GET", "/links", LINKS, Answer("The links.", contract.LinkList), query=(SCOPE, LIMIT, CURSOR))
async def list_links(call: ApiCall) -> web.StreamResponse:
    """List the links that have not expired.

    Those that this file knows: a link also works if it does not. The links themselves are shown to nobody again. Without
    parameters: all of them.
    """
    cursor, limit, scope = call.parameters.get(CURSOR), call.parameters.get(LIMIT), call.parameters.get(SCOPE, "")
    if cursor is None and limit is None:
        return await streamed_json(call.request, listed(OPEN, _entries(call, scope), b"]}"))
    limit, page = limit or DEFAULT_PAGE, list[KeptLink]()
    async for links in _seen(call, scope, cursor or START):
        page += links
        if len(page) > limit:
            break
    next_cursor = cursor_of(page[limit - 1].created_at, page[limit - 1].link_id) if len(page) > limit else None
    end = b'],"next_cursor":%b}' % orjson.dumps(next_cursor)
    return await streamed_json(call.request, listed(OPEN, rendered_entries(page[:limit], _entry), end))


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
            yield seen
        after = kept[-1].created_at, kept[-1].link_id


@route("DELETE", "/links/{link_id}", LINKS, Answer("It is revoked.", contract.Revoked), errors=(409,))
async def revoke_link(call: ApiCall) -> web.Response:
    """Revoke a link.

    From now on it opens nothing, and its sessions and event streams end. Its stacks stay. An admin's key can revoke an id that
    this file does not know, too.
    """
    context, link_id = call.api.context, call.request.match_info["link_id"]
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


def _link_of(call: ApiCall, fields: dict[str, Any]) -> Link:
    """The link that the body asks for. Raises InvalidRequest, PermissionDenied."""
    for name, word in WORDS.items():
        if fields.get(name, word) != word:
            raise _wrong(name, f'{name} must be "{word}", or left out')
    helper, is_open, config = "scope" in fields, "each" in fields, call.api.context.config
    if helper:
        _check_helper(call.key, fields)
    if is_open != ("total" in fields):
        raise _wrong("total", "total, the most stacks of all visitors, goes with each, and each with total")
    labels = NO_LABELS if helper else _labels(call, fields, is_open=is_open)
    return Link(
        link_id=f"link-{secrets.token_hex(8)}",
        name=_name(fields.get("name") or " ".join(labels.values())[:LONGEST_LINK_NAME]),
        labels=labels,
        templates=() if helper else _templates(call.key, fields.get("templates", [])),
        stacks=0 if helper else _number(fields, "stacks", 1),
        expires_at=call.api.context.clock.now() // NANOSECONDS + _life(fields.get("expires", DEFAULT_LIFE)),
        among=call.key.labels,
        total=_number(fields, "total", 0),
        work=_number(fields, "work", config.play.work if is_open else 0),
    )


def _check_helper(key: ApiKey, fields: dict[str, Any]) -> None:
    """Raise PermissionDenied or InvalidRequest if this is no body of a helper's link."""
    if key.scope != ADMIN:
        raise PermissionDenied("only an API key of scope admin makes links for helpers")
    if extra := sorted(name for name in fields.keys() - OF_HELPERS if fields[name]):
        raise _wrong(extra[0], f"{extra[0]} does not go with scope: a helper starts nothing")


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name.isprintable() or " ".join(name.split()) != name or not name:
        raise _wrong("name", "name must be printable characters with single spaces between them")
    if len(name) > LONGEST_LINK_NAME:
        raise _wrong("name", f"name has {len(name)} characters; {LONGEST_LINK_NAME} at most")
    return name


def _labels(call: ApiCall, fields: dict[str, Any], *, is_open: bool) -> Mapping[str, str]:
    """The key's labels and those of the body; one player's link needs some that tell the player from others."""
    asked = requests.labels_of(fields["labels"], unreserved=True)
    labels = call.view.labels_of_create(asked, NO_LABELS)
    own = {name: value for name, value in labels.items() if name not in call.key.labels}
    if not all(own.values()):
        raise _wrong("labels", "labels: a label of a link needs a value")
    if is_open and PLAYER in {name.lower() for name in own}:
        raise _wrong("labels", f"labels: {PLAYER} is given to each visitor; leave it out")
    if not is_open and not own:
        raise _wrong("labels", 'labels: give at least one that is the player\'s own, such as {"player": "seat-12"}')
    given = {**labels, **({PLAYER: "visitor", LINK: "link"} if is_open else {})}
    requests.check_required(given, call.api.context.config.limits.required_labels)
    return requests.labels_of(given) and labels


def _templates(key: ApiKey, patterns: Any) -> tuple[str, ...]:
    """The patterns, each no wider than one of the key's."""
    if not isinstance(patterns, list) or len(patterns) > MOST_PATTERNS or not all(map(_is_pattern, patterns)):
        sentence = f'templates must be a list of at most {MOST_PATTERNS} names such as "lab-*"'
        raise _wrong("templates", f"{sentence}, of at most {LONGEST_LABEL} characters each")
    for pattern in patterns if key.templates else ():
        if pattern not in key.templates and (WILD & set(pattern) or not matches_any(key.templates, pattern)):
            theirs = ", ".join(key.templates)
            raise _wrong("templates", f"templates: this API key may use {theirs}; name one of them, or such a pattern")
    return tuple(patterns) or key.templates


def _is_pattern(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_LABEL


def _life(value: Any) -> int:
    """The field ``expires`` in seconds."""
    try:
        seconds = seconds_of(value) if isinstance(value, str) else 0.0
    except ValueError as error:
        raise _wrong("expires", f"expires must be {error}") from error
    if not 1 <= seconds <= LONGEST_LIFE:
        raise _wrong("expires", f'expires must be a time such as "7d", from 1s to {LONGEST_LIFE // 86400}d')
    return int(seconds)


def _number(fields: dict[str, Any], name: str, default: int) -> int:
    value, limits = fields.get(name), FIELDS[name].keywords
    if value is not None and (type(value) is not int or not limits["minimum"] <= value <= limits["maximum"]):
        raise _wrong(name, f"{name} must be a whole number from {limits['minimum']} to {limits['maximum']}")
    return default if value is None else value


def _wrong(path: str, sentence: str) -> InvalidRequest:
    return InvalidRequest(f"invalid request body: {sentence}", [Reason(path=path, text=sentence)])
