"""Players: which link a request below ``/play`` belongs to, and the budgets of players. And helpers, whose link is an API key.

Owns: the cookie, and that a request comes from stackd's own page. The cookie is the signed session (``stackd.play.tokens``), so a
session survives a restart and a takeover. It opens no other route, and no API key opens these.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from dataclasses import replace
from typing import Final, Generic, TypeVar, cast

from aiohttp import hdrs, web

from stackd.clock import NANOSECONDS, Clock
from stackd.codes import ErrorCode
from stackd.config import Config
from stackd.errors import PermissionDenied, TooManyRequests, Unauthenticated
from stackd.keys import ApiKey
from stackd.lifecycle.context import Context
from stackd.model import DeleteReason, Stack, list_key
from stackd.play.messages import Messages
from stackd.play.tokens import LinkKey, Signer
from stackd.store.links import KeptLink, Link, Visit
from stackd.templates import Template
from stackd.web.api import ApiCall
from stackd.web.auth import SAFE_METHODS, Failures, Keys, client_network
from stackd.web.connection import HttpConnection

K = TypeVar("K")
Ended = tuple[str | None, frozenset[tuple[str, str]]]  # the template and the labels of a stack that is gone

COOKIE: Final = "stackd-play"
HOST_COOKIE: Final = "__Host-stackd-play"
"""The name with https: a browser takes this name only from stackd's own host, and no stack at another name below its domain
can set it. Such a cookie has the path ``/``."""

OWN_PAGE: Final = "X-Play"
"""A header that no page of another site can send without being asked first: the link that the page shows, or ``ANY_LINK``."""

ANY_LINK: Final = "1"

ENDS: Final = {
    DeleteReason.EXPIRED: "expired",
    DeleteReason.REQUEST: "organiser",
    DeleteReason.BATCH: "organiser",
}
"""In the words of the page."""

LATELY_SECONDS: Final = 600
MOST_LATELY: Final = 10_000
KEPT_SECONDS: Final = 7 * 86_400
"""For so long after its link has expired, a browser keeps the session, so that the page can say what has happened."""

REQUESTS_A_MINUTE: Final = 600
"""Of each player, whether the operator limits keys or not."""

VISITORS_A_MINUTE: Final = 60
"""New visitors of open links, of each address: a class behind one router opens the link at once."""

WRONG_CODES_A_MINUTE: Final = 20
"""Of each address: pupils mistype."""

ALL_WRONG_CODES_A_MINUTE: Final = 200
"""Of all addresses: two million in a week, of the 2^40 codes that there can be."""

MOST_KNOWN: Final = 10_000


class Lately(Generic[K]):
    """What has happened in the last ten minutes, in the words of the page, by key; few of very many keys."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._words = clock, OrderedDict[K, tuple[str, int]]()

    def get(self, key: K) -> str | None:
        word, at = self._words.get(key, (None, 0))
        return word if at + LATELY_SECONDS * NANOSECONDS > self._clock.now() else None

    def put(self, key: K, word: str | None) -> None:
        """Nothing of what was before is said any more, also if this is None."""
        self._words.pop(key, None)
        if word is not None:
            self._words[key] = word, self._clock.now()
        if len(self._words) > MOST_LATELY:
            self._words.popitem(last=False)


