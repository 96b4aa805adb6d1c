"""The stack of all benchmarks: the API document's own example, as a request body and as raw manifests."""

from __future__ import annotations

from typing import Any

import orjson
import yaml

from stackd.kube.manifests import PodRequest, pod_manifest, service_manifest
from stackd.model import PortMapping, Stack, StackStatus, TargetPort
from stackd.podspec import Policy, harden, sanitize
from stackd.web.openapi.examples import POD_SPEC

POD: dict[str, Any] = yaml.safe_load(POD_SPEC)
BODY = orjson.dumps({"target_port": [{"container_port": 80, "protocol": "TCP"}], "pod_spec": POD_SPEC}).decode()
NODE_SELECTOR = {"role": "stack"}

_SPEC = sanitize(POD_SPEC, (TargetPort(container_port=80, protocol="TCP"),), Policy())
_MANIFEST = harden(_SPEC.manifest, Policy())


def floor_manifests(name: str, namespace: str, instance: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod and the service that stackd would send for the same stack, still without uid and node port."""
    stack = Stack(
        stack_id=name,
        namespace=namespace,
        pod_spec=_SPEC.text,
        ports=(PortMapping(container_port=80, protocol="TCP", node_port=0),),
        status=StackStatus.CREATING,
        created_at=1_800_000_000_123_456_789,
        updated_at=1_800_000_000_123_456_789,
        ttl_expires_at=1_800_007_200_123_456_789,
        requested_cpu_milli=_SPEC.requested_cpu_milli,
        requested_memory_bytes=_SPEC.requested_memory_bytes,
    )
    request = PodRequest(stack=stack, manifest=_MANIFEST, instance=instance, node_selector=NODE_SELECTOR)
    return pod_manifest(request), service_manifest(stack, instance)
