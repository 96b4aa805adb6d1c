"""``stacks batch-delete``: a job of the API, with its progress."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stackd.cli.address import client_options
from stackd.cli.client import Client
from stackd.cli.stacks.options import filter_options, ids_of_stacks, json_option
from stackd.cli.stacks.shown import console, print_json, safe

POLL_SECONDS = 0.25
FINISHED = ("completed", "failed")


@click.command("batch-delete", short_help="Delete many stacks as one job, with its progress.")
@client_options
@click.argument("stack_ids", metavar="[STACK…]", nargs=-1, shell_complete=ids_of_stacks)
@filter_options
@click.option("--all", "everything", is_flag=True, help="All stacks there are.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Print the job's id and return at once.")
@json_option
def batch_delete(client: Client, stack_ids: tuple[str, ...], chosen: list[tuple[str, str]], **options: Any) -> None:
    """Delete many stacks as one job: those named, those that the filters find, or --all.

    A single - reads the ids from standard input: the first field of each line.

    \b
    stackd stacks batch-delete --label team=7
    """
    if bool(stack_ids) + bool(chosen) + options["everything"] != 1:
        raise click.UsageError("name stacks, or choose them with --label, --status, --node, or say --all")
    ids = _ids(client, stack_ids, chosen)
    if not ids:
        click.echo("no stack is meant", err=True)
        return
    if not options["yes"] and not stack_ids:
        _confirm(len(ids))
    job_id = client.ask("POST", "/stacks/batch-delete", {"stack_ids": ids})["job_id"]
    if options["no_wait"]:
        click.echo(job_id)
        return
    job = asyncio.run(_finished(client, job_id, len(ids)))
    _print(job, options["as_json"])
    if job["failed"]:
        raise click.ClickException(f"{job['failed']} of {job['total']} could not be deleted")


def _ids(client: Client, stack_ids: tuple[str, ...], chosen: list[tuple[str, str]]) -> list[str]:
    if stack_ids == ("-",):
        # What `stacks list` prints in a pipe is good as it is: the id is the first field of each line.
        return [line.split()[0] for line in sys.stdin if line.strip()]
    if stack_ids:
        return list(stack_ids)
    found = client.ask("GET", "/stacks", query=[*chosen, ("fields", "stack_id")])
    return [stack["stack_id"] for stack in found["stacks"]]


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError(f"{count} stacks would be deleted; say --yes")
    click.confirm(f"Delete {count} stack{'' if count == 1 else 's'}?", abort=True, err=True)


async def _finished(client: Client, job_id: str, total: int) -> dict[str, Any]:
    """The job when it has finished, with a bar on the way if anybody looks."""
    out = console()
    columns = (TextColumn("deleting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        bar = progress.add_task("", total=total)
        while True:
            job: dict[str, Any] = await client.call("GET", f"/stacks/batch-delete/{job_id}")
            progress.update(bar, completed=job["deleted"] + job["not_found"] + job["failed"], total=job["total"])
            if job["status"] in FINISHED:
                return job
            await asyncio.sleep(POLL_SECONDS)


def _print(job: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    click.echo(f"{job['job_id']}\t{job['deleted']} deleted\t{job['not_found']} not found\t{job['failed']} failed")
    for error in job.get("errors", []):
        click.echo(f"{error['stack_id']}: {safe(error['error'])}", err=True)
