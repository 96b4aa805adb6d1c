"""The templates in force: those of the files, and those that the API was given, which the state file keeps.

Owns: that a name belongs to a file or to the API, and what becomes of a template of the API that is not right any more, since
a file has its name or the policy has changed: it stays in the state file, and is not in force. A change reaches the pool
and the shared stack of its template at once, and no other stack that runs.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from stackd.codes import ErrorCode
from stackd.config import Config
from stackd.crashpoints import crash_point
from stackd.errors import Conflict, PermissionDenied, TemplateNotFound
from stackd.keys import ApiKey
from stackd.lifecycle.context import Context
from stackd.model import AuditKind, DeleteReason, Principal, Stack, StoredTemplate
from stackd.store.templates import TemplateLimits, stored_in
from stackd.templates import Template, TemplateSet, in_force, parse_template, read_templates

log = logging.getLogger(__name__)

BYTES_PER_KEY = 1 << 20
"""How long the texts of all templates of a tenant's key may be. Those that were read take some 30 times as much memory."""


def report(templates: TemplateSet) -> None:
    """Log why texts are not in force."""
    for problem in templates.problems:
        log.error("%s", problem.message)


def all_templates(config: Config) -> TemplateSet:
    """Those that a daemon with this configuration and state file has. Raises ConfigError."""
    return in_force(read_templates(config), stored_in(Path(config.state.path)), config)


def is_owner(kept: StoredTemplate, key: ApiKey, config: Config) -> bool:
    """Whether the key, which may write templates of this name, may write this one, too.

    What an admin key has written is the operator's. What a tenant's key has written is that key's, and after the key was
    replaced, it belongs to those who may write the name.
    """
    if not key.tenant:
        return True
    return kept.tenant and (
        kept.by.id == key.principal.id or kept.by.id not in {one.principal.id for one in config.auth.keys}
    )


def require_owner(kept: StoredTemplate, key: ApiKey, config: Config) -> None:
    """Raise PermissionDenied if the key may not change this template."""
    if not is_owner(kept, key, config):
        raise PermissionDenied(
            f"the template {kept.name} is another key's ({kept.by.name}): that key or an admin key writes and deletes it; "
            "choose another name"
        )


async def put(context: Context, name: str, text: str, key: ApiKey, *, tries: bool = False) -> tuple[Template, bool]:
    """Put the template in force, and keep it; returns it, and whether its name is new. With ``tries``, only check it.

    Raises InvalidTemplate, PermissionDenied, Conflict (a file has the name, or the key has too many), StoreUnavailable. The
    same text again changes nothing.
    """
    at = context.wall_clock.now()
    stored = StoredTemplate(name=name, text=text, by=key.principal, tenant=key.tenant, at=at)
    return await context.tasks.run(f"template {name}", _put(context, stored, key, tries=tries))


async def _put(context: Context, stored: StoredTemplate, key: ApiKey, *, tries: bool) -> tuple[Template, bool]:
    settings, kept = context.settings, context.store.templates
    async with settings.changing:
        _require_not_of_a_file(settings.templates, stored.name)
        before = kept.get(stored.name)
        if before is not None:
            require_owner(before, key, context.config)
        template = await asyncio.to_thread(parse_template, stored, context.config)
        same = before is not None and _essence(before) == _essence(stored)
        if not tries and not (same and stored.name in settings.templates):
            limits = context.config.limits
            await kept.put(
                replace(stored, pool=template.pool),
                TemplateLimits(count=limits.templates_per_key, bytes=BYTES_PER_KEY, pool=limits.pool_per_key),
            )
            crash_point("template.kept")
            others = [one for name, one in settings.templates.items() if name != stored.name]
            problems = [one for one in settings.templates.problems if one.name != stored.name]
            what = f"{stored.name} {'is new' if before is None else 'has changed'} (version {template.version})"
            _take(context, TemplateSet([*others, template], problems), what, stored.by)
        return template, before is None


def _essence(kept: StoredTemplate) -> tuple[str, bool, str]:
    """What makes a template another one; who of the operators has written it does not."""
    return kept.text, kept.tenant, kept.by.id if kept.tenant else ""


async def remove(context: Context, name: str, key: ApiKey) -> None:
    """Delete the template of the API, and so its pool and its shared stack; its other stacks stay. An admin deletes one that
    is missing, too. Raises TemplateNotFound, PermissionDenied, Conflict (a file has it), StoreUnavailable."""
    await context.tasks.run(f"template {name}", _remove(context, name, key))


async def _remove(context: Context, name: str, key: ApiKey) -> None:
    settings = context.settings
    async with settings.changing:
        kept = context.store.templates.get(name)
        if kept is None and (key.tenant or name not in missing(context)):  # whose a missing one was, nobody knows
            _require_not_of_a_file(settings.templates, name)
            raise TemplateNotFound(name)
        if kept is not None:
            require_owner(kept, key, context.config)
        await context.store.templates.remove(name)
        crash_point("template.removed")
        others = [one for one in settings.templates.values() if one.name != name or one.source == "file"]
        problems = [one for one in settings.templates.problems if one.name != name]
        if name not in (templates := TemplateSet(others, problems)):
            settings.removed.add(name)
        _take(context, templates, f"{name} is gone", key.principal)
        await let_go(context)


async def let_go(context: Context) -> None:
    """Intend to delete what stackd keeps of the templates that were removed. Raises StoreUnavailable; the refill finds what
    is left, but only this process knows that they were removed."""
    kept = [row.stack_id for name in context.settings.removed for row in _kept(context, name)]
    marked = await context.store.stacks.mark_deleting(kept, DeleteReason.POOL) if kept else []
    context.loop.wake(stack.stack_id for stack in marked)


def missing(context: Context) -> list[str]:
    """The templates that are not in force, although nobody has removed them and stackd keeps stacks of them: a pool, or a
    shared stack. Those stay."""
    return sorted(name for name in context.pools.by_name if context.settings.is_missing(name) and _kept(context, name))


def _kept(context: Context, name: str) -> list[Stack]:
    pool = context.pools.of(name)
    return [row for row in (*pool.waits.values(), *pool.shared.values()) if row.deleting_since is None]


def _require_not_of_a_file(templates: TemplateSet, name: str) -> None:
    if name in templates and templates[name].source == "file":
        raise Conflict(
            "a file of templates.directory, on stackd's machine, has this template: change it there, or rename this one",
            code=ErrorCode.TEMPLATE_OF_A_FILE,
        )


def _take(context: Context, templates: TemplateSet, what: str, by: Principal) -> None:
    context.settings.templates = templates
    context.settings.removed.difference_update(templates)
    context.pools.news.set()
    log.info("template %s, by %s", what, by.name)
    context.audit.note(AuditKind.TEMPLATE, what, by=by)
