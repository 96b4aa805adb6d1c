"""The token of stackd's service account: renewed in time, kept over a restart, and reported if the renewal fails."""

from __future__ import annotations

import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from stackd.clock import DAY_SECONDS, utc_minute
from stackd.embedded import EmbeddedCluster, ManualClock, Rule, User, everything
from stackd.errors import ClusterUnavailable
from stackd.kube.access import REMEDY, Renewal, expiry_remark
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget, read_token
from tests.certificates import HAVE_OPENSSL, authority
from tests.harness import fast_cluster
from tests.kube.test_credentials import kubeconfig, plugin

HOUR = 3600
READ = Rule(verbs=frozenset({"get"}), resources=frozenset({"namespaces"}))
RENEW = Rule(
    verbs=frozenset({"create"}),
    resources=frozenset({"serviceaccounts/token"}),
    names=frozenset({"own"}),
    namespace="sys",
)
ADMIN = User(token="admin", name="admin", rules=(everything(),))


class Time:
    """One time for stackd and the cluster; it only advances."""

    def __init__(self) -> None:
        self.cluster = ManualClock(start=time.time())

    def now(self) -> int:
        return round(self.cluster.now() * 1e9)

    def monotonic(self) -> float:
        return self.cluster.now()

    def pass_by(self, seconds: float) -> None:
        self.cluster.advance(seconds)


@dataclass(slots=True, kw_only=True)
class Place:
    cluster: EmbeddedCluster
    time: Time
    folder: Path

    def issue(self, seconds: float = HOUR, account: str = "own") -> str:
        return self.cluster.accounts.issue("sys", account, seconds)

    @property
    def token_file(self) -> Path:
        return self.folder / "state.token"

    @asynccontextmanager
    async def connected(self, token: str = "", **user: str) -> AsyncIterator[Cluster]:
        path = kubeconfig(self.folder / "kubeconfig", self.cluster.url, user or {"token": token})
        target = ClusterTarget(
            mode="kubeconfig", kubeconfig=str(path), token_file=str(self.token_file), reload_interval=0, timeout=1
        )
        cluster = await Cluster.connect(target)
        try:
            yield cluster
        finally:
            await cluster.close()

    def now(self) -> float:
        return self.time.cluster.now()


@asynccontextmanager
async def place(folder: Path, *rules: Rule) -> AsyncIterator[Place]:
    clock = Time()
    account = User(token="", name="system:serviceaccount:sys:own", rules=rules)
    options = fast_cluster(users=(ADMIN, account), clock=clock.cluster)
    async with EmbeddedCluster(options) as cluster:
        yield Place(cluster=cluster, time=clock, folder=folder)


def used(cluster: Cluster) -> str:
    token = cluster.connection.access.token
    assert token is not None
    return token.text


def renewal_of(cluster: Cluster, at: Place) -> Renewal:
    return Renewal(cluster.connection.access, cluster.answer, at.time)


async def test_a_token_is_renewed_with_half_of_its_time_left_and_not_before(tmp_path: Path) -> None:
    async with place(tmp_path, READ, RENEW) as at:
        first = at.issue()
        async with at.connected(first) as cluster:
            keeping = renewal_of(cluster, at)
            at.time.pass_by(HOUR / 2 - 10)
            await keeping.check()
            assert used(cluster) == first
            at.time.pass_by(20)
            await keeping.check()
            second = used(cluster)
            assert second != first
            at.time.pass_by(HOUR / 2)  # the first token has expired
            assert await cluster.cluster_uid()
            assert cluster.counts["get", "namespaces", "401"] == 0
            assert at.token_file.read_text().strip() == second
            assert stat.S_IMODE(at.token_file.stat().st_mode) == 0o600
            assert not list(tmp_path.glob("*.new"))


async def test_a_token_that_is_good_for_a_month_is_renewed_every_day(tmp_path: Path) -> None:
    async with place(tmp_path, READ, RENEW) as at, at.connected(at.issue(30 * DAY_SECONDS)) as cluster:
        keeping = renewal_of(cluster, at)
        for _ in range(3):
            before = cluster.connection.access.token
            at.time.pass_by(DAY_SECONDS + 10)
            await keeping.check()
            after = cluster.connection.access.token
            assert before is not None
            assert after is not None
            assert after.ends == pytest.approx(before.ends + DAY_SECONDS + 10, abs=2)


async def test_a_renewed_token_is_used_after_a_restart_when_the_kubeconfigs_own_has_ended(tmp_path: Path) -> None:
    async with place(tmp_path, READ, RENEW) as at:
        first = at.issue()
        async with at.connected(first) as cluster:
            at.time.pass_by(HOUR / 2 + 10)
            await renewal_of(cluster, at).check()
            renewed = used(cluster)
        at.time.pass_by(HOUR / 2)
        async with at.connected(first) as cluster:
            assert used(cluster) == renewed
            assert await cluster.cluster_uid()


async def test_a_kept_token_of_another_account_is_not_used(tmp_path: Path) -> None:
    async with place(tmp_path, READ, RENEW) as at:
        at.token_file.write_text(at.issue(30 * DAY_SECONDS, account="other"))
        own = at.issue()
        async with at.connected(own) as cluster:
            assert used(cluster) == own


@pytest.mark.parametrize("content", ["", "nonsense", "a.b.c", "\0\xff"])
async def test_a_kept_token_that_is_damaged_is_not_used(tmp_path: Path, content: str) -> None:
    async with place(tmp_path, READ, RENEW) as at:
        at.token_file.write_text(content)
        own = at.issue()
        async with at.connected(own) as cluster:
            assert used(cluster) == own


