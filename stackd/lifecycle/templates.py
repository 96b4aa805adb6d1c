"""The templates in force: those of the files, and those in the cluster, a ConfigMap each, which the mirror shows.

Owns: writing and deleting them; what becomes of the ConfigMaps that others write; whose they are. The state file keeps the
last good text of each, for a start while Kubernetes does not answer, and as a proof that stackd has written it. What is gone
from the cluster is not removed: only a DELETE does that. A change reaches the pool and the shared stack of the template
at once, and no other stack.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from pathlib import Path

from stackd.codes import ErrorCode
from stackd.config import Config
from stackd.crashpoints import crash_point
from stackd.errors import (
    ClusterUnavailable,
    Conflict,
    ObjectExists,
    ObjectNotFound,
    PermissionDenied,
    PreconditionFailed,
    StoreUnavailable,
    TemplateChanged,
    TemplateNotFound,
)
from stackd.keys import ApiKey
from stackd.kube.template_maps import TEMPLATES, TemplateMap, name_of, template_manifest
from stackd.kube.wire import CONFIG_MAPS
from stackd.lifecycle.context import Context, goes_on
from stackd.lifecycle.transitions import intend_deletes
from stackd.model import CLUSTER, AuditKind, DeleteReason, Principal, Stack, StoredTemplate
from stackd.store.templates import stored_in
from stackd.template_files import version_of
from stackd.templates import NO_TEMPLATES, Reader, Template, TemplateSet, in_force, read_templates
from stackd.templates.sources import why_over_budget
from stackd.timing import TEMPLATES_LISTED_SECONDS

log = logging.getLogger(__name__)

TRIES = 5
"""How often a write begins again because the ConfigMap has changed meanwhile."""

# After texts were read, the next are for so many times as long as that took, but within the two seconds that a text may wait.
RESTS, LONGEST_REST_SECONDS = 10, 1.0

ANY = "*"
"""The version of ``If-Match`` that every template has."""

Versions = Collection[str] | None
"""The versions of which the template must have one to be changed; None: any, or there may be none yet."""


def all_templates(config: Config) -> TemplateSet:
    """Those that a daemon with this configuration and state file has before it has seen the cluster. Raises ConfigError."""
    return in_force(read_templates(config), stored_in(Path(config.state.path)), Reader(config))


# ---- which are in force


async def follow(context: Context) -> None:
    """The service that puts in force what others write into the cluster; for ever. What is written in masses is read less often:
    reading takes a small part of the time."""
    news, now = context.settings.template_news, context.clock.monotonic
    while True:
        await news.wait()
        news.clear()
        async with context.settings.changing:
            began = now()
            await refresh(context)
        await asyncio.sleep(min(LONGEST_REST_SECONDS, RESTS * (now() - began)))


async def refresh(context: Context, *, by: Principal | None = None) -> None:
    """Put in force what the files and the cluster have, keep it, and note what has changed, ``by`` whoever has written it
    unless somebody is named. Whoever calls this holds ``settings.changing``."""
    settings, is_first = context.settings, not context.settings.cluster_templates_known
    seen = _seen(context)
    if seen is None and not is_first:
        return  # another cluster may answer: what was in force stays
    before, kept = settings.templates, list(context.store.templates)
    templates = await read(context, before.of_files(), seen)
    settings.cluster_templates_known = seen is not None
    report(templates, before)
    settings.replace(context.config, templates)
    context.wake_templates()
    for name in sorted({*before, *templates}):
        if (word := _change(before.get(name), templates.get(name))) is not None:
            who = by or _writer(templates.get(name))
            log.info("template %s, by %s", word, who.name)
            if not is_first:
                context.audit.note(AuditKind.TEMPLATE, word, by=who)
    if seen is not None:
        await _keep(context, templates, {text.name: text for text in kept})


async def read(
    context: Context, files: TemplateSet, seen: dict[str, StoredTemplate | str] | None, config: Config | None = None
) -> TemplateSet:
    """The templates in force with these ``files`` and what was ``seen`` in the cluster, under the ``config`` in force or another
    one."""
    settings, kept = context.settings, list(context.store.templates)
    if settings.reader.config is not (wanted := config or context.config):
        settings.reader = Reader(wanted)
    return await asyncio.to_thread(in_force, files, kept, settings.reader, seen)


async def read_again(context: Context, files: TemplateSet, config: Config) -> TemplateSet:
    """The templates in force with other ``files`` and another ``config``. Whoever calls this holds ``settings.changing``."""
    return await read(context, files, _seen(context), config)


def report(templates: TemplateSet, before: TemplateSet = NO_TEMPLATES) -> None:
    """Log why texts are not in force, unless that was so ``before``."""
    said = {problem.message for problem in before.problems}
    for problem in templates.problems:
        if problem.message not in said:
            log.log(logging.WARNING if problem.problem == "missing" else logging.ERROR, "%s", problem.message)


def _seen(context: Context) -> dict[str, StoredTemplate | str] | None:
    """What the cluster has, by the template's name; None while that is not known."""
    if context.gate.view_is_unverified or not context.mirror.knows(CONFIG_MAPS):
        return None
    there = sorted(
        context.mirror.templates.values(), key=lambda found: not found.mistake
    )  # a ConfigMap of a wrong name gives way
    return {found.template: _found(context, found) for found in there}


