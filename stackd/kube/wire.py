"""A request to the API server and its response as plain data; whether a response is Kubernetes' own, and what it means. Pure.

Load balancers, proxies and networks between stackd and the API server respond, too: with web pages, cached or truncated
answers, and any status code. stackd never creates or deletes an object, or considers one gone, because of a response from
anybody but Kubernetes: ``check`` decides that. ``error_of`` is the meaning of refusals, from recorded responses of a real
API server; messages are cut, and never contain stackd's user name in the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

from msgspec import json

from stackd.codes import ErrorCode
from stackd.errors import (
    ClusterOverloaded,
    ClusterRefused,
    ClusterUnavailable,
    Conflict,
    InvalidPodSpec,
    KindNotServed,
    LimitRangeViolation,
    NamespaceMissing,
    NodePortOutOfRange,
    NodePortTaken,
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    QuotaExceeded,
    Reason,
    StackdError,
    UnexpectedAnswer,
    VersionExpired,
)
from stackd.model import struct

JsonObject = dict[str, Any]
METHODS: Mapping[str, str] = {
    "get": "GET", "list": "GET", "watch": "GET", "create": "POST", "update": "PUT", "delete": "DELETE", "patch": "PATCH",
}  # fmt: skip
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
LOG, TOKENS, VERSION = "pods/log", "serviceaccounts/token", "version"
NAMESPACES, LEASES, CONFIG_MAPS, NETWORK_POLICIES = "namespaces", "leases", "configmaps", "networkpolicies"
REVIEWS, RULES = "selfsubjectaccessreviews", "selfsubjectrulesreviews"
_CHANGING = frozenset({"create", "update", "patch", "delete"})
# The fence depends on the Lease, and the Lease needs its namespace. A review changes nothing. Every stackd needs a
# token of its own, even if it owns no stacks.
_ALWAYS_ALLOWED = frozenset({LEASES, NAMESPACES, REVIEWS, RULES, TOKENS})
GATEWAY_API = "gateway.networking.k8s.io"
HTTP_ROUTES, TLS_ROUTES, GATEWAYS = "httproutes", "tlsroutes", "gateways"
POLICIES, BINDINGS = "validatingadmissionpolicies", "validatingadmissionpolicybindings"
PASSING = frozenset({429, 500, 502, 503, 504})
"""Codes of a temporary failure. A retry makes sense, whoever sent the code and in whatever form."""
FAILING = frozenset({502, 503, 504})
"""The codes of ``PASSING`` that mean that the server as a whole does not work, not only that it is busy."""
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, CONFLICT = 401, 403, 404, 409
SHOWN_BYTES = 200
MESSAGE_LIMIT = 500
SEE_DOCTOR = " (run `stackd doctor`)"
REJECTED = f"Kubernetes rejected stackd's credentials or permissions{SEE_DOCTOR}"


@struct
class Kind:
    """The kind and apiVersion of a resource's objects."""

    name: str
    api_version: str = "v1"

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def type_meta(self) -> dict[str, str]:
        return {"apiVersion": self.api_version, "kind": self.name}


_NAMES = {
    "v1": "Pod Service Node Namespace Event ResourceQuota LimitRange ConfigMap Secret ServiceAccount",
    "networking.k8s.io/v1": "NetworkPolicy",
    "rbac.authorization.k8s.io/v1": "Role RoleBinding ClusterRole ClusterRoleBinding",
    "admissionregistration.k8s.io/v1": "ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding",
    f"{GATEWAY_API}/v1": "Gateway HTTPRoute TLSRoute",
    "coordination.k8s.io/v1": "Lease",
    "authorization.k8s.io/v1": "SelfSubjectAccessReview SelfSubjectRulesReview",
}
KINDS: Mapping[str, Kind] = {
    f"{name.lower()}s".replace("policys", "policies"): Kind(name=name, api_version=version)
    for version, names in _NAMES.items()
    for name in names.split()
} | {TOKENS: Kind(name="TokenRequest", api_version="authentication.k8s.io/v1")}
"""By resource: the plural in lower case."""


