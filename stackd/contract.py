"""The API's bodies as msgspec structs: what each field means, and in which order fields are sent.

The server renders its answers with them, checks requests with them, and describes them in ``/openapi.json``. The client
returns them. Times are RFC 3339 in UTC on the wire and aware datetimes in Python, which keep six of nine digits of a
fraction. Imports nothing but msgspec: each program that uses ``stackd.client`` loads this.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

from msgspec import NODEFAULT, Meta, Struct, convert, structs
from msgspec.structs import asdict, force_setattr, replace

T = TypeVar("T")
EPOCH = datetime.fromtimestamp(0, UTC)

StackStatus = Literal["creating", "running", "stopped", "failed", "node_deleted", "deleted"]
"""``deleted`` is not a status of the API: the client can wait for it, and then returns it."""

STATUSES = get_args(StackStatus)[:-1]
Scope = Literal["admin", "read", "metrics", "tenant"]
SCOPES = get_args(Scope)
JobStatus = Literal["queued", "running", "completed", "failed"]
JobAction = Literal["extend", "restart", "stop", "start", "delete", "create", "renew"]
AuditAction = Literal["refused", "reload", "keys", "takeover", "sign_in", "template", "link", "values", "message"]
TemplateSource = Literal["file", "api", "cluster"]
TemplateTrouble = Literal["shadowed", "missing", "faulty", "stale"]
ProblemKey = Literal[
    "image",
    "config",
    "no_address",
    "pull",
    "crash",
    "memory",
    "ended",
    "node",
    "stopped",
    "failed",
    "not_ready",
    "unhealthy",
]
EventName = Literal["hello", "stack", "left", "deleted", "job", "reset", "dropped"]
ITEM_STATES = ("pending", "started", "done", "not_found", "failed")
AUDIT = get_args(AuditAction)
ACTIONS = (*get_args(JobAction), "label", *AUDIT)
ROUTES = ("http", "https", "tls")
PROTOCOLS = ("TCP", "UDP")
LARGEST_PORT = 65535
A_STACK = "stack-716b6384dd477b0b"  # in examples
MAX_TARGET_PORTS = 24
LONGEST_NAME = 253
LONGEST_VALUE = 2048  # of a value that somebody asks about
LONGEST_ERROR = 4096

PORT = {"minimum": 1, "maximum": LARGEST_PORT}
CPU = "CPU that is reserved for it, in thousandths of a core."
MEMORY = "Memory that is reserved for it."
SENTENCE = "What is wrong, in a sentence."
YAML = {"contentMediaType": "application/yaml"}
A_DURATION = r"(?:0|(?:[0-9]+(?:\.[0-9]+)?(?:d|h|m|s|ms))+)"
DURATION = {"pattern": f"^{A_DURATION}$", "format": "stackd-duration", "examples": ["30m"]}
BARE_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
MOST_MEMBERS = 8
MEMBER_NAME = r"(?!(?:localhost|ingress)$)[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?"
MEMBER_NAME_FORM = (
    'at most 32 lower-case letters, digits and inner hyphens, a letter first, and neither "localhost" nor "ingress"'
)
BARE_KEY_FORM = "at most 63 letters, digits, and inner hyphens, dots and underscores"


class Table(dict[str, T]):
    """A mapping that is never changed, so it has a hash."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"a {type(self).__name__} cannot be changed")

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = setdefault = clear = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)


NOTHING: Mapping[str, Any] = Table()


def expects(what: str, **bounds: Any) -> Meta:
    """Bounds of a value in a request, which are checked; ``what`` would be right, as a noun phrase."""
    return Meta(extra={"expects": what}, **bounds)


# The types of values in requests.
PortNumber = Annotated[int, Meta(ge=1, le=LARGEST_PORT)]
Protocol = Annotated[str, expects("TCP or UDP", pattern=r"\A(?:[Tt][Cc][Pp]|[Uu][Dd][Pp])\Z")]
Duration = Annotated[
    str,
    expects('a duration such as "30m", "1h30m" or "90s"', pattern=rf"\A{A_DURATION}\Z", extra_json_schema=DURATION),
]
LabelKey = Annotated[str, expects(BARE_KEY_FORM, pattern=rf"\A{BARE_KEY}\Z")]
Labels = Annotated[
    Mapping[
        LabelKey,
        Annotated[str, expects(f"a string of {BARE_KEY_FORM}", pattern=rf"\A(?:{BARE_KEY})?\Z")],
    ],
    expects('an object of at most 16 labels, such as {"team": "7"}', max_length=16),
]
LabelChanges = Annotated[
    Mapping[
        LabelKey,
        Annotated[str, expects(f"a string of {BARE_KEY_FORM}, or null", pattern=rf"\A(?:{BARE_KEY})?\Z")] | None,
    ],
    expects('an object of at most 16 labels, such as {"team": "7", "seat": null}', max_length=16),
]
StackIds = Annotated[
    tuple[
        Annotated[
            str,
            Meta(description="An id; blanks around it are ignored.", min_length=1, max_length=LONGEST_NAME),
            expects(
                f"a stack's id, of 1 to {LONGEST_NAME} characters that are not all blank", pattern=r"[^\s\x1c-\x1f\x85]"
            ),
        ],
        ...,
    ],
    expects("a list of at least one stack's id", min_length=1),
]
Env = Annotated[
    Mapping[str, Any],
    expects(
        'an object such as {"TEAM": "7"}',
        extra_json_schema={"additionalProperties": {"type": "string", "maxLength": 256}},
    ),
]
TemplateName = Annotated[
    str, expects("a template's name", min_length=1, extra_json_schema={"format": "stackd-template"})
]


class Body(Struct, frozen=True, kw_only=True, dict=True):
    """The base of all bodies, which are never changed."""

    optional: ClassVar[tuple[str, ...]] = ()
    """The fields that an answer leaves out while they have their default. A request may lack all that have one."""

    unshown: ClassVar[tuple[str, ...]] = ("pod_spec", "values", "env", "token")
    """The fields that ``repr`` leaves out: a log is read by people who may not know a flag or use a link."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if type(value := getattr(self, name)) in (dict, MappingProxyType):
                force_setattr(self, name, Table(value))

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        """The body in JSON that was read. Fields that it lacks have their defaults. Raises ValueError."""
        return _restored(convert(_absent(cls) | dict(raw), cls), {"raw": raw})

    @property
    def raw(self) -> Mapping[str, Any]:
        """The JSON that a client has read, with the fields that a later stackd adds."""
        raw: Mapping[str, Any] = self.__dict__.get("raw", NOTHING)
        return raw

    def replaced(self, **changes: Any) -> Self:
        """The same with other values; ``raw`` stays."""
        return _restored(replace(self, **changes), self.__dict__)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.__struct_fields__ if name not in self.unshown]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> Any:
        return _rebuilt, (type(self), asdict(self), dict(self.__dict__))


class Request(Body, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of the bodies of requests, which have no other fields; null stands for absent."""


