"""What surrounds the process: the service manager, the sockets that it handed over, where the configuration is read.

Owns: which sockets are listened on. A socket unit's come first; then those that the manager kept from before a restart,
if they still are where the configuration says; otherwise new ones, which it is asked to keep.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from stackd.config import Config, LoadedConfig
from stackd.config.credentials import handed_over
from stackd.notify import Inherited, Notifier, inherited
from stackd.web.serving import is_at, listen

log = logging.getLogger(__name__)

KEPT = "stackd-api"
"""The name under which the manager keeps our own listening sockets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessContext:
    """``can_keep``: the manager keeps sockets over a restart (``FileDescriptorStoreMax=``).

    ``handed_over``: the folder into which it puts credentials at a reload.
    """

    notifier: Notifier = field(default_factory=Notifier)
    inherited: tuple[Inherited, ...] = ()
    can_keep: bool = False
    again: Callable[[], LoadedConfig] | None = None
    handed_over: Path | None = None

    @classmethod
    def of_process(cls, environ: MutableMapping[str, str], again: Callable[[], LoadedConfig] | None) -> ProcessContext:
        """What the environment says; the variables that are meant for this process alone are taken out."""
        room_for = environ.pop("FDSTORE", "")
        return cls(
            notifier=Notifier.from_environment(environ),
            inherited=tuple(inherited(environ)),
            can_keep=room_for.isdecimal() and int(room_for) > 0,
            again=again,
            handed_over=handed_over(environ) if environ.get("CREDENTIALS_DIRECTORY") else None,
        )

    def sockets(self, config: Config) -> tuple[list[socket.socket], bool]:
        """The sockets to listen on, and whether they outlive the process. Raises OSError if the address is taken."""
        given = [each.socket for each in self.inherited if each.name != KEPT]
        kept = self._kept(config, wanted=not given)
        if given and not all(is_at(each, config) for each in given):
            log.warning("server.host and server.port are ignored: the socket unit says where to listen")
        if given or kept:
            return given or kept, True
        made = listen(config)
        if self.can_keep:
            for each in made:
                self.notifier.keep(each, KEPT)
        return made, self.can_keep

    def _kept(self, config: Config, *, wanted: bool) -> list[socket.socket]:
        kept = [each.socket for each in self.inherited if each.name == KEPT]
        if kept and not (wanted and all(is_at(each, config) for each in kept)):
            self.notifier.forget(KEPT)
            for each in kept:
                each.close()
            return []
        return kept
