"""Which daemon a client is for, and its key: from options, the environment, the user's file, or this machine.

Owns: ``client.toml``, the order of these sources, and what an interrupted command says about work that continues.
"""

from __future__ import annotations

import functools
import os
import ssl
import stat
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from stackd.cli import INTERRUPTED
from stackd.cli.installed import installed
from stackd.client import ApiError, Client, ClientError, KeyRefused, Retries
from stackd.doctor.running import LocalDaemon
from stackd.files import read_keys
from stackd.names import is_loopback
from stackd.printable import printable

if TYPE_CHECKING:
    from stackd.config import Config

FILE_KEYS = ("url", "key", "key_file", "ca_file")
COMPLETION_SECONDS = 1.5
FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
FILE = click.Path(path_type=Path, dir_okay=False)


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--url``, ``--key-file`` and ``--ca-file``; pass it a ``client``.

    The key itself is no option: every user of the machine can read a command line.
    """

    @click.option("--url", envvar="STACKD_URL",
                  help="The daemon's address; or STACKD_URL, or url in client.toml.  [this machine's daemon]")  # fmt: skip
    @click.option(
        "--key-file", type=FILE, metavar="FILE",
        help="File with the API key; or STACKD_API_KEY, or key or key_file in client.toml.",
    )  # fmt: skip
    @click.option(
        "--ca-file", type=FILE, envvar="STACKD_CA_FILE", metavar="FILE",
        help="The authority of the daemon's certificate (PEM); or STACKD_CA_FILE, or ca_file in client.toml."
        "  [the system's authorities]",
    )  # fmt: skip
    @functools.wraps(command)
    def with_client(*args: Any, url: str | None, key_file: Path | None, ca_file: Path | None, **kwargs: Any) -> Any:
        with client_for(url, key_file, ca_file) as client, _sentences(client):
            return command(*args, client=client, **kwargs)

    return with_client


@contextmanager
def _sentences(client: Client) -> Iterator[None]:
    """Turn errors of the client into errors of the command line; for a missing key, say how to give one."""
    try:
        yield
    except ClientError as error:
        if isinstance(error, KeyRefused) and not client.has_key:
            raise click.ClickException(no_key(client.url)) from error
        lines = _lines(error) if isinstance(error, ApiError) else [str(error)]
        raise click.ClickException("\n".join(map(printable, lines))) from error


def _lines(error: ApiError) -> list[str]:
    """The sentence of an error; reasons against a pod spec with their lines in its text, each on a line of its own."""
    reasons = [one for one in error.reasons if isinstance(one, dict)]
    texts = [f"{one['path']}: {one['text']}" if one["path"] else one["text"] for one in reasons]
    if len(texts) < 2 and not any(one["line"] for one in reasons):
        return [str(error)]
    sentence = error.args[0]
    head = sentence[: max(0, min(map(sentence.find, texts)))].rstrip(": ")
    places = [f"line {one['line']}: " if one["line"] else "" for one in reasons]
    return [
        f"{head or 'the request is wrong'} ({error.status})",
        *(f"  {place}{text}" for place, text in zip(places, texts, strict=True)),
    ]


@contextmanager
def interruptible(continues: str) -> Iterator[None]:
    """On Ctrl-C, say what continues without the command, and exit with code 130."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; {continues}", err=True)
        sys.exit(INTERRUPTED)


