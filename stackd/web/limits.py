"""Rate limits: how many requests a key may send, and how often stacks of one label value may be created.

Owns: token buckets per key, the number of creates under way, and a sliding window for each label value seen lately
(``limits.creates_per_label``: the player who hammers "start"). Names and values of labels are compared without regard
to letter case, so that another spelling of a player is the same player. The counts are lost when the process ends.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil

from stackd.clock import Clock
from stackd.codes import ErrorCode
from stackd.config import Config
from stackd.errors import Conflict, StackdError, TooManyRequests, Unavailable
from stackd.model import NO_LABELS
from stackd.units import Frequency, parse_frequency
from stackd.workqueue import A_SECOND, TokenBucket


def share_of_a_key(config: Config, one: int, all_: int) -> int:
    """How much of ``all_``, which all keys share, one key may have: ``one`` if it is set.

    Otherwise half of it while there are other keys, so that the rest stays for them. 0 for ``all_`` means no bound.
    """
    if one:
        return one
    if not all_:
        return sys.maxsize
    others = config.auth.enabled and len(config.auth.keys) + bool(config.play.secret.get_secret_value()) > 1
    return (all_ + 1) // 2 if others else all_


MOST_BUCKETS = 10_000

BODIES = 48
"""The bodies of the requests under way may be as long in all as so many of the largest size (``server.max_body``)."""


class BodyBytes:
    """The bytes of the bodies of requests under way, by key."""

    def __init__(self) -> None:
        self._by_key: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self._by_key.total()

    def add(self, config: Config, caller: str, size: int) -> None:
        """Count so many more bytes. Raises TooManyRequests if the key's bodies would be too long, Unavailable if all would."""
        most = BODIES * config.server.max_body
        if self._by_key[caller] + size > (share := share_of_a_key(config, 0, most)):
            raise TooManyRequests(f"the bodies of this key's requests under way are longer than {share} bytes in all")
        if self.count + size > most:
            raise Unavailable(
                f"the bodies of the requests under way are longer than {most} bytes in all", retry_after=1
            )
        self._by_key[caller] += size

    def subtract(self, caller: str, size: int) -> None:
        """Count so many bytes no longer."""
        self._by_key[caller] -= size
        if not self._by_key[caller]:
            del self._by_key[caller]


class Limits:
    """The limits in force. The operator configures the keys, so there are few buckets, but for visitors of open links."""

    def __init__(self, clock: Clock, config: Config) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], TokenBucket] = {}
        self._creates = 0
        self.bodies = BodyBytes()
        self.per_label = LabelRates(clock)
        self.replace(config)

    def replace(self, config: Config) -> None:
        """Put other limits in force."""
        self._limits = config.limits
        self._buckets.clear()
        self.per_label.replace(config.limits.creates_per_label)

    def request(self, caller: str) -> None:
        """Count one request of this key. Raises TooManyRequests (``limits.requests_per_second``)."""
        if self._limits.requests_per_second:
            self._take(caller, "requests_per_second", self._limits.requests_per_second)

    @contextmanager
    def create(self, caller: str) -> Iterator[None]:
        """Count one create of this key, under way until the block ends. Raises TooManyRequests, naming the limit."""
        if self._limits.creates_per_second:
            self._take(caller, "creates_per_second", self._limits.creates_per_second)
        if self._limits.creates_in_flight and self._creates >= self._limits.creates_in_flight:
            sentence = f"{self._creates} creates are under way (limits.creates_in_flight)"
            raise TooManyRequests(sentence)
        self._creates += 1
        try:
            yield
        finally:
            self._creates -= 1

    def _take(self, caller: str, limit: str, rate: float) -> None:
        now = self._clock.monotonic()
        bucket = self._buckets.get((caller, limit))
        if bucket is None:
            if len(self._buckets) >= MOST_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[caller, limit] = TokenBucket(now, rate)
        wait = bucket.take(now, rate, A_SECOND)
        if wait:
            sentence = f"more than {rate:g} a second with this key (limits.{limit})"
            raise TooManyRequests(sentence, ceil(wait))


