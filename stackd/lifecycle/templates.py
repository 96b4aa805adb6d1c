"""The templates in force: those of the files, and those that the API was given, which the state file keeps.

Owns: that a name belongs to a file or to the API, and what becomes of a template of the API that is not right any more, since
a file has its name or the policy has changed: it stays in the state file, and is not in force. A change reaches the pool
and the shared stack of its template at once, and no other stack that runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from stackd.codes import ErrorCode
from stackd.config import Config
from stackd.crashpoints import crash_point
from stackd.errors import ConfigError, Conflict, InvalidTemplate, TemplateNotFound
from stackd.lifecycle.context import Context
from stackd.model import AuditKind, StoredTemplate
from stackd.store.templates import TemplateLimits, stored_in
from stackd.templates import Template, TemplateSet, parse_template, read_templates

log = logging.getLogger(__name__)

BYTES_PER_KEY = 1 << 20
"""How long the texts of all templates of a tenant's key may be. Those that were read take some 30 times as much memory."""


def in_force(files: TemplateSet, stored: Iterable[StoredTemplate], config: Config) -> TemplateSet:
    """The templates of the files and those of the API that are right; logs why the others are not in force."""
    templates = [*files.values()]
    for one in stored:
        if one.name in files:
            log.error("%s; the file's is in force", clash(one))
            continue
        try:
            templates.append(parse_template(one, config))
        except InvalidTemplate as error:
            log.error("the template %s of the API (by %s) is not in force: %s", one.name, one.by, error)
    return TemplateSet(templates)


def all_templates(config: Config) -> TemplateSet:
    """Those that a daemon with this configuration and state file has. Raises ConfigError."""
    return in_force(read_templates(config), stored_in(Path(config.state.path)), config)


def clash(stored: StoredTemplate) -> str:
    """What is wrong where a file and the API have a template of the same name."""
    return (
        f"the template {stored.name} is in a file, and {stored.by} has written one of this name over the API: "
        f"rename the file, or delete that one (DELETE /templates/{stored.name})"
    )


def require_no_clash(files: TemplateSet, stored: Iterable[StoredTemplate]) -> None:
    """Raise ConfigError if a file and the API have a template of the same name."""
    if mistakes := [clash(one) for one in stored if one.name in files]:
        raise ConfigError(mistakes)


async def put(context: Context, stored: StoredTemplate, *, tries: bool = False) -> tuple[Template, bool]:
    """Put the template in force, and keep it; returns it, and whether its name is new. With ``tries``, only check it.

    Raises InvalidTemplate, Conflict (a file has the name, or the key has too many), StoreUnavailable. The same text again
    changes nothing.
    """
    return await context.tasks.run(f"template {stored.name}", _put(context, stored, tries=tries))


async def _put(context: Context, stored: StoredTemplate, *, tries: bool) -> tuple[Template, bool]:
    settings, kept = context.settings, context.store.templates
    async with settings.changing:
        _require_not_of_a_file(settings.templates, stored.name)
        template = await asyncio.to_thread(parse_template, stored, context.config)
        before = kept.get(stored.name)
        same = before is not None and (before.text, before.tenant) == (stored.text, stored.tenant)
        if not tries and not (same and stored.name in settings.templates):
            limits = context.config.limits
            await kept.put(
                replace(stored, pool=template.pool),
                TemplateLimits(count=limits.templates_per_key, bytes=BYTES_PER_KEY, pool=limits.pool_per_key),
            )
            crash_point("template.kept")
            others = [one for name, one in settings.templates.items() if name != stored.name]
            what = f"{stored.name} {'is new' if before is None else 'has changed'} (version {template.version})"
            _take(context, TemplateSet([*others, template]), what, stored.by)
        return template, before is None


async def remove(context: Context, name: str, by: str) -> None:
    """Delete the template of the API, and so its pool; its stacks stay. Raises TemplateNotFound, Conflict (a file has
    it), StoreUnavailable."""
    await context.tasks.run(f"template {name}", _remove(context, name, by))


async def _remove(context: Context, name: str, by: str) -> None:
    settings = context.settings
    async with settings.changing:
        if context.store.templates.get(name) is None:
            _require_not_of_a_file(settings.templates, name)
            raise TemplateNotFound(name)
        await context.store.templates.remove(name)
        crash_point("template.removed")
        others = [one for one in settings.templates.values() if one.name != name or one.source == "file"]
        _take(context, TemplateSet(others), f"{name} is gone", by)


def _require_not_of_a_file(templates: TemplateSet, name: str) -> None:
    if name in templates and templates[name].source == "file":
        raise Conflict(
            "a file of templates.directory, on stackd's machine, has this template: change it there, or rename this one",
            code=ErrorCode.TEMPLATE_OF_A_FILE,
        )


def _take(context: Context, templates: TemplateSet, what: str, by: str) -> None:
    context.settings.templates = templates
    context.pools.news.set()
    log.info("template %s, by %s", what, by)
    context.audit.note(AuditKind.TEMPLATE, what, by=by)
