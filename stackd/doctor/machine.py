"""Check this machine: who can read and write the files, and whether the certificate can be used."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from stackd.clock import DAY_SECONDS, utc_minute
from stackd.config import Config, LoadedConfig
from stackd.config.credentials import API_KEY, PLAY_SECRET, credential
from stackd.doctor import Finding, fail, ok, warn
from stackd.errors import ConfigError
from stackd.kube.credentials import token_file_of
from stackd.templates import read_templates
from stackd.upkeep.backup import left_at
from stackd.upkeep.tls import Certificate, timeliness

# Bytes. A state of 2,000 stacks and its log take less than 100 MiB.
DISK_WARN, DISK_FAIL = 512 << 20, 32 << 20
OTHERS_READ = 0o004
OTHERS_WRITE = 0o002
AS_USER = "run the doctor as the daemon's user"


def examine(loaded: LoadedConfig, config_path: Path | None, *, installed: bool = False) -> Iterator[Finding]:
    """The warnings of the configuration, the templates, the files, the backups and the certificate."""
    config = loaded.config
    for warning in loaded.warnings:
        yield warn("configuration", warning)
    if not loaded.warnings:
        yield ok("configuration", "it is valid")
    try:
        if templates := read_templates(config):
            yield ok("templates", f"{', '.join(templates)}: all valid")
    except ConfigError as error:
        for mistake in error.mistakes:
            yield fail("templates", mistake, "fix it, then: stackd reload")
    files = [*_files(config, config_path)]
    yield from files or [ok("files", "nobody else can read the keys and the state, or write the configuration")]
    yield from _disk(Path(config.state.path))
    yield from _backups(config, installed=installed)
    yield from _certificate(config)


def _files(config: Config, config_path: Path | None) -> Iterator[Finding]:
    """The files that every user can read, or write, and that this user cannot look at."""
    state, kubeconfig = Path(config.state.path), config.cluster.kubeconfig
    token = Path(token_file_of(config.state.path))
    secret, beside = OTHERS_READ | OTHERS_WRITE, None if config_path is None else config_path.parent
    for path, what, forbidden in (
        (beside and credential(beside, API_KEY), "the API key", secret),
        (beside and credential(beside, PLAY_SECRET), "the secret of players' links", secret),
        (config.auth.key_file, "the key file", secret),
        (config.server.tls_key, "the private key of the certificate", secret),
        (kubeconfig if os.pathsep not in kubeconfig else "", "the kubeconfig", secret),
        (token if token.exists() else None, "the renewed token for the cluster", secret),
        (state if state.exists() else None, "the state", secret),
        (config_path, "the configuration", OTHERS_WRITE),
    ):
        if not path:
            continue
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)
        except OSError as error:
            yield warn("files", f"{what}, {path}: {error.strerror}", AS_USER)
            continue
        if mode & forbidden:
            may = "write" if mode & OTHERS_WRITE else "read"
            yield fail("files", f"{what}, {path}, has mode {mode:04o}: every user can {may} it", f"chmod o-rwx {path}")
    if not state.exists() and not os.access(state.parent, os.W_OK):
        yield warn("files", f"{state.parent} cannot be written by this user", AS_USER)


def _disk(state: Path) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(state.parent).free
    except OSError:
        return
    text = f"{free / (1 << 30):.1f} GiB are free in {state.parent}"
    if free >= DISK_WARN:
        yield ok("disk", text)
    else:
        say = warn if free >= DISK_FAIL else fail
        yield say("disk", f"{text}; on a full disk, nothing is created", "make room there")


def _backups(config: Config, *, installed: bool) -> Iterator[Finding]:
    """Whether one has left this machine within a day; without a command only the operator of a service should know."""
    about, left = "backups", left_at(config.state.path)
    if not config.backup.command:
        if installed:
            kept = (
                "no backup leaves this machine: its loss would take the timelines, the list of links and the activity"
            )
            yield warn(about, kept, "set backup.command, then: systemctl enable --now stackd-backup.timer")
    elif not left:
        text = "backup.command is set, but no backup has left this machine"
        yield warn(about, text, "systemctl enable --now stackd-backup.timer; systemctl start stackd-backup")
    elif time.time() - left > DAY_SECONDS:
        text = f"the last backup that left this machine did so on {utc_minute(left)}"
        yield warn(about, text, "systemctl status stackd-backup says why, and whether the timer is enabled")
    else:
        yield ok(about, f"the last one left this machine on {utc_minute(left)}")


def _certificate(config: Config) -> Iterator[Finding]:
    if not config.server.tls_cert:
        return
    try:
        Certificate.of(config)
    except ConfigError as error:
        advice = "put a PEM certificate chain and its unencrypted key into the files, which the service's user can read"
        yield fail("certificate", str(error), f"{advice}; a running daemon takes them by itself")
        return
    wrong, unusable = timeliness(Path(config.server.tls_cert), time.time())
    if not wrong:
        yield ok("certificate", "it is valid, and does not expire soon")
    else:
        advice = "put a new certificate and its key into the files; the daemon takes them by itself"
        yield (fail if unusable else warn)("certificate", wrong, advice)
