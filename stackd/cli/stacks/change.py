"""``stacks delete``, ``batch-delete``, ``extend``, ``restart``, ``stop`` and ``start``.

Named stacks are changed one after the other, with a line for each. Those that a filter, --all or standard input chooses
are changed by one job.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from stackd.cli.options import Length, filter_options, ids_of_stacks, output_option
from stackd.cli.output import PRINTED, addresses, console, counted, duration, is_terminal, local, since
from stackd.cli.stacks.read import checked, for_each
from stackd.cli.target import client_options, leaving
from stackd.printable import printable, some_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from stackd.client import Client, Job

POLL_SECONDS = 0.25
TOO_LARGE = 413
NAMED = 3
"""How many stacks stand before a reason that they share."""

CHOICE = "name stacks, choose them with --label, --status, --node or --template, or use --all"
DONE = {"delete": "deleted", "extend": "extended", "restart": "restarted", "stop": "stopped", "start": "started"}
HARMLESS = ("extend", "start")
"""What is done to many stacks without asking."""

CONTINUES = {"delete": "{0} is still being deleted", "extend": "{0} may have been extended"}


def _command(action: Any, text: str, name: str = "") -> click.Command:
    named = not name  # batch-delete makes a job of named stacks, too

    @click.command(name or action, help=text)
    @client_options
    @click.argument("stack_ids", metavar="[STACK…]", nargs=-1, shell_complete=ids_of_stacks)
    @filter_options
    @click.option("--all", "everything", is_flag=True, help="All stacks.")
    @click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
    @click.option("--no-wait", is_flag=True, help="Of a job: print its id and return at once.")
    @output_option("json", "jsonl", "name")
    def command(
        client: Client, stack_ids: tuple[str, ...], chosen: dict[str, Any], output: str, ttl: str = "", **options: Any
    ) -> None:
        if bool(stack_ids) + any(chosen.values()) + options["everything"] != 1:
            raise click.UsageError(CHOICE)
        if named and stack_ids and stack_ids != ("-",):
            for_each(stack_ids, lambda stack_id: _change(client, action, checked(stack_id), ttl, output))
        else:
            _change_many(_Work(client, action, ttl), stack_ids, chosen, output, options)

    return command


delete = _command("delete", "Delete stacks: each is gone from the cluster when its line is printed.")
extend = click.argument("ttl", type=Length())(
    _command("extend", "Extend the time to live of stacks by TTL, such as 30m.\n\n\b\n"
             "stackd stacks extend --label challenge=web-1 30m")
)  # fmt: skip
restart = _command("restart", "Give stacks a fresh pod behind the same ports.")
stop = _command("stop", "Remove the pods of stacks; keep their ports.")
start = _command("start", "Give stopped stacks a fresh pod behind the ports they kept.")
batch_delete = _command(
    "delete",
    "Delete many stacks as one job: those named, those that the filters find, or --all.\n\n"
    "A single - reads the ids from standard input: the first field of each line.\n\n\b\n"
    "stackd stacks batch-delete --label team=7",
    "batch-delete",
)


def _change(client: Client, action: str, stack_id: str, ttl: str, output: str) -> None:
    behind = CONTINUES.get(action, f"the {action} of {{0}} continues; see: stackd stacks show {{0}}")
    with leaving(behind.format(stack_id)):
        stack = getattr(client, action)(stack_id, *([ttl] if ttl else []))
    answer: Any = {"deleted": True, "stack_id": stack_id} if stack is None else stack.raw
    if output in PRINTED:
        PRINTED[output](answer)
        return
    if stack is None:
        fields = ["deleted"]
    elif ttl:
        expires = answer["ttl_expires_at"]
        fields = [f"expires {local(expires)}, in {duration(-since(expires))}"]
    else:
        fields = [answer["status"], *addresses(answer)]
    click.echo("\t".join([stack_id, *(() if output == "name" else fields)]))


class _Work:
    """What is done to many stacks, and by which requests."""

    def __init__(self, client: Client, action: Any, ttl: str) -> None:
        self.client = client
        self.action = action
        self.done: str = DONE[action]
        self.ttl = ttl or None
        deletes = action == "delete"
        self.read: Callable[[str], Job] = client.job if deletes else client.batch_job

    def begin(self, ids: list[str]) -> Job:
        """Start a job for these ids."""
        if self.action == "delete":
            return self.client.batch_delete(ids)
        return self.client.batch(self.action, stack_ids=ids, ttl=self.ttl)

    def begin_matching(self, chosen: dict[str, Any]) -> Job | None:
        """Start a job for the stacks that stackd chooses; None if it cannot choose by these filters."""
        if not chosen["labels"]:
            return None
        if self.action == "delete":
            return self.client.batch_delete_matching(**chosen)
        if (
            chosen["statuses"]
            or chosen["node"]
            or chosen["template"]
            or not all("=" in one for one in chosen["labels"])
        ):
            return None
        return self.client.batch(self.action, labels=dict(one.split("=", 1) for one in chosen["labels"]), ttl=self.ttl)


def _change_many(
    work: _Work, stack_ids: tuple[str, ...], chosen: dict[str, Any], output: str, options: dict[str, Any]
) -> None:
    sure = options["yes"] or work.action in HARMLESS
    matching = work.begin_matching(chosen) if sure else None
    if matching is not None:
        jobs, total = [matching], matching.total
    else:
        ids = _ids(work.client, stack_ids, chosen)
        if ids and not sure and not stack_ids:
            _confirm(work.action, len(ids))
        jobs, total = _begun(work, ids) if ids else [], len(ids)
    if not total:
        click.echo(f"no stack matches: nothing to {work.action}", err=True)
        return
    if options["no_wait"]:
        click.echo("\n".join(job.job_id for job in jobs))
        return
    with leaving(f"{_continuing(jobs)} to {work.action} {counted(total, 'stack')}"):
        jobs = _finished(work, jobs, total)
    for job in jobs:
        _print_job(work, job, output)
    undone = sum(job.failed + (job.not_found if work.action != "delete" else 0) for job in jobs)
    if undone:
        raise click.ClickException(f"{undone} of {sum(job.total for job in jobs)} could not be {work.done}")


def _begun(work: _Work, ids: list[str]) -> list[Job]:
    """Start a job for these ids, or several where stackd takes fewer at once (413)."""
    from stackd.client import ApiError, ClientError

    jobs: list[Job] = []
    parts = [ids]
    while parts:
        part = parts.pop()
        try:
            jobs.append(work.begin(part))
        except ClientError as error:
            if not (isinstance(error, ApiError) and error.status == TOO_LARGE and len(part) > 1):
                if jobs:
                    count = len(ids) - len(part) - sum(map(len, parts))
                    click.echo(f"{_continuing(jobs)} to {work.action} {count} of {len(ids)} stacks", err=True)
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


def _confirm(action: str, count: int) -> None:
    stacks = counted(count, "stack")
    if not sys.stdin.isatty():
        raise click.UsageError(f"this would {action} {stacks}; confirm with --yes")
    click.confirm(f"{action.capitalize()} {stacks}?", abort=True, err=True)


def _finished(work: _Work, jobs: list[Job], total: int) -> list[Job]:
    """Wait until the jobs have finished, and return them; a terminal shows a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(work.action), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True, disable=not is_terminal()) as progress:
        bar = progress.add_task("", total=total)
        while True:
            jobs = [job if job.finished else work.read(job.job_id) for job in jobs]
            progress.update(bar, completed=sum(job.done + job.not_found + job.failed for job in jobs))
            if all(job.finished for job in jobs):
                return jobs
            time.sleep(POLL_SECONDS)


def _print_job(work: _Work, job: Job, output: str) -> None:
    if output in PRINTED:
        PRINTED[output](job.raw)
        return
    counts = (f"{job.done} {work.done}", f"{job.not_found} not found", f"{job.failed} failed")
    click.echo("\t".join([job.job_id, *(() if output == "name" else counts)]))
    reasons: dict[str, list[str]] = {}
    for stack_id, error in job.errors.items():
        reasons.setdefault(error.removeprefix(stack_id).lstrip(": "), []).append(stack_id)
    for reason, ids in reasons.items():
        click.echo(printable(f"{some_of(ids, NAMED)}: {reason}"), err=True)
    if (more := job.failed - len(job.errors)) > 0:
        click.echo(f"and {more} more", err=True)
