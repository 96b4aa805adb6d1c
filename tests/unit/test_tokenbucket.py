"""The rate limit of the refill: this many per second, and one second's worth at once."""

from __future__ import annotations

from stackd.tokenbucket import A_SECOND, TokenBucket


def test_the_allowance_is_so_many_per_second_and_a_seconds_worth_at_once() -> None:
    allowance = TokenBucket(0.0, 1.0)
    assert (allowance.take_some(100.0, 10.0, A_SECOND, 30), allowance.take_some(100.0, 10.0, A_SECOND, 1)) == (10, 0)
    taken = allowance.take_some(100.25, 10.0, A_SECOND, 30)
    assert (taken, round(allowance.wait(100.25, 10.0, A_SECOND), 3)) == (2, 0.05)
    slow = TokenBucket(0.0, 1.0)
    assert slow.take_some(1.0, 0.5, A_SECOND, 9) == 1
