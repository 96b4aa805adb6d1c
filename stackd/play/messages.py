"""Messages of organisers, which players read on their page: say one, list them, take one back.

Owns: whom a message reaches. They are few and short, so the state file keeps all of them as one value.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Final, cast

import msgspec
from aiohttp import web

from stackd import contract
from stackd.clock import NANOSECONDS
from stackd.codes import ErrorCode
from stackd.errors import Conflict, NotFound, PermissionDenied
from stackd.keys import ApiKey
from stackd.lifecycle.context import Context
from stackd.model import NO_LABELS, AuditKind, Principal
from stackd.play.tokens import LinkKey
from stackd.printable import printable
from stackd.web import requests
from stackd.web.activity import moment
from stackd.web.api import Answer, ApiCall, route
from stackd.web.auth import ADMIN
from stackd.web.bodies import time_of
from stackd.web.openapi import LINKS
from stackd.web.requests import wrong
from stackd.web.responses import json_response
from stackd.web.stacks import read_body

KEPT: Final = "messages"  # the name of the value in the file
MOST_OF_A_KEY: Final = 10
LONGEST: Final = 31 * 86_400
DEFAULT: Final = "1h"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message to those whose stacks have these ``labels``, may they have started one or not, and who may use the ``template``;
    to the players of these ``links`` only, if there are some; until a time in nanoseconds."""

    message_id: str
    text: str
    labels: Mapping[str, str]
    template: str
    until: int
    by: str
    links: frozenset[str] = frozenset()

    def reaches(self, player: LinkKey) -> bool:
        link = player.link
        if self.links and self.links.isdisjoint((link.player, link.link_id)):
            return False
        return self.labels.items() <= player.labels.items() and (not self.template or player.may_use(self.template))

    def concerns(self, key: ApiKey) -> bool:
        """Whether somebody may read it who has stacks that the key sees. A tenant does not know others' links."""
        if self.links and key.tenant and self.by != str(key.principal):
            return False
        same = all(key.labels.get(name, value) == value for name, value in self.labels.items())
        return same and (not self.template or key.may_use(self.template))

    def shown(self, key: ApiKey) -> contract.Message:
        """What the key reads of it: a tenant's labels go without saying."""
        labels = {name: value for name, value in self.labels.items() if name not in key.labels}
        by, until = Principal.parse(self.by).name, time_of(self.until)
        return contract.Message(
            message_id=self.message_id,
            text=self.text,
            labels=labels,
            template=self.template,
            links=tuple(sorted(self.links)),
            until=until,
            by=by,
        )


class Messages:
    """Those that are in force, as the file has them."""

    def __init__(self, context: Context) -> None:
        self._context, self._lock = context, asyncio.Lock()
        self._kept = msgspec.json.decode(context.store.messages, type=list[Message])

    def now(self) -> list[Message]:
        """Those that have not ended, the oldest first."""
        return [each for each in self._kept if each.until > self._context.clock.now()]

    async def change(self, added: Message | None, removed: str = "") -> None:
        """Add a message, or remove one by its id. Raises Conflict if whoever adds one has too many."""
        await self._context.tasks.run(KEPT, self._change(added, removed))

    async def _change(self, added: Message | None, removed: str) -> None:
        async with self._lock:
            kept = [each for each in self.now() if each.message_id != removed]
            if added is not None and sum(each.by == added.by for each in kept) >= MOST_OF_A_KEY:
                raise Conflict(f"this API key has {MOST_OF_A_KEY} messages that are shown; delete one")
            kept += [] if added is None else [added]
            await self._context.store.set_meta(KEPT, msgspec.json.encode(kept).decode())
            self._kept = kept


def messages_of(call: ApiCall) -> Messages:
    return cast(Messages, call.api.players.messages)


@route(
    "POST",
    "/messages",
    LINKS,
    Answer("It is shown.", contract.Message, status=201),
    body=contract.CreateMessage,
    errors=(409,),
)
async def create_message(call: ApiCall) -> web.Response:
    """Say something to players.

    The page /play shows it within seconds, and so does a platform's page that asks for it. Without labels and template, it
    reaches everybody; from a tenant's key, the tenant's players.
    """
    given = requests.parse(await read_body(call), contract.CreateMessage)
    text = printable(" ".join(given.text.split()))
    if given.template and call.view.template(given.template) is None:
        sentence = f'there is no "{given.template[:64]}" that this API key may use'
        raise wrong("template", sentence, ErrorCode.TEMPLATE_NOT_FOUND)
    labels = call.view.labels_of_create(requests.unreserved(given.labels or NO_LABELS), NO_LABELS)
    message = Message(
        message_id=f"message-{secrets.token_hex(8)}",
        text=text,
        labels=labels,
        template=given.template or "",
        links=frozenset(given.links or ()),
        until=_end_of(given.until or DEFAULT, call.api.context.clock.now()),
        by=str(call.key.principal),
    )
    await messages_of(call).change(message)
    count = f"{len(message.links)} links" if message.links else ""
    to = " ".join(filter(None, [*map("=".join, labels.items()), message.template, count])) or "everybody"
    call.api.context.audit.note(AuditKind.MESSAGE, f"{message.message_id} to {to}: {text}", by=call.key.principal)
    return json_response(message.shown(call.key), 201)


@route("GET", "/messages", LINKS, Answer("The messages.", contract.MessageList))
async def list_messages(call: ApiCall) -> web.Response:
    """List the messages that are shown now: to a tenant's key, those that its players may read."""
    shown = tuple(each.shown(call.key) for each in messages_of(call).now() if each.concerns(call.key))
    return json_response(contract.MessageList(messages=shown))


@route("DELETE", "/messages/{message_id}", LINKS, Answer("It is shown no more.", contract.MessageList))
async def delete_message(call: ApiCall) -> web.StreamResponse:
    """Show a message no more. A tenant's key takes back its own."""
    message_id = call.parts["message_id"]
    found = next((each for each in messages_of(call).now() if each.message_id == message_id), None)
    if found is None or not found.concerns(call.key):
        raise NotFound(f"message not found: {message_id}", code=ErrorCode.NOT_FOUND)
    if call.key.scope != ADMIN and found.by != str(call.key.principal):
        raise PermissionDenied("the message is another key's")
    await messages_of(call).change(None, message_id)
    call.api.context.audit.note(AuditKind.MESSAGE, f"{message_id} deleted", by=call.key.principal)
    return await list_messages(call)


def _end_of(text: str, now: int) -> int:
    try:
        until = moment(text, 1)(now)
    except ValueError as error:
        raise wrong("until", f"must be {error}") from error
    if not now < until <= now + LONGEST * NANOSECONDS:
        raise wrong("until", f"must be a time within the next {LONGEST // 86_400} days")
    return until
