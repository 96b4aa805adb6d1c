"""Where credentials come from, when they are read again, and the token that stackd renews."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import stat
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from stackd.clock import DAY_SECONDS, utc_minute
from stackd.errors import ClusterRefused, ClusterUnavailable, ConfigError
from stackd.kube import credentials as kube_credentials
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget, Renewal, expiry_remark
from stackd.kube.wire import KINDS, TOKENS
from tests.certificates import HAVE_OPENSSL, authority, self_signed
from tests.harness import eventually
from tests.kube.samples import ELSEWHERE, SYSTEM, UID, connected, kubeconfig, plugin
from tests.kube.wire import Reply, Wire, loses, says, status

FORBIDDEN = says(status(403, "Forbidden", 'namespaces "kube-system" is forbidden: User "u" cannot get resource'), 403)


def runs(pid: int) -> bool:
    """Whether the process runs: one that has ended has no command line, even if nobody has waited for it."""
    line = Path(f"/proc/{pid}/cmdline")
    return line.exists() and bool(line.read_bytes())


async def test_server_and_token_are_those_of_the_chosen_context(wire: Wire, tmp_path: Path) -> None:
    wire.token = "secret-1"
    for current, chosen in (("elsewhere", "main"), ("main", "")):
        wire.on("GET", SYSTEM, UID)
        path = kubeconfig(tmp_path / "config", wire.url, {"token": "secret-1"}, context=current)
        async with connected(path, context=chosen) as cluster:
            assert await cluster.cluster_uid() == "cluster-1"


CERTIFICATE = {"client-certificate": "nowhere.crt", "client-key": "nowhere.key"}


@pytest.mark.parametrize(
    ("text", "context", "why"),
    [
        ("", "", "it is not a kubeconfig"),
        ("token: 'sk-secret\n: x", "", "it is not YAML: "),
        ("current-context: x", "", "Expected object with name x in"),
        ("clusters: 7\ncurrent-context: x\ncontexts: []\nusers: []", "", "it is not a kubeconfig"),
        (None, "", "there is no such file"),
        (CERTIFICATE, "", "nowhere.crt"),
        ({}, "prod", "prod"),
    ],
)
async def test_a_broken_kubeconfig_is_named_with_its_fault(tmp_path: Path, text: Any, context: str, why: str) -> None:
    path = tmp_path / "broken"
    if isinstance(text, dict):
        kubeconfig(path, "https://127.0.0.1:1", text)
    elif text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=rf"\[cluster\] kubeconfig: .*{why}") as caught:
        await Cluster.connect(ClusterTarget(kubeconfig=str(path), context=context))
    (mistake,) = caught.value.mistakes
    assert "broken" in mistake
    assert not re.search(r"\n|sk-secret", mistake)


# ---- after a 401


async def test_a_token_file_that_was_renewed_is_read_again_after_a_401(wire: Wire, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    async with connected(kubeconfig(tmp_path / "config", wire.url, {"tokenFile": str(token)})) as cluster:
        wire.token = "new"
        token.write_text("new")
        wire.on("GET", SYSTEM, UID)
        assert await cluster.cluster_uid() == "cluster-1"
        assert [seen.token for seen in wire.seen] == ["old", "new"]


@pytest.mark.parametrize("right", [True, False])
async def test_many_refused_requests_run_a_credential_plugin_once(wire: Wire, tmp_path: Path, right: bool) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    path = kubeconfig(tmp_path / "config", wire.url, plugin(tmp_path, token))
    path.chmod(0o400)
    before = path.read_bytes()
    async with connected(path, reload_interval=60) as cluster:
        wire.token = "new"
        wire.on("GET", SYSTEM, *[UID] * 10)
        token.write_text("new" if right else "wrong")
        answers = await asyncio.gather(*[cluster.cluster_uid() for _ in range(10)], return_exceptions=True)
        if right:
            assert set(answers) == {"cluster-1"}
        else:
            assert all("credentials are not accepted (401)" in str(one) for one in answers)
            assert "wrong" not in str(answers)
        assert (tmp_path / "runs").read_text().count("run") == 2
    assert path.read_bytes() == before, "a kubeconfig is never written"


async def test_a_plugin_may_answer_with_a_certificate_and_one_that_fails_is_run_again(
    wire: Wire, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user = plugin(tmp_path, tmp_path / "missing")
    target = ClusterTarget(kubeconfig=str(kubeconfig(tmp_path / "config", "https://stackd.example", user)))
    certificate, key = (Path(name).read_text() for name in self_signed(tmp_path))
    status = {"clientCertificateData": certificate, "clientKeyData": key}
    answer = {"apiVersion": user["exec"]["apiVersion"], "status": status}
    (tmp_path / "answer").write_text(json.dumps(answer))
    (tmp_path / "plugin.sh").write_text(f"#!/bin/sh\ncat {tmp_path / 'answer'}\n")
    loaded = (await kube_credentials.load_credentials(target)).configuration
    assert (Path(loaded.cert_file or "").read_text(), Path(loaded.key_file or "").read_text()) == (certificate, key)
    for script, why in (("exit 3", "process returned 3"), ("echo {}", "cannot be read")):
        (tmp_path / "plugin.sh").write_text(f"#!/bin/sh\n{script}\n")
        assert not (await kube_credentials.load_credentials(target)).configuration.api_key
        assert why in caplog.text


async def test_a_plugin_that_hangs_after_a_401_of_a_watch_stops_nothing_for_good(
    wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, the watch waited for it without limit, and so did the next reload. What does not answer is killed, and what
    it has started: a stackd that tries for days would fill the machine.
    """
    token, pids = tmp_path / "token", tmp_path / "pids"
    token.write_text("old")
    pids.touch()
    user = plugin(tmp_path, token)
    async with connected(kubeconfig(tmp_path / "config", wire.url, user), reload_interval=0) as cluster:
        working = (tmp_path / "plugin.sh").read_text()
        (tmp_path / "plugin.sh").write_text(f"#!/bin/sh\nsleep 60 &\necho $! >> {pids}\nwait\n")
        wire.token = "new"
        watch = cluster.on("watch", "pods", params={"watch": "true"})
        with monkeypatch.context() as impatient:
            impatient.setattr(kube_credentials, "LOAD_SECONDS", 0.5)
            with pytest.raises(ClusterRefused, match="does a credential plugin hang"):
                async with cluster.connection.stream(watch, idle=1):
                    pass
            with pytest.raises(ConfigError, match="were not loaded within"):
                await cluster.reload_credentials()
        started = [int(pid) for pid in pids.read_text().split()]
        await eventually(lambda: not any(map(runs, started)))
        (tmp_path / "plugin.sh").write_text(working)
        token.write_text("new")
        wire.on("GET", SYSTEM, UID)
        assert await cluster.cluster_uid() == "cluster-1"


