"""``stacks create``: a pod spec, or a whole request, to a stack."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from stackd.cli.address import client_options
from stackd.cli.client import Client
from stackd.cli.stacks.look import print_detail
from stackd.cli.stacks.options import Length, json_option
from stackd.cli.stacks.shown import addresses, console, print_json, safe
from stackd.config.units import parse_duration
from stackd.podspec.yaml_reader import read

CREATE_SECONDS = 300.0
WAIT_SECONDS = 30
"""The API holds one answer back for so long; waiting for longer is asking again."""

PORT = "CONTAINER_PORT[/PROTOCOL]"


@click.command()
@client_options
@click.option(
    "--file", "-f", "source", required=True, type=click.Path(dir_okay=False, allow_dash=True),
    help="A Pod as YAML, or a whole request as JSON; - is standard input.",
)  # fmt: skip
@click.option("--port", "-p", "ports", multiple=True, metavar=PORT, help="Publish it; default: all of the pod's ports.")
@click.option("--ttl", type=Length(), help="How long it lives, such as 30m.")
@click.option("--label", "-l", "labels", multiple=True, metavar="KEY=VALUE", help="A label of yours.")
@click.option("--return-existing", is_flag=True, help="Where a label's limit is reached, show the stack that is there.")
@click.option("--dry-run", is_flag=True, help="Only say whether it would be accepted, and as what.")
@click.option("--wait", is_flag=True, help="Return when it is running; exit code 1 if it fails.")
@click.option("--timeout", type=Length(), default="5m", show_default=True, help="How long to wait at most.")
@json_option
def create(client: Client, source: str, as_json: bool, **options: Any) -> None:
    """Create a stack.

    \b
    stackd stacks create -f pod.yaml --port 80/tcp --ttl 30m --label team=7 --wait
    """
    body = request_body(_text(source), options["ports"])
    if options["ttl"]:
        body["ttl"] = options["ttl"]
    if options["labels"]:
        body["labels"] = {**body.get("labels", {}), **dict(_label(text) for text in options["labels"])}
    if options["return_existing"]:
        body["if_exists"] = "return"
    if options["dry_run"]:
        _print_dry_run(client.ask("POST", "/stacks", body, [("dry_run", "true")], CREATE_SECONDS), as_json)
        return
    stack = client.ask("POST", "/stacks", body, (), CREATE_SECONDS)
    if options["wait"]:
        stack = asyncio.run(running(client, stack, parse_duration(options["timeout"])))
    _print(stack, as_json)


def request_body(text: str, ports: Sequence[str]) -> dict[str, Any]:
    """The request for a text that is one already, or a pod spec. Raises UsageError, or InvalidPodSpec."""
    body = _whole_request(text)
    if body is None:
        published = [_port(port) for port in ports] if ports else declared_ports(text)
        return {"target_port": published, "pod_spec": text}
    if ports:
        body["target_port"] = [_port(port) for port in ports]
    return body


def declared_ports(text: str) -> list[dict[str, Any]]:
    """All container ports of a pod spec, in its order."""
    spec = read(text).get("spec")
    containers = spec.get("containers") if isinstance(spec, dict) else None
    found = [
        {"container_port": port.get("containerPort"), "protocol": port.get("protocol", "TCP")}
        for container in (containers if isinstance(containers, list) else [])
        if isinstance(container, dict)
        for port in (container.get("ports") or [])
        if isinstance(port, dict)
    ]
    if not found:
        raise click.UsageError(f"the pod declares no container port; name one with --port {PORT}")
    return found


async def running(client: Client, stack: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The stack when it is running. Raises ClickException when it cannot come to that, or not in time."""
    stack_id, end = stack["stack_id"], time.monotonic() + seconds
    while stack["status"] == "creating":
        left = end - time.monotonic()
        if left <= 0:
            raise click.ClickException(f"{stack_id} is still creating after {seconds:g} s")
        wait = f"{max(1, min(WAIT_SECONDS, round(left)))}s"
        query = [("wait", "running"), ("timeout", wait)]
        await client.call("GET", f"/stacks/{stack_id}/status", None, query)
        stack = await client.call("GET", f"/stacks/{stack_id}")
    if stack["status"] != "running":
        why = ": ".join(filter(None, (stack["status"], stack["status_reason"], stack["status_message"])))
        raise click.ClickException(f"{stack_id} is {safe(why)}")
    return stack


def _whole_request(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) and "pod_spec" in value else None


def _text(source: str) -> str:
    try:
        if source == "-":
            return sys.stdin.read()
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{source} cannot be read: {error}") from error


def _port(text: str) -> dict[str, Any]:
    number, _, protocol = text.partition("/")
    if not number.isdecimal():
        raise click.UsageError(f"--port must be like 80 or 53/udp, not {text!r}")
    return {"container_port": int(number), "protocol": protocol.upper() or "TCP"}


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--label must be like team=7, not {text!r}")
    return name, value


def _print(stack: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(stack)
    elif console().is_terminal:
        print_detail(stack)
    else:
        click.echo("\t".join([stack["stack_id"], stack["status"], *addresses(stack)]))


def _print_dry_run(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        click.echo(answer["pod_spec"], nl=False)
