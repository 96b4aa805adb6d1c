"""From a file, the environment and credentials to one ``Config``, or to all the mistakes at once.

Later places win: default, file, environment; credentials fill what is left empty.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from stackd.config import checks, environ, keyring, kubeconfig, tomlfile, wording
from stackd.config.sections import AuthSection, Config
from stackd.config.tomlfile import KeyPath, TomlFile
from stackd.errors import ConfigError

DEFAULT: Final = "default"
_IN_NO_FILE: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration that can be run.

    ``origins``   for each ``section.key``: ``default``, ``FILE:LINE``, ``environment NAME`` or ``credential NAME``
    ``warnings``  sentences worth logging at every start
    """

    config: Config
    origins: Mapping[str, str]
    warnings: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Draft:
    """What has been gathered so far."""

    file: TomlFile | None
    raw: dict[str, dict[str, Any]] = field(default_factory=lambda: {name: {} for name in wording.sections()})
    origins: dict[str, str] = field(default_factory=dict)
    mistakes: list[tuple[int, str]] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)

    def mistake(self, path: KeyPath, text: str) -> None:
        """Note what is wrong with a key, where it was set."""
        key = ".".join(str(part) for part in path[:2])
        self.bad.add(key)
        origin = self.origins.get(key, DEFAULT)
        line = self.file.line(path) if self.file else None
        if origin.startswith("environment "):
            place, line = origin, None
        else:
            place = self.file.place(path) if self.file else "configuration"
        self.mistakes.append((line or _IN_NO_FILE, f"{place}: {wording.name(path)}: {text}"))


def load(path: Path | None, environment: Mapping[str, str], credentials_dir: Path | None = None) -> Loaded:
    """Read the configuration; ConfigError with all mistakes, in the order of the file, where there are any.

    Without ``path`` there is no file; without ``credentials_dir``, systemd's ``$CREDENTIALS_DIRECTORY`` is used if set.
    """
    unreadable: list[str] = []
    try:
        draft = _Draft(file=tomlfile.read(path) if path is not None else None)
    except ConfigError as error:
        draft, unreadable = _Draft(file=None), error.mistakes
    _take_file(draft)
    _take_environment(draft, environment)
    config = _validated(draft, environment.get("HOME", ""))
    if unreadable:
        raise ConfigError(unreadable + _in_order(draft.mistakes))
    if credentials_dir is None and environment.get("CREDENTIALS_DIRECTORY"):
        credentials_dir = Path(environment["CREDENTIALS_DIRECTORY"])
    config, warnings = _completed(draft, config, environment, credentials_dir)
    _check(draft, config)
    if draft.mistakes:
        raise ConfigError(_in_order(draft.mistakes))
    return Loaded(config=config, origins=_all_origins(draft.origins), warnings=(*checks.warnings(config), *warnings))


def _in_order(found: list[tuple[int, str]]) -> list[str]:
    return [text for _, text in sorted(found, key=lambda entry: entry[0])]


def _all_origins(known: Mapping[str, str]) -> dict[str, str]:
    keys = [f"{section}.{key}" for section, model in wording.sections().items() for key in model.model_fields]
    return {key: known.get(key, DEFAULT) for key in keys}


def _take_file(draft: _Draft) -> None:
    if draft.file is None:
        return
    models = wording.sections()
    for section, table in draft.file.data.items():
        if section not in models:
            place, line = draft.file.place((section,)), draft.file.line((section,))
            shown = f"[{section}]" if isinstance(table, dict) else section
            draft.mistakes.append((line or 1, f"{place}: {shown}: {wording.unknown_section(section)}"))
        elif not isinstance(table, dict):
            draft.mistake((section,), f"this is not a section; [{section}] on a line of its own is expected")
        else:
            _take_table(draft, draft.file, section, table)


