from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from stackd.config import credentials
from stackd.errors import ClusterUnavailable, ConfigError
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from tests.certificates import Pair, authority, issued
from tests.kube.wire import Reply, Wire, loses, namespace, says, status

SYSTEM = "/api/v1/namespaces/kube-system"
UID = says(namespace("kube-system", uid="cluster-1"))
FORBIDDEN = says(status(403, "Forbidden", 'namespaces "kube-system" is forbidden: User "u" cannot get resource'), 403)
NAMES = ("HOME", "KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the kubeconfig of the user who runs the tests."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def kubeconfig(path: Path, server: str, user: dict[str, Any], *, context: str = "main", **cluster: str) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": context,
                "contexts": [
                    {"name": "main", "context": {"cluster": "c", "user": "u"}},
                    {"name": "elsewhere", "context": {"cluster": "far", "user": "u"}},
                ],
                "clusters": [
                    {"name": "c", "cluster": {"server": server, **cluster}},
                    {"name": "far", "cluster": {"server": "http://127.0.0.1:1"}},
                ],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return path


def plugin(folder: Path, token_file: Path) -> dict[str, Any]:
    """A credential plugin that returns the content of a file and counts its runs."""
    script = folder / "plugin.sh"
    credential = '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"%s"}}'
    script.write_text(f"#!/bin/sh\necho run >> {folder}/runs\nprintf '{credential}' \"$(cat {token_file})\"\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script)}}


@asynccontextmanager
async def connected(path: Path | None = None, **more: Any) -> AsyncIterator[Cluster]:
    """A client with that kubeconfig."""
    target = ClusterTarget(mode="kubeconfig", kubeconfig=str(path)) if path else ClusterTarget()
    cluster = await Cluster.connect(replace(target, **more))
    try:
        yield cluster
    finally:
        await cluster.close()


@pytest.mark.parametrize("named", ["context", "current-context", "environment"])
async def test_server_and_token_are_those_of_the_kubeconfigs_context(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    wire.token = "secret-1"
    wire.on("GET", SYSTEM, UID)
    current = "elsewhere" if named == "context" else "main"
    path = kubeconfig(tmp_path / "config", wire.url, {"token": "secret-1"}, context=current)
    if named == "environment":
        monkeypatch.setenv("KUBECONFIG", str(path))
    context = "main" if named == "context" else ""
    async with connected(None if named == "environment" else path, context=context) as cluster:
        assert await cluster.cluster_uid() == "cluster-1"


async def test_a_token_file_that_was_renewed_is_read_again_after_a_401(wire: Wire, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    path = kubeconfig(tmp_path / "config", wire.url, {"tokenFile": str(token)})
    async with connected(path, timeout=1) as cluster:
        wire.token = "new"
        token.write_text("new")
        wire.on("GET", SYSTEM, UID)
        assert await cluster.cluster_uid() == "cluster-1"
        assert [seen.token for seen in wire.seen] == ["old", "new"]


async def test_many_refused_requests_run_a_credential_plugin_once(wire: Wire, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    path = kubeconfig(tmp_path / "config", wire.url, plugin(tmp_path, token))
    async with connected(path) as cluster:
        wire.token = "new"
        token.write_text("new")
        wire.on("GET", SYSTEM, *[UID] * 10)
        assert set(await asyncio.gather(*[cluster.cluster_uid() for _ in range(10)])) == {"cluster-1"}
        assert (tmp_path / "runs").read_text().count("run") == 2


async def test_credentials_that_stay_refused_are_not_fetched_for_every_request(wire: Wire, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("wrong")
    path = kubeconfig(tmp_path / "config", wire.url, plugin(tmp_path, token))
    wire.token = "right"
    async with connected(path, reload_interval=60) as cluster:
        for _ in range(5):
            with pytest.raises(ClusterUnavailable, match=r"credentials are not accepted \(401\)") as caught:
                await cluster.cluster_uid()
            assert "wrong" not in str(caught.value)
        assert (tmp_path / "runs").read_text().count("run") == 2


async def test_new_credentials_for_another_server_are_not_taken(wire: Wire, tmp_path: Path) -> None:
    wire.token = "old"
    path = kubeconfig(tmp_path / "config", wire.url, {"token": "old"})
    async with connected(path, timeout=0.2) as cluster:
        wire.token = "new"
        kubeconfig(path, "http://127.0.0.1:1", {"token": "new"})
        with pytest.raises(
            ClusterUnavailable, match=r"now for http://127.0.0.1:1, and no longer for .*: restart stackd"
        ):
            await cluster.cluster_uid()


async def test_a_kubeconfig_is_never_written(wire: Wire, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    path = kubeconfig(tmp_path / "config", wire.url, plugin(tmp_path, token))
    path.chmod(0o400)
    before = path.read_bytes()
    await (await Cluster.connect(ClusterTarget(mode="kubeconfig", kubeconfig=str(path)))).close()
    assert path.read_bytes() == before


async def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[cluster\] kubeconfig: there is no file .*nowhere"):
        await Cluster.connect(ClusterTarget(mode="kubeconfig", kubeconfig=str(tmp_path / "nowhere")))


async def test_without_any_cluster_to_find_auto_says_where_it_looked() -> None:
    with pytest.raises(ConfigError, match=r"there is no file ~/.kube/config"):
        await Cluster.connect(ClusterTarget())


async def test_in_cluster_outside_of_a_cluster_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"\[cluster\] in-cluster: Service host/port is not set"):
        await Cluster.connect(ClusterTarget(mode="in-cluster"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the file is empty; a kubeconfig is expected"),
        ("[]", "it is not a kubeconfig: clusters, users and contexts are expected"),
        ("just text", "it is not a kubeconfig: clusters, users and contexts are expected"),
        ("a: [", r"it is not YAML: expected the node content, but found '<stream end>' \(line 1, column 5\)"),
        ("token: 'sk-secret\n: x", "it is not YAML: "),
        ("\0", "it is not YAML: "),
        ("current-context: x", "Expected object with name x in"),
        ("clusters: 7\ncurrent-context: x\ncontexts: []\nusers: []", "its parts are not those of a kubeconfig"),
    ],
)
async def test_a_broken_kubeconfig_is_a_config_error_that_names_the_file_and_what_is_wrong(
    tmp_path: Path, text: str, why: str
) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"\[cluster\] kubeconfig: .*broken: .*{why}") as caught:
        await Cluster.connect(ClusterTarget(mode="kubeconfig", kubeconfig=str(path)))
    (mistake,) = caught.value.mistakes
    assert "\n" not in mistake
    assert "sk-secret" not in mistake


async def test_an_unknown_context_is_named(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", "http://127.0.0.1:1", {})
    with pytest.raises(ConfigError, match="prod"):
        await Cluster.connect(ClusterTarget(mode="kubeconfig", kubeconfig=str(path), context="prod"))


async def test_a_certificate_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", "https://127.0.0.1:1", {"client-certificate": "none", "client-key": "none"})
    with pytest.raises(ConfigError, match="none"):
        await Cluster.connect(ClusterTarget(mode="kubeconfig", kubeconfig=str(path)))


async def test_changed_credentials_are_taken_when_it_is_asked_for_and_others_are_left(
    wire: Wire, tmp_path: Path
) -> None:
    path = kubeconfig(tmp_path / "config", wire.url, {"token": "first"})
    async with connected(path) as cluster:
        assert not await cluster.look_again()
        kubeconfig(path, wire.url, {"token": "second"})
        assert await cluster.look_again()
        assert not await cluster.look_again()
        wire.on("GET", SYSTEM, UID)
        await cluster.cluster_uid()
        assert {seen.token for seen in wire.seen} == {"second"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "it is not YAML"),
        ("{current-context: x}", "Expected object with name x"),
        (None, "are now for http://127.0.0.1:1, and no longer for .*: restart stackd"),
    ],
)
async def test_credentials_that_cannot_be_used_leave_those_in_force(
    wire: Wire, tmp_path: Path, text: str | None, why: str
) -> None:
    path = kubeconfig(tmp_path / "config", wire.url, {"token": "first"})
    async with connected(path) as cluster:
        if text is None:
            kubeconfig(path, "http://127.0.0.1:1", {"token": "second"})
        else:
            path.write_text(text)
        with pytest.raises(ConfigError, match=why):
            await cluster.look_again()
        wire.on("GET", SYSTEM, UID)
        await cluster.cluster_uid()
        assert [seen.token for seen in wire.seen] == ["first"]


@pytest.mark.parametrize(("reply", "used"), [(None, "first"), (loses(), "second"), (FORBIDDEN, "second")])
async def test_credentials_that_kubernetes_refuses_are_not_taken_and_silence_refuses_nothing(
    wire: Wire, tmp_path: Path, reply: Reply | None, used: str
) -> None:
    """Before, a reload took credentials that got only 401."""
    path = kubeconfig(tmp_path / "config", wire.url, {"token": "first"})
    async with connected(path) as cluster:
        kubeconfig(path, wire.url, {"token": "second"})
        if reply is None:
            wire.token = "first"
            with pytest.raises(ConfigError, match=r"the new credentials are no use: .*not accepted \(401\)"):
                await cluster.look_again()
        else:
            wire.on("GET", SYSTEM, reply)
            assert await cluster.look_again()
        assert wire.seen[0].token == "second", "it was tried"
        wire.on("GET", SYSTEM, UID)
        await cluster.cluster_uid()
        assert wire.seen[-1].token == used


async def test_an_authority_that_did_not_issue_the_servers_certificate_is_not_taken(tmp_path: Path) -> None:
    root, other = authority(tmp_path), authority(tmp_path, "other")
    wire = Wire()
    await wire.start(tls=issued(tmp_path, root).server_context())
    path = tmp_path / "config"

    def trust(which: Pair) -> None:
        kubeconfig(path, wire.url, {"token": "first"}, **{"certificate-authority": str(which.cert)})

    trust(root)
    async with connected(path) as cluster:
        trust(other)
        with pytest.raises(
            ConfigError, match="the new credentials are no use: Kubernetes' certificate is not accepted"
        ):
            await cluster.look_again()
        wire.on("GET", SYSTEM, UID)
        await cluster.cluster_uid()
    await wire.stop()


async def test_a_credential_that_was_handed_over_since_the_start_is_the_one_that_counts(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, run = tmp_path / "credentials", tmp_path / "run"
    later = run / "invocation1"
    started.mkdir()
    later.mkdir(parents=True)
    monkeypatch.setattr(credentials, "_RUN", run)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(started))
    path = kubeconfig(started / "kubeconfig", wire.url, {"token": "first"})
    kubeconfig(later / "kubeconfig", wire.url, {"token": "second"})
    for invocation, token in (("", "first"), ("invocation2", "first"), ("invocation1", "second")):
        monkeypatch.setenv("INVOCATION_ID", invocation)
        wire.on("GET", SYSTEM, UID)
        cluster = await Cluster.connect(ClusterTarget(mode="kubeconfig", kubeconfig=str(path)))
        await cluster.cluster_uid()
        await cluster.close()
        assert wire.seen[-1].token == token


PROXY = "http://proxy.test:3128"


@pytest.mark.parametrize(
    ("server", "environment", "own", "used"),
    [
        ("http://api.test:6443", {}, "", None),
        ("http://api.test:6443", {"http_proxy": PROXY}, "", PROXY),
        ("https://api.test:6443", {"http_proxy": PROXY}, "", None),
        ("http://api.test:6443", {"http_proxy": PROXY, "no_proxy": "api.test"}, "", None),
        ("http://api.test:6443", {"http_proxy": "http://other.test:1"}, PROXY, PROXY),
        *((f"http://{host}:1", {"http_proxy": PROXY}, "", None) for host in ("127.0.0.1", "localhost", "[::1]")),
    ],
)
async def test_the_proxy_is_the_kubeconfigs_or_the_environments_as_with_kubectl(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    environment: dict[str, str],
    own: str,
    used: str | None,
) -> None:
    """It is looked up once, when the credentials are loaded, and not with each request."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    path = kubeconfig(tmp_path / "config", server, {}, **({"proxy-url": own} if own else {}))
    async with connected(path) as cluster:
        assert cluster.connection.access.options().get("proxy") == used
        assert not cluster.connection.access.session.trust_env
