"""Each key can be set in the environment, which wins over the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackd.config import Config, load, policy_of, require_cluster
from stackd.config.settings import settings
from stackd.errors import ConfigError
from stackd.podspec.policy import Policy
from tests.unit.config.conftest import KEY, Load


def of(**variables: str) -> Config:
    return load(None, {"STACKD_AUTH__KEY": KEY} | variables).config


def test_the_environment_wins_over_the_file(load_text: Load) -> None:
    text = '[server]\nport = 9000\nhost = "127.0.0.2"\n'
    loaded = load_text(text, {"STACKD_AUTH__KEY": KEY, "STACKD_SERVER__PORT": "9001"})
    assert (loaded.config.server.port, loaded.config.server.host) == (9001, "127.0.0.2")
    assert loaded.origins["server.port"] == "environment STACKD_SERVER__PORT"
    assert loaded.origins["server.host"].endswith("config.toml:3")
    assert loaded.origins["server.max_body"] == "default"
    assert loaded.origins["auth.keys"] == "environment STACKD_AUTH__KEY"


def test_every_key_has_a_variable_and_an_origin() -> None:
    variables = {setting.variable: setting.default.removeprefix('"').removesuffix('"') for setting in settings()}
    loaded = load(None, {"STACKD_AUTH__KEY": KEY} | variables)
    named = {setting.name: f"environment {setting.variable}" for setting in settings()}
    named["auth.keys"] += ", environment STACKD_AUTH__KEY"
    assert loaded.origins == named
    assert loaded.config == load(None, {"STACKD_AUTH__KEY": KEY}).config


def test_a_table_or_list_is_read_as_json_toml_or_words() -> None:
    for text in ('{"role":"stack","zone":"a"}', '{ role = "stack", zone = "a" }', " role = stack , zone=a "):
        assert of(STACKD_STACKS__NODE_SELECTOR=text).stacks.node_selector == {"role": "stack", "zone": "a"}
    for text in ('["ExternalIP","InternalIP"]', "['ExternalIP', 'InternalIP']", "ExternalIP, InternalIP"):
        assert of(STACKD_STACKS__ADDRESS_TYPES=text).stacks.address_types == ("ExternalIP", "InternalIP")


# ---- Which cluster is used, depending on what is there


SERVED = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
HOME, BOTH = "kubeconfig {home}/.kube/config ", "{home}/absent:{home}/kubeconfig"
NAMED = "environment STACKD_CLUSTER__KUBECONFIG"


@pytest.mark.parametrize(
    ("environ", "credential", "decision"),
    [
        ({"STACKD_CLUSTER__KUBECONFIG": "~/.kube/config"}, True, HOME + NAMED),
        (SERVED, True, "kubeconfig {home}/kubeconfig credential kubeconfig"),
        (SERVED, False, "in-cluster  environment KUBERNETES_SERVICE_HOST"),
        ({"KUBECONFIG": BOTH}, False, f"kubeconfig {BOTH} environment KUBECONFIG"),
        ({}, False, HOME + "~/.kube/config"),
        ({"STACKD_CLUSTER__MODE": "kubeconfig", **SERVED}, False, HOME + "~/.kube/config"),
        ({"STACKD_CLUSTER__MODE": "in-cluster"}, True, "in-cluster  default"),
    ],
)  # fmt: skip
def test_which_cluster_is_meant(tmp_path: Path, environ: dict[str, str], credential: bool, decision: str) -> None:
    (tmp_path / ".kube").mkdir()
    for name in (".kube/config", "kubeconfig"):
        (tmp_path / name).write_text("{}")
    variables = {name: value.replace("{home}", str(tmp_path)) for name, value in environ.items()}
    loaded = load(None, {"STACKD_AUTH__KEY": KEY, "HOME": str(tmp_path), **variables}, tmp_path if credential else None)
    cluster, origin = loaded.config.cluster, loaded.origins["cluster.kubeconfig"]
    assert f"{cluster.mode} {cluster.kubeconfig} {origin}" == decision.replace("{home}", str(tmp_path))


@pytest.mark.parametrize("environ", [{}, {"STACKD_CLUSTER__MODE": "embedded"}])
def test_without_a_cluster_the_configuration_can_be_checked_but_not_served(environ: dict[str, str]) -> None:
    config = of(**environ)
    with pytest.raises(ConfigError, match="no cluster is configured"):
        require_cluster(config)


# ---- the example file and the pod policy agree with the models


ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "config.example.toml"


def test_the_example_loads_to_exactly_the_defaults() -> None:
    loaded = load(EXAMPLE, {"STACKD_AUTH__KEY": KEY})
    assert loaded.config == load(None, {"STACKD_AUTH__KEY": KEY}).config
    assert loaded.config.model_copy(update={"auth": Config().auth}) == Config()
    missing = {key for key, origin in loaded.origins.items() if not origin.startswith(str(EXAMPLE))}
    assert missing == {"auth.keys", "auth.oidc"}
    assert policy_of(Config()) == Policy()


def test_what_the_operator_sets_reaches_the_pod_policy(load_text: Load) -> None:
    tolerations = 'tolerations = [{ key = "stacks", operator = "Exists", tolerationSeconds = 60 }]'
    config = load_text(
        '[stacks]\nrestart_policy = "Always"\nttl = "90m"\npublic_ips = { "worker.1" = "203.0.113.7" }\n'
        f'[policy]\nprofile = "restricted"\nmax_cpu = "2"\n{tolerations}\n'
    ).config
    policy = policy_of(config)
    assert (policy.restart_policy, policy.profile, str(policy.amount("max_cpu"))) == ("Always", "restricted", "2")
    (toleration,) = policy.tolerations
    assert toleration.manifest() == {"key": "stacks", "operator": "Exists", "tolerationSeconds": 60}
    values = {setting.name: setting.text(config) for setting in settings()}
    assert (values["stacks.ttl"], values["stacks.public_ips"]) == ('"1h30m"', '{ "worker.1" = "203.0.113.7" }')
    assert values["auth.keys"] == '[{ name = "environment", scope = "admin" }]'
