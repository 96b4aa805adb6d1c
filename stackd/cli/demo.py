"""The demo: the daemon on an embedded cluster, with example templates and the commands to try.

Owns: the demo's configuration, its templates, and what it prints. A test runs the printed commands in their order.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import click

from stackd.cli.process import EMBEDDED, kubeconfig_beside
from stackd.config import LoadedConfig, load
from stackd.config.sources import KEY_VARIABLE, variable
from stackd.daemon import Daemon
from stackd.doctor.local import url_of
from stackd.keys import new_key
from stackd.web.openapi.examples import POD_SPEC

PREFERRED_PORT = 8081
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
TEMPLATES = {
    "web-1": (
        "Each stack has a flag of its own, and two stacks wait to be assigned.",
        "registry.example/web-1:1",
        'pool: 2\nvalues: {FLAG: "flag{<hex:32>}"}\n',
    ),
    "bad-image": ("No node can pull this image.", "registry.invalid/bad-image:1", ""),
    "crashing": ("The program ends with exit code 1 as soon as it has started.", "registry.example/crashloop", ""),
}
"""What each shows, its image, and its other fields. The last part of an image tells the embedded cluster what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """The daemon on an embedded cluster. The state is deleted at the end, unless the environment says where it is."""

    configuration: LoadedConfig
    environment: Mapping[str, str]
    in_terminal: bool
    key: str
    body: Path
    throw_away: bool
    own_templates: bool

    @classmethod
    def prepared(cls, folder: Path, port: int | None) -> Self:
        """The environment overrides the demo's values, except for ``[cluster]`` and ``port``. Raises ConfigError."""
        environment = dict(os.environ)
        plaintext = environment.get(KEY_VARIABLE) or new_key()[0]
        state, templates = variable("state", "path"), variable("templates", "directory")
        own = {
            KEY_VARIABLE: plaintext,
            variable("server", "port"): str(_free_port()),
            state: str(folder / "stackd.db"),
            templates: str(_written_templates(folder / "templates")),
            variable("routes", "domain"): "localhost",
            variable("routes", "gateway"): "gateways/public",
            variable("routes", "http_listener"): "http",
            variable("routes", "http_port"): str(_any_port()),
        }
        throw_away, own_templates = not environment.get(state), not environment.get(templates)
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
            own_templates=own_templates,
        )

    def again(self) -> LoadedConfig:
        """The configuration for a reload. A SIGHUP of a terminal that was closed ends the demo in order."""
        if self.in_terminal and not _has_terminal():
            os.kill(os.getpid(), signal.SIGTERM)
        return load(None, self.environment)

    def print_instructions(self, started: Daemon) -> None:
        """Print how to use the demo."""
        config = self.configuration.config
        address = url_of(config.server.host, started.port, secure=bool(config.server.tls_cert))
        state = "throw-away state" if self.throw_away else f"state in {config.state.path}"
        kubeconfig = kubeconfig_beside(Path(config.state.path))
        click.echo(
            f"""
stackd demo: an embedded cluster, and {state}

  address    {address}
  API key    {self.key}
  dashboard  {address}/dashboard   (API docs: {address}/docs)
  templates  {config.templates.directory}

In another terminal, in the same folder:

  export STACKD_URL={address} STACKD_API_KEY={self.key} KUBECONFIG={kubeconfig}

Start a stack with curl, and list all:
  curl -s -H "X-API-KEY: $STACKD_API_KEY" -d @{self.body} $STACKD_URL/stacks
  curl -s -H "X-API-KEY: $STACKD_API_KEY" $STACKD_URL/stacks

Start one with a name instead of a node port; browsers and curl find it, too:
  {_program()} stacks create --file {self.body} --port 80/http --label team=6 --wait
  curl -s $({_program()} stacks list --label team=6 | cut -f3)
{self._template_steps() if self.own_templates else ""}
Rehearse an event (--nodes, --start-delay and --pull give the demo a size and a pace):
  {_program()} rehearse --stacks 50 --rate 10/s --probe http --with-others --file {self.body}

Delete all stacks:
  {_program()} stacks batch-delete --all --yes

More to try, such as nodes that fail: docs/demo.md. Stop with Ctrl-C.
"""
        )

    def _template_steps(self) -> str:
        program = _program()
        return f"""
Start one from a template, with a flag of its own, and open its node port:
  {program} stacks create --template web-1 --label team=7 --wait
  curl -s http://$({program} stacks list --label team=7 | cut -f3)

Two that fail: no node can pull the image of the one, the program of the other ends at once:
  {program} stacks create --template bad-image --label team=8
  {program} stacks create --template crashing --label team=9
  {program} stacks wait --for failed $({program} stacks list --template crashing -o name)
  {program} stacks describe $({program} stacks list --template crashing -o name)
  {program} stacks list
  {program} templates
"""

    def last_line(self) -> str:
        """The last line of output: whether the state is kept."""
        return "\nstopped; nothing is left" if self.throw_away else "\nstopped; the state is kept"


def _written_templates(folder: Path) -> Path:
    folder.mkdir()
    for name, (about, image, more) in TEMPLATES.items():
        (folder / f"{name}.yaml").write_text(TEMPLATE.format(name=name, about=about, image=image, more=more))
    return folder


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


def _any_port() -> int:
    """A port that is free now: the URLs of names need it before anything listens there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
