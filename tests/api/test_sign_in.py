"""People sign in with OpenID Connect; the issuer is a scripted one, which can lie. A real one: tests/ui/test_sign_in.py."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import Key, OctKey, RSAKey
from yarl import URL

from stackd.config.sections import OidcSection
from stackd.errors import Unavailable
from stackd.keys import ApiKey, digest
from stackd.web import oidc
from tests.api.scenes import finished, submit
from tests.harness import READ_KEY, Client, Harness, Reply, harness, seed, until
from tests.players import SECRET
from tests.proxies import proxy
from tests.templates import WEB, folder_with

CLIENT, CODE = "stackd", "code-of-the-issuer"
ADMIN = {"sub": "1", "email": "Ada@Example.org", "email_verified": True, "groups": ["players"]}
READER = {"sub": "2", "email": "bob@example.org", "email_verified": True, "groups": ["helpers"]}
Claims = dict[str, Any]
ANY = ["RS256", "HS256", "none"]
FIRST = RSAKey.generate_key(2048, {"kid": "first"})


@dataclass(kw_only=True)
class Issuer:
    """An issuer for one sign-in after the other: ``person`` is who signs in next, ``lie`` changes the claims."""

    url: str
    key: Key = field(default_factory=lambda: FIRST)
    signs_with: tuple[dict[str, str], Key] | None = None
    person: Claims = field(default_factory=lambda: ADMIN)
    told_later: Claims = field(default_factory=dict)
    lie: Callable[[Claims], Claims] = lambda claims: claims
    asked: dict[str, str] = field(default_factory=dict)
    refuses: bool = False
    codes: list[str] = field(default_factory=list)

    async def describe(self, _: web.Request) -> web.Response:
        names = ("authorization_endpoint", "token_endpoint", "userinfo_endpoint")
        ends = {name: f"{self.url}/{name}" for name in names}
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys", **ends})

    async def keys(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": [self.key.as_dict(private=False)]})

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.codes.append(str(form["code"]))
        verifier = base64.urlsafe_b64encode(hashlib.sha256(str(form["code_verifier"]).encode()).digest()).rstrip(b"=")
        proven = verifier.decode() == self.asked["code_challenge"] and form["code"] == CODE
        if self.refuses or not proven or form["redirect_uri"] != self.asked["redirect_uri"]:
            return web.json_response({"error": "invalid_grant"}, status=400)
        now = int(time.time())
        times = {"iat": now, "exp": now + 300, "nonce": self.asked["nonce"]}
        claims = self.lie({"iss": self.url, "aud": CLIENT, **times, **self.person})
        header, key = self.signs_with or ({"alg": "RS256", "kid": self.key.kid or ""}, self.key)
        return web.json_response({"access_token": "at", "id_token": jwt.encode(header, claims, key, ANY)})

    async def userinfo(self, _: web.Request) -> web.Response:
        return web.json_response({"sub": self.person["sub"], **self.told_later})


@pytest_asyncio.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer(url="")
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", issuer.describe)
    app.router.add_get("/keys", issuer.keys)
    app.router.add_post("/token_endpoint", issuer.token)
    app.router.add_get("/userinfo_endpoint", issuer.userinfo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield issuer
    await runner.cleanup()


@dataclass(kw_only=True)
class Browser:
    """Somebody's browser: its cookies, and the header that only stackd's own page sends."""

    at: Harness
    issuer: Issuer
    session: aiohttp.ClientSession

    async def sign_in(self, **changed: str) -> aiohttp.ClientResponse:
        """Go to the issuer and come back; ``changed`` are other parameters than those that the issuer would send."""
        async with self.session.get(f"{self.at.url}/auth/login?view=find%3Dteam", allow_redirects=False) as sent:
            assert sent.status == 302, await sent.text()
            self.issuer.asked = dict(URL(sent.headers["Location"]).query)
        back = {"code": CODE, "state": self.issuer.asked["state"], **changed}
        async with self.session.get(f"{self.at.url}/auth/callback", params=back, allow_redirects=False) as answer:
            await answer.read()
            return answer

    async def call(self, method: str, path: str, body: object = None, *, page: bool = True) -> Reply:
        """A request with the browser's cookies; of stackd's own ``page``, or of another site's."""
        headers = {"X-Session": "1"} if page else {}
        async with self.session.request(method, self.at.url + path, json=body, headers=headers) as answer:
            return Reply(answer.status, await answer.text(), dict(answer.headers))


@asynccontextmanager
async def browser(at: Harness, issuer: Issuer) -> AsyncIterator[Browser]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield Browser(at=at, issuer=issuer, session=session)


