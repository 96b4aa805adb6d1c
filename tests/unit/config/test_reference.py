"""The example file, the table of the docs, and the pod policy agree with the models."""

from __future__ import annotations

from pathlib import Path

from stackd.config import LIVE_KEYS, Config, SettingChange, diff, load, merge_live, policy_of
from stackd.config.settings import example, settings, table
from stackd.podspec.policy import Policy
from tests.unit.config.conftest import KEY, Load

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "config.example.toml"
PAGE = ROOT / "docs" / "configure.md"
TABLE_BEGIN = "<!-- configuration table: begin -->"
TABLE_END = "<!-- configuration table: end -->"


def test_the_example_loads_to_exactly_the_defaults() -> None:
    loaded = load(EXAMPLE, {"STACKD_AUTH__KEY": KEY})
    assert loaded.config == load(None, {"STACKD_AUTH__KEY": KEY}).config
    assert loaded.config.model_copy(update={"auth": Config().auth}) == Config()
    assert {key for key, origin in loaded.origins.items() if not origin.startswith(str(EXAMPLE))} == {"auth.keys"}
    assert policy_of(Config()) == Policy()


def test_the_example_gives_each_key_its_default_and_one_line_of_why() -> None:
    assert EXAMPLE.read_text() == example()
    assert all(10 < len(setting.why) < 100 and setting.why.endswith(".") for setting in settings())


def test_the_table_of_the_docs_has_every_key() -> None:
    _, begin, rest = PAGE.read_text().partition(TABLE_BEGIN + "\n")
    shown, end, _ = rest.partition(TABLE_END)
    assert begin, f"{PAGE.name} needs the line {TABLE_BEGIN}"
    assert end, f"{PAGE.name} needs the line {TABLE_END}"
    assert shown == table()


def test_a_value_in_force_is_shown_as_the_file_would_have_it(load_text: Load) -> None:
    config = load_text('[stacks]\nttl = "90m"\npublic_ips = { "worker.1" = "203.0.113.7" }\n').config
    values = {setting.name: setting.text(config) for setting in settings()}
    assert values["stacks.ttl"] == '"1h30m"'
    assert values["stacks.public_ips"] == '{ "worker.1" = "203.0.113.7" }'
    assert values["auth.keys"] == '[{ name = "environment", scope = "admin" }]'


def test_what_the_operator_sets_reaches_the_pod_policy(load_text: Load) -> None:
    text = """\
[stacks]
restart_policy = "Always"
[policy]
profile = "restricted"
images_allow = ["registry.example/**"]
max_cpu = "2"
tolerations = [{ key = "stacks", operator = "Exists", tolerationSeconds = 60 }]
labels = { event = "finals" }
"""
    policy = policy_of(load_text(text).config)
    assert (policy.restart_policy, policy.profile, policy.images_allow) == (
        "Always",
        "restricted",
        ("registry.example/**",),
    )
    assert policy.max_cpu_milli == 2000
    assert tuple(one.manifest() for one in policy.tolerations) == (
        {"key": "stacks", "operator": "Exists", "tolerationSeconds": 60},
    )
    assert policy.labels == {"event": "finals"}


# ---- What a reload applies, and what needs a restart


def of(**variables: str) -> Config:
    return load(None, {"STACKD_AUTH__KEY": KEY, **variables}).config


def test_what_operators_tune_during_an_event_is_live_and_what_a_process_cannot_exchange_is_not() -> None:
    live = {
        "stacks.ttl", "stacks.public_ips", "limits.creates_per_second", "policy.images_deny", "auth.keys", "log.level",
    }  # fmt: skip
    fixed = {"server.port", "state.path", "cluster.mode", "stacks.namespace", "stacks.node_port_min", "auth.enabled"}
    assert live <= LIVE_KEYS <= {setting.name for setting in settings()} - fixed


def test_changes_are_told_apart_with_old_and_new_value() -> None:
    new = of(STACKD_STACKS__TTL="30m", STACKD_SERVER__PORT="9000", STACKD_STACKS__PUBLIC_IPS="worker=203.0.113.7")
    changes = diff(of(), new)
    assert changes.live == (
        SettingChange(key="stacks.ttl", old='"2h"', new='"30m"'),
        SettingChange(key="stacks.public_ips", old="{}", new='{ worker = "203.0.113.7" }'),
    )
    assert changes.restart == (SettingChange(key="server.port", old="8081", new="9000"),)


def test_a_rotated_key_is_a_live_change_that_shows_no_hash() -> None:
    changes = diff(of(), load(None, {"STACKD_AUTH__KEY": "sk-another-key-altogether"}).config)
    assert changes.live == (
        SettingChange(
            key="auth.keys",
            old='[{ name = "environment", scope = "admin" }]',
            new='[{ name = "environment", scope = "admin" }]',
        ),
    )


def test_after_a_reload_live_keys_are_new_and_the_others_old() -> None:
    old, new = of(), of(STACKD_STACKS__TTL="30m", STACKD_STACKS__NAMESPACE="other", STACKD_SERVER__PORT="9000")
    merged = merge_live(old, new)
    assert (merged.stacks.ttl, merged.stacks.namespace, merged.server.port) == (1800.0, "stacks", 8081)
    assert diff(merged, new).live == ()
    assert {change.key for change in diff(merged, new).restart} == {"stacks.namespace", "server.port"}
