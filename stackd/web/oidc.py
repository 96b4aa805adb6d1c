"""People sign in to the dashboard with OpenID Connect: the two requests of a browser, and the session that comes of it.

Owns: the authorization code flow with PKCE (OpenID Connect Core 1.0, section 3.1; RFC 7636), which keys the issuer may have
signed an ID token with, who may do what (``[auth.oidc] admins`` and ``readers``), and the cookies. Nothing is kept here: what
a sign-in needs when the browser comes back is in its first cookie, and the session in its second one is a signed token.
joserfc reads and checks the tokens; it is imported when somebody signs in.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

import aiohttp
from aiohttp import hdrs, web
from msgspec import json

from stackd.clock import NANOSECONDS
from stackd.codes import ErrorCode
from stackd.config.sections import OidcSection
from stackd.errors import PermissionDenied, SignInFailed, Unavailable
from stackd.keys import ID_DIGITS, ApiKey, digest
from stackd.model import Principal
from stackd.printable import printable
from stackd.proxies import proxy_for, without_password
from stackd.tasks import acquired_within

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

LOGIN, CALLBACK, LOGOUT = "/auth/login", "/auth/callback", "/auth/logout"
DISCOVERY: Final = ".well-known/openid-configuration"
SIGNATURES: Final = [*(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)), "EdDSA", "Ed25519"]
"""What an issuer may sign with: all that proves who has signed, so no shared secret, and never "none"."""

SESSION_SECONDS: Final = 12 * 3600
SIGN_IN_SECONDS: Final = 600
LEEWAY_SECONDS: Final = 60
ANSWER_SECONDS: Final = 10.0
ANSWER_BYTES: Final = 1 << 20
KEYS_SECONDS: Final = 3600.0
KEYS_AGAIN_SECONDS: Final = 60.0
"""How often the issuer's keys are asked for again because a token names one that is not among them."""

SIGN_INS_AT_ONCE: Final = 8
REMEMBERED: Final = 1000
HEADER: Final = "X-Session"
"""The page sends it with its cookie. Another site's page cannot, so its requests have no session."""

LONGEST_NAME: Final = 64
_KINDS: Final = {
    **dict.fromkeys(("email", "name", "preferred_username"), (str, "a text")),
    "email_verified": (bool, "true or false"),
}
_NOT_IN_ADDRESSES: Final = re.compile(r"[^!-~]")


def described_at(section: OidcSection) -> str:
    """Where the issuer describes itself."""
    return f"{section.issuer.rstrip('/')}/{DISCOVERY}"


class PersonKey(ApiKey):
    """A person's session, with the limits of an API key."""

    person: Principal

    @cached_property
    def principal(self) -> Principal:
        """The person, whose sessions are many."""
        return self.person

    @classmethod
    def of(cls, person: Principal, sha256: bytes, scope: Any) -> PersonKey:
        """The session whose token has this hash."""
        return cls.model_construct(name=person.name, sha256=sha256, scope=scope, person=person)