RateKey = tuple[str, str, tuple[tuple[str, str], ...]]
"""A label of the configuration, a value of it, and the tenant (the labels of its key) among whose creates it counts."""

SWEEP_ABOVE = 1024


class LabelRates:
    """The rates in force, and the times of the latest creates."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rates: dict[str, tuple[str, Frequency]] = {}
        self._creates: dict[RateKey, deque[float]] = {}
        self._sweep_above = SWEEP_ABOVE

    def replace(self, rates: Mapping[str, str]) -> None:
        """Put other rates in force; what was counted under a rate that stays is kept."""
        fresh = {label.lower(): (label, parse_frequency(rate)) for label, rate in rates.items()}
        stay = {label for label, rate in fresh.items() if self._rates.get(label) == rate}
        self._creates = {key: times for key, times in self._creates.items() if key[0] in stay}
        self._rates = fresh

    def check(self, labels: Mapping[str, str], among: Mapping[str, str] = NO_LABELS) -> None:
        """Raise TooManyRequests if a create with these labels would be one too many now. Counts nothing."""
        now = self._clock.monotonic()
        for key, value in self._rate_keys(labels, among).items():
            label, rate = self._rates[key[0]]
            times = self._creates.get(key, deque())
            while times and times[0] <= now - rate.seconds:
                times.popleft()
            if len(times) >= rate.count:
                raise TooManyRequests(
                    f"more than {rate} creates with the label {label}={value} (limits.creates_per_label)",
                    max(1, ceil(times[0] + rate.seconds - now)),
                    code=ErrorCode.LABEL_RATE_EXCEEDED,
                )

    @contextmanager
    def create(self, labels: Mapping[str, str], among: Mapping[str, str] = NO_LABELS) -> Iterator[Callable[[], None]]:
        """Count a create with these labels, by a key with the labels ``among``. Raises TooManyRequests, which counts nothing.

        Yields a function to call if nothing was created after all. A Conflict calls it, too.
        """
        uncount = self._count(labels, among)
        try:
            yield uncount
        except Conflict:
            uncount()
            raise

    @contextmanager
    def create_all(self, each: Iterable[Mapping[str, str]], among: Mapping[str, str]) -> Iterator[None]:
        """Count a create with each of these labels, or none of them: raises TooManyRequests. An error within the block, after
        which no job is there, undoes that."""
        counted: list[Callable[[], None]] = []
        try:
            for labels in each if self._rates else ():
                counted.append(self._count(labels, among))  # noqa: PERF401 - an error undoes those before it
            yield
        except StackdError:
            for uncount in counted:
                uncount()
            raise

    def _count(self, labels: Mapping[str, str], among: Mapping[str, str]) -> Callable[[], None]:
        """Count a create; returns the function that undoes it. Raises TooManyRequests."""
        self.check(labels, among)
        now, keys = self._clock.monotonic(), self._rate_keys(labels, among)
        for key in keys:
            self._creates.setdefault(key, deque()).append(now)
        self._sweep(now)

        def uncount() -> None:
            for key in keys:
                times = self._creates.get(key)
                if times is not None and now in times:
                    times.remove(now)

        return uncount

    def _rate_keys(self, labels: Mapping[str, str], among: Mapping[str, str]) -> dict[RateKey, str]:
        """The keys of these labels, each with the label's value as the create spells it."""
        if not self._rates:
            return {}
        tenant = tuple(sorted(among.items()))
        rated = ((key.lower(), value) for key, value in labels.items() if key.lower() in self._rates)
        return {(key, value.lower(), tenant): value for key, value in rated}

    def _sweep(self, now: float) -> None:
        """Now and then, forget the values without a create in the time that their rate looks back."""
        if len(self._creates) <= self._sweep_above:
            return
        seconds = {label: rate.seconds for label, (_, rate) in self._rates.items()}
        self._creates = {
            key: times for key, times in self._creates.items() if times and times[-1] > now - seconds[key[0]]
        }
        self._sweep_above = max(SWEEP_ABOVE, 2 * len(self._creates))
