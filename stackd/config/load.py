"""Loads a file, the environment and credentials into one ``Config``, or reports all mistakes at once.

Later places win: default, file, environment; credentials fill what is empty. Owns, too, the rules that join several
keys, or a key and the machine, and the sentences for mistakes: pydantic's findings and unknown names, with what would be
right. A value is repeated only if its key cannot hold a secret.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stackd.config.credentials import NO_CLUSTER, choose_cluster, gather_keys
from stackd.config.sections import SECTIONS, Config, expectation, fields, policy_of
from stackd.config.sources import KEY_VARIABLE, KeyPath, TomlFile, is_ours, read_toml, value_of, variable
from stackd.errors import ConfigError
from stackd.keys import ApiKey
from stackd.model import Route
from stackd.names import did_you_mean, is_loopback, suggest
from stackd.podspec.policy import Toleration, is_reserved
from stackd.units import format_duration

DEFAULT: Final = "default"


_IN_NO_FILE: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A configuration without mistakes.

    ``origins``   for each ``section.key``: ``default``, ``FILE:LINE``, ``environment NAME`` or ``credential NAME``
    ``warnings``  sentences to log at every start
    """

    config: Config
    origins: Mapping[str, str]
    warnings: tuple[str, ...]


class _Draft:
    """What has been gathered so far."""

    def __init__(self, file: TomlFile | None) -> None:
        self.file = file
        self.raw: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        self.origins: dict[str, str] = {}
        self.mistakes: list[tuple[int, str]] = []
        self.bad: set[str] = set()

    def mistake(self, path: KeyPath, text: str) -> None:
        """Note a mistake in a key, with the place where the key was set."""
        key = ".".join(str(part) for part in path[:2])
        self.bad.add(key)
        origin, line = self.origins.get(key, DEFAULT), None
        if origin.startswith("environment "):
            place = origin
        elif self.file is None:
            place = "configuration"
        else:
            place, line = self.file.place(path), self.file.line(path)
        self.mistakes.append((line or _IN_NO_FILE, f"{place}: {_name(path)}: {text}"))

    def in_order(self) -> list[str]:
        """The mistakes in the order of the file."""
        return [text for _, text in sorted(self.mistakes, key=lambda entry: entry[0])]

    def take_file(self, file: TomlFile) -> None:
        for section, table in file.data.items():
            if section not in SECTIONS:
                shown = f"[{section}]" if isinstance(table, dict) else section
                text = f"{file.place((section,))}: {shown}: {_unknown_section(section)}"
                self.mistakes.append((file.line((section,)) or 1, text))
            elif not isinstance(table, dict):
                self.mistake((section,), f"this is not a section; [{section}] on a line of its own is expected")
            else:
                for key, value in table.items():
                    if key in SECTIONS[section].model_fields:
                        self.raw[section][key] = value
                        self.origins[f"{section}.{key}"] = file.place((section, key))
                    else:
                        self.mistake((section, key), _unknown_key(section, key))

    def take_environment(self, environment: Mapping[str, str]) -> None:
        variables = {variable(section, key): (section, key, info) for section, key, info in fields()}
        for name in sorted(filter(is_ours, environment)):
            if name not in variables:
                suggestion = did_you_mean(name, [*variables, KEY_VARIABLE])
                self.mistakes.append((_IN_NO_FILE, f"environment {name}: unknown key{suggestion}"))
                continue
            section, key, info = variables[name]
            self.raw[section][key] = value_of(environment[name], info)
            self.origins[f"{section}.{key}"] = f"environment {name}"

    def validated(self, home: str) -> Config:
        """The configuration without the keys that are wrong; notes their mistakes."""
        parts: dict[str, Any] = {}
        for section, model in SECTIONS.items():
            raw = {key: _at_home(value, model, key, home) for key, value in self.raw[section].items()}
            try:
                parts[section] = model.model_validate(raw, context={})
            except ValidationError as error:
                for finding in error.errors(include_url=False):
                    where = tuple(part for part in finding["loc"] if part != "[key]")
                    self.mistake((section, *where), explain(model, finding))
                    raw.pop(str(finding["loc"][0]), None)
                parts[section] = model.model_validate(raw, context={})
        return Config.model_construct(**parts)


def _at_home(value: Any, model: type[BaseModel], key: str, home: str) -> Any:
    is_path = expectation(model.model_fields[key]).path and isinstance(value, str)
    return os.path.join(home, value[2:]) if home and is_path and value.startswith("~/") else value


