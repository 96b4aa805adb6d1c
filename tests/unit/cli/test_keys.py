"""``stackd key new`` prints lines that can be put into the configuration unchanged."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stackd.cli import stackd
from stackd.config import load
from stackd.config.settings import toml
from stackd.keys import digest

CHARACTERS = st.characters(codec="utf-8")


def new(name: str, *more: str) -> Result:
    return CliRunner().invoke(stackd, ["key", "new", f"--name={name}", *more])


@settings(deadline=None)  # the first example loads the command
@given(st.text(CHARACTERS | st.sampled_from("\"'\\\x00\x1f\x7f\x85\n\r\t #={}[]\u2028\ufeff"), max_size=80))
@example('a"b c')
@example("a\\b")
@example("a\\u0041")
@example("'''")
@example("\x7f")
@example("équipe 7 \U0001f600")
def test_any_name_is_printed_so_that_the_configuration_takes_it_or_refused(name: str) -> None:
    result = new(name)
    if result.exit_code == 0:
        key, entry = result.stdout, result.stderr
        (read,) = tomllib.loads(entry)["auth"]["keys"]
        assert read["name"] == name
        assert read["sha256"] == digest(key.strip()).hex()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.toml"
            path.write_text(entry, encoding="utf-8")
            (known,) = load(path, {"STACKD_CLUSTER__MODE": "embedded"}).config.auth.keys
        assert known.name == name
    else:
        assert (result.exit_code, result.stdout) == (2, "")
        assert "cannot be used; a name of at most 64 printable characters" in result.stderr
        assert not name.isprintable() or not 0 < len(name) <= 64 or name != " ".join(name.split())


@given(st.text(CHARACTERS))
def test_any_text_is_written_as_toml_and_read_back_as_it_was(text: str) -> None:
    assert tomllib.loads(f"value = {toml(text)}") == {"value": text}
    assert tomllib.loads(f"value = {toml({text: text})}") == {"value": {text: text}}


def test_half_of_a_surrogate_pair_has_no_place_in_toml_and_is_replaced() -> None:
    assert tomllib.loads(f"value = {toml('a' + chr(0xDCFF))}") == {"value": "a\ufffd"}


def test_a_plain_key_is_the_key_alone() -> None:
    for more, rest in ((), "[[auth.keys]]"), (("--plain",), ""):  # KEY=$(stackd key new)
        result = CliRunner().invoke(stackd, ["key", "new", *more])
        assert (result.exit_code, result.stdout.startswith("sk-"), result.stdout.count("\n")) == (0, True, 1)
        assert (rest in result.stderr, bool(result.stderr)) == (True, bool(rest))


@pytest.mark.parametrize("more", [["admin"], ["read"], ["metrics"], ["tenant", "-l", "event=a", "--template", "web-*"]])
def test_the_printed_table_is_accepted_and_belongs_to_the_printed_key(tmp_path: Path, more: list[str]) -> None:
    said = CliRunner().invoke(stackd, ["key", "new", "--name", "grafana", "--scope", *more])
    (tmp_path / "config.toml").write_text(said.stderr)
    (accepted,) = load(tmp_path / "config.toml", {}).config.auth.keys
    assert (accepted.name, accepted.scope) == ("grafana", more[0])
    assert accepted.tenant == (dict(accepted.labels) == {"event": "a"}) == (accepted.templates == ("web-*",))
    assert accepted.sha256 == digest(said.stdout.strip())


@pytest.mark.parametrize("more", [(), ("-l", "event"), ("-l", "a/b=c")])
def test_a_tenant_without_labels_that_it_can_have_is_refused(more: tuple[str, ...]) -> None:
    said = new("ctfd", "--scope=tenant", *more)
    assert (said.exit_code, said.stdout) == (2, "")
    assert 'a table of labels such as { event = "a" }, with scope = "tenant", is expected' in said.stderr
