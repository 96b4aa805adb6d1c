"""The daemon in this process: its event loop, the embedded cluster beside it if configured, and the demo.

Owns: what ``cluster.mode = "embedded"`` means. This module starts a cluster beside the state, and gives the daemon a
kubeconfig for it. The daemon itself knows only real clusters. Owns, too, the demo's configuration, its templates, and what
it prints; a test runs the printed commands in their order.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import resource
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import uvloop

from stackd import daemon, logs
from stackd.cli import FAILED
from stackd.cli.links import new_secret
from stackd.config import LoadedConfig, load
from stackd.config.sources import KEY_VARIABLE, variable
from stackd.contract import host_and_port
from stackd.daemon import Daemon
from stackd.doctor.running import url_of
from stackd.embedded import WORKER, EmbeddedCluster, EmbeddedOptions, administrator, node_specs
from stackd.errors import StackdError
from stackd.keys import new_key
from stackd.lifecycle.rebuild import Rebuilt
from stackd.store.file import FileLock
from stackd.tasks import ServiceEnded
from stackd.units import parse_duration
from stackd.web.examples import POD_SPEC

log = logging.getLogger(__name__)

EMBEDDED = "embedded"
DESCRIPTORS, LEAST_DESCRIPTORS = 65536, 256
GIVEN_UP = "the handler is closed"  # so uvloop ends its sentence about a transport


async def serve(
    configuration: LoadedConfig,
    *,
    size: EmbeddedOptions | None = None,
    again: Callable[[], LoadedConfig] | None = None,
    on_listening: Callable[[Daemon], None] | None = None,
) -> None:
    """Run the daemon, with an embedded cluster (of this size) if the configuration wants one.

    Raises as ``daemon.serve``; if the address is in use, a StackdError that says how to choose another.
    """
    async with with_cluster(configuration, size) as led:
        reload = None if again is None else lambda: led(again())
        try:
            await daemon.serve(led(configuration), again=reload, on_listening=on_listening)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            server = configuration.config.server
            raise StackdError(
                f"cannot listen on {host_and_port(server.host, server.port)}: address already in use (`ss -ltnp` shows by what); "
                f"choose another port with server.port or {variable('server', 'port')}"
            ) from error


async def rebuild(configuration: LoadedConfig) -> Rebuilt:
    """Recover the rows from the configured cluster. Raises as ``daemon.rebuild``."""
    async with with_cluster(configuration) as led:
        return await daemon.rebuild(led(configuration))


def require_descriptors() -> None:
    """Allow this process as many descriptors as the system does, up to ``DESCRIPTORS``. Raises StackdError if these are too
    few for the daemon itself: clients' connections would take what it needs for its file and for the cluster.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < min(most, DESCRIPTORS):
        soft = min(most, DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft != resource.RLIM_INFINITY and soft < LEAST_DESCRIPTORS:
        raise StackdError(
            f"this process may open {soft} files, and stackd needs {LEAST_DESCRIPTORS}: "
            "raise LimitNOFILE= of the unit, or `ulimit -n`"
        )


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, which logs what nobody handles."""
    loop = uvloop.new_event_loop()
    loop.set_exception_handler(_log_unhandled)
    return loop


def _log_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log it, except for a given-up TLS connection: if a connect is cancelled just as its handshake ends, uvloop closes
    the TCP transport behind the TLS, which then fails to write. A stop cancels many at a time."""
    error = context.get("exception")
    if isinstance(error, RuntimeError) and str(error).endswith(GIVEN_UP):
        log.debug("%s of a connection that was given up: %s", context["message"], error)
    else:
        loop.default_exception_handler(context)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run the daemon's coroutine on uvloop. If a service ended, log that as the last line and exit with code 1."""
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
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


def sized(*, nodes: int, node_cpu: Any, node_memory: Any, start_delay: str, pull: str) -> EmbeddedOptions:
    worker = replace(WORKER, cpu=str(node_cpu or WORKER.cpu), memory=str(node_memory or WORKER.memory))
    return EmbeddedOptions(
        nodes=node_specs(nodes, worker), start_delay=parse_duration(start_delay), pull=parse_duration(pull)
    )


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
    return replace(loaded, config=config.model_copy(update={"cluster": cluster, "stacks": stacks}))


def _sentence(error: ServiceEnded) -> str:
    """The cause's own sentence, if it has one; a group with one member counts as that member."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]
    return str(cause) if cause is not None and str(cause) else str(error)


PREFERRED_PORT = 8081
STATE, TEMPLATES_FOLDER = variable("state", "path"), variable("templates", "directory")
PLAY_SECRET, PLAY_URL = variable("play", "secret"), variable("play", "url")
BODY = {"target_port": [{"container_port": 80, "protocol": "TCP"}], "pod_spec": POD_SPEC}
TEMPLATE = """\
# {about}
target_port: [{{container_port: 80, protocol: TCP}}]
labels: {{challenge: {name}}}
{more}pod:
  apiVersion: v1
  kind: Pod
  metadata: {{name: {name}}}
  spec:
    containers:
    - name: app
      image: {image}
      ports: [{{containerPort: 80}}]
      resources: {{limits: {{cpu: 100m, memory: 128Mi}}}}
"""
# What each shows, its image, and its other fields. The last part of an image tells the embedded cluster what to do.
TEMPLATES = {
    "web-1": (
        "Each stack has a flag of its own, and two stacks wait to be assigned.",
        "registry.example/web-1:1",
        'pool: 2\nvalues: {FLAG: "flag{<hex:32>}"}\n',
    ),
    "bad-image": ("No node can pull this image.", "registry.invalid/bad-image:1", ""),
    "crashing": ("The program ends with exit code 1 as soon as it has started.", "registry.example/crashloop", ""),
}

TEMPLATE_STEPS = """
Start one from a template, with a flag of its own, and open its node port:
  {program} stacks create --template web-1 --label player=7 --wait
  curl -s http://$({program} stacks list --label player=7 | cut -f3)

Two that fail: no node can pull the image of the one, the program of the other ends at once:
  {program} stacks create --template bad-image --label player=8
  {program} stacks create --template crashing --label player=9
  {program} stacks wait --for failed $({program} stacks list --template crashing -o name)
  {program} stacks show $({program} stacks list --template crashing -o name)
  {program} stacks list
  {program} templates

Make a link, with which a player starts web-1 in a browser, without a key:
  {program} links create --template web-1 --label player=seat-1

Make links for a class of five, in a table and on a sheet to print, and see who has started:
  {program} links create -t web-1 --players {folder}/class.csv --csv {folder}/links.csv --sheet {folder}/sheet.html
  {program} players
"""


class Demo:
    """The daemon on an embedded cluster. The state is ``throw_away``, unless the environment says where it is."""

    def __init__(self, folder: Path, port: int | None) -> None:
        """The environment overrides the demo's values, except for ``[cluster]`` and ``port``. Raises ConfigError."""
        templates = folder / "templates"
        templates.mkdir()
        for name, (about, image, more) in TEMPLATES.items():
            (templates / f"{name}.yaml").write_text(TEMPLATE.format(name=name, about=about, image=image, more=more))
        own = {
            KEY_VARIABLE: new_key()[0],
            variable("server", "port"): str(_free_port(PREFERRED_PORT)),
            STATE: str(folder / "stackd.db"),
            TEMPLATES_FOLDER: str(templates),
            variable("routes", "domain"): "localhost",
            variable("routes", "gateway"): "gateways/public",
            variable("routes", "http_listener"): "http",
            variable("routes", "http_port"): str(_free_port()),
            PLAY_SECRET: new_secret(),
        }
        settings = {
            name: value
            for name, value in os.environ.items()
            if (value or name not in own) and not name.startswith(variable("cluster", ""))
        }
        self._environment = own | settings | {variable("cluster", "mode"): EMBEDDED}
        if port is not None:
            self._environment[variable("server", "port")] = str(port)
        self._body = folder / "stack.json"
        self._body.write_text(json.dumps(BODY, indent=2))
        (folder / "class.csv").write_text("player\n" + "".join(f"seat-{number}\n" for number in range(2, 7)))
        self._key = self._environment[KEY_VARIABLE]
        self._own_templates, self.throw_away = TEMPLATES_FOLDER not in settings, STATE not in settings
        self._in_terminal = _has_terminal()
        self.loaded = load(None, self._environment)
        if not self.loaded.config.play.url:
            server = self.loaded.config.server
            free = server.port or _free_port()
            url = url_of(server.host, free, secure=bool(server.tls_cert))
            self._environment |= {variable("server", "port"): str(free), PLAY_URL: url}
            self.loaded = load(None, self._environment)

    def again(self) -> LoadedConfig:
        """The configuration for a reload. A SIGHUP of a terminal that was closed ends the demo in order."""
        if self._in_terminal and not _has_terminal():
            os.kill(os.getpid(), signal.SIGTERM)
        return load(None, self._environment)

    def print_instructions(self, started: Daemon) -> None:
        config = self.loaded.config
        address = url_of(config.server.host, started.port, secure=bool(config.server.tls_cert))
        state = "throw-away state" if self.throw_away else f"state in {config.state.path}"
        kubeconfig, program = kubeconfig_beside(Path(config.state.path)), _program()
        folder = shlex.quote(os.path.abspath(os.path.dirname(program)))
        path = f" PATH={folder}:$PATH" if program.endswith("/stackd") else ""
        click.echo(
            f"""
stackd demo: an embedded cluster, and {state}

  address    {address}
  API key    {self._key}
  dashboard  {address}/dashboard   (API docs: {address}/docs)
  templates  {config.templates.directory}

In another terminal, in the same folder:

  export STACKD_URL={address} STACKD_API_KEY={self._key} KUBECONFIG={kubeconfig}{path}

Start a stack with curl, and list all:
  curl -s -H "X-API-KEY: $STACKD_API_KEY" -d @{self._body} $STACKD_URL/stacks
  curl -s -H "X-API-KEY: $STACKD_API_KEY" $STACKD_URL/stacks

Start one with a name instead of a node port; browsers and curl find it, too:
  {program} stacks create --file {self._body} --port 80/http --label player=6 --wait
  curl -s $({program} stacks list --label player=6 | cut -f3)
{TEMPLATE_STEPS.format(program=program, folder=self._body.parent) if self._own_templates else ""}
Rehearse an event (--nodes, --start-delay and --pull give the demo a size and a pace):
  {program} rehearse --stacks 50 --rate 10/s --probe http --with-others --file {self._body}

Delete all stacks:
  {program} stacks delete --all --yes

More to try, such as nodes that fail: docs/demo.md. Stop with Ctrl-C.
"""
        )


def _has_terminal() -> bool:
    """Whether the process has a terminal; one that was closed is none."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _program() -> str:
    """How this process was started, for the user's shell; paths below the working directory are relative."""
    script, installed = sys.argv[0], shutil.which("stackd")
    if installed and os.path.realpath(installed) == os.path.realpath(script):
        return "stackd"
    words = [script] if os.path.basename(script) == "stackd" else [sys.executable, script]
    below = [os.path.relpath(word) for word in words]
    return shlex.join(word if path.startswith("..") else path for word, path in zip(words, below, strict=True))


def _free_port(preferred: int = 0) -> int:
    """A port that is free now: the preferred one, or 0 if that is taken; without a preference, any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            return 0
        return int(probe.getsockname()[1])
