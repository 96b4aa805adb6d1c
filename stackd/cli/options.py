"""Options and arguments that several commands share, their completion, and the loading of the configuration."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from stackd.cli import installed as common
from stackd.cli.output import addresses, label_text, natural
from stackd.cli.target import client_for
from stackd.client import Client
from stackd.client.operations import PATH_PART
from stackd.contract import STATUSES
from stackd.errors import StackdError
from stackd.files import user_name
from stackd.printable import printable
from stackd.quantity import Quantity, parse
from stackd.units import parse_duration

if TYPE_CHECKING:
    from stackd.config import LoadedConfig

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
FILTERS = ("labels", "statuses", "node", "template", "ended")


def stacked(*options: Decorator) -> Decorator:
    """One decorator for several options, in this order."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def _or_installed(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is None and (value := common.installed()) is None and common.hidden():
        click.echo(
            f"warning: {common.INSTALLED} cannot be read by {user_name(os.geteuid())} and is ignored; "
            "run this as root, or name a file with --config",
            err=True,
        )
    return value


config_option = click.option(
    "--config", "-c", "config_path", type=click.Path(path_type=Path, readable=False), envvar="STACKD_CONFIG",
    metavar="FILE", callback=_or_installed,
    help=f"The configuration file (TOML), or STACKD_CONFIG.  [default: {common.INSTALLED} where it exists]",
)  # fmt: skip


def loaded(path: Path | None, *, serving: bool = True, cluster: bool = True, beside: bool = True) -> LoadedConfig:
    """The configuration in the file and the environment, with the credentials that the service gets.

    Without systemd these are ``beside`` the file. A command that serves no API needs no keys, one that works with files
    no cluster. Raises ConfigError with all mistakes.
    """
    from stackd.config import load

    folder = path.parent if beside and path is not None and not os.environ.get("CREDENTIALS_DIRECTORY") else None
    return load(path, os.environ, folder, serving=serving, cluster=cluster)


def _quantity(ctx: click.Context, param: click.Parameter, value: str | None) -> Quantity | None:
    if value is None:
        return None
    try:
        amount = parse(value)
    except ValueError as error:
        raise click.BadParameter(f"{value} is {error}", ctx, param) from error
    if amount.nanos <= 0:
        raise click.BadParameter(f"{value} is not above zero", ctx, param)
    return amount


# An option for a Kubernetes quantity above zero; None without the option.
quantity_option = functools.partial(click.option, callback=_quantity, metavar="QUANTITY")


class Length(click.ParamType[str]):
    """A length of time such as ``30m``, passed on as it was typed."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parse_duration(str(value))
        except ValueError as error:
            self.fail(f"{error}; write it like 30m, 2h or 1h30m", param, ctx)
        return str(value)


def labels_of(texts: Iterable[str], option: str = "--label") -> dict[str, str]:
    """What ``--label``, or another option of its form, names. Raises UsageError."""
    labels = {}
    for text in texts:
        name, equals, labels[name] = text.partition("=")
        if not equals:
            raise click.UsageError(f"{option} must be like player=7, not {text!r}")
    return labels


def _completed(offer: Callable[[Client, str], Iterable[tuple[str, str]]]) -> Callable[..., list[CompletionItem]]:
    """Completions from the daemon, each with its help; none if it does not answer at once."""

    def complete(context: click.Context, parameter: click.Parameter, begin: str) -> list[CompletionItem]:
        options = context.params
        url = options.get("url") or os.environ.get("STACKD_URL")
        ca_file = options.get("ca_file") or os.environ.get("STACKD_CA_FILE")
        try:
            offered = [*offer(client_for(url, options.get("key_file"), ca_file, completing=True), begin)]
        except (StackdError, click.ClickException):
            return []
        return [CompletionItem(text, help=printable(about)) for text, about in offered if text.startswith(begin)]

    return complete


def _stacks(client: Client, begin: str) -> Iterable[tuple[str, str]]:
    for stack in client.stacks(fields=("stack_id", "status", "addresses", "labels")):
        yield stack.stack_id, " ".join([stack.status, *addresses(stack.raw), label_text(stack.raw)])


def _labels(client: Client, begin: str) -> Iterable[tuple[str, str]]:
    """The keys that stacks have; if only one key matches, its values."""
    pairs = {pair for stack in client.stacks(fields=["labels"]) for pair in stack.labels.items()}
    begun = {(name, f"{name}={value}") for name, value in pairs if f"{name}={value}".startswith(begin)}
    names = {name for name, _ in begun}
    return [(text, "") for text in sorted(names if len(names) > 1 else {pair for _, pair in begun})]


stack_complete, label_complete = _completed(_stacks), _completed(_labels)
template_complete = _completed(lambda client, _: [(one.name, "") for one in client.templates()])
_node_complete = _completed(
    lambda client, _: [(name, "") for name in sorted(client.stats().raw["node_distribution"], key=natural)]
)
stack_id_argument = click.argument("stack_id", metavar="STACK", shell_complete=stack_complete)


def stack_ids_argument(*, required: bool) -> Decorator:
    metavar = "STACK…" if required else "[STACK…]"
    return click.argument("stack_ids", metavar=metavar, nargs=-1, required=required, shell_complete=stack_complete)


def output_option(*forms: str) -> Decorator:
    """``-o`` with these forms beside the table, and ``--json`` for short, as ``output``."""
    return stacked(
        click.option(
            "--output", "-o", type=click.Choice(forms), help="Output format.  [a table on a terminal, else lines]"
        ),
        click.option("--json", "output", flag_value="json", help="The API's own JSON, as with -o json."),
    )


# Each is completed with a help= of the command's own.
labels_option = functools.partial(
    click.option, "--label", "-l", "labels", multiple=True, metavar="KEY=VALUE", shell_complete=label_complete
)
template_option = functools.partial(click.option, "--template", "-t", metavar="NAME", shell_complete=template_complete)

label_option = labels_option(metavar="KEY[=VALUE]", help="Only stacks with this label; with all of them if repeated.")
# ``--label``, ``--status``, ``--node``, ``--template`` and ``--ended``, named as the client's filters.
filter_options = stacked(
    label_option,
    click.option("--status", "-s", "statuses", multiple=True, type=click.Choice(STATUSES),
                 help="Only stacks in this status; in any of them if repeated."),
    click.option("--node", metavar="NAME", default="", shell_complete=_node_complete, help="Only stacks on this node."),
    template_option(default="", help="Only stacks of this template."),
    click.option("--ended/--not-ended", default=None, help="Only stacks whose pod has ended for good, or only the others."),
)  # fmt: skip


def confirm(action: str, what: str, *, yes: bool) -> None:
    """Ask whether to do that, unless ``yes``. Raises UsageError where nobody can answer, and Abort for a no."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError(f"this would {action} {what}; confirm with --yes")
    if not yes:
        click.confirm(f"{action.capitalize()} {what}?", abort=True, err=True)


def checked(stack_id: str) -> str:
    """Return ``stack_id``. Raises UsageError if no stack can have that id."""
    if not PATH_PART.fullmatch(stack_id):
        raise click.UsageError(f"not a stack's id: {printable(stack_id)!r}")
    return stack_id


column_option = click.option("--player-column", default="player", show_default=True, metavar="NAME",
                             help="The column of --players that says who it is, such as an address.")  # fmt: skip