@struct
class KubeRequest:
    """A request: Kubernetes' verb and resource (as RBAC and the counters name them), the namespace, and the object's name;
    ``uid`` is set if it must have that uid.

    ``path`` is the URL's. ``fenced``: it changes something that only the owner may change; a dry run counts as a change.
    ``asks_node``: the API server forwards it to the pod's node, so that a failure may be only the node's.
    """

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""
    uid: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    content_type: str = JSON
    path: str = field(init=False, repr=False, compare=False)
    fenced: bool = field(init=False, repr=False, compare=False)
    asks_node: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _path(self))
        object.__setattr__(self, "fenced", self.verb in _CHANGING and self.resource not in _ALWAYS_ALLOWED)
        object.__setattr__(self, "asks_node", self.resource == LOG)

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f" in namespace {self.namespace}" if self.namespace else "")


def _path(call: KubeRequest) -> str:
    if call.resource == VERSION:
        return "/version"
    resource, _, part = call.resource.partition("/")
    kind = KINDS[resource]
    names = ["apis" if kind.group else "api", kind.api_version]
    names += ["namespaces", call.namespace] if call.namespace else []
    names += [resource]
    names += [call.name] if call.name and (part or call.verb != "create") else []  # one to be created has no path yet
    names += [part] if part else []
    return "/" + "/".join(names)


@struct
class Status:
    """What Kubernetes says of a request. ``kind`` (mostly a resource), ``name`` and ``uid`` are of what it is about, if it
    says so; ``causes`` are wrong fields, each with a message.
    """

    success: bool
    code: int
    causes: tuple[tuple[str, str], ...]
    reason: str
    message: str
    kind: str
    name: str
    uid: str


@struct
class KubeResponse:
    """A response of any status; ``retry_after`` in seconds and ``date`` if the server sent them.

    ``ok``: the status says that the request succeeded. ``document`` is the body as a JSON object, None if it is not one.
    ``refusal`` is Kubernetes' Status for why it did not do the request; None if there is none, or it fits another code.
    """

    status: int
    body: bytes = field(repr=False)
    content_type: str = ""
    retry_after: int | None = None
    date: str = ""
    ok: bool = field(init=False, repr=False, compare=False)
    document: JsonObject | None = field(init=False, repr=False, compare=False)
    refusal: Status | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            document = json.decode(self.body)
        except (ValueError, RecursionError):
            document = None
        document = document if isinstance(document, dict) else None
        status = read_status(document)
        refused = status is not None and not status.success and status.code == self.status
        object.__setattr__(self, "ok", 200 <= self.status < 300)
        object.__setattr__(self, "document", document)
        object.__setattr__(self, "refusal", status if refused else None)


def read_status(document: Mapping[str, Any] | None) -> Status | None:
    """The Status in the JSON; None if it is not a Status."""
    if document is None or (document.get("kind"), document.get("apiVersion")) != ("Status", "v1"):
        return None
    if document.get("status") not in ("Success", "Failure"):
        return None
    about, code = _object(document, "details"), document.get("code")
    causes = about.get("causes")
    return Status(
        success=document["status"] == "Success",
        code=code if isinstance(code, int) else 0,
        causes=tuple(
            (_text(cause, "field"), _text(cause, "message") or _text(cause, "reason"))
            for cause in (causes if isinstance(causes, list) else ())
            if isinstance(cause, dict)
        ),
        **{key: _text(document, key) for key in ("reason", "message")},
        **{key: _text(about, key) for key in ("kind", "name", "uid")},
    )


