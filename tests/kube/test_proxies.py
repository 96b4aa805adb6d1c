"""stackd reaches the API server through a proxy that tunnels TLS, and says so when it does not."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from stackd.errors import ClusterUnavailable, ConfigError
from stackd.kube.client import Cluster
from tests.certificates import HAVE_OPENSSL, authority, issued
from tests.harness import until
from tests.kube.samples import SYSTEM, UID, connected, kubeconfig
from tests.kube.wire import NAMESPACE, Wire, mirroring, pod, seen, then
from tests.ports import free_port
from tests.proxies import Proxy, proxy

pytestmark = pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")
NAME, SECRET = "api.example", "me:p%40ss"
API = f"https://{NAME}:6443"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Behind:
    """An API server that only the proxy reaches, by a name that only it can resolve."""

    def __init__(self, wire: Wire, one: Proxy, folder: Path, trusted: Path) -> None:
        self.wire, self.proxy, self._folder, self._trusted = wire, one, folder, trusted

    @asynccontextmanager
    async def reached(self, *, seconds: float = 20.0, **more: Any) -> AsyncIterator[Cluster]:
        more = {"certificate-authority": str(self._trusted), **more}
        path = kubeconfig(self._folder / "config", API, {"token": "t"}, **more)
        async with connected(path, namespace=NAMESPACE, timeout=seconds, attempt_timeout=seconds) as cluster:
            yield cluster


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Behind]:
    root = authority(tmp_path)
    secure = Wire()
    await secure.start(tls=issued(tmp_path, root, host=f"DNS:{NAME}").server_context())
    async with proxy(URL(secure.url).port or 0) as one:
        yield Behind(secure, one, tmp_path, root.cert)
    await secure.stop()


async def refused(cluster: Cluster, words: str) -> str:
    """The error's text for the operator, once it has these words."""

    async def text() -> str:
        with pytest.raises(ClusterUnavailable) as caught:
            await cluster.cluster_uid()
        return str(caught.value)

    return await until(text, lambda seen: words in seen)


@pytest.mark.parametrize("name", ["https_proxy", "proxy-url"])
async def test_requests_and_watches_go_through_the_proxy_that_sees_only_tls(
    behind: Behind, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    more: dict[str, Any] = {}
    if name == "proxy-url":
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("NO_PROXY", "*")
        more = {name: behind.proxy.url(SECRET)}
    else:
        monkeypatch.setenv(name, behind.proxy.url(SECRET))
        monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,.svc")
    behind.wire.on("GET", SYSTEM, UID)
    behind.wire.watch("pods", then(("ADDED", pod("a", version=101))))
    async with behind.reached(**more) as cluster:
        assert await cluster.cluster_uid() == "cluster-1"
        async with mirroring(cluster) as (mirror, _):
            await seen(mirror, "a", 101)
    assert set(behind.proxy.asked) == {(f"{NAME}:6443", "me:p@ss")}


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"refuses": 407}, "the proxy answered 407 and wants a user and a password"),
        ({"silent": True}, "Kubernetes did not answer within"),
        ({"to": 0}, "the connection was lost"),
    ],
)
async def test_an_error_names_the_proxy_without_its_password(
    behind: Behind, monkeypatch: pytest.MonkeyPatch, broken: dict[str, Any], why: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", behind.proxy.url(SECRET))
    async with behind.reached(seconds=0.5) as cluster:
        was = {key: getattr(behind.proxy, key) for key in broken}
        for key, value in broken.items():
            setattr(behind.proxy, key, value)
        text = await refused(cluster, why)
        assert f"through the proxy {behind.proxy.url()}" in text
        assert not re.search("p(@|%40)ss", text)
        for key, value in was.items():
            setattr(behind.proxy, key, value)
        behind.wire.on("GET", SYSTEM, *[UID] * 40)  # an answer may be late
        cluster.target = replace(cluster.target, timeout=20.0)
        assert await cluster.cluster_uid() == "cluster-1", "it works as soon as the proxy does"


async def test_a_kind_of_proxy_that_cannot_be_used_is_a_mistake_at_the_start(behind: Behind) -> None:
    more: dict[str, Any] = {"proxy-url": "socks5://me:secret@gw:1080"}
    with pytest.raises(ConfigError, match="proxy-url is socks5://gw:1080"):
        async with behind.reached(**more):
            pass
