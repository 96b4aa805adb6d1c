"""The daemon's credentials: systemd's credentials, the API keys by which it recognizes callers, and the kubeconfig.

Owns the word for "none": a unit that makes a credential optional (``LoadCredential=`` with ``SetCredential=`` as the
fallback) has to give the fallback some text, and stackd's unit gives it ``UNSET``. Owns the four places of API keys:
``[[auth.keys]]``, ``STACKD_AUTH__KEY``, ``auth.key_file`` and the systemd credential ``api-key``. A key's text is
hashed as soon as it is read, and never repeated in a mistake. Owns the places of the kubeconfig, and so resolves
``mode = "auto"``; ``kube`` reads the content of a kubeconfig.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stackd.config.sections import AuthSection, ClusterSection, Config
from stackd.config.sources import KEY_VARIABLE
from stackd.errors import ConfigError
from stackd.files import ONE_A_LINE, read_keys, usable
from stackd.keys import SHORTEST, ApiKey, digest

UNSET: Final = b"#unset"
STAMP: Final = "handed-over"
"""The file that is written last in each hand-over."""

_RUN: Final = Path("/run/stackd")


def handed_over(environ: Mapping[str, str]) -> Path | None:
    """The folder with what systemd hands over to this run of the service; None outside systemd."""
    invocation = environ.get("INVOCATION_ID", "")
    return _RUN / invocation if invocation.isalnum() else None


def current(path: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The file in force for a credential: the one handed over since the start, if there is one.

    The configuration keeps the original path, so that a hand-over changes no setting.
    """
    folder = handed_over(environ)
    if folder is None or str(path.parent) != environ.get("CREDENTIALS_DIRECTORY"):
        return path
    later = folder / path.name
    return later if os.access(later, os.R_OK) else path


def credential(folder: Path | None, name: str) -> Path | None:
    """The path of that credential, readable or not; None if it is not set."""
    if folder is None or not (folder / name).exists():
        return None
    try:
        with current(folder / name).open("rb") as file:
            is_set = file.read(len(UNSET) + 2).strip() != UNSET
    except OSError:
        is_set = True
    return folder / name if is_set else None


API_KEY: Final = "api-key"
_SHORT: Final = (
    "{} holds a key of fewer than "
    f"{SHORTEST} characters, which can be guessed; `stackd key new` prints one that cannot"
)
_OPEN_TO_ALL: Final = (
    "the file of auth.key_file can be read by every user of this machine; chmod 600 keeps it to its owner"
)
HOW_TO_SET_ONE: Final = (
    "no API key is configured, and auth.enabled is true; `stackd key new` prints one and its SHA-256: set it as "
    f"{KEY_VARIABLE}, in auth.key_file, as the systemd credential {API_KEY} (/etc/stackd/api-key), "
    "or its SHA-256 in [[auth.keys]]"
)


@dataclass(slots=True, kw_only=True)
class Keyring:
    """The keys gathered so far, with the places they came from and what was wrong (key of [auth], sentence)."""

    keys: list[ApiKey]
    origins: list[str] = field(default_factory=list)
    mistakes: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, name: str, key: str, origin: str, read: Callable[[], list[str]]) -> None:
        """Add the keys of one place, as admin keys named after it; ``key`` of [auth] is blamed if they cannot be read."""
        self.origins.append(origin)
        try:
            texts = read()
        except OSError as error:
            self.mistakes.append((key, f"{origin} cannot be read: {error.strerror}; {ONE_A_LINE}"))
        except ValueError as error:
            self.mistakes.append((key, f"{origin} {error}"))
        else:
            for number, text in enumerate(texts, 1):
                if len(text) < SHORTEST:
                    self.mistakes.append(("keys", _SHORT.format(origin)))
                else:
                    unique = name if number == 1 else f"{name}-{number}"
                    self.keys.append(ApiKey(name=unique, sha256=digest(text), scope="admin"))


