"""The environment's proxy is looked up once, when the credentials are loaded, and not with each request."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stackd.kube.access import Access
from stackd.kube.credentials import ClusterTarget

NAMES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
PROXY = "http://proxy.test:3128"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def target(folder: Path, server: str, **cluster: str) -> ClusterTarget:
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "main",
                "contexts": [{"name": "main", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )
    return ClusterTarget(mode="kubeconfig", kubeconfig=str(path))


async def proxy_of(wanted: ClusterTarget) -> str | None:
    access = await Access.open(wanted)
    try:
        with access.borrowed() as session:
            assert not session.trust_env
        proxy: str | None = access.options().get("proxy")
        return proxy
    finally:
        await access.close()


async def test_without_one_there_is_none(tmp_path: Path) -> None:
    assert await proxy_of(target(tmp_path, "http://api.test:6443")) is None


async def test_the_environments_proxy_for_the_scheme_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    assert await proxy_of(target(tmp_path, "http://api.test:6443")) == PROXY
    assert await proxy_of(target(tmp_path, "https://api.test:6443")) is None


async def test_no_proxy_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    monkeypatch.setenv("no_proxy", "api.test")
    assert await proxy_of(target(tmp_path, "http://api.test:6443")) is None


async def test_the_kubeconfigs_own_proxy_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://other.test:1")
    assert await proxy_of(target(tmp_path, "http://api.test:6443", **{"proxy-url": PROXY})) == PROXY


@pytest.mark.parametrize("server", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"])
async def test_an_address_of_this_machine_is_asked_directly_as_by_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    assert await proxy_of(target(tmp_path, server)) is None
