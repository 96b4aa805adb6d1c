"""Authentication: API keys from a header or the query, compared by hash and in constant time.

Owns: the keys in force, the trusted proxies, and the count of failed attempts per address. Authentication comes before
any part of the body is read. Each proxy appends the address of its client to ``X-Forwarded-For``, and only entries of
trusted proxies count: the list is read from the right, up to the first address that is not a trusted proxy. The client
may have invented everything to the left of it.
"""

from __future__ import annotations

import hmac
import re
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from math import ceil

from aiohttp import hdrs, web

from stackd.clock import Clock
from stackd.codes import ErrorCode
from stackd.config import Config
from stackd.config.sections import OidcSection
from stackd.errors import PermissionDenied, TooManyRequests, Unauthenticated
from stackd.keys import ApiKey, digest
from stackd.web.oidc import SignIn
from stackd.workqueue import A_MINUTE, TokenBucket

Network = IPv4Network | IPv6Network

HEADER = "X-API-KEY"
PARAMETER = "api_key"
ADMIN, METRICS = "admin", "metrics"
OPERATOR_PATHS = frozenset({"/metrics", "/reconcile", "/reconcile/confirm", "/takeover"})
"""What a key of scope ``tenant`` may not use: it is about all stacks, or about stackd itself."""
METRICS_PATHS = frozenset({"/metrics", "/healthz", "/readyz", "/owner"})
"""What a key of scope ``metrics`` may read."""

ANONYMOUS = ApiKey.model_construct(name="anonymous", sha256=b"", scope="admin")
REMEMBERED_ADDRESSES = 10_000
LONGEST_KEY = 512
_LAST_PORT = re.compile(r":[0-9]*\Z")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Keys:
    """The keys in force. A reload replaces all of them, and then calls ``replaced``. ``link`` says whose link a text is that is
    no key, ``revoked`` which links and sessions were ended."""

    def __init__(
        self,
        clock: Clock,
        *,
        replaced: Callable[[], None] = lambda: None,
        revoked: Callable[[str], bool] = lambda link_id: False,
        link: Callable[[str], ApiKey | None] = lambda text: None,
    ) -> None:
        self._keys: tuple[ApiKey, ...] = ()
        self._enabled = True
        self._failures = Failures(clock)
        self._trusted: tuple[Network, ...] = ()
        self._names: set[str] = set()
        self.sign_in = SignIn(OidcSection())
        self._replaced, self._revoked, self._link = replaced, revoked, link

    def replace(self, config: Config) -> None:
        """Put the configured keys in force."""
        self._keys = config.auth.keys
        self._enabled = config.auth.enabled
        self._failures.per_minute = config.limits.failed_auth_per_minute
        self._trusted = tuple(ip_network(each) for each in config.server.trusted_proxies)
        self._names = {config.server.host.lower(), socket.gethostname().lower()}
        if config.auth.oidc != self.sign_in.section:
            secret = config.play.secret.get_secret_value()
            self.sign_in = SignIn(config.auth.oidc, secret, self._revoked)
        self._replaced()

    def in_force(self, key: ApiKey) -> bool:
        """Whether the key, once accepted, would be accepted now."""
        return not self._enabled or key in self._keys or self.sign_in.in_force(key)

    def caller(self, request: web.BaseRequest) -> str:
        """The address that the request comes from, or that a trusted proxy says it comes from.

        Empty if the connection has none (a Unix socket).
        """
        peer = request.remote or ""
        if not self._trusted:
            return peer
        return nearest_untrusted(peer, request.headers.getall(hdrs.X_FORWARDED_FOR, ()), self._trusted)

    def identify(self, request: web.BaseRequest) -> ApiKey:
        """Return the request's key, or that of a person's session. Raises Unauthenticated, or TooManyRequests if its address
        sent too many wrong keys; without keys, PermissionDenied for what another site's web page may have sent.

        A valid key is accepted however many wrong keys came from its address: clients behind a proxy share one address.
        The length of the keys makes guessing hopeless (``keys.SHORTEST``).
        """
        if not self._enabled:
            self._refuse_other_sites(request)
            return ANONYMOUS
        text = request.headers.get(HEADER) or bearer(request) or request.query.get(PARAMETER)
        key = self._find(text) if text and len(text) <= LONGEST_KEY else None
        key = key or (self._link(text) if text else self.sign_in.find(request))
        if key is not None:
            return key
        wait = self._failures.wait(self.caller(request), attempt=bool(text))
        if wait:
            raise TooManyRequests(
                "too many wrong API keys from this address (limits.failed_auth_per_minute)",
                wait,
                code=ErrorCode.TOO_MANY_WRONG_KEYS,
            )
        if not text:
            raise Unauthenticated(
                "no API key: send it in the X-API-KEY header, as Authorization: Bearer, or in the api_key query parameter"
            )
        raise Unauthenticated("the API key is not valid")

    def refuse_many(self, request: web.BaseRequest, *, attempt: bool) -> None:
        """Count a try to sign in that failed, as a wrong key, if ``attempt``. Raises TooManyRequests after too many."""
        if wait := self._failures.wait(self.caller(request), attempt=attempt):
            raise TooManyRequests("too many failed tries to sign in from this address", wait)

    def _refuse_other_sites(self, request: web.BaseRequest) -> None:
        """Raise PermissionDenied if a web page of another site may have sent this: a browser reaches what its user does.

        Such a page may have made a DNS name of its own lead here. No such name is an address, or has no dot.
        """
        headers = request.headers
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise PermissionDenied("auth.enabled is false, and this request comes from another site's web page")
        peer = _address(request.remote or "")
        if peer is not None and any(peer in network for network in self._trusted):
            return  # the proxy may have replaced Host
        host, origin = headers.get(hdrs.HOST, "").lower(), headers.get(hdrs.ORIGIN)
        if origin is not None and origin.lower().partition("://")[2] != host:
            raise PermissionDenied("auth.enabled is false, and Origin is another site than Host")
        name = _LAST_PORT.sub("", host).rstrip(".")
        own = name in self._names or "." not in name or name.endswith(".localhost") or _address(name) is not None
        if not own:
            raise PermissionDenied(
                f"auth.enabled is false, and stackd is not reached as {name[:64]!r}; use its address, enable keys, "
                "or name the proxy in server.trusted_proxies"
            )

    def _find(self, text: str) -> ApiKey | None:
        sha256 = digest(text)
        matching = None
        for key in self._keys:
            if hmac.compare_digest(sha256, key.sha256):
                matching = key
        return matching


