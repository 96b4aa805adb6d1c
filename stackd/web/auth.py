"""Who is calling: keys from header or query, compared by hash and in constant time.

Owns: the keys in force and the count of failed attempts per address. Nothing of a request's body is read before this.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Network, ip_address
from math import ceil

from aiohttp import web

from stackd.clock import Clock
from stackd.errors import PermissionDenied, TooManyRequests, Unauthenticated
from stackd.keys import ApiKey, digest

HEADER = "X-API-KEY"
PARAMETER = "api_key"
ADMIN = "admin"
ANONYMOUS = ApiKey.model_construct(name="anonymous", sha256=b"", scope="admin")
REMEMBERED_ADDRESSES = 10_000
LONGEST_KEY = 512
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Keys:
    """The keys in force; replaced as a whole by a reload."""

    def __init__(self, clock: Clock) -> None:
        self._keys: tuple[ApiKey, ...] = ()
        self._enabled = True
        self._failures = Failures(clock)

    def replace(self, keys: Sequence[ApiKey], *, enabled: bool, failed_per_minute: int) -> None:
        """Put these keys in force."""
        self._keys = tuple(keys)
        self._enabled = enabled
        self._failures.per_minute = failed_per_minute

    def identify(self, request: web.BaseRequest) -> ApiKey:
        """The key that the request carries. Raises Unauthenticated, or TooManyRequests for an address that guesses.

        Whoever shares an address with somebody who guesses still gets in with a valid key.
        """
        if not self._enabled:
            return ANONYMOUS
        text = request.headers.get(HEADER) or request.query.get(PARAMETER)
        found = self._find(text) if text and len(text) <= LONGEST_KEY else None
        if found is not None:
            return found
        wait = self._failures.wait(request.remote or "", attempt=bool(text))
        if wait:
            raise TooManyRequests("too many wrong API keys from this address (limits.failed_auth_per_minute)", wait)
        if not text:
            raise Unauthenticated("no API key: send it in the X-API-KEY header or the api_key query parameter")
        raise Unauthenticated("the API key is not valid")

    def _find(self, text: str) -> ApiKey | None:
        given = digest(text)
        found = None
        for key in self._keys:
            if hmac.compare_digest(given, key.sha256):
                found = key
        return found


class Failures:
    """How many attempts each address has left; the allowance refills evenly over a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.per_minute = 0

    def wait(self, address: str, *, attempt: bool) -> int:
        """Count an attempt; 0, or the seconds until the address may try again."""
        limit = self.per_minute
        if not limit:
            return 0
        address = neighbourhood(address)
        now = self._clock.monotonic()
        left, since = self._left.get(address, (float(limit), now))
        left = min(float(limit), left + (now - since) * limit / 60.0)
        if left < 1.0:
            return ceil((1.0 - left) * 60.0 / limit)
        if attempt:
            self._left[address] = (left - 1.0, now)
            self._left.move_to_end(address)
            if len(self._left) > REMEMBERED_ADDRESSES:
                self._left.popitem(last=False)
        return 0


def neighbourhood(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 in which one host may choose its IPv6 address freely."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((parsed, 64), strict=False))


def permit(key: ApiKey, method: str) -> None:
    """Raise PermissionDenied where the key's scope does not cover the method: ``read`` keys only read."""
    if key.scope != ADMIN and method not in SAFE_METHODS:
        raise PermissionDenied(f"the API key {key.name!r} may only read")