def table(issuer: Issuer) -> str:
    """The table ``[auth.oidc]`` that lets Ada do everything, and helpers read."""
    return json.dumps({
        "issuer": issuer.url, "client_id": CLIENT, "url": "http://127.0.0.1:1",
        "admins": ["ada@example.org"], "readers": ["helpers"],
    })  # fmt: skip


@pytest_asyncio.fixture
async def one(issuer: Issuer, tmp_path: Path) -> AsyncIterator[Browser]:
    async with harness(tmp_path, auth__oidc=table(issuer)) as at, browser(at, issuer) as one:
        yield one


async def test_who_signs_in_may_do_what_the_own_entry_says_and_the_audit_has_the_name(one: Browser) -> None:
    answer = await one.sign_in()
    assert (answer.status, answer.headers["Location"]) == (302, "/dashboard#find=team")
    cookie = answer.headers.getall("Set-Cookie")[0]
    assert all(word in cookie for word in ("stackd-session=", "HttpOnly", "SameSite=Strict", "Path=/"))
    key = (await one.call("GET", "/key")).json
    assert (key["name"], key["scope"]) == ("Ada@Example.org", "admin")
    created = await one.call("POST", "/stacks", seed())
    assert created.status == 201
    noted = await until(lambda: one.at.get("/activity?action=sign_in"), lambda seen: seen["activity"])
    assert noted["activity"][0]["by"] == "Ada@Example.org"
    history = await one.at.get(f"/stacks/{created.json['stack_id']}/timeline")
    assert history["events"][0]["by"] == "Ada@Example.org"
    one.issuer.person = READER
    assert (await one.sign_in()).status == 302
    assert (await one.call("GET", "/key")).json["scope"] == "read"
    assert (await one.call("DELETE", f"/stacks/{created.json['stack_id']}")).status == 403


async def test_a_person_with_a_keys_name_does_not_see_what_the_key_alone_is_told(
    issuer: Issuer, tmp_path: Path
) -> None:
    key = ApiKey(name="bob@example.org", sha256=digest(READ_KEY))
    async with (
        harness(tmp_path, folder_with(tmp_path, web_1=WEB), auth__oidc=table(issuer)) as at,
        browser(at, issuer) as one,
    ):
        at.put_keys_in_force(key)
        bob = Client(session=at.session, url=at.url, key=READ_KEY)
        job = await finished(bob, await submit(bob, [{"labels": {"player": "7"}}]))
        assert job["results"][0]["values"].keys() == {"FLAG", "TEAM_SECRET"}
        issuer.person = READER
        assert (await one.sign_in()).status == 302
        assert (await one.call("GET", "/key")).json["name"] == key.name
        seen = (await one.call("GET", f"/stacks/batch/{job['job_id']}?results=true")).json
        assert [result.get("values") for result in seen["results"]] == [None]


async def test_another_sites_page_has_no_session_and_signs_nobody_out(one: Browser) -> None:
    await one.sign_in()
    for method, path, body in (("GET", "/stacks", None), ("POST", "/stacks", seed()), ("GET", "/events", None)):
        assert (await one.call(method, path, body, page=False)).status == 401
    reply = await one.call("POST", "/auth/logout", page=False)
    assert (reply.status, reply.code, "Set-Cookie" in reply.headers) == (403, "cross_site", False)
    assert (await one.call("GET", "/key")).status == 200


async def test_an_issuer_is_asked_through_the_proxy_which_an_error_names_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issuer = oidc.Issuer(OidcSection(issuer="https://id.example.org"))
    async with proxy(0) as between:
        monkeypatch.setenv("https_proxy", between.url("me:p%40ss"))
        between.refuses = 407
        with pytest.raises(Unavailable, match="the proxy answered 407") as caught:
            await issuer.described()
        assert between.asked == [("id.example.org:443", "me:p@ss")]
        assert (between.url() in str(caught.value), "me:p" in str(caught.value)) == (True, False)
        assert "proxy" not in caught.value.sentence, "strangers see no proxy"
    monkeypatch.setenv("https_proxy", "socks5://gw:1080")
    with pytest.raises(Unavailable, match="HTTPS_PROXY is socks5://gw:1080"):
        await issuer.described()


FORGED: dict[str, Callable[[Claims], Claims]] = {
    "of another issuer": lambda claims: claims | {"iss": "https://id.example.net"},
    "for another client": lambda claims: claims | {"aud": "other"},
    "for two, issued to the other": lambda claims: claims | {"aud": [CLIENT, "other"], "azp": "other"},
    "of another sign-in": lambda claims: claims | {"nonce": "another"},
    "expired": lambda claims: claims | {"exp": int(time.time()) - 3600},
    "without an end": lambda claims: {name: value for name, value in claims.items() if name != "exp"},
    "of the future": lambda claims: claims | {"iat": int(time.time()) + 3600},
}


