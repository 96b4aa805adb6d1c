"""What tests of the API read of stacks, and what a cluster answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stackd.clock import NANOSECONDS, SystemClock, to_nanoseconds
from stackd.keys import digest
from tests.document import matches
from tests.harness import Client, Harness, Reply, request_for, seed, until
from tests.templates import PLAIN


def life(stack: dict[str, Any]) -> float:
    return (to_nanoseconds(stack["ttl_expires_at"]) - to_nanoseconds(stack["created_at"])) / 10**9


async def noted_end(at: Harness, stack_id: str) -> str:
    return str((await at.objects("services"))[f"svc-{stack_id}"]["metadata"]["annotations"]["stackd.io/expires-at"])


async def uid(at: Harness, stack_id: str) -> str | None:
    pod = (await at.objects("pods")).get(stack_id)
    return None if pod is None else str(pod["metadata"]["uid"])


OTHER_CLUSTER = (
    '{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"kube-system","uid":"another","resourceVersion":"3"},'
    '"status":{"phase":"Active"}}'
)
CASES = json.loads((Path(__file__).parents[1] / "unit" / "podspec" / "cases.json").read_text())
SEED = next(case for case in CASES if case["name"] == "seed")


class SetBack(SystemClock):
    """The machine's wall clock is set back ``by`` seconds."""

    by = 0.0

    def now(self) -> int:
        return super().now() - round(self.by * NANOSECONDS)


async def submit(
    at: Harness | Client, each: Any, *, query: str = "", headers: dict[str, str] | None = None, **more: Any
) -> Reply:
    body = {"action": "create", "template": "web-1", "each": each} | more
    return await at.call("POST", f"/stacks/batch{query}", body, headers=headers or {})


async def finished(at: Harness | Client, reply: Reply) -> dict[str, Any]:
    """The job with its results."""
    assert reply.status == 202, reply.text
    path = f"/stacks/batch/{reply.json['job_id']}?results=true"
    job: dict[str, Any] = await until(lambda: at.get(path), lambda seen: seen["status"] in ("completed", "failed"))
    matches("BatchJob", job)
    assert job["total"] == reply.json["total"] == job["done"] + job["failed"] == len(job["results"])
    assert [one["index"] for one in job["results"]] == list(range(job["total"]))
    return job


CI = "sk-ci-0123456789abcdef0123"
USER = "sk-user-0123456789abcdef01"
OTHER = "sk-other-0123456789abcdef0"
POOLED = PLAIN + "pool: 2\n"


def config(folder: Path, limits: str = "") -> Path:
    """A configuration with three tenants: ``ci`` and ``other`` write templates of the same names, ``user`` does not."""
    path = folder / "config.toml"
    entry = '[[auth.keys]]\nname = "{0}"\nsha256 = "{1}"\nscope = "tenant"\nlabels = {{ event = "{0}" }}\n'
    writers = (("ci", CI), ("other", OTHER))
    writes = 'templates = ["web-*"]\ntemplates_write = true\npod_specs = false\n'
    keys = [entry.format(name, digest(key).hex()) + writes for name, key in writers]
    path.write_text("".join(keys) + entry.format("user", digest(USER).hex()) + f"[limits]\n{limits}\n")
    return path


async def put(at: Client, name: str, text: str, query: str = "") -> Reply:
    return await at.call("PUT", f"/templates/{name}{query}", text.encode())


LISTENS = "      ports:\n        - containerPort: 80\n          protocol: TCP"


def pod_of(image: str = "nginx:stable", port: int | None = 5432) -> str:
    text: str = request_for(image)["pod_spec"]
    declared = "" if port is None else LISTENS.replace("80", str(port))
    return text.replace(LISTENS, declared)


def three(**members: str) -> dict[str, Any]:
    pods = {"db": pod_of(), "mail": pod_of(port=None)} | members
    return seed() | {"members": {name: {"pod_spec": text} for name, text in pods.items()}}
