"""``stacks delete``, ``extend``, ``label``, ``restart``, ``renew``, ``stop`` and ``start``.

One named stack is changed by a request of its own. Several, and those that a filter, --all or standard input chooses, are
changed by one job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from stackd.cli.options import (
    FILTERS,
    Length,
    checked,
    confirm,
    filter_options,
    labels_of,
    output_option,
    stack_id_argument,
    stack_ids_argument,
    stacked,
)
from stackd.cli.output import addresses, counted, duration, is_terminal, label_text, local, printed, since
from stackd.cli.roster import players_links, stacks_by_link
from stackd.cli.target import client_options, interruptible
from stackd.client import ApiError, Client, ClientError, Job
from stackd.printable import printable, some_of

POLL_SECONDS = 0.25
TOO_LARGE = 413
# How many stacks stand before a reason that they share.
NAMED = 3
CHOICE = "name stacks, choose them with --label, --status, --node or --template, or use --all"
DONE = {
    "delete": "deleted", "extend": "extended", "restart": "restarted", "renew": "renewed", "stop": "stopped",
    "start": "started", "create": "created",
}  # fmt: skip
WORDS = {"creating": "are starting", "node_deleted": "lost their node", "deleted": "are gone"}
# What is done to many stacks without asking.
HARMLESS = ("extend", "start")
CONTINUES = {"delete": "{0} is still being deleted", "extend": "{0} may have been extended"}


WAIT = click.option("--wait", is_flag=True, help="Of a job: follow its stacks until none starts, for 2 minutes.")
# For so long no stack of a job starts or fails before ``--wait`` ends.
SETTLED_SECONDS = 10.0
MANY = "Several are one job. A single - reads the ids from standard input: the first field of each line."


def _command(action: Any, text: str, example: str = "", *, starts: bool = False) -> click.Command:
    @click.command(action, help="\n\n".join([text, MANY, *([f"\b\n{example}"] if example else [])]))
    @client_options
    @stack_ids_argument(required=False)
    @filter_options
    @click.option("--all", "everything", is_flag=True, help="All stacks.")
    @click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
    @click.option("--no-wait", is_flag=True, help="Of a job: print its id and return at once.")
    @stacked(*([WAIT] if starts else []))
    @output_option("json", "jsonl", "name")
    def command(client: Client, stack_ids: tuple[str, ...], output: str | None, ttl: str = "", **options: Any) -> None:
        chosen = {name: options[name] for name in FILTERS}
        if bool(stack_ids) + any(each or each is False for each in chosen.values()) + options["everything"] != 1:
            raise click.UsageError(CHOICE)
        alone = len(set(stack_ids)) == 1 and stack_ids != ("-",)
        if alone and not (options["no_wait"] or options.get("wait")):
            _change(client, action, checked(stack_ids[0]), ttl, output, **options.get("only", {}))
            _name_short_links(client, action)
            return
        if options.get("only"):
            raise click.UsageError("--member is about one stack, without --wait and --no-wait")
        bulk = _Bulk(client, action, ttl or None)
        jobs, total = bulk.begun(stack_ids, chosen, sure=options["yes"] or action in HARMLESS)
        if not total:
            print_jobs(jobs, output)
            nothing = f"no stack matches: nothing to {action}"
            if action != "delete":
                raise click.ClickException(nothing)
            click.echo(nothing, err=True)
        elif options["no_wait"]:
            if not print_jobs(jobs, output):
                click.echo("\n".join(job.job_id for job in jobs))
        else:
            named = bool(stack_ids) and stack_ids != ("-",)
            _follow(bulk, jobs, total, output, named=named, settles=options.get("wait", False))
            _name_short_links(client, action)

    return command


def _name_short_links(client: Client, action: str) -> None:
    """After an extension, which extends no link, name the players who cannot open their page until their stacks end."""
    links = [one for one in players_links(client) if not one.each] if action == "extend" else []
    fields = ["stack_id", "labels", "shared", "ttl_expires_at"]
    own = stacks_by_link(links, client.stacks(ended=False, fields=fields) if links else [])
    last = {label_text(one.raw): one for one in sorted(links, key=lambda one: one.expires_at)}
    names = [
        link.name for link in last.values() if any(link.expires_at < one.ttl_expires_at for one in own[link.link_id])
    ]
    if names:
        who = f"{counted(len(names), 'link')} will end before the stack: {printable(some_of(names, NAMED))}"
        click.echo(f"{who}. An extension extends no link; make new ones: stackd links create", err=True)


delete = _command(
    "delete",
    "Delete stacks: they are gone from the cluster when this returns.",
    "stackd stacks delete --label player=7",
)
extend = click.argument("ttl", type=Length())(
    _command("extend", "Extend the time to live of stacks by TTL, such as 30m.",
             "stackd stacks extend --template web-1 30m")
)  # fmt: skip
restart = click.option(
    "--member", "only", metavar="NAME", default="", help="Only the pod of this member.",
    callback=lambda *given: {"member": given[-1]} if given[-1] else {},
)(_command("restart", "Give stacks fresh pods behind the same ports.", starts=True))  # fmt: skip
renew = _command(
    "renew",
    "Give stacks the newest version of their template. Ports, names, labels, generated values and the end stay.",
    "stackd stacks renew --template web-1",
    starts=True,
)
stop = _command("stop", "Remove the pods of stacks; keep their ports.")
start = _command("start", "Give stopped stacks a fresh pod behind the ports they kept.", starts=True)


@click.command("label")
@client_options
@stack_id_argument
@click.argument("changes", metavar="KEY=VALUE|KEY-…", nargs=-1, required=True)
@output_option("json", "name")
def label(client: Client, stack_id: str, changes: tuple[str, ...], output: str | None) -> None:
    """Change the labels of a stack: KEY=VALUE sets one, KEY- removes one.

    \b
    stackd stacks label stack-716b6384dd477b0b player=8 seat-
    """
    removed = [text[:-1] for text in changes if text.endswith("-") and "=" not in text]
    given = labels_of((text for text in changes if "=" in text or not text.endswith("-")), "a label")
    with interruptible(f"{stack_id} may have its new labels; see: stackd stacks show {stack_id}"):
        stack = client.label(checked(stack_id), {**given, **dict.fromkeys(removed)}).raw
    if not printed(stack, output):
        click.echo("\t".join([stack_id, *(() if output == "name" else [label_text(stack)])]))


def _change(client: Client, action: str, stack_id: str, ttl: str, output: str | None, **only: str) -> None:
    continues = CONTINUES.get(action, f"the {action} of {{0}} continues; see: stackd stacks show {{0}}")
    with interruptible(continues.format(stack_id)):
        stack = getattr(client, action)(stack_id, *([ttl] if ttl else []), **only)
    answer: Any = {"deleted": True, "stack_id": stack_id} if stack is None else stack.raw
    if printed(answer, output):
        return
    if stack is None:
        fields = ["deleted"]
    elif ttl:
        expires = answer["ttl_expires_at"]
        fields = [f"expires {local(expires)}, in {duration(-since(expires))}"]
    else:
        fields = [answer["status"], *addresses(answer)]
    click.echo("\t".join([stack_id, *(() if output == "name" else fields)]))


class _Bulk:
    """The requests that do one thing to many stacks."""

    def __init__(self, client: Client, action: Any, ttl: str | None) -> None:
        self.client, self.action, self._ttl = client, action, ttl
        self._deletes = action == "delete"
        self.read = client.job if self._deletes else client.batch_job

    def _begin(self, ids: list[str]) -> Job:
        if self._deletes:
            return self.client.batch_delete(ids)
        return self.client.batch(self.action, stack_ids=ids, ttl=self._ttl)

    def begun(self, stack_ids: tuple[str, ...], chosen: dict[str, Any], *, sure: bool) -> tuple[list[Job], int]:
        """The jobs for these ids, or for the stacks that the filters find, and for how many stacks they are."""
        if sure and (matching := self._begin_matching(chosen)) is not None:
            return [matching], matching.total
        if stack_ids == ("-",):  # what `stacks list` prints in a pipe: the id is the first field of each line
            ids = [line.split()[0] for line in sys.stdin if line.strip()]
        else:
            ids = [*map(checked, stack_ids)] or [
                stack.stack_id for stack in self.client.stacks(**chosen, fields=["stack_id"])
            ]
        if ids and not stack_ids:
            confirm(self.action, counted(len(ids), "stack"), yes=sure)
        return self._begin_parts(ids), len(ids)

    def _begin_matching(self, chosen: dict[str, Any]) -> Job | None:
        """Start a job for the stacks that stackd chooses; None if it cannot choose by these filters."""
        labels = chosen["labels"]
        if labels and self._deletes:
            return self.client.batch_delete_matching(**chosen)
        others = any(value for name, value in chosen.items() if name != "labels")
        if not labels or others or not all("=" in one for one in labels):
            return None
        return self.client.batch(self.action, labels=labels_of(labels), ttl=self._ttl)

    def _begin_parts(self, ids: list[str]) -> list[Job]:
        """Start a job for these ids, or several where stackd takes fewer at once (413)."""
        jobs: list[Job] = []
        parts = [ids] if ids else []
        while parts:
            part = parts.pop()
            try:
                jobs.append(self._begin(part))
            except ClientError as error:
                if not (isinstance(error, ApiError) and error.status == TOO_LARGE and len(part) > 1):
                    if jobs:
                        count = len(ids) - len(part) - sum(map(len, parts))
                        click.echo(f"{_continuing(jobs)} to {self.action} {count} of {len(ids)} stacks", err=True)
                    raise
                parts += [part[len(part) // 2 :], part[: len(part) // 2]]
        return jobs


def _follow(bulk: _Bulk, jobs: list[Job], total: int, output: str | None, *, named: bool, settles: bool) -> None:
    """Wait for the jobs, and print what came of them; exit code 1 if something could not be done, or, if the stacks are
    followed until that ``settles``, if one does not run.

    A stack that is gone is deleted, unless its user has ``named`` it: then the id is wrong.
    """
    action = bulk.action
    with interruptible(f"{_continuing(jobs)} to {action} {counted(total, 'stack')}"):
        jobs = finished(action, bulk.read, jobs, total)
        jobs = [_settled(bulk, job) if settles else job for job in jobs]
    if not print_jobs(jobs, output):
        for job in jobs:
            print_job(job, came_of(job, DONE[action]) if settles else f"{job.done} {DONE[action]}", output)
    undone = sum(job.failed + (job.not_found if named or action != "delete" else 0) for job in jobs)
    broken = sum(job.outcome.statuses.get("failed", 0) for job in jobs if settles and job.outcome)
    if broken and not undone:
        raise click.ClickException(f"{broken} of {total} do not run")
    if undone:
        raise click.ClickException(f"{undone} of {sum(job.total for job in jobs)} could not be {DONE[action]}")


def _continuing(jobs: list[Job]) -> str:
    return f"{' and '.join(job.job_id for job in jobs)} continue{'s' if len(jobs) == 1 else ''}"


def finished(action: str, read: Callable[[str], Job], jobs: list[Job], total: int) -> list[Job]:
    """Wait until the jobs have finished, and return them; a terminal shows a progress bar."""
    with click.progressbar(length=total, label=action, show_pos=True, hidden=not is_terminal()) as bar:
        while True:
            try:
                jobs = [job if job.finished else read(job.job_id) for job in jobs]
            except ClientError:
                click.echo(f"{_continuing(jobs)}; see: stackd activity", err=True)
                raise
            bar.update(sum(job.done + job.not_found + job.failed for job in jobs) - bar.pos)
            if all(job.finished for job in jobs):
                return jobs
            time.sleep(POLL_SECONDS)


def _settled(bulk: _Bulk, job: Job) -> Job:
    """The job once its outcome has not changed for a while and no stack starts any more, or is final."""
    since, before = time.monotonic(), job.outcome
    while job.outcome is not None and not job.outcome.final:
        if job.outcome.statuses.get("creating") or job.outcome.statuses != (before and before.statuses):
            since, before = time.monotonic(), job.outcome
        elif time.monotonic() - since >= SETTLED_SECONDS:
            break
        time.sleep(POLL_SECONDS)
        job = bulk.read(job.job_id)
    return job


def came_of(job: Job, done: str) -> str:
    """What came of a job in a few words: ``202 restarted: 0 run, 202 failed (OOMKilled)``."""
    if job.outcome is None:
        return f"{job.done} {done}"
    others = {status: count for status, count in job.outcome.statuses.items() if status != "running" and count}
    parts = [f"{job.outcome.statuses.get('running', 0)} run"]
    for status, count in others.items():
        reasons = [one.reason for one in job.outcome.reasons if one.status == status and one.reason]
        why = f" ({', '.join(reasons)})" if reasons else ""
        parts.append(f"{count} {WORDS.get(status, status)}{why}")
    return f"{job.done} {done}: {', '.join(parts)}"


def print_jobs(jobs: list[Job], output: str | None) -> bool:
    """Print jobs as JSON, if that is the output: the job, or ``{"jobs": […]}`` if there is not exactly one."""
    raw = [job.raw for job in jobs]
    return printed(raw[0] if len(raw) == 1 else {"jobs": raw}, output, raw)


def print_job(job: Job, done: str, output: str | None) -> None:
    counts = (done, f"{job.not_found} not found", f"{job.failed} failed")
    click.echo("\t".join([job.job_id, *(() if output == "name" else counts)]))
    reasons: dict[str, list[str]] = {}
    for one in job.errors:
        reasons.setdefault(one.error.removeprefix(one.stack_id).lstrip(": "), []).append(one.stack_id)
    for reason, ids in reasons.items():
        click.echo(printable(f"{some_of(ids, NAMED)}: {reason}"), err=True)
    if (more := job.failed - len(job.errors)) > 0:
        click.echo(f"and {more} more", err=True)
