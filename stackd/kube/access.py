"""Connections to one API server with the current credentials, and the renewal of credentials that expire.

``Access`` provides a session and the headers of a request. It loads the credentials again when the API server refuses
them or their source has changed. ``Renewal`` requests a fresh token (TokenRequest) before the one in the kubeconfig
expires, and warns about credentials that will expire. It does not renew what a file, a plugin or the kubelet renews.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from stackd import __version__
from stackd.clock import DAY_SECONDS, Clock, utc_minute
from stackd.errors import ClusterError, ClusterRefused, ClusterUnavailable, ConfigError
from stackd.kube.credentials import (
    UNREADABLE,
    ClusterTarget,
    Credentials,
    Token,
    keep_token,
    kept_token,
    load_credentials,
    read_token,
)
from stackd.kube.wire import JSON, KINDS, TOKENS, JsonObject, KubeRequest
from stackd.validity import WARN_SECONDS

log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 60.0
SHORTEST_SECONDS: Final = 600
"""The shortest lifetime of a token that the API server issues."""

REMEDY: Final = "replace the kubeconfig, and reload"

SendRequest = Callable[[KubeRequest], Awaitable[JsonObject]]
AddrInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
IDLE_SECONDS = 60.0
"""How long an idle connection is kept for the next burst of creates. Each new connection costs both sides a TLS
handshake, just when all players press "start". The API server closes idle connections after 90 s (Kubernetes 1.36)."""
KEEPALIVE = {"TCP_KEEPIDLE": 6, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 10_000}
"""Two times in seconds, a count, and a time in milliseconds. A NAT or load balancer can forget a connection silently.
So the kernel probes the other side after 6 s of silence, and closes the connection if nothing is acknowledged for 10
s."""
READ_BUFFER_BYTES = 2**21
"""As in the Kubernetes client: a watch event can be larger than aiohttp's default of 64 KiB."""
BEARER = "BearerToken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """When credentials expire (``at``, in seconds since the epoch), and whether stackd renews them by itself."""

    what: str
    at: float
    renewed: bool


class Access:
    """Connections to one cluster, and the credentials of each request.

    Each request or watch borrows the session until its response has been read. A session that was replaced is closed when
    nobody uses it any more. ``token`` is the token that is sent, if stackd has to renew it; otherwise None.
    """

    def __init__(self, target: ClusterTarget, credentials: Credentials, *known: Token | None) -> None:
        self._target = target
        self._credentials = credentials
        self._session: aiohttp.ClientSession | None = None
        self._left: list[aiohttp.ClientSession] = []
        self._users: Counter[aiohttp.ClientSession] = Counter()
        self._reloading = asyncio.Lock()
        self._reloaded_at: float | None = None
        self._trouble = ""
        self.generation = 0
        self.renewal_trouble = ""
        self.token: Token | None = None
        self._choose_token(*known)

    @classmethod
    async def open(cls, target: ClusterTarget) -> Access:
        """Load the credentials; nothing is sent. Raises ConfigError."""
        return cls(target, await load_credentials(target))

    @property
    def _configuration(self) -> Any:
        return self._credentials.client.configuration

    @property
    def base_url(self) -> str:
        """The API server's address, without a slash at the end."""
        return str(self._configuration.host).rstrip("/")

    @property
    def token_file(self) -> str:
        """The file that keeps a renewed token across restarts; empty for none."""
        return self._target.token_file

    @property
    def expiry(self) -> Expiry | None:
        """When the token expires, or else the client certificate; None if neither does or others renew them."""
        if self.token is not None:
            return Expiry(what="stackd's token for the cluster", at=self.token.ends, renewed=True)
        ends = self._credentials.certificate_ends
        if ends is None or not self._credentials.lasting:
            return None
        return Expiry(what="the kubeconfig's client certificate", at=ends, renewed=False)

    def use(self, token: Token) -> None:
        """Send ``token`` from now on, over the same connections."""
        self.token = token
        self._configuration.api_key[BEARER] = f"Bearer {token.text}"

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session that holds the connections, opened on first use, to be passed to ``leave``. To send a request, use
        ``borrowed``."""
        if self._session is None:
            self._session = self._opened(keepalive_timeout=IDLE_SECONDS)
        return self._session

    @contextmanager
    def borrowed(self) -> Iterator[aiohttp.ClientSession]:
        """The current session; it stays open while it is borrowed."""
        session = self.session
        self._users[session] += 1
        try:
            yield session
        finally:
            self._users[session] -= 1

    async def leave(self, session: aiohttp.ClientSession | None) -> None:
        """Stop using ``session``, and close it once no request uses it: its idle connections may be dead, or of others."""
        if session is not None and session is self._session:
            self._session = None
            self._left.append(session)
        unused = [one for one in self._left if not self._users[one]]
        self._left = [one for one in self._left if self._users[one]]
        for one in unused:
            del self._users[one]
            await one.close()

    def new_session(self) -> aiohttp.ClientSession:
        """A session for one request; the caller closes it."""
        return self._opened(force_close=True)

    def _opened(self, **options: Any) -> aiohttp.ClientSession:
        rest = self._credentials.client.rest_client
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=rest.maxsize, ssl=rest.ssl_context, socket_factory=watched_socket, **options
            ),
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER_BYTES,
        )

    def options(self) -> dict[str, Any]:
        """The options of each request that the configuration sets, besides headers: proxy and TLS server name."""
        wanted = {
            "proxy": self._configuration.proxy,
            "proxy_headers": self._configuration.proxy_headers,
            "server_hostname": self._configuration.tls_server_name,
        }
        return {key: value for key, value in wanted.items() if value}

    async def headers(self) -> dict[str, str]:
        """The headers of a request, with a fresh token if its source renews it by time. Raises ClusterUnavailable."""
        headers: dict[str, str] = {"User-Agent": f"stackd/{__version__}", "Accept": JSON}
        try:
            await self._credentials.client.update_params_for_auth(headers, [], [BEARER], None, None, None)
        except UNREADABLE as exc:
            raise ClusterUnavailable(f"the cluster's credentials cannot be read: {exc}") from exc
        return headers

    async def reload(self, seen: int) -> bool:
        """Load the credentials again because those of generation ``seen`` were refused. False: a retry is no use.

        When many requests are refused at once, only one of them reloads. The target limits how often that happens:
        otherwise a source of bad credentials (such as a plugin) would run for every request. Raises ClusterRefused when
        the credentials cannot be read, or are for another server: watches and requests would go to two clusters.
        """
        async with self._reloading:
            if self.generation != seen:
                return True
            now = asyncio.get_running_loop().time()
            if self._reloaded_at is None or now - self._reloaded_at >= self._target.reload_interval:
                self._reloaded_at = now
                try:
                    await self._take(await self._loaded(), refused=self.token)
                except ConfigError as exc:
                    self._trouble = f"the cluster's credentials cannot be read: {exc}"
                else:
                    self._trouble = ""
                    return True
            if self._trouble:
                raise ClusterRefused(self._trouble)
            return False

    async def look_again(self, accepted: Callable[[Access], Awaitable[None]]) -> bool:
        """Load the credentials and use them if they have changed; returns whether they have.

        ``accepted`` tries them, and raises ClusterRefused if they are no use. Raises ConfigError then, or if they cannot
        be loaded; those in force stay.
        """
        async with self._reloading:
            fresh = await self._loaded()
            if fresh.traits == self._credentials.traits:
                return False
            try:
                await accepted(Access(self._target, fresh, self.token))
            except ClusterRefused as error:
                raise ConfigError([f"[cluster] the new credentials are no use: {error}"]) from error
            await self._take(fresh)
            self._reloaded_at, self._trouble = None, ""
            return True

    async def _loaded(self) -> Credentials:
        """The source's current credentials. Raises ConfigError, also if they are for another server."""
        fresh = await load_credentials(self._target)
        host = fresh.client.configuration.host
        if host != self._configuration.host:
            named = f"the credentials are now for {host}, and no longer for {self.base_url}"
            raise ConfigError([f"{named}: restart stackd if that is intended"])
        return fresh

    async def _take(self, fresh: Credentials, refused: Token | None = None) -> None:
        # A session keeps its TLS context, so it is always replaced. Running requests and watches keep the old session.
        self._credentials = fresh
        self._choose_token(self.token, refused=refused)
        self.generation += 1
        await self.leave(self._session)

    def _choose_token(self, *known: Token | None, refused: Token | None = None) -> None:
        """Send the token of the credentials' account that expires last, but not the one that was refused."""
        _, _, text = str(self._configuration.api_key.get(BEARER, "")).partition(" ")
        given = read_token(text) if self._credentials.lasting else None
        self.token = None
        if given is not None:
            found = (given, *known, kept_token(self._target.token_file))
            good = [one for one in found if one and one.is_of_the_same(given) and one.ends > time.time()]
            others = [one for one in good if refused is None or one.text != refused.text]
            self.use(max(others or good, key=lambda one: one.ends, default=given))

    async def close(self) -> None:
        """Close all connections. A reader that is still on one of them would wait forever."""
        for session in (*self._left, self._session):
            if session is not None:
                await session.close()


