"""The API keys that are accepted, from wherever they are configured.

Owns the four places: ``[[auth.keys]]``, ``STACKD_AUTH__KEY``, ``auth.key_file`` and the systemd credential ``api-key``.
A key's text is hashed as soon as it is read, and never repeated in a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stackd.config.credentials import credential
from stackd.config.environ import KEY_VARIABLE
from stackd.config.sections import AuthSection
from stackd.keys import ApiKey, digest

CREDENTIAL: Final = "api-key"
_LARGEST_FILE: Final = 64 << 10
_SHORT: Final = 16
_ONE_A_LINE: Final = "a file with one key a line is expected"
_UNSENDABLE: Final = "{} holds a key that no header can carry; letters and digits are expected"
_OPEN_TO_ALL: Final = (
    "the file of auth.key_file can be read by every user of this machine; chmod 600 keeps it to its owner"
)
HOW_TO_SET_ONE: Final = (
    "no API key is configured, and auth.enabled is true; `stackd key new` prints one and its SHA-256: set it as "
    f"{KEY_VARIABLE}, in auth.key_file, as the systemd credential {CREDENTIAL} (/etc/stackd/api-key), "
    "or its SHA-256 in [[auth.keys]]"
)


@dataclass(slots=True, kw_only=True)
class Keyring:
    """The keys gathered so far, with the places they came from and what was wrong (key of [auth], sentence)."""

    keys: list[ApiKey]
    origins: list[str] = field(default_factory=list)
    mistakes: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, name: str, origin: str, texts: list[str]) -> None:
        """Accept the keys of one place, as admin keys that are called after it."""
        self.origins.append(origin)
        if not texts:
            self.mistakes.append(("keys", f"{origin} holds no key; {_ONE_A_LINE}"))
        for number, text in enumerate(texts, 1):
            if not text.isascii() or not text.isprintable() or " " in text:
                self.mistakes.append(("keys", _UNSENDABLE.format(origin)))
                continue
            if len(text) < _SHORT:
                self.warnings.append(f"the key of {origin} is shorter than {_SHORT} characters and may be guessed")
            unique = name if number == 1 else f"{name}-{number}"
            self.keys.append(ApiKey(name=unique, sha256=digest(text), scope="admin"))


def gather(auth: AuthSection, environ: Mapping[str, str], credentials: Path | None, *, required: bool) -> Keyring:
    """All configured keys, each hash once; none at all is a mistake where one is ``required``."""
    ring = Keyring(keys=list(auth.keys))
    if KEY_VARIABLE in environ:
        text = environ[KEY_VARIABLE].strip()
        ring.add("environment", f"environment {KEY_VARIABLE}", [text] if text else [])
    if auth.key_file:
        _add_file(ring, "key-file", "key_file", Path(auth.key_file), "the key file")
    if (file := credential(credentials, CREDENTIAL)) is not None:
        _add_file(ring, "credential", "keys", file, f"credential {CREDENTIAL}")
    _check(ring)
    if required and auth.enabled and not ring.keys and not ring.mistakes:
        ring.mistakes.append(("keys", HOW_TO_SET_ONE))
    return ring


def _add_file(ring: Keyring, name: str, key: str, path: Path, origin: str) -> None:
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE).decode()
    except OSError as error:
        ring.mistakes.append((key, f"{origin} cannot be read: {error.strerror}; {_ONE_A_LINE}"))
        return
    except UnicodeDecodeError:
        ring.mistakes.append((key, f"{origin} is not text; {_ONE_A_LINE}"))
        return
    if mode & 0o007 and key == "key_file":
        ring.warnings.append(_OPEN_TO_ALL)
    lines = [line.strip() for line in text.splitlines()]
    ring.add(name, origin, [line for line in lines if line and not line.startswith("#")])


def _check(ring: Keyring) -> None:
    """Refuse names and hashes that stand for two different keys; drop exact repetitions."""
    by_hash: dict[bytes, ApiKey] = {}
    names: set[str] = set()
    for key in ring.keys:
        known = by_hash.get(key.sha256)
        if known is not None and known.scope != key.scope:
            ring.mistakes.append(("keys", f'"{known.name}" and "{key.name}" are one key with two scopes'))
        if known is not None:
            continue
        if key.name in names:
            ring.mistakes.append(("keys", f'two keys are named "{key.name}"; each key needs a name of its own'))
        by_hash[key.sha256] = key
        names.add(key.name)
    ring.keys = list(by_hash.values())
