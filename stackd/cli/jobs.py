"""``stackd jobs …``: the batch jobs of stackd, whoever has begun them."""

from __future__ import annotations

from itertools import islice

import click

from stackd.cli import group
from stackd.cli import output as render
from stackd.cli.change import DONE, came_of, finished, print_job, print_jobs
from stackd.cli.options import checked, output_option
from stackd.cli.system import ACTIVITY
from stackd.cli.target import client_options, interruptible
from stackd.client import Client, Job


@group(aliases={"get": "list", "describe": "show"})
def jobs() -> None:
    """Show batch jobs, or wait for them. Deletes, extensions and other commands for many stacks begin them."""


@jobs.command("list", short_help="List the latest jobs.")
@client_options
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@output_option("json", "jsonl", "name")
def list_jobs(client: Client, limit: int, output: str | None) -> None:
    """List the latest jobs, who began them, and how far they are."""
    found = [one.raw for one in islice((one for one in client.iter_activity() if one.job_id), limit)]
    render.print_list("jobs", found, ACTIVITY, output, "job_id")


@jobs.command(short_help="Show a job, and what became of its stacks.")
@client_options
@click.argument("job_id", metavar="JOB")
@click.option("--results", is_flag=True, help="Also each of its stacks.")
@output_option("json", "jsonl")
def show(client: Client, job_id: str, results: bool, output: str | None) -> None:
    """Show a job: its counts, why stacks failed, and with --results each stack."""
    job = client.batch_job(checked(job_id), results=results)
    if render.printed(job.raw, output):
        return
    came = f"{came_of(job, DONE[job.action])}, {job.not_found} not found, {job.failed} failed"
    facts = [("job", job.job_id), ("action", job.action), ("status", job.status), ("stacks", f"{job.total}: {came}")]
    render.print_facts([*facts, *(("failed", f"{one.stack_id}: {one.error}") for one in job.errors)])
    for one in job.raw.get("results") or ():
        click.echo(render.line([str(one.get("stack_id") or "-"), one["outcome"], render.label_text(one)]))


@jobs.command(short_help="Wait until jobs have finished.")
@client_options
@click.argument("job_ids", metavar="JOB…", nargs=-1, required=True)
@output_option("json", "jsonl", "name")
def wait(client: Client, job_ids: tuple[str, ...], output: str | None) -> None:
    """Wait until jobs have finished, and print what came of them; exit code 1 if stacks failed."""

    def read(job_id: str) -> Job:
        return client.batch_job(checked(job_id))

    begun = [read(job_id) for job_id in dict.fromkeys(job_ids)]
    with interruptible("the jobs continue"):
        ended = finished("wait", read, begun, sum(job.total for job in begun))
    if not print_jobs(ended, output):
        for job in ended:
            print_job(job, came_of(job, DONE[job.action]), output)
    if failed := sum(job.failed for job in ended):
        raise click.ClickException(f"{failed} of {sum(job.total for job in ended)} failed")
