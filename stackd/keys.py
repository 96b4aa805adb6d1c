"""API keys: how a key is made, and what is kept of it.

Owns: the form of a key and its hash, and what a key may see. Does not know where keys come from (``config``) or how
requests carry them (``web``). A key's text exists only while it is read or printed. Everything else holds only its SHA-256.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from stackd.contract import Scope
from stackd.kinds import Section, TenantLabels, as_tuple
from stackd.model import NO_LABELS, EventKind, Job, LabelQuota, Principal, Stack, TimelineEvent
from stackd.names import matches_any, require_unreserved

PREFIX: Final = "sk-"
DIGEST_BYTES: Final = 32
ID_DIGITS: Final = 32

SHORTEST: Final = 16
"""The fewest characters of a key's text. A shorter key can be guessed, even with few tries."""

OWN_NAMES: Final = ("anonymous", "stackd", "cluster")
"""Who has asked for what no key has asked for."""

# ``read`` reads everything; ``tenant`` does with the stacks that have its labels what ``admin`` does with all, and knows of
# no others.
TENANT, READ = "tenant", "read"


def digest(plaintext: str) -> bytes:
    """The SHA-256 of a key's text; only this is compared and kept. Accepts any text, even if it is not valid UTF-8."""
    return hashlib.sha256(plaintext.encode(errors="surrogatepass")).digest()


def short_digest(sha256: bytes) -> str:
    """The start of a key's hash: enough to tell keys apart, too little to help anybody who guesses one."""
    return sha256.hex()[:8]


def new_key() -> tuple[str, str]:
    """A fresh key of 192 random bits and its SHA-256 in hex: ``("sk-…", "…")``."""
    plaintext = PREFIX + secrets.token_hex(24)
    return plaintext, digest(plaintext).hex()


def _digest_from_hex(value: object) -> object:
    """Turn 64 hex digits into bytes. The error never quotes the value, which may be a key put there by mistake."""
    if not isinstance(value, str):
        return value
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        raw = b""
    if len(raw) != DIGEST_BYTES or len(value) != 2 * DIGEST_BYTES:
        raise ValueError("this is not a SHA-256")
    return raw


def _only_of_tenants(value: Any, info: ValidationInfo) -> Any:
    """Refuse a tenant without labels, who would see everything, and labels or templates of any other scope."""
    scope, name = info.data.get("scope", TENANT if value else "admin"), info.field_name
    if scope == TENANT and name == "labels" and not value:
        raise ValueError(f'a key of scope "{TENANT}" needs labels: it sees the stacks that have them')
    if name == "labels":
        require_unreserved(value)
    if scope != TENANT and value:
        raise ValueError(f'a key of scope "{scope}" has no {name}')
    return value


def _of_creators(value: bool, info: ValidationInfo) -> bool:
    """Refuse ``pod_specs = false`` for a scope that cannot create anyway."""
    if not value and (scope := info.data.get("scope")) in ("read", "metrics"):
        raise ValueError(f'a key of scope "{scope}" creates nothing')
    return value


def _of_writers(value: bool, info: ValidationInfo) -> bool:
    """Refuse ``templates_write`` for a key that has no names of its own for templates."""
    if value and not info.data.get("templates"):
        raise ValueError(f'a key of scope "{TENANT}" writes templates within its templates, such as ["team-a-*"]')
    return value


_of_tenants: Final = AfterValidator(_only_of_tenants)


def _not_our_own(value: str) -> str:
    """Refuse the names under which timelines, jobs and the audit have what no key has asked for."""
    if value in OWN_NAMES:
        raise ValueError(f'"{value}" is a name of stackd\'s own')
    return value