B = TypeVar("B", bound=Body)


def _restored(body: B, more: Mapping[str, Any]) -> B:
    body.__dict__.update(more)
    return body


def _rebuilt(kind: type[B], values: Mapping[str, Any], more: Mapping[str, Any]) -> B:
    return _restored(kind(**values), more)


def is_body(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Body)


class Field(NamedTuple):
    """A field of a body in JSON. Its annotation says what it means (``about``), and the ``keywords`` of JSON Schema that its
    type does not say, which are not checked. ``optional``: an answer may lack it. Without a ``default`` that is ``NODEFAULT``."""

    name: str
    kind: Any
    about: str
    keywords: Mapping[str, Any]
    default: Any
    optional: bool


@cache
def fields_of(kind: type[Body]) -> tuple[Field, ...]:
    """The fields of a body in JSON, in their order."""
    found = []
    for each in structs.fields(kind):
        if get_origin(each.type) is Annotated:
            typed, *more = get_args(each.type)
            about, *keywords = [one for one in more if not isinstance(one, Meta)]
            for bound in more:
                typed = Annotated[typed, bound] if isinstance(bound, Meta) else typed
            optional = each.name in kind.optional or (issubclass(kind, Request) and not each.required)
            found.append(Field(each.name, typed, about, dict(*keywords), each.default, optional))
    return tuple(found)


# ---- stacks


class Port(Body, frozen=True, kw_only=True):
    """A published port. One with a name has a ``url`` or a ``host`` (``name:port``, for TLS) instead of a node port."""

    container_port: Annotated[int, "The container's port.", PORT]
    protocol: Annotated[str, "Its protocol.", {"enum": PROTOCOLS}] = "TCP"
    node_port: Annotated[int, "The port on the node's address that leads to it, if it has no name.", PORT] = 0
    url: Annotated[str, "Where it is reached, only if it has `route` http or https."] = ""
    host: Annotated[str, "Name and port at which it is reached with TLS, only if it has `route` tls."] = ""
    route: str = ""
    """In a request of a client: by what the port is reached at a name of its own; one of ``ROUTES``."""

    optional = ("node_port", "url", "host")


class Address(Body, frozen=True, kw_only=True):
    """Where one port of a stack is reached."""

    port: Annotated[int, "The container's port.", PORT]
    protocol: Annotated[str, "Its protocol.", {"enum": PROTOCOLS}] = "TCP"
    text: Annotated[str, "What people type or copy: host and port (an IPv6 address in brackets), or a URL."] = ""
    url: Annotated[str, "What a browser opens; left out for what is probably no website."] = ""

    optional = ("url",)

    def __str__(self) -> str:
        return self.text


class Problem(Body, frozen=True, kw_only=True):
    """Why a stack cannot be used as it is."""

    key: Annotated[
        str,
        "`image`: its image cannot be pulled; `pull`: so far, and it is tried again; `config`: it cannot be started as it is "
        "set up; `no_address`: its node has none; `crash`, `memory`, `ended`: what its program did; `node`: its node is "
        "gone; `stopped`: somebody stopped it; `not_ready`: it runs, and is not ready; `unhealthy`: its check fails; "
        "`failed`: anything else.",
        {"enum": get_args(ProblemKey)},
    ]
    player_message: Annotated[str, "What a player may read about it."] = ""
    restart: Annotated[bool, "Whether a restart by its player may help."] = False
    guide: Annotated[
        str, "Where the guides say what to do about it, below `/docs/`: `troubleshooting#node--has-been-deleted`."
    ] = ""


class Member(Body, frozen=True, kw_only=True):
    """A pod of a stack beside its first one."""

    name: Annotated[str, "Its name, under which the other pods of the stack reach it."]
    pod_id: Annotated[str, "The pod's name."] = ""
    node_id: Annotated[str | None, "The node that the pod is on; null while there is none."] = None


class Stack(Body, frozen=True, kw_only=True):
    """A stack, its labels, and why its status is what it is. ``values`` are only in the answer to its create."""

    stack_id: Annotated[str, "StackId"] = ""
    pod_id: Annotated[str, "The pod's name."] = ""
    namespace: Annotated[str, "The pod's namespace."] = ""
    node_id: Annotated[str | None, "The node that the pod is on; null while there is none."] = None
    node_public_ip: Annotated[str | None, "The node's public address; null where none is known."] = None
    pod_spec: Annotated[
        str,
        "What runs: the request's pod spec, sanitized, as YAML. Those of members follow, each behind a line "
        "`--- # member NAME`.",
        YAML,
    ] = ""
    ports: Annotated[tuple[Port, ...], "Where it is reached: `node_public_ip:node_port`, or a name."] = ()
    service_name: Annotated[str, "The service's name."] = ""
    status: Annotated[str, "StackStatus"] = ""
    ttl_expires_at: Annotated[datetime, "When stackd deletes the stack."] = EPOCH
    created_at: Annotated[datetime, "When it was created."] = EPOCH
    updated_at: Annotated[datetime, "When a visible part of it last changed."] = EPOCH
    requested_cpu_milli: Annotated[int, CPU] = 0
    requested_memory_bytes: Annotated[int, MEMORY] = 0
    status_reason: Annotated[str, "Why the status is what it is, in one word; empty if there is nothing to say."] = ""
    status_message: Annotated[str, "The same in a sentence. It may quote the pod, so it is the tenant's text."] = ""
    labels: Annotated[Mapping[str, str], "Its labels."] = NOTHING
    ended: Annotated[bool, "Whether the pod has ended for good. Its ports and service are released."] = False
    addresses: Annotated[
        tuple[Address, ...], "Where its ports are reached: those that have an address; none once it has ended."
    ] = ()
    problem: Annotated[Problem | None, "Why it cannot be used; null while it can, starts, or is being deleted."] = None
    template: Annotated[str, "The template that it was made from; left out where there is none."] = ""
    title: Annotated[
        str,
        "What people call it: the title that its template had then, or the template's name; left out where there is none.",
    ] = ""
    shared: Annotated[
        bool, "Whether it is its template's one stack for everybody, which stackd keeps; left out where it is not."
    ] = False
    values: Annotated[
        Mapping[str, str],
        "What was generated for this stack, by the names of variables; left out where nothing was. No other answer has "
        "it, except a repetition with the same Idempotency-Key.",
    ] = NOTHING

    env: Annotated[
        Mapping[str, str], "The variables that its create has set, by name; left out where it has set none."
    ] = NOTHING
    members: Annotated[tuple[Member, ...], "Its pods beside the first one; left out where there is none."] = ()
    warnings: Annotated[
        tuple[str, ...], "Of a create: what it did otherwise than usual, in sentences; left out where nothing."
    ] = ()

    optional = ("template", "title", "shared", "values", "env", "members", "warnings")

    @property
    def address(self) -> str:
        """Where its first port is reached, ``203.0.113.7:31001`` or a URL; empty if it has no address yet, or no longer."""
        return next(map(str, self.addresses), "")


