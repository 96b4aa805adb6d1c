"""SelfSubjectAccessReviews: asks RBAC and stores nothing."""

from __future__ import annotations

import orjson

from stackd.embedded.rbac import Ask, User
from stackd.embedded.resources import Json
from stackd.embedded.status import bad_request

REVIEWS = frozenset({"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"})


def review(user: User | None, body: bytes) -> bytes:
    """The review with its verdict; a cluster without users allows everything. Raises ApiError 400."""
    try:
        spec: Json = orjson.loads(body)["spec"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise bad_request("the object provided is unrecognized") from exc
    asked = spec.get("resourceAttributes") or {}
    resource = asked.get("resource", "")
    if asked.get("subresource"):
        resource += f"/{asked['subresource']}"
    ask = Ask(
        verb=asked.get("verb", ""),
        resource=resource,
        group=asked.get("group", ""),
        namespace=asked.get("namespace", ""),
        name=asked.get("name", ""),
    )
    allowed = user is None or user.may(ask)
    answer = {
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {},
        "spec": spec,
        "status": {"allowed": allowed},
    }
    return orjson.dumps(answer)
