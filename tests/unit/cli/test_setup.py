"""``stackd setup``: from a configuration to a first stack, against an embedded cluster with access rights."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from stackd.cli import setup as kubeconfigs
from stackd.cli import stackd
from stackd.config import load
from stackd.daemon import running
from stackd.embedded import EmbeddedCluster, NodeSpec, Rule, User
from stackd.embedded.resources import ALL, EVENTS, LEASES, Json
from stackd.embedded.store import Key
from stackd.kube.labels import SPARE
from tests.harness import fast_cluster
from tests.ports import free_port
from tests.provisioning import ADMIN, ask

ARENA = "/api/v1/namespaces/arena"
ANY = frozenset({"*"})
READS = Rule(verbs=frozenset({"get", "list"}), resources=ANY, groups=ANY)
LIMITS = Rule(verbs=frozenset({"create"}), resources=frozenset({"limitranges"}), groups=ANY)
READER = User(token="reader", name="reader", rules=(READS, LIMITS))
OF_ARENA = User(token="arena", name="arena", rules=(Rule(verbs=ANY, resources=ANY, groups=ANY, namespace="arena"),))
WORKERS = (NodeSpec(name="one", labels={}), NodeSpec(name="two", labels={}))


@dataclass(slots=True, kw_only=True)
class Site:
    """A machine with only a configuration, and a cluster with only nodes."""

    folder: Path
    cluster: EmbeddedCluster

    @property
    def config(self) -> Path:
        return self.folder / "etc/config.toml"

    def beside(self, name: str) -> Path:
        return self.config.with_name(name)

    async def setup(self, *words: str, stdin: str | None = None, admin: str | None = "admin") -> Result:
        """Run the command with this cluster user's kubeconfig, if any, and return its result."""
        given = ["setup", "--config", str(self.config)]
        if admin is not None:
            self.cluster.write_kubeconfig(self.folder / "admin", token=admin)
            given += ["--admin-kubeconfig", str(self.folder / "admin")]
        return await self.run(*given, *words, stdin=stdin)

    async def run(self, *words: str, stdin: str | None = None) -> Result:
        """Run a command and return its result."""
        result = await asyncio.to_thread(CliRunner().invoke, stackd, [*words], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare_environment: None) -> AsyncIterator[Site]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(kubeconfigs, "USUAL", ())
    async with EmbeddedCluster(fast_cluster(users=(ADMIN, READER, OF_ARENA), nodes=WORKERS)) as cluster:
        made = Site(folder=tmp_path, cluster=cluster)
        made.config.parent.mkdir()
        made.config.write_text(
            f'[server]\nport = {free_port()}\n[state]\npath = "{tmp_path}/stackd.db"\n[stacks]\nnamespace = "arena"\n'
        )
        yield made


STATE_OF_STEP = re.compile(
    r"^(ok|to do|by hand|done|failed) +(key|links|cluster|kubeconfig|nodes|service|first stack)", re.MULTILINE
)


def states(result: Result) -> dict[str, str]:
    """The last state that was printed of each step."""
    return {step: state for state, step in STATE_OF_STEP.findall(result.stdout.partition("stackd doctor:")[0])}


async def test_it_leads_from_a_configuration_to_a_first_stack(site: Site) -> None:
    first = await site.setup("--yes", "--node", "one")
    steps = dict.fromkeys(("key", "links", "cluster", "kubeconfig", "nodes"), "done")
    assert states(first) == steps | {"service": "by hand", "first stack": "to do"}
    assert first.exit_code == 1
    assert f"stackd serve --config {site.config}" in first.stdout
    for name in ("api-key", "play-secret", "kubeconfig"):
        assert stat.S_IMODE(site.beside(name).stat().st_mode) == 0o600
        assert not (secrets(site) & set(first.stdout.split()))
    async with running(load(site.config, {}, site.config.parent)) as daemon:
        await daemon.ready.wait()
        second = await site.setup("--yes", "--image", "registry.example/run", "--port", "8080")
        assert states(second) == dict.fromkeys(states(first), "ok") | {"first stack": "done"}
        assert second.exit_code == 0, second.stdout
        assert "0 failures" in second.stdout
        before = objects(site)
        third = await site.setup("--yes")
        assert set(states(third).values()) == {"ok"}
        assert third.exit_code == 0
    assert objects(site) == before


def objects(site: Site) -> dict[tuple[str, Key], Json]:
    """What is in the cluster, without events, Leases, versions, statuses, and spare Services, of which stackd makes more."""
    kinds = (one for one in ALL if one not in (EVENTS, LEASES))
    found = {(kind.plural, key): one.obj for kind in kinds for key, one in site.cluster.store.of(kind).records.items()}
    without: Json = {"status": None}
    return {
        name: one | without | {"metadata": one["metadata"] | {"resourceVersion": None}}
        for name, one in found.items()
        if SPARE not in one["metadata"].get("labels", {})
    }