def host_and_port(host: str, port: object) -> str:
    """Host and port as one text; an IPv6 address is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def port_variables(addresses: Iterable[tuple[int, str]]) -> dict[str, str]:
    """The variables of a check: ``HOST``, ``PORT`` and ``URL`` of the first of these container ports with their addresses,
    and ``HOST_80``, … of each."""
    found: dict[str, str] = {}
    for container_port, address in addresses:
        url = address if "://" in address else f"http://{address}"
        parts = urlsplit(url)
        number = parts.port or (443 if parts.scheme == "https" else 80)
        each = {"HOST": parts.hostname or "", "PORT": str(number), "URL": url}
        found = each | found | {f"{name}_{container_port}": text for name, text in each.items()}
    return found


OF_CREATE = ("values", "warnings")
"""The fields of a stack that only the answer to its create has."""

STACK_FIELDS = tuple(each.name for each in fields_of(Stack) if each.name not in OF_CREATE)
"""The fields of a stack that can be read, in their order."""


class StackList(Body, frozen=True, kw_only=True):
    """Stacks by `created_at`, then id."""

    stacks: Annotated[
        tuple[Stack, ...],
        "With `fields`, only those of each.",
        {"items": {"$ref": "#/components/schemas/StackEntry"}},
    ]
    next_cursor: Annotated[str | None, "With `limit`: where the next page begins; null at the end."] = None

    optional = ("next_cursor",)


class StackStatusAnswer(Body, frozen=True, kw_only=True):
    """The short form of a stack."""

    stack_id: Annotated[str, "StackId"]
    status: Annotated[str, "StackStatus"]
    ttl: Annotated[datetime, "When stackd deletes the stack."]
    ports: Annotated[tuple[Port, ...], "Where the stack is reached: `node_public_ip:node_port`, or a name."]
    node_public_ip: Annotated[str | None, "The node's public address; null where none is known."]
    addresses: Annotated[tuple[Address, ...], "As those of the stack."] = ()
    problem: Annotated[Problem | None, "As that of the stack."] = None


class Deleted(Body, frozen=True, kw_only=True):
    """The stack is gone."""

    deleted: Annotated[Literal[True], "Always true."] = True
    stack_id: Annotated[str, "The stack's id."]


class Checked(Body, frozen=True, kw_only=True):
    """What the check of the template's author says of a stack."""

    stack_id: Annotated[str, "The stack's id."]
    healthy: Annotated[bool, "Whether the check has ended with exit code 0."]
    message: Annotated[str, "The last lines that it has written, without the stack's generated values."]
    seconds: Annotated[float, "How long it ran."]


class DryRun(Body, frozen=True, kw_only=True):
    """What a create would run."""

    dry_run: Annotated[Literal[True], "Always true."] = True
    pod_spec: Annotated[str, "What would run: the request's pod spec, sanitized, as YAML.", YAML]
    requested_cpu_milli: Annotated[int, CPU]
    requested_memory_bytes: Annotated[int, MEMORY]


class TimelineEvent(Body, frozen=True, kw_only=True):
    """Something that happened to a stack, ``count`` times."""

    at: Annotated[datetime, "When it happened."]
    kind: Annotated[str, "What happened."]
    reason: Annotated[str, "The reason in one word, such as `ImagePullBackOff`."] = ""
    message: Annotated[str, "In a sentence. It may quote the pod: treat it as the tenant's text."] = ""
    by: Annotated[str, "The name of the API key that asked for it, `stackd`, or `cluster`."] = ""
    count: Annotated[int, "How often it happened, if more than once.", {"minimum": 2}] = 1

    optional = ("count",)


class Timeline(Body, frozen=True, kw_only=True):
    """What happened to a stack."""

    stack_id: Annotated[str, "The stack's id."]
    events: Annotated[tuple[TimelineEvent, ...], "The oldest first."]


# ---- requests


class TargetPort(Request, frozen=True, kw_only=True):
    """A container port to publish."""

    container_port: Annotated[PortNumber, "As a container of the pod declares it; written without a fraction."]
    protocol: Annotated[Protocol, "TCP or UDP, in any case of letters.", {"enum": PROTOCOLS}]
    route: Annotated[
        Literal["http", "https", "tls"] | None,
        "Reach it at a name of its own instead of a node port (TCP only): `http`, `https`, or `tls` for other protocols "
        "in TLS (`routes.domain`).",
    ] = None


TargetPorts = Annotated[
    tuple[TargetPort, ...],
    expects(
        f'a list of 1 to {MAX_TARGET_PORTS} objects, such as [{{"container_port": 80, "protocol": "TCP"}}]',
        min_length=1,
        max_length=MAX_TARGET_PORTS,
        extra_json_schema={"uniqueItems": True},
    ),
]


class NewMember(Request, frozen=True, kw_only=True):
    """A pod beside the first one of a stack."""

    pod_spec: Annotated[
        str,
        "A Pod as YAML (or JSON), as that of the stack. The other pods of the stack reach the ports that its containers "
        "declare; nobody else does.",
        {"format": "stackd-pod-spec", **YAML},
    ]


MemberName = Annotated[str, expects(MEMBER_NAME_FORM, pattern=rf"\A{MEMBER_NAME}\Z")]
Members = Annotated[
    Mapping[MemberName, NewMember],
    expects(
        f'an object of at most {MOST_MEMBERS} members, such as {{"db": {{"pod_spec": "…"}}}}', max_length=MOST_MEMBERS
    ),
]


class Create(Request, frozen=True, kw_only=True):
    """A stack to create: a `pod_spec`, or a `template`."""

    target_port: Annotated[
        TargetPorts | None,
        "The ports to publish, each once; each must be declared by a container. If left out: all TCP and UDP ports "
        "that the containers declare.",
    ] = None
    pod_spec: Annotated[
        str | None,
        "A Pod as YAML (or JSON): one document. What it may use is the operator's policy; everything else is refused "
        "with its path. The text may have as many bytes as `limits.pod_spec` says, as it comes and with its aliases "
        "written out.",
        {"format": "stackd-pod-spec", **YAML},
    ] = None
    members: Annotated[
        Members | None,
        "With a `pod_spec`: more pods, by the names under which the pods of the stack reach each other. Only the first is "
        "published. All pod specs together may have as many bytes as `limits.pod_spec` says.",
    ] = None
    template: Annotated[
        TemplateName | None,
        "A template's name (`GET /templates`), instead of `target_port` and `pod_spec`. It has a `ttl` and `labels` of "
        "its own, which those of the request replace.",
    ] = None
    ttl: Annotated[Duration | None, "How long the stack lives, at most `stacks.max_ttl`."] = None
    labels: Annotated[
        Labels | None,
        "Labels to find it by; put on the pod as `label.stackd.io/…` too. Some may have to be given "
        "(`limits.required_labels`), and some be counted (`limits.stacks_per_label`, `limits.creates_per_label`).",
    ] = None
    env: Annotated[
        Env | None,
        "With a `template`: variables of the environment, each of its `env` and matching the pattern there as a whole. "
        "Everybody who may read the stack can read them.",
    ] = None
    if_exists: Annotated[
        Literal["error", "return"] | None,
        "Where `limits.stacks_per_label` is reached: `error` is a 409 that names an existing stack, `return` is a 200 "
        "with the existing stack that has all labels of the request, or a 409 if there is none.",
    ] = None