def _take_table(draft: _Draft, file: TomlFile, section: str, table: Mapping[str, Any]) -> None:
    known = wording.sections()[section].model_fields
    for key, value in table.items():
        if key not in known:
            draft.mistake((section, key), wording.unknown_key(section, key))
            continue
        draft.raw[section][key] = value
        draft.origins[f"{section}.{key}"] = file.place((section, key))


def _take_environment(draft: _Draft, environment: Mapping[str, str]) -> None:
    fields = {
        environ.variable(section, key): (section, key, info)
        for section, model in wording.sections().items()
        for key, info in model.model_fields.items()
    }
    for name in sorted(filter(environ.is_ours, environment)):
        if name not in fields:
            suggestion = wording.did_you_mean(name, [*fields, environ.KEY_VARIABLE])
            draft.mistakes.append((_IN_NO_FILE, f"environment {name}: there is no such key{suggestion}"))
            continue
        section, key, info = fields[name]
        draft.raw[section][key] = environ.value_of(environment[name], info)
        draft.origins[f"{section}.{key}"] = f"environment {name}"


def _validated(draft: _Draft, home: str) -> Config:
    """The configuration without the keys that are wrong, which are noted."""
    parts: dict[str, Any] = {}
    for section, model in wording.sections().items():
        given = draft.raw[section].items()
        raw = {key: _at_home(value, home) if _is_path(model, key) else value for key, value in given}
        try:
            parts[section] = model.model_validate(raw, context={})
        except ValidationError as error:
            findings = error.errors(include_url=False)
            for finding in findings:
                where = tuple(part for part in finding["loc"] if part != "[key]")
                draft.mistake((section, *where), wording.explain(model, finding))
            wrong = {finding["loc"][0] for finding in findings}
            parts[section] = model.model_validate({k: v for k, v in raw.items() if k not in wrong}, context={})
    return Config.model_construct(**parts)


def _is_path(model: type[BaseModel], key: str) -> bool:
    return wording.expectation(model.model_fields[key]).path


def _at_home(value: Any, home: str) -> Any:
    return os.path.join(home, value[2:]) if home and isinstance(value, str) and value.startswith("~/") else value


def _completed(
    draft: _Draft, config: Config, environment: Mapping[str, str], credentials: Path | None
) -> tuple[Config, list[str]]:
    """The configuration with its keys gathered and its cluster decided, and the warnings that came of it."""
    auth, warnings = _with_keys(draft, config.auth, environment, credentials)
    choice = kubeconfig.choose(config.cluster, environment, credentials)
    if draft.bad.isdisjoint(("cluster.mode", "cluster.kubeconfig")):
        if choice.mistake:
            draft.mistake(("cluster", "kubeconfig"), choice.mistake)
        if choice.origin:
            draft.origins["cluster.mode"] = draft.origins["cluster.kubeconfig"] = choice.origin
        if choice.cluster.mode == "auto":
            warnings.append(kubeconfig.NO_CLUSTER)
    return config.model_copy(update={"auth": auth, "cluster": choice.cluster}), warnings


def _with_keys(
    draft: _Draft, auth: AuthSection, environment: Mapping[str, str], credentials: Path | None
) -> tuple[AuthSection, list[str]]:
    """The section with the keys of all places; their mistakes are noted, their warnings returned."""
    required = not any(key.startswith("auth.") for key in draft.bad)
    ring = keyring.gather(auth, environment, credentials, required=required)
    for key, text in ring.mistakes:
        draft.mistake(("auth", key), text)
    places = [draft.origins["auth.keys"]] if "auth.keys" in draft.origins else []
    if places or ring.origins:
        draft.origins["auth.keys"] = ", ".join([*places, *ring.origins])
    return auth.model_copy(update={"keys": tuple(ring.keys)}), ring.warnings


def _check(draft: _Draft, config: Config) -> None:
    """Apply the rules that join several keys, to those that are right in themselves."""
    for keys, text in checks.mistakes(config):
        if not draft.bad.isdisjoint(keys):
            continue
        blamed = next((key for key in keys if key in draft.origins), keys[0])
        draft.mistake(tuple(blamed.split(".")), text)