def gather_keys(auth: AuthSection, environ: Mapping[str, str], credentials: Path | None, *, required: bool) -> Keyring:
    """All configured keys, each hash once; it is a mistake if there are none and one is ``required``."""
    ring = Keyring(keys=list(auth.keys))
    if KEY_VARIABLE in environ:
        text = environ[KEY_VARIABLE].strip()
        ring.add("environment", "keys", f"environment {KEY_VARIABLE}", lambda: usable([text]))
    if auth.key_file:
        path = Path(auth.key_file)
        ring.add("key-file", "key_file", "the key file", lambda: read_keys(current(path)))
        with suppress(OSError):
            if path.stat().st_mode & 0o007:
                ring.warnings.append(_OPEN_TO_ALL)
    if (file := credential(credentials, API_KEY)) is not None:
        ring.add("credential", "keys", f"credential {API_KEY}", lambda: read_keys(current(file)))
    _check_keys(ring)
    if required and auth.enabled and not ring.keys and not ring.mistakes:
        ring.mistakes.append(("keys", HOW_TO_SET_ONE))
    return ring


def _check_keys(ring: Keyring) -> None:
    """Report names and hashes that are used for two different keys; drop exact repetitions."""
    by_hash: dict[bytes, ApiKey] = {}
    names: set[str] = set()
    for key in ring.keys:
        first = by_hash.setdefault(key.sha256, key)
        if first is key:
            if key.name in names:
                ring.mistakes.append(("keys", f'two keys are named "{key.name}"; each key needs a name of its own'))
            names.add(key.name)
        elif first.scope != key.scope:
            ring.mistakes.append(("keys", f'"{first.name}" and "{key.name}" are one key with two scopes'))
        elif (first.labels, first.templates) != (key.labels, key.templates):
            text = f'"{first.name}" and "{key.name}" are one key with different labels or templates'
            ring.mistakes.append(("keys", text))
    ring.keys = list(by_hash.values())


KUBECONFIG: Final = "kubeconfig"
NO_CLUSTER: Final = (
    f"no cluster is configured; set cluster.kubeconfig, $KUBECONFIG or the systemd credential {KUBECONFIG} "
    '(/etc/stackd/kubeconfig), or cluster.mode to "in-cluster" or "embedded"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The section with its cluster decided, and where the decision came from; ``mistake`` if none is possible."""

    cluster: ClusterSection
    origin: str = ""
    mistake: str = ""


def choose_cluster(cluster: ClusterSection, environ: Mapping[str, str], credentials: Path | None) -> Choice:
    """Decide which cluster is meant. In mode auto without a cluster the section stays as it is."""
    if cluster.mode not in ("auto", "kubeconfig"):
        return Choice(cluster=cluster)
    home = os.path.join(environ["HOME"], ".kube", "config") if environ.get("HOME") else ""
    if cluster.kubeconfig:
        path, origin = cluster.kubeconfig, ""
        if not _readable(path):
            return Choice(cluster=cluster, mistake="the file is missing or cannot be read; a kubeconfig is expected")
    elif (file := credential(credentials, KUBECONFIG)) is not None:
        path, origin = str(file), f"credential {KUBECONFIG}"
    elif cluster.mode == "auto" and environ.get("KUBERNETES_SERVICE_HOST"):
        in_pod = cluster.model_copy(update={"mode": "in-cluster"})
        return Choice(cluster=in_pod, origin="environment KUBERNETES_SERVICE_HOST")
    elif _readable(environ.get("KUBECONFIG", "")):
        path, origin = environ["KUBECONFIG"], "environment KUBECONFIG"
    elif _readable(home):
        path, origin = home, "~/.kube/config"
    else:
        return Choice(cluster=cluster, mistake=NO_CLUSTER if cluster.mode == "kubeconfig" else "")
    return Choice(cluster=cluster.model_copy(update={"mode": "kubeconfig", "kubeconfig": path}), origin=origin)


def require_cluster(config: Config) -> None:
    """Raise ConfigError unless the cluster is decided; for commands that talk to one."""
    if config.cluster.mode not in ("kubeconfig", "in-cluster"):
        raise ConfigError([f"[cluster] kubeconfig: {NO_CLUSTER}"])


def _readable(paths: str) -> bool:
    """Whether one of these files, separated as in $KUBECONFIG, can be read."""
    return any(os.path.isfile(path) and os.access(path, os.R_OK) for path in paths.split(os.pathsep) if path)
