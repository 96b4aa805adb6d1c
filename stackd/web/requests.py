"""The bodies of requests: how they are received and parsed, with a sentence for each possible mistake.

``contract`` has their fields. ``podspec`` owns what a pod spec may hold.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import orjson
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

from stackd import contract
from stackd.clock import NANOSECONDS
from stackd.codes import ErrorCode
from stackd.contract import IF_EXISTS, LONGEST_NAME, PROTOCOLS, Body, fields_of
from stackd.errors import (
    Conflict,
    InvalidPodSpec,
    InvalidRequest,
    PermissionDenied,
    Reason,
    RequestTooLarge,
    UnsupportedCoding,
)
from stackd.lifecycle.context import Context, CreateRequest
from stackd.metrics import INVALID
from stackd.model import NO_LABELS, NO_VALUES, JobAction, JobRequest, SanitizedSpec, TargetPort, WantedStack
from stackd.names import did_you_mean, require_unreserved
from stackd.podspec import LONG_SPEC, located, parse_target_ports
from stackd.podspec.checks import by_path, keeps_running
from stackd.podspec.sanitize import parse_labels
from stackd.templates import Template
from stackd.templates.readers import matches
from stackd.units import format_duration
from stackd.web.api import View
from stackd.web.bodies import in_turns
from stackd.web.parameters import seconds_of, short, unknown

MOST_PARTS: Final = 4_000
"""How many objects, lists and names a body may have: its parts take far longer to read than its bytes."""

BYTES_PER_PART: Final = 4
"""A pod spec may have one more for so many bytes of ``limits.pod_spec``: a text with more of them is none."""

PARTS_PER_CREATE: Final = 8
"""A batch job may have so many more of them for each stack."""

LATEST: Final = "latest"
PLAIN: Final = frozenset({"", "identity", "chunked"})


def check_coding(request: web.BaseRequest) -> None:
    """Raise UnsupportedCoding if the body is compressed. Nothing is decompressed: few bytes could become many."""
    headers = request.headers
    named = [*headers.getall(hdrs.CONTENT_ENCODING, ()), *headers.getall(hdrs.TRANSFER_ENCODING, ())]
    codings = {each.strip().lower() for text in named for each in text.split(",")}
    if request.body_exists and not codings <= PLAIN:
        raise UnsupportedCoding(
            "a compressed body (Content-Encoding, Transfer-Encoding) is not accepted; send it uncompressed"
        )


async def read(request: web.Request, max_body: int, timeout: float, count: Callable[[int], None]) -> bytes:
    """The whole body; ``count`` gets the length of each piece of it, and may raise. Raises RequestTooLarge
    (``server.max_body``), InvalidRequest if it is not valid HTTP, or HTTPRequestTimeout (``limits.slow_client_timeout``).
    """
    body = bytearray()
    too_large = RequestTooLarge(f"the request body is larger than {max_body} bytes (server.max_body)")
    if request.content_length is not None and request.content_length > max_body:
        raise too_large
    try:
        async with asyncio.timeout(timeout):
            while piece := await request.content.readany():
                if len(body) + len(piece) > max_body:
                    raise too_large
                count(len(piece))
                body += piece
            return bytes(body)
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except (RequestPayloadError, HttpProcessingError) as exc:
        raise InvalidRequest("the request body is not valid HTTP: its encoding or its length is wrong") from exc


def parse_object(body: bytes, kind: type[Body] | None, most_parts: int = MOST_PARTS) -> dict[str, Any]:
    """The body as a JSON object with only fields of its kind and all required ones, whatever its Content-Type says. A field
    that is null is left out. None is the kind without fields."""
    if sum(map(body.count, (b"{", b"[", b":"))) > most_parts:
        raise InvalidRequest(f"invalid request body: it has more than {most_parts} objects, lists and names")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"invalid request body: not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise InvalidRequest("invalid request body: a JSON object is expected")
    fields = fields_of(kind) if kind else ()
    names = [each.name for each in fields]
    _only_known(value, names)
    _check_fields_once(body)
    for each in fields:
        if not each.optional:
            _require(value, each.name)
    return {name: given for name, given in value.items() if given is not None}


def _only_known(fields: Mapping[str, Any], names: list[str]) -> None:
    for name in fields:
        if name not in names:
            sentence = f"invalid request body: unknown field {unknown(name, names)}"
            raise InvalidRequest(sentence, code=ErrorCode.UNKNOWN_FIELD)


def _require(fields: Mapping[str, Any], name: str) -> None:
    if fields.get(name) is None:
        raise InvalidRequest(f"invalid request body: {name} is required")


def _check_fields_once(body: bytes) -> None:
    """Raise InvalidRequest if an object, at any depth, has a field twice: neither value is taken."""
    try:
        _FIELDS_ONCE.decode(body.decode())
    except RecursionError as exc:
        raise InvalidRequest("invalid request body: it is nested too deeply") from exc


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) == len(pairs):
        return
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidRequest(f"invalid request body: the field {short(name)!r} is given more than once")
        seen.add(name)


_FIELDS_ONCE: Final = json.JSONDecoder(object_pairs_hook=_once, parse_int=str, parse_float=str)


def text_of(fields: dict[str, Any], name: str) -> str:
    """A field that must be a string."""
    value = fields[name]
    if not isinstance(value, str):
        raise InvalidRequest(f"invalid request body: {name} must be a string")
    return value


def stack_ids(fields: dict[str, Any], max_ids: int) -> list[str]:
    """The ids of a batch job: trimmed, each once, in their order; at least one, none of them blank."""
    values = fields["stack_ids"]
    if not isinstance(values, list):
        raise InvalidRequest("invalid request body: stack_ids must be a list of stack ids")
    if not values:
        raise InvalidRequest("invalid request body: stack_ids is empty")
    if len(values) > max_ids:
        raise RequestTooLarge(f"{len(values)} stack_ids; {max_ids} at most (batch_delete.max_ids)")
    ids: dict[str, None] = {}
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise InvalidRequest(f"invalid request body: stack_ids[{index}] must be a string")
        trimmed = value.strip()
        if not trimmed:
            raise InvalidRequest(f"invalid request body: stack_ids[{index}] is blank")
        if len(trimmed) > LONGEST_NAME:
            raise InvalidRequest(f"invalid request body: stack_ids[{index}] is longer than {LONGEST_NAME} characters")
        ids[trimmed] = None
    return list(ids)


def renews(body: bytes) -> bool:
    """Whether a restart is to renew the stack; the body may be missing. Raises InvalidRequest."""
    given = parse_object(body, contract.Restart).get("template") if body else None
    if given not in (None, LATEST):
        raise _wrong_field("template", f'template must be "{LATEST}": the newest version of the stack\'s own template')
    return given is not None


async def batch(view: View, body: bytes) -> tuple[list[str], JobRequest]:
    """The stacks of a batch job, if the body names them, and what the job is to do. Raises InvalidRequest, PermissionDenied."""
    config, key = view.context.config, view.key
    max_ids = config.batch_delete.max_ids
    most_parts = MOST_PARTS + PARTS_PER_CREATE * max_ids
    if len(body) <= LONG_SPEC:
        fields = parse_object(body, contract.Batch, most_parts)
    else:
        async with view.context.settings.long_specs:
            fields = await asyncio.to_thread(parse_object, body, contract.Batch, most_parts)
    name = text_of(fields, "action")
    if name not in list(JobAction):
        hint = did_you_mean(name, list(JobAction))
        raise _wrong_field("action", f"action must be one of {', '.join(JobAction)}, not {short(name)!r}{hint}")
    action = JobAction(name)
    if action is JobAction.CREATE:
        return [], await _creates(view, fields)
    for field in ("template", "env", "each"):
        if field in fields:
            raise _wrong_field(field, f"{field} goes with the action create, and only with that")
    if (action is JobAction.EXTEND) != ("ttl" in fields):
        raise _wrong_field("ttl", 'ttl, such as "30m", goes with the action extend, and only with that')
    if ("stack_ids" in fields) == ("labels" in fields):
        raise _wrong_field("stack_ids", "give either stack_ids or labels")
    ids = stack_ids(fields, max_ids) if "stack_ids" in fields else []
    labels = labels_of(fields["labels"]) if "labels" in fields else NO_LABELS
    if not (ids or labels):
        raise _wrong_field("labels", 'labels is empty; give at least one, such as {"challenge": "web-1"}')
    ttl = ttl_of(fields, config.stacks.max_ttl) if "ttl" in fields else 0.0
    return ids, JobRequest(
        action=action, ttl=round(ttl * NANOSECONDS), labels=labels, among=key.labels, by=key.principal
    )


async def _creates(view: View, fields: dict[str, Any]) -> JobRequest:
    """A job that creates; each of its stacks is checked as the body of a create."""
    for field in ("template", "each"):
        _require(fields, field)
    if "stack_ids" in fields or "labels" in fields:
        raise _wrong_field(
            "stack_ids", "the action create has no stack_ids and no labels; give each of the stacks its own"
        )
    each, max_ids = fields["each"], view.context.config.batch_delete.max_ids
    if not isinstance(each, list) or not each:
        raise _wrong_field("each", 'each must be a list of stacks, such as [{"labels": {"player": "a"}}]')
    if len(each) > max_ids:
        raise RequestTooLarge(f"{len(each)} stacks; {max_ids} at most (batch_delete.max_ids)")
    _template_of({"template": fields["template"]}, view)  # else each of the stacks would be wrong
    common: dict[str, Any] = {name: fields[name] for name in ("template", "ttl", "env") if name in fields}
    wanted = [await _wanted(view, common, *one) async for one in in_turns(enumerate(each))]
    return JobRequest(
        action=JobAction.CREATE,
        by=view.key.principal,
        labels=view.key.labels,
        template=fields["template"],
        each=tuple(wanted),
    )


async def _wanted(view: View, common: Mapping[str, Any], index: int, item: object) -> WantedStack:
    try:
        if not isinstance(item, dict):
            raise _wrong_field("", "an object is expected")
        given = {name: value for name, value in item.items() if value is not None}
        _only_known(given, [each.name for each in fields_of(contract.BatchCreate)])
        request = (await _create_of(view, {**common, **given}, creates=True)).create_request
    except InvalidRequest as error:
        where = f"each[{index}]"
        reasons = [replace(one, path=f"{where}.{one.path}".rstrip(".")) for one in error.reasons]
        sentence = str(error).removeprefix("invalid request body: ")
        raise InvalidRequest(f"invalid request body: {where}: {sentence}", reasons, code=error.code) from error
    return WantedStack(index=index, labels=request.labels, ttl=request.ttl, env=request.env)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBody:
    """A create request, and whether an existing stack at the label's limit is returned instead.

    ``text`` is the pod spec as it was sent; empty if the request names a template.
    """

    create_request: CreateRequest
    return_existing: bool
    text: str


async def create_body(view: View, body: bytes, *, creates: bool = True) -> CreateBody:
    """Parse the body of a create. If it ``creates``, it must have the labels of ``limits.required_labels``, and a pod spec
    only if the key may send one.

    ``view`` is that of the request's key. Raises InvalidRequest, InvalidPodSpec, PermissionDenied.
    """
    phase_timer = view.context.metrics.phase_timer()
    try:
        return await _create_body(view, body, creates=creates)
    except InvalidRequest:
        view.context.metrics.creates[INVALID] += 1
        raise
    finally:
        phase_timer.end("validate")


async def _create_body(view: View, body: bytes, *, creates: bool) -> CreateBody:
    most_parts = MOST_PARTS + view.context.config.limits.pod_spec // BYTES_PER_PART
    return await _create_of(view, parse_object(body, contract.Create, most_parts), creates=creates)


async def _create_of(view: View, fields: dict[str, Any], *, creates: bool) -> CreateBody:
    context, key = view.context, view.key
    template = _template_of(fields, view)
    if template is None:
        _require(fields, "pod_spec")
        if creates and not key.pod_specs:
            sentence = f"the API key {key.name!r} creates stacks from templates only (pod_specs = false)"
            raise PermissionDenied(sentence, code=ErrorCode.TEMPLATES_ONLY)
    if template is not None and template.shared and key.tenant:
        sentence = f"{template.name} is shared: it has one stack, which stackd keeps, and no others are created from it"
        raise Conflict(sentence, code=ErrorCode.SHARED_TEMPLATE)
    ttl = ttl_of(fields, context.config.stacks.max_ttl) if "ttl" in fields else None
    labels = labels_of(fields["labels"], unreserved=True) if "labels" in fields else NO_LABELS
    if template is not None:
        ttl = template.ttl if ttl is None else ttl
    of_template = NO_LABELS if template is None else template.labels
    if of_template or key.labels:
        labels = labels_of(view.labels_of_create(labels, of_template))
    if creates:
        check_required(labels, context.config.limits.required_labels)
    existing = fields.get("if_exists", "error")
    if existing not in IF_EXISTS:
        raise InvalidRequest(f"invalid request body: if_exists must be one of {', '.join(IF_EXISTS)}")
    if template is not None:
        ports, spec, text = template.target_ports, template.spec, ""
    else:
        text = text_of(fields, "pod_spec")
        ports = parse_target_ports(fields["target_port"]) if "target_port" in fields else ()
        if refusals := context.config.routes.refusals(ports):
            raise InvalidRequest("; ".join(map(str, refusals)), refusals)
        spec = await _sanitized(context, text, ports)
        ports = ports or _declared(spec)
    create_request = CreateRequest(
        spec=spec,
        env=await asyncio.to_thread(env_of, fields["env"], template) if "env" in fields else NO_VALUES,
        target_ports=ports,
        ttl=ttl,
        labels=labels,
        by=key.principal,
        template=template,
        among=key.among,
        others=key.others,
        quotas=view.quotas(None if template is None else template.name),
        may_use=key.may_use,
    )
    return CreateBody(create_request=create_request, return_existing=existing == "return", text=text)


async def _sanitized(context: Context, text: str, ports: tuple[TargetPort, ...]) -> SanitizedSpec:
    """The pod that the text describes. A long one takes up to 50 ms: outside of the loop, one at a time."""
    if len(text) <= LONG_SPEC:
        return context.settings.sanitizer.sanitize(text, ports)
    async with context.settings.long_specs:
        return await asyncio.to_thread(context.settings.sanitizer.sanitize, text, ports)


def _declared(spec: SanitizedSpec) -> tuple[TargetPort, ...]:
    """The ports that the containers declare which keep running. Raises InvalidRequest if none can be published."""
    entries = [
        {"container_port": port["containerPort"], "protocol": port.get("protocol", "TCP")}
        for path, container in by_path(spec.manifest["spec"]).items()
        if keeps_running(path, container)
        for port in container.get("ports", ())
        if port.get("protocol", "TCP") in PROTOCOLS
    ]
    if not entries:
        raise _wrong_field(
            "target_port", "target_port is required: no container of the pod spec declares a TCP or UDP port"
        )
    return parse_target_ports([entry for index, entry in enumerate(entries) if entry not in entries[:index]])


def _template_of(fields: dict[str, Any], view: View) -> Template | None:
    """The template that the body names, or None. Raises InvalidRequest."""
    if "template" not in fields:
        return None
    for name in ("target_port", "pod_spec"):
        if name in fields:
            raise _wrong_field("template", f"template and {name} exclude each other; the template has its own")
    name = text_of(fields, "template")
    if (template := view.template(name)) is None:
        templates = view.templates()
        hint = (
            did_you_mean(name, templates)
            if templates
            else "; there are no templates that this API key may use (templates.directory)"
        )
        sentence = f'template: there is no "{name[:64]}"{hint}'
        raise _wrong_field("template", sentence, ErrorCode.TEMPLATE_NOT_FOUND)
    return template


def env_of(value: object, template: Template | None) -> Mapping[str, str]:
    """The field ``env``: variables that the template names, with values that match their patterns. Raises InvalidRequest.

    The template's patterns may have to be compiled, which takes long: not for the event loop.
    """
    if template is None:
        raise _wrong_field("env", "env goes with a template, which says what may be set", ErrorCode.INVALID_ENV)
    if not isinstance(value, dict):
        raise _wrong_field("env", 'env must be an object such as {"TEAM": "7"}')
    for name, text in value.items():
        if name not in template.env:
            hint = did_you_mean(name, template.env) if template.env else "; it has none"
            sentence = f"env: {template.name} has no variable {short(name)!r} that a create may set{hint}"
            raise _wrong_field("env", sentence, ErrorCode.INVALID_ENV)
        if not isinstance(text, str) or not matches(template.env[name], text):
            sentence = f"env.{name} must be a text that matches {template.env[name]} as a whole"
            raise _wrong_field("env", sentence, ErrorCode.INVALID_ENV)
    return MappingProxyType(value) if value else NO_VALUES


@contextmanager
def refusals_located(parsed: CreateBody) -> Iterator[None]:
    """Add the lines of the caller's text to a refusal of the cluster, which names fields by path only."""
    try:
        yield
    except InvalidPodSpec as error:
        raise located(error, parsed.text) from error


