"""The error tree. Each boundary translates once, with ``raise … from exc``; ``web/problems.py`` gives the statuses.

StackdError
├── ConfigError                     the daemon cannot start as configured
├── InvalidRequest                  400  the body, a parameter or a pod spec is wrong
│   ├── InvalidPodSpec              400  with the reasons, each with its path and line
│   └── LimitRangeViolation         400  the namespace's LimitRange refuses the pod
├── Unauthenticated                 401
├── PermissionDenied                403  the key's scope does not allow it
├── NotFound                        404
│   ├── StackNotFound
│   └── JobNotFound
├── Conflict                        409
│   └── LabelLimitReached                as many stacks as allowed have this label's value; names one
├── IdempotencyKeyReused            422
├── RequestTooLarge                 413
├── UnsupportedCoding               415  the body is packed
├── ExpectationFailed               417  an Expect other than 100-continue
├── TooManyRequests                 429  with retry_after
└── Unavailable                     503  with retry_after
    ├── NoNodePort                       every node port of the range is held
    ├── NoRoom                           no node takes the pod (Unschedulable, or not in time)
    ├── QuotaExceeded                    the namespace's ResourceQuota refuses
    ├── Held                             a brake is on (invariant 8)
    ├── ShuttingDown
    ├── NotOwner                         another stackd may own the stacks now: nothing is changed
    ├── StoreUnavailable                 the file cannot be written now
    └── ClusterUnavailable               Kubernetes is unreachable, overloaded, or refuses stackd itself
        ├── ClusterUnreachable           no connection could be made: the request was not sent
        ├── ClusterRefused               stackd's credentials or the cluster's certificate are not accepted, or a right lacks
        ├── ClusterTimeout               no answer came in the time that one try had
        ├── StillThere                   what was deleted is not gone: something in the cluster holds it
        ├── ClusterSilent                nothing has come over an open watch for long
        ├── UnexpectedAnswer             what answered is not Kubernetes, or its answer was cut short
        └── ClusterOverloaded            it said itself when to come back
StoreError                          (a StackdError) the file is unusable: corrupt, newer, locked by another process
ClusterError                        (a StackdError) answers that the caller handles: they never reach a client as they are
├── ObjectNotFound
├── ObjectExists
├── PreconditionFailed              the object is another one by now (uid)
├── VersionExpired                  the resourceVersion or the page's token is too old: list again
├── NodePortTaken                   with the port
└── NodePortOutOfRange              with the port, and the range that the cluster has
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One thing that is wrong with a request.

    ``path`` is the field in question, empty where it is none; ``line`` is where it stands in the pod spec's text, if known.
    """

    path: str
    text: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


class StackdError(Exception):
    """The root; ``sentence`` may be shown to any client.

    ``detail`` is what a library, a socket or the cluster's scheduler said: for whoever runs stackd. ``str()`` has both.
    """

    detail = ""

    @property
    def sentence(self) -> str:
        """What is wrong, in stackd's own words."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.sentence}: {self.detail}" if self.detail else self.sentence


def told(error: StackdError) -> str:
    """What a client is told of an error that is the reason for another one: nothing of a ClusterError, which quotes."""
    return "the cluster refuses it" if isinstance(error, ClusterError) else error.sentence


def detail_of(error: StackdError) -> str:
    """What goes into the detail of an error for which this one is the reason."""
    return str(error) if isinstance(error, ClusterError) else error.detail


class ConfigError(StackdError):
    """The configuration is wrong; ``mistakes`` holds one line each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


class InvalidRequest(StackdError):
    """The request itself is wrong, and will be wrong again if repeated; ``reasons`` holds what is known by field."""

    def __init__(self, message: str, reasons: Sequence[Reason] = ()) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)


class InvalidPodSpec(InvalidRequest):
    """The pod spec is not acceptable; ``reasons`` holds all of them, in the order in which they were found."""

    def __init__(self, reasons: Sequence[Reason]) -> None:
        super().__init__("invalid pod spec: " + "; ".join(map(str, reasons)), reasons)


class LimitRangeViolation(InvalidRequest):
    """The namespace's LimitRange refuses the pod."""


class Unauthenticated(StackdError):
    """No key, or a wrong one."""


class PermissionDenied(StackdError):
    """The key is valid and its scope does not allow the request."""


class NotFound(StackdError):
    """There is no such thing."""