class Extend(Request, frozen=True, kw_only=True):
    """How much longer."""

    ttl: Annotated[Duration, "Added to `ttl_expires_at`; the whole life may be `stacks.max_ttl` at most."]


class StackChange(Request, frozen=True, kw_only=True):
    """What is to change of a stack."""

    labels: Annotated[
        LabelChanges,
        "Labels to set; null removes one. Those that are not named stay, and so do a tenant's and stackd's own.",
    ]


class Restart(Request, frozen=True, kw_only=True):
    """With which pod."""

    template: Annotated[
        Literal["latest"] | None,
        "`latest`: with that of the newest version of the stack's template. Its ports, names, labels, end, and the values "
        "that were generated for it stay.",
    ] = None


class BatchDelete(Request, frozen=True, kw_only=True):
    """Stacks to delete."""

    stack_ids: Annotated[StackIds, "Duplicates count once."]


class BatchCreate(Request, frozen=True, kw_only=True):
    """One stack to create."""

    template: Annotated[TemplateName | None, "Its template; replaces that of the job."] = None
    labels: Annotated[Labels | None, "As those of a create."] = None
    ttl: Annotated[Duration | None, "How long it lives; replaces the `ttl` of the job."] = None
    env: Annotated[Env | None, "As that of a create; replaces the `env` of the job."] = None


class Batch(Request, frozen=True, kw_only=True):
    """What to do, and with which stacks: `stack_ids` or `labels`; with `create`, `each` of the stacks and their `template`."""

    action: Annotated[JobAction, "What to do with each stack."]
    ttl: Annotated[
        Duration | None,
        "With `extend`: added to each `ttl_expires_at`, as for one stack. With `create`: how long each stack lives.",
    ] = None
    template: Annotated[TemplateName | None, "With `create`: the template of each that names none."] = None
    env: Annotated[Env | None, "With `create`: the variables that each stack sets."] = None
    each: Annotated[
        Annotated[
            tuple[BatchCreate, ...],
            expects('a list of stacks, such as [{"labels": {"player": "a"}}]', min_length=1),
        ]
        | None,
        "With `create`: the stacks, in any number up to that of ids.",
    ] = None
    if_exists: Annotated[
        Literal["error", "return"] | None,
        "With `create`: `return` takes a stack of the template that has not ended and has all labels of the entry, if "
        "there is one, and creates none beside it.",
    ] = None
    stack_ids: Annotated[StackIds | None, "Duplicates count once."] = None
    labels: Annotated[
        Annotated[Labels, expects('at least one label, such as {"challenge": "web-1"}', min_length=1)] | None,
        "Stacks with all of these labels.",
    ] = None


# ---- batch jobs


class JobError(Body, frozen=True, kw_only=True):
    """A failure. A stack that was not created has no id: its `index` in the request and its `labels` name it."""

    stack_id: Annotated[str, "The stack's id; empty if it was not created."]
    error: Annotated[str, "Why the action failed for this stack.", {"maxLength": 512}]
    code: Annotated[str, "ErrorCode"] = ""
    index: Annotated[int | None, "Of a stack that was not created: its place in `each`, from 0."] = None
    labels: Annotated[Mapping[str, str], "Of a stack that was not created: its labels."] = NOTHING

    optional = ("index", "labels")


class JobResult(Body, frozen=True, kw_only=True):
    """What became of one id of a job, or of one of the stacks that it creates."""

    index: Annotated[int, "Its place in the job, from 0; of a create, in `each`."]
    stack_id: Annotated[str, "The stack's id; empty while it is not created."]
    outcome: Annotated[str, "What became of it.", {"enum": ITEM_STATES}]
    error: Annotated[str, "Of the first 100 failures: why.", {"maxLength": 512}] = ""
    code: Annotated[str, "ErrorCode"] = ""
    labels: Annotated[Mapping[str, str], "Of a create: the labels of the stack."] = NOTHING
    values: Annotated[
        Mapping[str, str],
        "Of a create: what was generated for the stack. Only for the key that asked for the job.",
    ] = NOTHING

    optional = ("error", "code", "labels", "values")


FAILURES = {"minItems": 1, "maxItems": 100}


class JobAccepted(Body, frozen=True, kw_only=True):
    """The job is accepted."""

    job_id: Annotated[str, "Ask for its progress with this."]


class JobOfMany(Body, frozen=True, kw_only=True):
    """The job is accepted."""

    job_id: Annotated[str, "Ask for its progress with this."]
    total: Annotated[int, "How many stacks it has."]


class JobDryRun(Body, frozen=True, kw_only=True):
    """What a job would do: nothing has changed, and no job was started."""

    dry_run: Annotated[Literal[True], "Always true."] = True
    action: Annotated[str, "What it would do with each stack.", {"enum": get_args(JobAction)}]
    ttl: Annotated[str, "By how much it would extend each stack.", DURATION] = ""
    total: Annotated[int, "How many ids it would have."]
    not_found: Annotated[int, "How many of them belong to no stack."]
    stack_ids: Annotated[tuple[str, ...], "The stacks that it would change, as they are now."]

    optional = ("ttl",)


class OutcomeReason(Body, frozen=True, kw_only=True):
    """Why some of a job's stacks have a status."""

    status: Annotated[str, "StackStatus"]
    reason: Annotated[str, "Their `status_reason`."]
    count: Annotated[int, "How many of the job's stacks."]
    stack_ids: Annotated[tuple[str, ...], "The first 20 of them."]


class JobOutcome(Body, frozen=True, kw_only=True):
    """How the stacks are that a job has restarted, renewed, started or created, until two minutes after its end."""

    until: Annotated[datetime, "When it is final."]
    statuses: Annotated[
        Mapping[str, int],
        "The stacks that the job counts as `done`, by their status; `deleted`: they are gone by now.",
    ]
    reasons: Annotated[tuple[OutcomeReason, ...], "The five most frequent reasons, the most frequent first."]
    final: Annotated[bool, "Whether it changes no more."] = False