def bearer(request: web.BaseRequest) -> str:
    """The key of an ``Authorization: Bearer`` header; empty if there is none."""
    scheme, _, key = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


class Failures:
    """Counts the failed attempts of each address. Its allowance refills evenly within a minute."""

    def __init__(self, clock: Clock, per_minute: int = 0) -> None:
        self._clock, self.per_minute = clock, per_minute
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def wait(self, address: str, *, attempt: bool) -> int:
        """Count a wrong key if ``attempt``. Returns 0, or the seconds until the address may try again."""
        limit = self.per_minute
        if not limit:
            return 0
        address = client_network(address)
        now = self._clock.monotonic()
        bucket = self._buckets.get(address) or TokenBucket(now, limit)
        if not attempt:
            return ceil(bucket.wait(now, limit, A_MINUTE))
        wait = bucket.take(now, limit, A_MINUTE)
        if not wait:
            self._buckets[address] = bucket
            self._buckets.move_to_end(address)
            if len(self._buckets) > REMEMBERED_ADDRESSES:
                self._buckets.popitem(last=False)
        return ceil(wait)


def client_network(address: str) -> str:
    """What counts as one address: an IPv4 address, or a /64, in which a host may choose its IPv6 address freely."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((parsed, 64), strict=False))


def permit(key: ApiKey, method: str, path: str) -> None:
    """Raise PermissionDenied if the key's scope does not cover the method or the route's path."""
    if key.scope == ADMIN:
        return
    if key.tenant:
        if path in OPERATOR_PATHS:
            raise PermissionDenied(f"the API key {key.name!r} is a tenant's, and {path} is the operator's")
        return
    if key.scope == METRICS and not (path in METRICS_PATHS and method in SAFE_METHODS):
        raise PermissionDenied(f"the API key {key.name!r} may only read {', '.join(sorted(METRICS_PATHS))}")
    if method not in SAFE_METHODS:
        raise PermissionDenied(f"the API key {key.name!r} may only read")


def nearest_untrusted(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """The first address outside of ``trusted``, from ``peer`` backwards; if there is none, the last readable one."""
    here = peer
    hops = (entry.strip() for line in reversed(forwarded) for entry in reversed(line.split(",")))
    while (address := _address(here)) is not None and any(address in network for network in trusted):
        before = _address(next(hops, ""))
        if before is None:
            break
        here = str(before)
    return here


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address, also one with a port (some proxies append it). IPv4-mapped IPv6 addresses become IPv4 ones."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
