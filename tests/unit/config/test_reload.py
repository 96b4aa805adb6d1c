"""What a reload applies, and what needs a restart."""

from __future__ import annotations

from stackd.config import LIVE_KEYS, Config, SettingChange, diff, load, merge_live
from stackd.config.settings import settings
from tests.unit.config.conftest import KEY


def of(**variables: str) -> Config:
    return load(None, {"STACKD_AUTH__KEY": KEY, **variables}).config


def test_live_keys_are_keys_that_exist() -> None:
    assert {setting.name for setting in settings()} >= LIVE_KEYS


def test_what_operators_tune_during_an_event_is_live() -> None:
    assert {
        "stacks.ttl",
        "stacks.max_ttl",
        "stacks.public_ips",
        "limits.creates_per_second",
        "policy.images_deny",
        "auth.keys",
        "log.level",
        "reconcile.interval",
        "batch_delete.concurrency",
        "metrics.public",
    } <= LIVE_KEYS


def test_what_a_running_daemon_cannot_exchange_waits_for_a_restart() -> None:
    assert LIVE_KEYS.isdisjoint(
        {
            "server.host",
            "server.port",
            "state.path",
            "cluster.mode",
            "stacks.namespace",
            "stacks.node_port_min",
            "auth.enabled",
        }
    )


def test_changes_are_told_apart_with_old_and_new_value() -> None:
    new = of(STACKD_STACKS__TTL="30m", STACKD_SERVER__PORT="9000", STACKD_STACKS__PUBLIC_IPS="worker=203.0.113.7")
    changes = diff(of(), new)
    assert changes.live == (
        SettingChange(key="stacks.ttl", old='"2h"', new='"30m"'),
        SettingChange(key="stacks.public_ips", old="{}", new='{ worker = "203.0.113.7" }'),
    )
    assert changes.restart == (SettingChange(key="server.port", old="8081", new="9000"),)


def test_nothing_changed_is_no_change() -> None:
    assert diff(of(), of()).live == diff(of(), of()).restart == ()


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
