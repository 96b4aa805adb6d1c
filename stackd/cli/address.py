"""Where the daemon is and the key to it: from options, the environment, or a file of the user's.

Owns: ``client.toml`` and what goes before what. Knows nothing of requests.
"""

from __future__ import annotations

import functools
import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from stackd.cli.client import Client

DEFAULT_URL = "http://127.0.0.1:8081"
FILE_KEYS = ("url", "key", "key_file")
FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--url`` and ``--key-file``, and hand it a ``client``.

    The key itself is no option: what stands on a command line can be read by every user of the machine.
    """

    @click.option("--url", envvar="STACKD_URL", help=f"Or STACKD_URL, or url in client.toml.  [default: {DEFAULT_URL}]")
    @click.option(
        "--key-file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Holds the key; else STACKD_API_KEY, or key or key_file in client.toml.",
    )
    @functools.wraps(command)
    def with_client(*args: Any, url: str | None, key_file: Path | None, **kwargs: Any) -> Any:
        return command(*args, client=client_for(url, key_file), **kwargs)

    return with_client


def client_for(url: str | None, key_file: Path | None) -> Client:
    """The client for what was given; what was not, the environment or the file says. Raises UsageError for a wrong file."""
    key = _key_of(key_file) if key_file is not None else os.environ.get("STACKD_API_KEY")
    file = client_file(os.environ)
    known = {} if url and key else read(file)
    if not key and "key" in known and file.stat().st_mode & FOR_OTHERS:
        click.echo(f"warning: {file} leads to a key and others may read it; chmod 600 {file}", err=True)
    url = url or known.get("url") or DEFAULT_URL
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"the address must begin with http:// or https://, not {url!r}")
    return Client(url=url, key=key or known.get("key", ""))


def client_file(environment: Mapping[str, str]) -> Path:
    """``client.toml`` in the user's configuration folder."""
    folder = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME") or "/") / ".config"
    return Path(folder) / "stackd" / "client.toml"


def read(path: Path) -> dict[str, str]:
    """``url`` and ``key`` as the file has them; nothing where there is no file."""
    try:
        text = path.read_text()
        values = tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from error
    for name, value in values.items():
        if name not in FILE_KEYS:
            raise click.UsageError(f"{path}: unknown key {name}; known are {', '.join(FILE_KEYS)}")
        if not isinstance(value, str):
            raise click.UsageError(f"{path}: {name} must be a string")
    if "key_file" in values:
        values.setdefault("key", _key_of(Path(values["key_file"]).expanduser()))
    return values


def _key_of(path: Path) -> str:
    try:
        return path.read_text().split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from error