class Job(Body, frozen=True, kw_only=True):
    """A batch job. At its end `total` = `done` + `not_found` + `failed`."""

    job_id: Annotated[str, "The job's id."]
    action: Annotated[str, "What it does with each stack.", {"enum": get_args(JobAction)}] = ""
    ttl: Annotated[str, "By how much it extends each stack.", DURATION] = ""
    template: Annotated[str, "The template of all its stacks, if they have one in common."] = ""
    common: Annotated[
        Mapping[str, str], "The labels that all its stacks had when it was accepted, such as their challenge."
    ] = NOTHING
    status: Annotated[str, "JobStatus"] = ""
    total: Annotated[int, "How many ids it has."] = 0
    done: Annotated[int, "Stacks for which the action is done."] = 0
    deleted: Annotated[int, "Stacks that it deleted."] = 0
    not_found: Annotated[int, "Ids that belong to no stack."] = 0
    failed: Annotated[int, "Stacks that the action failed for. stackd keeps trying where the error says so."] = 0
    errors: Annotated[tuple[JobError, ...], "The first 100 failures.", FAILURES] = ()
    created_at: Annotated[datetime, "When it was accepted."] = EPOCH
    updated_at: Annotated[datetime, "When it last made progress."] = EPOCH
    outcome: Annotated[
        JobOutcome | None, "Once it has finished: how the stacks are that it has started. Other actions have none."
    ] = None
    results: Annotated[
        tuple[JobResult, ...], "With `results=true`: what became of each. Ids without a stack are not in it."
    ] = ()

    optional = ("ttl", "template", "common", "errors", "outcome", "results")

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        """As of all bodies. A job that deletes has its stacks both in ``done`` and in ``deleted``."""
        action, done = raw.get("action", "delete"), raw.get("done", raw.get("deleted", 0))
        counts = {"action": action, "done": done, "deleted": done if action == "delete" else 0}
        return _restored(super().of(counts | dict(raw)), {"raw": raw})

    @property
    def finished(self) -> bool:
        return self.status in ("completed", "failed")


_COUNTED = ("not_found", "failed", "errors", "created_at", "updated_at")
DELETE_JOB = ("job_id", "status", "total", "deleted", *_COUNTED)
"""The fields of a batch-delete job, in their order."""

BATCH_JOB = ("job_id", "action", "ttl", "template", "common", "status", "total", "done", *_COUNTED, "outcome")
"""The fields of any other batch job, in their order."""


class Activity(Body, frozen=True, kw_only=True):
    """What an API key has asked for: a request about one stack (`stack_id`), or a batch job (`job_id`). Or what concerns
    the operator: refused requests, reloads, changed keys, takeovers, written templates and people who
    signed in, which have neither.
    """

    at: Annotated[datetime, "When it was accepted."]
    by: Annotated[str, "The name of the API key."]
    action: Annotated[str, "What was asked for.", {"enum": ACTIONS}]
    ttl: Annotated[str, "By how much a job extends each stack.", DURATION] = ""
    stack_id: Annotated[str, "The stack's id; there is this, or `job_id`, or neither."] = ""
    job_id: Annotated[str, "The job's id."] = ""
    labels: Annotated[Mapping[str, str], "The stack's labels, or those by which a job chose its stacks."] = NOTHING
    message: Annotated[str, "More about it, such as `until 2026-02-10T04:02:26Z`."] = ""
    count: Annotated[int, "How often a refused request was repeated, if more than once."] = 1
    status: Annotated[str, "JobStatus"]
    total: Annotated[int, "How many stacks the job has."] = 0
    done: Annotated[int, "How many stacks the job has done."] = 0
    not_found: Annotated[int, "How many ids belong to no stack."] = 0
    failed: Annotated[int, "How many stacks the action failed for."] = 0
    errors: Annotated[tuple[JobError, ...], "The first 100 failures.", FAILURES] = ()
    created_at: Annotated[datetime, "Of a job: when it was accepted."] = EPOCH
    updated_at: Annotated[datetime, "Of a job: when it last made progress."] = EPOCH
    template: Annotated[str, "Of a job: the template of all its stacks, if they have one in common."] = ""
    common: Annotated[Mapping[str, str], "Of a job: the labels that all its stacks had."] = NOTHING
    outcome: Annotated[JobOutcome | None, "Of a finished job: how the stacks are that it has started."] = None

    optional = (
        *("ttl", "stack_id", "job_id", "count", "errors", "created_at", "updated_at"),
        *("template", "common", "outcome"),
    )


class ActivityPage(Body, frozen=True, kw_only=True):
    """What API keys have asked for."""

    activity: Annotated[tuple[Activity, ...], "The latest first."]
    next_cursor: Annotated[str | None, "Where the next page begins; null at the end."]


class StreamEvent(Body, frozen=True, kw_only=True):
    """One event of a stream, by its lines."""

    id: Annotated[str, "The id of the event: send it as `Last-Event-ID` to continue after it."] = ""
    event: Annotated[EventName, "The kind of the event."]
    data: Annotated[str, "JSON. The route's description says which object.", {"contentMediaType": "application/json"}]

    optional = ("id",)


# ---- counts, capacity, templates


class Stats(Body, frozen=True, kw_only=True):
    """Counts over all stacks."""

    total_stacks: Annotated[int, "All stacks."]
    active_stacks: Annotated[int, "Those that are creating or running."]
    node_distribution: Annotated[Mapping[str, int], "Stacks by node."]
    used_node_ports: Annotated[int, "Node ports that are held; those of spare Services are not."]
    reserved_cpu_milli: Annotated[int, "CPU of the stacks that still hold resources, in thousandths of a core."]
    reserved_memory_bytes: Annotated[int, "Memory of the stacks that still hold resources."]
    spare_services: Annotated[int, "Services that wait for a create; 0 for a tenant and with a filter."]


class Capacity(Body, frozen=True, kw_only=True):
    """How many more of one kind of stack fit, if the nodes run nothing but stacks, and what runs out first."""

    fits: Annotated[int, "How many more stacks fit."]
    limited_by: Annotated[str, "What runs out first, such as `cpu`, `pods`, `nodes`, `ports`, `quota` or `max_stacks`."]
    nodes: Annotated[Mapping[str, int], "How many more stacks fit on each node."]
    quota: Annotated[int | None, "How many more stacks the namespace's quotas allow; null while they are not known."]
    quota_limited_by: Annotated[str, "The resource of the quotas that runs out first; empty if none."]
    quota_seen_at: Annotated[datetime | None, "When the quotas were read."]
    ports: Annotated[int, "How many more stacks the node ports allow."]
    free_node_ports: Annotated[int, "Node ports that nobody holds; stacks that wait in pools hold theirs."]
    spare_services: Annotated[int, "Services that wait for a create; their node ports are free."]
    stacks: Annotated[int | None, "How many more stacks `limits.max_stacks` allows; null if there is no limit."]
    unassigned: Annotated[
        int, "Stacks that wait in pools. They give way to creates: what they take counts as free here."
    ]
    requested_cpu_milli: Annotated[int, "CPU of one stack, in thousandths of a core.", {"minimum": 1}]
    requested_memory_bytes: Annotated[int, "Memory of one stack, in bytes.", {"minimum": 1}]
    requested_ephemeral_storage_bytes: Annotated[int, "Disk of one stack in bytes, as the scheduler counts it."]
    requested_ports: Annotated[int, "Ports of one stack.", {"minimum": 1, "maximum": MAX_TARGET_PORTS}]
    assumes: Annotated[str, "What the answer assumes."]