def load(
    path: Path | None,
    environment: Mapping[str, str],
    credentials_dir: Path | None = None,
    *,
    serving: bool = True,
    cluster: bool = True,
) -> LoadedConfig:
    """Read the configuration. Raises ConfigError with all mistakes, in the order of the file.

    Without ``path`` there is no file; without ``credentials_dir``, systemd's ``$CREDENTIALS_DIRECTORY`` is used if set.
    Without ``serving``, API keys are not gathered and the certificate's files are not looked for; without ``cluster``,
    no cluster is decided.
    """
    draft, unreadable = _Draft(None), []
    try:
        draft.file = read_toml(path) if path is not None else None
    except ConfigError as error:
        unreadable = error.mistakes
    if draft.file is not None:
        draft.take_file(draft.file)
    draft.take_environment(environment)
    config = draft.validated(environment.get("HOME", ""))
    if unreadable:
        raise ConfigError(unreadable + draft.in_order())
    if credentials_dir is None and environment.get("CREDENTIALS_DIRECTORY"):
        credentials_dir = Path(environment["CREDENTIALS_DIRECTORY"])
    warnings: list[str] = []
    if serving:
        config = _with_keys(draft, config, environment, credentials_dir, warnings)
    if cluster:
        config = _with_cluster(draft, config, environment, credentials_dir, warnings)
    for keys, text in contradictions(config, serving=serving):
        if draft.bad.isdisjoint(keys):  # only keys that are right in themselves
            blamed = next((key for key in keys if key in draft.origins), keys[0])
            draft.mistake(tuple(blamed.split(".")), text)
    if draft.mistakes:
        raise ConfigError(draft.in_order())
    if serving:
        warnings = [*cautions(config), *warnings]
    names = (f"{section}.{key}" for section, key, _ in fields())
    origins = {name: draft.origins.get(name, DEFAULT) for name in names}
    return LoadedConfig(config=config, origins=origins, warnings=tuple(warnings))


def _with_cluster(
    draft: _Draft, config: Config, environment: Mapping[str, str], credentials: Path | None, warnings: list[str]
) -> Config:
    """The configuration with its cluster decided; notes mistakes and adds warnings."""
    choice = choose_cluster(config.cluster, environment, credentials)
    if draft.bad.isdisjoint(("cluster.mode", "cluster.kubeconfig")):
        if choice.mistake:
            draft.mistake(("cluster", "kubeconfig"), choice.mistake)
        if choice.origin:
            draft.origins["cluster.mode"] = draft.origins["cluster.kubeconfig"] = choice.origin
        if choice.cluster.mode == "auto":
            warnings.append(NO_CLUSTER)
    return config.model_copy(update={"cluster": choice.cluster})


def _with_keys(
    draft: _Draft, config: Config, environment: Mapping[str, str], credentials: Path | None, warnings: list[str]
) -> Config:
    """The configuration with the keys of all places; notes mistakes and adds warnings."""
    required = not any(key.startswith("auth.") for key in draft.bad)
    ring = gather_keys(config.auth, environment, credentials, required=required)
    for key, text in ring.mistakes:
        draft.mistake(("auth", key), text)
    places = [draft.origins["auth.keys"]] if "auth.keys" in draft.origins else []
    if places or ring.origins:
        draft.origins["auth.keys"] = ", ".join([*places, *ring.origins])
    warnings += ring.warnings
    return config.model_copy(update={"auth": config.auth.model_copy(update={"keys": tuple(ring.keys)})})


Contradiction = tuple[tuple[str, ...], str]


def contradictions(config: Config, *, serving: bool) -> Iterator[Contradiction]:
    """For each broken rule: the keys as ``section.key``, the one to blame first, and a sentence.

    Whether files can be read is checked only if ``serving``.
    """
    stacks, routes, server, policy = config.stacks, config.routes, config.server, config.policy
    if stacks.node_port_min > stacks.node_port_max:
        yield (
            ("stacks.node_port_min", "stacks.node_port_max"),
            f"node_port_min {stacks.node_port_min} is above node_port_max {stacks.node_port_max}; "
            "lower node_port_min, or raise node_port_max",
        )
    if stacks.ttl > stacks.max_ttl:
        yield (
            ("stacks.ttl", "stacks.max_ttl"),
            f'ttl "{format_duration(stacks.ttl)}" is longer than max_ttl "{format_duration(stacks.max_ttl)}"; '
            "lower ttl, or raise max_ttl",
        )
    if not stacks.address_types:
        yield ("stacks.address_types",), 'this is empty; a list such as ["ExternalIP", "InternalIP"] is expected'
    if routes.domain and not routes.gateway:
        yield ("routes.gateway", "routes.domain"), "domain is set and gateway is not; set gateway, or unset domain"
    listeners = tuple(f"routes.{route}_listener" for route in Route)
    if routes.domain and not any(map(routes.listener, Route)):
        yield (*listeners, "routes.domain"), f"domain is set and no listener is; set one of {', '.join(listeners)}"
    if bool(server.tls_cert) != bool(server.tls_key):
        one, other = ("tls_cert", "tls_key") if server.tls_cert else ("tls_key", "tls_cert")
        yield (f"server.{one}", f"server.{other}"), f"{one} is set and {other} is not; set both or neither"
    for key, path in (("tls_cert", server.tls_cert), ("tls_key", server.tls_key)):
        if serving and path and not (os.path.isfile(path) and os.access(path, os.R_OK)):
            yield (f"server.{key}",), "the file is missing or cannot be read; a PEM file is expected"
    yield from _policy(config)
    for key, names in (("labels", policy.labels), ("annotations", policy.annotations)):
        if ours := next(filter(is_reserved, names), None):
            yield (f"policy.{key}",), f'"{ours}" is stackd\'s own; choose another key'


