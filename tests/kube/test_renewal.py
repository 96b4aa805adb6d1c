"""The token of stackd's service account: renewed in time, kept over a restart, and reported if the renewal fails."""

from __future__ import annotations

import base64
import json
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from stackd.clock import DAY_SECONDS, utc_minute
from stackd.kube.access import REMEDY, Renewal, expiry_remark
from stackd.kube.client import Cluster
from stackd.kube.credentials import read_token
from stackd.kube.wire import KINDS, TOKENS
from tests.certificates import HAVE_OPENSSL, authority
from tests.kube.test_credentials import FORBIDDEN, SYSTEM, UID, connected, kubeconfig, plugin
from tests.kube.wire import Reply, Wire, loses

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
        more = {"token_file": str(self.token_file), "reload_interval": 0, "timeout": 1}
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
        assert not list(at.folder.glob("*.new"))
    at.wire.token = None
    async with at.connected(first) as (cluster, _):
        assert used(cluster) == second, "after a restart, too"
        assert await at.accepts(cluster, first), "a renewed token that is refused gives way to the kubeconfig's"


async def test_a_token_that_is_good_for_a_month_is_renewed_every_day(at: Place) -> None:
    at.wire.on("POST", REQUEST, *[at.renews()] * 3)
    async with at.connected(at.issue(30 * DAY_SECONDS)) as (cluster, renewal):
        for _ in range(3):
            at.at += DAY_SECONDS + 10
            await renewal.check()
            token = cluster.connection.access.token
            assert token is not None
            assert token.ends == pytest.approx(at.at + 30 * DAY_SECONDS, abs=2)


@pytest.mark.parametrize("content", ["", "nonsense", "a.b.c", "\0\xff", None])
async def test_a_kept_token_that_is_damaged_or_another_accounts_is_not_used(at: Place, content: str | None) -> None:
    at.token_file.write_text(at.issue(30 * DAY_SECONDS, account="other") if content is None else content)
    own = at.issue()
    async with at.connected(own) as (cluster, _):
        assert used(cluster) == own


async def test_without_the_right_it_is_said_in_time_that_the_token_will_end(
    at: Place, caplog: pytest.LogCaptureFixture
) -> None:
    at.wire.on("POST", REQUEST, *[FORBIDDEN] * 4)
    async with at.connected(at.issue()) as (cluster, renewal):
        access = cluster.connection.access
        await renewal.check()
        assert expiry_remark(access, at.at) == ""
        at.at += HOUR / 2 + 1
        assert await renewal.check() <= 60
        said = expiry_remark(access, at.at)
        assert said.startswith("stackd's token for the cluster expires on ")
        why = "Kubernetes rejected stackd's credentials or permissions (run `stackd doctor`)"
        assert f"cannot be renewed: {why}: it has no right to get serviceaccounts/token" in said
        for _ in range(3):
            await renewal.check()
        assert len([one for one in caplog.messages if "cannot be renewed, it is good until" in one]) == 1
        assert caplog.messages.count(said) == 1
        at.at += HOUR / 2
        assert "expired on " in expiry_remark(access, at.at)


async def test_a_cluster_that_is_away_is_asked_again_until_it_is_back(at: Place) -> None:
    first = at.issue()
    at.wire.on("POST", REQUEST, *[loses()] * 99)
    async with at.connected(first) as (cluster, renewal):
        at.at += HOUR / 2 + 1
        cluster.target = replace(cluster.target, timeout=0.1)
        assert await renewal.check() <= 60
        assert expiry_remark(cluster.connection.access, at.at) != ""
        at.wire.forget("POST", REQUEST)
        at.wire.on("POST", REQUEST, at.renews())
        await renewal.check()
        assert used(cluster) != first
        assert expiry_remark(cluster.connection.access, at.at) == ""


async def test_a_cluster_that_issues_shorter_ones_only_does_not_shorten_the_time_that_is_left(at: Place) -> None:
    first = at.issue(30 * DAY_SECONDS)
    at.wire.on("POST", REQUEST, *[at.renews(longest=DAY_SECONDS)] * 2)
    async with at.connected(first) as (cluster, renewal):
        for passes, asked in ((DAY_SECONDS + 1, 1), (27 * DAY_SECONDS, 1), (1.6 * DAY_SECONDS, 2)):
            assert used(cluster) == first
            at.at += passes
            await renewal.check()
            assert len(at.wire.asked("POST", REQUEST)) == asked
        assert used(cluster) != first


@pytest.mark.parametrize("kind", ["static", "file", "plugin"])
async def test_what_does_not_end_or_is_renewed_by_others_is_left_alone(at: Place, kind: str) -> None:
    source = at.folder / "token"
    source.write_text(at.issue(600))
    users: dict[str, dict[str, Any]] = {
        "static": {"token": "admin"},
        "file": {"tokenFile": str(source)},
        "plugin": plugin(at.folder, source),
    }
    async with at.connected(**users[kind]) as (cluster, renewal):
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
        said = expiry_remark(access, end - 13 * DAY_SECONDS)
        assert said == f"the kubeconfig's client certificate expires on {utc_minute(end)}; {REMEDY}"
        assert "expired on" in expiry_remark(access, end + 1)


def test_a_token_is_not_shown(at: Place) -> None:
    text = at.issue()
    token = read_token(text)
    assert token is not None
    assert text not in repr(token)
