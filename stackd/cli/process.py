"""The daemon in this process: its event loop, and the embedded cluster beside it if configured.

Owns: what ``cluster.mode = "embedded"`` means. This module starts a cluster beside the state, and gives the daemon a
kubeconfig for it. The daemon itself knows only real clusters.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from stackd import daemon, logs
from stackd.cli import FAILED
from stackd.cli.options import loop_factory
from stackd.config import Config, LoadedConfig
from stackd.config.sources import variable
from stackd.daemon import Daemon
from stackd.doctor.local import port_holder
from stackd.embedded import EmbeddedCluster, EmbeddedOptions, administrator
from stackd.errors import StackdError
from stackd.lifecycle.rebuild import Rebuilt
from stackd.store.companions import FileLock
from stackd.tasks import ServiceEnded

log = logging.getLogger(__name__)

EMBEDDED = "embedded"


async def serve(
    configuration: LoadedConfig,
    *,
    size: EmbeddedOptions | None = None,
    again: Callable[[], LoadedConfig] | None = None,
    on_listening: Callable[[Daemon], None] | None = None,
) -> None:
    """Run the daemon, with an embedded cluster (of this size) if the configuration wants one.

    Raises as ``daemon.serve``; if the address is in use, a StackdError that names the process using it.
    """
    async with with_cluster(configuration, size) as led:
        reload = None if again is None else lambda: led(again())
        try:
            await daemon.serve(led(configuration), again=reload, on_listening=on_listening)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise StackdError(_taken(configuration.config)) from error


async def rebuild(configuration: LoadedConfig) -> Rebuilt:
    """Recover the rows from the configured cluster. Raises as ``daemon.rebuild``."""
    async with with_cluster(configuration) as led:
        return await daemon.rebuild(led(configuration))


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run the daemon's coroutine on uvloop. If a service ended, log that as the last line and exit with code 1."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(coroutine)
    except ServiceEnded as error:
        if isinstance(error.__cause__, BaseException):
            logs.log.debug("the cause", exc_info=error.__cause__)
        logs.log.critical("%s; exiting", _sentence(error))
        sys.exit(FAILED)


@asynccontextmanager
async def with_cluster(
    configuration: LoadedConfig, size: EmbeddedOptions | None = None
) -> AsyncIterator[Callable[[LoadedConfig], LoadedConfig]]:
    """Start an embedded cluster if the configuration wants one. Yields a function that points configurations to it.

    The cluster keeps its objects in a file beside the state. Raises StoreError if another process has that file, or
    OSError.
    """
    if configuration.config.cluster.mode != EMBEDDED:
        yield lambda one: one
        return
    state = Path(configuration.config.state.path)
    file, kubeconfig = state.with_name(f"{state.name}.cluster"), kubeconfig_beside(state)
    state.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock.acquire(file, time.time_ns())
    try:
        user = administrator()  # other users of this machine reach the cluster's port, too
        options = replace(size or EmbeddedOptions(), state_path=file, users=(user,))
        routes = configuration.config.routes
        if routes.domain:
            options = replace(options, gateway=routes.gateway, gateway_port=routes.http_port)
        async with EmbeddedCluster(options) as cluster:
            cluster.write_kubeconfig(kubeconfig, token=user.token)
            log.warning("the embedded cluster answers at %s; its pods are simulated", cluster.url)
            yield lambda one: _leading_to(kubeconfig, one)
    finally:
        lock.release()


def kubeconfig_beside(state: Path) -> Path:
    """Where the embedded cluster's kubeconfig is written."""
    return state.with_name(f"{state.name}.kubeconfig")


def _leading_to(kubeconfig: Path, loaded: LoadedConfig) -> LoadedConfig:
    """The configuration with the embedded cluster's kubeconfig. Its pods reach nothing, so no policy is required."""
    config = loaded.config
    if config.cluster.mode != EMBEDDED:
        return loaded
    cluster = config.cluster.model_copy(update={"mode": "kubeconfig", "kubeconfig": str(kubeconfig), "context": ""})
    stacks = config.stacks.model_copy(update={"require_ingress_network_policy": False})
    changed = config.model_copy(update={"cluster": cluster, "stacks": stacks})
    return LoadedConfig(config=changed, origins=loaded.origins, warnings=loaded.warnings)


def _sentence(error: ServiceEnded) -> str:
    """The cause's own sentence, if it has one; a group with one member counts as that member."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]
    return str(cause) if cause is not None and str(cause) else str(error)


def _taken(config: Config) -> str:
    """The message for an address in use: by which process, if that can be seen, and how to choose another."""
    server = config.server
    holder = port_holder(server.port)
    return (
        f"cannot listen on {server.host}:{server.port}: address already in use{f' by {holder}' if holder else ''}; "
        f"choose another port with server.port or {variable('server', 'port')}"
    )
