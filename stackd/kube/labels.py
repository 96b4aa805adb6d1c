"""The names that stackd writes on its objects, and the question whether an object is ours (invariant 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "stackd"
INSTANCE = "stackd.io/instance"
STACK = "stackd.io/stack"
OURS = frozenset({MANAGED_BY, INSTANCE, STACK})
"""The labels by which an object is known to be ours, and whose."""
ROLE = "stackd.io/role"
PREPULL = "prepull"
"""The role of a pod that only has an image pulled. It lacks the labels of stacks, so that nothing takes it for one."""
CLIENT_LABEL_PREFIX = "label.stackd.io/"
RECORD = "stackd.io/record"
POOL = "stackd.io/pool"
"""On a pod that waits in the pool of this template; taken off when it is given away."""

EXPIRES = "stackd.io/expires-at"
GENERATION = "stackd.io/generation"


def object_labels(instance: str, stack_id: str) -> dict[str, str]:
    """The labels of every object that belongs to a stack."""
    return {MANAGED_BY: MANAGER, INSTANCE: instance, STACK: stack_id}


def selector(instance: str) -> str:
    """The label selector for all objects of this instance of stackd."""
    return f"{MANAGED_BY}={MANAGER},{INSTANCE}={instance}"


def prepull_labels(instance: str) -> dict[str, str]:
    """The labels of a pod that only has an image pulled."""
    return {ROLE: PREPULL, INSTANCE: instance}


def instance_of(labels: Mapping[str, str]) -> str:
    """The instance that manages the object; empty where no stackd does."""
    return labels.get(INSTANCE, "") if labels.get(MANAGED_BY) == MANAGER else ""


def is_ours(raw: Mapping[str, Any], instance: str) -> bool:
    """Whether the object (as Kubernetes' JSON) is managed by this instance of stackd."""
    return bool(instance) and instance_of(raw["metadata"].get("labels") or {}) == instance