def secrets(site: Site) -> set[str]:
    """The secrets that no output may contain."""
    token = yaml.safe_load(site.beside("kubeconfig").read_text())["users"][0]["user"]["token"]
    return {*(site.beside(name).read_text().strip() for name in ("api-key", "play-secret")), token}


async def test_without_a_yes_to_the_plan_nothing_is_done(site: Site) -> None:
    for words, stdin in (((), "n\n"), ((), ""), (("--plan",), None)):
        before = objects(site)
        result = await site.setup("--node", "one", *words, stdin=stdin)
        assert result.exit_code == 1
        assert "create Namespace arena" in result.stdout
        assert "done" not in states(result).values()
        assert objects(site) == before
        assert [file.name for file in site.config.parent.iterdir()] == ["config.toml"]
        assert ("Do this?" in result.stdout) is (stdin is not None)
    assert states(await site.setup("--node", "one", stdin="y\n"))["nodes"] == "done"


async def test_what_was_changed_in_the_cluster_is_put_right(site: Site) -> None:
    await site.setup("--yes", "--node", "one")
    quota, changed = f"{ARENA}/resourcequotas/stacks", {"spec": {"hard": {"pods": "3", "secrets": "0"}}}
    await ask(site.cluster, "PATCH", ARENA, {"metadata": {"labels": {"team": "a"}}})
    await ask(site.cluster, "PATCH", quota, changed)
    result = await site.setup("--yes", "--node", "one", "--dns")
    assert "create NetworkPolicy stacks-to-dns in arena" in result.stdout
    assert "change ResourceQuota stacks in arena (spec.hard.pods)" in result.stdout
    assert "Namespace" not in result.stdout
    hard = (await ask(site.cluster, "GET", quota))["spec"]["hard"]
    assert (hard["pods"], hard["secrets"]) == ("1767", "0")


async def test_the_kubeconfig_that_the_configuration_names_is_made_where_it_is_missing(site: Site) -> None:
    named = site.folder / "named"
    with site.config.open("a") as config:
        config.write(f'[cluster]\nkubeconfig = "{named}"\n')
    result = await site.setup("--yes", "--node", "one", "--no-first-stack")
    assert states(result)["kubeconfig"] == "done", result.stdout
    text = named.read_text()
    assert not site.beside("kubeconfig").exists()
    result = await site.setup("--yes", "--no-first-stack")
    assert (states(result)["kubeconfig"], named.read_text()) == ("ok", text)


async def test_who_lacks_a_right_gets_its_name_or_the_commands(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    result = await site.setup("--yes", "--node", "one", admin="reader")
    assert (result.exit_code, states(result)["cluster"]) == (1, "failed")
    assert "no right to create namespaces" in result.stdout
    assert "stackd's credentials" not in result.stdout, "it is the administrator's account"
    assert not site.beside("kubeconfig").exists()
    site.cluster.faults.add_fault(verb="create", resource="limitranges", action="cut")
    cut = await site.setup("--yes", "--node", "one", admin="reader")
    assert (cut.exit_code, "no right to create" in cut.stdout) == (1, False), cut.stdout
    site.cluster.faults.clear()
    for name in ("api-key", "play-secret"):
        site.beside(name).unlink()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: False if mode == os.W_OK else access(path, mode))
    result = await site.setup("--yes", "--node", "one")
    assert result.exit_code == 1
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert f"(umask 077; openssl rand -hex 32 > {site.beside('play-secret')})" in lines
    assert {"stackd manifests | kubectl apply -f -", "kubectl label node one role=stack"} <= {*lines}
    assert [file.name for file in site.config.parent.iterdir()] == ["config.toml"]


async def test_a_refused_kubeconfig_of_stackds_is_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.cluster.write_kubeconfig(site.folder / "own", token="admin")
    monkeypatch.setenv("KUBECONFIG", str(site.folder / "own"))
    result = await site.setup("--yes", "--node", "one", admin=None)
    assert f"administrator  {site.folder / 'own'}" in result.stdout
    assert states(result)["kubeconfig"] == "done"
    text = site.beside("kubeconfig").read_text()
    site.beside("kubeconfig").write_text(text.replace("token: ", "token: x"))
    result = await site.setup("--yes", "--node", "one")
    assert (states(result)["kubeconfig"], "not accepted" in result.stdout) == ("done", True)


async def test_the_administrator_of_a_namespace_does_what_may_be_done_and_hears_of_the_rest(site: Site) -> None:
    refused = await site.setup("--yes", admin="arena")
    assert states(refused)["cluster"] == "failed"
    assert "have a cluster administrator run `stackd manifests" in refused.stdout
    await ask(site.cluster, "POST", "/api/v1/namespaces", {"metadata": {"name": "arena"}})
    site.config.write_text(f'{site.config.read_text()}node_selector = {{}}\n[cluster]\nrights = "namespace"\n')
    done = await site.setup("--yes", admin="arena")
    steps = {"cluster": "done", "kubeconfig": "done", "nodes": "ok"}
    assert {step: state for step, state in states(done).items() if step in steps} == steps
    async with running(load(site.config, {}, site.config.parent)) as daemon:
        await daemon.ready.wait()
