"""What no JSON Schema can say: a pod spec declares the ports that are to be published, a cursor is the API's own.

Loaded by schemathesis (SCHEMATHESIS_HOOKS).
"""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies

STANDS_FOR_A_POD_SPEC = "a pod spec"
FIELDS = ("stack_id", "status", "node_id", "ports", "labels", "created_at")

schemathesis.openapi.format("stackd-pod-spec", strategies.just(STANDS_FOR_A_POD_SPEC))
schemathesis.openapi.format("stackd-duration", strategies.sampled_from(("1s", "5m", "90s", "0.5h", "1m30s")))
schemathesis.openapi.format("stackd-label", strategies.sampled_from(("team", "team=7", "player=", "a.b_c-d=E.F")))
schemathesis.openapi.format("stackd-cursor", strategies.just(""))
schemathesis.openapi.format(
    "stackd-fields", strategies.lists(strategies.sampled_from(FIELDS), min_size=1).map(",".join)
)


@schemathesis.hook
def before_call(context: object, case: Any, kwargs: dict[str, Any]) -> None:
    """Put a pod in the place of the text that stands for one."""
    body = case.body
    if isinstance(body, dict) and body.get("pod_spec") == STANDS_FOR_A_POD_SPEC:
        ports = [port for port in _listed(body.get("target_port")) if isinstance(port, dict)]
        case.body = {**body, "pod_spec": pod_spec(ports)}


def pod_spec(ports: list[dict[str, Any]]) -> str:
    """A small pod that declares these ports."""
    declared = "".join(
        f"\n        - {{containerPort: {port.get('container_port')}, protocol: {port.get('protocol')}}}"
        for port in ports
    )
    return f"""apiVersion: v1
kind: Pod
metadata:
  name: challenge
spec:
  containers:
    - name: app
      image: nginx:stable
      ports:{declared or " []"}
      resources:
        limits:
          cpu: "1m"
          memory: "1Mi"
"""


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