class StackNotFound(NotFound):
    """There is no such stack."""

    def __init__(self, stack_id: str) -> None:
        super().__init__(f"stack not found: {stack_id}")
        self.stack_id = stack_id


class JobNotFound(NotFound):
    """There is no such job."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job not found: {job_id}")
        self.job_id = job_id


class Conflict(StackdError):
    """The request contradicts the present state."""


class LabelLimitReached(Conflict):
    """As many stacks as ``limits.stacks_per_label`` allows have this value of the label; ``stack_id`` is the oldest."""

    def __init__(self, message: str, stack_id: str) -> None:
        super().__init__(message)
        self.stack_id = stack_id


class IdempotencyKeyReused(StackdError):
    """The Idempotency-Key came with another body before."""


class RequestTooLarge(StackdError):
    """The body is larger than ``server.max_body``."""


class UnsupportedCoding(StackdError):
    """The body has a Content-Encoding."""


class ExpectationFailed(StackdError):
    """The request expects what is not known."""


class TooManyRequests(StackdError):
    """A limit per key is reached."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(StackdError):
    """Not now; ``retry_after`` says in how many seconds it may be worth another try."""

    default_retry_after = 5

    def __init__(self, message: str, retry_after: int | None = None, *, detail: str = "") -> None:
        super().__init__(message)
        self.retry_after = retry_after or self.default_retry_after
        self.detail = detail


class NoNodePort(Unavailable):
    """Every node port of the range is held."""

    default_retry_after = 30


class NoRoom(Unavailable):
    """No node takes the pod."""

    default_retry_after = 30


class QuotaExceeded(Unavailable):
    """The namespace's ResourceQuota refuses."""

    default_retry_after = 30


class Held(Unavailable):
    """A brake is on until the operator has looked."""

    default_retry_after = 60


class ShuttingDown(Unavailable):
    """The daemon is stopping."""


class NotOwner(Unavailable):
    """This stackd does not own the stacks, or does not know that it still does: it changes nothing."""


class StoreUnavailable(Unavailable):
    """The file cannot be written now (disk full, read-only, locked)."""


class ClusterUnavailable(Unavailable):
    """Kubernetes is unreachable, overloaded, or refuses stackd itself."""


class ClusterUnreachable(ClusterUnavailable):
    """No connection to Kubernetes could be made: the request was not sent."""


class ClusterTimeout(ClusterUnavailable):
    """No answer came in the time that one try had; the request may have been done."""


class StillThere(ClusterUnavailable):
    """An object that was deleted is not gone: a finalizer holds it, or its node has not said that its containers ended."""


class ClusterSilent(ClusterUnavailable):
    """Nothing has come over an open watch for long: it may be dead, or there is nothing to tell."""


class UnexpectedAnswer(ClusterUnavailable):
    """An answer that Kubernetes does not give to what was asked: it is nobody's word, for success or for failure.

    ``shown`` shows what it was. It is for the log only: no client gets text of a load balancer or proxy to read.
    """

    def __init__(self, message: str, shown: str = "") -> None:
        super().__init__(message)
        self.shown = shown


class ClusterRefused(ClusterUnavailable):
    """Kubernetes does not accept stackd's credentials or does not allow it what it asked for, or its own certificate is
    not accepted: waiting mends nothing."""


class ClusterOverloaded(ClusterUnavailable):
    """Kubernetes said itself when to come back: ``retry_after`` is its word, not a guess."""


class StoreError(StackdError):
    """The file is unusable: corrupt, written by a newer stackd, or held by another process."""


class ClusterError(StackdError):
    """An answer of the cluster that its caller handles."""


class ObjectNotFound(ClusterError):
    """The object is not there."""


class ObjectExists(ClusterError):
    """An object of that name is there already."""


class PreconditionFailed(ClusterError):
    """The object of that name is another one by now."""


class VersionExpired(ClusterError):
    """The resourceVersion or the page's token is too old: list again."""


class NodePortTaken(ClusterError):
    """Somebody else holds ``node_port``."""

    def __init__(self, message: str, node_port: int) -> None:
        super().__init__(message)
        self.node_port = node_port


class NodePortOutOfRange(ClusterError):
    """``node_port`` is outside of the cluster's node port range (``first``, ``last``), and so is every other one out there."""

    def __init__(self, message: str, node_port: int, cluster: tuple[int, int]) -> None:
        super().__init__(message)
        self.node_port = node_port
        self.cluster = cluster
