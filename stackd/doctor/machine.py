"""Check this machine: who can read and write the files, and whether the certificate can be used."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from stackd.config import Config, LoadedConfig
from stackd.config.credentials import API_KEY, credential
from stackd.doctor import Finding, fail, ok, warn
from stackd.errors import ConfigError
from stackd.kube.credentials import token_file_of
from stackd.templates import read_templates
from stackd.upkeep.tls import Certificate, timeliness

FILES = "files"
TEMPLATES = "templates"
CERTIFICATE = "certificate"
DISK = "disk"
DISK_WARN, DISK_FAIL = 512 << 20, 32 << 20
"""Bytes. A state of 2,000 stacks and its log take less than 100 MiB."""

OTHERS_READ = 0o004
OTHERS_WRITE = 0o002


def examine(loaded: LoadedConfig, config_path: Path | None) -> Iterator[Finding]:
    """The warnings of the configuration, the templates, the files and the certificate."""
    for warning in loaded.warnings:
        yield warn("configuration", warning)
    if not loaded.warnings:
        yield ok("configuration", "it is valid")
    yield from _templates(loaded.config)
    yield from _files(loaded.config, config_path)
    yield from _disk(Path(loaded.config.state.path))
    yield from _certificate(loaded.config)


def _templates(config: Config) -> Iterator[Finding]:
    try:
        templates = read_templates(config)
    except ConfigError as error:
        for mistake in error.mistakes:
            yield fail(TEMPLATES, mistake, "fix it, then: stackd reload")
    else:
        if templates:
            yield ok(TEMPLATES, f"{', '.join(templates)}: all valid")


def _files(config: Config, config_path: Path | None) -> Iterator[Finding]:
    found = [*_secrets(config, config_path), *_state(Path(config.state.path))]
    if config_path is not None:
        found += _judged(config_path, "the configuration", OTHERS_WRITE)
    yield from found
    if not found:
        yield ok(FILES, "nobody else can read the keys and the state, or write the configuration")


def _secrets(config: Config, config_path: Path | None) -> Iterator[Finding]:
    beside = credential(config_path.parent, API_KEY) if config_path is not None else None
    held = (
        (str(beside or ""), "the API key"),
        (config.auth.key_file, "the key file"),
        (config.server.tls_key, "the private key of the certificate"),
        (config.cluster.kubeconfig if os.pathsep not in config.cluster.kubeconfig else "", "the kubeconfig"),
    )
    for path, what in held:
        if path:
            yield from _judged(Path(path), what, OTHERS_READ | OTHERS_WRITE)


def _state(path: Path) -> Iterator[Finding]:
    token = Path(token_file_of(str(path)))
    if token.exists():
        yield from _judged(token, "the renewed token for the cluster", OTHERS_READ | OTHERS_WRITE)
    if path.exists():
        yield from _judged(path, "the state", OTHERS_READ | OTHERS_WRITE)
    elif not os.access(path.parent, os.W_OK):
        yield warn(FILES, f"{path.parent} cannot be written by this user", "run the doctor as the daemon's user")


def _disk(state: Path) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(state.parent).free
    except OSError:
        return
    text = f"{free / (1 << 30):.1f} GiB are free in {state.parent}"
    if free >= DISK_WARN:
        yield ok(DISK, text)
    else:
        say = warn if free >= DISK_FAIL else fail
        yield say(DISK, f"{text}; on a full disk, nothing is created", "make room there")


def _judged(path: Path, what: str, forbidden: int) -> Iterator[Finding]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        yield warn(FILES, f"{what}, {path}: {error.strerror}", "run the doctor as the daemon's user")
        return
    if mode & forbidden:
        may = "write" if mode & forbidden & OTHERS_WRITE else "read"
        yield fail(FILES, f"{what}, {path}, has mode {mode:04o}: every user can {may} it", f"chmod o-rwx {path}")


def _certificate(config: Config) -> Iterator[Finding]:
    if not config.server.tls_cert:
        return
    try:
        Certificate.of(config)
    except ConfigError as error:
        yield fail(CERTIFICATE, str(error))
        return
    wrong, unusable = timeliness(Path(config.server.tls_cert), time.time())
    if not wrong:
        yield ok(CERTIFICATE, "it is valid, and does not expire soon")
    else:
        advice = "put a new certificate and its key into the files; the daemon takes them by itself"
        yield (fail if unusable else warn)(CERTIFICATE, wrong, advice)
