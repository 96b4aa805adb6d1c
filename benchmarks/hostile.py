"""One link or one tenant against everybody else: how long its costliest requests make a second client wait, and how much
memory they leave. The second client polls /healthz and creates a stack a second.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import yaml
from msgspec import json

from benchmarks.arena import BODY, PORTS, Bench, Http
from benchmarks.results import Goal
from stackd.keys import digest
from stackd.web.examples import POD_SPEC

TENANT = "sk-bench-tenant-0123456789abcdef"
SECRET = "bench-0123456789abcdef0123456789abcdef"
POD: dict[str, Any] = yaml.safe_load(POD_SPEC)
TEMPLATES = 40
AT_ONCE = 8
CONNECTIONS = 250
SECONDS = 60.0
WAIT = Goal("another client waits", "the longest of /healthz and a create", 1.0, "s")
GROWTH = Goal("memory grows", "at most, while it lasts and for 2 s", 80.0, "MB")


def settings(folder: Path) -> dict[str, str]:
    """A tenant that writes templates, links, and the templates of others."""
    for number in range(TEMPLATES):
        text = json.encode({"target_port": PORTS, "pod": POD})
        (folder / f"a-lab-with-a-rather-long-name-{number}.yaml").write_bytes(text)
    tenant = {"name": "tenant", "sha256": digest(TENANT).hex(), "scope": "tenant", "labels": {"event": "a"}}
    return {
        "STACKD_AUTH__KEYS": json.encode([{**tenant, "templates": ["team-*"], "templates_write": True}]).decode(),
        "STACKD_TEMPLATES__DIRECTORY": str(folder),
        "STACKD_PLAY__URL": "http://bench.example",
        "STACKD_PLAY__SECRET": SECRET,
    }


@dataclass(slots=True)
class Neighbour:
    """The second client, and the longest that it has waited so far, in seconds."""

    bench: Bench
    waited: float = 0.0
    memory: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def poll(self) -> None:
        while not self.ended.wait(0.02):
            self._timed("GET", "/healthz")
            self.memory = max(self.memory, self.bench.daemon.process.memory())

    def create(self) -> None:
        while not self.ended.wait(1.0):
            stack_id = json.decode(self._timed("POST", "/stacks", BODY))["stack_id"]
            self.bench.daemon.call("DELETE", f"/stacks/{stack_id}")

    def _timed(self, *request: str) -> bytes:
        began = time.perf_counter()
        try:
            status, answer = self.bench.daemon.call(*request)
        finally:  # without an answer, too
            self.waited = max(self.waited, time.perf_counter() - began)
        if status >= 300:
            raise RuntimeError(f"{request[:2]}: {status} {answer.decode()[:300]}")
        return answer


@contextmanager
def neighbour(bench: Bench) -> Iterator[Neighbour]:
    """The second client, at work since a second when the block begins and until two seconds after it."""
    client = Neighbour(bench)
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(client.poll), pool.submit(client.create)]
        try:
            time.sleep(1.5)
            client.waited = 0.0
            yield client
            time.sleep(2.0)
        finally:
            client.ended.set()
    for task in tasks:
        task.result()


def hostile(bench: Bench) -> None:
    """Each attack by itself; a daemon that was restarted has no memory of the one before."""
    for attack in ATTACKS:
        bench.daemon.restart()
        bench.daemon.call("GET", "/templates")
        before = bench.daemon.process.memory()
        with neighbour(bench) as client:
            note = attack(bench)
        name = (attack.__doc__ or "").rstrip(".")
        bench.results.add(replace(WAIT, name=f"{WAIT.name}: {name}"), client.waited, note=note)
        bench.results.add(replace(GROWTH, name=f"{GROWTH.name}: {name}"), (client.memory - before) / 1e6, note=note)


def star_globs(bench: Bench) -> str:
    """The page of a player whose link has patterns of stars, a hundred times."""
    daemon = bench.daemon
    link = daemon.json("POST", "/links", {"labels": {"player": "1"}, "templates": ["**" * 30 + "x", "*-" * 30 + "x"]})
    token = link["url"].partition("#")[2]
    own = {"X-Play": "1", "Content-Type": "application/json"}
    opened = Request(f"{daemon.url}/play/session", json.encode({"token": token}), own, method="POST")
    with urlopen(opened, timeout=SECONDS) as answered:
        own["Cookie"] = answered.headers["Set-Cookie"].partition(";")[0]
    for _ in range(100):
        with urlopen(Request(f"{daemon.url}/play/stacks", headers=own), timeout=SECONDS) as answered:
            answered.read()
    return f"{answered.status}"


def env_patterns(bench: Bench) -> str:
    """Dry runs of templates with the costliest patterns, and of creates with their values."""
    costliest = ("(?:(?:[^a]{0000000099}){0000000099}){ 9 }", "(?:(?:.{ 99 }){ 99 }){ 2 }", "(?:" + "." * 80 + "){25}")
    envs = [{f"A{n}": {"pattern": each + "x" * n} for n in range(count)} for each in costliest for count in (16, 4)]
    note = _puts(bench, ({"env": env} for env in envs))
    tenant = Http(bench.daemon.url, TENANT)
    for at in range(AT_ONCE):
        _put(
            tenant,
            f"team-env-{at}",
            {"env": {f"A{n}": {"pattern": f"[ab]*a[ab]{{4{at}}}{'b' * n}"} for n in range(16)}},
        )
    for number in range(AT_ONCE * AT_ONCE):
        env = {f"A{n}": f"{number * 1000003 + n:0240b}".replace("0", "a").replace("1", "b") for n in range(16)}
        body = json.encode({"template": f"team-env-{number % AT_ONCE}", "env": env}).decode()
        tenant.call("POST", "/stacks?dry_run=1", body)
    return note


def generated_values(bench: Bench) -> str:
    """Creates, eight at once, of a template with as many generated bytes as there may be, in sixteen containers."""
    tenant = Http(bench.daemon.url, TENANT)
    container = POD["spec"]["containers"][0]
    others = [{**container, "name": f"other-{n}", "ports": []} for n in range(15)]
    pod = {**POD, "spec": {**POD["spec"], "containers": [container, *others]}}
    values = {f"A{n}": "<hex:64>" + "$" * 60 for n in range(32)}
    refused = _put(tenant, "team-values", {"values": dict.fromkeys(values, "<hex:256>" * 113), "pod": pod})
    status = refused if refused < 300 else _put(tenant, "team-values", {"values": values, "pod": pod})
    body = json.encode({"template": "team-values"}).decode()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = list(pool.map(lambda _: tenant.call("POST", "/stacks", body)[0], range(AT_ONCE * 3)))
    bench.daemon.delete(tenant.ids())
    return f"925 KB: {refused}; 4 KB: {status}; creates: {sorted(set(made))}"


def unknown_fields(bench: Bench) -> str:
    """Templates of unknown fields only."""
    return _puts(bench, ({f"unknown-field-{n}-{at}": 1 for n in range(4000)} for at in range(AT_ONCE)))


def many_links(bench: Bench) -> str:
    """The list of 5,000 links, eight times."""
    tenant = Http(bench.daemon.url, TENANT)
    missing = 5000 - len(tenant.json("GET", "/links")["links"])
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: tenant.json("POST", "/links", {"labels": {"player": str(n)}}), range(missing)))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sizes = list(pool.map(lambda _: len(tenant.call("GET", "/links")[1]), range(AT_ONCE)))
    return f"{max(sizes):,} bytes"


def tiny_chunks(bench: Bench) -> str:
    """Bodies in chunks of 5 bytes, on 250 connections."""
    where = urlsplit(bench.daemon.url)
    head = f"POST /stacks HTTP/1.1\r\nHost: a\r\nX-API-KEY: {TENANT}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    body = b"5\r\n     \r\n" * 200_000
    with ExitStack() as clients, ThreadPoolExecutor(CONNECTIONS) as pool:
        addresses = [(where.hostname, where.port)] * CONNECTIONS
        opened = [clients.enter_context(socket.create_connection(address)) for address in addresses]
        sent = sum(pool.map(lambda client: _sent(client, head + body), opened))
    return f"{sent / 1e6:.0f} MB sent"


def _sent(client: socket.socket, data: bytes) -> int:
    """How much the server takes of it."""
    sent = 0
    with suppress(OSError):
        while sent < len(data):
            sent += client.send(data[sent : sent + 65536])
    return sent


def _puts(bench: Bench, templates: Iterator[dict[str, Any]]) -> str:
    tenant = Http(bench.daemon.url, TENANT)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = [pool.submit(_put, tenant, f"team-{at}", one, dry=True) for at, one in enumerate(templates)]
        return f"{sorted({each.result() for each in made})}"


def _put(tenant: Http, name: str, fields: dict[str, Any], *, dry: bool = False) -> int:
    text = json.encode({"target_port": PORTS, "pod": POD, **fields}).decode()
    return tenant.call("PUT", f"/templates/{name}{'?dry_run=1' if dry else ''}", text)[0]


ATTACKS: tuple[Callable[[Bench], str], ...] = (
    star_globs,
    env_patterns,
    generated_values,
    unknown_fields,
    many_links,
    tiny_chunks,
)