def _found(context: Context, there: TemplateMap) -> StoredTemplate | str:
    """The text in the ConfigMap and who has written it, or why there is none. A text that the state file has, too, is stackd's
    own, whatever has become of its annotations."""
    kept = context.store.templates.get(there.template)
    if there.stored is None:
        return there.mistake
    is_kept = kept is not None and (kept.source, kept.text) == ("api", there.stored.text)
    return kept if kept is not None and is_kept and not there.is_ours else there.stored


def _change(before: Template | None, after: Template | None) -> str | None:
    """What has become of a template, in words."""
    if after is None or before is None:
        there = before if after is None else after
        word = "is gone" if after is None else "is new"
        return None if there is None else f"{there.name} {word} (version {there.version})"
    same = (before.version, before.source) == (after.version, after.source) and before == after
    return None if same else f"{after.name} has changed (version {after.version})"


def _writer(template: Template | None) -> Principal:
    return template.stored.by if template is not None and template.stored is not None else CLUSTER


async def _keep(context: Context, templates: TemplateSet, kept: dict[str, StoredTemplate]) -> None:
    """Keep the last good texts. If the file refuses, the cluster has them all the same, and the next change tries again."""
    try:
        for template in templates.values():
            if template.stored is not None and template.stored != kept.get(template.name):
                await context.store.templates.save(template.stored)
                crash_point("template.kept")
    except StoreUnavailable as error:
        log.warning("the templates of the cluster are not kept in the file now: %s", error)


# ---- whose they are


def is_owner(kept: StoredTemplate, key: ApiKey, config: Config) -> bool:
    """Whether the key, which may write templates of this name, may write this one, too.

    What an admin key, or somebody in the cluster, has written is the operator's. What a tenant's key has written is that
    key's, and after the key was replaced, it belongs to those who may write the name.
    """
    if not key.tenant:
        return True
    if kept.source == "cluster" or not kept.tenant:
        return False
    return kept.by.id == key.principal.id or kept.by.id not in {key.principal.id for key in config.auth.keys}


# ---- the API's


@goes_on
async def put(
    context: Context, name: str, text: str, key: ApiKey, *, only: Versions = None, tries: bool = False
) -> tuple[Template, bool]:
    """Write the template into the cluster, and put it in force; returns it, and whether its name is new. With ``tries``, only
    check it. With ``only``, the one that is there must have one of these versions.

    Raises InvalidTemplate, PermissionDenied, TemplateChanged, Conflict (a file has the name, or the key has too many),
    ClusterUnavailable. The same text again changes nothing.
    """
    settings, at = context.settings, context.wall_clock.now()
    stored = StoredTemplate(name=name, text=text, by=key.principal, tenant=key.tenant, at=at)
    async with settings.changing:
        _require_not_of_a_file(settings.templates, name)
        before = _current(context, name)
        _require(context, name, before, key, only)
        template = await asyncio.to_thread(Reader(context.config).read, stored)
        assert template.stored is not None
        if why := why_over_budget(template.stored, context.store.templates, context.config.limits):
            raise Conflict(why, code=ErrorCode.TEMPLATE_LIMIT_REACHED)
        if tries:
            return template, before is None
        there, now = name_of(name, context.cluster.instance) in context.mirror.templates, settings.templates.get(name)
        if there and now == template and before is not None and _essence(before) == _essence(stored):
            return now, False
        await _require_cluster(context)
        written = await _write(context, stored, key, only)
        crash_point("template.written")
        context.mirror.saw(written)
        await refresh(context, by=key.principal)
        now = settings.templates.get(name)
        return now if now is not None and now.version == template.version else template, before is None


async def _write(context: Context, stored: StoredTemplate, key: ApiKey, only: Versions) -> TemplateMap:
    """Create or change the ConfigMap. Whoever else writes it at the same time is asked for again: none is overwritten
    unseen."""
    cluster = context.cluster
    name = name_of(stored.name, cluster.instance)
    manifest = template_manifest(stored, namespace=cluster.namespace_name, instance=cluster.instance)
    for _ in range(TRIES):
        there = await cluster.get(TEMPLATES, name)
        if there is not None and there.stored == stored and there.is_ours:
            return there
        if there is not None and (there.instance, there.template) != (cluster.instance, stored.name):
            raise Conflict(f"the ConfigMap {name} is there already, and holds no template of this stackd: rename it")
        _require(context, stored.name, None if there is None else _text_of(context, there), key, only)
        try:
            if there is None:
                return await cluster.create(TEMPLATES, manifest)
            return await cluster.overwrite(TEMPLATES, manifest, there.uid, there.resource_version)
        except (ObjectExists, ObjectNotFound, PreconditionFailed):
            continue
    raise ClusterUnavailable(f"the ConfigMap {name} keeps changing")


