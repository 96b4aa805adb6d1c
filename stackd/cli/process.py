"""The daemon in this process: its event loop, the embedded cluster beside it if configured, and the demo.

Owns: what ``cluster.mode = "embedded"`` means. This module starts a cluster beside the state, and gives the daemon a
kubeconfig for it. The daemon itself knows only real clusters.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import click

from stackd import daemon, logs
from stackd.cli import FAILED
from stackd.cli.options import loop_factory
from stackd.config import Config, LoadedConfig, load
from stackd.config.sources import KEY_VARIABLE, variable
from stackd.daemon import Daemon
from stackd.doctor.local import port_holder, url_of
from stackd.embedded import EmbeddedCluster, EmbeddedOptions, administrator
from stackd.errors import StackdError
from stackd.keys import new_key
from stackd.lifecycle.rebuild import Rebuilt
from stackd.store.companions import FileLock
from stackd.tasks import ServiceEnded
from stackd.web.openapi.examples import POD_SPEC

log = logging.getLogger(__name__)

EMBEDDED = "embedded"
PREFERRED_PORT = 8081
BODY = {"target_port": [{"container_port": 80, "protocol": "TCP"}], "pod_spec": POD_SPEC}


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
    file, kubeconfig = (state.with_name(f"{state.name}.{what}") for what in ("cluster", "kubeconfig"))
    state.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock.acquire(file, time.time_ns())
    try:
        user = administrator()  # other users of this machine reach the cluster's port, too
        options = replace(size or EmbeddedOptions(), state_path=file, users=(user,))
        async with EmbeddedCluster(options) as cluster:
            cluster.write_kubeconfig(kubeconfig, token=user.token)
            log.warning("the embedded cluster answers at %s; its pods are simulated", cluster.url)
            yield lambda one: _leading_to(kubeconfig, one)
    finally:
        lock.release()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """The daemon on an embedded cluster. The state is deleted at the end, unless the environment says where it is."""

    configuration: LoadedConfig
    environment: Mapping[str, str]
    in_terminal: bool
    key: str
    body: Path
    throw_away: bool

    @classmethod
    def prepared(cls, folder: Path, port: int | None) -> Self:
        """The environment overrides the demo's values, except for ``[cluster]`` and ``port``. Raises ConfigError."""
        environment = dict(os.environ)
        plaintext = environment.get(KEY_VARIABLE) or new_key()[0]
        state = variable("state", "path")
        own = {
            KEY_VARIABLE: plaintext,
            variable("server", "port"): str(_free_port()),
            state: str(folder / "stackd.db"),
        }
        throw_away = not environment.get(state)
        environment = own | {name: value for name, value in environment.items() if value or name not in own}
        cluster = variable("cluster", "")
        environment = {name: value for name, value in environment.items() if not name.startswith(cluster)}
        environment[variable("cluster", "mode")] = EMBEDDED
        if port is not None:
            environment[variable("server", "port")] = str(port)
        body = folder / "stack.json"
        body.write_text(json.dumps(BODY, indent=2))
        configuration = load(None, environment)
        return cls(
            configuration=configuration,
            environment=environment,
            in_terminal=_has_terminal(),
            key=plaintext,
            body=body,
            throw_away=throw_away,
        )

    def again(self) -> LoadedConfig:
        """The configuration for a reload. A SIGHUP of a terminal that was closed ends the demo in order."""
        if self.in_terminal and not _has_terminal():
            os.kill(os.getpid(), signal.SIGTERM)
        return load(None, self.environment)

    def print_instructions(self, started: Daemon) -> None:
        """Print how to use the demo."""
        server = self.configuration.config.server
        address = url_of(server.host, started.port, secure=bool(server.tls_cert))
        state = "throw-away state" if self.throw_away else f"state in {self.configuration.config.state.path}"
        click.echo(
            f"""
stackd demo: an embedded cluster, and {state}

  address    {address}
  API key    {self.key}
  dashboard  {address}/dashboard   (API docs: {address}/docs)

  Start a stack:
    curl -s -H 'X-API-KEY: {self.key}' -d @{self.body} {address}/stacks

  Then open its node port:  curl http://127.0.0.1:NODE_PORT
  List all stacks:
    curl -s -H 'X-API-KEY: {self.key}' {address}/stacks

  Rehearse an event (--nodes, --start-delay and --pull give the demo a size and a pace):
    STACKD_URL={address} STACKD_API_KEY={self.key} \\
      {_program()} rehearse --stacks 50 --rate 10/s --probe http --with-others --file {self.body}

  Stop with Ctrl-C.
"""
        )

    def last_line(self) -> str:
        """The last line of output: whether the state is kept."""
        return "\nstopped; nothing is left" if self.throw_away else "\nstopped; the state is kept"


def _has_terminal() -> bool:
    """Whether the process has a terminal; one that was closed is none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _program() -> str:
    """How this process was started, for the user's shell."""
    script = sys.argv[0]
    if os.path.basename(script) != "stackd":
        return shlex.join([_from_here(sys.executable), _from_here(script)])
    found = shutil.which("stackd")
    return (
        "stackd" if found and os.path.realpath(found) == os.path.realpath(script) else shlex.quote(_from_here(script))
    )


def _from_here(path: str) -> str:
    """The path, relative if it is below the working directory."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _free_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PREFERRED_PORT))
        except OSError:
            return 0
    return PREFERRED_PORT
