"""Read a folder of ``NAME.yaml`` into a ``TemplateSet``, or report all mistakes at once.

Owns: the fields of a template, the order in which they are used, and the form of a mistake: ``FILE:LINE: field: what is
wrong``. ``readers`` reads the simple fields; ``podspec`` decides what a pod may hold; a template's ``policy`` may replace
keys of the configuration's, because the operator writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from msgspec import json
from pydantic import ValidationError

from stackd.config import Config, PolicySection, policy_of
from stackd.config.load import explain
from stackd.contract import expects
from stackd.errors import ConfigError, InvalidPodSpec, InvalidRequest, InvalidTemplate, Reason
from stackd.model import NO_LABELS, NO_VALUES, SanitizedSpec, StoredTemplate, TargetPort
from stackd.names import did_you_mean, prefix_from
from stackd.podspec import Policy, by_line, harden, sanitize
from stackd.podspec.additions import variables
from stackd.podspec.checks import by_path
from stackd.podspec.decoding import decode
from stackd.podspec.members import together
from stackd.podspec.reasons import MAX_REASONS, MAY_BE_MORE, ROOT, Enough, below
from stackd.podspec.sanitize import target_ports
from stackd.podspec.yaml_text import Document, parse
from stackd.template_files import template_files, version_of
from stackd.templates import readers, sharing
from stackd.templates.markdown import elements
from stackd.templates.template import (
    ALWAYS,
    EXPECTED,
    MOST_VALUES,
    NO_TEMPLATES,
    NONE,
    SITE_EGRESS,
    Egress,
    Template,
    TemplateSet,
    digest_of,
    mistakes_in_values,
    parse_egress,
    why_too_much,
)

V = TypeVar("V")
VALUES: Final = Annotated[
    Mapping[str, Any],
    expects(
        f'an object of at most {MOST_VALUES} variables and their patterns, such as {{FLAG: "flag{{<hex:32>}}"}}',
        max_length=MOST_VALUES,
    ),
]
LONGEST_FILE: Final = 1 << 20
LONGEST_MISTAKE: Final = 1024  # a sentence may quote a value
NO_MAPPING: Final = "a template is expected: a mapping with target_port and pod"
NO_NAMES: Final[tuple[str, ...]] = ()
COMPOSE: Final = (
    "this is a Compose file; `stackd templates from-compose FILE` makes a template of it "
    "(docs/repository.md, or /docs/repository of a running stackd)"
)
REQUIRED: Final = ("target_port", "pod")
FIELDS: Final = (
    "title", "category", "description", "target_port", "route_prefix", "ttl", "opens", "closes", "notice", "extend", "cost",
    "labels", "pool", "prepull",
    "shared", "check", "values", "show", "env", "names", "policy", "network", "pod", "members",
)  # fmt: skip
TENANT_FIELDS: Final = frozenset({
    "title", "category", "description", "target_port", "route_prefix", "ttl", "opens", "closes", "notice", "extend", "cost",
    "labels", "pool", "values", "show", "env", "names", "network", "pod", "members",
})  # fmt: skip
"""What a tenant may write; the rest grants rights, or costs others something."""


def read_templates(config: Config) -> TemplateSet:
    """All templates of ``templates.directory``; none if that is empty.

    Raises ConfigError with a line for each mistake in any of them.
    """
    if not config.templates.directory:
        return NO_TEMPLATES
    folder = Path(config.templates.directory)
    base = policy_of(config)
    mistakes: list[str] = []
    templates: list[Template] = []
    for path in template_files(folder, mistakes):
        draft = _Draft(name=path.stem, config=config, base=base)
        template = draft.template(_text(path, draft))
        templates += [] if template is None else [template]
        mistakes += [_in_file(path, mistake) for mistake in by_line(draft.mistakes)]
    if mistakes:
        raise ConfigError(mistakes)
    return TemplateSet(templates)


def parse_template(stored: StoredTemplate, config: Config) -> Template:
    """The template of the API. Raises InvalidTemplate with a reason for each mistake."""
    draft = _Draft(name=stored.name, config=config, base=policy_of(config), stored=stored)
    template = draft.template(stored.text.encode())
    if template is None:
        raise InvalidTemplate(by_line(draft.mistakes))
    return template


def _in_file(path: Path, mistake: Reason) -> str:
    return f"{path}:{mistake.line}: {mistake}" if mistake.line else f"{path}: {mistake}"


def _text(path: Path, draft: _Draft) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(LONGEST_FILE + 1)
    except OSError as error:
        draft.mistake("", f"the file cannot be read: {error.strerror}")
        return b""
    if len(raw) > LONGEST_FILE:
        draft.mistake("", f"the file is longer than {LONGEST_FILE} bytes")
    return raw


@dataclass(slots=True, kw_only=True)
class _Draft:
    """One template that is being read, ``stored`` if it is of the API; ``mistakes`` are its mistakes, with their lines."""

    name: str
    config: Config
    base: Policy
    stored: StoredTemplate | None = None
    mistakes: list[Reason] = field(default_factory=list)
    document: Document | None = None

    def mistake(self, where: str, text: str, line: int | None = None) -> None:
        """Note a mistake in a field; looks for the line if it is not given. Raises Enough if there are too many."""
        where = "" if where == ROOT else where
        if line is None and self.document is not None:
            line = self.document.line_of(where)
        self.mistakes.append(Reason(path=where, text=text[:LONGEST_MISTAKE], line=line))
        if len(self.mistakes) >= MAX_REASONS:
            self.mistakes.append(Reason(path="", text=MAY_BE_MORE))
            raise Enough

    def template(self, raw: bytes) -> Template | None:
        """The template, or None if anything is wrong with it."""
        with suppress(Enough):
            return self._template(raw)
        return None

    def _template(self, raw: bytes) -> Template | None:
        fields = {} if self.mistakes else self._fields(raw)
        if not fields:
            return None
        entries: tuple[sharing.PlacedPort, ...] = self._typed(fields, "target_port", sharing.PlacedPorts, ())
        ports: tuple[TargetPort, ...] = self._noted("target_port", lambda: target_ports(entries), ())
        self._refused(self.config.routes.refusals(ports))
        typed = {name: self._typed(fields, name, *one) for name, one in readers.TYPED.items()}
        names = typed["names"]
        network: Mapping[str, object] = self._read(fields, "network", _network, {})
        egress = self._read(network, "network.egress", parse_egress, SITE_EGRESS)
        policy = self._policy(fields.get("policy")).model_copy(update={"egress": egress.kind, "host_names": names})
        spec = self._spec(fields["pod"], ports, policy) if "pod" in fields else None
        members = self._members(fields, policy, names)
        if spec is not None and members:
            spec = together(spec, members)
            if len(spec.text) > policy.max_text:
                self.mistake("members", f"all pods together are longer than {policy.max_text} bytes (limits.pod_spec)")
        patterns = self._values(fields, spec)
        longest = self.config.stacks.max_ttl
        description = self._read(fields, "description", readers.description, "")
        described = partial(
            Template,
            name=self.name,
            target_ports=ports,
            policy=policy,
            ttl=self._read(fields, "ttl", self._ttl, None),
            labels=self._read(fields, "labels", readers.labels, NO_LABELS),
            values=patterns,
            egress=egress,
            title=self._read(fields, "title", readers.line_of(readers.LONGEST_TITLE), ""),
            category=self._read(fields, "category", readers.line_of(readers.LONGEST_CATEGORY), ""),
            description=description,
            about=elements(description),
            show=self._read(fields, "show", partial(readers.show, patterns=patterns), NO_NAMES),
            hours=self._noted("", lambda: readers.hours(fields), ALWAYS),
            extend=self._read(fields, "extend", partial(readers.extend, longest=longest), None),
            env=self._env(fields, spec, patterns),
            source="file" if self.stored is None else self.stored.source,
            stored=self.stored,
            text=raw.decode(),
            version=version_of(raw),
            check=self._read(fields, "check", partial(sharing.check, policy=policy), None),
            node_ports={port.container_port: port.node_port for port in entries if port.node_port is not None},
            hostnames={port.container_port: port.hostname for port in entries if port.hostname is not None},
            **typed | {"route_prefix": typed["route_prefix"] or prefix_from(self.name)},
        )
        for where, text in sharing.mistakes(entries, shared=typed["shared"], pool=typed["pool"]):
            self.mistake(where, text)
        if self.stored is not None and self.stored.tenant:
            self._of_a_tenant(fields, described.keywords["labels"], egress)
        if names and spec is not None:
            self._refused((Reason(path=path, text=text) for path, text in readers.collisions(spec.manifest)), "pod")
        if spec is None or self.mistakes:
            return None
        hardened, stacks, prefix = harden(spec.manifest, policy), self.config.stacks, described.keywords["route_prefix"]
        placement: list[Any] = [dict(stacks.node_selector), stacks.readiness]
        if members:
            placement.append({name: harden(manifest, policy) for name, manifest in spec.members.items()})
        return described(
            spec=spec,
            digest=digest_of(self.name, hardened, ports, patterns, placement, prefix),
            interchangeable=not patterns and not members and hardened == harden(spec.manifest, self.base),
        )

    def _read(self, fields: Mapping[str, Any], name: str, reader: Callable[[Any], V], default: V) -> V:
        """The field as ``reader`` returns it; ``default`` if it is not there, or is wrong: that is noted."""
        return self._noted(name, lambda: reader(fields[name]), default) if name in fields else default

    def _typed(self, fields: Mapping[str, Any], name: str, kind: Any, default: Any) -> Any:
        """The field as a value of this type."""
        return self._read(fields, name, lambda value: decode(kind, value, name), default)

    def _noted(self, name: str, read: Callable[[], V], default: V) -> V:
        try:
            return read()
        except InvalidPodSpec as error:
            for reason in error.reasons:
                self.mistake(name, f"its pod is not allowed: {reason}")
        except InvalidRequest as error:
            for reason in error.reasons:
                self.mistake(reason.path, reason.text)
        except ValueError as error:
            self.mistake(name, str(error))
        return default

    def _fields(self, raw: bytes) -> dict[str, Any]:
        """The fields that are there; none if the text is not a template at all."""
        try:
            self.document = parse(raw.decode())
        except UnicodeDecodeError as error:
            self.mistake("", f"the file is not UTF-8 (byte {error.start})")
            return {}
        except InvalidPodSpec as error:
            for reason in error.reasons:
                no_mapping = reason.path == ROOT and reason.line is None
                self.mistake(reason.path, NO_MAPPING if no_mapping else reason.text, reason.line)
            return {}
        fields = self.document.fields
        if "services" in fields and "pod" not in fields:
            self.mistake("services", COMPOSE)
            return {}
        for name in fields:
            if name not in FIELDS:
                self.mistake(below("", name), "there is no such field" + did_you_mean(name, FIELDS))
        for name in REQUIRED:
            if fields.get(name) is None:
                self.mistake("", f"{name} is missing")
        return {name: value for name, value in fields.items() if value is not None}

    def _of_a_tenant(self, fields: Mapping[str, Any], labels: Mapping[str, str], egress: Egress) -> None:
        """Note what only the operator may write: it would be a right that the tenant does not have."""
        for name in fields.keys() & set(FIELDS) - TENANT_FIELDS:
            self.mistake(name, "only the operator may write this, into a file or with an admin key")
        if egress.kind not in ("", NONE):
            self.mistake("network.egress", f'a tenant may write "{NONE}" only; the operator decides what stacks reach')
        if fields.get("cost") == 0:
            self.mistake("cost", "a tenant's stacks cost at least 1: the operator limits what players may have by it")
        given = {label.lower() for key in self.config.auth.keys for label in key.labels}
        for label in labels:
            if label.lower() in given:
                self.mistake("labels", f"{label} decides which stacks a tenant sees: stackd sets it; leave it out")

    def _refused(self, reasons: Iterable[Reason], prefix: str = "") -> None:
        """Note mistakes found by ``podspec``, whose paths are below ``prefix``."""
        for reason in reasons:
            of_ports = reason.path.startswith("target_port")
            inner = prefix if reason.path == ROOT else f"{prefix}.{reason.path}"
            self.mistake(reason.path if of_ports else inner, reason.text)

    def _policy(self, value: object) -> Policy:
        """The policy in force with the template's own keys."""
        if value is None:
            return self.base
        if not isinstance(value, dict):
            self.mistake("policy", "keys of [policy] and their values are expected")
            return self.base
        fields = PolicySection.model_fields
        for key in value.keys() - fields.keys():
            self.mistake(below("policy", key), "[policy] has no such key" + did_you_mean(key, fields))
        accepted = {key: one for key, one in value.items() if key in fields}
        try:
            checked = PolicySection.model_validate(accepted, context={})
        except ValidationError as error:
            for finding in error.errors(include_url=False):
                self.mistake(f"policy.{finding['loc'][0]}", explain(PolicySection, finding))
            return self.base
        own = {key: getattr(checked, key) for key in accepted}
        try:
            return policy_of(self.config.model_copy(update={"policy": self.config.policy.model_copy(update=own)}))
        except ConfigError as error:
            for mistake in error.mistakes:
                key, _, text = mistake.partition(": ")
                self.mistake(key, text)
            return self.base

    def _spec(
        self, pod: object, ports: tuple[TargetPort, ...], policy: Policy, where: str = "pod"
    ) -> SanitizedSpec | None:
        if not isinstance(pod, dict):
            self.mistake(where, "a Pod is expected: a mapping of fields")
            return None
        try:
            return sanitize(json.encode(pod).decode(), ports, policy)
        except InvalidPodSpec as error:
            self._refused(error.reasons, where)
            return None

    def _members(self, fields: Mapping[str, Any], policy: Policy, names: Iterable[str]) -> dict[str, SanitizedSpec]:
        """The pods of the members that have no mistake, by their names."""
        given: Mapping[str, readers.MemberText] = self._typed(fields, "members", readers.Members, {})
        for name in given.keys() & set(names):
            self.mistake(below("members", name), "one of its names is this, too (names)")
        pods = {name: self._spec(one.pod, (), policy, f"{below('members', name)}.pod") for name, one in given.items()}
        return {name: spec for name, spec in pods.items() if spec is not None}

    def _ttl(self, value: object) -> float:
        most = self.config.stacks.max_ttl
        if not 0 < (seconds := readers.seconds(value)) <= most:
            raise ValueError(f'a duration such as "30m" is expected, at most {most:g} s (stacks.max_ttl)')
        return seconds

    def _values(self, fields: Mapping[str, Any], spec: SanitizedSpec | None) -> Mapping[str, str]:
        value: dict[str, str] = self._typed(fields, "values", VALUES, {})
        mistakes = mistakes_in_values(value, _variables(spec))
        for name, text in mistakes:
            self.mistake(below("values", name), text)
        containers = sum(len(by_path(each["spec"])) for each in _manifests(spec)) or 1
        if not mistakes and (why := why_too_much(value, containers)):
            self.mistake("values", why)
        return value or NO_VALUES

    def _env(
        self, fields: Mapping[str, Any], spec: SanitizedSpec | None, values: Mapping[str, str]
    ) -> Mapping[str, str]:
        variables: Mapping[str, readers.VariableText] = self._typed(fields, "env", readers.Env, {})
        patterns = {name: one.pattern for name, one in variables.items()}
        for path, text in readers.mistakes_in_env(patterns, {*_variables(spec), *values}):
            self.mistake(path, text)
        return patterns or NO_VALUES


def _manifests(spec: SanitizedSpec | None) -> tuple[Mapping[str, Any], ...]:
    return () if spec is None else (spec.manifest, *spec.members.values())


def _variables(spec: SanitizedSpec | None) -> set[str]:
    """The variables of all containers of all pods."""
    return set().union(*map(variables, _manifests(spec)))


def _network(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict) or value.keys() != {"egress"}:
        raise ValueError(f"{{egress: …}} is expected: {EXPECTED}")
    return {"network.egress": value["egress"]}
