"""Who is calling: keys from header or query, compared by hash and in constant time.

Owns: the keys in force and the count of failed attempts per address. Nothing of a request's body is read before this.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Sequence

from aiohttp import web

from stackd.clock import Clock
from stackd.errors import PermissionDenied, TooManyRequests, Unauthenticated
from stackd.keys import ApiKey, digest

HEADER = "X-API-KEY"
PARAMETER = "api_key"
ADMIN = "admin"
ANONYMOUS = ApiKey.model_construct(name="anonymous", sha256=b"", scope="admin")
REMEMBERED_ADDRESSES = 10_000
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Keys:
    """The keys in force; replaced as a whole by a reload."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._keys: tuple[ApiKey, ...] = ()
        self._enabled = True
        self._failed_per_minute = 0
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def replace(self, keys: Sequence[ApiKey], *, enabled: bool, failed_per_minute: int) -> None:
        """Put these keys in force."""
        self._keys = tuple(keys)
        self._enabled = enabled
        self._failed_per_minute = failed_per_minute

    def identify(self, request: web.BaseRequest) -> ApiKey:
        """The key that the request carries. Raises Unauthenticated, or TooManyRequests for an address that guesses."""
        if not self._enabled:
            return ANONYMOUS
        text = request.headers.get(HEADER) or request.query.get(PARAMETER)
        if not text:
            raise Unauthenticated("no API key: send it in the X-API-KEY header or the api_key query parameter")
        found = self._find(text)
        if found is None:
            self._failed(request.remote or "")
            raise Unauthenticated("the API key is not valid")
        return found

    def _find(self, text: str) -> ApiKey | None:
        given = digest(text)
        found = None
        for key in self._keys:
            if hmac.compare_digest(given, key.sha256):
                found = key
        return found

    def _failed(self, address: str) -> None:
        """Count a failure against the address's allowance, which refills evenly over a minute."""
        limit = self._failed_per_minute
        if not limit:
            return
        now = self._clock.monotonic()
        left, since = self._failures.pop(address, (float(limit), now))
        left = min(float(limit), left + (now - since) * limit / 60.0) - 1.0
        self._failures[address] = (max(left, -1.0), now)
        if len(self._failures) > REMEMBERED_ADDRESSES:
            self._failures.popitem(last=False)
        if left < 0:
            raise TooManyRequests("too many wrong API keys from this address (limits.failed_auth_per_minute)", 60)


def permit(key: ApiKey, method: str) -> None:
    """Raise PermissionDenied where the key's scope does not cover the method: ``read`` keys only read."""
    if key.scope != ADMIN and method not in SAFE_METHODS:
        raise PermissionDenied(f"the API key {key.name!r} may only read")
