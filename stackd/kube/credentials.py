"""Which cluster stackd works with and as whom, and the connections to it: a kubeconfig, or the service account of a pod.

``Access`` loads the credentials again when the API server refuses them or their source has changed. ``Renewal`` requests
a fresh token (TokenRequest) before the one in the kubeconfig expires, keeps it in a file over restarts, and warns about
credentials that will expire. It does not renew what a file, a plugin or the kubelet renews.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from kubernetes.aio import config as loading
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config.exec_provider import ExecProvider
from kubernetes.aio.config.kube_config import FileOrData, KubeConfigLoader, KubeConfigMerger
from msgspec import json

from stackd.clock import DAY_SECONDS, Clock, utc_minute
from stackd.config import Config, require_cluster
from stackd.config.credentials import NO_CLUSTER, current, is_unset, shown
from stackd.errors import ClusterError, ClusterRefused, ClusterUnavailable, ConfigError
from stackd.files import write_private
from stackd.kube.objects import NodeState, any_node
from stackd.kube.wire import JSON, KINDS, TOKENS, JsonObject, KubeRequest
from stackd.proxies import proxy_for, usable, without_password
from stackd.validity import WARN_SECONDS, validity
from stackd.version import VERSION

log = logging.getLogger(__name__)

SendRequest = Callable[[KubeRequest], Awaitable[JsonObject]]
AddrInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
LONGEST_AGE: Final = DAY_SECONDS
"""A token is renewed after this many seconds at the latest: so a stackd that was off for weeks still has a valid one."""
LOAD_SECONDS = 30.0  # how long a credential plugin may take while stackd runs
CHECK_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 60.0
SHORTEST_SECONDS: Final = 600  # the shortest lifetime of a token that the API server issues
REMEDY: Final = "replace the kubeconfig, and reload"
IDLE_SECONDS = 60.0
"""How long an idle connection is kept for the next burst of creates. Each new connection costs both sides a TLS
handshake, just when all players press "start". The API server closes idle connections after 90 s (Kubernetes 1.36)."""
KEEPALIVE = {socket.TCP_KEEPIDLE: 6, socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3, socket.TCP_USER_TIMEOUT: 10_000}
"""Two times in seconds, a count, and a time in milliseconds. A NAT or load balancer can forget a connection silently: the
kernel probes after 6 s of silence, and closes the connection if nothing is acknowledged for 10 s."""
READ_BUFFER_BYTES = 2**21  # as in the Kubernetes client: a watch event can be larger than aiohttp's default of 64 KiB
_BEARER = "BearerToken"
_UNREADABLE = (loading.ConfigException, OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTarget:
    """Which cluster, as whom, and in which namespace. ``kubeconfig`` is a path, or several as in $KUBECONFIG; empty: the
    service account of the pod that this runs in. ``any_node`` stands for all nodes if there are no rights but in the namespace,
    whose uid is the identity of the cluster then. ``token_file``, if any, keeps a renewed token across restarts.

    ``timeout`` limits one call with all its tries, ``attempt_timeout`` one try, in seconds. ``max_in_flight`` limits how
    many requests run at a time; logs, which a node may hold up, have a limit of their own, and the Lease has none. So have
    creates and deletes of Services, which the API server takes one after another from its allocators: more of them at a
    time are slower, and it tries again whatever meets a conflict there.
    """

    kubeconfig: str = ""
    context: str = ""
    token_file: str = ""
    instance: str = "default"
    namespace: str = "stacks"
    any_node: NodeState | None = None
    timeout: float = 10.0
    attempt_timeout: float = 5.0
    max_in_flight: int = 64
    logs_in_flight: int = 24
    services_in_flight: int = 4
    reload_interval: float = 2.0

    @classmethod
    def of(cls, config: Config, *, instance: str = "") -> ClusterTarget:
        """The configured target, with ``instance`` if given. Raises ConfigError if no cluster is chosen."""
        require_cluster(config)
        chosen = config.cluster
        return cls(
            kubeconfig="" if chosen.mode == "in-cluster" else chosen.kubeconfig,
            context=chosen.context,
            token_file=token_file_of(config.state.path),
            instance=instance or chosen.instance,
            namespace=config.stacks.namespace,
            any_node=any_node_of(config),
        )


def any_node_of(config: Config) -> NodeState | None:
    return any_node(config.stacks.node_selector) if config.cluster.rights == "namespace" else None


# ---- loading


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What was loaded; ``lasting``: only stackd or the operator renews it. ``traits`` is a digest to compare two sets of
    credentials; ``certificate_ends`` is in seconds since the epoch. ``own_proxy`` is the kubeconfig's, not the environment's.
    """

    configuration: Configuration
    own_proxy: str | None
    tls: ssl.SSLContext
    lasting: bool
    traits: bytes
    certificate_ends: float | None


