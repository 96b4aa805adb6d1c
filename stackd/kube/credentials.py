"""How stackd gets to a cluster and who it is there: kubeconfig, in-cluster service account, or a bare address.

Owns the Kubernetes client library: its configuration loading (contexts, exec plugins, client certificates, token
files) and its connection pool. Everything else asks this module for a session and for request headers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yaml
from kubernetes.aio import config as loading
from kubernetes.aio.client import ApiClient, Configuration
from yarl import URL

from stackd import __version__
from stackd.errors import ClusterRefused, ClusterUnavailable, ConfigError

Mode = Literal["auto", "kubeconfig", "in-cluster", "embedded"]
_IN_CLUSTER_VARIABLE = "KUBERNETES_SERVICE_HOST"
IDLE_SECONDS = 60.0
"""How long a connection is kept for the next burst of creates: new ones cost both sides a TLS handshake each, just when
all players press "start". The API server closes idle ones after 90 s (Kubernetes 1.36)."""
READ_BUFFER_BYTES = 2**21
"""As in the Kubernetes client: a watch event may be larger than aiohttp's own 64 KiB."""

_UNREADABLE = (loading.ConfigException, OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTarget:
    """Which cluster, as whom, and where in it. ``url`` (with ``token``, ``ca_file``) is for mode ``embedded``.

    ``timeout`` bounds one call with all its repetitions, ``attempt_timeout`` one repetition, in seconds.
    """

    mode: Mode = "auto"
    kubeconfig: str = ""
    context: str = ""
    url: str = ""
    token: str = field(default="", repr=False)
    ca_file: str = ""
    instance: str = "default"
    namespace: str = "stacks"
    timeout: float = 10.0
    attempt_timeout: float = 5.0
    max_in_flight: int = 64
    reload_interval: float = 2.0


class Pool:
    """The connections made with one set of credentials."""

    def __init__(self, client: ApiClient) -> None:
        self.client = client
        self.users = 0

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connection pool itself, opened when first needed."""
        pool: aiohttp.ClientSession | None = self.client.rest_client.pool_manager
        if pool is None:
            rest = self.client.rest_client
            # Otherwise the client makes one itself before its first request; ours do not go through its models.
            pool = rest.pool_manager = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=rest.maxsize, ssl=rest.ssl_context, keepalive_timeout=IDLE_SECONDS
                ),
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=READ_BUFFER_BYTES,
            )
        return pool

    async def close(self) -> None:
        """Close all connections. Whoever still reads from one of them would wait for ever."""
        await self.client.close()  # type: ignore[no-untyped-call]


class Access:
    """The way to one cluster and the credentials that go with each request.

    Whoever sends a request borrows the pool until the answer has been read, watches too: a pool whose credentials were
    replaced is closed when nobody uses it any more.
    """

    def __init__(self, target: ClusterTarget, client: ApiClient) -> None:
        self._target = target
        self._pool = Pool(client)
        self._retired: list[Pool] = []
        self._reloading = asyncio.Lock()
        self._reloaded_at: float | None = None
        self._trouble = ""
        self.generation = 0

    @classmethod
    async def open(cls, target: ClusterTarget) -> Access:
        """Load the credentials; nothing is sent. Raises ConfigError."""
        return cls(target, await _load(target))

    @property
    def base_url(self) -> str:
        """The API server's address, without a slash at the end."""
        return str(self._pool.client.configuration.host).rstrip("/")

    @contextmanager
    def borrowed(self) -> Iterator[aiohttp.ClientSession]:
        """The present connections, which stay open meanwhile."""
        pool = self._pool
        pool.users += 1
        try:
            yield pool.session
        finally:
            pool.users -= 1

    def options(self) -> dict[str, Any]:
        """What the configuration asks of each request beside headers: proxy and TLS server name."""
        configuration = self._pool.client.configuration
        wanted = {
            "proxy": configuration.proxy,
            "proxy_headers": configuration.proxy_headers,
            "server_hostname": configuration.tls_server_name,
        }
        return {key: value for key, value in wanted.items() if value}

    async def headers(self) -> dict[str, str]:
        """The headers of a request, with a token that is fresh where the source renews it by time."""
        headers: dict[str, str] = {"User-Agent": f"stackd/{__version__}", "Accept": "application/json"}
        try:
            await self._pool.client.update_params_for_auth(headers, [], ["BearerToken"], None, None, None)
        except _UNREADABLE as exc:
            raise ClusterUnavailable(f"the cluster's credentials cannot be read: {exc}") from exc
        return headers

    async def reload(self, seen: int) -> bool:
        """Load the credentials again because those of generation ``seen`` were refused; False if that is no use.

        However many requests are refused at once, one of them reloads; and not more often than the target says, as a
        source that gives bad credentials (a plugin, say) would be run for every request. Raises ClusterRefused when
        they cannot be read, or are for another server: watches and requests would go to two clusters.
        """
        async with self._reloading:
            if self.generation != seen:
                return True
            now = asyncio.get_running_loop().time()
            if self._reloaded_at is None or now - self._reloaded_at >= self._target.reload_interval:
                self._reloaded_at = now
                self._trouble = await self._replace()
                if not self._trouble:
                    return True
            if self._trouble:
                raise ClusterRefused(self._trouble)
            return False

    async def _replace(self) -> str:
        """Take what the source gives now. Returns why not, if that is so."""
        try:
            fresh = await _load(self._target)
        except ConfigError as exc:
            return f"the cluster's credentials cannot be read: {exc}"
        if fresh.configuration.host != self._pool.client.configuration.host:
            await Pool(fresh).close()
            named = f"the credentials are for {fresh.configuration.host} by now, and no longer for {self.base_url}"
            return f"{named}: restart stackd if that is meant"
        await self._take(fresh)
        self.generation += 1
        return ""

    async def close(self) -> None:
        """Close all connections."""
        for pool in (self._pool, *self._retired):
            await pool.close()

    async def _take(self, fresh: ApiClient) -> None:
        # A session keeps its TLS context, so it is always replaced. Requests and watches go on with the one before.
        self._retired.append(self._pool)
        self._pool = Pool(fresh)
        unused = [pool for pool in self._retired if not pool.users]
        self._retired = [pool for pool in self._retired if pool.users]
        for pool in unused:
            await pool.close()


async def _load(target: ClusterTarget) -> ApiClient:
    configuration = Configuration(connection_pool_maxsize=target.max_in_flight + 8)
    mode = _resolved(target)
    try:
        if mode == "embedded":
            _address(target, configuration)
        elif mode == "kubeconfig":
            await _kubeconfig(target, configuration)
        else:
            loading.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        _decide_proxy(configuration, mode)
        return ApiClient(configuration)  # reads the certificates
    except _UNREADABLE as exc:
        raise ConfigError([f"[cluster] {mode}: {_reason(target, mode, exc)}"]) from exc


def _address(target: ClusterTarget, configuration: Configuration) -> None:
    configuration.host = target.url
    configuration.ssl_ca_cert = target.ca_file or None
    if target.token:
        configuration.api_key["BearerToken"] = f"Bearer {target.token}"


def _decide_proxy(configuration: Configuration, mode: Mode) -> None:
    """Look for a proxy in the environment once, not (as the client would, on another thread) for every request.

    An embedded cluster is on this machine: a proxy has no business in between.
    """
    if mode == "embedded" or configuration.proxy:
        return
    address = URL(configuration.host)
    if address.host and not proxy_bypass(address.host):
        configuration.proxy = getproxies().get(address.scheme)


async def _kubeconfig(target: ClusterTarget, configuration: Configuration) -> None:
    paths = _kubeconfig_paths(target)
    for path in _existing(paths):
        _must_be_mapping(path)
    await loading.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=paths,
        context=target.context or None,
        client_configuration=configuration,
        # The file is the operator's; what a plugin renews is kept in memory.
        persist_config=False,
    )
    if configuration.host == "http://localhost":
        raise ValueError("the context names no server")