class Prepull(Body, frozen=True, kw_only=True):
    """How far a node has pulled a template's images: the state of the slowest one."""

    state: Annotated[str, "`waiting`, `pulling`, `pulled` or `failing`."]
    reason: Annotated[str, "Why it fails; empty where it does not."]


class Extensions(Body, frozen=True, kw_only=True):
    """How a player may extend a stack."""

    by: Annotated[str, "How much longer each time.", DURATION]
    times: Annotated[int, "How often.", {"minimum": 1}]


class Variable(Body, frozen=True, kw_only=True):
    """A variable that a create may set."""

    pattern: Annotated[str, "A regular expression that matches the whole value."]


class TemplateCheck(Body, frozen=True, kw_only=True):
    """How stackd finds out whether stacks of a template work."""

    image: Annotated[str, "The image of the program that checks."]
    command: Annotated[tuple[str, ...], "Its command; empty for that of the image."]
    every: Annotated[str, "How often the shared stack is checked.", DURATION]
    timeout: Annotated[str, "How long the program may take.", DURATION]
    failures: Annotated[int, "After so many failures in a row, the shared stack gets another pod."]


class TemplateChecked(Body, frozen=True, kw_only=True):
    """What the last check of the shared stack, or of one of the pool, said."""

    healthy: Annotated[bool | None, "Whether it ended with exit code 0; null until one could be run."]
    message: Annotated[str, "The last lines that it has written, without the stack's generated values."]
    seconds: Annotated[float, "How long it ran."]
    at: Annotated[datetime, "When."]
    stack_id: Annotated[str, "The stack that was checked."]
    failures: Annotated[int, "How often in a row it has failed."]
    trouble: Annotated[str, "Why the check could not be run since; empty if it could."]


class TemplatePort(Body, frozen=True, kw_only=True):
    """A container port that is published."""

    container_port: Annotated[int, "As a container of the pod declares it.", PORT]
    protocol: Annotated[str, "Its protocol.", {"enum": PROTOCOLS}]
    route: Annotated[str, "By what it is reached at a name of its own.", {"enum": ROUTES}] = ""

    optional = ("route",)


class Template(Body, frozen=True, kw_only=True):
    """A template that a create can name; ``ready`` stacks of its pool can be assigned at once."""

    name: Annotated[str, "The template's name."]
    target_port: Annotated[tuple[TemplatePort, ...], "The ports that its stacks publish."]
    ttl: Annotated[str, "How long its stacks live unless the create says otherwise."]
    labels: Annotated[Mapping[str, str], "Labels that its stacks get."]
    images: Annotated[tuple[str, ...], "The images of its containers."]
    generates: Annotated[tuple[str, ...], "The names of the variables that are generated for each stack."]
    requested_cpu_milli: Annotated[int, "CPU of one stack, in thousandths of a core."]
    requested_memory_bytes: Annotated[int, "Memory of one stack, in bytes."]
    stacks: Annotated[Mapping[str, int], "Its stacks by status, without those of the pool."]
    median_seconds_to_running: Annotated[
        float | None, "From create to running, in the last hour; null if none was started."
    ]
    pool: Annotated[int, "How many stacks are kept running and unassigned."]
    ready: Annotated[int, "Unassigned stacks of its pool that can be given away now."]
    starting: Annotated[int, "Unassigned stacks of its pool that are being started."]
    failing: Annotated[int, "Unassigned stacks of its pool that do not come up, or are not ready any more."]
    held: Annotated[int, "Always 0; older versions of stackd kept stacks back."]
    hits: Annotated[int, "Creates that got a stack from the pool, since the daemon started."]
    misses: Annotated[int, "Creates that found the pool empty, since the daemon started."]
    reason: Annotated[
        str, "Why the pool is not filled, or the shared stack does not run; empty while there is nothing to say."
    ]
    shared: Annotated[bool, "Whether it has one stack for everybody, which stackd makes and keeps."]
    shared_stack: Annotated[str | None, "The id of that stack; null where there is none."]
    check: Annotated[TemplateCheck | None, "Its check; null where there is none."]
    checked: Annotated[TemplateChecked | None, "What it said last; null until the first one."]
    prepull: Annotated[
        Mapping[str, Prepull] | None, "How far its images are on each node; null unless they are pulled."
    ]
    title: Annotated[str, "What people call it; empty if nothing else than its name."] = ""
    category: Annotated[str, "What it is listed under."] = ""
    description: Annotated[str, "Markdown for players. A tenant may have written it."] = ""
    show: Annotated[tuple[str, ...], "The names of generated variables that a player may see."] = ()
    extend: Annotated[Extensions | None, "How a player may extend its stacks; null where they may not."] = None
    cost: Annotated[int, "What a stack of it counts for `limits.cost_per_label`."] = 1
    opens: Annotated[datetime | None, "Before that, no stack of it can be created; null: there is no such time."] = None
    closes: Annotated[
        datetime | None, "Then its stacks end, and no other can be created; null: there is no such time."
    ] = None
    notice: Annotated[str | None, "How long before that players are told; null where it does not close."] = None
    names: Annotated[tuple[str, ...], "The names by which its containers find each other."] = ()
    env: Annotated[Mapping[str, Variable], "The variables that a create may set, by name."] = NOTHING
    source: Annotated[str, "Where its text is from.", {"enum": get_args(TemplateSource)}] = "file"
    version: Annotated[str, "Identifies its text: the start of the text's SHA-256."] = ""
    written_by: Annotated[str, "Of one of the API: the name of the API key that has written it."] = ""
    written_at: Annotated[datetime, "Of one of the API: when."] = EPOCH
    text: Annotated[str, "With one template, for those who may write: its text.", YAML] = ""

    optional = ("written_by", "written_at", "text")
    unshown = ("text",)


class TemplateProblem(Body, frozen=True, kw_only=True):
    """A text that is not in force."""

    name: Annotated[str, "The template's name."]
    problem: Annotated[
        str,
        "`shadowed`: a file on stackd's machine has the name, and is in force; `missing`: it is gone from the cluster, and "
        "nobody has deleted it over the API; `faulty`: it is wrong, or its writer may not write it; `stale`: so is the "
        "newest text, and the last good one is in force.",
        {"enum": get_args(TemplateTrouble)},
    ]
    message: Annotated[str, "What is wrong, and the remedy."]


MISSING = (
    "Templates that are not in force, although nobody has removed them and stackd keeps stacks of them (a pool, or a shared "
    "stack). These stay; nothing is created from such a template. Write it again, or delete it."
)


class Templates(Body, frozen=True, kw_only=True):
    """What there is to ask for by name."""

    templates: Annotated[tuple[Template, ...], "Those that the key may use."]
    problems: Annotated[tuple[TemplateProblem, ...], "Texts that are not in force, for those who may write them."] = ()
    missing: Annotated[tuple[str, ...], MISSING] = ()

    optional = ("problems", "missing")


