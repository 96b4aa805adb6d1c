"""The routes of templates: read all or one; write and delete those of the API.

Owns: who may do that. A template's text is not for those who only use it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from aiohttp import hdrs, web

from stackd import contract
from stackd.errors import InvalidRequest, InvalidTemplate, PermissionDenied, Reason, RequestTooLarge, TemplateNotFound
from stackd.kube.template_maps import LONGEST_TEXT
from stackd.lifecycle.health import CheckResult
from stackd.lifecycle.templates import ANY, is_owner, missing, put, remove
from stackd.model import StackStatus
from stackd.names import LABEL_FORM, is_label
from stackd.podspec.reasons import ROOT
from stackd.templates import Check, Template
from stackd.templates.sources import TEXT_PER_POD_SPEC
from stackd.units import format_duration
from stackd.web.api import Answer, Api, ApiCall, route
from stackd.web.bodies import time_of
from stackd.web.parameters import DRY_RUN, FILTERS, StackSelection
from stackd.web.responses import json_response
from stackd.web.stacks import STACKS, read_body

YAML: Final = "application/yaml"
LISTED: Final = re.compile(r'(?:W/)?"[^"]*"(?:\s*,\s*(?:W/)?"[^"]*")*')
ONE_LISTED: Final = re.compile(r'(W/)?"([^"]*)"')

ONE: Final = Answer("The template.", contract.Template)
SAME: Final = (
    *("name", "labels", "pool", "shared", "title", "category", "description", "show", "cost", "names"),
    *("source", "version"),
)
"""The fields of an answer that the template has under the same name."""

Counts = Counter[tuple[str | None, StackStatus]]


@route("GET", "/templates", STACKS, Answer("The templates.", contract.Templates), query=FILTERS)
async def list_templates(call: ApiCall) -> web.Response:
    """List the templates.

    What a create can ask for by name, and how the pool of each is doing. A tenant's key sees those that it may use, and
    counts its own stacks. The filters choose the stacks that are counted, not the templates.
    """
    selection = StackSelection(call.parameters)
    stacks = Counter((one.template, one.status) for one in call.view.stacks() if selection.matches(one))
    entries = (_entry(call.api, each, stacks) for each in call.view.templates().values())
    absent = tuple(filter(call.key.may_use, missing(call.api.context)))
    body = contract.Templates(templates=tuple(entries), problems=tuple(_problems(call)), missing=absent)
    response = json_response(body)
    response.enable_compression()
    return response


@route(
    "PUT",
    "/templates/{template}",
    STACKS,
    ONE,
    Answer("The new template.", contract.Template, status=201),
    query=(DRY_RUN,),
    media=YAML,
    errors=(409, 412),
    versioned=True,
)
async def put_template(call: ApiCall) -> web.Response:
    """Write a template.

    The body is the YAML of a template's file, and is checked as a file is: a 400 has each mistake with its line. For admin
    keys, and for tenants with `templates_write` within their `templates`: new ones, and those that they have written
    themselves. The pool and the shared stack of the template get the new version at once; other stacks stay as they are.
    The same text again changes nothing. 409 for the name of a file's template, 403 for one that is another key's. It is kept
    in the cluster, as a ConfigMap: a 503 while Kubernetes does not answer.
    """
    name, context = _writable(call), call.api.context
    if not is_label(name):
        raise InvalidRequest(f"{name[:64]!r} is not the name of a template: {LABEL_FORM} are expected")
    longest = min(TEXT_PER_POD_SPEC * context.config.limits.pod_spec, LONGEST_TEXT)
    raw = await read_body(call)
    if len(raw) > longest:
        raise RequestTooLarge(f"the text is longer than {longest} bytes (twice limits.pod_spec)")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidTemplate([Reason(path=ROOT, text=f"the text is not UTF-8 (byte {error.start})")]) from error
    tries = call.parameters.get(DRY_RUN, False)
    template, is_new = await put(context, name, text, call.key, only=_versions(call), tries=tries)
    status = 201 if is_new and not tries else 200
    return json_response(_counted(call, template), status=status, headers=_etag(template))


@route("GET", "/templates/{template}", STACKS, ONE, versioned=True)
async def get_template(call: ApiCall) -> web.Response:
    """Get a template.

    As in the list, and with its text; a tenant's key gets that only of templates that are its own.
    """
    template = call.view.template(_name(call))
    if template is None:
        raise TemplateNotFound(_name(call))
    text = template.text if _may_read_text(call, template) else ""
    return json_response(_counted(call, template).replaced(text=text), headers=_etag(template))


@route(
    "DELETE",
    "/templates/{template}",
    STACKS,
    Answer("It is gone.", contract.TemplateDeleted),
    errors=(409, 412),
    versioned=True,
)
async def delete_template(call: ApiCall) -> web.Response:
    """Delete a template of the API.

    Its pool is emptied, and its shared stack is deleted. Its other stacks stay, and can be restarted. A template that is
    `missing` in the list can be deleted, too, by an admin key.
    """
    name = _writable(call)
    await remove(call.api.context, name, call.key, only=_versions(call))
    return json_response(contract.TemplateDeleted(name=name))


def _versions(call: ApiCall) -> tuple[str, ...] | None:
    """What ``If-Match`` lists; weak ones match nothing. Raises InvalidRequest."""
    text = call.request.headers.get(hdrs.IF_MATCH, "").strip()
    if not text:
        return None
    if text == ANY:
        return (ANY,)
    if not LISTED.fullmatch(text):
        raise InvalidRequest('If-Match: versions in quotes are expected, such as "6804aa27d53fbbaf"')
    return tuple(version for weak, version in ONE_LISTED.findall(text) if not weak)


def _etag(template: Template) -> dict[str, str]:
    return {hdrs.ETAG: f'"{template.version}"'}


def _may_read_text(call: ApiCall, template: Template) -> bool:
    kept, key = template.stored, call.key
    if not key.tenant:
        return True
    return kept is not None and key.may_write(kept.name) and is_owner(kept, key, call.api.context.config)


def _problems(call: ApiCall) -> Iterator[contract.TemplateProblem]:
    for one in call.api.context.settings.templates.problems:
        if call.key.may_write(one.name):
            yield contract.TemplateProblem(name=one.name, problem=one.problem, message=one.message)


def _name(call: ApiCall) -> str:
    return call.parts["template"]


def _writable(call: ApiCall) -> str:
    """The name in the path. Raises PermissionDenied if the key may not write the template."""
    name, key = _name(call), call.key
    if not key.may_write(name):
        allowed = f"it may write {', '.join(key.templates)}" if key.templates_write else "templates_write is not set"
        raise PermissionDenied(f"the API key {key.name!r} may not write the template {name[:64]}: {allowed}")
    return name


def _counted(call: ApiCall, template: Template) -> contract.Template:
    stacks: Counts = Counter((one.template, one.status) for one in call.view.stacks() if one.template == template.name)
    return _entry(call.api, template, stacks)


def _entry(api: Api, template: Template, stacks: Counts) -> contract.Template:
    pulls, allowed = api.prepulls.of(template), template.extend
    stored, hours = template.stored, template.hours
    return contract.Template(
        **{name: getattr(template, name) for name in SAME},
        target_port=template.target_ports,  # type: ignore[arg-type]  # they have the same fields
        ttl=format_duration(api.context.config.stacks.ttl if template.ttl is None else template.ttl),
        images=tuple(template.images),
        generates=tuple(template.values),
        requested_cpu_milli=template.spec.requested_cpu_milli,
        requested_memory_bytes=template.spec.requested_memory_bytes,
        stacks={str(status): stacks[template.name, status] for status in StackStatus},
        median_seconds_to_running=api.context.metrics.median_seconds_to_running(template.name),
        held=0,
        shared_stack=api.context.pools.shared_stack(template.name),
        check=_check(template.check) if template.check is not None else None,
        checked=_checked(api.context.checks.of_template.get(template.name)),
        prepull={node: contract.Prepull(state=one.state, reason=one.reason) for node, one in pulls.items()}
        if template.prepull
        else None,
        **asdict(api.context.pools.figures(template)),
        extend=None if allowed is None else contract.Extensions(by=format_duration(allowed.by), times=allowed.times),
        opens=time_of(hours.opens) if hours.opens else None,
        closes=time_of(hours.closes) if hours.closes else None,
        notice=format_duration(hours.notice) if hours.closes else None,
        env={name: contract.Variable(pattern=pattern) for name, pattern in template.env.items()},
        **({} if stored is None else {"written_by": stored.by.name, "written_at": time_of(stored.at)}),
    )


def _check(check: Check) -> contract.TemplateCheck:
    every, timeout = format_duration(check.every), format_duration(check.timeout)
    return contract.TemplateCheck(
        image=check.image, command=check.command, every=every, timeout=timeout, failures=check.failures
    )


def _checked(result: CheckResult | None) -> contract.TemplateChecked | None:
    if result is None:
        return None
    fields = {name: getattr(result, name) for name in contract.TemplateChecked.__struct_fields__}
    return contract.TemplateChecked(**fields | {"at": time_of(result.at)})