def _policy(config: Config) -> Iterator[Contradiction]:
    try:
        policy_of(config)
    except ConfigError as error:
        for mistake in error.mistakes:
            key, _, text = mistake.partition(": ")
            yield (key, "policy.profile"), text


def cautions(config: Config) -> Iterator[str]:
    """What is allowed but worth a warning at every start."""
    host, limits = config.server.host, config.limits
    if not config.auth.enabled:
        yield "auth.enabled is false: anyone who reaches the port can create and delete stacks"
    if not config.server.tls_cert and not is_loopback(host):
        yield f"server.host {host} is not loopback and there is no TLS: keys cross the network unencrypted"
    for key in ("stacks_per_label", "creates_per_label"):
        if uncounted := [label for label in getattr(limits, key) if label not in limits.required_labels]:
            yield (
                f"limits.{key} counts {', '.join(uncounted)}, and a create without that label is not counted; "
                "add it to limits.required_labels to refuse such creates"
            )


# ---- the sentences for mistakes


_NESTED: Final[dict[str, type[BaseModel]]] = {"keys": ApiKey, "tolerations": Toleration}
_TYPES: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    tuple: "a list",
    dict: "a table",
}

_NO_KEY_TEXT: Final = (
    "the text of a key does not belong in a file that others read; use STACKD_AUTH__KEY, key_file, "
    "or its SHA-256 in [[auth.keys]]"
)


def _name(path: KeyPath) -> str:
    """``[auth] keys[0].sha256``."""
    section, *rest = path
    text = ""
    for part in rest:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return f"[{section}] {text}".rstrip()


def explain(model: type[BaseModel], error: ErrorDetails) -> str:
    """A finding of pydantic about a section, as ``what is wrong; what would be right``."""
    location = error["loc"]
    field = _field(model, location)
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        nested = _NESTED[str(location[0])]
        return "unknown key" + did_you_mean(str(location[-1]), nested.model_fields)
    expects = expectation(field)
    if kind == "missing":
        return f"this is missing; {expects.what} is expected"
    if kind == "value_error":
        return f"{error['ctx']['error']}; {expects.what} is expected"
    if kind == "literal_error":
        return _unknown_word(value, str(error["ctx"]["expected"]))
    shown = "this" if expects.secret else _shown(value)
    return f"{shown} {_wrong(kind, value)}; {expects.what} is expected"


def _field(model: type[BaseModel], location: tuple[int | str, ...]) -> FieldInfo:
    key = str(location[0])
    nested = _NESTED.get(key)
    if nested is not None and len(location) > 2 and location[2] in nested.model_fields:
        return nested.model_fields[str(location[2])]
    return model.model_fields[key]


def _wrong(kind: str, value: object) -> str:
    if kind.startswith(("greater_than", "less_than")):
        return "is out of range"
    if kind == "string_too_short":
        return "is empty"
    if kind in ("string_too_long", "string_pattern_mismatch"):
        return "is not acceptable"
    if kind == "finite_number":
        return "is not a number that can be used"
    return f"is {_TYPES.get(type(value), 'a ' + type(value).__name__)}"


def _unknown_word(value: object, expected: str) -> str:
    choices = [choice.strip("'") for choice in expected.replace(" or ", ", ").split(", ")]
    one_of = "one of " + ", ".join(f'"{choice}"' for choice in choices)
    suggestion = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"{_shown(value)} is not known; {one_of} is expected{suggestion}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _unknown_key(section: str, key: str) -> str:
    """The sentence for an unknown key, with the nearest name in the section, or the section that has the key."""
    if (section, key) == ("auth", "key"):
        return _NO_KEY_TEXT
    elsewhere = [other for other, model in SECTIONS.items() if key in model.model_fields]
    if elsewhere:
        return "unknown key" + suggest(f"[{elsewhere[0]}] {key}")
    return "unknown key" + did_you_mean(key, SECTIONS[section].model_fields)


def _unknown_section(section: str) -> str:
    """The sentence for an unknown section, with the nearest name; or the section in which this key belongs."""
    owners = [other for other, model in SECTIONS.items() if section in model.model_fields]
    if owners:
        return "this key belongs in a section" + suggest(f"[{owners[0]}] {section}")
    return "unknown section" + did_you_mean(section, SECTIONS)
