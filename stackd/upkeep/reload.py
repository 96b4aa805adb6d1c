"""A changed configuration, taken over while the daemon runs: whole, or not at all.

Owns: what has to be told that the settings in force are others. Which keys may change is ``config.reload``'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from stackd import logs
from stackd.config import Change, Config, Loaded, diff, merge_live
from stackd.errors import ConfigError
from stackd.jobs.schedule import Schedule
from stackd.lifecycle.observe import Observer
from stackd.lifecycle.room import Room
from stackd.notify import Notifier
from stackd.upkeep.certificate import Certificate
from stackd.upkeep.report import working
from stackd.web.auth import Keys
from stackd.web.limits import Limits

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Reloader:
    """Takes over what ``again`` reads, each time that ``wanted`` is set."""

    room: Room
    keys: Keys
    limits: Limits
    schedule: Schedule
    observer: Observer
    notifier: Notifier
    again: Callable[[], Loaded]
    certificate: Certificate | None = None
    wanted: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """The reloading service."""
        while True:
            await self.wanted.wait()
            self.wanted.clear()
            await self.reload()

    async def reload(self) -> bool:
        """Read the configuration again and put its live keys in force; False if it was refused."""
        self.notifier.reloading()
        reloads = self.room.metrics.reloads
        reloads.at = self.room.clock.now() / 1e9
        try:
            loaded = await asyncio.to_thread(self.again)
        except ConfigError as error:
            self._refuse(error.mistakes)
        else:
            reloads.refused = ""
            self._take(loaded)
        self.notifier.ready(working(self.room))
        return not reloads.refused

    def _refuse(self, mistakes: list[str]) -> None:
        for mistake in mistakes:
            log.error("reload refused: %s", mistake)
        log.error("reload refused: everything stays as it was; %d to be mended", len(mistakes))
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        self.room.metrics.reloads.refused = mistakes[0] + more

    def _take(self, loaded: Loaded) -> None:
        old = self.room.config
        changes = diff(old, loaded.config)
        new = merge_live(old, loaded.config)
        self._put_in_force(old, new)
        for warning in loaded.warnings:
            log.warning("%s", warning)
        _say("reloaded", changes.live)
        if not changes.live and not changes.restart:
            log.info("reloaded: nothing has changed")
        for change in changes.restart:
            log.warning("waits for a restart: %s: %s → %s", change.key, change.old, change.new)

    def _put_in_force(self, old: Config, new: Config) -> None:
        self.room.settings.replace(new)
        apply_keys(self.keys, new)
        self.limits.replace(new)
        if new.reconcile.interval != old.reconcile.interval:
            self.schedule.change("reconcile", new.reconcile.interval)
        if new.log.format != old.log.format:
            logs.setup(new.log)
        logs.set_level(new.log.level)
        if new.stacks != old.stacks and self.room.mirror.synced:
            self.observer.look_at_all()
        if self.certificate is not None:
            self.certificate.renew()


def apply_keys(keys: Keys, config: Config) -> None:
    """Put the configured keys in force."""
    keys.replace(config.auth.keys, enabled=config.auth.enabled, failed_per_minute=config.limits.failed_auth_per_minute)


def _say(what: str, changes: tuple[Change, ...]) -> None:
    for change in changes:
        if change.old == change.new:
            log.info("%s: %s", what, change.key)
        else:
            log.info("%s: %s: %s → %s", what, change.key, change.old, change.new)
