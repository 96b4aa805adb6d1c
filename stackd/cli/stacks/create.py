"""``stacks create``: creates a stack from a pod spec, a whole request or a template."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stackd.cli.options import Length, labels_of, labels_of_stacks, names_of_templates, output_option
from stackd.cli.output import PRINTED, addresses, is_terminal, print_facts, print_text
from stackd.cli.stacks.read import print_detail
from stackd.cli.target import client_options, leaving
from stackd.printable import printable

if TYPE_CHECKING:
    from stackd.client import Client

PORT = "CONTAINER_PORT[/PROTOCOL or /ROUTE]"


@click.command()
@client_options
@click.option(
    "--file", "-f", "source", type=click.Path(dir_okay=False, allow_dash=True),
    help="A Pod as YAML, or a whole request as JSON; - is standard input.",
)  # fmt: skip
@click.option(
    "--template",
    "-t",
    metavar="NAME",
    help="A template instead of a file; see stackd templates.",
    shell_complete=names_of_templates,
)
@click.option("--port", "-p", "ports", multiple=True, metavar=PORT, help="A port to publish.  [all of the pod's ports]")
@click.option("--ttl", type=Length(), help="How long it lives, such as 30m.")
@click.option("--label", "-l", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be repeated.",
              shell_complete=labels_of_stacks)  # fmt: skip
@click.option("--return-existing", is_flag=True, help="If a label's limit is reached, show the existing stack.")
@click.option("--dry-run", is_flag=True, help="Create nothing; print what would be created.")
@click.option("--wait", is_flag=True, help="Return when it is running; exit code 1 if it fails.")
@click.option("--timeout", type=Length(), default="5m", show_default=True, help="The longest wait.")
@output_option("json", "jsonl", "name")
def create(client: Client, source: str | None, output: str, **options: Any) -> None:
    """Create a stack.

    \b
    stackd stacks create -f pod.yaml --port 80/tcp --ttl 30m --label team=7 --wait
    stackd stacks create --template web-1 --label team=7
    """
    from stackd.units import parse_duration

    body = _body(source, options["template"], options["ports"])
    if options["ttl"]:
        body["ttl"] = options["ttl"]
    if options["labels"]:
        body["labels"] = {**body.get("labels", {}), **labels_of(options["labels"])}
    if options["return_existing"]:
        body["if_exists"] = "return"
    if options["dry_run"]:
        _print_dry_run(client.dry_run_from(body).raw, output)
        return
    with leaving("the stack may have been created; see: stackd stacks list"):
        made = client.create_from(body)
    shown = dict(made.raw)
    if options["wait"]:
        with leaving(f"{made.stack_id} still exists; delete it with: stackd stacks delete {made.stack_id}"):
            shown |= client.wait(made, timeout=parse_duration(options["timeout"])).raw
    _print(shown, output)


def _body(source: str | None, template: str | None, ports: Sequence[str]) -> dict[str, Any]:
    if (source is None) == (template is None):
        raise click.UsageError("say what to create: either --file or --template")
    if source is not None:
        return request_body(_text(source), ports)
    if ports:
        raise click.UsageError("--port goes with --file: a template publishes its own ports")
    return {"template": template}


def request_body(text: str, ports: Sequence[str]) -> dict[str, Any]:
    """The request body for ``text``: a whole request as JSON, or a pod spec. Raises UsageError or InvalidPodSpec."""
    body = _whole_request(text)
    if body is None:
        published = [_port(port) for port in ports] if ports else declared_ports(text)
        return {"target_port": published, "pod_spec": text}
    if ports:
        body["target_port"] = [_port(port) for port in ports]
    return body


def declared_ports(text: str) -> list[dict[str, Any]]:
    """All container ports of a pod spec, in its order. Raises UsageError if it has none, and InvalidPodSpec."""
    from stackd.podspec.yaml_text import read

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


def _whole_request(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and not {"pod_spec", "template"}.isdisjoint(value) else None


def _text(source: str) -> str:
    try:
        if source == "-":
            return sys.stdin.read()
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{source} cannot be read: {error}") from error


def _port(text: str) -> dict[str, Any]:
    from stackd.model import Route

    number, _, how = text.partition("/")
    if not number.isdecimal():
        raise click.UsageError(f"--port must be like 80 or 53/udp, not {text!r}")
    if how.lower() in list(Route):
        return {"container_port": int(number), "protocol": "TCP", "route": how.lower()}
    return {"container_port": int(number), "protocol": how.upper() or "TCP"}


def _print(stack: Any, output: str) -> None:
    values = stack.get("values") or {}
    if output in PRINTED:
        PRINTED[output](stack)
    elif output == "name":
        click.echo(stack["stack_id"])
    elif is_terminal():
        print_detail(stack)
        print_facts(values.items())
    else:
        shown = [f"{name}={printable(value)}" for name, value in values.items()]  # nobody gets them a second time
        click.echo("\t".join([stack["stack_id"], stack["status"], *addresses(stack), *shown]))


def _print_dry_run(answer: Any, output: str) -> None:
    if output in PRINTED:
        PRINTED[output](answer)
    else:
        print_text(answer["pod_spec"])
