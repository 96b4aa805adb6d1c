"""Applies changes while the daemon runs: a reload, all of it or nothing, and the file of API keys.

Owns: who is informed that other settings are in force; waiting for the credentials of a reload, because its signal comes
before them; following the key file, so that a key is rotated by writing the file. The configuration decides which keys
may change.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stackd import logs
from stackd.config import Config, LoadedConfig, SettingChange, diff, merge_live
from stackd.config.credentials import STAMP
from stackd.errors import ConfigError, StoreUnavailable
from stackd.jobs.schedule import Schedule
from stackd.kube.routes import kinds_of
from stackd.kube.wire import CONFIG_MAPS, NETWORK_POLICIES
from stackd.lifecycle.context import Context
from stackd.lifecycle.templates import let_go, read_again, report
from stackd.model import AuditKind
from stackd.tasks import set_within
from stackd.templates import TemplateSet, read_templates
from stackd.upkeep.health import line
from stackd.upkeep.systemd import Notifier
from stackd.upkeep.tls import Certificate, Stamp, stamp_of
from stackd.web.auth import Keys
from stackd.web.limits import Limits

log = logging.getLogger(__name__)

# How long a reload waits for credentials. If systemd did not send the signal, none come, and it is late by this.
HAND_OVER_SECONDS: Final = 5.0
HAND_OVER_POLL_SECONDS: Final = 0.02
KEY_FILE_SECONDS = 2.0


class HandOver:
    """The credentials that systemd puts into ``folder``; None if nothing is handed over."""

    def __init__(self, folder: Path | None) -> None:
        self._file = folder and folder / STAMP
        self._seen = self._stamp()

    async def arrived(self) -> None:
        """Return when the credentials of this reload are there, or when none have come for ``HAND_OVER_SECONDS``."""
        loop = asyncio.get_running_loop()
        end = loop.time() + HAND_OVER_SECONDS
        while self._file is not None and self._stamp() == self._seen and loop.time() < end:  # noqa: ASYNC110 - a file
            await asyncio.sleep(HAND_OVER_POLL_SECONDS)
        self._seen = self._stamp()

    def _stamp(self) -> Stamp | None:
        return stamp_of(self._file) if self._file else None


@dataclass(slots=True, kw_only=True)
class Reloader:
    """Takes over what ``again`` reads: all of it each time ``wanted`` is set, only the keys when their file has changed.

    One service does both, one after the other: a reload must not put keys in force that it read before a rotation.
    """

    context: Context
    keys: Keys
    limits: Limits
    schedule: Schedule
    notifier: Notifier
    ready: asyncio.Event
    again: Callable[[], LoadedConfig]
    hand_over: HandOver
    certificate: Certificate | None = None
    mount: Path | None = None
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _key_file: tuple[str, Stamp | None] = ("", None)
    _refused_keys: str = ""
    _mounted: str = ""

    async def run(self) -> None:
        """The service that reloads, and polls the key file and what the kubelet mounts."""
        while True:
            if await set_within(self.wanted, KEY_FILE_SECONDS) or self._is_mount_replaced():
                self.wanted.clear()
                await self.reload()
            else:
                await self._check_key_file()

    def _is_mount_replaced(self) -> bool:
        """Whether the kubelet has replaced the files of ConfigMap and Secret in ``mount``, which it does by one link. The first
        time that is true: they may have changed since the configuration was read."""
        before = self._mounted
        with suppress(OSError):
            self._mounted = os.readlink(self.mount / "..data") if self.mount else ""
        return self._mounted != before

    async def reload(self) -> None:
        """Read the configuration again and put its live keys in force, or refuse all of it."""
        self.notifier.reloading()
        reloads, store = self.context.metrics.reloads, self.context.store
        reloads.at = self.context.clock.now() / 1e9
        await self.hand_over.arrived()
        try:
            loaded = await asyncio.to_thread(self.again)
            config = loaded.config
            namespace, instance = config.stacks.namespace, config.cluster.instance
            stacks = sum(not row.spare for row in store.stacks.ordered())
            store.identity.require_own(config.state.path, stacks, namespace=namespace, instance=instance)
            new = merge_live(self.context.config, config)
            files = await asyncio.to_thread(read_templates, new)
            fresh = await self.context.cluster.reload_credentials()
        except ConfigError as error:
            for mistake in error.mistakes:
                log.error("reload refused: %s", mistake)
            log.error("reload refused, the configuration in force stays; mistakes: %d", len(error.mistakes))
            more = f" (and {len(error.mistakes) - 1} more)" if len(error.mistakes) > 1 else ""
            reloads.refused = error.mistakes[0] + more
            self.context.audit.note(AuditKind.RELOAD, f"refused: {reloads.refused}", failed=True)
        else:
            if fresh:
                log.info("reloaded: the credentials for the cluster")
                self.context.gate.identity.doubt()
            async with self.context.settings.changing:
                templates = await read_again(self.context, files, new)
                report(templates, self.context.settings.templates)
                self._take(loaded, new, templates, anything=fresh)
            reloads.refused = ""
            if self.context.fence.open:
                with suppress(StoreUnavailable):  # the refill does it later
                    await let_go(self.context)
            await self.context.audit.keys_in_force(new.auth.keys)
        self.notifier.ready(line(self.context, self.ready))

    async def _check_key_file(self) -> None:
        """Put the keys in force if the key file has changed; a file that cannot be used changes nothing."""
        path = self.context.config.auth.key_file
        seen = (path, stamp_of(path))
        if seen[1] is None or seen == self._key_file:
            return
        try:
            loaded = await asyncio.to_thread(self.again)
        except ConfigError as error:
            if error.mistakes[0] != self._refused_keys:
                self._refused_keys = error.mistakes[0]
                log.error(
                    "the key file has changed and is not used, the keys stay as they were: %s", self._refused_keys
                )
                self.context.audit.note(AuditKind.KEYS, f"refused: {self._refused_keys}", failed=True)
            return
        self._key_file, self._refused_keys = seen, ""
        config, keys = self.context.config, loaded.config.auth.keys
        if keys != config.auth.keys:
            auth = config.auth.model_copy(update={"keys": keys})
            self.context.settings.replace(config.model_copy(update={"auth": auth}))
            self.keys.replace(self.context.config)
            log.info("the key file has changed; keys in force: %s", ", ".join(key.name for key in keys))
            await self.context.audit.keys_in_force(keys)

    def _take(self, loaded: LoadedConfig, new: Config, templates: TemplateSet, *, anything: bool) -> None:
        """Put what was loaded in force, and log it; ``anything``: something else has changed already."""
        old = self.context.config
        edited = _edited(self.context.settings.templates, templates)
        live, restart = diff(old, loaded.config)
        self._put_in_force(old, new, templates)
        for warning in loaded.warnings:
            log.warning("%s", warning)
        for change in live:
            log.info("reloaded: %s", _words(change) if change.old != change.new else change.key)
        if edited:
            log.info("reloaded: templates: %s", ", ".join(edited))
        if not (edited or live or restart or anything):
            log.info("reloaded: nothing has changed")
        words = [
            *(_words(change) for change in live if change.old != change.new),
            *(f"template {one}" for one in edited),
        ]
        words += [f"waits for a restart: {_words(change)}" for change in restart]
        self.context.audit.note(AuditKind.RELOAD, "; ".join(words) or "nothing that is shown has changed")
        self.context.metrics.reloads.waiting = tuple(change.key for change in restart)
        for change in restart:
            log.warning("waits for a restart: %s", _words(change))

    def _put_in_force(self, old: Config, new: Config, templates: TemplateSet) -> None:
        self.context.settings.replace(new, templates)
        self.keys.replace(new)
        self.limits.replace(new)
        if new.reconcile.interval != old.reconcile.interval:
            self.schedule.change("reconcile", new.reconcile.interval)
        if new.log.format != old.log.format:
            logs.setup(new.log)
        logs.set_level(new.log.level)
        kept = {NETWORK_POLICIES}.intersection(self.context.mirror.followed)
        self.context.mirror.follow((CONFIG_MAPS, *kinds_of(new.routes), *kept))
        self.context.wake_templates()
        if (new.stacks, new.routes) != (old.stacks, old.routes) and self.context.mirror.synced:
            self.context.observe_all()
        if self.certificate is not None:
            self.certificate.reload_changed()


def _words(change: SettingChange) -> str:
    return f"{change.key}: {change.old} → {change.new}"


def _edited(old: TemplateSet, new: TemplateSet) -> list[str]:
    words = [f"{name} is new" for name in new if name not in old]
    words += [f"{name} has changed" for name in new if name in old and new[name] != old[name]]
    return words + [f"{name} is gone" for name in old if name not in new]