async def test_a_renewed_token_that_is_refused_gives_way_to_the_kubeconfigs(tmp_path: Path) -> None:
    async with place(tmp_path, READ, RENEW) as at:
        first = at.issue()
        async with at.connected(first) as cluster:
            at.time.pass_by(HOUR / 2 + 10)
            await renewal_of(cluster, at).check()
            at.cluster.faults.expire_token(used(cluster))
            assert await cluster.cluster_uid()
            assert used(cluster) == first


async def test_a_token_in_the_kubeconfig_that_was_replaced_is_taken_after_a_401(tmp_path: Path) -> None:
    async with place(tmp_path, READ) as at, at.connected(at.issue(600)) as cluster:
        at.time.pass_by(601)
        with pytest.raises(ClusterUnavailable, match="401"):
            await cluster.cluster_uid()
        fresh = at.issue()
        kubeconfig(tmp_path / "kubeconfig", at.cluster.url, {"token": fresh})
        assert await cluster.cluster_uid()
        assert used(cluster) == fresh


async def test_without_the_right_it_is_said_in_time_that_the_token_will_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with place(tmp_path, READ) as at, at.connected(at.issue()) as cluster:
        keeping, access = renewal_of(cluster, at), cluster.connection.access
        await keeping.check()
        assert expiry_remark(access, at.now()) == ""
        at.time.pass_by(HOUR / 2 + 1)
        assert await keeping.check() <= 60
        said = expiry_remark(access, at.now())
        assert said.startswith("stackd's token for the cluster expires on ")
        why = "Kubernetes rejected stackd's credentials or permissions (run `stackd doctor`)"
        assert f"cannot be renewed: {why}: it has no right to create serviceaccounts" in said
        for _ in range(3):
            await keeping.check()
        assert len([one for one in caplog.messages if "cannot be renewed, it is good until" in one]) == 1
        assert caplog.messages.count(said) == 1
        at.time.pass_by(HOUR / 2)
        assert "expired on " in expiry_remark(access, at.now())


async def test_a_cluster_that_is_away_is_asked_again_until_it_is_back(tmp_path: Path) -> None:
    async with place(tmp_path, READ, RENEW) as at:
        first = at.issue()
        async with at.connected(first) as cluster:
            keeping = renewal_of(cluster, at)
            at.time.pass_by(HOUR / 2 + 1)
            at.cluster.faults.add_fault(action="status", code=500)
            assert await keeping.check() <= 60
            at.cluster.faults.clear()
            await keeping.check()
            assert used(cluster) != first
            assert expiry_remark(cluster.connection.access, at.now()) == ""


async def test_a_cluster_that_issues_shorter_ones_only_does_not_shorten_the_time_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place(tmp_path, READ, RENEW) as at:
        first = at.issue(30 * DAY_SECONDS)
        issue = at.cluster.accounts.issue
        monkeypatch.setattr(
            type(at.cluster.accounts), "issue", lambda _, space, name, __: issue(space, name, DAY_SECONDS)
        )
        async with at.connected(first) as cluster:
            keeping = renewal_of(cluster, at)
            at.time.pass_by(DAY_SECONDS + 1)
            await keeping.check()
            assert used(cluster) == first
            asked = cluster.counts["create", "serviceaccounts/token", "201"]
            at.time.pass_by(27 * DAY_SECONDS)
            await keeping.check()
            assert (used(cluster), cluster.counts["create", "serviceaccounts/token", "201"]) == (first, asked)
            at.time.pass_by(1.6 * DAY_SECONDS)
            await keeping.check()
            assert used(cluster) != first


@pytest.mark.parametrize("kind", ["static", "file", "plugin"])
async def test_what_does_not_end_or_is_renewed_by_others_is_left_alone(tmp_path: Path, kind: str) -> None:
    async with place(tmp_path, READ, RENEW) as at:
        (tmp_path / "token").write_text(at.issue(600))
        users: dict[str, Callable[[], dict[str, str]]] = {
            "static": lambda: {"token": "admin"},
            "file": lambda: {"tokenFile": str(tmp_path / "token")},
            "plugin": lambda: plugin(tmp_path, tmp_path / "token"),
        }
        async with at.connected(**users[kind]()) as cluster:
            at.time.pass_by(500)
            await renewal_of(cluster, at).check()
            assert cluster.connection.access.expiry is None
            assert cluster.counts["create", "serviceaccounts/token", "201"] == 0


@pytest.mark.skipif(not HAVE_OPENSSL, reason="certificates are made with openssl")
async def test_a_client_certificate_that_ends_is_told_two_weeks_before(tmp_path: Path) -> None:
    pair = authority(tmp_path)
    user = {"client-certificate": str(pair.cert), "client-key": str(pair.key)}
    path = kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", user)
    cluster = await Cluster.connect(ClusterTarget(mode="kubeconfig", kubeconfig=str(path)))
    access = cluster.connection.access
    await cluster.close()
    assert access.expiry is not None
    end = access.expiry.at
    assert expiry_remark(access, end - 15 * DAY_SECONDS) == ""
    said = expiry_remark(access, end - 13 * DAY_SECONDS)
    assert said == f"the kubeconfig's client certificate expires on {utc_minute(end)}; {REMEDY}"
    assert "expired on" in expiry_remark(access, end + 1)


def test_a_token_is_not_shown() -> None:
    claims = '{"iss":"i","iat":1,"exp":2,"kubernetes.io":{"namespace":"n","serviceaccount":{"name":"a","uid":"u"}}}'
    import base64

    text = f"head.{base64.urlsafe_b64encode(claims.encode()).decode().rstrip('=')}.tail"
    token = read_token(text)
    assert token is not None
    assert text not in repr(token)
