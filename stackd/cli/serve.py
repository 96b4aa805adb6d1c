"""``stackd serve``: the daemon."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from stackd import daemon, logs
from stackd.cli.options import config_option, loaded
from stackd.tasks import ServiceEnded

FAILED = 1


@click.command()
@config_option
def serve(config_path: Path | None) -> None:
    """Run the daemon until SIGTERM."""
    configuration = loaded(config_path)
    logs.setup(configuration.config.log)
    run(daemon.serve(configuration, again=lambda: loaded(config_path)))


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run the daemon's coroutine on the fastest loop there is; a service that ended is the last line, and exit code 1."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(coroutine)
    except ServiceEnded as error:
        if isinstance(error.__cause__, BaseException):
            logs.log.debug("the cause", exc_info=error.__cause__)
        logs.log.critical("%s; exiting", _sentence(error))
        sys.exit(FAILED)


def loop_factory() -> Any:
    """uvloop's, except where it does not exist."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


def _sentence(error: ServiceEnded) -> str:
    """The cause's own sentence where it has one; groups of one are looked into."""
    cause: BaseException | None = error.__cause__
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]
    return str(cause) if cause is not None and str(cause) else str(error)
