"""The error tree. Each boundary translates once, with ``raise … from exc``; ``web/responses.py`` has the statuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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


NO_ROOM = "There is no room for another instance right now. Try again in a few minutes, or ask the organisers."


class StackdError(Exception):
    """The root of the tree. ``sentence`` may be shown to any client.

    ``detail`` is the text of a library, a socket or the cluster's scheduler, for the operator only. ``str()`` has both.
    ``player_message`` is what a platform can show to a player, who knows nothing of stackd; empty for most errors.
    """

    detail = ""
    player_message = ""

    @property
    def sentence(self) -> str:
        """What is wrong, in stackd's own words."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.sentence}: {self.detail}" if self.detail else self.sentence


def public_text(error: StackdError) -> str:
    """What a client is told about the cause of another error. Hides a ClusterError, because it quotes Kubernetes."""
    return "the cluster refuses it" if isinstance(error, ClusterError) else error.sentence


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

    def __init__(self, message: str, reasons: Sequence[Reason] = ()) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)


class InvalidPodSpec(InvalidRequest):
    """The pod spec is not acceptable; ``reasons`` holds all reasons, in the order in which they were found."""

    def __init__(self, reasons: Sequence[Reason]) -> None:
        super().__init__("invalid pod spec: " + "; ".join(map(str, reasons)), reasons)


class LimitRangeViolation(InvalidRequest):
    """The namespace's LimitRange refuses the pod."""


class Unauthenticated(StackdError):
    """No key, or a wrong one."""


class PermissionDenied(StackdError):
    """The key is valid and its scope does not allow the request."""


class NotFound(StackdError):
    """The requested thing does not exist."""


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
    """The request contradicts the current state."""


class LabelLimitReached(Conflict):
    """As many stacks as ``limits.stacks_per_label`` allows have this value of the label; ``stack_id`` is the oldest.

    ``same`` is the oldest with all labels of the request; empty if there is none.
    """

    player_message = "You have as many instances as you may have. Stop one before you start another."

    def __init__(self, message: str, stack_id: str, *, same: str = "") -> None:
        super().__init__(message)
        self.stack_id = stack_id
        self.same = same


class TooLongALife(Conflict):
    """An extension beyond ``stacks.max_ttl``; ``most`` is the longest possible one in words, empty if there is none."""

    def __init__(self, message: str, most: str) -> None:
        super().__init__(message)
        self.player_message = (
            f"This instance can be extended by {most} at most."
            if most
            else "This instance cannot be extended any more."
        )


class IdempotencyKeyReused(StackdError):
    """The Idempotency-Key was used with another body before."""


class RequestTooLarge(StackdError):
    """The body is larger than ``server.max_body``."""


class UnsupportedCoding(StackdError):
    """The body has a Content-Encoding."""


class TooManyRequests(StackdError):
    """A limit per key is reached; ``{wait}`` in the player's message becomes ``retry_after`` in seconds."""

    def __init__(self, message: str, retry_after: int = 1, *, player_message: str = "") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.player_message = player_message.format(wait=f"{retry_after} s")


class Unavailable(StackdError):
    """The request cannot be done now; ``retry_after`` says after how many seconds a retry may help."""

    default_retry_after = 5

    def __init__(
        self, message: str, retry_after: int | None = None, *, detail: str = "", player_message: str = ""
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after or self.default_retry_after
        self.detail = detail
        self.player_message = player_message or self.player_message


class NothingFree(Unavailable):
    """There is no room for another stack, of whatever kind."""

    default_retry_after = 30
    player_message = NO_ROOM


class NoNodePort(NothingFree):
    """Every node port of the range is held."""


class NoRoom(NothingFree):
    """No node takes the pod."""


class QuotaExceeded(NothingFree):
    """The namespace's ResourceQuota refuses."""


class Held(Unavailable):
    """A brake is on until the operator has looked (invariant 8)."""

    default_retry_after = 60


class ShuttingDown(Unavailable):
    """The daemon is stopping."""


class NotOwner(Unavailable):
    """This stackd does not own the stacks, or is not sure that it still does: it changes nothing."""


class StoreUnavailable(Unavailable):
    """The file cannot be written now (disk full, read-only, locked)."""


class ClusterUnavailable(Unavailable):
    """Kubernetes is unreachable or overloaded, or it rejects stackd's credentials or requests."""


class NamespaceMissing(ClusterUnavailable):
    """The namespace of the stacks does not exist, or is being terminated. Waiting does not help."""


class ClusterUnreachable(ClusterUnavailable):
    """No connection to Kubernetes could be made: the request was not sent."""


class NoRequestSlot(ClusterUnavailable):
    """Too many of stackd's own requests were under way: this one was not sent."""


class ClusterTimeout(ClusterUnavailable):
    """No answer came within the timeout of one try; the request may have been done."""


class StillThere(ClusterUnavailable):
    """A deleted object is not gone yet: it has a finalizer, or its node has not reported that its containers ended."""


class NotYet(ClusterUnavailable):
    """Kubernetes has not done within the time what somebody waits for; stackd goes on with it."""


class NameTaken(ClusterUnavailable):
    """Somebody else's object has the name of a stack's object, and stays although stackd has deleted it."""


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


class ClusterRefused(ClusterUnavailable):
    """Kubernetes refuses stackd's credentials or its request, or stackd does not trust Kubernetes' certificate.

    Waiting does not help.
    """


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
