"""A template, the values that are generated for each of its stacks, and the set of templates that are in force.

Owns what a template's stacks may reach, ``network: {egress: none | dns | internet | [CIDR, …]}``, and the value that the
pods' label has for it: ``cli.provision`` makes one NetworkPolicy for each value in use. Owns, too, the three placeholders
of patterns such as ``flag{<hex:32>}``. This is no template language: anything else between angle brackets is a mistake.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, Final

from msgspec import json

from stackd.contract import TemplateSource, TemplateTrouble
from stackd.errors import TemplateClosed
from stackd.model import NO_LABELS, NO_VALUES, Offer, RoutedTarget, SanitizedSpec, StoredTemplate, TargetPort
from stackd.names import is_env_name
from stackd.podspec import Policy
from stackd.templates.hiding import RANDOM
from stackd.templates.markdown import Element

NONE: Final = "none"
DNS: Final = "dns"
INTERNET: Final = "internet"
MOST_NETWORKS: Final = 64
EXPECTED: Final = f'"{NONE}", "{DNS}", "{INTERNET}" or a list of networks such as [192.0.2.0/24] is expected'
LONGEST_PATTERN: Final = 1024
MOST_DIGITS: Final = 256
MOST_VALUES: Final = 32
MOST_BYTES: Final = 16 * 1024
"""Of all values of a stack: each of its containers gets them, and stackd keeps them with its row."""
MOST_BYTES_OF_A_POD: Final = 64 * 1024
"""Of all values in all containers."""
MOST_PARTS: Final = 64
"""The placeholders, and what looks like a generated part beside them: each is looked for in logs, in seven forms."""

NO_VARIABLE: Final = 'is not the name of a variable: letters, digits, "_", "-" and ".", not a digit first'
PLACEHOLDERS: Final = "<hex:N>, <base32:N>, <uuid>"
_BRACKETS: Final = re.compile(r"<([^<>]*)>")
_PLACEHOLDER: Final = re.compile(r"(?:(hex|base32):([1-9][0-9]{0,2})|uuid)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """``kind`` is the value of the pods' label; empty leaves it to the policies for all stacks.

    ``networks``: the only ones that the stacks reach, if the kind is neither ``none``, ``dns`` nor ``internet``.
    """

    kind: str = ""
    networks: tuple[str, ...] = ()


SITE_EGRESS: Final = Egress()
NOTICE_SECONDS: Final = 600.0


def parse_egress(value: Any) -> Egress:
    """Read ``network.egress``. Raises ValueError with what is wrong."""
    if value in (NONE, DNS, INTERNET):
        return Egress(kind=value)
    if not isinstance(value, list) or not value or len(value) > MOST_NETWORKS:
        raise ValueError(f"{EXPECTED}, of at most {MOST_NETWORKS}")
    if not all(isinstance(item, str) for item in value):
        raise ValueError(EXPECTED)
    try:
        listed = tuple(sorted({str(ip_network(item)) for item in value}))
    except ValueError as error:
        raise ValueError(f"{error}; {EXPECTED}") from None
    return Egress(kind=f"only-{hashlib.sha256(' '.join(listed).encode()).hexdigest()[:12]}", networks=listed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """How much longer (``by``, in seconds) and how often a player may extend a stack."""

    by: float
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """When stacks can be created: from ``opens`` until ``closes`` (nanoseconds; 0: at any time), which ends them. Players are
    told so ``notice`` seconds before. ``texts`` are the two times as they were written, with their zones."""

    opens: int = 0
    closes: int = 0
    notice: float = NOTICE_SECONDS
    texts: tuple[str, str] = ("", "")

    def is_over(self, now: int) -> bool:
        return bool(self.closes) and now >= self.closes

    def is_open(self, now: int) -> bool:
        """Whether stacks can be created."""
        return now >= self.opens and not self.is_over(now)

    def why_closed(self, name: str, now: int) -> TemplateClosed | None:
        """Why no stack can be created; None if one can."""
        closed = self.is_over(now)
        return None if self.is_open(now) else TemplateClosed(name, self.texts[closed], closed=closed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A program that says whether a stack works, by its exit code: ``spec`` is its pod within ``policy``, without the
    variables that say where the stack is. ``every`` and ``timeout`` in seconds; a shared stack gets another pod after so
    many ``failures`` in a row."""

    image: str
    command: tuple[str, ...]
    every: float
    timeout: float
    failures: int
    spec: SanitizedSpec
    policy: Policy