def client_for(
    url: str | None, key_file: Path | None, ca_file: Path | str | None = None, *, completing: bool = False
) -> Client:
    """The client for these options; what is missing comes from the environment, the file or this machine's daemon.

    ``completing``: one short attempt, and no warning about the permissions of ``client.toml``. Raises UsageError for a
    wrong file or address.
    """
    key = _key(key_file) if key_file is not None else os.environ.get("STACKD_API_KEY", "").strip()
    file = client_file()
    in_file = {} if url and key else read(file)
    if not completing and not key and "key" in in_file and file.stat().st_mode & FOR_OTHERS:
        click.echo(f"warning: {file} gives access to a key and other users can read it; chmod 600 {file}", err=True)
    address = url or in_file.get("url", "")
    if not key and not _is_for_another(in_file, address):
        key = in_file.get("key", "")
    checks: dict[str, Any] = {}
    if not address:
        at = _here()
        address, key, checks = at.url, key or at.key, {"ssl_context": at.tls, "check_peer": at.require_own}
    elif authority := ca_file or in_file.get("ca_file"):
        checks = {"ssl_context": _trusting(Path(authority).expanduser())}
    retries = Retries(times=0) if completing else Retries(times=2, busy=False)
    try:
        return Client(address, key, retries=retries, timeout=COMPLETION_SECONDS if completing else None, **checks)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _is_for_another(in_file: Mapping[str, str], address: str) -> bool:
    """Whether the key in ``client.toml`` is for another daemon than the one at this address."""
    if not address:
        return False
    if "url" in in_file:
        return _origin(in_file["url"]) != _origin(address)
    return not is_loopback(urlsplit(address).hostname or "")


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(address)
    with suppress(ValueError):
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, None


def no_key(url: str) -> str:
    """The sentence for a missing key, and how to give one."""
    file = client_file()
    ways = f"set STACKD_API_KEY, name a file that holds it with --key-file, or put key or key_file into {file}"
    if (in_file := read(file)).get("key") and _is_for_another(in_file, url):
        return f"the key in {file} is for {in_file.get('url', 'this machine')}, and was not sent to {url}; {ways}"
    return f"no API key was given; {ways}"


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise click.UsageError(f"{ca_file} cannot be used as --ca-file: {error.strerror or error}") from error


def _here() -> LocalDaemon:
    """The daemon of this machine, as far as this user may read its configuration.

    Reads only the keys that it needs: loading the whole configuration takes too long for a completion.
    """
    path = installed()
    tables: dict[str, Any] = {}
    try:
        tables = tomllib.loads(path.read_text()) if path is not None else {}
    except (OSError, ValueError) as error:
        click.echo(f"warning: {path} cannot be read: {error}", err=True)

    def value(section: str, key: str) -> Any:
        table = tables.get(section)
        in_file = table.get(key) if isinstance(table, dict) else None
        return (path and os.environ.get(f"STACKD_{section.upper()}__{key.upper()}")) or in_file

    return _daemon(value, path)


def local_daemon(config: Config, config_path: Path | None) -> LocalDaemon:
    """The daemon of this machine that has that configuration."""
    return _daemon(lambda section, key: getattr(getattr(config, section), key), config_path)


def _daemon(value: Callable[[str, str], Any], config_path: Path | None) -> LocalDaemon:
    """With the first key of ``auth.key_file``, or else of ``api-key`` beside the configuration, if one can be read."""
    port, key_file, key = str(value("server", "port")), str(value("auth", "key_file") or ""), ""
    files = [Path(key_file).expanduser()] if key_file else []
    for file in [*files, *([config_path.with_name("api-key")] if config_path is not None else [])]:
        with suppress(OSError, ValueError):
            key = key or read_keys(file)[0][1]
    return LocalDaemon(
        host=str(value("server", "host") or "127.0.0.1"),
        port=int(port) if port.isdecimal() else 8081,
        key=key,
        secure=bool(value("server", "tls_cert")),
        state=str(value("state", "path") or ""),
    )


def client_file() -> Path:
    """``client.toml`` in the user's configuration folder."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path(os.environ.get("HOME") or "/") / ".config"
    return Path(folder) / "stackd" / "client.toml"


def read(path: Path) -> dict[str, str]:
    """The values of the file, with ``key`` from ``key_file``; empty if there is no file. Raises UsageError."""
    try:
        values = tomllib.loads(path.read_text())
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
        values.setdefault("key", _key(Path(values["key_file"]).expanduser()))
    return values


def _key(path: Path) -> str:
    try:
        return read_keys(path)[0][1]
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise click.UsageError(f"{path} {error}") from error
