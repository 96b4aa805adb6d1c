"""How requests of a key and creates of a label value are counted, with a clock that the test sets."""

from __future__ import annotations

import pytest

from stackd.clock import SystemClock
from stackd.config import load
from stackd.errors import Conflict, TooManyRequests
from stackd.web.limits import SWEEP_ABOVE, LabelRates, Limits


class Hands(SystemClock):
    """A clock that the test sets."""

    at = 0.0

    def monotonic(self) -> float:
        return self.at


def limits(clock: Hands, **settings: str) -> Limits:
    environment = {f"STACKD_LIMITS__{name.upper()}": value for name, value in settings.items()}
    return Limits(clock, load(None, environment | {"STACKD_AUTH__KEY": "sk-0123456789abcdef0123"}).config)


def rates(clock: Hands, **labels: str) -> LabelRates:
    made = LabelRates(clock)
    made.replace(labels)
    return made


def create(counted: LabelRates, **labels: str) -> None:
    with counted.create(labels):
        pass


def test_requests_of_each_key_refill_evenly_and_do_not_pile_up() -> None:
    clock = Hands()
    checked = limits(clock, requests_per_second="4")
    for _ in range(4):
        checked.request("a")
    with pytest.raises(TooManyRequests, match="requests_per_second") as refused:
        checked.request("a")
    assert refused.value.retry_after == 1
    checked.request("b")
    clock.at += 0.25
    checked.request("a")
    with pytest.raises(TooManyRequests):
        checked.request("a")
    clock.at += 100.0
    for _ in range(4):
        checked.request("a")
    with pytest.raises(TooManyRequests):
        checked.request("a")


def test_a_players_creates_at_one_tenant_do_not_count_at_another() -> None:
    counted = rates(Hands(), player="1/10s")
    for event in ("a", "b"):
        with counted.create({"player": "7"}, {"event": event}):
            pass
        with pytest.raises(TooManyRequests):
            counted.check({"player": "7"}, {"event": event})
    counted.check({"player": "7"})


def test_the_window_slides_and_retry_after_is_when_there_is_room_again() -> None:
    clock = Hands()
    counted = rates(clock, player="2/10s")
    create(counted, player="7")
    clock.at = 4.0
    create(counted, player="7")
    with pytest.raises(TooManyRequests) as refused:
        create(counted, player="7")
    assert refused.value.retry_after == 6
    clock.at = 9.9
    with pytest.raises(TooManyRequests) as refused:
        counted.check({"player": "7"})
    assert refused.value.retry_after == 1
    clock.at = 10.0
    create(counted, player="7")
    with pytest.raises(TooManyRequests):
        create(counted, player="7")
    clock.at = 100.0
    for _ in range(2):
        create(counted, player="7")
    with pytest.raises(TooManyRequests):
        create(counted, player="7")


def test_a_refusal_by_one_label_counts_for_no_other() -> None:
    counted = rates(Hands(), player="1/min", team="5/min")
    create(counted, player="7", team="a")
    for _ in range(10):
        with pytest.raises(TooManyRequests, match="player=7"):
            create(counted, player="7", team="a")
    for number in range(4):
        create(counted, player=f"p{number}", team="a")
    with pytest.raises(TooManyRequests, match="team=a"):
        create(counted, player="new", team="a")


def test_what_contradicts_the_present_state_made_nothing() -> None:
    counted = rates(Hands(), player="1/min")
    for error in (Conflict, Conflict, ValueError):
        with pytest.raises(error), counted.create({"player": "7"}):
            raise error("no")
    with pytest.raises(TooManyRequests):
        create(counted, player="7")


def test_a_reload_keeps_what_was_counted_under_a_rate_that_stays() -> None:
    counted = rates(Hands(), player="1/min", team="1/min")
    create(counted, player="7", team="a")
    counted.replace({"player": "1/min", "team": "2/min"})
    with pytest.raises(TooManyRequests, match="player"):
        create(counted, player="7")
    for _ in range(2):
        create(counted, team="a")
    counted.replace({})
    create(counted, player="7", team="a")


def test_values_that_were_not_seen_lately_are_forgotten() -> None:
    clock = Hands()
    counted = rates(clock, player="3/min")
    for number in range(20 * SWEEP_ABOVE):
        clock.at += 1.0
        create(counted, player=f"p{number}")
    assert len(counted._made) <= SWEEP_ABOVE + 1
