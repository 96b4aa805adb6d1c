"""Names, labels and annotations of stackd's objects, and whether an object is ours (invariant 5)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from sys import intern
from typing import Any

from stackd.model import struct
from stackd.names import is_subdomain

MANAGED_BY, MANAGER = "app.kubernetes.io/managed-by", "stackd"
INSTANCE = "stackd.io/instance"
STACK = "stackd.io/stack"
OURS = frozenset({MANAGED_BY, INSTANCE, STACK})
"""The labels that mark an object as stackd's, and name its instance and stack."""
ROLE, PREPULL, CHECK = "stackd.io/role", "prepull", "check"
"""The role of a template's pod, which pulls an image or checks a stack. Without the labels of stacks, nothing takes it for a
stack's pod."""
CLIENT_LABEL_PREFIX = "label.stackd.io/"
RECORD = "stackd.io/record"
TEMPLATE = "stackd.io/template"
"""Label of a ConfigMap: the name of the template that it holds."""
POOL = "stackd.io/pool"
"""Label on the objects of a stack that waits in the pool of this template; removed when a client gets the stack."""
ASSIGNED = "stackd.io/assigned"
"""No pod carries this label. The Service of a stack in a pool selects it: until somebody is given the stack, its node
port answers nobody."""
SPARE = "stackd.io/spare"
"""Label on a Service that belongs to no stack yet, and selects no pod; removed when a create takes it."""
MEMBER = "stackd.io/member"
"""Label on what belongs to a pod beside the first one of a stack: its name in the stack."""
PUBLISHED = "stackd.io/published"
"""Label on the first pod of a stack with members: the only one that the stack's Service selects."""
MEMBERS = "stackd.io/members"
"""Annotation of the Service of a stack with members: which of their pods are meant, as ``db=0,mail=2``."""
EXPIRES = "stackd.io/expires-at"
EXTENSIONS = "stackd.io/extensions"
RELABELLED = "stackd.io/relabelled"
GENERATION = "stackd.io/generation"
"""Annotation: which pod of its stack it is, or is for. The pods of shared stacks have it as a label, too, and their
Services select one by it."""
DESIRED = "stackd.io/desired"
"""What the pod of a Service's stack should be: ``running``, ``starting`` (a new pod is on its way), ``stopped``, or ``ended``."""
ROUTE = "stackd.io/route"
"""What a route, and the Service behind those of a stack that has node ports, are for: ``http``, ``https``, ``tls``; and
``member`` on what connects the pods of a stack."""
OURS_ALONE = frozenset({RECORD, GENERATION, ROUTE})
"""Annotations by which an object without labels may be stackd's: a Service has the first two, a pod the second, what
belongs to a name the third. Somebody else may have written them."""


def object_labels(instance: str, stack_id: str) -> dict[str, str]:
    return {MANAGED_BY: MANAGER, INSTANCE: instance, STACK: stack_id}


def selector(instance: str) -> str:
    """The label selector for all objects of this instance of stackd, the pods of templates among them."""
    return f"{INSTANCE}={instance}"


def role_labels(role: str, instance: str) -> dict[str, str]:
    return {ROLE: role, INSTANCE: instance}


def role_of(names: Mapping[str, str]) -> str:
    """The role of a template's pod with these labels; empty if it is none."""
    role = names.get(ROLE, "")
    return (
        role if role in (PREPULL, CHECK) and INSTANCE in names and names.keys().isdisjoint((STACK, MANAGED_BY)) else ""
    )


def labels_of(raw: Mapping[str, Any]) -> Mapping[str, str]:
    names: Mapping[str, str] = raw["metadata"].get("labels") or {}
    return names


def annotations_of(raw: Mapping[str, Any]) -> Mapping[str, str]:
    notes: Mapping[str, str] = raw["metadata"].get("annotations") or {}
    return notes


@struct
class Marks:
    """What stackd's labels and annotations say of an object; ``instance`` is empty if no stackd manages it.

    ``pool`` is the template in whose pool its stack waits, or empty; ``generation`` as of ``generation_of``;
    ``clients`` are the labels of the stack that it carries.
    """

    instance: str
    stack_id: str
    pool: str
    generation: int
    clients: Mapping[str, str]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def marks_of(metadata: Mapping[str, Any]) -> Marks:
    names: Mapping[str, str] = metadata.get("labels") or {}
    notes: Mapping[str, str] = metadata.get("annotations") or {}
    return Marks(
        instance=intern(instance_of(names)),
        stack_id=names.get(STACK, ""),
        pool=intern(names.get(POOL, "")),
        generation=_generation(notes),
        clients={
            name[len(CLIENT_LABEL_PREFIX) :]: value
            for name, value in names.items()
            if name.startswith(CLIENT_LABEL_PREFIX)
        },
        labels=names,
        annotations=notes,
    )


def generation_of(raw: Mapping[str, Any]) -> int:
    """Which pod of its stack the object is for; 0 if the annotation is missing, or edited into something unreadable."""
    return _generation(annotations_of(raw))


def _generation(annotations: Mapping[str, str]) -> int:
    return serving_of(annotations) or 0


def relabelled_of(annotations: Mapping[str, str]) -> int:
    """How many times the labels of the Service's stack were changed."""
    return _number(annotations, RELABELLED) or 0


def serving_of(selector: Mapping[str, str]) -> int | None:
    """The generation that a selector names; None if it names none, or was edited into something unreadable."""
    return _number(selector, GENERATION)


def _number(names: Mapping[str, str], name: str) -> int | None:
    text = names.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def instance_of(labels: Mapping[str, str]) -> str:
    """The instance that manages the object; empty if no stackd does."""
    return labels.get(INSTANCE, "") if labels.get(MANAGED_BY) == MANAGER else ""


def is_ours(raw: Mapping[str, Any], instance: str) -> bool:
    """Whether the object (as Kubernetes' JSON) is managed by this instance of stackd."""
    return bool(instance) and instance_of(labels_of(raw)) == instance


def lease_name(instance: str) -> str:
    """The name of an instance's Lease. An instance is a label value, which is not always a valid object name."""
    if is_subdomain(instance):
        return f"stackd-{instance}"
    digest = hashlib.blake2s(instance.encode(), digest_size=4).hexdigest()
    plain = re.sub(r"[^a-z0-9]+", "-", instance.lower()).strip("-")
    return "-".join(part for part in ("stackd", plain, digest) if part)


def admission_policy_name(instance: str, namespace: str) -> str:
    """The name of the ValidatingAdmissionPolicy that guards what stackd writes, and of its binding."""
    return f"{lease_name(instance)}-{namespace}"
