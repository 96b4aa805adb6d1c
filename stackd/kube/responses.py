"""Whether a response is Kubernetes' answer to the request, and what it means if it is a refusal. Pure.

Load balancers, proxies and networks between stackd and the API server respond, too: with web pages, cached or truncated
answers, and any status code. Owns: the checks that a response must pass before stackd believes it. stackd never
creates or deletes an object, or considers one gone, because of a response from anybody but Kubernetes. Owns, too, the
meaning of refusals: status and message → the error tree, from recorded responses of a real API server. Does not know
what is done about a response. Messages are cut, name the cause, and never contain stackd's user name in the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from stackd.errors import (
    ClusterOverloaded,
    ClusterRefused,
    ClusterUnavailable,
    Conflict,
    InvalidPodSpec,
    LimitRangeViolation,
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
from stackd.kube.wire import (
    GATEWAY_API,
    KINDS,
    LOG,
    NAMESPACES,
    PASSING,
    REVIEWS,
    TOKENS,
    VERSION,
    JsonObject,
    Kind,
    KubeRequest,
    KubeResponse,
    Status,
    read_status,
    text_of,
)

T = TypeVar("T")

SHOWN_BYTES = 200
NOT_FOUND = 404
_NO_CONTENT = 204
_NO_SUCH_PATH = b"404 page not found"
_PLAIN = "text/plain"
_ABOUT_ONE = frozenset({"get", "update", "delete", "patch"})

MESSAGE_LIMIT = 500

_NOT_OURS = "the answer is not from Kubernetes"

_PREFIX = re.compile(r'^\S+ "[^"]*" is (?:forbidden|invalid): ')
_DECODING = re.compile(r'^\S+ in version "[^"]*" cannot be handled as a \S+: ')
_RIGHTS = re.compile(r"cannot (?P<verb>\S+) resource")
_LIMITS = re.compile(r"(?:maximum|minimum) \S+ usage per |limit to request ratio per ")
_QUOTA = re.compile(r"(?:exceeded|failed) quota: (?P<name>[^,:]+)[,:] (?P<rest>.*)", re.DOTALL)
_SCOPED_QUOTA = re.compile(r"insufficient quota to match these scopes")
# Both refusals disappear by themselves, moments after a namespace or a quota was created.
_NOT_YET = re.compile(r"error looking up service account|status unknown for quota")
_PORT_VALUE = re.compile(r"Invalid value: (?P<port>\d+): (?P<why>.*)", re.DOTALL)
_PORT_RANGE = re.compile(r"The range of valid ports is (?P<first>\d+)-(?P<last>\d+)")
_PORT_REFUSALS = ("provided port is already allocated", "provided port is not in the valid range")


def check(call: KubeRequest, answer: KubeResponse) -> None:
    """Return if Kubernetes has answered this call, with the result or a refusal. Raises UnexpectedAnswer otherwise.

    Raises ClusterRefused if the API server does not have that kind of route.
    A response with a passing code (``PASSING``: overload, a failing server) may have any form.
    """
    if answer.ok:
        trouble = _success_trouble(call, answer)
    elif answer.status in PASSING:
        trouble = ""
    elif (
        answer.status == NOT_FOUND
        and answer.body.strip() == _NO_SUCH_PATH
        and KINDS[call.resource].group == GATEWAY_API
    ):
        raise ClusterRefused(f"the cluster does not serve {call.resource}: install the CRDs of the Gateway API")
    else:
        trouble = _refusal_trouble(call, answer)
    if trouble:
        raise unexpected(call, answer, trouble)


def unexpected(call: KubeRequest, answer: KubeResponse, trouble: str) -> UnexpectedAnswer:
    """The error for a response that does not fit the request. Clients can read ``trouble``: use only our own words.

    A stack's generated values are in its pod, its record and its logs. So the excerpt does not quote what may repeat
    one: JSON, a log, or any response to a request that sends an object.
    """
    excerpt = f"{answer.status} {answer.content_type or 'of no type'}, {len(answer.body)} bytes"
    sends = call.body is not None and call.verb != "delete"
    if not sends and not call.asks_node and not answer.body.lstrip().startswith((b"{", b"[")):
        excerpt += f": {answer.body[:SHOWN_BYTES]!r}"
    return UnexpectedAnswer(f"unexpected response to {what(call)}: {trouble}; is a proxy in between?", excerpt)


def what(call: KubeRequest) -> str:
    """The call in words, for a message."""
    scope = f" in namespace {call.namespace}" if call.namespace else ""
    return f"{call.verb} {call.resource}{scope}"


def is_a(kind: Kind, document: JsonObject) -> bool:
    """Whether the object says that it is of this kind."""
    return (document.get("kind"), document.get("apiVersion")) == (kind.name, kind.api_version)


def is_version(text: object) -> bool:
    """Whether a watch can start from this resourceVersion. From an empty one or 0, it would start at any point."""
    return isinstance(text, str) and text not in ("", "0")


def is_older(version: str, than: str) -> bool:
    """Whether resourceVersion ``version`` is from before ``than``, of the same resource.

    Only decimal numbers can be compared (documented since Kubernetes 1.35); False for others.
    """
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


def readable(name: str, read: Callable[[JsonObject], T], raw: JsonObject) -> T:
    """The object, converted by ``read``. Raises UnexpectedAnswer if it lacks what each object of its kind has."""
    try:
        return read(raw)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as exc:
        raise UnexpectedAnswer(f"one of {name} cannot be read", f"{type(exc).__name__}: {exc}") from exc


def _refusal_trouble(call: KubeRequest, answer: KubeResponse) -> str:
    status = answer.refusal
    if status is None:
        return f"a {answer.status} that is not from Kubernetes"
    if answer.status != NOT_FOUND:
        return ""
    # "There is no such path" is also a 404 with a Status, but says nothing about the object.
    about = (status.kind, status.name)
    if is_from_node(call, answer):
        return ""
    about_one = call.verb in _ABOUT_ONE or call.resource == TOKENS
    if about_one and about == (call.resource.partition("/")[0], call.name):
        return ""
    if call.verb == "create" and about == (NAMESPACES, call.namespace):
        return ""
    return "a 404 about something else"


def _success_trouble(call: KubeRequest, answer: KubeResponse) -> str:
    document = answer.document
    if call.resource == LOG:
        return "" if answer.content_type == _PLAIN or answer.status == _NO_CONTENT else "not a log"
    if document is None:
        return "not JSON, or cut short"
    if call.resource == VERSION:
        return "" if text_of(document, "gitVersion") else "not a version"
    if call.resource == REVIEWS:
        return _review(document)
    if call.resource == TOKENS:
        return _token(call, document)
    if call.verb == "list":
        return _list(call, document)
    if call.verb == "delete" and (status := read_status(document)) is not None:
        same = status.name in ("", call.name) and (not call.uid or status.uid in ("", call.uid))
        return "" if status.success and same else "no confirmation that it is deleted"
    return _object(call, document)


def _object(call: KubeRequest, document: JsonObject) -> str:
    kind, metadata = KINDS[call.resource], document.get("metadata")
    if not is_a(kind, document) or not isinstance(metadata, dict):
        return f"not a {kind.name}"
    if text_of(metadata, "name") != call.name:
        return f"a {kind.name} of another name"
    if not text_of(metadata, "uid"):
        return f"a {kind.name} without a uid"
    if call.uid and metadata["uid"] != call.uid:
        return f"a {kind.name} of another uid"
    if call.namespace and metadata.get("namespace") != call.namespace:
        return f"a {kind.name} of another namespace"
    return ""


def _list(call: KubeRequest, document: JsonObject) -> str:
    kind = KINDS[call.resource]
    if (document.get("kind"), document.get("apiVersion")) != (f"{kind.name}List", kind.api_version):
        return f"not a list of {call.resource}"
    metadata = document.get("metadata")
    if not isinstance(document.get("items"), list):
        return "a list without items"
    if not isinstance(metadata, dict) or not is_version(metadata.get("resourceVersion")):
        return "a list without a resourceVersion"
    if not isinstance(metadata.get("continue", ""), str):
        return "a list that does not say whether it is complete"
    return ""


def _review(document: JsonObject) -> str:
    status = document.get("status")
    if not is_a(KINDS[REVIEWS], document):
        return "not an access review"
    answered = isinstance(status, dict) and isinstance(status.get("allowed"), bool)
    return "" if answered else "an access review without its outcome"


def _token(call: KubeRequest, document: JsonObject) -> str:
    """Checks a TokenRequest's response. The account's uid is not checked: only newer API servers send it."""
    metadata, status = document.get("metadata"), document.get("status")
    if not is_a(KINDS[TOKENS], document):
        return "not a token request"
    if not isinstance(metadata, dict) or (metadata.get("namespace"), metadata.get("name")) != (
        call.namespace,
        call.name,
    ):
        return "a token request for another account"
    return "" if isinstance(status, dict) and text_of(status, "token") else "a token request without its token"


_NOT_NOW = "Kubernetes cannot process this now (retry)"
REJECTED = "Kubernetes rejected stackd's credentials or permissions (run `stackd doctor`)"
_NOT_ACCEPTED = "Kubernetes rejected stackd's request (see stackd's log)"


def error_of(call: KubeRequest, answer: KubeResponse) -> StackdError:
    """The error that a response means. Only for responses that are not ``ok``."""
    status = answer.refusal
    if status is None:
        return _unavailable(call, answer) if answer.status in PASSING else unexpected(call, answer, _NOT_OURS)
    message = _shortened(status.message)
    if is_from_node(call, answer):
        return _node_trouble(call, answer, message)
    if "too large resource version" in message.lower():
        # The cluster's history went back (a restored backup, or another cluster). Only a new list helps.
        return VersionExpired(message)
    by_code: Mapping[int, Callable[[], StackdError]] = {
        400: lambda: _invalid(call, status, message),
        401: lambda: _refused(call, "its credentials are not accepted (401)"),
        403: lambda: _forbidden(call, message),
        404: lambda: _missing(call, answer, status, message),
        409: lambda: _conflict(call, status, message),
        410: lambda: VersionExpired(message),
        422: lambda: _unprocessable(call, status, message),
        413: lambda: _invalid(call, status, message),
    }
    return by_code[answer.status]() if answer.status in by_code else _unavailable(call, answer, message)


def may_repeat(call: KubeRequest, answer: KubeResponse) -> bool:
    """Whether a retry of the same call may get another answer."""
    if is_from_node(call, answer):
        return False
    if answer.status in PASSING:
        return not isinstance(error_of(call, answer), VersionExpired)
    status = answer.refusal
    if status is None:
        return False
    if answer.status == 403:
        return bool(_NOT_YET.search(status.message))
    # This create lost a race for the quota's own bookkeeping. Its name is not taken.
    return answer.status == 409 and call.verb == "create" and status.reason == "Conflict"


def is_from_node(call: KubeRequest, answer: KubeResponse) -> bool:
    """Whether the API server passes on a failure of the pod's node, where logs are.

    The kubelet has refused, the node is gone, or it cannot be reached (500 without a reason). The API server itself
    works.
    """
    status = answer.refusal
    if status is None or not call.asks_node:
        return False
    if answer.status == NOT_FOUND:
        return bool(status.name) and (status.kind, status.name) != ("pods", call.name)
    return status.kind == LOG or (answer.status == 500 and not status.reason)


def names_missing_namespace(call: KubeRequest, answer: KubeResponse) -> bool:
    """Whether a create failed because the namespace does not exist."""
    status = answer.refusal
    return answer.status == 404 and call.verb == "create" and status is not None and status.kind == NAMESPACES


def is_other_uid(answer: KubeResponse) -> bool:
    """Whether a delete was refused because the object of that name has another uid by now."""
    status = answer.refusal
    return answer.status == 409 and status is not None and "UID in the precondition" in status.message


def _unavailable(call: KubeRequest, answer: KubeResponse, message: str = "") -> ClusterUnavailable:
    """The error for a temporary failure. ``message`` is empty unless the response is from Kubernetes."""
    detail = f"it answered {answer.status} to {what(call)}{f': {message}' if message else ''}"
    if answer.retry_after is not None:
        return ClusterOverloaded("Kubernetes is overloaded", answer.retry_after, detail=detail)
    return ClusterUnavailable(_NOT_NOW, detail=detail)


def _node_trouble(call: KubeRequest, answer: KubeResponse, message: str) -> StackdError:
    if answer.status in PASSING:
        return ClusterUnavailable(
            f"the log of {call.name} cannot be read: its node does not answer", detail=message.rpartition('": ')[2]
        )
    return Conflict(f"{call.name}: its node has no log of it")


def _forbidden(call: KubeRequest, message: str) -> StackdError:
    if rights := _RIGHTS.search(message):
        return _refused(call, f"it has no right to {rights['verb']} {call.resource}")
    bare = _PREFIX.sub("", message)
    if _NOT_YET.search(bare) or "because it is being terminated" in bare:
        return ClusterUnavailable(_NOT_NOW, detail=bare)
    if quota := _QUOTA.search(bare):
        return QuotaExceeded(f"ResourceQuota {quota['name']}: {quota['rest']}")
    if _SCOPED_QUOTA.search(bare):
        return QuotaExceeded(f"ResourceQuota: {bare}")
    if _LIMITS.search(bare):
        return LimitRangeViolation(f"LimitRange: {bare.removeprefix('[').removesuffix(']')}")
    if call.resource == "pods" and call.verb == "create" and "RuntimeClass" not in bare:
        return InvalidPodSpec([Reason(path="", text=bare)])
    return _refused(call, bare)


def _refused(call: KubeRequest, why: str) -> ClusterRefused:
    return ClusterRefused(REJECTED, detail=f"{why} ({what(call)})")


def _missing(call: KubeRequest, answer: KubeResponse, status: Status, message: str) -> StackdError:
    if call.verb == "create" and status.kind == NAMESPACES:
        return ClusterUnavailable(f"the namespace {call.namespace} does not exist")
    return ObjectNotFound(message) if status.name else unexpected(call, answer, "there is no such path")


def _conflict(call: KubeRequest, status: Status, message: str) -> StackdError:
    if status.reason == "AlreadyExists":
        return ObjectExists(message)
    if call.verb == "create":
        return ClusterUnavailable(_NOT_NOW, detail=message)
    return PreconditionFailed(message)


def _unprocessable(call: KubeRequest, status: Status, message: str) -> StackdError:
    for cause in status.causes:
        value = _PORT_VALUE.search(cause.message)
        if value and "nodePort" in cause.field and any(refusal in cause.message for refusal in _PORT_REFUSALS):
            port, sentence = int(value["port"]), f"node port {value['port']}: {value['why']}"
            if span := _PORT_RANGE.search(cause.message):
                return NodePortOutOfRange(sentence, port, (int(span["first"]), int(span["last"])))
            return NodePortTaken(sentence, port)
    if call.verb == "patch" and any(cause.field == "metadata.uid" for cause in status.causes):
        return PreconditionFailed(message)
    return _invalid(call, status, message)


def _invalid(call: KubeRequest, status: Status, message: str) -> StackdError:
    if call.verb == "create" and call.resource == "pods":
        reasons = [Reason(path=cause.field, text=_shortened(cause.message)) for cause in status.causes if cause.field]
        return InvalidPodSpec(reasons or [Reason(path="", text=_DECODING.sub("", _PREFIX.sub("", message)))])
    if call.resource == LOG:
        return Conflict(message)
    return ClusterUnavailable(_NOT_ACCEPTED, detail=f"{what(call)}: {message}")


def _shortened(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 1] + "…"
