"""All mistakes are reported at once, each with its place and what would be right."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stackd.config import load
from stackd.errors import ConfigError
from stackd.units import format_duration, parse_duration, parse_frequency, parse_size
from tests.unit.config.conftest import KEY, Load, Mistakes

REFUSALS: dict[str, str] = yaml.safe_load((Path(__file__).parent / "refusals.yaml").read_text())


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(mistakes_in: Mistakes) -> None:
    text = """\
port = 80

[servr]
[server]
prot = 8082
port = "8081"
max_body = "1XB"

[stacks]
node_port_min = 32000
node_port_max = 31000
ttl = "two hours"
node_selector = { role = 1 }

[log]
level = "debgu"

[play]
work = 18
"""
    starts = [
        "config.toml:1: port: this key belongs in a section", "config.toml:3: [servr]: unknown section",
        "config.toml:5: [server] prot: unknown key", "config.toml:6: [server] port: ", "config.toml:7: [server] max_body: ",
        "config.toml:10: [stacks] node_port_min: ", "config.toml:12: [stacks] ttl: ",
        "config.toml:13: [stacks] node_selector.role: ", "config.toml:16: [log] level: ", "config.toml:19: [play] work: ",
        "environment STACKD_SERVER__HOST: [server] host: ", "config.toml: [auth] keys: no API key is configured",
    ]  # fmt: skip
    found = mistakes_in(text, {"STACKD_SERVER__HOST": "a b"})
    assert [mistake[: len(start)] for mistake, start in zip(found, starts, strict=True)] == starts


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[server]\nport = \n", ":2: this is not TOML: Invalid value"),
        (b"[server]\nport = 1\nport = 2\n", ":3: this is not TOML: Cannot overwrite a value"),
        (b"[stacks]\n\naddress_types = [\n", ":3: this is not TOML: Invalid value"),
        (b"[server]\n# \xff\n", ":2: this is not UTF-8 text"), (None, ": cannot be read: No such file or directory"),
    ],
)  # fmt: skip
def test_an_unreadable_file_is_a_mistake_with_its_line(tmp_path: Path, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "config.toml", {"STACKD_AUTH__KEY": KEY})
    assert caught.value.mistakes[0].startswith(f"{tmp_path}/config.toml{expected}")


@pytest.mark.parametrize(("line", "said"), REFUSALS.items())
def test_a_value_that_cannot_work_is_refused(mistakes_in: Mistakes, line: str, said: str) -> None:
    (mistake,) = mistakes_in(line + "\n")
    assert said in mistake


@given(text=st.text(st.sampled_from("[]{}=.,\"'#\n\\ abks10:é"), max_size=60))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_text_brings_down_the_reader(load_text: Load, text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert load_text(text).config.server.port == 8081


# ---- units

DURATIONS = {"2h": 7200, "1h30m": 5400, "10s": 10, "250ms": 0.25, "0s": 0, "0": 0, "1.5h": 5400, "7d": 604800}
SIZES = {"1MiB": 1 << 20, "512KiB": 1 << 19, "4096": 4096, "10kB": 10_000, "1 GiB": 1 << 30}
RATES = {"6/min": (6, 60), "1/s": (1, 1), "20/10min": (20, 600), "1/day": (1, 86400), "5 / 30 s": (5, 30)}
NONE = {
    parse_duration: ["", "10", "h", "1x", "1h-", "-1s", "1h 30m", "1e3s", "\u0661s"],
    parse_size: ["", "MiB", "1XB", "-1", "1.5MiB"],
    parse_frequency: ["", "6", "6/", "/min", "0/min", "-1/min", "6/0s", "6/fortnight", "1.5/min", "6/2day", "99999/s"],
}


def test_units_are_read_as_people_write_them() -> None:
    assert {text: parse_duration(text) for text in DURATIONS} == DURATIONS
    assert {text: parse_size(text) for text in SIZES} == SIZES
    rates = {text: parse_frequency(text) for text in RATES}
    assert {text: (one.count, one.seconds) for text, one in rates.items()} == RATES
    printed = [(60, "60s"), (120, "2m"), (5400, "1h30m"), (86400, "24h"), (0.25, "250ms")]
    assert [(seconds, format_duration(seconds)) for seconds, _ in printed] == printed


@pytest.mark.parametrize(("parse", "text"), [(parse, text) for parse, texts in NONE.items() for text in texts])
def test_what_is_none_is_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a |has no unit|unknown unit|is not from 1 to|above zero"):
        parse(text)
