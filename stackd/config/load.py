"""Load a file, the environment and credentials into one ``Config``, or report all mistakes at once.

Later places win: default, file, environment; credentials fill what is empty. Owns, too, the rules that join several
keys, or a key and the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from stackd.config import wording
from stackd.config.credentials import NO_CLUSTER, choose_cluster, gather_keys
from stackd.config.sections import AuthSection, ClusterSection, Config, policy_of
from stackd.config.sources import KEY_VARIABLE, KeyPath, TomlFile, is_ours, read_toml, value_of, variable
from stackd.errors import ConfigError
from stackd.model import Route
from stackd.names import did_you_mean, is_loopback
from stackd.podspec.policy import is_reserved
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


@dataclass(slots=True, kw_only=True)
class _Draft:
    """What has been gathered so far."""

    file: TomlFile | None
    raw: dict[str, dict[str, Any]] = field(default_factory=lambda: {name: {} for name in wording.sections()})
    origins: dict[str, str] = field(default_factory=dict)
    mistakes: list[tuple[int, str]] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)

    def mistake(self, path: KeyPath, text: str) -> None:
        """Note a mistake in a key, with the place where the key was set."""
        key = ".".join(str(part) for part in path[:2])
        self.bad.add(key)
        origin = self.origins.get(key, DEFAULT)
        line = self.file.line(path) if self.file else None
        if origin.startswith("environment "):
            place, line = origin, None
        else:
            place = self.file.place(path) if self.file else "configuration"
        self.mistakes.append((line or _IN_NO_FILE, f"{place}: {wording.name(path)}: {text}"))


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
    unreadable: list[str] = []
    try:
        draft = _Draft(file=read_toml(path) if path is not None else None)
    except ConfigError as error:
        draft, unreadable = _Draft(file=None), error.mistakes
    _take_file(draft)
    _take_environment(draft, environment)
    config = _validated(draft, environment.get("HOME", ""))
    if unreadable:
        raise ConfigError(unreadable + _in_order(draft.mistakes))
    if credentials_dir is None and environment.get("CREDENTIALS_DIRECTORY"):
        credentials_dir = Path(environment["CREDENTIALS_DIRECTORY"])
    warnings: list[str] = []
    if serving:
        auth, warnings = _with_keys(draft, config.auth, environment, credentials_dir)
        config = config.model_copy(update={"auth": auth})
    if cluster:
        chosen, more = _with_cluster(draft, config.cluster, environment, credentials_dir)
        config, warnings = config.model_copy(update={"cluster": chosen}), warnings + more
    _check(draft, config, serving=serving)
    if draft.mistakes:
        raise ConfigError(_in_order(draft.mistakes))
    if serving:
        warnings = [*cautions(config), *warnings]
    return LoadedConfig(config=config, origins=_all_origins(draft.origins), warnings=tuple(warnings))


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
        variable(section, key): (section, key, info)
        for section, model in wording.sections().items()
        for key, info in model.model_fields.items()
    }
    for name in sorted(filter(is_ours, environment)):
        if name not in fields:
            suggestion = did_you_mean(name, [*fields, KEY_VARIABLE])
            draft.mistakes.append((_IN_NO_FILE, f"environment {name}: unknown key{suggestion}"))
            continue
        section, key, info = fields[name]
        draft.raw[section][key] = value_of(environment[name], info)
        draft.origins[f"{section}.{key}"] = f"environment {name}"


def _validated(draft: _Draft, home: str) -> Config:
    """The configuration without the keys that are wrong; notes their mistakes."""
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


def _with_cluster(
    draft: _Draft, cluster: ClusterSection, environment: Mapping[str, str], credentials: Path | None
) -> tuple[ClusterSection, list[str]]:
    """The section with its cluster decided, and its warnings; notes its mistakes."""
    choice = choose_cluster(cluster, environment, credentials)
    if draft.bad.isdisjoint(("cluster.mode", "cluster.kubeconfig")):
        if choice.mistake:
            draft.mistake(("cluster", "kubeconfig"), choice.mistake)
        if choice.origin:
            draft.origins["cluster.mode"] = draft.origins["cluster.kubeconfig"] = choice.origin
        if choice.cluster.mode == "auto":
            return choice.cluster, [NO_CLUSTER]
    return choice.cluster, []


def _with_keys(
    draft: _Draft, auth: AuthSection, environment: Mapping[str, str], credentials: Path | None
) -> tuple[AuthSection, list[str]]:
    """The section with the keys of all places, and their warnings; notes their mistakes."""
    required = not any(key.startswith("auth.") for key in draft.bad)
    ring = gather_keys(auth, environment, credentials, required=required)
    for key, text in ring.mistakes:
        draft.mistake(("auth", key), text)
    places = [draft.origins["auth.keys"]] if "auth.keys" in draft.origins else []
    if places or ring.origins:
        draft.origins["auth.keys"] = ", ".join([*places, *ring.origins])
    return auth.model_copy(update={"keys": tuple(ring.keys)}), ring.warnings


def _check(draft: _Draft, config: Config, *, serving: bool) -> None:
    """Apply the rules that join several keys, but only to keys that are right in themselves."""
    for keys, text in contradictions(config, serving=serving):
        if not draft.bad.isdisjoint(keys):
            continue
        blamed = next((key for key in keys if key in draft.origins), keys[0])
        draft.mistake(tuple(blamed.split(".")), text)


Contradiction = tuple[tuple[str, ...], str]


def contradictions(config: Config, *, serving: bool = True) -> Iterator[Contradiction]:
    """For each broken rule: the keys as ``section.key``, the one to blame first, and a sentence.

    Whether files can be read is checked only if ``serving``.
    """
    stacks = config.stacks
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
    yield from _routes(config)
    yield from _tls(config, serving=serving)
    yield from _policy(config)


def _routes(config: Config) -> Iterator[Contradiction]:
    routes = config.routes
    listeners = tuple(f"routes.{route}_listener" for route in Route)
    if routes.domain and not routes.gateway:
        yield ("routes.gateway", "routes.domain"), "domain is set and gateway is not; set gateway, or unset domain"
    if routes.domain and not any(map(routes.listener, Route)):
        yield (*listeners, "routes.domain"), f"domain is set and no listener is; set one of {', '.join(listeners)}"


def _tls(config: Config, *, serving: bool) -> Iterator[Contradiction]:
    server = config.server
    if bool(server.tls_cert) != bool(server.tls_key):
        given, other = ("tls_cert", "tls_key") if server.tls_cert else ("tls_key", "tls_cert")
        yield (f"server.{given}", f"server.{other}"), f"{given} is set and {other} is not; set both or neither"
    for key, path in (("tls_cert", server.tls_cert), ("tls_key", server.tls_key)):
        if serving and path and not (os.path.isfile(path) and os.access(path, os.R_OK)):
            yield (f"server.{key}",), "the file is missing or cannot be read; a PEM file is expected"


def _policy(config: Config) -> Iterator[Contradiction]:
    policy = config.policy
    try:
        policy_of(config)
    except ConfigError as error:
        for mistake in error.mistakes:
            key, _, text = mistake.partition(": ")
            yield (key, "policy.profile"), text
    for key, names in (("labels", policy.labels), ("annotations", policy.annotations)):
        ours = [name for name in names if is_reserved(name)]
        if ours:
            yield (f"policy.{key}",), f'"{ours[0]}" is stackd\'s own; choose another key'


def cautions(config: Config) -> Iterator[str]:
    """What is allowed but worth a warning at every start."""
    if not config.auth.enabled:
        yield "auth.enabled is false: anyone who reaches the port can create and delete stacks"
    if not config.server.tls_cert and not is_loopback(config.server.host):
        host = config.server.host
        yield f"server.host {host} is not loopback and there is no TLS: keys cross the network unencrypted"
    yield from _uncounted(config)


def _uncounted(config: Config) -> Iterator[str]:
    """Limits that a create evades by omitting their label."""
    limits = config.limits
    for key in ("stacks_per_label", "creates_per_label"):
        if loose := [label for label in getattr(limits, key) if label not in limits.required_labels]:
            yield (
                f"limits.{key} counts {', '.join(loose)}, and a create without that label is not counted; "
                "add it to limits.required_labels to refuse such creates"
            )
