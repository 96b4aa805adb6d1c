"""What tests of the API read of stacks, and what a cluster answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stackd.clock import NANOSECONDS, SystemClock, to_nanoseconds
from tests.harness import Harness


def life(stack: dict[str, Any]) -> float:
    """Seconds from the creation to the end."""
    return (to_nanoseconds(stack["ttl_expires_at"]) - to_nanoseconds(stack["created_at"])) / 10**9


async def noted_end(at: Harness, stack_id: str) -> str:
    return str((await at.objects("services"))[f"svc-{stack_id}"]["metadata"]["annotations"]["stackd.io/expires-at"])


async def uid(at: Harness, stack_id: str) -> str | None:
    pod = (await at.objects("pods")).get(stack_id)
    return None if pod is None else str(pod["metadata"]["uid"])


OTHER = (
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
