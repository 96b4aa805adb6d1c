"""API keys: read from all sources, kept as hashes, and never shown."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from stackd.config import LoadedConfig, load
from tests.unit.config.conftest import KEY, Load, Mistakes

OTHER = "sk-ffffffffffffffffffffffffffffffff"


def accepted(loaded: LoadedConfig) -> list[tuple[str, str, str]]:
    return [(key.name, key.sha256.hex(), key.scope) for key in loaded.config.auth.keys]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def entry(name: str, key: str, more: str = "") -> str:
    return f'[[auth.keys]]\nname = "{name}"\nsha256 = "{sha256(key)}"\n{more}'


def test_keys_come_from_the_file_the_environment_a_key_file_and_a_credential(load_text: Load, tmp_path: Path) -> None:
    key_file = tmp_path / "keys"
    key_file.write_text("# the old one, until Friday\nsk-old-old-old-old-old\n\n  ops team:  sk-new-new-new-new-new \n")
    key_file.chmod(0o600)
    (tmp_path / "api-key").write_text("sk-from-systemd-itself\n")
    text = f'[auth]\nkey_file = "{key_file}"\n' + entry("grafana", OTHER, 'scope = "read"\n')
    loaded = load_text(text, {"STACKD_AUTH__KEY": KEY}, tmp_path)
    assert accepted(loaded) == [
        ("grafana", sha256(OTHER), "read"),
        ("environment", sha256(KEY), "admin"),
        (f"key-file-{sha256('sk-old-old-old-old-old')[:8]}", sha256("sk-old-old-old-old-old"), "admin"),
        ("ops team", sha256("sk-new-new-new-new-new"), "admin"),
        (f"credential-{sha256('sk-from-systemd-itself')[:8]}", sha256("sk-from-systemd-itself"), "admin"),
    ]
    origin = loaded.origins["auth.keys"]
    assert origin.endswith("config.toml:3, environment STACKD_AUTH__KEY, the key file, credential api-key")
    assert not any("key" in warning for warning in loaded.warnings)
    assert load_text("[auth]\nenabled = false\n", {}).config.auth.keys == ()


def test_a_key_of_a_file_keeps_its_name_when_another_one_goes(load_text: Load, tmp_path: Path) -> None:
    names = []
    for text in (f"{KEY}\n{OTHER}\n", f"{OTHER}\n", f"ops: {OTHER}\n{KEY}\n"):
        (tmp_path / "api-key").write_text(text)
        names.append([name for name, key, _ in accepted(load_text("", {}, tmp_path)) if key == sha256(OTHER)])
    assert names == [[f"credential-{sha256(OTHER)[:8]}"]] * 2 + [["ops"]]


@pytest.mark.parametrize("name", ["stackd", "a\u202eb", "n" * 65])
def test_a_name_in_a_key_file_that_no_key_can_have_is_refused(mistakes_in: Mistakes, tmp_path: Path, name: str) -> None:
    (tmp_path / "api-key").write_text(f"{name}: {OTHER}\n")
    (mistake,) = mistakes_in("", {}, tmp_path)
    assert "credential api-key holds a name that no key can have; a name of at most 64" in mistake
    assert OTHER not in mistake


TENANT = 'scope = "tenant"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'[auth]\nkey = "{OTHER}"\n', "the text of a key does not belong in a file"),
        (f'[auth]\nkey_file = "{OTHER}"\n', "the key file cannot be read"), (f"[auth]\nkey_file = ['{OTHER}']\n", "a path is"),
        (f'[[auth.keys]]\nname = "a"\nsha256 = "{OTHER}"\n', "this is not a SHA-256"),
        (entry("a", "a", f'key = "{OTHER}"\n'), "keys[0].key: unknown key"),
        ('[[auth.keys]]\nname = "a"\n', "keys[0].sha256: this is missing"),
        (entry("a", "a", 'scope = "root"\n'), 'one of "admin", "read", "metrics", "tenant" is expected'),
        (entry("a", "a", TENANT), 'keys[0].labels: a key of scope "tenant" needs labels'),
        (entry("a", "a", TENANT + 'labels = "a"\n'), 'is expected, not "a"'),
        *(
            (entry("a", "a", f"{TENANT}labels = {{ {labels} }}\n"), expected)
            for labels, expected in (
                ('"example.org/event" = "a"', '"example.org/event" is not a label of a create'),
                ('event = "a b"', '"a b" is not the value of a label'), ('event = ""', '"" is not the value of a label'),
                ('event = "a", Event = "a"', "a label is given twice, in different letter case"),
            )
        ),
        (entry("a", "a", 'labels = { event = "a" }\n'), 'keys[0].labels: a key of scope "admin" has no labels'),
        (entry("a", "a", 'templates = ["web"]\n'), 'keys[0].templates: a key of scope "admin" has no templates'),
        ("".join(entry(one, "a", f'{TENANT}labels = {{ event = "{one}" }}\n') for one in ("a", "b")),
         '"a" and "b" are one key, and differ in labels'),
        (entry("a", "a", "scope = 'read'\npod_specs = false\n"), 'a key of scope "read" creates nothing'),
        (entry("a", "a", 'pod_specs = "no"\n'), 'keys[0].pod_specs: true or false is expected, not "no"'),
        (entry("a", "a") + entry("b", "a", "pod_specs = false\n"), '"a" and "b" are one key, and differ in pod_specs'),
        (entry("a\u202eb", "a"), "a name of at most 64"), (entry("a", "a") + entry("a", "b"), 'two keys are named "a"'),
        (entry("a", KEY, 'scope = "read"\n'), '"a" and "environment" are one key, and differ in scope'),
    ],
)  # fmt: skip
def test_a_key_that_cannot_work_is_refused(mistakes_in: Mistakes, text: str, expected: str) -> None:
    (mistake,) = mistakes_in(text)
    assert expected in mistake
    assert OTHER not in mistake


@pytest.mark.parametrize("text", [" ", "sk-with a space in it", "sk-with-\x00-inside-of-it", "sk-ünïcode-sk-ünïcode"])
def test_a_key_that_no_header_can_carry_is_refused(mistakes_in: Mistakes, text: str) -> None:
    (mistake,) = mistakes_in("", {"STACKD_AUTH__KEY": text})
    assert "environment STACKD_AUTH__KEY holds" in mistake
    assert not text.strip() or text not in mistake


def test_a_key_that_can_be_guessed_is_refused_wherever_it_comes_from(mistakes_in: Mistakes, tmp_path: Path) -> None:
    short = "sk-0123456789ab"
    (tmp_path / "keys").write_text(f"{OTHER}\n{short}\n")
    (tmp_path / "api-key").write_text(short)
    found = mistakes_in(f'[auth]\nkey_file = "{tmp_path}/keys"\n', {"STACKD_AUTH__KEY": short}, tmp_path)
    origins = ("environment STACKD_AUTH__KEY", "the key file", "credential api-key")
    for mistake, origin in zip(found, origins, strict=True):
        assert f"{origin} holds a key of fewer than 16 characters, which can be guessed" in mistake
        assert short not in mistake


def tenant(name: str, labels: str, more: str = "") -> str:
    return entry(name, f"sk-of-{name}-0123456789", f"{TENANT}labels = {{ {labels} }}\n{more}")


@pytest.mark.parametrize(
    ("one", "other"), [('event = "a"', 'customer = "c"'), ('event = "a"', 'event = "a", team = "7"')]
)
def test_tenants_that_could_create_each_others_stacks_are_refused_by_name(
    mistakes_in: Mistakes, one: str, other: str
) -> None:
    (mistake,) = mistakes_in(tenant("ctfd-a", one) + tenant("lab", 'event = "lab"') + tenant("ctfd-c", other))
    assert '"ctfd-a" and "ctfd-c" are tenants that can create each other\'s stacks' in mistake
    assert "give both the same labels, or both a label with different values" in mistake


def test_tenants_whose_labels_exclude_each_other_are_accepted(load_text: Load) -> None:
    apart = ('event = "a"', 'event = "b"', 'event = "A"', 'Event = "a"', 'event = "c", team = "7"', 'event = "b"')
    text = "".join(tenant(f"key-{number}", labels) for number, labels in enumerate(apart))
    assert len(load_text(text).config.auth.keys) == len(apart) + 1


def test_a_play_secret_of_a_credential_leaves_the_other_settings_of_links(tmp_path: Path) -> None:
    (tmp_path / "play-secret").write_text("0123456789abcdef0123456789abcdef\n")
    environ = {
        "STACKD_CLUSTER__MODE": "embedded",
        "STACKD_AUTH__ENABLED": "false",
        "STACKD_PLAY__HOST_NAME": "your teacher",
    }
    play = load(None, environ | {"STACKD_PLAY__URL": "https://stackd.example"}, credentials_dir=tmp_path).config.play
    assert (play.url, play.host_name) == ("https://stackd.example", "your teacher")
    assert play.secret.get_secret_value() == "0123456789abcdef0123456789abcdef"