class Players:
    """The players of one daemon. ``stopped``: the stacks whose players have asked for that, until they are gone; ``acting``:
    those that their players restart or extend right now. ``visits``: when links were used, by id, until the file has it: a
    crash loses the last minute of it."""

    def __init__(self, context: Context, keys: Keys) -> None:
        self._context, self._keys = context, keys
        self._requests = Failures(context.clock, REQUESTS_A_MINUTE)
        self._visitors = Failures(context.clock, VISITORS_A_MINUTE)
        self._guesses = Failures(context.clock, WRONG_CODES_A_MINUTE)
        self._all_guesses = Failures(context.clock, ALL_WRONG_CODES_A_MINUTE)
        self._guessing, self._known = asyncio.Lock(), OrderedDict[str, None]()
        self.messages = Messages(context)
        self._acts, self.acting = Lately[str](context.clock), set[str]()
        self._ends, self.stopped = Lately[Ended](context.clock), set[str]()
        self.visits: dict[str, Visit] = {}
        self._by_label: dict[tuple[str, str], set[str]] = {}
        for stack in context.store.assigned:
            self.row_changed(None, stack)
        self._signer: tuple[str, Signer] = ("", Signer(()))

    @property
    def signer(self) -> Signer:
        secret = self._config.play.secret.get_secret_value()
        if secret != self._signer[0]:
            self._signer = secret, Signer(secret.split())
        return self._signer[1]

    @property
    def _config(self) -> Config:
        return self._context.config

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Find a stack by the labels that it has now, a deleted one no more (a subscriber of the store)."""
        if before is not None and after is not None:
            self._note_act(before, after)
        if before is not None and after is not None and before.labels == after.labels:
            return
        if before is not None:
            if after is None:
                self._note_end(before)
            for label in before.labels.items():
                ids = self._by_label[label]
                ids.discard(before.stack_id)
                if not ids:
                    del self._by_label[label]
        if after is not None:
            for label in after.labels.items():
                self._by_label.setdefault(label, set()).add(after.stack_id)

    def _note_act(self, before: Stack, after: Stack) -> None:
        started, longer = after.generation > before.generation, after.ttl_expires_at > before.ttl_expires_at
        if before.accepted and (started or longer):
            act = "extend" if not started else "restart" if after.digest == before.digest else "renew"
            self._acts.put(after.stack_id, None if after.stack_id in self.acting else act)

    def act_of_organiser(self, stack: Stack) -> str | None:
        """What an organiser has done lately with the stack that runs on: ``restart``, ``renew`` or ``extend``."""
        return self._acts.get(stack.stack_id)

    def _note_end(self, stack: Stack) -> None:
        reason = stack.delete_reason if stack.accepted and stack.stack_id not in self.stopped else None
        self.stopped.discard(stack.stack_id)
        self._ends.put((stack.template, frozenset(stack.labels.items())), ENDS.get(reason) if reason else None)

    def why_ended(self, template: Template, key: ApiKey) -> str | None:
        """Why the player's last stack of the template has ended lately, unless the player has stopped it."""
        labels = frozenset({**template.labels, **key.labels}.items())
        return self._ends.get((template.name, labels))

    def stacks_of(self, key: ApiKey) -> list[Stack]:
        """The stacks that the player may see, the oldest first: of all stacks, few are looked at."""
        few = min((self._by_label.get(label, set()) for label in key.labels.items()), key=len)
        found = (self._context.store.assigned.get(stack_id) for stack_id in few)
        return sorted((one for one in found if one is not None and key.may_see(one.labels)), key=list_key)

    # ---- sessions

    def admit(self, request: web.BaseRequest) -> LinkKey:
        """The player of the request. Raises Unauthenticated, PermissionDenied or TooManyRequests."""
        self.require_own_page(request)
        link = self.session(request)
        if request.headers.get(OWN_PAGE, ANY_LINK) not in (ANY_LINK, link.player):
            raise Unauthenticated("another link was opened in this browser", code=ErrorCode.LINK_REPLACED)
        if wait := self._requests.wait(link.player, attempt=True):
            raise TooManyRequests(f"more than {REQUESTS_A_MINUTE} requests a minute of one player", wait)
        connection = request.protocol
        if isinstance(connection, HttpConnection) and connection.caller != link.player:
            connection.connections.authenticated(connection, link.player, player=True)
        self.note_visit(link)
        return self.key_of(link)

    def note_visit(self, link: Link) -> None:
        now = self._context.clock.now()
        self.visits[link.link_id] = self.visits.get(link.link_id, (now, now))[0], now

    async def keep_visits(self) -> None:
        """Write when links were used, all at once: none of the requests waits for the file."""
        written = dict(self.visits)
        if written:
            await self._context.store.links.visited(written)
        for link_id, visit in written.items():
            if self.visits[link_id] == visit:
                del self.visits[link_id]

    def with_visits(self, kept: KeptLink) -> KeptLink:
        """The link with what the file does not have yet."""
        opened_at, seen_at = self.visits.get(kept.link_id, (None, kept.seen_at))
        return replace(kept, opened_at=kept.opened_at or opened_at, seen_at=seen_at)

    def key_of(self, link: Link) -> LinkKey:
        """The player, who has nothing to do with a tenant whose labels the link does not have."""
        tenants = {key.principal.id: key.labels for key in self._config.auth.keys if key.tenant}
        others = {name: labels for name, labels in tenants.items() if not labels.items() <= link.labels.items()}
        templates, theirs = self._context.settings.templates, others.keys() if len(others) < len(tenants) else None
        written = (one.stored for one in templates.values() if one.stored is not None and one.source == "api")
        hidden = frozenset(kept.name for kept in written if kept.tenant and (theirs is None or kept.by.id in theirs))
        return LinkKey.of(link, tenants=tuple(others.values()), hidden=hidden)

    def helper(self, text: str) -> ApiKey | None:
        """The helper whose link this is; None if it is no helper's link. Raises Unauthenticated if the link has ended."""
        try:
            link = self.signer.read_helper(text)
        except Unauthenticated:
            return None  # a wrong key, as any other
        return LinkKey.of(self.valid(link), signed_by=text.partition(".")[0])

    def in_force(self, key: ApiKey) -> bool:
        """Whether the key, once accepted, would be accepted now."""
        if not isinstance(key, LinkKey):
            return self._keys.in_force(key)
        revoked = key.link.link_id in self._context.store.links.revoked
        return not revoked and key.link.expires_at > self._context.clock.now() and key.signed_by in self.signer

    def session(self, request: web.BaseRequest) -> Link:
        """The link of the request's cookie. Raises Unauthenticated."""
        name = self._cookie(request)[0]
        pairs = (pair.strip().partition("=") for pair in request.headers.get(hdrs.COOKIE, "").split(";"))
        found = [value for key, _, value in pairs if key == name]
        if len(found) != 1:  # with two, somebody else's may have been set beside the player's own
            raise Unauthenticated("there is no session: open the link")
        return self.valid(self.signer.read_session(found[0]))

    def valid(self, link: Link) -> Link:
        """The link, if it is to be accepted now. Raises Unauthenticated."""
        if link.expires_at <= self._context.clock.now():
            raise Unauthenticated("the link has expired", code=ErrorCode.LINK_EXPIRED)
        if link.link_id in self._context.store.links.revoked:
            raise Unauthenticated("the link was revoked", code=ErrorCode.LINK_REVOKED)
        return link

    def remaining(self, link: Link) -> int:
        """For how many seconds the link is valid."""
        return max(0, link.expires_at - self._context.clock.now()) // NANOSECONDS

    def remember(self, request: web.BaseRequest, response: web.Response, session: str = "", age: int = 0) -> None:
        """Have the browser keep the session, of which so many seconds are left; without one, forget it."""
        age += KEPT_SECONDS if session else 0
        name, secure, path = self._cookie(request)
        response.set_cookie(name, session, max_age=age, path=path, secure=secure, httponly=True, samesite="Strict")

    def _cookie(self, request: web.BaseRequest) -> tuple[str, bool, str]:
        secure = request.secure or self._config.play.url.startswith("https:")
        return (HOST_COOKIE, True, "/") if secure else (COOKIE, False, "/play")

    # ---- whose page it is

    def require_own_page(self, request: web.BaseRequest) -> None:
        """Raise PermissionDenied if a page of another site, or of another port of this host, may have sent this."""
        headers, changes = request.headers, request.method not in SAFE_METHODS
        site, origin = headers.get("Sec-Fetch-Site", ""), headers.get(hdrs.ORIGIN, "")
        own = site in ("", "none", "same-origin")
        if own and not site and origin:
            own = origin == self._config.play.url or origin.partition("://")[2] == headers.get(hdrs.HOST, "")
        if not own or (changes and OWN_PAGE not in headers):
            raise PermissionDenied("only stackd's own page may send this", code=ErrorCode.CROSS_SITE)

    # ---- short codes

    async def of_code(self, request: web.BaseRequest, text: str) -> tuple[Link, str]:
        """The link of a short code, and the id of its secret. Raises Unauthenticated; TooManyRequests after too many wrong ones.

        A right code waits as well, or else a guess would be as good as it. What many addresses guess keeps nobody waiting at one
        where a link was opened before.
        """
        address = client_network(self._keys.caller(request))
        budgets = (self._guesses, address), (self._all_guesses, "known" if address in self._known else "new")
        async with self._guessing:  # each wrong code counts before the next one is looked up
            for failures, who in budgets:
                if wait := failures.wait(who, attempt=False):
                    sentence = "too many wrong short codes, at this address or everywhere"
                    raise TooManyRequests(sentence, wait, code=ErrorCode.TOO_MANY_WRONG_CODES)
            digests = self.signer.code_digests(text)
            kept = await self._context.store.links.by_code([*digests])
            if kept is None:
                for failures, who in budgets:
                    failures.wait(who, attempt=True)
                raise Unauthenticated("no link has this short code", code=ErrorCode.CODE_INVALID)
        return kept, digests[kept.code]

    def opened(self, request: web.BaseRequest) -> None:
        """Note that a link was opened at the address of the request."""
        address = client_network(self._keys.caller(request))
        self._known[address] = None
        self._known.move_to_end(address)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)

    # ---- new visitors of open links

    def new_visitor(self, request: web.BaseRequest, link: Link) -> Link:
        """The session of a new visitor. Raises TooManyRequests if the address has sent too many."""
        if wait := self._visitors.wait(self._keys.caller(request), attempt=True):
            sentence = f"more than {VISITORS_A_MINUTE} new visitors a minute from one address"
            raise TooManyRequests(sentence, wait, code=ErrorCode.TOO_MANY_VISITORS)
        return link.visited(secrets.token_hex(5))


def players_of(call: ApiCall) -> Players:
    return cast(Players, call.api.players)
