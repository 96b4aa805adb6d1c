"""Loads a file, the environment and credentials into one ``Config``, or reports all mistakes at once.

Later places win: default, file, environment; credentials fill what is empty. Owns, too, the rules that join several
keys, or a key and the machine, and the sentences for what pydantic finds. A value is repeated only if its key cannot
hold a secret.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stackd.config.credentials import choose_cluster, gather_keys, read_play_secret
from stackd.config.sections import SECTIONS, Config, OidcSection, expectation, fields, policy_of
from stackd.config.sources import DEFAULT, Draft, read_toml
from stackd.errors import ConfigError
from stackd.keys import ApiKey
from stackd.model import Route
from stackd.names import did_you_mean, is_loopback
from stackd.podspec.policy import Toleration, is_reserved
from stackd.units import format_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A configuration without mistakes.

    ``origins``   for each ``section.key``: ``default``, ``FILE:LINE``, ``environment NAME`` or ``credential NAME``
    ``warnings``  sentences to log at every start
    """

    config: Config
    origins: Mapping[str, str]
    warnings: tuple[str, ...]


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
    file, unreadable = None, []
    try:
        file = read_toml(path) if path is not None else None
    except ConfigError as error:
        unreadable = error.mistakes
    if credentials_dir is None and environment.get("CREDENTIALS_DIRECTORY"):
        credentials_dir = Path(environment["CREDENTIALS_DIRECTORY"])
    draft = Draft(file, environment, credentials_dir)
    config = _validated(draft)
    if unreadable:
        raise ConfigError(unreadable + draft.mistakes())
    if serving:
        config = config.model_copy(
            update={"auth": gather_keys(draft, config.auth), "play": read_play_secret(draft, config.play)}
        )
    if cluster:
        config = config.model_copy(update={"cluster": choose_cluster(draft, config.cluster)})
    for keys, text in (*_contradictions(config, serving=serving), *_of_policy(config)):
        if draft.bad.isdisjoint(keys):  # only keys that are right in themselves
            blamed = next((key for key in keys if key in draft.origins), keys[0])
            draft.mistake(tuple(blamed.split(".")), text)
    if mistakes := draft.mistakes():
        raise ConfigError(mistakes)
    names = (f"{section}.{key}" for section, key, _ in fields())
    return LoadedConfig(
        config=config,
        origins={name: draft.origins.get(name, DEFAULT) for name in names},
        warnings=(*(_cautions(config) if serving else ()), *draft.warnings),
    )


def _validated(draft: Draft) -> Config:
    """The configuration without the keys that are wrong; notes their mistakes."""
    parts: dict[str, Any] = {}
    home = draft.environment.get("HOME", "")
    for section, model in SECTIONS.items():
        raw = draft.raw[section]
        for key, value in raw.items():
            if home and isinstance(value, str) and value.startswith("~/") and expectation(model.model_fields[key]).path:
                raw[key] = os.path.join(home, value[2:])
        try:
            parts[section] = model.model_validate(raw, context={})
        except ValidationError as error:
            for finding in error.errors(include_url=False):
                where = tuple(part for part in finding["loc"] if part != "[key]")
                draft.mistake((section, *where), explain(model, finding))
                raw.pop(str(finding["loc"][0]), None)
            parts[section] = model.model_validate(raw, context={})
    return Config.model_construct(**parts)


Contradiction = tuple[tuple[str, ...], str]


def _contradictions(config: Config, *, serving: bool) -> Iterator[Contradiction]:
    """For each broken rule: the keys as ``section.key``, the one to blame first, and a sentence.

    Whether files can be read is checked only if ``serving``.
    """
    stacks, routes, server = config.stacks, config.routes, config.server
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
    if config.auth.oidc.model_fields_set:
        yield from ((("auth.oidc",), text) for text in _of_oidc(config.auth.oidc, serving=serving))
    if serving and (audit := config.log.audit) and not _can_be_appended(Path(audit)):
        yield ("log.audit",), "the file cannot be written; one in a folder that the daemon may write to is expected"


