"""Tokens of service accounts that end: asked for with a TokenRequest, and accepted until their time is over.

Owns: what such a token looks like (a JWT, as Kubernetes signs them, here with a key of the cluster's own) and whether it
is one. The accounts are the users called ``system:serviceaccount:NAMESPACE:NAME``, and the ServiceAccounts that are stored,
with the rights that stored roles and bindings give them. Stores nothing itself: a token is good for as long as its cluster
lives, over restarts too.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson

from stackd.embedded.rbac import User, rules_from_manifests
from stackd.embedded.resources import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    Json,
    Resource,
)
from stackd.embedded.status import StatusError, bad_request, invalid, not_found, wrong
from stackd.embedded.store import ObjectStore
from stackd.embedded.timing import DelayingClock, timestamp

AUDIENCE = ISSUER = "https://kubernetes.default.svc"
PREFIX = "system:serviceaccount:"
SHORTEST, LONGEST, DEFAULT = 600, 2**32, 3600
RBAC_KINDS = (ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS)
_REQUEST = Resource(plural="tokenrequests", kind="TokenRequest", group="authentication.k8s.io")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """The accounts of one cluster; ``identity`` gives what nobody else knows, and that lasts as long as the cluster."""

    users: Iterable[User]
    clock: DelayingClock
    identity: Callable[[], str]
    store: ObjectStore

    def request(self, namespace: str, name: str, body: bytes) -> bytes:
        """The answer to a TokenRequest. Raises ApiError 400, 404 or 422."""
        if self._user(namespace, name) is None:
            raise not_found(SERVICE_ACCOUNTS, name)
        seconds = _seconds(body)
        now = self.clock.now()
        answer = {
            "kind": _REQUEST.kind,
            "apiVersion": _REQUEST.api_version,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": self.uid(namespace, name),
                "creationTimestamp": timestamp(now),
            },
            "spec": {"audiences": [AUDIENCE], "expirationSeconds": seconds, "boundObjectRef": None},
            "status": {
                "token": self.issue(namespace, name, seconds),
                "expirationTimestamp": timestamp(int(now) + seconds),
            },
        }
        return orjson.dumps(answer)

    def issue(self, namespace: str, name: str, seconds: float) -> str:
        """A token that is good for so long from now."""
        now = int(self.clock.now())
        claims = {
            "aud": [AUDIENCE],
            "exp": int(now + seconds),
            "iat": now,
            "iss": ISSUER,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": name, "uid": self.uid(namespace, name)},
            },
            "nbf": now,
            "sub": f"{PREFIX}{namespace}:{name}",
        }
        signed = f"{_encoded(orjson.dumps({'alg': 'HS256', 'kid': 'embedded'}))}.{_encoded(orjson.dumps(claims))}"
        return f"{signed}.{_encoded(self._signature(signed))}"

    def who(self, token: str) -> User | None:
        """Whose token it is; None if it is none of this cluster's, or its time is over."""
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), _encoded(self._signature(signed)).encode()):
            return None
        claims: Json = orjson.loads(_decoded(signed.partition(".")[2]))
        if claims["exp"] <= self.clock.now():
            return None
        _, _, namespace, name = claims["sub"].split(":")
        return self._user(namespace, name)

    def uid(self, namespace: str, name: str) -> str:
        """The account's uid."""
        stored = self.store.of(SERVICE_ACCOUNTS).records.get((namespace, name))
        return stored.uid if stored else str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self.identity()}/{namespace}/{name}"))

    def _user(self, namespace: str, name: str) -> User | None:
        full = f"{PREFIX}{namespace}:{name}"
        known = next((user for user in self.users if user.name == full), None)
        if known is not None or (namespace, name) not in self.store.of(SERVICE_ACCOUNTS).records:
            return known
        manifests = [
            {"kind": kind.kind, **record.obj} for kind in RBAC_KINDS for record in self.store.of(kind).records.values()
        ]
        return User(token="", name=full, rules=rules_from_manifests(manifests, account=name, namespace=namespace))

    def _signature(self, text: str) -> bytes:
        return hmac.digest(self.identity().encode(), text.encode(), hashlib.sha256)


def _seconds(body: bytes) -> int:
    try:
        spec = orjson.loads(body or b"{}").get("spec") or {}
    except (orjson.JSONDecodeError, AttributeError) as exc:
        raise bad_request("the object provided is unrecognized") from exc
    seconds: int = spec.get("expirationSeconds", DEFAULT)
    if seconds < SHORTEST:
        raise _unacceptable(seconds, "may not specify a duration less than 10 minutes")
    if seconds > LONGEST:
        raise _unacceptable(seconds, "may not specify a duration larger than 2^32 seconds")
    return seconds


def _unacceptable(seconds: int, why: str) -> StatusError:
    return invalid(_REQUEST, "", [wrong("spec.expirationSeconds", seconds, why)])


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