class TemplateDeleted(Body, frozen=True, kw_only=True):
    """The template is gone."""

    deleted: Annotated[Literal[True], "Always true."] = True
    name: Annotated[str, "The template's name."]


# ---- health, the operator's routes, errors


class Healthy(Body, frozen=True, kw_only=True):
    """The process answers."""

    status: Annotated[Literal["ok"], "Always `ok`."] = "ok"


class Ready(Body, frozen=True, kw_only=True):
    """Everything works."""

    status: Annotated[Literal["ready"], "Always `ready`."] = "ready"
    version: Annotated[str, "Which stackd answers, such as `1.0.0`."] = ""
    missing_templates: Annotated[tuple[str, ...], MISSING] = ()

    optional = ("missing_templates",)


class NotReady(Body, frozen=True, kw_only=True):
    """Something does not work; reads still do."""

    error: Annotated[str, SENTENCE, {"maxLength": LONGEST_ERROR}]
    code: Annotated[Literal["not_ready"], "Always `not_ready`."] = "not_ready"
    status: Annotated[Literal["not ready"], "Always `not ready`."] = "not ready"
    reasons: Annotated[
        tuple[str, ...],
        "A sentence for each thing that is wrong.",
        {"minItems": 1, "examples": [["Kubernetes does not answer"]]},
    ]
    held: Annotated[tuple[str, ...], "The ids of the stacks that a brake holds back."] = ()
    version: Annotated[str, "Which stackd answers.", {"examples": ["1.0.0"]}] = ""
    player_message: Annotated[str, "What a player may read."]
    missing_templates: Annotated[tuple[str, ...], MISSING] = ()

    optional = ("held", "missing_templates")


class FindValue(Request, frozen=True, kw_only=True):
    """Which value to find."""

    value: Annotated[
        Annotated[str, expects(f"a text of 1 to {LONGEST_VALUE} characters", min_length=1, max_length=LONGEST_VALUE)],
        "The value, as somebody has handed it in.",
    ]


class ValueHolder(Body, frozen=True, kw_only=True):
    """A stack for which the value was generated."""

    stack_id: Annotated[str, "The stack's id."]
    name: Annotated[str, "The variable that has the value."]
    labels: Annotated[Mapping[str, str], "The stack's labels."]
    template: Annotated[str, "The stack's template; empty if it is gone."] = ""
    removed_at: Annotated[datetime | None, "When the stack was removed; null if it is there."] = None
    renewed: Annotated[bool, "Whether the stack is there and was renewed since, so that it has the value no more."] = (
        False
    )

    optional = ("renewed",)


class FoundValues(Body, frozen=True, kw_only=True):
    """Whose the value is."""

    found: Annotated[tuple[ValueHolder, ...], "The stacks; none if the value is nobody's."]


class ValuesOfStack(Body, frozen=True, kw_only=True):
    """The values of one stack."""

    stack_id: Annotated[str, "The stack's id."]
    template: Annotated[str, "Its template."]
    labels: Annotated[Mapping[str, str], "Its labels."]
    values: Annotated[Mapping[str, str], "Its generated values, by the names of the variables."]


class StackValues(Body, frozen=True, kw_only=True):
    """The values of stacks."""

    stacks: Annotated[tuple[ValuesOfStack, ...], "The stacks that have any."]


class CreateLink(Request, frozen=True, kw_only=True):
    """Which link to make."""

    labels: Annotated[
        Labels,
        "What the player's stacks get, and by which they are found. A tenant's labels are added. Of an open link, none.",
    ]
    templates: Annotated[
        Annotated[
            tuple[Annotated[str, expects("a name of 1 to 63 characters", min_length=1, max_length=63)], ...],
            expects('a list of at most 16 names such as "lab-*"', max_length=16),
        ]
        | None,
        "Names or patterns of the templates; if not given, those of the key.",
    ] = None
    expires: Annotated[Duration | None, "For how long the link works: at most 366 days, `7d` if not given."] = None
    name: Annotated[
        Annotated[str, expects("a name of at most 40 characters", max_length=40)] | None,
        "What timelines, the log and the page call it, at most 40 characters.",
    ] = None
    player_name: Annotated[
        Annotated[str, expects("a text of at most 254 characters", max_length=254)] | None,
        "Who the player is in your list, such as an address; lists of links have it, and the player's page does not.",
    ] = None
    stacks: Annotated[
        Annotated[int, Meta(ge=1, le=100)] | None, "How many stacks the player may have at a time; 1 if not given."
    ] = None
    each: Annotated[Literal["visitor"] | None, "`visitor`: everybody who opens it is a player of their own."] = None
    scope: Annotated[
        Literal["read"] | None,
        "`read`: a helper's link, which reads everything and starts nothing; without labels.",
    ] = None
    total: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        "With `each`: how many stacks all visitors may have together.",
    ] = None


class NewLink(Body, frozen=True, kw_only=True):
    """A new link."""

    link_id: Annotated[str, "By which it is revoked."]
    url: Annotated[str, "The link itself, which nobody is shown again. Whoever has it is the player."]
    name: Annotated[str, "Its name."]
    expires_at: Annotated[datetime, "Until when it works."]
    code: Annotated[str, "What can be typed on `/play` instead of opening it; a helper's link has none."] = ""

    optional = ("code",)
    unshown = ("url", "code")


class KeptLink(Body, frozen=True, kw_only=True):
    """A link that has not expired."""

    link_id: Annotated[str, "By which it is revoked."]
    name: Annotated[str, "Its name."]
    labels: Annotated[Mapping[str, str], "What its stacks get."]
    templates: Annotated[tuple[str, ...], "Names or patterns of its templates; empty: all."]
    stacks: Annotated[int, "How many stacks a player may have."]
    each: Annotated[str, "`visitor` if it is an open link."] = ""
    scope: Annotated[str, "`read` if it is a helper's.", {"enum": ["read"]}] = ""
    total: Annotated[int, "How many stacks all visitors of an open link may have."] = 0
    created_at: Annotated[datetime, "When it was made."]
    expires_at: Annotated[datetime, "Until when it works."]
    by: Annotated[str, "The name of the key that has made it."]
    revoked: Annotated[bool, "Whether it was revoked."]
    opened_at: Annotated[datetime | None, "When it was opened first, if it was."] = None
    seen_at: Annotated[datetime | None, "When its page last asked for its stacks, if it was opened."] = None
    player_name: Annotated[str, "Who the player is in the list of whoever has made it."] = ""

    optional = ("each", "scope", "total", "opened_at", "seen_at", "player_name")


class CreateMessage(Request, frozen=True, kw_only=True):
    """What to say to players."""

    text: Annotated[
        Annotated[str, expects("a text of 1 to 500 characters", pattern=r"\S", max_length=500)], "A few sentences."
    ]
    labels: Annotated[Labels | None, "To whose stacks have these."] = None
    template: Annotated[TemplateName | None, "To who may start stacks of it."] = None
    links: Annotated[
        Annotated[
            tuple[Annotated[str, expects("an id", pattern=r"^link-[0-9a-f]{16}(/[0-9a-f]{10})?$")], ...],
            expects("a list of 1 to 1000 links", min_length=1, max_length=1000),
        ]
        | None,
        "To the players of these links only; of an open link, to one visitor by `LINK_ID/VISITOR`.",
    ] = None
    until: Annotated[
        Annotated[str, expects("a text", extra_json_schema={"format": "stackd-until"})] | None,
        "Until when it is shown: a time with its zone, or for how long, such as `30m`; `1h` if not given.",
    ] = None


