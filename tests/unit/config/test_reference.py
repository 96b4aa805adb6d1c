"""The example file, the table of the docs, and the pod policy agree with the models."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from stackd.config import Config, StacksSection, load, policy_of
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


def test_the_example_sets_every_key() -> None:
    origins = load(EXAMPLE, {"STACKD_AUTH__KEY": KEY}).origins
    unset = {key for key, origin in origins.items() if not origin.startswith(str(EXAMPLE))}
    assert unset == {"auth.keys"}
    assert "# [[auth.keys]]" in EXAMPLE.read_text()


def test_the_example_gives_each_key_its_default_and_one_line_of_why() -> None:
    assert EXAMPLE.read_text() == example()
    assert all(10 < len(setting.why) < 100 and setting.why.endswith(".") for setting in settings())


def test_the_table_of_the_docs_has_every_key() -> None:
    _, begin, rest = PAGE.read_text().partition(TABLE_BEGIN + "\n")
    shown, end, _ = rest.partition(TABLE_END)
    assert begin, f"{PAGE.name} needs the line {TABLE_BEGIN}"
    assert end, f"{PAGE.name} needs the line {TABLE_END}"
    assert shown == table()


def test_the_designs_defaults_hold() -> None:
    values = {setting.name: setting.text(Config()) for setting in settings()}
    design = {
        "server.host": '"127.0.0.1"',
        "server.port": "8081",
        "server.shutdown_timeout": '"10s"',
        "server.max_body": '"1MiB"',
        "auth.enabled": "true",
        "state.path": '"stackd.db"',
        "cluster.mode": '"auto"',
        "cluster.instance": '"default"',
        "stacks.namespace": '"stacks"',
        "stacks.ttl": '"2h"',
        "stacks.max_ttl": '"24h"',
        "stacks.node_selector": '{ role = "stack" }',
        "stacks.node_port_min": "31001",
        "stacks.node_port_max": "32767",
        "stacks.scheduling_timeout": '"20s"',
        "stacks.unschedulable_grace": '"0s"',
        "stacks.restart_policy": '"Never"',
        "stacks.image_pull_grace": '"60s"',
        "stacks.public_ips": "{}",
        "stacks.address_types": '["ExternalIP"]',
        "stacks.address_family": '"auto"',
        "stacks.require_ingress_network_policy": "true",
        "reconcile.interval": '"10s"',
        "reconcile.orphan_grace": '"2m"',
        "reconcile.max_delete_share": "0.2",
        "batch_delete.concurrency": "1",
        "batch_delete.max_ids": "10000",
        "batch_delete.keep_jobs": '"24h"',
        "log.level": '"info"',
        "log.format": '"auto"',
        "metrics.public": "false",
    }
    assert {name: values[name] for name in design} == design


def test_a_value_in_force_is_shown_as_the_file_would_have_it(load_text: Load) -> None:
    config = load_text('[stacks]\nttl = "90m"\npublic_ips = { "worker.1" = "203.0.113.7" }\n').config
    values = {setting.name: setting.text(config) for setting in settings()}
    assert values["stacks.ttl"] == '"1h30m"'
    assert values["stacks.public_ips"] == '{ "worker.1" = "203.0.113.7" }'
    assert values["auth.keys"] == '[{ name = "environment", scope = "admin" }]'


def test_the_default_policy_is_that_of_an_empty_section() -> None:
    assert policy_of(Config()) == Policy()


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


def test_a_configuration_cannot_be_changed() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.stacks.ttl = 1.0
    with pytest.raises(TypeError):
        config.stacks.node_selector["role"] = "other"  # type: ignore[index]
    assert StacksSection(ttl=3.0).ttl == 3.0
