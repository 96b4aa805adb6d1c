"""The error tree. Each boundary translates once, with ``raise … from exc``; ``codes.py`` has the statuses.

A subclass without a ``code`` has that of its base; one raise may have another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stackd.codes import ErrorCode, for_players


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One thing that is wrong with a request.

    ``path`` is the wrong field, empty if it is not about a field; ``line`` is its line in the pod spec's text, if
    known.
    """

    path: str
    text: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


class StackdError(Exception):
    """The root of the tree. ``sentence`` may be shown to any client.

    ``detail`` is the text of a library, a socket or the cluster's scheduler, for the operator only. ``str()`` has both.
    """

    code: ErrorCode = ErrorCode.INTERNAL_ERROR
    detail = ""
    stays = True
    """Whether it is about the stack itself: it does not go because Kubernetes answers again, or stackd may work again."""

    def __init__(self, message: str = "", *, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    @property
    def player_message(self) -> str:
        """What a platform can show to a player, who knows nothing of stackd."""
        return for_players(self.code.says, vars(self))

    @property
    def sentence(self) -> str:
        """What is wrong, in stackd's own words."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.sentence}: {self.detail}" if self.detail else self.sentence


def public_text(error: StackdError) -> str:
    """What a client is told about the cause of another error. Hides a ClusterError, because it quotes Kubernetes."""
    return "the cluster refuses it" if isinstance(error, ClusterError) else error.sentence


def public_code(error: StackdError) -> ErrorCode:
    """The code of the cause of another error, as ``public_text`` tells it."""
    return ErrorCode.CLUSTER_REFUSED if isinstance(error, ClusterError) else error.code


def detail_of(error: StackdError) -> str:
    """The ``detail`` for an error that this one has caused."""
    return str(error) if isinstance(error, ClusterError) else error.detail


class ConfigError(StackdError):
    """The configuration is wrong; ``mistakes`` holds one line each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


class InvalidRequest(StackdError):
    """The request itself is wrong, so repeating it is no use; ``reasons`` holds what is known by field."""

    code = ErrorCode.INVALID_REQUEST

    def __init__(self, message: str, reasons: Sequence[Reason] = (), *, code: ErrorCode | None = None) -> None:
        super().__init__(message, code=code)
        self.reasons = tuple(reasons)


class InvalidPodSpec(InvalidRequest):
    """The pod spec is not acceptable; ``reasons`` holds all reasons, in the order in which they were found."""

    code = ErrorCode.INVALID_POD_SPEC

    def __init__(self, reasons: Sequence[Reason]) -> None:
        super().__init__("invalid pod spec: " + "; ".join(map(str, reasons)), reasons)


class InvalidTemplate(InvalidRequest):
    """The text is not that of a template; ``reasons`` holds all mistakes, in the order of their lines."""

    code = ErrorCode.INVALID_TEMPLATE

    def __init__(self, reasons: Sequence[Reason]) -> None:
        super().__init__("invalid template: " + "; ".join(map(str, reasons)), reasons)


class LimitRangeViolation(InvalidRequest):
    """The namespace's LimitRange refuses the pod."""

    code = ErrorCode.LIMIT_RANGE_VIOLATION


class Unauthenticated(StackdError):
    """No key, or a wrong one."""

    code = ErrorCode.UNAUTHENTICATED


class SignInFailed(StackdError):
    """A person could not sign in: the issuer of OpenID Connect refuses, or what came back is not from it."""

    code = ErrorCode.SIGN_IN_FAILED


class PermissionDenied(StackdError):
    """The key is valid and its scope does not allow the request."""

    code = ErrorCode.PERMISSION_DENIED


class NotFound(StackdError):
    """The requested thing does not exist."""

    code = ErrorCode.NOT_FOUND


class StackNotFound(NotFound):
    """There is no such stack."""

    code = ErrorCode.STACK_NOT_FOUND

    def __init__(self, stack_id: str) -> None:
        super().__init__(f"stack not found: {stack_id}")


class JobNotFound(NotFound):
    """There is no such job."""

    code = ErrorCode.JOB_NOT_FOUND

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job not found: {job_id}")


class TemplateNotFound(NotFound):
    """There is no such template."""

    code = ErrorCode.NO_SUCH_TEMPLATE

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no template {name}")


class Conflict(StackdError):
    """The request contradicts the current state."""

    code = ErrorCode.CONFLICT


class TemplateChanged(StackdError):
    """The template is not the one that the client has seen."""

    code = ErrorCode.TEMPLATE_CHANGED


class TemplateGone(Conflict):
    """There is no such template any more."""

    code = ErrorCode.TEMPLATE_GONE

    def __init__(self, name: str | None) -> None:
        super().__init__(f"there is no template {name} any more")


class StackDeleting(Conflict):
    """Nothing more can be done to a stack that is being deleted."""

    code = ErrorCode.STACK_DELETING

    def __init__(self, stack_id: str) -> None:
        super().__init__(f"{stack_id} is being deleted")


class LabelLimitReached(Conflict):
    """As many stacks as ``limits.stacks_per_label`` allows have this value of the label; ``stack_id`` is the oldest.

    ``same`` is the oldest with all labels of the request; empty if there is none.
    """

    code = ErrorCode.LABEL_LIMIT_REACHED

    def __init__(self, message: str, stack_id: str, *, same: str = "") -> None:
        super().__init__(message)
        self.stack_id = stack_id
        self.same = same


class LabelCostReached(LabelLimitReached):
    """The stacks with this value of the label cost ``used`` of ``limit`` (``limits.cost_per_label``), and this one would cost
    ``cost``. ``stack_id`` is the oldest of those whose end alone would make room; empty if there is none."""

    code = ErrorCode.LABEL_COST_REACHED

    def __init__(self, label: str, *, used: int, limit: int, cost: int, stack_id: str = "", same: str = "") -> None:
        sentence = f"label {label} uses {used} of {limit} (limits.cost_per_label), and this stack costs {cost}"
        super().__init__(f"{sentence}; without {stack_id}, it fits" if stack_id else sentence, stack_id, same=same)
        self.budget = f"You use {used} of {limit}; this one costs {cost}."


class TooLongALife(Conflict):
    """An extension beyond ``stacks.max_ttl``; ``most`` is the longest possible one in words, empty if there is none."""

    code = ErrorCode.TOO_LONG_A_LIFE

    def __init__(self, message: str, most: str) -> None:
        super().__init__(message)
        how = f"can be extended by {most} at most" if most else "cannot be extended any more"
        self.extensible = f"This instance {how}."


class TemplateClosed(Conflict):
    """It is not the time for stacks of the template; ``when`` is the time, with its zone, at which it opens, or has closed."""

    code = ErrorCode.TEMPLATE_CLOSED

    def __init__(self, name: str, when: str, *, closed: bool) -> None:
        word = "closed" if closed else "opens"
        super().__init__(f"the template {name} {word} at {when}")
        self.hours = f"This {word} at {when}."


class RequestTooLarge(StackdError):
    """The body is larger than ``server.max_body``."""

    code = ErrorCode.REQUEST_TOO_LARGE


class TooManyRequests(StackdError):
    """A limit is exceeded until ``retry_after`` seconds from now."""

    code = ErrorCode.TOO_MANY_REQUESTS

    def __init__(self, message: str, retry_after: int = 1, *, code: ErrorCode | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class Unavailable(StackdError):
    """The request cannot be done now; ``retry_after`` says after how many seconds a retry may help."""

    code = ErrorCode.UNAVAILABLE
    stays = False
    default_retry_after = 5

    def __init__(
        self, message: str, retry_after: int | None = None, *, detail: str = "", code: ErrorCode | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after or self.default_retry_after
        self.detail = detail


class NothingFree(Unavailable):
    """There is no room for another stack, of whatever kind."""

    stays = True
    default_retry_after = 30


class MaxStacksReached(NothingFree):
    """Clients have as many stacks as ``limits.max_stacks`` allows."""

    code = ErrorCode.MAX_STACKS_REACHED


class NoNodePort(NothingFree):
    """Every node port of the range is held."""

    code = ErrorCode.NO_NODE_PORT


class NoRoom(NothingFree):
    """No node takes the pod."""

    code = ErrorCode.NO_ROOM


class QuotaExceeded(NothingFree):
    """The namespace's ResourceQuota refuses."""

    code = ErrorCode.QUOTA_EXCEEDED


class Held(Unavailable):
    """A brake is on until the operator has looked (invariant 8)."""

    code = ErrorCode.HELD
    default_retry_after = 60


class ShuttingDown(Unavailable):
    """The daemon is stopping."""

    code = ErrorCode.SHUTTING_DOWN


class NotOwner(Unavailable):
    """This stackd does not own the stacks, or is not sure that it still does: it changes nothing."""

    code = ErrorCode.NOT_OWNER


class StoreUnavailable(Unavailable):
    """The file cannot be written now (disk full, read-only, locked)."""

    code = ErrorCode.STORE_UNAVAILABLE


class ClusterUnavailable(Unavailable):
    """Kubernetes is unreachable or overloaded, or it rejects stackd's credentials or requests."""

    code = ErrorCode.CLUSTER_UNAVAILABLE


class NamespaceMissing(ClusterUnavailable):
    """The namespace of the stacks does not exist, or is being terminated. Waiting does not help."""

    code = ErrorCode.NAMESPACE_MISSING


class ClusterUnreachable(ClusterUnavailable):
    """No connection to Kubernetes could be made: the request was not sent."""


class NoRequestSlot(ClusterUnavailable):
    """Too many of stackd's own requests were under way: this one was not sent."""


class ClusterTimeout(ClusterUnavailable):
    """No answer came within the timeout of one try; the request may have been done."""


class StillThere(ClusterUnavailable):
    """A deleted object is not gone yet: it has a finalizer, or its node has not reported that its containers ended."""

    code = ErrorCode.STILL_THERE
    stays = True


class NotYet(ClusterUnavailable):
    """Kubernetes has not done within the time what somebody waits for; stackd goes on with it."""

    stays = True


class StillToDo(ClusterUnavailable):
    """What was asked for is in the file, and not done yet: stackd keeps trying."""

    stays = True


class NameTaken(ClusterUnavailable):
    """Somebody else's object has the name of a stack's object, and stays although stackd has deleted it."""

    stays = True


class ClusterSilent(ClusterUnavailable):
    """Nothing has come over an open watch for a long time: it may be dead, or nothing happens."""


class UnexpectedAnswer(ClusterUnavailable):
    """A response that Kubernetes would not give to the request. It proves neither success nor failure.

    ``excerpt`` quotes the response. It is for the log only: clients must not see the text of a load balancer or proxy.
    """

    def __init__(self, message: str, excerpt: str = "") -> None:
        super().__init__(message)
        self.excerpt = excerpt


class AnswerTooLarge(UnexpectedAnswer):
    """A response, as it is when unpacked, has more bytes than stackd reads."""

    stays = True


class ClusterRefused(ClusterUnavailable):
    """Kubernetes refuses stackd's credentials or its request, or stackd does not trust Kubernetes' certificate.

    Waiting does not help.
    """

    code = ErrorCode.CLUSTER_REFUSED
    stays = True


class KindNotServed(ClusterRefused):
    """The API server does not know this kind of object: its CRD is not installed. So there are no objects of it."""


class ClusterOverloaded(ClusterUnavailable):
    """Kubernetes is overloaded; ``retry_after`` is its own Retry-After, not a guess."""


class StoreError(StackdError):
    """The file is unusable: corrupt, written by a newer stackd, or held by another process."""


class ClusterError(StackdError):
    """A refusal of the cluster that the caller handles."""


class ObjectNotFound(ClusterError):
    """The object does not exist."""


class ObjectExists(ClusterError):
    """An object of that name already exists."""


class PreconditionFailed(ClusterError):
    """The object of that name was changed or replaced."""


class VersionExpired(ClusterError):
    """The resourceVersion or the page's token is too old: list again."""


class NodePortTaken(ClusterError):
    """Another Service holds ``node_port``."""

    def __init__(self, message: str, node_port: int) -> None:
        super().__init__(message)
        self.node_port = node_port


class NodePortOutOfRange(ClusterError):
    """``node_port`` is outside the cluster's node port range; ``cluster`` is that range (first, last)."""

    def __init__(self, message: str, node_port: int, cluster: tuple[int, int]) -> None:
        super().__init__(message)
        self.node_port = node_port
        self.cluster = cluster
