"""Schemathesis hooks for rules that JSON Schema cannot express. Loaded by SCHEMATHESIS_HOOKS.

A pod spec has to declare the published ports, a template has to name the variables, and a cursor has to come from the API.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies

from stackd.web import examples

STANDS_FOR_A_POD_SPEC = "a pod spec"
PORT = {"container_port": 80, "protocol": "TCP"}
"""What a pod declares if the request publishes no port: then those that its containers declare are published."""

schemathesis.openapi.format("stackd-pod-spec", strategies.just(STANDS_FOR_A_POD_SPEC))
schemathesis.openapi.format("stackd-duration", strategies.sampled_from(("1s", "5m", "90s", "0.5h", "1m30s")))
schemathesis.openapi.format("stackd-template", strategies.just(examples.CREATE_FROM_TEMPLATE["template"]))
schemathesis.openapi.format("stackd-quantity", strategies.sampled_from(("100m", "1", "128Mi", "0.5", "2e3")))
schemathesis.openapi.format("stackd-since", strategies.sampled_from(("1h", "90s", "2026-02-10T02:02:26Z")))
schemathesis.openapi.format("stackd-until", strategies.sampled_from(("1h", "90s")))
schemathesis.openapi.format("stackd-cursor", strategies.just("MSBzdGFjay0w"))


@schemathesis.hook
def before_call(context: object, case: Any, kwargs: dict[str, Any]) -> None:
    """Replace any text for a pod spec with a real one, and any template's name with one that exists."""
    body = case.body = _written_whole(case.body)
    if not isinstance(body, dict):
        return
    name, env = body.get("template"), body.get("env")
    if isinstance(name, str) and name.isalnum() and name != "latest":
        body["template"] = examples.CREATE_FROM_TEMPLATE["template"]
    if isinstance(env, dict) and all(isinstance(value, str) and len(value) <= 256 for value in env.values()):
        body["env"] = {"TEAM": "7"} if body.get("template") else None
    if isinstance(body.get("pod_spec"), str):
        targets = body.get("target_port") if isinstance(body.get("target_port"), list) else []
        body["target_port"] = targets or body.get("target_port")
        body["pod_spec"] = pod_spec([port for port in targets or () if isinstance(port, dict)] or [PORT])


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


def _written_whole(value: Any) -> Any:
    """A whole number for 80.0: JSON Schema takes both for an integer, but it has to be written 80."""
    if isinstance(value, dict):
        return {name: _written_whole(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_written_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
