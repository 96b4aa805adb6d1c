"""``stackd jobs …``: the batch jobs of stackd, whoever has begun them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from stackd.cli import lazy
from stackd.cli import output as render
from stackd.cli.change import DONE, came_of, finished, print_job, print_jobs
from stackd.cli.options import checked, output_option
from stackd.cli.system import ACTIVITY
from stackd.cli.target import client_options, interruptible

if TYPE_CHECKING:
    from stackd.client import Client, Job

VERBS = {
    "list": ("stackd.cli.jobs:list_jobs", "List the latest jobs."),
    "show": ("stackd.cli.jobs:show", "Show a job, and what became of its stacks."),
    "wait": ("stackd.cli.jobs:wait", "Wait until jobs have finished."),
}


@click.group(cls=lazy(VERBS, get="list", describe="show"))
def jobs() -> None:
    """Show batch jobs, or wait for them. Deletes, extensions and other commands for many stacks begin them."""


@click.command("list")
@client_options
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@output_option("json", "jsonl", "name")
def list_jobs(client: Client, limit: int, output: str | None) -> None:
    """List the latest jobs, who began them, and how far they are."""
    found = [one.raw for one in islice((one for one in client.iter_activity() if one.job_id), limit)]
    if not render.printed({"jobs": found}, output, found, "job_id"):
        render.print_table(ACTIVITY, found)


@click.command()
@client_options
@click.argument("job_id", metavar="JOB")
@click.option("--results", is_flag=True, help="Also each of its stacks.")
@output_option("json", "jsonl")
def show(client: Client, job_id: str, results: bool, output: str | None) -> None:
    """Show a job: its counts, why stacks failed, and with --results each stack."""
    job = client.batch_job(checked(job_id), results=results)
    if render.printed(job.raw, output):
        return
    render.print_facts(_facts(job))
    for one in job.raw.get("results") or ():
        click.echo(render.line([str(one.get("stack_id") or "-"), one["outcome"], render.label_text(one)]))


def _facts(job: Job) -> Iterator[tuple[str, str]]:
    yield "job", job.job_id
    yield "action", job.action
    yield "status", job.status
    yield "stacks", f"{job.total}: {came_of(job, DONE[job.action])}, {job.not_found} not found, {job.failed} failed"
    for one in job.errors:
        yield "failed", f"{one.stack_id}: {one.error}"


@click.command()
@client_options
@click.argument("job_ids", metavar="JOB…", nargs=-1, required=True)
@output_option("json", "jsonl", "name")
def wait(client: Client, job_ids: tuple[str, ...], output: str | None) -> None:
    """Wait until jobs have finished, and print what came of them; exit code 1 if stacks failed."""

    def read(job_id: str) -> Any:
        return client.batch_job(checked(job_id))

    begun = [read(job_id) for job_id in dict.fromkeys(job_ids)]
    with interruptible("the jobs continue"):
        ended = finished("wait", read, begun, sum(job.total for job in begun))
    if not print_jobs(ended, output):
        for job in ended:
            print_job(job, came_of(job, DONE[job.action]), output)
    if failed := sum(job.failed for job in ended):
        raise click.ClickException(f"{failed} of {sum(job.total for job in ended)} failed")