async def signs_nobody_in(one: Browser, why: str) -> None:
    answer = await one.sign_in()
    assert (answer.status, "stackd-session" in str(answer.headers)) == (400, False), why
    assert (await one.call("GET", "/key")).status == 401, why


async def test_an_id_token_that_is_not_for_this_sign_in_signs_nobody_in(one: Browser) -> None:
    for why, lie in FORGED.items():
        one.issuer.lie = lie
        await signs_nobody_in(one, why)


@pytest.mark.filterwarnings("ignore:JWS algorithm")
async def test_an_id_token_that_the_issuer_did_not_sign_signs_nobody_in(one: Browser) -> None:
    secret = str(FIRST.as_dict(private=False)["n"])
    keys: dict[str, Key] = {
        "RS256": RSAKey.generate_key(2048, {"kid": "first"}),
        "HS256": OctKey.import_key(secret),
        "none": OctKey.import_key("no key at all, as long as it has to be"),
    }
    for alg, key in keys.items():
        one.issuer.signs_with = {"alg": alg, "kid": "first"}, key
        await signs_nobody_in(one, alg)


async def test_a_key_that_the_issuer_has_changed_is_asked_for(one: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    await one.sign_in()
    one.issuer.key = RSAKey.generate_key(2048, {"kid": "second"})
    monkeypatch.setattr("stackd.web.oidc.KEYS_AGAIN_SECONDS", -1.0)
    assert (await one.sign_in()).status == 302


async def test_a_sign_in_that_was_begun_in_another_browser_is_refused(one: Browser) -> None:
    assert (await one.sign_in(state="of-the-attacker")).status == 400
    async with browser(one.at, one.issuer) as other:
        await one.sign_in()
        back = {"code": CODE, "state": one.issuer.asked["state"]}
        async with other.session.get(f"{one.at.url}/auth/callback", params=back, allow_redirects=False) as answer:
            assert answer.status == 400
    assert (await one.sign_in(iss="https://id.example.net")).status == 400, "RFC 9207"


async def test_an_address_that_nobody_verified_is_nobodys(one: Browser) -> None:
    one.issuer.person = ADMIN | {"email_verified": False}
    assert (await one.sign_in()).status == 403
    one.issuer.person = ADMIN | {"email": "mallory@example.org", "groups": ["ada@example.org"]}
    assert (await one.sign_in()).status == 403, "a group's name is no address"
    one.issuer.person = {"sub": "2", "email": "helpers", "email_verified": True}
    assert (await one.sign_in()).status == 403, "nor is an address without an @ a group"


async def test_a_name_that_nobody_verified_is_said_to_be_the_issuers(one: Browser) -> None:
    said: tuple[tuple[str, Claims], ...] = (
        ("stackd at 127.0.0.1", {"preferred_username": "stackd"}),
        ("Bob at 127.0.0.1", {"name": "Bob", "email": "ada@example.org", "email_verified": False}),
        ("bob@example.org", {"preferred_username": "Bob", "email": "bob@example.org", "email_verified": True}),
        ("2 at 127.0.0.1", {"email": "stackd", "email_verified": True}),
        ("2 at 127.0.0.1", {}),
    )
    for name, claims in said:
        one.issuer.person = {"sub": "2", "groups": ["helpers"], **claims}
        assert (await one.sign_in()).status == 302
        assert (await one.call("GET", "/key")).json["name"] == name


async def test_a_claim_of_the_wrong_type_is_refused(one: Browser) -> None:
    wrong: tuple[Claims, ...] = (
        *({"groups": groups} for groups in ("ada@example.org", "helpers", {"helpers": True}, ["helpers", 7])),
        {"email": ["bob@example.org"]},
        {"email": "ada@example.org", "email_verified": "no"},
        {"name": {"first": "Bob"}},
    )
    for claims in wrong:
        one.issuer.person = READER | claims
        await signs_nobody_in(one, str(claims))


async def test_what_only_the_userinfo_has_counts_if_it_is_about_the_same_person(one: Browser) -> None:
    one.issuer.person, one.issuer.told_later = {"sub": "2"}, {"groups": ["helpers"], "email": "bob@example.org"}
    assert (await one.sign_in()).status == 302
    one.issuer.told_later |= {"sub": "1"}
    assert (await one.sign_in()).status == 403


async def test_signing_out_ends_the_session_and_its_streams(one: Browser) -> None:
    await one.sign_in()
    kept = [(cookie.key, cookie.value) for cookie in one.session.cookie_jar]
    async with one.session.get(f"{one.at.url}/events", headers={"X-Session": "1"}) as stream:
        assert stream.status == 200
        await one.call("POST", "/auth/logout")
        one.at.daemon.api.feed.wake()
        await stream.content.read()
    assert (await one.call("GET", "/key")).status == 401
    one.session.cookie_jar.update_cookies(dict(kept), URL(one.at.url))
    assert (await one.call("GET", "/key")).status == 401, "the copy of a cookie is of no use, either"


@pytest.mark.parametrize("secret", ["", SECRET])
async def test_a_session_survives_a_restart_with_a_secret(issuer: Issuer, tmp_path: Path, secret: str) -> None:
    settings = {"STACKD_AUTH__OIDC": table(issuer)} | ({"STACKD_PLAY__SECRET": secret} if secret else {})
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        for restarted in (False, True):
            async with harness(tmp_path, settings) as at:
                one = Browser(at=at, issuer=issuer, session=session)
                if not restarted:
                    assert (await one.sign_in()).status == 302
                assert (await one.call("GET", "/key")).status == (200 if secret or not restarted else 401)


async def test_who_has_signed_out_stays_out_after_a_restart(issuer: Issuer, tmp_path: Path) -> None:
    settings = {"STACKD_AUTH__OIDC": table(issuer), "STACKD_PLAY__SECRET": SECRET}
    copies = []
    async with harness(tmp_path, settings) as at, browser(at, issuer) as left, browser(at, issuer) as stays:
        for one in (left, stays):
            assert (await one.sign_in()).status == 302
            copies += [cookie.value for cookie in one.session.cookie_jar if cookie.key == "stackd-session"]
        assert (await left.call("POST", "/auth/logout")).status == 204
    async with harness(tmp_path, settings) as at:
        for copy, status in zip(copies, (401, 200), strict=True):
            headers = {"X-Session": "1", "Cookie": f"stackd-session={copy}"}
            assert (await at.call("GET", "/key", key=None, headers=headers)).status == status


async def test_the_issuer_is_asked_once_for_a_sign_in_that_was_begun_here(one: Browser) -> None:
    answer = await one.sign_in(code="junk")
    assert (answer.status, one.issuer.codes) == (400, ["junk"])
    back = {"code": "junk", "state": one.issuer.asked["state"]}
    made_up = base64.urlsafe_b64encode(json.dumps(["s", "n", "v", "", str(2**40)]).encode()).decode()
    for cookie, state in (("", back["state"]), (made_up, "s"), (f"{made_up}.{'0' * 64}", "s")):
        if cookie:
            one.session.cookie_jar.update_cookies({"stackd-login": cookie}, URL(one.at.url))
        params = back | {"state": state}
        async with one.session.get(f"{one.at.url}/auth/callback", params=params, allow_redirects=False) as again:
            assert again.status == 400
    assert one.issuer.codes == ["junk"]


async def test_who_fails_to_sign_in_too_often_does_not_reach_the_issuer(issuer: Issuer, tmp_path: Path) -> None:
    limit = {"STACKD_LIMITS__FAILED_AUTH_PER_MINUTE": "2"}
    issuer.refuses = True
    async with harness(tmp_path, limit, auth__oidc=table(issuer)) as at, browser(at, issuer) as one:
        assert [(await one.sign_in()).status for _ in range(2)] == [400, 400]
        async with one.session.get(f"{at.url}/auth/callback", params={"code": "x", "state": "y"}) as answer:
            assert answer.status == 429
    assert len(issuer.codes) == 2


async def test_an_issuer_that_refuses_or_is_away_is_a_page_that_says_so(one: Browser) -> None:
    one.issuer.refuses = True
    assert "400 invalid_grant" in await (await one.sign_in()).text()
    said = await one.sign_in(code="", error="access_denied", error_description="<b>not you</b>")
    assert said.status == 400
    async with one.session.get(f"{one.at.url}/auth/callback?error=denied") as answer:
        assert answer.status == 400


async def test_without_an_issuer_nobody_signs_in(at: Harness) -> None:
    for method, path in (("GET", "/auth/login"), ("GET", "/auth/callback?code=1&state=2")):
        assert (await at.call(method, path, key=None)).status == 404
    assert (await at.call("POST", "/auth/logout", key=None, headers={"X-Session": "1"})).status == 204