def _object(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""


def is_a(kind: Kind, document: JsonObject) -> bool:
    return (document.get("kind"), document.get("apiVersion")) == (kind.name, kind.api_version)


def is_version(text: object) -> bool:
    """Whether a watch can start from this resourceVersion. From an empty one or 0, it would start at any point."""
    return isinstance(text, str) and text not in ("", "0")


def is_older(version: str, than: str) -> bool:
    """Whether resourceVersion ``version`` is from before ``than``. Only decimal numbers can be compared (documented since
    Kubernetes 1.35); False for others.
    """
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


def document_of(call: KubeRequest, answer: KubeResponse) -> JsonObject:
    """The JSON of a checked response. Raises the error that a refusal means."""
    if not answer.ok:
        raise error_of(call, answer)
    if answer.document is None:
        raise unexpected(call, answer, "no JSON")
    return answer.document


# ---- is it Kubernetes' answer?


def check(call: KubeRequest, answer: KubeResponse) -> None:
    """Return if Kubernetes has answered this call, with the result or a refusal. Raises UnexpectedAnswer otherwise, and
    KindNotServed if the API server does not have that kind of route. With a code of ``PASSING`` any form will do.
    """
    if answer.ok:
        fault = _fault_of_success(call, answer)
    elif answer.status in PASSING:
        return
    elif call.resource in (HTTP_ROUTES, TLS_ROUTES, GATEWAYS) and answer.body.strip() == b"404 page not found":
        raise KindNotServed(f"the cluster does not serve {call.resource}: install the CRDs of the Gateway API")
    else:
        fault = _fault_of_refusal(call, answer)
    if fault:
        raise unexpected(call, answer, fault)


def unexpected(call: KubeRequest, answer: KubeResponse, fault: str) -> UnexpectedAnswer:
    """The error for a response that does not fit the request. Clients can read ``fault``: use only our own words.

    The excerpt does not quote what may repeat a stack's generated values: JSON, a log, or a response to an object.
    """
    excerpt = f"{answer.status} {answer.content_type or 'of no type'}, {len(answer.body)} bytes"
    sends = call.body is not None and call.verb != "delete"
    if not sends and not call.asks_node and not answer.body.lstrip().startswith((b"{", b"[")):
        excerpt += f": {answer.body[:SHOWN_BYTES]!r}"
    return UnexpectedAnswer(f"unexpected response to {call}: {fault}; is a proxy in between?", excerpt)


def _fault_of_refusal(call: KubeRequest, answer: KubeResponse) -> str:
    status = answer.refusal
    if status is None:
        return f"a {answer.status} that is not from Kubernetes"
    if answer.status != NOT_FOUND or is_from_node(call, answer):
        return ""
    # "There is no such path" is also a 404 with a Status, but says nothing about the object.
    about = (status.kind, status.name)
    if call.verb == "create" and about == (NAMESPACES, call.namespace):
        return ""
    about_one = call.verb not in ("create", "list", "watch") or call.resource == TOKENS
    asked = (call.resource.partition("/")[0], call.name)
    return "" if about_one and about == asked else "a 404 about something else"


def _fault_of_success(call: KubeRequest, answer: KubeResponse) -> str:
    document = answer.document
    if call.asks_node:
        return "" if answer.content_type == "text/plain" or answer.status == 204 else "not a log"
    if document is None:
        return "not JSON, or cut short"
    if call.resource == VERSION:
        return "" if _text(document, "gitVersion") else "not a version"
    if call.verb == "delete" and (status := read_status(document)) is not None:
        same = status.name in ("", call.name) and (not call.uid or status.uid in ("", call.uid))
        return "" if status.success and same else "no confirmation that it is deleted"
    return next((_faults_of_list if call.verb == "list" else _faults)(call, document), "")


def _faults_of_list(call: KubeRequest, document: JsonObject) -> Iterator[str]:
    kind, metadata = KINDS[call.resource], _object(document, "metadata")
    if (document.get("kind"), document.get("apiVersion")) != (f"{kind.name}List", kind.api_version):
        yield f"not a list of {call.resource}"
    if not isinstance(document.get("items"), list):
        yield "a list without items"
    if not is_version(metadata.get("resourceVersion")):
        yield "a list without a resourceVersion"
    if not isinstance(metadata.get("continue", ""), str):
        yield "a list that does not say whether it is complete"


def _faults(call: KubeRequest, document: JsonObject) -> Iterator[str]:
    """What is wrong with the JSON of a success that is no list."""
    kind, metadata, status = KINDS[call.resource], _object(document, "metadata"), _object(document, "status")
    if not is_a(kind, document):
        yield f"not a {kind.name}"
    if call.resource == REVIEWS:
        if not isinstance(status.get("allowed"), bool):
            yield "an access review without its outcome"
        return
    if call.resource == RULES:
        if not isinstance(status.get("resourceRules"), list):
            yield "a rules review without rules"
        return
    if metadata.get("name") != call.name:
        yield f"a {kind.name} of another name"
    if call.namespace and metadata.get("namespace") != call.namespace:
        yield f"a {kind.name} of another namespace"
    if call.resource == TOKENS:
        if not _text(status, "token"):
            yield "a token request without its token"
        return
    if not _text(metadata, "uid"):
        yield f"a {kind.name} without a uid"
    if call.uid not in ("", metadata.get("uid")):
        yield f"a {kind.name} of another uid"


# ---- what does it mean?

_NOT_NOW = "Kubernetes cannot process this now (retry)"
_PREFIX = re.compile(r'^\S+ "[^"]*" is (?:forbidden|invalid): ')
_DECODING = re.compile(r'^\S+ in version "[^"]*" cannot be handled as a \S+: ')
_RIGHTS = re.compile(r"cannot (?P<verb>\S+) resource")
_LIMITS = re.compile(r"(?:maximum|minimum) \S+ usage per |limit to request ratio per ")
_QUOTA = re.compile(r"(?:exceeded|failed) quota: (?P<name>[^,:]+)[,:] (?P<rest>.*)", re.DOTALL)
# Both refusals disappear by themselves, moments after a namespace or a quota was created.
_NOT_YET = re.compile(r"error looking up service account|status unknown for quota")
_PORT = re.compile(
    r"Invalid value: (?P<port>\d+): (?P<why>.*provided port is (?:already allocated|not in the valid range).*)",
    re.DOTALL,
)
_PORT_RANGE = re.compile(r"The range of valid ports is (?P<first>\d+)-(?P<last>\d+)")


def error_of(call: KubeRequest, answer: KubeResponse) -> StackdError:
    """The error that a response means. Only for responses that are not ``ok``."""
    status, code = answer.refusal, answer.status
    if status is None:
        return (
            _unavailable(call, answer)
            if code in PASSING
            else unexpected(call, answer, "the answer is not from Kubernetes")
        )
    message = _shortened(status.message)
    if is_from_node(call, answer):
        if code not in PASSING:
            return Conflict(f"{call.name}: its node has no log of it", code=ErrorCode.NO_POD)
        why = message.rpartition('": ')[2]
        return ClusterUnavailable(f"the log of {call.name} cannot be read: its node does not answer", detail=why)
    if code == 410 or "too large resource version" in message.lower():
        # The second: the cluster's history went back (a restored backup, or another cluster). Only a new list helps.
        return VersionExpired(message)
    if code == UNAUTHORIZED:
        return _refused(call, "its credentials are not accepted (401)")
    by_code = {FORBIDDEN: _forbidden, 404: _missing, 409: _conflict, 400: _invalid, 413: _invalid, 422: _invalid}
    return by_code[code](call, status, message) if code in by_code else _unavailable(call, answer, message)


def may_repeat(call: KubeRequest, answer: KubeResponse) -> bool:
    """Whether a retry of the same call may get another answer."""
    status = answer.refusal
    if is_from_node(call, answer):
        return False
    if answer.status in PASSING:
        return not isinstance(error_of(call, answer), VersionExpired)
    if status is None:
        return False
    # 409: this create lost a race for the quota's own bookkeeping. Its name is not taken.
    lost_race = answer.status == 409 and call.verb == "create" and status.reason == "Conflict"
    return lost_race or (answer.status == 403 and bool(_NOT_YET.search(status.message)))


def is_from_node(call: KubeRequest, answer: KubeResponse) -> bool:
    """Whether the API server passes on a failure of the pod's node, where logs are: the kubelet has refused, the node is
    gone, or it cannot be reached (500 without a reason).
    """
    status = answer.refusal
    if status is None or not call.asks_node:
        return False
    if answer.status == NOT_FOUND:
        return bool(status.name) and (status.kind, status.name) != ("pods", call.name)
    return status.kind == LOG or (answer.status == 500 and not status.reason)


def is_other_uid(answer: KubeResponse) -> bool:
    """Whether a delete was refused because the object of that name has another uid by now."""
    return answer.status == 409 and answer.refusal is not None and "UID in the precondition" in answer.refusal.message


def _unavailable(call: KubeRequest, answer: KubeResponse, message: str = "") -> ClusterUnavailable:
    """The error for a temporary failure. ``message`` is empty unless the response is from Kubernetes."""
    detail = f"it answered {answer.status} to {call}{f': {message}' if message else ''}"
    if answer.retry_after is not None:
        return ClusterOverloaded("Kubernetes is overloaded", answer.retry_after, detail=detail)
    return ClusterUnavailable(_NOT_NOW, detail=detail)


def _refused(call: KubeRequest, why: str) -> ClusterRefused:
    return ClusterRefused(REJECTED, detail=f"{why} ({call})")


def _denied(call: KubeRequest, why: str) -> ClusterRefused:
    """Kubernetes accepts who asks, and a policy of the cluster denies what is asked for."""
    return ClusterRefused(f"a policy of the cluster denies to {call.verb} {call.resource}", detail=f"{why} ({call})")


def _forbidden(call: KubeRequest, _: Status, message: str) -> StackdError:
    if rights := _RIGHTS.search(message):
        return _refused(call, f"it has no right to {rights['verb']} {call.resource}")
    bare = _PREFIX.sub("", message)
    if "because it is being terminated" in bare:
        return NamespaceMissing(f"the namespace {call.namespace} is being terminated")
    if _NOT_YET.search(bare):
        return ClusterUnavailable(_NOT_NOW, detail=bare)
    if quota := _QUOTA.search(bare):
        return QuotaExceeded(f"ResourceQuota {quota['name']}: {quota['rest']}")
    if "insufficient quota to match these scopes" in bare:
        return QuotaExceeded(f"ResourceQuota: {bare}")
    if _LIMITS.search(bare):
        return LimitRangeViolation(f"LimitRange: {bare.removeprefix('[').removesuffix(']')}")
    if call.resource == "pods" and call.verb == "create" and "RuntimeClass" not in bare:
        return InvalidPodSpec([Reason(path="", text=bare)])
    return _denied(call, bare)


def _missing(call: KubeRequest, status: Status, message: str) -> StackdError:
    if call.verb == "create" and status.kind == NAMESPACES:
        return NamespaceMissing(f"the namespace {call.namespace} does not exist")
    return ObjectNotFound(message) if status.name else UnexpectedAnswer(f"{call}: there is no such path")


def _conflict(call: KubeRequest, status: Status, message: str) -> StackdError:
    if status.reason == "AlreadyExists":
        return ObjectExists(message)
    return ClusterUnavailable(_NOT_NOW, detail=message) if call.verb == "create" else PreconditionFailed(message)


def _invalid(call: KubeRequest, status: Status, message: str) -> StackdError:
    for path, text in status.causes:
        if "nodePort" in path and (refused := _PORT.search(text)):
            port, sentence = int(refused["port"]), f"node port {refused['port']}: {refused['why']}"
            if span := _PORT_RANGE.search(text):
                return NodePortOutOfRange(sentence, port, (int(span["first"]), int(span["last"])))
            return NodePortTaken(sentence, port)
    if call.verb == "patch" and any(path == "metadata.uid" for path, _ in status.causes):
        return PreconditionFailed(message)
    if call.verb == "create" and call.resource == "pods":
        reasons = [Reason(path=path, text=_shortened(text)) for path, text in status.causes if path]
        return InvalidPodSpec(reasons or [Reason(path="", text=_DECODING.sub("", _PREFIX.sub("", message)))])
    if call.asks_node:
        return Conflict(message)
    if call.verb == "delete":  # what a ValidatingAdmissionPolicy denies is invalid, unless it says otherwise
        return _denied(call, message)
    return ClusterUnavailable("Kubernetes rejected stackd's request (see stackd's log)", detail=f"{call}: {message}")


def _shortened(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 1] + "…"