async def test_connections_are_closed_by_several_at_a_time(cluster: Cluster, wire: Wire) -> None:
    access, left = cluster.connection.access, []
    wire.on("GET", SYSTEM, *[UID] * 3)
    with ExitStack() as borrowed:
        for _ in range(3):
            await cluster.cluster_uid()
            left.append(borrowed.enter_context(access.borrowed()))
            await access.leave(left[-1])
    await asyncio.gather(access.close(), access.leave(left[0]), access.leave(left[1]))
    assert all(session.closed for session in left)


# ---- at a reload


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "it is not YAML"),
        ("{current-context: x}", "Expected object with name x"),
        (None, f"are now for {ELSEWHERE}, and no longer for .*: restart stackd"),
    ],
)
async def test_unusable_credentials_leave_those_in_force(
    wire: Wire, tmp_path: Path, text: str | None, why: str
) -> None:
    path = kubeconfig(tmp_path / "config", wire.url, {"token": "first"})
    async with connected(path) as cluster:
        if text is None:
            kubeconfig(path, ELSEWHERE, {"token": "second"})
        else:
            path.write_text(text)
        with pytest.raises(ConfigError, match=why):
            await cluster.reload_credentials()
        wire.on("GET", SYSTEM, UID)
        await cluster.cluster_uid()
        assert [seen.token for seen in wire.seen] == ["first"]
        wire.token = "second"
        with pytest.raises(ClusterUnavailable, match=why):  # after a 401, too
            await cluster.cluster_uid()