@goes_on
async def remove(context: Context, name: str, key: ApiKey, *, only: Versions = None) -> None:
    """Delete the template from the cluster, and so its pool and its shared stack; its other stacks stay. One that is missing
    can be removed, too. With ``only``, it must have one of these versions.

    Raises TemplateNotFound, PermissionDenied, TemplateChanged, Conflict (a file has it), StoreUnavailable, ClusterUnavailable.
    """
    settings = context.settings
    async with settings.changing:
        before = _current(context, name)
        if before is None and (name not in missing(context) or key.tenant):  # whose a missing one was, nobody knows
            _require_not_of_a_file(settings.templates, name)
            raise TemplateNotFound(name)
        _require(context, name, before, key, only)
        await _require_cluster(context)
        await context.store.templates.remove(name)
        crash_point("template.removed")
        settings.template_news.set()  # if the delete fails, the text is kept again
        await _delete(context, name, key, only)
        crash_point("template.deleted")
        settings.removed.add(name)
        await refresh(context, by=key.principal)
        await let_go(context)


async def _delete(context: Context, name: str, key: ApiKey, only: Versions) -> None:
    cluster = context.cluster
    for _ in range(TRIES):
        there = await cluster.get(TEMPLATES, name_of(name, cluster.instance))
        if there is None or (there.instance, there.template) != (cluster.instance, name):
            return
        _require(context, name, _text_of(context, there), key, only)
        if await cluster.delete(CONFIG_MAPS, there.name, there.uid, version=there.resource_version):
            context.mirror.gone(there)
            return
    raise ClusterUnavailable(f"the ConfigMap of the template {name} keeps changing")


def _current(context: Context, name: str) -> StoredTemplate | None:
    """The text that the cluster has, or has had as far as is known, whether it is in force or not."""
    there = context.mirror.templates.get(name_of(name, context.cluster.instance))
    return context.store.templates.get(name) if there is None else _text_of(context, there)


def _text_of(context: Context, there: TemplateMap) -> StoredTemplate:
    """The text in the ConfigMap; an empty one of the operator's where it has none."""
    found = _found(context, there)
    if isinstance(found, StoredTemplate):
        return found
    text = there.stored.text if there.stored is not None else ""
    return StoredTemplate(name=there.template, text=text, by=CLUSTER, tenant=False, at=0, source="cluster")


def _require(context: Context, name: str, there: StoredTemplate | None, key: ApiKey, only: Versions) -> None:
    """Raise PermissionDenied if the template is another key's, TemplateChanged if it has none of these versions."""
    if there is not None and not is_owner(there, key, context.config):
        raise PermissionDenied(
            f"the template {name} is another key's ({there.by.name}): that key or an admin key writes and deletes it; "
            "choose another name"
        )
    if only is None:
        return
    version = None if there is None else version_of(there.text.encode())
    if version is None or not {version, ANY} & {*only}:
        has = "there is none" if version is None else f"it has the version {version}"
        raise TemplateChanged(f"the template {name} is not the one of If-Match: {has}; read it again")


async def _require_cluster(context: Context) -> None:
    """Raise ClusterUnavailable or NotOwner unless templates can be written now."""
    context.fence.require()
    await context.gate.right_cluster()
    if not await context.mirror.until_known(CONFIG_MAPS, TEMPLATES_LISTED_SECONDS):
        detail = context.mirror.extra_health[CONFIG_MAPS].last_error
        raise ClusterUnavailable("the templates in the cluster are not known yet; retry", detail=detail)


def _essence(kept: StoredTemplate) -> tuple[str, bool, str, str]:
    """What makes a template another one; who of the operators has written it does not."""
    return kept.text, kept.tenant, kept.by.id if kept.tenant else "", kept.source


def _require_not_of_a_file(templates: TemplateSet, name: str) -> None:
    if name in templates and templates[name].source == "file":
        raise Conflict(
            "a file of templates.directory, on stackd's machine, has this template: change it there, or rename this one",
            code=ErrorCode.TEMPLATE_OF_A_FILE,
        )


# ---- what stackd keeps of them


async def let_go(context: Context) -> None:
    """Intend to delete what stackd keeps of the templates that were removed. Raises StoreUnavailable; the refill finds what
    is left, but only this process knows that they were removed."""
    kept = [row.stack_id for name in context.settings.removed for row in _kept(context, name)]
    await intend_deletes(context, kept, DeleteReason.POOL)


def missing(context: Context) -> list[str]:
    """The templates that are not in force, although nobody has removed them and stackd keeps stacks of them: a pool, or a
    shared stack. Those stay."""
    return sorted(name for name in context.pools.by_name if context.settings.is_missing(name) and _kept(context, name))


def _kept(context: Context, name: str) -> list[Stack]:
    pool = context.pools.of(name)
    return [row for row in (*pool.waits.values(), *pool.shared.values()) if row.deleting_since is None]