class Issuer:
    """The issuer's own description and keys, asked for when they are needed and kept for an hour."""

    def __init__(self, section: OidcSection) -> None:
        self._section = section
        self._described: Mapping[str, Any] = {}
        self._keys: KeySet | None = None
        self._asked_at = self._keys_at = float("-inf")
        self._slots = asyncio.Semaphore(SIGN_INS_AT_ONCE)

    async def described(self) -> Mapping[str, Any]:
        """Its metadata (OpenID Connect Discovery 1.0). Raises Unavailable."""
        if time.monotonic() - self._asked_at > KEYS_SECONDS:
            found = await self._ask("GET", described_at(self._section))
            if found.get("issuer") != self._section.issuer:
                raise Unavailable(
                    f"auth.oidc.issuer is {self._section.issuer}, but that issuer calls itself "
                    f"{printable(str(found.get('issuer')))}; both must be the same, to the last slash"
                )
            self._described, self._asked_at, self._keys = found, time.monotonic(), None
        return self._described

    async def claims(self, code: str, verifier: str, nonce: str) -> Mapping[str, Any]:
        """What the issuer says of the person to whom it gave this code. Raises SignInFailed, Unavailable."""
        described = await self.described()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._section.redirect,
            "client_id": self._section.client_id,
            "code_verifier": verifier,
        }
        headers = {}
        if secret := self._secret():
            if "client_secret_post" in described.get("token_endpoint_auth_methods_supported", ["client_secret_basic"]):
                form["client_secret"] = secret
            else:
                headers[hdrs.AUTHORIZATION] = aiohttp.BasicAuth(self._section.client_id, secret).encode()
        tokens = await self._ask("POST", described["token_endpoint"], data=form, headers=headers)
        claims = await self._read(str(tokens.get("id_token", "")), nonce)
        if ("email" in claims and self._section.groups in claims) or "userinfo_endpoint" not in described:
            return claims
        bearer = {hdrs.AUTHORIZATION: f"Bearer {tokens.get('access_token')}"}
        more = await self._ask("GET", described["userinfo_endpoint"], headers=bearer)
        return {**more, **claims} if more.get("sub") == claims["sub"] else claims

    def _secret(self) -> str:
        path = self._section.client_secret_file
        try:
            return Path(path).read_text().strip() if path else ""
        except OSError as error:
            raise Unavailable(f"auth.oidc.client_secret_file cannot be read: {error.strerror}") from None

    async def _read(self, token: str, nonce: str) -> dict[str, Any]:
        """The claims of an ID token that is the issuer's, for this client and this sign-in (Core 1.0, 3.1.3.7)."""
        from joserfc import jwt
        from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError

        rules = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self._section.issuer},
            aud={"essential": True, "value": self._section.client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            try:
                claims = jwt.decode(token, await self._key_set(), algorithms=SIGNATURES).claims
            except (InvalidKeyIdError, BadSignatureError):  # none of these keys: the issuer may have new ones
                claims = jwt.decode(token, await self._key_set(again=True), algorithms=SIGNATURES).claims
            rules.validate(claims)
        except (JoseError, ValueError) as error:
            raise SignInFailed(f"the ID token is not a good one: {printable(str(error))}") from None
        if claims.get("azp", self._section.client_id) != self._section.client_id:
            raise SignInFailed("the ID token was issued to another client")
        return claims

    async def _key_set(self, *, again: bool = False) -> KeySet:
        from joserfc.jwk import KeySet

        age = time.monotonic() - self._keys_at
        if self._keys is None or (again and age > KEYS_AGAIN_SECONDS):
            found = await self._ask("GET", (await self.described())["jwks_uri"])
            try:
                self._keys = KeySet.import_key_set({"keys": list(found["keys"])})
            except (KeyError, ValueError) as error:
                raise Unavailable(f"the issuer's keys cannot be read: {printable(str(error))}") from None
            self._keys_at = time.monotonic()
        return self._keys

    async def _ask(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        """The JSON object that the issuer answers. Raises SignInFailed for a refusal, Unavailable without an answer."""
        if not await acquired_within(self._slots, ANSWER_SECONDS):
            raise Unavailable("the issuer is slow, and too many people sign in at once")
        through = ""
        try:
            if proxy := proxy_for(url, ("http", "https")):
                through = f" (through the proxy {without_password(proxy)})"
            timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(method, url, allow_redirects=False, proxy=proxy, **options) as answer,
            ):
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > ANSWER_BYTES:
                        raise ValueError("its answer is too long")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = printable(str(error)) or "it does not answer"
            if isinstance(error, aiohttp.ClientHttpProxyError):  # its text has the password
                why = f"the proxy answered {error.status}"
            raise Unavailable(f"the issuer {self._section.issuer} cannot be asked", detail=why + through) from None
        finally:
            self._slots.release()
        try:
            found = json.decode(body)
        except (ValueError, RecursionError):
            found = None
        if answer.status != 200 or not isinstance(found, dict):
            said = (found.get("error_description") or found.get("error")) if isinstance(found, dict) else ""
            sentence = f"the issuer answers {answer.status} {printable(str(said or ''))}".rstrip()
            raise SignInFailed(sentence) if answer.status in (400, 401) else Unavailable(sentence)
        return found


class SignIn:
    """Signs people in and out, and knows their sessions."""

    def __init__(
        self, section: OidcSection, secret: str = "", revoked: Callable[[str], bool] = lambda session_id: False
    ) -> None:
        self.section, self._issuer, self._revoked = section, Issuer(section), revoked
        self._lasting = bool(secret)
        # With the secret that stackds share, a session survives a restart and a takeover.
        self._secret = (
            hmac.digest(secret.encode(), b"sessions of people", "sha256") if secret else secrets.token_bytes(32)
        )
        self._sessions: dict[bytes, tuple[ApiKey, float]] = {}  # and when each expires
        self._left: set[bytes] = set()
        self._used: OrderedDict[str, None] = OrderedDict()  # the states of sign-ins for which the issuer was asked
        prefix = "__Host-" if section.url.startswith("https:") else ""
        self.login_cookie, self.session_cookie = f"{prefix}stackd-login", f"{prefix}stackd-session"
        self._set = partial(_set_cookie, secure=bool(prefix))

    @property
    def offered(self) -> bool:
        return bool(self.section)

    async def begin(self, back: str) -> web.Response:
        """Send the browser to the issuer; ``back`` is the view to return to, the fragment of the dashboard's address."""
        described = await self._issuer.described()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        wanted = ["openid", "email", "profile", "groups"]
        offered = described.get("scopes_supported", wanted[:3])
        question = {
            "response_type": "code",
            "client_id": self.section.client_id,
            "redirect_uri": self.section.redirect,
            "scope": " ".join(one for one in wanted if one == "openid" or one in offered),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        endpoint = described["authorization_endpoint"]
        address = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(question)}"
        answer = web.Response(status=302, headers={hdrs.LOCATION: address})
        self._set(answer, self.login_cookie, self._keep(state, nonce, verifier, back[:1000]), SIGN_IN_SECONDS, "Lax")
        return answer

    async def finish(self, request: web.BaseRequest) -> tuple[web.Response, ApiKey]:
        """The browser is back: the redirect to the dashboard with the session's cookie, and who it is.

        Raises SignInFailed, PermissionDenied for a person whom nothing allows anything, Unavailable.
        """
        query = request.query
        state, nonce, verifier, back = self._kept(request.cookies.get(self.login_cookie, ""))
        if not state or state in self._used or not hmac.compare_digest(state.encode(), query.get("state", "").encode()):
            raise SignInFailed("this sign-in was begun elsewhere, or more than ten minutes ago; begin again")
        if query.get("iss", self.section.issuer) != self.section.issuer:  # RFC 9207
            raise SignInFailed("another issuer has answered")
        if "code" not in query:
            said = query.get("error_description") or query.get("error") or "it sent no code"
            raise SignInFailed(f"the issuer refuses: {printable(said[:200])}")
        self._used[state] = None
        if len(self._used) > REMEMBERED:
            self._used.popitem(last=False)
        claims = await self._issuer.claims(query["code"], verifier, nonce)
        _check_types(claims, self.section.groups)
        token, key = self._session(self._person(claims), self._entries(claims))
        answer = web.Response(status=302, headers={hdrs.LOCATION: f"/dashboard{'#' * bool(back)}{back}"})
        self._set(answer, self.session_cookie, token, SESSION_SECONDS, "Strict")
        self._set(answer, self.login_cookie, "", 0, "Lax")
        return answer, key

    def lasting(self, request: web.BaseRequest) -> tuple[str, int, Principal] | None:
        """The request's session, if it survives this process: its id, in the form of a link's, when it ends, in nanoseconds, and
        whose it is."""
        key = self.find(request) if self._lasting else None
        if key is None:
            return None
        return _session_id(key), int(self._sessions[key.sha256][1] * NANOSECONDS), key.principal

    def leave(self, request: web.BaseRequest) -> web.Response:
        """End the session: its cookie goes, and its token is not accepted any more while this process runs. Raises
        PermissionDenied for what another site's page may have sent."""
        if HEADER not in request.headers:
            raise PermissionDenied("only stackd's own page may send this", code=ErrorCode.CROSS_SITE)
        if key := self.find(request):
            self._left.add(key.sha256)
        answer = web.Response(status=204)
        self._set(answer, self.session_cookie, "", 0, "Strict")
        return answer

    def find(self, request: web.BaseRequest) -> ApiKey | None:
        """Who has the request's session; None without one, or without the header that only stackd's own pages send."""
        token = request.cookies.get(self.session_cookie, "") if HEADER in request.headers else ""
        if not token or not self.offered or len(token) > ANSWER_BYTES:
            return None
        sha256 = digest(token)
        if sha256 not in self._sessions:
            self._remember(token, sha256)
        key, _ = self._sessions.get(sha256, (None, 0.0))
        return key if key is not None and self.in_force(key) else None

    def in_force(self, key: ApiKey) -> bool:
        """Whether this is a session that has neither ended nor expired."""
        _, expires_at = self._sessions.get(key.sha256, (None, 0.0))
        return key.sha256 not in self._left and expires_at > time.time() and not self._revoked(_session_id(key))

    def _remember(self, token: str, sha256: bytes) -> None:
        from joserfc import jwt
        from joserfc.errors import JoseError
        from joserfc.jwk import OctKey

        try:
            claims = jwt.decode(token, OctKey.import_key(self._secret), algorithms=["HS256"]).claims
            person = Principal(id=str(claims["sub"]), name=str(claims["name"]))
            entries, expiry = list(claims["for"]), float(claims["exp"])
        except (JoseError, ValueError, KeyError, TypeError):
            return
        if (scope := self._scope(entries)) is None:
            return
        for old in list(self._sessions)[: len(self._sessions) - REMEMBERED + 1]:
            del self._sessions[old]
        self._sessions[sha256] = PersonKey.of(person, sha256, scope), expiry

    def _session(self, person: Principal, entries: Sequence[str]) -> tuple[str, ApiKey]:
        from joserfc import jwt
        from joserfc.jwk import OctKey

        if self._scope(entries) is None:
            raise PermissionDenied(
                f"{person.name} may not use this dashboard: neither auth.oidc.admins nor auth.oidc.readers has a group or a "
                "verified e-mail address of this person"
            )
        expiry = int(time.time()) + SESSION_SECONDS
        claims = {"sub": person.id, "name": person.name, "for": list(entries), "exp": expiry}
        claims["jti"] = secrets.token_hex(8)  # two sign-ins of one second are two sessions
        token = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(self._secret))
        self._remember(token, sha256 := digest(token))
        return token, self._sessions[sha256][0]

    def _entries(self, claims: Mapping[str, Any]) -> list[str]:
        """The entries of ``admins`` and ``readers`` that this person matches. An address counts once it is verified."""
        mine = {one for one in claims.get(self.section.groups) or () if "@" not in one}
        if _has_verified_email(claims):
            mine.add(claims["email"].lower())
        every = (*self.section.admins, *self.section.readers)
        return [one for one in every if (one.lower() if "@" in one else one) in mine]

    def _person(self, claims: Mapping[str, Any]) -> Principal:
        """Who it is: the issuer's ``sub``, which is nobody else's there. An issuer may let people choose any other name."""
        issuer = self.section.issuer
        named = claims["email"] if _has_verified_email(claims) else ""
        if not named:
            said = claims.get("preferred_username") or claims.get("name") or claims["sub"]
            named = f"{printable(str(said))[:LONGEST_NAME].strip()} at {urlsplit(issuer).hostname}".strip()
        subject = digest(json.encode([issuer, claims["sub"]]).decode()).hex()[:ID_DIGITS]
        return Principal(id=f"person:{subject}", name=printable(named))

    def _keep(self, *parts: str) -> str:
        """What the first cookie has: with a signature, so that nobody makes up sign-ins for which the issuer is asked."""
        kept = base64.urlsafe_b64encode(json.encode([*parts, str(int(time.time()) + SIGN_IN_SECONDS)])).decode()
        return f"{kept}.{hmac.digest(self._secret, kept.encode(), 'sha256').hex()}"

    def _kept(self, cookie: str) -> tuple[str, str, str, str]:
        kept, _, signature = cookie.partition(".")
        expected = hmac.digest(self._secret, kept.encode(errors="replace"), "sha256").hex()
        if not hmac.compare_digest(signature.encode(errors="replace"), expected.encode()):
            return "", "", "", ""
        state, nonce, verifier, back, until = json.decode(base64.urlsafe_b64decode(kept))
        if int(until) < time.time():
            return "", "", "", ""
        return state, nonce, verifier, _NOT_IN_ADDRESSES.sub("", back)

    def _scope(self, entries: Sequence[str]) -> Any:
        if not set(entries).isdisjoint(self.section.admins):
            return "admin"
        return "read" if not set(entries).isdisjoint(self.section.readers) else None


def _check_types(claims: Mapping[str, Any], groups: str) -> None:
    """Raise SignInFailed for a claim of another type than Core 1.0, 5.1, gives it: what it means would be a guess."""
    for name, (kind, what) in _KINDS.items():
        if not isinstance(claims.get(name), kind | None):
            raise SignInFailed(f"the issuer's claim {name} is not {what}")
    names = claims.get(groups)
    if names is not None and not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
        raise SignInFailed(f"the issuer's claim {groups} is not a list of texts (auth.oidc.groups)")


def _has_verified_email(claims: Mapping[str, Any]) -> bool:
    return "@" in (claims.get("email") or "") and bool(claims.get("email_verified"))


def _session_id(key: ApiKey) -> str:
    return f"link-{key.sha256.hex()[:16]}"


def _set_cookie(answer: web.Response, name: str, value: str, seconds: int, same_site: Any, *, secure: bool) -> None:
    answer.set_cookie(name, value, max_age=seconds, path="/", secure=secure, httponly=True, samesite=same_site)