@pytest.mark.parametrize(
    ("reply", "used"), [(None, "first"), (loses(), "second"), (FORBIDDEN, "second"), (UID, "second")]
)
async def test_refused_credentials_are_not_used(wire: Wire, tmp_path: Path, reply: Reply | None, used: str) -> None:
    """Before, a reload took credentials that got only 401."""
    path = kubeconfig(tmp_path / "config", wire.url, {"token": "first"})
    async with connected(path) as cluster:
        assert not await cluster.reload_credentials()
        kubeconfig(path, wire.url, {"token": "second"})
        if reply is None:
            wire.token = "first"
            with pytest.raises(ConfigError, match=r"the new credentials are no use: .*not accepted \(401\)"):
                await cluster.reload_credentials()
        else:
            wire.on("GET", SYSTEM, reply)
            assert await cluster.reload_credentials()
            assert not await cluster.reload_credentials()
        assert wire.seen[0].token == "second", "it was tried"
        wire.on("GET", SYSTEM, UID)
        await cluster.cluster_uid()
        assert wire.seen[-1].token == used


# ---- the token of stackd's service account: renewed in time, kept over a restart, and reported if the renewal fails


HOUR = 3600
REQUEST = "/api/v1/namespaces/sys/serviceaccounts/own/token"


class Place:
    """An API server that issues tokens, one time for it and stackd, and a folder."""

    def __init__(self, wire: Wire, folder: Path) -> None:
        self.wire, self.folder = wire, folder
        self.at = time.time()
        self.token_file = folder / "state.token"

    def now(self) -> int:
        return round(self.at * 1e9)

    def monotonic(self) -> float:
        return self.at

    def issue(self, seconds: float = HOUR, account: str = "own") -> str:
        about = {"namespace": "sys", "serviceaccount": {"name": account, "uid": f"uid-of-{account}"}}
        claims = {"iss": "i", "iat": self.at, "exp": self.at + seconds, "kubernetes.io": about}
        return f"head.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.tail"

    def renews(self, longest: float = 30 * DAY_SECONDS) -> Reply:
        async def reply(request: web.Request) -> web.StreamResponse:
            seconds = (await request.json())["spec"]["expirationSeconds"]
            metadata = {"name": "own", "namespace": "sys"}
            issued = {"token": self.issue(min(seconds, longest))}
            return web.json_response({**KINDS[TOKENS].type_meta, "metadata": metadata, "status": issued}, status=201)

        return reply

    @asynccontextmanager
    async def connected(self, token: str = "", **user: Any) -> AsyncIterator[tuple[Cluster, Renewal]]:
        path = kubeconfig(self.folder / "kubeconfig", self.wire.url, user or {"token": token})
        more = {"token_file": str(self.token_file), "reload_interval": 0}
        async with connected(path, **more) as cluster:
            yield cluster, Renewal(cluster.connection.access, cluster.answer, self)

    async def accepts(self, cluster: Cluster, token: str) -> bool:
        """Whether the client gets an answer from a server that takes this token alone."""
        self.wire.token = token
        self.wire.on("GET", SYSTEM, UID)
        return await cluster.cluster_uid() == "cluster-1"


@pytest.fixture
def at(wire: Wire, tmp_path: Path) -> Place:
    return Place(wire, tmp_path)


def used(cluster: Cluster) -> str:
    token = cluster.connection.access.token
    assert token is not None
    assert token.text not in repr(token)
    return token.text


