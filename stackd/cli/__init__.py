"""The commands. Exit codes: 0 done, 1 failed, 2 usage or configuration.

Owns: arguments, what is printed, and the exit code. Each command's work is elsewhere.
"""

from __future__ import annotations

import logging
import os
import sys

import click

from stackd import __version__
from stackd.cli.check import check
from stackd.cli.demo import demo
from stackd.cli.doctor import doctor
from stackd.cli.files import backup
from stackd.cli.keys import key
from stackd.cli.manifests import manifests
from stackd.cli.operator import reconcile
from stackd.cli.rebuild import rebuild
from stackd.cli.serve import serve
from stackd.cli.stacks import stacks
from stackd.errors import ConfigError, StackdError
from stackd.logs.journal import is_journal

FAILED = 1
USAGE = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="stackd")
def stackd() -> None:
    """Hand out stacks: a hardened Pod and a NodePort Service each, with a time to live, over a REST API."""


for _command in (serve, demo, check, doctor, manifests, backup, rebuild, reconcile, key, stacks):
    stackd.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code."""
    try:
        stackd.main(arguments, prog_name="stackd", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE if isinstance(error, click.UsageError) else FAILED)
    except click.Abort:
        sys.exit(FAILED)
    except ConfigError as error:
        for mistake in error.mistakes:
            _complain(mistake)
        sys.exit(USAGE)
    except (StackdError, OSError) as error:
        _complain(str(error))
        sys.exit(FAILED)
    finally:
        logging.shutdown()


def _complain(sentence: str) -> None:
    """Say on standard error what went wrong; the journal learns from ``<3>`` that it is an error."""
    in_journal = is_journal(os.environ, sys.stderr)
    click.echo(f"<3>{sentence}" if in_journal else f"stackd: {sentence}", err=True)