class ApiKey(Section):
    """A key that is accepted: its name for the log, its hash, and what it allows.

    ``labels`` and ``templates`` are empty for all scopes but ``tenant``, and then allow everything. Without ``pod_specs``,
    it creates stacks from templates only. With ``templates_write``, it may write templates, as admin keys may.
    """

    name: Annotated[str, AfterValidator(_not_our_own)] = Field(
        max_length=64,
        pattern=r"^[^\p{C}\p{Z}]+(?: [^\p{C}\p{Z}]+)*$",
        description="a name of at most 64 printable characters and single spaces",
    )
    sha256: Annotated[bytes, BeforeValidator(_digest_from_hex)] = Field(
        repr=False, description="a SHA-256 in 64 hex digits"
    )
    scope: Scope = Field(default="admin", description="a scope")
    labels: Annotated[TenantLabels, _of_tenants] = Field(
        default_factory=lambda: NO_LABELS,
        validate_default=True,
        description=f'a table of labels such as {{ event = "a" }}, with scope = "{TENANT}",',
    )
    templates: Annotated[tuple[str, ...], as_tuple, _of_tenants] = Field(
        default=(), description=f'a list of names of templates such as ["web-*"], with scope = "{TENANT}",'
    )

    pod_specs: Annotated[bool, AfterValidator(_of_creators)] = Field(default=True, description="true or false")
    templates_write: Annotated[bool, AfterValidator(_of_writers)] = Field(
        default=False, description="true or false, with templates,"
    )

    @property
    def described(self) -> str:
        """The key in the words of the audit: what it may do, and the start of its hash, by which two keys differ."""
        labels = [f"{name}={value}" for name, value in sorted(self.labels.items())]
        what = [self.scope, *labels, *self.templates, *([] if self.pod_specs else ["no pod specs"])]
        what += ["writes templates"] if self.templates_write else []
        return f"{self.name} ({' '.join(what)}, {short_digest(self.sha256)})"

    @cached_property  # a read has few steps; a copy with another name needs its own
    def principal(self) -> Principal:
        """Who has the key."""
        return Principal(id=f"key:{self.sha256.hex()[:ID_DIGITS]}" if self.sha256 else self.name, name=self.name)

    @property
    def tenant(self) -> bool:
        """Whether there are stacks that the key may not see."""
        return self.scope == TENANT

    @property
    def others(self) -> tuple[Mapping[str, str], ...]:
        """The labels of the tenants whose stacks do not count, and are not the key's."""
        return ()

    @property
    def among(self) -> Mapping[str, str]:
        """Limits per label count only the stacks with these labels for a create of this key."""
        return self.labels

    def quotas(self, template: str | None) -> tuple[LabelQuota, ...]:
        """How many stacks a player may have in all, and of this template."""
        return ()

    @property
    def claimant(self) -> str:
        """Whose Idempotency-Keys they are."""
        return self.principal.id

    def may_see(self, labels: Mapping[str, str]) -> bool:
        """Whether the key may see, change and count a stack with these labels."""
        return self.labels.items() <= labels.items()

    def may_read(self, stack: Stack) -> bool:
        """Whether the key may see the stack: a tenant also sees the shared ones of its templates."""
        return self.may_see(stack.labels) or (stack.shared and self.may_use(stack.template or ""))

    def excludes(self, other: ApiKey) -> bool:
        """Whether no stack can be both tenants': they have a label with different values, or in different letter case.

        stackd refuses a create with a tenant's label in another spelling.
        """
        theirs = {name.lower(): (name, value) for name, value in other.labels.items()}
        return any(theirs.get(name.lower(), (name, value)) != (name, value) for name, value in self.labels.items())

    def may_see_job(self, job: Job) -> bool:
        """Whether the key may see the batch job: a tenant sees those that it has requested."""
        return not self.tenant or job.by.id == self.principal.id

    def may_see_history(self, events: Iterable[TimelineEvent]) -> bool:
        """Whether the key may see what is kept of a deleted stack: a tenant sees it of stacks that it has created."""
        return not self.tenant or any(
            one.kind is EventKind.ACCEPTED and one.by.id == self.principal.id for one in events
        )

    def may_write(self, template: str) -> bool:
        """Whether the key may write the template of this name over the API."""
        return not self.tenant or (self.templates_write and self.may_use(template))

    def may_use(self, template: str) -> bool:
        """Whether the key may create stacks from the template of this name."""
        return not self.templates or matches_any(self.templates, template)