ALWAYS: Final = Hours()


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One template as its text describes it.

    ``spec``             its pods within ``policy``, without the values that are generated for each stack
    ``ttl``              in seconds; None: ``stacks.ttl`` applies
    ``pool``             how many stacks are kept running and unassigned
    ``values``           patterns by the names of the environment variables that all containers get
    ``policy``           the policy in force, with the keys that the template replaces
    ``egress``           what its stacks reach
    ``digest``           identifies the pod: with the same digest, pods differ only in their generated values
    ``interchangeable``  a create with a pod spec of this text and these ports gets the same pod: no value is generated,
                         and the policy in force adds the same
    ``route_prefix``     what the names of its routed ports begin with
    ``title``, ``category``, ``description`` (Markdown; a tenant may have written it)
                         what players read
    ``about``            the elements of ``description``, of which a page is made
    ``show``             the names of the ``values`` that a player may see
    ``extend``           how a player may extend its stacks
    ``cost``             what a stack of it counts for ``limits.cost_per_label``
    ``names``            by which its containers find each other: names of their own machine
    ``env``              patterns by the names of the environment variables that a create may set
    ``source``           where its text is from
    ``text``, ``version``  its text as it was read, and what identifies that
    ``stored``           who has written the text, where it is not a file's
    ``shared``           there is one stack of it, which stackd makes and keeps, the same for everybody
    ``node_ports``, ``hostnames``
                         the node ports and the first parts of the names of the shared stack, by container port
    ``check``            how to find out whether one of its stacks works
    ``hours``            when its stacks can be created, and when they end
    """

    name: str
    spec: SanitizedSpec
    target_ports: tuple[TargetPort, ...]
    policy: Policy
    digest: str
    ttl: float | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    pool: int = 0
    prepull: bool = False
    values: Mapping[str, str] = field(default_factory=lambda: NO_VALUES)
    interchangeable: bool = False
    egress: Egress = SITE_EGRESS
    route_prefix: str = ""
    title: str = ""
    category: str = ""
    description: str = ""
    about: tuple[Element, ...] = ()
    show: tuple[str, ...] = ()
    extend: Extensions | None = None
    cost: int = 1
    names: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: NO_VALUES)
    source: TemplateSource = "file"
    text: str = field(default="", repr=False, compare=False)
    version: str = field(default="", compare=False)
    stored: StoredTemplate | None = field(default=None, repr=False, compare=False)
    shared: bool = False
    node_ports: Mapping[int, int] = field(default_factory=dict)
    hostnames: Mapping[int, str] = field(default_factory=dict)
    check: Check | None = None
    hours: Hours = ALWAYS

    @property
    def images(self) -> tuple[str, ...]:
        """The images of all its containers, each once, in the order of the pods."""
        specs: list[Any] = [manifest["spec"] for manifest in (self.spec.manifest, *self.spec.members.values())]
        containers = [one for spec in specs for one in (*spec.get("initContainers", ()), *spec["containers"])]
        return tuple(dict.fromkeys(container["image"] for container in containers))

    @property
    def offer(self) -> Offer:
        """What players see of its stacks, and may do with them."""
        by, times = (self.extend.by, self.extend.times) if self.extend is not None else (0.0, 0)
        return Offer(title=self.title, show=self.show, by=by, times=times, cost=self.cost)

    def generate(self) -> Mapping[str, str]:
        """New values for one stack."""
        return generate_values(self.values) if self.values else NO_VALUES


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateProblem:
    """Why a text of this name is not in force, in a sentence."""

    name: str
    problem: TemplateTrouble
    message: str


class TemplateSet(Mapping[str, Template]):
    """The templates in force, by name, and the ``problems`` of texts that are not; never changed, only replaced as a whole."""

    def __init__(self, templates: Iterable[Template] = (), problems: Iterable[TemplateProblem] = ()) -> None:
        self.problems = tuple(problems)
        self._by_name = {template.name: template for template in sorted(templates, key=lambda template: template.name)}
        self.fixed_ports = frozenset(
            port for template in self._by_name.values() for port in template.node_ports.values()
        )
        """The node ports that templates give to their shared stacks."""
        self.closes = {name: template.hours.closes for name, template in self._by_name.items() if template.hours.closes}
        """When each that closes does, in nanoseconds."""
        self._by_spec = {
            (template.spec.text, template.target_ports): template
            for template in reversed(self._by_name.values())
            if template.pool and template.interchangeable
        }

    def __getitem__(self, name: str) -> Template:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def of_files(self) -> TemplateSet:
        """Those of files."""
        return TemplateSet(template for template in self.values() if template.source == "file")

    def pooled_as(self, spec: SanitizedSpec, target_ports: tuple[TargetPort, ...]) -> Template | None:
        """The template whose pool can serve a create with this pod spec; the first by name if there are several."""
        return self._by_spec.get((spec.text, target_ports))


NO_TEMPLATES = TemplateSet()


def digest_of(
    name: str,
    manifest: Mapping[str, Any],
    target_ports: tuple[TargetPort, ...],
    patterns: Mapping[str, str],
    placement: Any,
    prefix: str = "",
) -> str:
    """The digest of everything that makes a template's pod: the manifest with the operator's additions, ports, values,
    and where it runs; also the template's name, because templates do not share pods, and the ``prefix`` of its names.
    """
    ports = [[port.container_port, port.protocol] for port in target_ports]
    parts = [name, manifest, ports, dict(patterns), placement]
    if routes := [[port.container_port, port.route] for port in target_ports if isinstance(port, RoutedTarget)]:
        parts.append([routes, prefix])
    return hashlib.sha256(json.encode(parts, order="sorted")).hexdigest()


def generate_values(patterns: Mapping[str, str]) -> dict[str, str]:
    """A new value for each pattern, from the system's source of randomness."""
    return {name: _BRACKETS.sub(_fresh, pattern) for name, pattern in patterns.items()}