async def test_a_token_is_renewed_with_half_of_its_time_left_and_used_and_kept(at: Place) -> None:
    first = at.issue()
    at.wire.on("POST", REQUEST, at.renews())
    async with at.connected(first) as (cluster, renewal):
        at.at += HOUR / 2 - 10
        await renewal.check()
        assert used(cluster) == first
        at.at += 20
        await renewal.check()
        second = used(cluster)
        assert second != first
        assert await at.accepts(cluster, second)
        assert cluster.counts["get", "namespaces", "401"] == 0
        assert at.token_file.read_text().strip() == second
        assert stat.S_IMODE(at.token_file.stat().st_mode) == 0o600
    at.wire.token = None
    async with at.connected(first) as (cluster, _):
        assert used(cluster) == second, "after a restart, too"
        assert await at.accepts(cluster, first), "a renewed token that is refused gives way to the kubeconfig's"


async def test_a_token_that_is_good_for_a_month_is_renewed_every_day(at: Place) -> None:
    at.wire.on("POST", REQUEST, *[at.renews()] * 2)
    async with at.connected(at.issue(30 * DAY_SECONDS)) as (_, renewal):
        for number in (1, 2):
            at.at += DAY_SECONDS + 10
            await renewal.check()
            assert len(at.wire.asked("POST", REQUEST)) == number


async def test_a_token_gives_way_only_to_one_that_lasts_longer(at: Place) -> None:
    """A cluster may come to issue shorter ones; a stackd that is down for longer than those last needs the long one."""
    long = at.issue(4 * DAY_SECONDS)
    at.wire.on("POST", REQUEST, *[at.renews(longest=DAY_SECONDS)] * 2)
    async with at.connected(long) as (cluster, renewal):
        for days in (1.1, 1.0, 1.0):
            at.at += days * DAY_SECONDS
            await renewal.check()
            assert (used(cluster), len(at.wire.asked("POST", REQUEST))) == (long, 1)
        at.at += 0.5 * DAY_SECONDS
        await renewal.check()
        assert used(cluster) != long


async def test_a_kept_token_that_is_damaged_or_another_accounts_is_not_used(at: Place) -> None:
    own = at.issue()
    for content in ("", "nonsense", "a.b.c", "\0\xff", at.issue(30 * DAY_SECONDS, account="other")):
        at.token_file.write_text(content)
        async with at.connected(own) as (cluster, _):
            assert used(cluster) == own


async def test_a_token_that_cannot_be_renewed_is_reported_in_time(at: Place, caplog: pytest.LogCaptureFixture) -> None:
    at.wire.on("POST", REQUEST, *[FORBIDDEN] * 4, at.renews())
    async with at.connected(at.issue()) as (cluster, renewal):
        access = cluster.connection.access
        await renewal.check()
        assert expiry_remark(access, at.at) == ""
        at.at += HOUR / 2 + 1
        assert await renewal.check() <= 60
        remark = expiry_remark(access, at.at)
        assert "cannot be renewed" in remark
        assert "no right to get serviceaccounts/token" in remark
        for _ in range(3):
            await renewal.check()
        assert len([one for one in caplog.messages if "cannot be renewed, it is good until" in one]) == 1
        assert caplog.messages.count(remark) == 1
        assert "expired on " in expiry_remark(access, at.at + HOUR / 2)
        await renewal.check()
        assert expiry_remark(access, at.at) == ""


async def test_what_does_not_end_or_is_renewed_by_others_is_left_alone(at: Place) -> None:
    source = at.folder / "token"
    source.write_text(at.issue(600))
    for user in ({"token": "admin"}, {"tokenFile": str(source)}, plugin(at.folder, source)):
        async with at.connected(**user) as (cluster, renewal):
            at.at += 500
            await renewal.check()
            assert cluster.connection.access.expiry is None
            assert not at.wire.asked("POST", REQUEST)


@pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")
async def test_a_client_certificate_that_ends_is_told_two_weeks_before(tmp_path: Path) -> None:
    pair = authority(tmp_path)
    user = {"client-certificate": str(pair.cert), "client-key": str(pair.key)}
    async with connected(kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", user)) as cluster:
        access = cluster.connection.access
        assert access.expiry is not None
        end = access.expiry.at
        assert expiry_remark(access, end - 15 * DAY_SECONDS) == ""
        assert f"client certificate expires on {utc_minute(end)}" in expiry_remark(access, end - 13 * DAY_SECONDS)
        assert "expired on" in expiry_remark(access, end + 1)
