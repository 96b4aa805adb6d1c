"""``stackd templates from-compose FILE``: a template from a Compose file, and what could not be carried over.

The service that publishes a port is the first pod, each other one a member, which the pods reach under the service's name. What a
stack has no word for is left out and said, never guessed.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

from stackd.contract import MEMBER_NAME, MOST_MEMBERS

REASONS: Final[Mapping[str, str]] = {
    "build": "build the image, push it, and name it with image",
    "volumes": "a stack keeps nothing: put files into the image, and use an emptyDir for data",
    "depends_on": "let the program try again until its neighbour answers",
    "healthcheck": "write a readinessProbe",
    "user": "write securityContext.runAsUser, if the policy allows it",
    "cap_add": "write securityContext.capabilities.add, if the policy allows it",
    "cap_drop": "write securityContext.capabilities.drop",
    "read_only": "write securityContext.readOnlyRootFilesystem",
    "tmpfs": "write an emptyDir with medium Memory",
    "env_file": "write its variables into env",
    "secrets": "write values into env, or values of the template",
    "configs": "put files into the image",
    "privileged": "no stack is privileged",
}
CARRIED: Final = frozenset(
    ["image", "command", "entrypoint", "environment", "ports", "expose", "working_dir", "deploy", "mem_limit", "cpus"]
)
# What a stack does anyway, or has no use for.
NEEDLESS: Final = frozenset(
    ["restart", "container_name", "networks", "hostname", "labels", "logging", "pull_policy", "init", "links"]
)
CPU, MEMORY = "200m", "256Mi"


def template_of(compose: Mapping[str, Any], published: str = "") -> tuple[dict[str, Any], list[str]]:
    """The template, and a sentence for all that it lacks. Raises ValueError if no template can be made."""
    services = compose.get("services")
    if not isinstance(services, dict) or not services:
        raise ValueError("it has no services")
    services = {name: service or {} for name, service in services.items()}
    first = published or next((name for name, service in services.items() if service.get("ports")), "")
    if first not in services:
        none = "no service publishes a port; name one with --first"
        raise ValueError(f"there is no service {first}" if first else none)
    if len(services) > MOST_MEMBERS + 1:
        raise ValueError(f"it has {len(services)} services; a stack has {MOST_MEMBERS + 1} pods at most")
    notes = [note for name, service in services.items() for note in _notes(name, service, name == first)]
    ports = [{"container_port": number, "protocol": protocol} for number, protocol in _ports(services[first])]
    if not ports:
        raise ValueError(f"services.{first} has no ports")
    template: dict[str, Any] = {"target_port": ports, "pod": _pod(first, services[first])}
    if members := {name: {"pod": _pod(name, one)} for name, one in services.items() if name != first}:
        template["members"] = members
    return template, notes


def _notes(name: str, service: Mapping[str, Any], is_first: bool) -> Iterator[str]:
    if not is_first and not re.fullmatch(MEMBER_NAME, name):
        yield f"services.{name}: no name of a member: lower-case letters, digits and inner hyphens, a letter first"
    if not service.get("image"):
        yield f"services.{name}.image: is missing"
    if not is_first and service.get("ports"):
        yield f"services.{name}.ports: only the pods of the stack reach them; the first pod alone is published"
    for field in service:
        if field not in CARRIED | NEEDLESS and service[field] not in (None, [], {}, False):
            yield f"services.{name}.{field}: left out; " + REASONS.get(field, "a stack has nothing like it")
    if "${" in str(service):
        yield f"services.{name}: a ${{VARIABLE}} of Compose stays as it is; write its value"
    if not _limits(service):
        yield f"services.{name}: no limits; it gets {CPU} and {MEMORY}"


def _pod(name: str, service: Mapping[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = {"name": re.sub("[^a-z0-9-]+", "-", name.lower()).strip("-") or "app"}
    container["image"] = str(service.get("image") or "IMAGE")
    for field, ours in (("entrypoint", "command"), ("command", "args")):
        if (value := service.get(field)) is not None:
            container[ours] = shlex.split(value) if isinstance(value, str) else [str(word) for word in value]
    if directory := service.get("working_dir"):
        container["workingDir"] = directory
    if env := [{"name": key, "value": text} for key, text in _environment(service.get("environment") or {})]:
        container["env"] = env
    if ports := [{"containerPort": number, "protocol": protocol} for number, protocol in _ports(service)]:
        container["ports"] = ports
    container["resources"] = {"limits": {"cpu": CPU, "memory": MEMORY} | _limits(service)}
    return {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [container]}}


def _environment(given: Any) -> Iterator[tuple[str, str]]:
    pairs = given.items() if isinstance(given, dict) else (str(each).partition("=")[::2] for each in given)
    for name, value in pairs:
        text = str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
        yield str(name), text.replace("$$", "$").replace("$(", "$$(")


def _ports(service: Mapping[str, Any]) -> list[tuple[int, str]]:
    """The ports of the container, each once: ``8080:80/udp``, ``80``, ``{target: 80}``. Raises ValueError."""
    found: dict[tuple[int, str], None] = {}
    for each in (*(service.get("ports") or ()), *(service.get("expose") or ())):
        if isinstance(each, dict):
            number, protocol = str(each.get("target")), str(each.get("protocol", "tcp"))
        else:
            number, _, protocol = str(each).rpartition(":")[2].partition("/")
        if not number.isdecimal():
            raise ValueError(f"the port {each} is no single number")
        found[int(number), (protocol or "tcp").upper()] = None
    return list(found)


def _limits(service: Mapping[str, Any]) -> dict[str, str]:
    limits = ((service.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    cpu, memory = limits.get("cpus", service.get("cpus")), limits.get("memory", service.get("mem_limit"))
    found = {} if cpu is None else {"cpu": f"{round(float(cpu) * 1000)}m"}
    return found if memory is None else found | {"memory": _memory(str(memory))}


def _memory(text: str) -> str:
    match = re.fullmatch(r"(\d+)\s*([bkmg]?)b?", text.strip().lower())
    if match is None:
        raise ValueError(f"{text} is no size")
    return match[1] + {"": "", "b": "", "k": "Ki", "m": "Mi", "g": "Gi"}[match[2]]


@click.command("from-compose")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--first", metavar="SERVICE", default="", help="The service that players reach.  [the first with ports]")
def from_compose(file: str, first: str) -> None:
    """Print a template from a Compose file: the service with ports is the first pod, the others its members.

    What could not be carried over is on standard error.
    """
    import yaml

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        compose = yaml.safe_load(text)
        template, notes = template_of(compose if isinstance(compose, dict) else {}, first)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise click.ClickException(f"{file} is no Compose file from which a template can be made: {error}") from error
    for note in notes:
        click.echo(note, err=True)
    click.echo(yaml.safe_dump(template, sort_keys=False), nl=False)