class Message(Body, frozen=True, kw_only=True):
    """A message to players."""

    message_id: Annotated[str, "By which it is deleted."]
    text: Annotated[str, "What players read."]
    labels: Annotated[Mapping[str, str], "Whose stacks it is about, besides the labels of the key that asks."]
    template: Annotated[str, "Whose players read it; empty: of all."]
    links: Annotated[tuple[str, ...], "Whose players alone read it; left out: not only some."] = ()
    until: Annotated[datetime, "Until when it is shown."]
    by: Annotated[str, "The name of the key that has sent it."]

    optional = ("links",)


class MessageList(Body, frozen=True, kw_only=True):
    """The messages that are shown now."""

    messages: Annotated[tuple[Message, ...], "The oldest first."]


class LinkList(Body, frozen=True, kw_only=True):
    """Links, by the time when they were made."""

    links: Annotated[tuple[KeptLink, ...], "Those that the key may see."]
    next_cursor: Annotated[str | None, "With `limit`: where the next page begins; null at the end."] = None

    optional = ("next_cursor",)


class Revoked(Body, frozen=True, kw_only=True):
    """The link is revoked."""

    link_id: Annotated[str, "The link's id."]
    revoked: Annotated[Literal[True], "Always true."] = True


class Key(Body, frozen=True, kw_only=True):
    """The key of the request."""

    name: Annotated[str, "The key's name, as timelines and the log have it."]
    scope: Annotated[str, "What the key may do.", {"enum": SCOPES}]
    labels: Annotated[Mapping[str, str], "What its creates get, and what it sees; empty: everything."]
    pod_specs: Annotated[bool, "Whether its creates may have a pod spec; otherwise they name a template."]
    templates_write: Annotated[bool, "Whether it may write templates over the API."] = False


class Owner(Body, frozen=True, kw_only=True):
    """Who owns the stacks."""

    role: Annotated[str, "What this stackd is: `owner`, `lapsed`, `standby`, `lost` or `released`."]
    host: Annotated[str, "The machine of this stackd."] = ""
    may_change: Annotated[bool, "Whether it may change anything now."]
    trouble: Annotated[str, "Why the Lease could not be read or renewed; empty when it could."] = ""
    owner: Annotated[str, "The owner's machine; empty when nobody owns the stacks."] = ""
    lease: Annotated[str, "The Lease's name, in the namespace of the stacks."] = ""
    holder: Annotated[str, "Who holds it: machine and file."] = ""
    lease_duration_seconds: Annotated[int, "For how long a renewal is good."] = 0
    acquired_at: Annotated[datetime | None, "Since when, by the owner's clock; null where there is no owner."] = None
    renewed_at: Annotated[datetime | None, "When it was renewed last, by the owner's clock."] = None
    transitions: Annotated[int, "How often the Lease went from one holder to another."] = 0
    asked_for_by: Annotated[str, "Which machine's stackd wants to take over; empty when none does."] = ""


class Takeover(Body, frozen=True, kw_only=True):
    """Who was asked to hand over."""

    asked: Annotated[str, "The owner's machine."]


class PlannedAction(Body, frozen=True, kw_only=True):
    """One step."""

    action: Annotated[str, "The step.", {"examples": ["create-pod"]}]
    name: Annotated[str, "The stack or object that the step is about.", {"examples": [A_STACK]}]
    why: Annotated[str, "Why the step is due.", {"examples": ["its new pod is not there yet"]}]


class UnknownObject(Body, frozen=True, kw_only=True):
    """An object with stackd's labels that belongs to no known stack. stackd leaves it alone."""

    kind: Annotated[str, "`pods` or `services`."]
    name: Annotated[str, "Which object.", {"examples": [A_STACK]}]
    why: Annotated[str, "Why no stack can be made of it.", {"examples": ["no Service carries its record"]}]


class Plan(Body, frozen=True, kw_only=True):
    """What a pass of reconciliation would do now."""

    blocked: Annotated[str, "Why it can do nothing now; empty when it can."]
    held: Annotated[tuple[str, ...], "The ids of the stacks that a brake holds back."]
    actions: Annotated[tuple[PlannedAction, ...], "What it would do."]
    unknown: Annotated[tuple[UnknownObject, ...], "What it would leave alone."]
    reasons: Annotated[tuple[str, ...], "Why stackd is not ready, as in `/readyz`; empty when it is."]


class Released(Body, frozen=True, kw_only=True):
    """What a brake no longer holds."""

    released: Annotated[int, "How many stacks the brake has released."]
    held: Annotated[tuple[str, ...], "The ids that it holds and did not hold when you released it."] = ()
    removed: Annotated[tuple[str, ...], "Kind and name of each unknown object that is removed now."] = ()

    optional = ("held", "removed")


class Reason(Body, frozen=True, kw_only=True):
    """One thing that is wrong."""

    path: Annotated[
        str, "The field, such as `spec.hostNetwork`; `(root)` is the pod spec itself, and empty is no field."
    ]
    line: Annotated[int | None, "The line in the text of the pod spec or template, from 1, or null.", {"minimum": 1}]
    text: Annotated[str, "What is wrong."]


class Error(Body, frozen=True, kw_only=True):
    """Every error, with more fields where they help."""

    error: Annotated[str, SENTENCE, {"maxLength": LONGEST_ERROR}]
    code: Annotated[str, "ErrorCode"]
    reasons: Annotated[
        tuple[Reason, ...],
        "Of a 400 for a pod spec, template, ports, labels or time to live: each thing that is wrong, in the order of the "
        "lines.",
        {"minItems": 1},
    ] = ()
    stack_id: Annotated[str, "Of a 409 for a label's limit: the existing stack."] = ""
    detail: Annotated[str, "What Kubernetes reported, for the operator of stackd.", {"maxLength": LONGEST_ERROR}] = ""
    player_message: Annotated[str, "What a player may read."]

    optional = ("reasons", "stack_id", "detail")


# ---- reading answers

_ABSENT: Final = {str: "", int: 0, float: 0.0, bool: False, datetime: EPOCH, tuple: (), Mapping: NOTHING}
"""What a client sees of a field that an answer lacks (only some were requested, or stackd is older)."""


@cache
def _absent(kind: type[Body]) -> dict[str, Any]:
    """The required fields of an answer, as if it had none of them."""
    required = {each.name: each.kind for each in fields_of(kind) if each.default is NODEFAULT}
    return {name: _ABSENT.get(get_origin(typed) or typed) for name, typed in required.items()}