class Plugin(ExecProvider):
    """A credential plugin, which is killed with what it has started when its load is cancelled: the library leaves it
    running. An interactive one stays in the terminal's session, because it may have a question.
    """

    async def run(self, previous_response: object = None) -> Any:
        """The ``status`` of the plugin's answer. Raises ConfigException, OSError."""
        interactive = sys.stdout.isatty()
        info = {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": {"interactive": interactive}}
        process = await asyncio.create_subprocess_exec(
            *self.args,
            env={**self.env, "KUBERNETES_EXEC_INFO": json.encode(info).decode()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=not interactive,
        )
        try:
            output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid if interactive else -process.pid, signal.SIGKILL)
        if process.returncode:
            raise loading.ConfigException(
                f"exec: process returned {process.returncode}. {errors.decode(errors='replace').strip()}"
            )
        try:
            answer = json.decode(output)
            version, status = answer["apiVersion"], answer["status"]
        except (ValueError, KeyError, TypeError) as exc:
            raise loading.ConfigException(f"exec: the plugin's answer cannot be read: {exc}") from exc
        if version != self.api_version:
            raise loading.ConfigException(f"exec: plugin api version {version} does not match {self.api_version}")
        return status


class Loader(KubeConfigLoader):
    """The credentials of one context of kubeconfigs."""

    @classmethod
    def of(cls, target: ClusterTarget, files: list[Path]) -> Loader:
        merged = KubeConfigMerger(os.pathsep.join(map(str, files))).config  # type: ignore[no-untyped-call]
        return cls(merged, active_context=target.context or None, config_base_path=None)

    @property
    def lasting(self) -> bool:
        return not any(key in (self._user or {}) for key in ("exec", "auth-provider", "tokenFile"))

    async def load_from_exec_plugin(self) -> bool:
        """Take a token or a certificate from the plugin. If it fails, there is none: the API server refuses that, and stackd
        loads the credentials again.
        """
        user: Any = self._user
        try:
            status = await Plugin(user["exec"]).run()  # type: ignore[no-untyped-call]
            if "token" in status:
                self.token = f"Bearer {status['token']}"
            else:
                certificate, key = status["clientCertificateData"], status["clientKeyData"]
                self.cert_file, self.key_file = map(_file_with, (certificate, key))
        except (loading.ConfigException, OSError, KeyError, TypeError) as exc:
            log.error(
                "a credential plugin has failed: %s", f"its answer lacks {exc}" if isinstance(exc, KeyError) else exc
            )
            return False
        return True


def _file_with(text: str) -> str:
    """The name of a file with the text, which is removed when the process ends."""
    kept = FileOrData({"data": text}, "", "data", base64_file_content=False)  # type: ignore[no-untyped-call]
    return str(kept.as_file())  # type: ignore[no-untyped-call]


async def load_credentials(target: ClusterTarget) -> Credentials:
    """Load the credentials; nothing is sent. Raises ConfigError."""
    configuration, lasting = Configuration(), False
    named = [Path(path) for path in target.kubeconfig.split(os.pathsep) if path]
    files = [*map(current, named)]
    if any(map(is_unset, files)):
        raise ConfigError([f"[cluster] kubeconfig: {NO_CLUSTER}"])
    try:
        if files:
            if not any(path.is_file() for path in files):
                raise ValueError("there is no such file")
            loader = Loader.of(target, files)
            await loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
            if configuration.host == "http://localhost":
                raise ValueError("the context names no server")
            lasting = loader.lasting
        else:
            loading.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        return _completed(configuration, lasting=lasting)
    except _UNREADABLE as exc:
        why, names = _why_unreadable(exc), [*map(shown, named)]
        for file, name in zip(files, names, strict=True):
            why = why.replace(str(file), name)
        place = f"kubeconfig: {os.pathsep.join(names)}" if files else "in-cluster"
        raise ConfigError([f"[cluster] {place}: {why}"]) from exc


def _completed(one: Configuration, *, lasting: bool) -> Credentials:
    own_proxy = one.proxy
    # As with kubectl, the cluster's own wins, whatever NO_PROXY says.
    one.proxy = usable(own_proxy, "proxy-url") if own_proxy else proxy_for(one.host)
    tls = ApiClient(one).rest_client.ssl_context  # reads the certificates
    # Check chain, time and name as kubectl does, but not the extensions of the CA's certificate: since 3.13 Python
    # requires all of RFC 5280, which those of many clusters lack. And accept an intermediate CA as the root.
    tls.verify_flags = (tls.verify_flags & ~ssl.VERIFY_X509_STRICT) | ssl.VERIFY_X509_PARTIAL_CHAIN
    texts = repr((one.host, sorted(one.api_key.items()), one.verify_ssl, one.tls_server_name, one.proxy)).encode()
    files = [Path(path).read_bytes() for path in (one.ssl_ca_cert, one.cert_file, one.key_file) if path]
    traits, ends = hashlib.sha256(b"\0".join([texts, *files])).digest(), None
    with suppress(OSError, ValueError):
        ends = validity(Path(one.cert_file)).ends if one.cert_file and lasting else None
    return Credentials(
        configuration=one, own_proxy=own_proxy, tls=tls, lasting=lasting, traits=traits, certificate_ends=ends
    )


def _why_unreadable(exc: Exception) -> str:
    """What is wrong and where, in one line and without a part of the file, which may be a secret."""
    if isinstance(exc, yaml.YAMLError):
        mark = getattr(exc, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        return f"it is not YAML: {getattr(exc, 'problem', None) or 'it cannot be read'}{place}"
    if isinstance(exc, KeyError | TypeError | AttributeError):
        missing = f" ({exc})" if isinstance(exc, KeyError) else ""
        return f"it is not a kubeconfig: clusters, users and contexts are expected{missing}"
    return " ".join(str(exc).split())


# ---- tokens that expire


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A service account's token, valid between two times in seconds since the epoch; ``owner`` is the same for all tokens of
    one account of one cluster.
    """

    text: str = field(repr=False)
    namespace: str
    account: str
    owner: tuple[str, ...]
    begins: float
    ends: float

    @property
    def lifetime(self) -> float:
        """In seconds."""
        return self.ends - self.begins


def read_token(text: str) -> Token | None:
    """The parsed JWT (its signature is not checked); None if it is not a service account's token that expires."""
    try:
        _, claims, _ = text.strip().split(".")
        read = json.decode(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        about = read["kubernetes.io"]
        namespace, account = str(about["namespace"]), str(about["serviceaccount"]["name"])
        return Token(
            text=text.strip(),
            namespace=namespace,
            account=account,
            owner=(str(read["iss"]), namespace, account, str(about["serviceaccount"]["uid"])),
            begins=float(read["iat"]),
            ends=float(read["exp"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def token_file_of(state_path: str) -> str:
    """The token file for a stackd whose state is at ``state_path``: the service may write only to that folder."""
    return f"{state_path}.token"


def token_request(namespace: str, account: str, seconds: int) -> KubeRequest:
    """The request for a token of that service account that expires; ``status.token`` of the response is the token."""
    body = json.encode({**KINDS[TOKENS].type_meta, "spec": {"expirationSeconds": seconds}})
    return KubeRequest(verb="create", resource=TOKENS, namespace=namespace, name=account, body=body)


async def request_token(answer: SendRequest, token: Token) -> Token:
    """A fresh token for the same account, with the same lifetime. Raises ClusterUnavailable, ObjectNotFound."""
    seconds = max(SHORTEST_SECONDS, round(token.lifetime))
    document = await answer(token_request(token.namespace, token.account, seconds))
    fresh = read_token(document["status"]["token"])
    if fresh is None or fresh.owner != token.owner:
        raise ClusterUnavailable("Kubernetes answered a TokenRequest with something else than a token of the account")
    return fresh


# ---- connections


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """When credentials expire (in seconds since the epoch), and whether stackd renews them by itself."""

    what: str
    at: float
    renewed: bool


class Access:
    """Connections to one cluster, and the credentials of each request.

    A session that was replaced is closed when no request or watch borrows it any more. ``token`` is the token that is
    sent, if stackd has to renew it; otherwise None. ``base_url`` is the API server's, without a slash at the end.
    """

    def __init__(self, target: ClusterTarget, credentials: Credentials, current_token: Token | None = None) -> None:
        self._target = target
        self.base_url = str(credentials.configuration.host).rstrip("/")
        self.token_file = target.token_file
        self._session: aiohttp.ClientSession | None = None
        self._users: dict[aiohttp.ClientSession, int] = {}
        self._reloading = asyncio.Lock()
        self._reloaded_at: float | None = None
        self._fault = ""
        self.generation = 0
        self.renewal_fault = ""
        self.token = current_token
        self._use_credentials(credentials)

    @classmethod
    async def open(cls, target: ClusterTarget) -> Access:
        """Load the credentials; nothing is sent. Raises ConfigError."""
        return cls(target, await load_credentials(target))

    @property
    def expiry(self) -> Expiry | None:
        """When the token expires, or else the client certificate; None if neither does or others renew them."""
        if self.token is not None:
            return Expiry(what="stackd's token for the cluster", at=self.token.ends, renewed=True)
        ends = self._credentials.certificate_ends
        return None if ends is None else Expiry(what="the kubeconfig's client certificate", at=ends, renewed=False)

    def use(self, token: Token) -> None:
        """Send ``token`` from now on, over the same connections."""
        self.token = token
        self._credentials.configuration.api_key[_BEARER] = f"Bearer {token.text}"

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session in use, to be passed to ``leave``; to send a request, use ``borrowed``."""
        if self._session is None:
            self._session = self.new_session(keepalive_timeout=IDLE_SECONDS)
            self._users[self._session] = 0
        return self._session

    def new_session(self, **options: Any) -> aiohttp.ClientSession:
        """A session of its own; the caller closes it. ``options`` are those of aiohttp's TCPConnector."""
        target = self._target
        limit = 2 * target.max_in_flight + target.logs_in_flight + 8  # slow writes of Services are beside their slots
        tls = self._credentials.tls
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limit, ssl=tls, socket_factory=watched_socket, **options),
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER_BYTES,
        )

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
        if session is self._session:
            self._session = None
        unused = [session for session, users in self._users.items() if not users and session is not self._session]
        for session in unused:
            del self._users[session]
        for session in unused:
            await session.close()

    async def close(self) -> None:
        """Close all connections. A reader that is still on one of them would wait forever."""
        for session in tuple(self._users):
            await session.close()

    @property
    def through(self) -> str:
        """``through the proxy …``, for messages; empty without one."""
        proxy = self._credentials.configuration.proxy
        return f"through the proxy {without_password(proxy)}" if proxy else ""

    def options(self) -> dict[str, Any]:
        """The options of each request that the configuration sets, besides headers: proxy and TLS server name."""
        one = self._credentials.configuration
        wanted = {"proxy": one.proxy, "proxy_headers": one.proxy_headers, "server_hostname": one.tls_server_name}
        return {key: value for key, value in wanted.items() if value}

    async def headers(self) -> dict[str, str]:
        """The headers of a request, with a fresh token if its source renews it by time. Raises ClusterUnavailable."""
        try:
            bearer = await self._credentials.configuration.get_api_key_with_prefix(_BEARER)
        except _UNREADABLE as exc:
            raise ClusterUnavailable(f"the cluster's credentials cannot be read: {exc}") from exc
        headers = {"User-Agent": f"stackd/{VERSION}", "Accept": JSON}
        return headers | ({"Authorization": bearer} if bearer else {})

    async def reload(self, seen: int) -> bool:
        """Load the credentials again because those of generation ``seen`` were refused. False: a retry is no use.

        The target limits how often that happens: otherwise a source of bad credentials (such as a plugin) would run for
        every request. Raises ClusterRefused when they cannot be read, or are for another server.
        """
        async with self._reloading:
            if self.generation != seen:
                return True
            now = asyncio.get_running_loop().time()
            if self._reloaded_at is None or now - self._reloaded_at >= self._target.reload_interval:
                self._reloaded_at = now
                try:
                    await self._replace(await self._loaded(), refused=self.token)
                    return True
                except ConfigError as exc:
                    self._fault = f"the cluster's credentials cannot be read: {exc}"
            if self._fault:
                raise ClusterRefused(self._fault)
            return False

    async def reload_credentials(self, accepted: Callable[[Access], Awaitable[None]]) -> bool:
        """Load the credentials and use them if they have changed; returns whether they have. Raises ConfigError if they
        cannot be loaded, or ``accepted`` raises ClusterRefused; those in force stay.
        """
        async with self._reloading:
            fresh = await self._loaded()
            if fresh.traits == self._credentials.traits:
                return False
            try:
                await accepted(Access(self._target, fresh, self.token))
            except ClusterRefused as error:
                raise ConfigError([f"[cluster] the new credentials are no use: {error}"]) from error
            await self._replace(fresh)
            self._reloaded_at = None
            return True

    async def _loaded(self) -> Credentials:
        """The source's current credentials. Raises ConfigError, also if a plugin hangs, and if they are for another server:
        watches and requests would go to two clusters.
        """
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                fresh = await load_credentials(self._target)
        except TimeoutError as exc:
            why = f"they were not loaded within {LOAD_SECONDS:g} s; does a credential plugin hang?"
            raise ConfigError([f"[cluster] {why}"]) from exc
        host = fresh.configuration.host
        if host != self._credentials.configuration.host:
            named = f"the credentials are now for {host}, and no longer for {self.base_url}"
            raise ConfigError([f"{named}: restart stackd if that is intended"])
        return fresh

    async def _replace(self, fresh: Credentials, refused: Token | None = None) -> None:
        # A session keeps its TLS context, so it is always replaced. Running requests and watches keep the old session.
        self._use_credentials(fresh, refused)
        self._fault = ""
        self.generation += 1
        await self.leave(self._session)

    def _use_credentials(self, fresh: Credentials, refused: Token | None = None) -> None:
        """Send the token of the credentials' account that expires last, but not the one that was refused."""
        self._credentials, before, self.token = fresh, self.token, None
        _, _, text = str(fresh.configuration.api_key.get(_BEARER, "")).partition(" ")
        own = read_token(text) if fresh.lasting else None
        if own is None:
            return
        saved = None
        with suppress(OSError, ValueError):
            saved = read_token(Path(self.token_file).read_text(encoding="ascii")) if self.token_file else None
        candidates = [
            token for token in (own, before, saved) if token and token.owner == own.owner and token.ends > time.time()
        ]
        others = [token for token in candidates if refused is None or token.text != refused.text]
        self.use(max(others or candidates, key=lambda token: token.ends, default=own))


def watched_socket(address: AddrInfo) -> socket.socket:
    """A socket with TCP keepalive, which detects that the other side is gone."""
    family, kind, protocol, *_ = address
    created = socket.socket(family, kind, protocol)
    if family in (socket.AF_INET, socket.AF_INET6):
        created.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            created.setsockopt(socket.IPPROTO_TCP, option, value)
    return created


class Renewal:
    """Renews the token that ``access`` sends. ``answer`` sends a request and returns the JSON of its response."""

    def __init__(self, access: Access, answer: SendRequest, clock: Clock) -> None:
        self._access = access
        self._answer = answer
        self._clock = clock
        self._not_before = 0.0
        self._reminded_at = 0.0

    async def run(self) -> None:
        while True:
            pause = await self.check()
            await asyncio.sleep(pause)

    async def check(self) -> float:
        """Renew the token if it is due, warn of what will expire; returns the seconds until the next check."""
        now, access, token, pause = self._clock.now() / 1e9, self._access, self._access.token, CHECK_SECONDS
        if token is None:
            access.renewal_fault = ""
        elif now >= max(token.begins + min(token.lifetime / 2, LONGEST_AGE), self._not_before):
            try:
                await self._renew(token)
                access.renewal_fault = ""
            except (ClusterError, ClusterUnavailable) as error:
                if str(error) != access.renewal_fault:
                    until = utc_minute(token.ends)
                    log.warning("the token for the cluster cannot be renewed, it is good until %s: %s", until, error)
                access.renewal_fault = str(error)
                pause = max(1.0, min(RETRY_SECONDS, (token.ends - self._clock.now() / 1e9) / 10))
        if now - self._reminded_at >= DAY_SECONDS and (text := expiry_remark(access, now)):
            self._reminded_at = now
            log.warning("%s", text)
        return pause

    async def _renew(self, token: Token) -> None:
        fresh = await request_token(self._answer, token)
        if fresh.ends <= token.ends:
            # The cluster now issues shorter tokens. Keep the current one until a fresh one would expire later.
            self._not_before = token.ends - fresh.lifetime / 2
            return
        if path := self._access.token_file:
            try:
                await asyncio.to_thread(write_private, Path(path), fresh.text + "\n")
            except OSError as error:
                why = error.strerror or error
                log.warning("the renewed token for the cluster cannot be kept over a restart: %s: %s", path, why)
        self._access.use(fresh)
        log.info("the token for the cluster was renewed, it is good until %s", utc_minute(fresh.ends))


def expiry_remark(access: Access, now: float) -> str:
    """The warning about credentials that have expired, or soon will and are not renewed; empty if there is none."""
    expiry = access.expiry
    if expiry is None or expiry.at - now >= WARN_SECONDS:
        return ""
    expires = f"{expiry.what} {'expired' if now >= expiry.at else 'expires'} on {utc_minute(expiry.at)}"
    if now >= expiry.at or not expiry.renewed:
        return f"{expires}; {REMEDY}"
    return f"{expires} and cannot be renewed: {access.renewal_fault}" if access.renewal_fault else ""
