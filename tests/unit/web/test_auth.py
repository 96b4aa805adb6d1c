"""The caller's address: behind proxies, and among addresses that one host can choose freely; its site without keys."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from aiohttp.test_utils import make_mocked_request

from stackd.clock import SystemClock
from stackd.config import Config
from stackd.errors import Conflict, PermissionDenied, TooManyRequests
from stackd.web.auth import Keys, client_network, nearest_untrusted
from stackd.web.limits import SWEEP_ABOVE, LabelRates
from tests.store.building import TestClock

TRUSTED = [ip_network(text) for text in ("10.0.0.0/8", "2001:db8:aaaa::/48", "127.0.0.1/32")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.1", ["192.0.2.1"], "203.0.113.1"), ("10.0.0.1", [], "10.0.0.1"), ("", ["192.0.2.1"], ""),
        ("10.0.0.1", ["192.0.2.9, 192.0.2.1"], "192.0.2.1"), ("10.0.0.1", ["192.0.2.9", "192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.9, 192.0.2.1", "10.0.0.2,10.0.0.3"], "192.0.2.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"), ("10.0.0.1", ["192.0.2.1:4711"], "192.0.2.1"),
        ("2001:db8:aaaa::1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["::ffff:10.0.0.2", "::ffff:192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1, 10.0.0.2, evil\x1b[31m"], "10.0.0.1"), ("10.0.0.1", ["192.0.2.1,,"], "10.0.0.1"),
    ],
)  # fmt: skip
def test_the_caller_is_the_nearest_untrusted_address(peer: str, forwarded: list[str], expected: str) -> None:
    assert nearest_untrusted(peer, forwarded, TRUSTED) == expected


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"), ("::ffff:192.0.2.7", "192.0.2.7"), ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)  # fmt: skip
def test_addresses_that_one_host_may_choose_freely_count_as_one(address: str, counted_as: str) -> None:
    assert client_network(address) == counted_as


def asked(host: str, **headers: str) -> bool:
    """Whether a request without a key is accepted where no keys are in force."""
    keys = Keys(SystemClock())
    keys.replace(Config.model_validate({"auth": {"enabled": False}, "server": {"host": "stackd.example.org"}}))
    try:
        keys.identify(make_mocked_request("POST", "/stacks", {"Host": host} | headers))
    except PermissionDenied as error:
        assert "auth.enabled is false" in str(error)  # noqa: PT017 - there may be none
        return False
    return True


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8081", "localhost:8081", "[::1]:8081", "[::1]", "stackd", "demo.localhost", "stackd.example.org"],
)
def test_without_keys_stackd_answers_under_its_own_names(host: str) -> None:
    assert asked(host)
    assert asked(host, **{"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"})
    for origin in ("http://evil.example", "null"):
        assert not asked(host, Origin=origin)
    for site in ("cross-site", "same-site"):
        assert not asked(host, **{"Sec-Fetch-Site": site})


@pytest.mark.parametrize("host", ["evil.example:8081", "127.0.0.1.evil.example", "stackd.example.org.evil.example"])
def test_without_keys_a_page_whose_name_leads_here_is_refused(host: str) -> None:
    """DNS rebinding: for the browser it is the same site."""
    assert not asked(host, **{"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"})


# ---- how requests of a key and creates of a label value are counted, with a clock that the test sets


def rates(clock: TestClock, **labels: str) -> LabelRates:
    made = LabelRates(clock)
    made.replace(labels)
    return made


def create(counted: LabelRates, **labels: str) -> None:
    with counted.create(labels):
        pass


def test_the_window_slides_per_label_value_and_tenant_and_retry_after_is_when_there_is_room_again() -> None:
    clock = TestClock()
    counted = rates(clock, player="2/10s")
    for clock.seconds in (0.0, 4.0):
        create(counted, player="7")
    for clock.seconds, wait in ((4.0, 6), (9.9, 1)):
        with pytest.raises(TooManyRequests, match="player=7") as refused:
            create(counted, player="7")
        assert refused.value.retry_after == wait
    create(counted, player="8")
    counted.check({"player": "7"}, {"event": "a"})
    clock.seconds = 10.0
    create(counted, player="7")
    with pytest.raises(TooManyRequests):
        counted.check({"player": "7"})


def test_a_refusal_by_one_label_counts_for_no_other() -> None:
    counted = rates(TestClock(), player="1/min", team="3/min")
    for error in (Conflict, Conflict, ValueError):
        with pytest.raises(error), counted.create({"player": "7", "team": "a"}):
            raise error("no")
    for _ in range(10):
        with pytest.raises(TooManyRequests, match="player=7"):
            create(counted, player="7", team="a")
    for number in range(2):
        create(counted, player=f"p{number}", team="a")
    with pytest.raises(TooManyRequests, match="team=a"):
        create(counted, player="new", team="a")
    counted.replace({"player": "1/min", "team": "4/min"})
    with pytest.raises(TooManyRequests, match="player"):
        create(counted, player="7")
    create(counted, team="a")
    counted.replace({})
    create(counted, player="7", team="a")


def test_values_that_were_not_seen_lately_are_forgotten() -> None:
    clock = TestClock()
    counted = rates(clock, player="3/min")
    for number in range(3 * SWEEP_ABOVE):
        clock.seconds += 1.0
        create(counted, player=f"p{number}")
    assert len(counted._creates) <= SWEEP_ABOVE + 1
