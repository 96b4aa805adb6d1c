"""``stackd test``: try templates, each with a fresh stack, its check, and its deletion; for an author's own tests.

Owns: what counts as passed. The check is the template's own, or with ``--solver`` a program of this machine, as for an
embedded cluster, whose pods run no program.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import click

from stackd.cli import FAILED
from stackd.cli import output as render
from stackd.cli.options import Length, labels_of, output_option, template_complete
from stackd.cli.target import client_options
from stackd.client import Client, ClientError, Stack, StackEnded, TimedOut
from stackd.contract import port_variables
from stackd.units import parse_duration

# So many templates are tried at a time; stackd runs so many checks of a key at a time.
AT_ONCE, CHECKS_AT_ONCE = 4, 2
LAST_LINES = 1000
# When a solver that has failed is run once more: nodes forward to a new pod a little later than it is ready.
FORWARDING_SECONDS = 3.0
# A stack without a check has to run for so long.
SETTLED_SECONDS = 5.0
PASSED = "passed"


@click.command("test")
@client_options
@click.argument("templates", nargs=-1, metavar="TEMPLATE…", shell_complete=template_complete)
@click.option("--all", "every", is_flag=True, help="All templates that the key may use.")
@click.option(
    "--solver", metavar="PROGRAM",
    help="Run this program here instead of the template's check; {} stands for the template's name.",
)  # fmt: skip
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of the stacks.")
@click.option("--timeout", type=Length(), default="5m", show_default=True, help="The longest wait for a stack to run.")
@output_option("json", "jsonl")
def test(client: Client, templates: tuple[str, ...], every: bool, output: str | None, **how: Any) -> None:
    """Try templates, four at a time: create a stack of each, check it, delete it. Exit code 1 if one fails.

    A stack without a check passes once it has run for five seconds. A solver gets the variables of a check: HOST, PORT and
    URL of the first port, and HOST_80, … of each; TEMPLATE; and the stack's generated values. Exit code 0 means that it has
    solved it.
    """
    known = {one.name: one.raw for one in client.templates()}
    names = sorted(known) if every else templates
    if every == bool(templates) or not names:
        raise click.UsageError("name templates, or give --all")
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"there is no template {', '.join(unknown)}")
    results = []
    for result in _Trials(client, **how).in_order(known[name] for name in names):
        results.append(result)
        if output is None:
            render.print_table(RESULT, results[-1:])
    if output is not None:
        render.printed({"results": results}, output, results)
    if any(one["result"] != PASSED for one in results):
        raise SystemExit(FAILED)


class _Trials:
    """The stacks that are tried, until that is interrupted."""

    def __init__(self, client: Client, *, solver: str | None, labels: Iterable[str], timeout: str) -> None:
        self._client, self._solver = client, solver
        self._labels, self._seconds = labels_of(labels), parse_duration(timeout)
        self._stacks: list[Stack] = []
        self._interrupted = threading.Event()
        self._turn = threading.Semaphore(CHECKS_AT_ONCE)

    def in_order(self, templates: Iterable[render.Fields]) -> Iterator[dict[str, Any]]:
        """The results, in the order of the templates. If it ends early, all stacks are deleted, which ends the other trials."""
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            yield from pool.map(self._tried, templates)
        finally:
            self._interrupted.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for stack in tuple(self._stacks):
                with suppress(ClientError):
                    self._client.delete(stack)
            pool.shutdown()

    def _tried(self, template: render.Fields) -> dict[str, Any]:
        """Each outcome is a result: one template that fails does not keep the others from being tried."""
        name, began, stack = template["name"], time.monotonic(), None
        try:
            stack = self._client.create_from_template(name, labels=self._labels)
            self._stacks.append(stack)
            if self._interrupted.is_set():
                raise ClientError("interrupted")
            ready = self._client.wait(stack, "running", timeout=self._seconds)
            healthy, message = self._checked(template, stack, ready)
        except (ClientError, OSError, subprocess.SubprocessError) as error:
            healthy, message = False, str(error)
        finally:
            if stack is not None:
                with suppress(ClientError):
                    self._client.delete(stack)
                    self._stacks.remove(stack)
        return {
            "template": name,
            "result": PASSED if healthy else "failed",
            "seconds": round(time.monotonic() - began, 1),
            "message": message,
            "stack_id": "" if stack is None else stack.stack_id,
        }

    def _checked(self, template: render.Fields, created: Stack, stack: Stack) -> tuple[bool, str]:
        if self._solver is not None:
            return _solved(template, created, stack, self._solver)
        if template["check"] is None:
            with suppress(TimedOut):
                raise StackEnded(self._client.wait(stack, "failed", timeout=SETTLED_SECONDS))
            return True, "it runs; the template has no check"
        with self._turn:
            seen = self._client.check(stack)
        return seen.healthy, seen.message


def _solved(template: Mapping[str, Any], created: Stack, stack: Stack, solver: str) -> tuple[bool, str]:
    seconds = parse_duration(template["check"]["timeout"]) if template["check"] else 60.0
    if stack.ports and not stack.addresses:
        return False, f"the stack has no address: no public one of node {stack.node_id} is known; set stacks.public_ips"
    places = port_variables((each.port, each.text) for each in stack.addresses)
    environment = {**os.environ, **places, **created.values, "TEMPLATE": template["name"]}
    program = os.path.abspath(solver.replace("{}", template["name"]))
    healthy, message = _run(program, environment, seconds)
    if not healthy:
        time.sleep(FORWARDING_SECONDS)
        healthy, message = _run(program, environment, seconds)
    return healthy, message


def _run(program: str, environment: Mapping[str, str], seconds: float) -> tuple[bool, str]:
    try:
        ended = subprocess.run(  # noqa: S603 - the author's own program
            [program], env=environment, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"no end within {seconds:g} s"
    lines = (ended.stdout + ended.stderr).strip()[-LAST_LINES:]
    return ended.returncode == 0, lines or f"exit code {ended.returncode}"


RESULT = (
    render.Column(head="template", of=lambda one: one["template"]),
    render.Column(head="result", of=lambda one: one["result"]),
    render.Column(head="seconds", of=lambda one: f"{one['seconds']:.1f}", right=True),
    render.Column(head="message", of=lambda one: (one["message"].splitlines() or ["-"])[-1], fold=True),
)
