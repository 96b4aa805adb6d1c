"""The file of ``auth.key_file``: read again when it changes, so that a key is rotated by writing the file.

Only the keys are taken over; whatever else was edited meanwhile waits for its reload. A file that holds no usable key
(it is being written, or it is gone) changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from stackd.config import Loaded
from stackd.errors import ConfigError
from stackd.lifecycle.room import Room
from stackd.upkeep.reload import apply_keys
from stackd.web.auth import Keys

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0

Stamp = tuple[str, int, int, int] | None


class KeyFile:
    """Follows the key file that is in force."""

    def __init__(self, room: Room, keys: Keys, again: Callable[[], Loaded]) -> None:
        self._room = room
        self._keys = keys
        self._again = again
        self._stamp = self._look()
        self._refused = ""

    async def follow(self, every: float = LOOK_SECONDS) -> None:
        """The following service; looks every so many seconds."""
        while True:
            await asyncio.sleep(every)
            await self.look()

    async def look(self) -> None:
        """Take the keys over if the file has changed."""
        stamp = self._look()
        if stamp is None or stamp == self._stamp:
            return
        try:
            loaded = await asyncio.to_thread(self._again)
        except ConfigError as error:
            self._refuse(error.mistakes[0])
            return
        self._stamp, self._refused = stamp, ""
        room = self._room
        auth = room.config.auth.model_copy(update={"keys": loaded.config.auth.keys})
        if auth.keys == room.config.auth.keys:
            return
        room.settings.replace(room.config.model_copy(update={"auth": auth}))
        apply_keys(self._keys, room.config)
        log.info("the key file has changed; keys in force: %s", ", ".join(key.name for key in auth.keys))

    def _refuse(self, mistake: str) -> None:
        if mistake != self._refused:
            log.error("the key file has changed and is not used, the keys stay as they were: %s", mistake)
        self._refused = mistake

    def _look(self) -> Stamp:
        path = self._room.config.auth.key_file
        try:
            stat = os.stat(path)
        except (OSError, ValueError):
            return None
        return path, stat.st_ino, stat.st_mtime_ns, stat.st_size
