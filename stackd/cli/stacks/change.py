"""``stacks delete``, ``batch-delete``, ``extend``, ``restart``, ``stop`` and ``start``."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from stackd.cli.options import (
    Length,
    filter_options,
    ids_of_stacks,
    output_option,
    stack_id_argument,
    stack_ids_argument,
)
from stackd.cli.output import PRINTED, addresses, console, counted, duration, is_terminal, local, since
from stackd.cli.stacks.read import checked, for_each
from stackd.cli.target import client_options, leaving
from stackd.printable import printable

if TYPE_CHECKING:
    from stackd.client import Client, Job

POLL_SECONDS = 0.25
TOO_LARGE = 413


@click.command()
@client_options
@stack_ids_argument
@output_option("json", "jsonl", "name")
def delete(client: Client, stack_ids: tuple[str, ...], output: str) -> None:
    """Delete stacks: each is gone from the cluster when its line is printed."""

    def each(stack_id: str) -> None:
        with leaving(f"{stack_id} is still being deleted"):
            client.delete(checked(stack_id))
        if output in PRINTED:
            PRINTED[output]({"deleted": True, "stack_id": stack_id})
        else:
            click.echo(stack_id if output == "name" else f"{stack_id}\tdeleted")

    for_each(stack_ids, each)


@click.command()
@client_options
@stack_id_argument
@click.argument("ttl", type=Length())
@output_option("json", "jsonl", "name")
def extend(client: Client, stack_id: str, ttl: str, output: str) -> None:
    """Extend a stack's time to live by TTL, such as 30m."""
    stack = client.extend(checked(stack_id), ttl).raw
    expires = stack["ttl_expires_at"]
    _print(stack, output, f"expires {local(expires)}, in {duration(-since(expires))}")


def _verb(name: str, text: str) -> click.Command:
    @click.command(name, help=text)
    @client_options
    @stack_ids_argument
    @output_option("json", "jsonl", "name")
    def command(client: Client, stack_ids: tuple[str, ...], output: str) -> None:
        def each(stack_id: str) -> None:
            with leaving(f"the {name} of {stack_id} continues; see: stackd stacks show {stack_id}"):
                stack = getattr(client, name)(checked(stack_id)).raw
            _print(stack, output, stack["status"], *addresses(stack))

        for_each(stack_ids, each)

    return command


restart = _verb("restart", "Give stacks a fresh pod behind the same ports.")
stop = _verb("stop", "Remove the pods of stacks; keep their ports.")
start = _verb("start", "Give stopped stacks a fresh pod behind the ports they kept.")


def _print(stack: Any, output: str, *fields: str) -> None:
    if output in PRINTED:
        PRINTED[output](stack)
    else:
        click.echo("\t".join([stack["stack_id"], *(() if output == "name" else fields)]))


@click.command("batch-delete")
@client_options
@click.argument("stack_ids", metavar="[STACK…]", nargs=-1, shell_complete=ids_of_stacks)
@filter_options
@click.option("--all", "everything", is_flag=True, help="All stacks.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@click.option("--no-wait", is_flag=True, help="Print the job's id and return at once.")
@output_option("json", "jsonl", "name")
def batch_delete(
    client: Client, stack_ids: tuple[str, ...], chosen: dict[str, Any], output: str, **options: Any
) -> None:
    """Delete many stacks as one job: those named, those that the filters find, or --all.

    A single - reads the ids from standard input: the first field of each line.

    \b
    stackd stacks batch-delete --label team=7
    """
    if bool(stack_ids) + any(chosen.values()) + options["everything"] != 1:
        raise click.UsageError("name stacks, choose them with --label, --status, --node or --template, or use --all")
    if options["yes"] and chosen["labels"]:
        jobs = [client.batch_delete_matching(**chosen)]
        total = jobs[0].total
    else:
        ids = _ids(client, stack_ids, chosen)
        if ids and not options["yes"] and not stack_ids:
            _confirm(len(ids))
        jobs, total = _begun(client, ids) if ids else [], len(ids)
    if not total:
        click.echo("no stack matches: nothing to delete", err=True)
        return
    if options["no_wait"]:
        click.echo("\n".join(job.job_id for job in jobs))
        return
    with leaving(f"{_continuing(jobs)} to delete {total} stacks"):
        jobs = _finished(client, jobs, total)
    for job in jobs:
        _print_job(job, output)
    if failed := sum(job.failed for job in jobs):
        raise click.ClickException(f"{failed} of {sum(job.total for job in jobs)} could not be deleted")


def _begun(client: Client, ids: list[str]) -> list[Job]:
    """Start a job for these ids, or several where stackd takes fewer at once (413)."""
    from stackd.client import ApiError, ClientError

    jobs: list[Job] = []
    parts = [ids]
    while parts:
        part = parts.pop()
        try:
            jobs.append(client.batch_delete(part))
        except ClientError as error:
            if not (isinstance(error, ApiError) and error.status == TOO_LARGE and len(part) > 1):
                if jobs:
                    count = len(ids) - len(part) - sum(map(len, parts))
                    click.echo(f"{_continuing(jobs)} to delete {count} of {len(ids)} stacks", err=True)
                raise
            parts += [part[len(part) // 2 :], part[: len(part) // 2]]
    return jobs


def _continuing(jobs: list[Job]) -> str:
    return f"{' and '.join(job.job_id for job in jobs)} continue{'s' if len(jobs) == 1 else ''}"


def _ids(client: Client, stack_ids: tuple[str, ...], chosen: dict[str, Any]) -> list[str]:
    if stack_ids == ("-",):
        # Takes what `stacks list` prints in a pipe: the id is the first field of each line.
        return [line.split()[0] for line in sys.stdin if line.strip()]
    return list(stack_ids) or [stack.stack_id for stack in client.stacks(**chosen, fields=["stack_id"])]


def _confirm(count: int) -> None:
    stacks = counted(count, "stack")
    if not sys.stdin.isatty():
        raise click.UsageError(f"this would delete {stacks}; confirm with --yes")
    click.confirm(f"Delete {stacks}?", abort=True, err=True)


def _finished(client: Client, jobs: list[Job], total: int) -> list[Job]:
    """Wait until the jobs have finished, and return them; a terminal shows a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("deleting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True, disable=not is_terminal()) as progress:
        bar = progress.add_task("", total=total)
        while True:
            jobs = [job if job.finished else client.job(job.job_id) for job in jobs]
            progress.update(bar, completed=sum(job.done + job.not_found + job.failed for job in jobs))
            if all(job.finished for job in jobs):
                return jobs
            time.sleep(POLL_SECONDS)


def _print_job(job: Job, output: str) -> None:
    if output in PRINTED:
        PRINTED[output](job.raw)
        return
    counts = (f"{job.done} deleted", f"{job.not_found} not found", f"{job.failed} failed")
    click.echo("\t".join([job.job_id, *(() if output == "name" else counts)]))
    for stack_id, error in job.errors.items():
        click.echo(f"{stack_id}: {printable(error)}", err=True)