def _existing(paths: str) -> list[Path]:
    """Those of the list (KUBECONFIG may name several) that are there. Raises OSError if none is."""
    found = [path for text in paths.split(os.pathsep) if text and (path := Path(text).expanduser()).is_file()]
    if not found:
        raise OSError(f"there is no file {paths}")
    return found


def _must_be_mapping(path: Path) -> None:
    """The client library would say that None, or a word, does not support item assignment."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if document is None:
        raise ValueError("the file is empty; a kubeconfig is expected")
    if not isinstance(document, dict):
        raise ValueError("it is not a kubeconfig: clusters, users and contexts are expected")


def _kubeconfig_paths(target: ClusterTarget) -> str:
    return target.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"


def _resolved(target: ClusterTarget) -> Mode:
    if target.mode != "auto":
        return target.mode
    if target.url:
        return "embedded"
    if target.kubeconfig or os.environ.get("KUBECONFIG"):
        return "kubeconfig"
    with suppress(RuntimeError):
        if Path("~/.kube/config").expanduser().is_file():
            return "kubeconfig"
    return "in-cluster" if os.environ.get(_IN_CLUSTER_VARIABLE) else "kubeconfig"


def _reason(target: ClusterTarget, mode: Mode, exc: BaseException) -> str:
    if mode != "kubeconfig" or isinstance(exc, OSError):
        return str(exc)
    paths = _kubeconfig_paths(target)
    if isinstance(exc, KeyError | TypeError | AttributeError):
        return f"{paths}: its parts are not those of a kubeconfig ({exc})"
    return f"{paths}: {exc}"