def _wrong_field(path: str, sentence: str, code: ErrorCode = ErrorCode.INVALID_REQUEST) -> InvalidRequest:
    return InvalidRequest(f"invalid request body: {sentence}", [Reason(path=path, text=sentence)], code=code)


def check_required(labels: Mapping[str, str], required: tuple[str, ...]) -> None:
    """Letter case matters: a label in another spelling is another label."""
    missing = [name for name in required if not labels.get(name)]
    if missing:
        sentence = f"labels: {', '.join(missing)} must be given (limits.required_labels)"
        raise _wrong_field("labels", sentence, ErrorCode.LABELS_REQUIRED)


def ttl_of(fields: Mapping[str, Any], most: float) -> float:
    """The field ``ttl`` in seconds: at least a nanosecond, ``most`` at most (``stacks.max_ttl``)."""
    value = fields["ttl"]
    if not isinstance(value, str):
        raise _wrong_field("ttl", 'ttl must be a string such as "30m"')
    try:
        seconds = seconds_of(value)
    except ValueError as error:
        raise _wrong_field("ttl", f"ttl must be {error}") from error
    if not 0 < seconds <= most or not round(seconds * NANOSECONDS):
        raise _wrong_field("ttl", f"ttl must be above zero and at most {format_duration(most)}, not {value[:64]}")
    return seconds


def labels_of(value: object, *, unreserved: bool = False) -> Mapping[str, str]:
    """The field ``labels``: at most sixteen, with names and values as Kubernetes takes them; ``unreserved``: no link's."""
    try:
        labels = parse_labels(value)
        require_unreserved(labels if unreserved else ())
        return labels
    except ValueError as exc:
        raise _wrong_field("labels", str(exc)) from exc
