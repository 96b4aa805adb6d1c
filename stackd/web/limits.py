"""How much a key may ask for at a time: token buckets, and the number of creates under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

from stackd.clock import Clock
from stackd.config import Config
from stackd.errors import TooManyRequests

BURST_SECONDS = 1.0
"""A bucket holds what its rate gives in this time, and at least one."""


class Bucket:
    """An allowance that refills evenly; ``rate`` per second."""

    __slots__ = ("_left", "_since")

    def __init__(self, now: float, rate: float) -> None:
        self._left = max(1.0, rate * BURST_SECONDS)
        self._since = now

    def take(self, now: float, rate: float) -> float:
        """Take one; returns 0, or the seconds until there is one again."""
        full = max(1.0, rate * BURST_SECONDS)
        self._left = min(full, self._left + (now - self._since) * rate)
        self._since = now
        if self._left < 1.0:
            return (1.0 - self._left) / rate
        self._left -= 1.0
        return 0.0


class Limits:
    """The limits in force; the keys' names are the operator's, so there are few."""

    def __init__(self, clock: Clock, config: Config) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._creates = 0
        self.replace(config)

    def replace(self, config: Config) -> None:
        """Put other limits in force."""
        self._limits = config.limits
        self._buckets.clear()

    def request(self, key_name: str) -> None:
        """Count one request of this key. Raises TooManyRequests (``limits.requests_per_second``)."""
        if self._limits.requests_per_second:
            self._take(key_name, "requests_per_second", self._limits.requests_per_second)

    @contextmanager
    def create(self, key_name: str) -> Iterator[None]:
        """Count one create of this key, and as under way until it ends. Raises TooManyRequests, naming the limit."""
        if self._limits.creates_per_second:
            self._take(key_name, "creates_per_second", self._limits.creates_per_second)
        if self._limits.creates_in_flight and self._creates >= self._limits.creates_in_flight:
            raise TooManyRequests(f"{self._creates} creates are under way (limits.creates_in_flight)")
        self._creates += 1
        try:
            yield
        finally:
            self._creates -= 1

    def _take(self, key_name: str, limit: str, rate: float) -> None:
        now = self._clock.monotonic()
        bucket = self._buckets.get((key_name, limit))
        if bucket is None:
            bucket = self._buckets[key_name, limit] = Bucket(now, rate)
        wait = bucket.take(now, rate)
        if wait:
            raise TooManyRequests(f"more than {rate:g} a second with this key (limits.{limit})", ceil(wait))