def watched_socket(address: AddrInfo) -> socket.socket:
    """A socket with TCP keepalive, which detects that the other side is gone."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    if family in (socket.AF_INET, socket.AF_INET6):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if (option := getattr(socket, name, None)) is not None:  # Linux has them all
                made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


class Renewal:
    """Renews the token that ``access`` sends. ``answer`` sends a request and returns the JSON of its response."""

    def __init__(self, access: Access, answer: SendRequest, clock: Clock) -> None:
        self._access = access
        self._answer = answer
        self._clock = clock
        self._not_before = 0.0
        self._said = 0.0

    async def run(self) -> None:
        """Check and renew, forever."""
        while True:
            pause = await self.check()
            await asyncio.sleep(pause)

    async def check(self) -> float:
        """Renew the token if it is due, warn of what will expire; returns the seconds until the next check."""
        now = self._now()
        token = self._access.token
        pause = CHECK_SECONDS
        if token is None:
            self._access.renewal_trouble = ""
        elif now >= max(token.due, self._not_before):
            pause = await self._renew(token)
        self._remind(now)
        return pause

    async def _renew(self, token: Token) -> float:
        try:
            fresh = await request_token(self._answer, token)
        except (ClusterError, ClusterUnavailable) as error:
            return self._failed(token, str(error))
        self._access.renewal_trouble = ""
        if fresh.ends <= token.ends:
            # The cluster now issues shorter tokens. Keep the current one until a fresh one would expire later.
            self._not_before = token.ends - fresh.lifetime / 2
            return CHECK_SECONDS
        await self._keep(fresh)
        self._access.use(fresh)
        log.info("the token for the cluster was renewed, it is good until %s", utc_minute(fresh.ends))
        return CHECK_SECONDS

    async def _keep(self, fresh: Token) -> None:
        path = self._access.token_file
        if not path:
            return
        try:
            await asyncio.to_thread(keep_token, path, fresh)
        except OSError as error:
            why = error.strerror or error
            log.warning("the renewed token for the cluster cannot be kept over a restart: %s: %s", path, why)

    def _failed(self, token: Token, why: str) -> float:
        if why != self._access.renewal_trouble:
            log.warning(
                "the token for the cluster cannot be renewed, it is good until %s: %s", utc_minute(token.ends), why
            )
        self._access.renewal_trouble = why
        return max(1.0, min(RETRY_SECONDS, (token.ends - self._now()) / 10))

    def _remind(self, now: float) -> None:
        if now - self._said >= DAY_SECONDS and (text := expiry_remark(self._access, now)):
            self._said = now
            log.warning("%s", text)

    def _now(self) -> float:
        return self._clock.now() / 1e9


def token_request(namespace: str, account: str, seconds: int) -> KubeRequest:
    """The request for a token of that service account that expires; ``status.token`` of the response is the token."""
    body = orjson.dumps({**KINDS[TOKENS].type_meta, "spec": {"expirationSeconds": seconds}})
    return KubeRequest(verb="create", resource=TOKENS, namespace=namespace, name=account, body=body)


async def request_token(answer: SendRequest, token: Token) -> Token:
    """A fresh token for the same account, with the same lifetime. Raises ClusterUnavailable, ObjectNotFound."""
    seconds = max(SHORTEST_SECONDS, round(token.lifetime))
    document = await answer(token_request(token.namespace, token.account, seconds))
    fresh = read_token(document["status"]["token"])
    if fresh is None or not fresh.is_of_the_same(token):
        raise ClusterUnavailable("Kubernetes answered a TokenRequest with something else than a token of the account")
    return fresh


def expiry_remark(access: Access, now: float) -> str:
    """The warning about credentials that have expired, or soon will and are not renewed; empty if there is none."""
    expiry = access.expiry
    if expiry is None or expiry.at - now >= WARN_SECONDS:
        return ""
    if now >= expiry.at:
        return f"{expiry.what} expired on {utc_minute(expiry.at)}; {REMEDY}"
    if not expiry.renewed:
        return f"{expiry.what} expires on {utc_minute(expiry.at)}; {REMEDY}"
    if access.renewal_trouble:
        return f"{expiry.what} expires on {utc_minute(expiry.at)} and cannot be renewed: {access.renewal_trouble}"
    return ""
