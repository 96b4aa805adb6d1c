"""The daemon's credentials: systemd's credentials, the API keys by which it recognizes callers, the secret that signs
links, and the kubeconfig.

Owns the word for "none": a unit that makes a credential optional (``LoadCredential=`` with ``SetCredential=`` as the
fallback) has to give the fallback some text, and stackd's unit gives it ``UNSET``. Owns the four places of API keys:
``[[auth.keys]]``, ``STACKD_AUTH__KEY``, ``auth.key_file`` and the systemd credential ``api-key``. A key's text is
hashed as soon as it is read, and never repeated in a mistake. Owns the places of the kubeconfig, and so resolves
``mode = "auto"``; ``kube`` reads the content of a kubeconfig.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import SecretStr, ValidationError

from stackd.config.sections import AuthSection, ClusterSection, Config, PlaySection
from stackd.config.sources import KEY_VARIABLE, Draft
from stackd.errors import ConfigError
from stackd.files import ONE_A_LINE, read_keys, usable
from stackd.keys import SHORTEST, ApiKey, digest, short_digest

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


def shown(path: Path, environ: Mapping[str, str] = os.environ) -> str:
    """The name of the file in a message. The path of a credential is that of one run; the operator knows another one."""
    if str(path.parent) != environ.get("CREDENTIALS_DIRECTORY"):
        return str(path)
    return f"credential {path.name} (/etc/stackd/{path.name})"


def credential(folder: Path | None, name: str) -> Path | None:
    """The path of that credential, readable or not; None if it is not set."""
    if folder is None or not (folder / name).exists():
        return None
    return None if is_unset(current(folder / name)) else folder / name


def is_unset(file: Path) -> bool:
    """Whether the file says that its credential is not set."""
    try:
        with file.open("rb") as opened:
            return opened.read(len(UNSET) + 2).strip() == UNSET
    except OSError:
        return False


API_KEY: Final = "api-key"
_SHORT: Final = (
    "{} holds a key of fewer than "
    f"{SHORTEST} characters, which can be guessed; `stackd key new` prints one that cannot"
)
_NAME: Final = "{} holds a name that no key can have; {} is expected, and none of stackd's own, before the colon"
HOW_TO_SET_ONE: Final = (
    "no API key is configured, and auth.enabled is true; `stackd key new` prints one and its SHA-256: set it as "
    f"{KEY_VARIABLE}, in auth.key_file, as the systemd credential {API_KEY} (/etc/stackd/api-key), "
    "or its SHA-256 in [[auth.keys]]"
)


def gather_keys(draft: Draft, auth: AuthSection) -> AuthSection:
    """The section with the keys of all places, each hash once. Notes mistakes: one is that no key is configured."""
    keys, origins = list(auth.keys), [draft.origins["auth.keys"]] if "auth.keys" in draft.origins else []
    for name, key, origin, read in _places(draft, auth):
        origins.append(origin)
        try:
            texts = read()
        except OSError as error:
            draft.mistake(("auth", key), f"{origin} cannot be read: {error.strerror}; {ONE_A_LINE}")
        except ValueError as error:
            draft.mistake(("auth", key), f"{origin} {error}")
        else:
            for own, text in texts:
                sha256 = digest(text)
                if len(text) < SHORTEST:
                    draft.mistake(("auth", "keys"), _SHORT.format(origin))
                try:
                    keys.append(ApiKey(name=own or f"{name}-{short_digest(sha256)}", sha256=sha256))
                except ValidationError:
                    draft.mistake(("auth", key), _NAME.format(origin, ApiKey.model_fields["name"].description))
    distinct: dict[bytes, ApiKey] = {}
    for one in keys:
        distinct.setdefault(one.sha256, one)
    for text in _conflicts(keys, distinct):
        draft.mistake(("auth", "keys"), text)
    if auth.enabled and not keys and not any(key.startswith("auth.") for key in draft.bad):
        draft.mistake(("auth", "keys"), HOW_TO_SET_ONE)
    if origins:
        draft.origins["auth.keys"] = ", ".join(origins)
    return auth.model_copy(update={"keys": tuple(distinct.values())})


def _places(draft: Draft, auth: AuthSection) -> Iterator[tuple[str, str, str, Callable[[], list[tuple[str, str]]]]]:
    """The places of admin keys: how those without a name are called, the key of [auth] to blame, the origin, their reader."""
    if (text := draft.environment.get(KEY_VARIABLE)) is not None:
        yield "environment", "keys", f"environment {KEY_VARIABLE}", lambda: usable([("environment", text.strip())])
    if auth.key_file:
        yield "key-file", "key_file", "the key file", lambda: read_keys(current(Path(auth.key_file)))
    if (file := credential(draft.credentials, API_KEY)) is not None:
        yield "credential", "keys", f"credential {API_KEY}", lambda: read_keys(current(file))


_RIGHTS: Final = ("scope", "labels", "templates", "templates_write", "pod_specs")


def _conflicts(keys: Sequence[ApiKey], distinct: Mapping[bytes, ApiKey]) -> Iterator[str]:
    """Names that are used for two keys, and keys that are allowed two different things; repetitions are none."""
    names: set[str] = set()
    for key in keys:
        first = distinct[key.sha256]
        if first is key:
            if key.name in names:
                yield f'two keys are named "{key.name}"; each key needs a name of its own'
            names.add(key.name)
        elif differing := [name for name in _RIGHTS if getattr(first, name) != getattr(key, name)]:
            yield f'"{first.name}" and "{key.name}" are one key, and differ in {" and ".join(differing)}'
    yield from _overlaps([key for key in distinct.values() if key.tenant])


def _overlaps(tenants: Sequence[ApiKey]) -> Iterator[str]:
    """For each tenant, the first before it that is another one and could have the same stacks."""
    for index, key in enumerate(tenants):
        for other in tenants[:index]:
            if other.labels != key.labels and not other.excludes(key):
                yield (
                    f'"{other.name}" and "{key.name}" are tenants that can create each other\'s stacks; '
                    "give both the same labels, or both a label with different values"
                )
                break


PLAY_SECRET: Final = "play-secret"


def read_play_secret(draft: Draft, play: PlaySection) -> PlaySection:
    """The section with the secret of the credential, unless it has one. Notes mistakes."""
    file = credential(draft.credentials, PLAY_SECRET)
    if draft.raw["play"].get("secret") and not draft.origins["play.secret"].startswith("environment "):
        draft.warnings.append(
            f"play.secret is in the configuration, which others may read; the credential {PLAY_SECRET} "
            f"(/etc/stackd/{PLAY_SECRET}) keeps it to root"
        )
    if file is None or play.secret.get_secret_value() or "play.secret" in draft.bad:
        return play
    origin = draft.origins["play.secret"] = f"credential {PLAY_SECRET}"
    try:
        texts = [text for _, text in read_keys(current(file))]
        return PlaySection(**{**dict(play), "secret": SecretStr("\n".join(texts))})
    except OSError as error:
        draft.mistake(("play", "secret"), f"{origin} cannot be read: {error.strerror}; {ONE_A_LINE}")
    except ValueError as error:  # pydantic's is one, too, and would quote its input
        what = "has a secret of fewer than 32 characters" if isinstance(error, ValidationError) else error
        draft.mistake(("play", "secret"), f"{origin} {what}")
    return play


KUBECONFIG: Final = "kubeconfig"
NO_CLUSTER: Final = (
    f"no cluster is configured; set cluster.kubeconfig, $KUBECONFIG or the systemd credential {KUBECONFIG} "
    '(/etc/stackd/kubeconfig), or cluster.mode to "in-cluster" or "embedded"'
)


def choose_cluster(draft: Draft, cluster: ClusterSection) -> ClusterSection:
    """The section with its cluster decided; in mode auto without a cluster it stays as it is, with a warning.

    Notes where the decision came from, or as a mistake that none is possible.
    """
    if cluster.mode not in ("auto", "kubeconfig") or not draft.bad.isdisjoint(("cluster.mode", "cluster.kubeconfig")):
        return cluster
    environ, mode, origin = draft.environment, "kubeconfig", ""
    home = os.path.join(environ["HOME"], ".kube", "config") if environ.get("HOME") else ""
    path = cluster.kubeconfig
    if path:
        if not _readable(path):
            wrong = "the file is missing or cannot be read; a kubeconfig is expected"
            draft.mistake(("cluster", "kubeconfig"), wrong)
    elif (file := credential(draft.credentials, KUBECONFIG)) is not None:
        path, origin = str(file), f"credential {KUBECONFIG}"
    elif cluster.mode == "auto" and environ.get("KUBERNETES_SERVICE_HOST"):
        mode, origin = "in-cluster", "environment KUBERNETES_SERVICE_HOST"
    elif _readable(environ.get("KUBECONFIG", "")):
        path, origin = environ["KUBECONFIG"], "environment KUBECONFIG"
    elif _readable(home):
        path, origin = home, "~/.kube/config"
    elif cluster.mode == "auto":
        draft.warnings.append(NO_CLUSTER)
        mode = "auto"
    else:
        draft.mistake(("cluster", "kubeconfig"), NO_CLUSTER)
    if origin:
        draft.origins["cluster.mode"] = draft.origins["cluster.kubeconfig"] = origin
    return cluster.model_copy(update={"mode": mode, "kubeconfig": path})


def require_cluster(config: Config) -> None:
    """Raise ConfigError unless the cluster is decided; for commands that talk to one."""
    if config.cluster.mode not in ("kubeconfig", "in-cluster"):
        raise ConfigError([f"[cluster] kubeconfig: {NO_CLUSTER}"])


def _readable(paths: str) -> bool:
    """Whether one of these files, separated as in $KUBECONFIG, can be read."""
    return any(os.path.isfile(path) and os.access(path, os.R_OK) for path in paths.split(os.pathsep) if path)