def _of_oidc(oidc: OidcSection, *, serving: bool) -> Iterator[str]:
    """What is wrong with a sign-in that is configured."""
    for key, value in (("issuer", oidc.issuer), ("url", oidc.url)):
        url = urlsplit(value)
        if not url.hostname or url.scheme not in ("http", "https") or url.query or url.fragment:
            yield f"{key} is {_shown(value)}; {_expected(oidc, key)} is expected"
        elif url.scheme == "http" and not is_loopback(url.hostname):
            yield f"{key} is {_shown(value)}; it begins with https://, except on this machine"
    if not oidc.client_id:
        yield f"client_id is missing; {_expected(oidc, 'client_id')} is expected"
    if not (oidc.admins or oidc.readers):
        yield "neither admins nor readers has an entry, so nobody may sign in; list groups or e-mail addresses"
    if serving and (path := oidc.client_secret_file) and not _readable_text(path):
        yield "the file of client_secret_file is missing, empty or cannot be read"


def _expected(oidc: OidcSection, key: str) -> str:
    return str(type(oidc).model_fields[key].description).rstrip(",")


def _readable_text(path: str) -> bool:
    try:
        return bool(Path(path).read_text().strip())
    except (OSError, ValueError):
        return False


def _can_be_appended(file: Path) -> bool:
    if file.exists():
        return file.is_file() and os.access(file, os.W_OK)
    return os.access(file.parent, os.W_OK | os.X_OK)


def _of_policy(config: Config) -> Iterator[Contradiction]:
    try:
        policy_of(config)
    except ConfigError as error:
        for mistake in error.mistakes:
            key, _, text = mistake.partition(": ")
            yield (key, "policy.profile"), text
    for key in ("labels", "annotations"):
        if ours := next(filter(is_reserved, getattr(config.policy, key)), None):
            yield (f"policy.{key}",), f'"{ours}" is stackd\'s own; choose another key'


def _cautions(config: Config) -> Iterator[str]:
    """What is allowed but worth a warning at every start."""
    host, limits = config.server.host, config.limits
    if not config.auth.enabled:
        yield "auth.enabled is false: anyone who reaches the port can create and delete stacks"
    with suppress(OSError):
        if config.auth.key_file and os.stat(config.auth.key_file).st_mode & 0o007:
            yield "every user of this machine can read the file of auth.key_file; chmod 600 keeps it to its owner"
    if not config.server.tls_cert and not is_loopback(host):
        yield f"server.host {host} is not loopback and there is no TLS: keys cross the network unencrypted"
    if config.play.url.startswith("http:"):
        yield "play.url is not https: links of players, and their cookies, cross the network unencrypted"
    if config.policy.add_pull_secrets and (
        free := [key.name for key in config.auth.keys if key.tenant and (key.pod_specs or key.templates_write)]
    ):
        yield (
            f"policy.add_pull_secrets is on every pod, so {', '.join(free)} can run any image of your registry; "
            "put it into the policy of templates, or set pod_specs = false for these keys"
        )
    for key in ("stacks_per_label", "cost_per_label", "creates_per_label"):
        if uncounted := [label for label in getattr(limits, key) if label not in limits.required_labels]:
            yield (
                f"limits.{key} counts {', '.join(uncounted)}, and a create without that label is not counted; "
                "add it to limits.required_labels to refuse such creates"
            )


_NESTED: Final[dict[str, type[BaseModel]]] = {"keys": ApiKey, "oidc": OidcSection, "tolerations": Toleration}


def explain(model: type[BaseModel], error: ErrorDetails) -> str:
    """A finding of pydantic about a section, as a sentence: what is expected, and what is there instead."""
    key, *inner = error["loc"]
    kind, value = error["type"], error["input"]
    field, nested = model.model_fields[str(key)], _NESTED.get(str(key))
    if nested is not None and (names := [str(part) for part in inner if not isinstance(part, int)]):
        if kind == "extra_forbidden":
            return "unknown key" + did_you_mean(names[-1], nested.model_fields)
        field = nested.model_fields[names[0]]
    expects = expectation(field)
    if kind == "missing":
        return f"this is missing; {expects.what} is expected"
    if kind == "value_error":
        return f"{error['ctx']['error']}; {expects.what} is expected"
    if kind == "literal_error":
        choices = re.findall("'(.*?)'", error["ctx"]["expected"])
        suggestion = did_you_mean(value, choices) if isinstance(value, str) else ""
        one_of = ", ".join(f'"{choice}"' for choice in choices)
        return f"one of {one_of} is expected, not {_shown(value)}{suggestion}"
    return f"{expects.what} is expected, not {'this' if expects.secret else _shown(value)}"


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
