"""``stackd demo``: the daemon on an embedded cluster, with state that goes when it stops."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import click
import orjson

from stackd import daemon, logs
from stackd.cli.serve import run
from stackd.config import Loaded, LogSection, load
from stackd.daemon import Daemon
from stackd.keys import new_key
from stackd.web.openapi.examples import POD_SPEC

PREFERRED_PORT = 8081
BODY = {"target_port": [{"container_port": 80, "protocol": "TCP"}], "pod_spec": POD_SPEC}


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), help=f"Default: {PREFERRED_PORT}, or any free one if it is taken."
)
@click.option(
    "--log", "level", type=click.Choice(["debug", "info", "warning", "error"]), default="error", show_default=True
)
def demo(port: int | None, level: str) -> None:
    """Try stackd here and now: an embedded cluster, a fresh key, throw-away state."""
    plaintext, _ = new_key()
    with tempfile.TemporaryDirectory(prefix="stackd-demo-") as folder:
        logs.setup(LogSection.model_validate({"level": level, "format": "text"}))
        loaded = _loaded(Path(folder), plaintext, _free_port() if port is None else port)
        body = Path(folder) / "stack.json"
        body.write_bytes(orjson.dumps(BODY, option=orjson.OPT_INDENT_2))
        run(daemon.serve(loaded, on_listening=lambda started: _welcome(started, plaintext, body)))
        click.echo("\nstopped; nothing is left")


def _loaded(folder: Path, plaintext: str, port: int) -> Loaded:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STACKD_")}
    environment |= {
        "STACKD_AUTH__KEY": plaintext,
        "STACKD_SERVER__PORT": str(port),
        "STACKD_STATE__PATH": str(folder / "stackd.db"),
        "STACKD_CLUSTER__MODE": "embedded",
    }
    return load(None, environment)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PREFERRED_PORT))
        except OSError:
            return 0
    return PREFERRED_PORT


def _welcome(started: Daemon, plaintext: str, body: Path) -> None:
    address = f"http://127.0.0.1:{started.port}"
    click.echo(
        f"""
stackd demo: an embedded cluster, and state that goes when you stop it

  address    {address}
  API key    {plaintext}
  dashboard  {address}/dashboard   (API docs: {address}/docs)

  Start a stack:
    curl -s -H 'X-API-KEY: {plaintext}' -d @{body} {address}/stacks

  Then ask its node_public_ip and node_port:  curl http://127.0.0.1:NODE_PORT
  Look at all stacks:
    curl -s -H 'X-API-KEY: {plaintext}' {address}/stacks

  Stop with Ctrl-C.
"""
    )
