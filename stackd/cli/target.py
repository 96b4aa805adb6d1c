"""Which daemon a client is for, and its key: from options, the environment, the user's file, or this machine.

Owns: ``client.toml``, the order of these sources, and what an interrupted command says about work that continues.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import stat
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stackd.cli import INTERRUPTED
from stackd.cli.options import installed

if TYPE_CHECKING:
    from stackd.client import Client

DEFAULT_URL = "http://127.0.0.1:8081"
FILE_KEYS = ("url", "key", "key_file")
FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
NO_KEY = (
    "no API key was given; set STACKD_API_KEY, name a file that holds it with --key-file, "
    "or put key or key_file into {}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The daemon's address and an API key; the key is empty if none was given."""

    url: str
    key: str = field(repr=False)


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--url`` and ``--key-file``; pass it the resulting ``target``.

    The key itself is no option: every user of the machine can read a command line.
    """

    @_options
    @functools.wraps(command)
    def with_target(*args: Any, url: str | None, key_file: Path | None, **kwargs: Any) -> Any:
        return command(*args, target=_found(url, key_file), **kwargs)

    return with_target


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--url`` and ``--key-file``; pass it a ``client``."""

    @_options
    @functools.wraps(command)
    def with_client(*args: Any, url: str | None, key_file: Path | None, **kwargs: Any) -> Any:
        with client_for(url, key_file) as client, sentences(client):
            return command(*args, client=client, **kwargs)

    return with_client


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    given = click.option(
        "--url",
        envvar="STACKD_URL",
        help=f"The daemon's address; or STACKD_URL, or url in client.toml.  [default: this machine's daemon, or {DEFAULT_URL}]",
    )
    key = click.option(
        "--key-file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="File with the API key; or STACKD_API_KEY, or key or key_file in client.toml.",
    )
    decorated: Callable[..., Any] = given(key(command))
    return decorated


@contextmanager
def sentences(client: Client) -> Iterator[None]:
    """Turn errors of the client into errors of the command line; for a missing key, say how to give one."""
    from stackd.client import ClientError, KeyRefused
    from stackd.printable import printable

    try:
        yield
    except KeyRefused as error:
        if not client.has_key:
            raise click.ClickException(NO_KEY.format(client_file(os.environ))) from error
        raise click.ClickException(printable(str(error))) from error
    except ClientError as error:
        raise click.ClickException(printable(str(error))) from error


@contextmanager
def leaving(behind: str) -> Iterator[None]:
    """On Ctrl-C, say what continues without the command, and exit with code 130."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; {behind}", err=True)
        sys.exit(INTERRUPTED)


def client_for(url: str | None, key_file: Path | None) -> Client:
    """The client for the given options; what is missing comes from the environment, the file or this machine's daemon.

    Raises UsageError for a wrong file or address.
    """
    from stackd.client import Client, Retries

    return _client(url, key_file, functools.partial(Client, retries=Retries(times=2, busy=False)))


def completing(url: str | None, key_file: Path | None, seconds: float) -> Client:
    """The client for completion: one attempt, and no warning about the permissions of ``client.toml``."""
    from stackd.client import Client
    from stackd.client.attempts import NO_RETRIES

    return _client(
        url or os.environ.get("STACKD_URL"), key_file, functools.partial(Client, retries=NO_RETRIES), quiet=True
    )


def _client(
    url: str | None, key_file: Path | None, made: Callable[[str, str], Client], *, quiet: bool = False
) -> Client:
    found = _found(url, key_file, quiet=quiet)
    try:
        return made(found.url, found.key)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _found(url: str | None, key_file: Path | None, *, quiet: bool = False) -> Target:
    key = _key_of(key_file) if key_file is not None else os.environ.get("STACKD_API_KEY")
    file = client_file(os.environ)
    known = {} if url and key else read(file)
    if not quiet and not key and "key" in known and file.stat().st_mode & FOR_OTHERS:
        click.echo(f"warning: {file} gives access to a key and other users can read it; chmod 600 {file}", err=True)
    if not url and "url" not in known:
        known = here() | known
    return Target(url=url or known.get("url") or DEFAULT_URL, key=key or known.get("key", ""))


def here() -> dict[str, str]:
    """``url`` and ``key`` of the daemon of this machine, as far as this user may read them.

    Reads only the four keys that it needs: loading the whole configuration takes too long for a completion.
    """
    path = installed()
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        click.echo(f"warning: {path} cannot be read: {error}", err=True)
        return {}

    def value(section: str, key: str, default: Any) -> Any:
        table = tables.get(section)
        in_file = table.get(key, default) if isinstance(table, dict) else default
        return os.environ.get(f"STACKD_{section.upper()}__{key.upper()}") or in_file

    key = key_of(str(value("auth", "key_file", "")), path)
    host, port = str(value("server", "host", "127.0.0.1")), value("server", "port", 8081)
    url = url_of(host, port, secure=bool(value("server", "tls_cert", "")))
    return {"url": url} | ({"key": key} if key else {})


def url_of(host: str, port: object, *, secure: bool) -> str:
    """The address at which a daemon that listens there is reached from here."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host
    else:
        if address.is_unspecified:
            name = "127.0.0.1" if address.version == 4 else "[::1]"
        else:
            name = str(address) if address.version == 4 else f"[{address}]"
    return f"{'https' if secure else 'http'}://{name}:{port}"


def key_of(key_file: str, config_path: Path | None) -> str:
    """The first key in ``key_file``, or else in ``api-key`` beside the configuration; empty if none can be read.

    A line that begins with ``#`` is no key: it is a comment, or the unit's value for no key.
    """
    named = Path(key_file).expanduser() if key_file else None
    beside = config_path.with_name("api-key") if config_path is not None else None
    for file in (named, beside):
        try:
            lines = file.read_text(encoding="utf-8").splitlines() if file is not None else []
        except (OSError, UnicodeDecodeError):
            continue
        if keys := [line.strip() for line in lines if line.strip() and not line.startswith("#")]:
            return keys[0]
    return ""


def client_file(environment: Mapping[str, str]) -> Path:
    """``client.toml`` in the user's configuration folder."""
    folder = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME") or "/") / ".config"
    return Path(folder) / "stackd" / "client.toml"


def read(path: Path) -> dict[str, str]:
    """``url`` and ``key`` from the file; empty if there is no file."""
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
