"""Links for players and helpers: what a link allows, and the signed text that carries it.

Owns: the form of a token, and that of a session, which is what a browser gets for it. Both hold everything that stackd has to
know of the link, so that a lost state file ends no link; the state file and the Lease know which links were revoked. Each is
signed with HMAC-SHA256 (the standard library's: one algorithm that no token chooses, so nothing of JWT is needed) under a
key of its own purpose: a token is no session, a session no token, and neither is an API key. A helper's token is one, of scope
``read``, and nothing else. A short code holds nothing: it leads to the state file's row of its link, by a digest that nobody
computes without the secret.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import unicodedata
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

from msgspec import json
from pydantic import ConfigDict

from stackd.clock import NANOSECONDS
from stackd.codes import ErrorCode
from stackd.errors import Unauthenticated
from stackd.keys import READ, TENANT, ApiKey
from stackd.model import LabelQuota, Principal
from stackd.names import LINK_LABEL
from stackd.store.links import Link

LONGEST_TOKEN: Final = 3000
"""In characters: browsers keep cookies of up to 4096 bytes."""

PLAYER, LINK = "player", LINK_LABEL
"""The labels of the stacks of an open link: whose visitor they are, and of which link."""

CODE_SYMBOLS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Those of Crockford's Base32: five bits each, and no two that look alike."""

CODE_LENGTH: Final = 8
READ_AS: Final = str.maketrans("OIL", "011")

_VERSION: Final = 1
_UNUSED: Final = 9  # a place in the signed list: links of earlier versions have a number there
_TOKEN, _SESSION, _HELPER, _CODE = b"token", b"session", b"helper", b"code"


def new_code() -> str:
    """A short code for a link, such as ``K7QM-4R2X``."""
    code = "".join(secrets.choice(CODE_SYMBOLS) for _ in range(CODE_LENGTH))
    return f"{code[:4]}-{code[4:]}"


def read_code(text: str) -> str:
    """The symbols of a code that somebody has typed: in any letter case, with whatever between them, and O for 0."""
    typed = unicodedata.normalize("NFKC", text).upper().translate(READ_AS)
    return "".join(symbol for symbol in typed if symbol in CODE_SYMBOLS)


class LinkKey(ApiKey):
    """A player, with the limits of an API key of a tenant; or a helper, whose secret is the one ``signed_by`` names.

    ``tenants``  the labels of the tenants whose stacks are not the player's, even if they have the player's labels
    ``hidden``   the templates that the link cannot start, although its patterns match them
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    link: Link
    tenants: tuple[Mapping[str, str], ...] = ()
    hidden: Container[str] = ()
    signed_by: str = ""

    @classmethod
    def of(
        cls,
        link: Link,
        *,
        tenants: tuple[Mapping[str, str], ...] = (),
        hidden: Container[str] = (),
        signed_by: str = "",
    ) -> LinkKey:
        """The player as a tenant, which is what a player is to everything but the routes below ``/play``; or the helper as an
        API key that reads."""
        open_labels = {LINK: link.link_id, PLAYER: link.visitor} if link.total else {}
        return cls.model_construct(
            name=f"{LINK if link.stacks else 'helper'} {link.name} {link.visitor}".strip(),
            sha256=b"",
            scope=TENANT if link.stacks else READ,
            labels={**link.labels, **open_labels},
            templates=link.templates,
            pod_specs=False,
            link=link,
            tenants=tenants,
            hidden=hidden,
            signed_by=signed_by,
        )

    @cached_property
    def principal(self) -> Principal:
        """The link's player, its visitor or its helper."""
        return Principal(id=self.link.player, name=self.name)

    @property
    def among(self) -> Mapping[str, str]:
        """Those of the tenant who made the link."""
        return self.link.among

    @property
    def others(self) -> tuple[Mapping[str, str], ...]:
        return self.tenants

    def quotas(self, template: str | None) -> tuple[LabelQuota, ...]:
        """One of the template, of which the existing one can be returned, so many in all, and so many with all other visitors
        of an open link."""
        if not self.link.stacks:
            return ()
        own, total = LabelQuota(labels=self.labels, most=self.link.stacks, others=self.others), self.link.total
        one = replace(own, most=1, template=template)
        everybodys = LabelQuota(labels={LINK: self.link.link_id}, most=total, shared=True)
        return (one, own, everybodys) if total else (one, own)

    def may_see(self, labels: Mapping[str, str]) -> bool:
        """Whether a stack with these labels is the player's, and no other tenant's."""
        has = labels.items()
        return self.labels.items() <= has and not any(theirs.items() <= has for theirs in self.tenants)

    def may_use(self, template: str) -> bool:
        return template not in self.hidden and super().may_use(template)

    @property
    def claimant(self) -> str:
        """All players share what is kept for one key."""
        return f"players {self.link.player}"


class Signer:
    """Signs with the first secret, and accepts what any of them has signed."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._keys = {_mac(text.encode(), b"id").hex()[:8]: text.encode() for text in texts}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._keys

    def token(self, link: Link) -> str:
        """What follows the ``#`` of a link."""
        return self._sign(_TOKEN if link.stacks else _HELPER, link, next(iter(self._keys)))

    def session(self, link: Link, token: str) -> str:
        """What the browser keeps as a cookie for this token, or the id of a code's secret: without the secret, both end."""
        return self._sign(_SESSION, link, token.partition(".")[0])

    def code_digests(self, code: str) -> dict[str, str]:
        """The digests of a short code, one of each secret, whose ids are the values; new codes get the first."""
        symbols = read_code(code).encode()
        return {_mac(_mac(key, _CODE), symbols).hex(): key_id for key_id, key in self._keys.items()}

    def read_token(self, text: str) -> Link:
        """The link of a token. Raises Unauthenticated, as all of these."""
        return self._read(_TOKEN, text)

    def read_helper(self, text: str) -> Link:
        return self._read(_HELPER, text)

    def read_session(self, text: str) -> Link:
        return self._read(_SESSION, text)

    def _sign(self, purpose: bytes, link: Link, key_id: str) -> str:
        said = replace(link, expires_at=link.expires_at // NANOSECONDS)
        values = [_VERSION, *(getattr(said, name) for name in Link.__slots__)]
        values.insert(_UNUSED, 0)
        payload = _encode(json.encode(values, enc_hook=dict))
        return f"{key_id}.{payload}.{_encode(self._signature(purpose, key_id, payload))}"

    def _read(self, purpose: bytes, text: str) -> Link:
        key_id, _, rest = text.partition(".")
        payload, _, signature = rest.partition(".")
        if len(text) <= LONGEST_TOKEN and text.isascii() and key_id in self._keys:
            expected = _encode(
                self._signature(purpose, key_id, payload)
            )  # compared as text: none has a second spelling
            if hmac.compare_digest(signature, expected):
                values = json.decode(_decode(payload))
                if values.pop(0) == _VERSION:
                    del values[_UNUSED - 1]
                    link = Link(**dict(zip(Link.__slots__, values, strict=True)))
                    ends = link.expires_at * NANOSECONDS
                    return replace(link, templates=tuple(link.templates), expires_at=ends)
        raise Unauthenticated("the link is not valid", code=ErrorCode.LINK_INVALID)

    def _signature(self, purpose: bytes, key_id: str, payload: str) -> bytes:
        return _mac(_mac(self._keys[key_id], purpose), f"{key_id}.{payload}".encode())


def _mac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