def why_too_much(patterns: Mapping[str, str], containers: int = 1) -> str | None:
    """Why these patterns together would generate too much for a pod of so many containers."""
    if (size := sum(len(value.encode()) for value in generate_values(patterns).values())) > MOST_BYTES:
        return f"they would be {size} bytes; {MOST_BYTES} at most in all"
    if size * containers > MOST_BYTES_OF_A_POD:
        return f"they would be {size} bytes in each of {containers} containers; {MOST_BYTES_OF_A_POD} at most in all of these"
    parts = sum(
        len(_BRACKETS.findall(item)) + len(RANDOM.findall(_BRACKETS.sub(" ", item))) for item in patterns.values()
    )
    return f"{parts} generated parts; {MOST_PARTS} at most in all" if parts > MOST_PARTS else None


def mistakes_in_values(patterns: Mapping[str, Any], taken: Iterable[str]) -> list[tuple[str, str]]:
    """What is wrong with these ``values`` of a template whose containers have the variables ``taken``, by name."""
    in_pod = set(taken)
    mistakes = []
    for name, pattern in patterns.items():
        if not is_env_name(name):
            text = NO_VARIABLE
        elif name in in_pod:
            text = "a container of the pod has this variable already; take it out of there, or choose another name"
        else:
            text = _mistake(pattern)
        if text:
            mistakes.append((name, text))
    return mistakes


def _mistake(pattern: object) -> str:
    if not isinstance(pattern, str):
        return 'must be a string such as "flag{<hex:32>}"'
    if len(pattern) > LONGEST_PATTERN:
        return f"has {len(pattern)} characters; {LONGEST_PATTERN} at most"
    placeholders = [match.group(1) for match in _BRACKETS.finditer(pattern)]
    for inside in placeholders:
        match = _PLACEHOLDER.match(inside)
        if match is None:
            return f"<{inside[:40]}> is not known; there are {PLACEHOLDERS}, with N from 1 to {MOST_DIGITS}"
        if int(match.group(2) or 0) > MOST_DIGITS:
            return f"<{inside}> is too long; N is {MOST_DIGITS} at most"
    if not placeholders:
        return f"it has no placeholder ({PLACEHOLDERS}); put a constant into the pod's env"
    return ""


def _fresh(bracket: re.Match[str]) -> str:
    match = _PLACEHOLDER.match(bracket.group(1))
    assert match is not None, "patterns are checked when they are read"
    kind, digits = match.groups()
    if kind is None:
        return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
    count = int(digits)
    if kind == "hex":
        return secrets.token_hex(count)[:count]
    return base64.b32encode(secrets.token_bytes(count)).decode()[:count]
