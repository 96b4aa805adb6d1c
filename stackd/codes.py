"""The codes of errors: what each means, its status, whether to repeat the request, and what a player may read.

``docs/errors.md`` and the OpenAPI document are made from this table. A code is stable: its meaning never changes, and a
later version may add others. Knows nothing of exceptions or HTTP.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

NO: Final = "no"
FIX: Final = "no, change the request"
WAIT: Final = "after `Retry-After`"


@dataclass(slots=True)
class Host:
    """Whom players ask: one name for all that the process says, that of the ``play.host_name`` in force."""

    name: str = "the organisers"


HOST: Final = Host()

ORGANISERS: Final = "This does not work as it is set up. Please tell {host}."
ROOM: Final = "There is no room for another instance right now. Try again in a few minutes, or ask {host}."
LATER: Final = "This is not possible right now. Try again in a few minutes, or ask {host}."
ENDED: Final = "Your instance has ended. Start a new one."
NEW_LINK: Final = "This link does not work any more. Ask {host} for a new one."
MOMENT: Final = "Your instance is busy. Try again in a moment."
NEW_ONE: Final = "Your instance cannot do this any more. Stop it and start a new one."
SHARED: Final = "Everybody shares this instance. It is kept running, and nobody has to start it."
RELOAD: Final = "Your session has expired. Reload the page."
NOTHING_THERE: Final = "This is not there, or no longer. Reload the page, or ask {host}."
BUSY: Final = "Too much is asked for right now. Try again in {retry_after} s."


class ErrorCode(enum.StrEnum):
    """The code of an error. ``says`` is what a player may read; ``{…}`` in it is an attribute of the exception, or the host."""

    status: int
    about: str
    repeat: str
    says: str

    def __new__(cls, code: str, status: int, about: str, repeat: str, says: str = ORGANISERS) -> ErrorCode:
        """A text with the columns of the table."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.status, member.about, member.repeat, member.says = status, about, repeat, says
        return member

    @property
    def players(self) -> str:
        """What a player may read, whatever the exception is."""
        return for_players(self.says)

    INVALID_REQUEST = "invalid_request", 400, "The body, a header or a parameter's value is wrong.", FIX
    UNKNOWN_FIELD = "unknown_field", 400, "The body has a field that the route does not have.", FIX
    UNKNOWN_PARAMETER = "unknown_parameter", 400, "The query has a parameter that the route does not have.", FIX
    INVALID_POD_SPEC = "invalid_pod_spec", 400, "The policy or the cluster refuses the pod spec; see `reasons`.", FIX
    INVALID_TEMPLATE = "invalid_template", 400, "The text is not that of a template; see `reasons`.", FIX
    LIMIT_RANGE_VIOLATION = "limit_range_violation", 400, "The namespace's LimitRange refuses the pod.", FIX
    LABELS_REQUIRED = "labels_required", 400, "A label of `limits.required_labels` is missing.", FIX
    TEMPLATE_NOT_FOUND = "template_not_found", 400, "The key may use no template of this name.", FIX
    SIGN_IN_FAILED = (
        *("sign_in_failed", 400, "The issuer of `auth.oidc` refuses, or the sign-in was begun elsewhere."),
        *(NO, "You could not be signed in. Try again, or tell {host}."),
    )
    INVALID_ENV = "invalid_env", 400, "The template has no such variable, or the value does not match its pattern.", FIX
    UNAUTHENTICATED = (
        *("unauthenticated", 401, "The API key is missing or wrong."),
        *(NO, "You are not let in. If you have a link, open it again; else tell {host}."),
    )
    LINK_INVALID = "link_invalid", 401, "The link of a player is not complete, or not one of this stackd.", NO, NEW_LINK
    LINK_EXPIRED = "link_expired", 401, "The link of a player has expired.", NO, NEW_LINK
    LINK_REVOKED = "link_revoked", 401, "The link of a player was revoked.", NO, NEW_LINK
    CODE_INVALID = (
        *("code_invalid", 401, "No link has the short code, or not any more."),
        *(NO, "This code does not work. Read it again, or ask {host} for a new one."),
    )
    LINK_REPLACED = (
        *("link_replaced", 401, "Of `/play`: the browser has opened another link than the one that `X-Play` names."),
        *(NO, "Another link was opened in this browser. To go on with this one, open it again."),
    )
    PERMISSION_DENIED = "permission_denied", 403, "The scope of the API key does not cover the request.", NO
    TEMPLATES_ONLY = "templates_only", 403, "The key may name a template, but send no pod spec.", FIX
    SHARED_STACK = (
        *("shared_stack", 403, "stackd keeps the stack for everybody: only an admin's key may change it."),
        *(NO, SHARED),
    )
    CROSS_SITE = (
        *("cross_site", 403, "Of `/play`: another site's page sent this, or it lacks the header `X-Play`."),
        *(NO, RELOAD),
    )
    STACK_NOT_FOUND = "stack_not_found", 404, "There is no such stack; it may have expired.", NO, ENDED
    JOB_NOT_FOUND = (
        *("job_not_found", 404, "There is no such job, or no longer (`batch_delete.keep_jobs`)."),
        *(NO, NOTHING_THERE),
    )
    NO_SUCH_TEMPLATE = (
        *("no_such_template", 404, "There is no such template, or the key may not use it."),
        *(NO, NOTHING_THERE),
    )
    LINK_NOT_FOUND = "link_not_found", 404, "There is no such link, or it has expired.", NO, NOTHING_THERE
    MEMBER_NOT_FOUND = "member_not_found", 404, "The stack has no member of this name.", NO, NOTHING_THERE
    LOG_NOT_FOUND = "log_not_found", 404, "The pod is gone, and stackd kept no log of it.", NO, NOTHING_THERE
    NOT_FOUND = "not_found", 404, "There is no such route, page or file.", NO, NOTHING_THERE
    METHOD_NOT_ALLOWED = (
        *("method_not_allowed", 405, "The path has no such method; `Allow` lists those that it has."),
        *(NO, NOTHING_THERE),
    )
    REQUEST_TIMEOUT = (
        *("request_timeout", 408, "The request did not arrive within `limits.slow_client_timeout`."),
        *("yes", "Your request took too long. Try again."),
    )
    CONFLICT = "conflict", 409, "The state of the stack or of the cluster does not allow it.", NO, MOMENT
    LABEL_LIMIT_REACHED = (
        *("label_limit_reached", 409, "`limits.stacks_per_label` is reached; `stack_id` is an existing stack."),
        *("after a delete", "You have as many instances as you may have. Stop one before you start another."),
    )
    LABEL_COST_REACHED = (
        *(
            "label_cost_reached",
            409,
            "The stack costs more than `limits.cost_per_label` leaves; `stack_id` makes room.",
        ),
        *("after a delete", "{budget}"),
    )
    TEMPLATE_OF_A_FILE = "template_of_a_file", 409, "A file has the template of this name; change the file.", NO
    TEMPLATE_LIMIT_REACHED = (
        *("template_limit_reached", 409, "The key has as many templates as it may have, or as large ones or pools."),
        "after a delete",
    )
    NO_TEMPLATE = "no_template", 409, "The stack was not created from a template, so it cannot be renewed.", NO, NEW_ONE
    TEMPLATE_GONE = "template_gone", 409, "There is no such template any more.", NO, NEW_ONE
    TEMPLATE_CLOSED = (
        *("template_closed", 409, "The template's `opens` is not reached, or its `closes` is; `error` has the time."),
        *("once it is open", "{hours}"),
    )
    TEMPLATE_PORTS_CHANGED = (
        *("template_ports_changed", 409, "The template has other ports by now than the stack."),
        *(NO, "The challenge has changed. Stop your instance and start a new one."),
    )
    TOO_LONG_A_LIFE = "too_long_a_life", 409, "The stack would live longer than `stacks.max_ttl`.", FIX, "{extensible}"
    STACK_CREATING = "stack_creating", 409, "The stack is still being created.", "after its create", MOMENT
    STACK_DELETING = "stack_deleting", 409, "The stack is being deleted.", NO, ENDED
    STACK_EXPIRED = "stack_expired", 409, "The stack has reached its `ttl_expires_at`.", NO, ENDED
    STACK_ENDED = "stack_ended", 409, "The stack's pod has ended, so it cannot be extended or stopped.", NO, ENDED
    PORT_TAKEN = "port_taken", 409, "Another stack has the ended stack's node port by now.", NO, ENDED
    SHARED_TEMPLATE = (
        *("shared_template", 409, "All share the template's one stack: there is nothing to create."),
        *(NO, SHARED),
    )
    NO_CHECK = "no_check", 409, "The stack's template has no check.", NO
    NO_POD = "no_pod", 409, "The stack has no pod now, so it has no log.", "once it runs", MOMENT
    POD_SPEC_NOT_ALLOWED = "pod_spec_not_allowed", 409, "The policy no longer allows the stack's pod spec.", NO, NEW_ONE
    ANSWER_GONE = "answer_gone", 409, "What the Idempotency-Key created is gone.", "with another key", ENDED
    PLAY_NOT_CONFIGURED = (
        "play_not_configured",
        409,
        "There are no links here: `play.url` or the secret is not set.",
        NO,
    )
    NOT_STANDBY = "not_standby", 409, "A takeover was asked of a stackd that is no standby.", NO
    NO_OWNER = "no_owner", 409, "No stackd owns the stacks, so none can be asked to hand them over.", NO
    TEMPLATE_CHANGED = "template_changed", 412, "The template is not, or not any more, the one of `If-Match`.", FIX
    REQUEST_TOO_LARGE = "request_too_large", 413, "Over `server.max_body`, or `batch_delete.max_ids`.", FIX
    UNSUPPORTED_CODING = "unsupported_coding", 415, "The body is compressed.", FIX
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused", 422, "The Idempotency-Key belongs to another body.", FIX
    TOO_MANY_REQUESTS = (
        *("too_many_requests", 429, "The key has exceeded one of its limits; `error` names it."),
        *(WAIT, "Many instances are being started right now. Try again in {retry_after} s."),
    )
    LABEL_RATE_EXCEEDED = (
        *("label_rate_exceeded", 429, "`limits.creates_per_label` is exceeded."),
        *(WAIT, "You have started instances too often. Try again in {retry_after} s."),
    )
    TOO_MANY_VISITORS = (
        *("too_many_visitors", 429, "This address has opened too many open links as somebody new."),
        *(WAIT, "Many people have opened this link from here. Try again in {retry_after} s."),
    )
    TOO_MANY_WRONG_CODES = (
        *("too_many_wrong_codes", 429, "Too many wrong short codes were typed, at this address or everywhere."),
        *(WAIT, "Too many wrong codes were typed here. Try again in {retry_after} s, or open the link itself."),
    )
    TOO_MANY_WRONG_KEYS = "too_many_wrong_keys", 429, "This address has sent too many wrong API keys.", WAIT, BUSY
    TOO_MANY_CONNECTIONS = "too_many_connections", 429, "The key has too many open connections.", WAIT, BUSY
    TOO_MANY_STREAMS = "too_many_streams", 429, "The key has too many open event streams.", WAIT, BUSY
    TOO_MANY_JOBS = "too_many_jobs", 429, "The key's jobs have too many stacks that wait.", WAIT, BUSY
    HEAD_TOO_LARGE = "head_too_large", 431, "The request line or the headers are too long.", FIX
    INTERNAL_ERROR = (
        *("internal_error", 500, "A defect in stackd; its log has the trace, by `X-Request-ID`."),
        *(NO, "That did not work. Try again in a minute, or tell {host}."),
    )
    UNAVAILABLE = "unavailable", 503, "stackd as a whole has too much to do; `error` says what.", WAIT, LATER
    MAX_STACKS_REACHED = "max_stacks_reached", 503, "`limits.max_stacks` is reached.", WAIT, ROOM
    NO_NODE_PORT = "no_node_port", 503, "Every node port of the range is in use.", WAIT, ROOM
    NO_ROOM = "no_room", 503, "No node has room for the pod.", WAIT, ROOM
    QUOTA_EXCEEDED = "quota_exceeded", 503, "The namespace's ResourceQuota refuses the pod or its Service.", WAIT, ROOM
    HELD = "held", 503, "A brake is on, or no NetworkPolicy isolates the stacks: the operator has to act.", WAIT, LATER
    SHUTTING_DOWN = "shutting_down", 503, "stackd is stopping or restarting.", WAIT, LATER
    NOT_OWNER = "not_owner", 503, "Another stackd owns the stacks, or may own them.", WAIT, LATER
    STORE_UNAVAILABLE = "store_unavailable", 503, "The state file cannot be written now.", WAIT, LATER
    CLUSTER_UNAVAILABLE = "cluster_unavailable", 503, "Kubernetes does not answer, or has not done it yet.", WAIT, LATER
    CLUSTER_REFUSED = "cluster_refused", 503, "Kubernetes refuses stackd: the operator has to act.", WAIT, LATER
    NAMESPACE_MISSING = "namespace_missing", 503, "The namespace of the stacks is missing.", WAIT, LATER
    STILL_THERE = "still_there", 503, "The pod or Service is not gone yet; stackd keeps deleting it.", WAIT, MOMENT
    NOT_READY = "not_ready", 503, "Of `GET /readyz`: something does not work; see `reasons`.", WAIT, LATER


def for_players(sentence: str, values: Mapping[str, object] | None = None) -> str:
    """The sentence with these values and the name of the host in it."""
    said = sentence if values is None else sentence.format_map({**values, "host": "{host}"})
    return said.replace("{host}", HOST.name)
