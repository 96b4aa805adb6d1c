"""Which cluster is used, depending on what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackd.config import LoadedConfig, load, require_cluster
from stackd.errors import ConfigError
from tests.unit.config.conftest import KEY


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    (path / ".kube").mkdir(parents=True)
    (path / ".kube" / "config").write_text("{}")
    return path


def choose(credentials: Path | None = None, **environ: str) -> LoadedConfig:
    return load(None, {"STACKD_AUTH__KEY": KEY, **environ}, credentials)


def decision(loaded: LoadedConfig) -> tuple[str, str, str]:
    return loaded.config.cluster.mode, loaded.config.cluster.kubeconfig, loaded.origins["cluster.kubeconfig"]


def test_a_kubeconfig_that_is_set_comes_first(home: Path, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("{}")
    path = str(home / ".kube" / "config")
    chosen = choose(tmp_path, STACKD_CLUSTER__KUBECONFIG=path, KUBERNETES_SERVICE_HOST="10.0.0.1")
    assert decision(chosen) == ("kubeconfig", path, "environment STACKD_CLUSTER__KUBECONFIG")


def test_then_the_credential(home: Path, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("{}")
    chosen = choose(tmp_path, HOME=str(home), KUBERNETES_SERVICE_HOST="10.0.0.1")
    assert decision(chosen) == ("kubeconfig", str(tmp_path / "kubeconfig"), "credential kubeconfig")


def test_then_the_pods_own_service_account(home: Path) -> None:
    chosen = choose(HOME=str(home), KUBERNETES_SERVICE_HOST="10.0.0.1")
    assert decision(chosen) == ("in-cluster", "", "environment KUBERNETES_SERVICE_HOST")


def test_then_the_variable_and_at_last_the_home_folder(home: Path, tmp_path: Path) -> None:
    (tmp_path / "named").write_text("{}")
    both = f"{tmp_path}/absent:{tmp_path}/named"
    assert decision(choose(HOME=str(home), KUBECONFIG=both)) == ("kubeconfig", both, "environment KUBECONFIG")
    assert decision(choose(HOME=str(home))) == ("kubeconfig", str(home / ".kube" / "config"), "~/.kube/config")


def test_mode_kubeconfig_never_takes_the_service_account(home: Path) -> None:
    chosen = choose(HOME=str(home), STACKD_CLUSTER__MODE="kubeconfig", KUBERNETES_SERVICE_HOST="10.0.0.1")
    assert decision(chosen)[:2] == ("kubeconfig", str(home / ".kube" / "config"))


def test_mode_kubeconfig_without_one_is_a_mistake_that_says_where_it_may_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[cluster\] kubeconfig: no cluster is configured; set cluster\.kubeconfig"):
        choose(HOME=str(tmp_path), STACKD_CLUSTER__MODE="kubeconfig")


def test_a_kubeconfig_that_is_not_there_is_a_mistake_in_every_mode(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file is missing or cannot be read"):
        choose(STACKD_CLUSTER__KUBECONFIG=str(tmp_path / "absent"))


def test_a_path_may_begin_at_home(home: Path) -> None:
    chosen = choose(HOME=str(home), STACKD_CLUSTER__KUBECONFIG="~/.kube/config")
    assert chosen.config.cluster.kubeconfig == str(home / ".kube" / "config")


def test_without_a_cluster_the_configuration_can_be_checked_but_not_served(tmp_path: Path) -> None:
    loaded = choose(HOME=str(tmp_path))
    assert any("no cluster is configured" in warning for warning in loaded.warnings)
    with pytest.raises(ConfigError, match="no cluster is configured"):
        require_cluster(loaded.config)


def test_the_embedded_cluster_needs_nothing_and_is_none_until_it_has_been_started() -> None:
    loaded = choose(STACKD_CLUSTER__MODE="embedded")
    assert loaded.warnings == ()
    with pytest.raises(ConfigError):
        require_cluster(loaded.config)


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True)]
)
def test_keys_that_would_cross_a_network_in_the_clear_are_warned_of(host: str, warned: bool) -> None:
    loaded = choose(STACKD_CLUSTER__MODE="embedded", STACKD_SERVER__HOST=host)
    assert any("no TLS" in warning for warning in loaded.warnings) is warned
