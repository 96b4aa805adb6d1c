"""Which images a pod may use.

Owns: taking an image reference apart, and the operator's patterns over it. Never asks a registry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stackd.podspec.names import matches_any
from stackd.podspec.policy import Policy
from stackd.podspec.reasons import Reasons

_REFERENCE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?\Z"
)
_LONGEST = 1024
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]")
_HUB = "docker.io/"
_OFFICIAL = "docker.io/library/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image reference: the full name with its registry, the tag and the digest."""

    name: str
    tag: str | None
    digest: str | None

    def names(self) -> list[str]:
        """The full name, and the shorter ones under which the same repository is known."""
        names = [self.name]
        if self.name.startswith(_HUB):
            names.append(self.name.removeprefix(_HUB))
        if self.name.startswith(_OFFICIAL):
            names.append(self.name.removeprefix(_OFFICIAL))
        return names

    def exact(self) -> list[str]:
        """What a pattern that allows may fit: the repository, or the whole reference."""
        suffix = (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
        return [form for name in self.names() for form in (name, name + suffix)]

    def loose(self) -> list[str]:
        """What a pattern that denies may fit: also the tag or the digest alone."""
        parts = (self.tag and f":{self.tag}", self.digest and f"@{self.digest}")
        return self.exact() + [name + part for name in self.names() for part in parts if part]


def parse_reference(image: str) -> Reference | None:
    """The parts of ``image`` as a container runtime would read it; ``None`` if it would not."""
    match = _REFERENCE.match(image)
    if match is None:
        return None
    name, tag, digest = match.group("name", "tag", "digest")
    first, slash, rest = name.partition("/")
    if not slash:
        if ":" in name:
            # Without a slash, what follows the colon is a tag of digits, not a registry's port.
            name, _, port = name.partition(":")
            if tag is not None:
                return None
            tag = port
        name = _OFFICIAL + name
    elif "." not in first and ":" not in first and first != "localhost":
        name = _HUB + name
    elif first in ("index.docker.io", "registry-1.docker.io", "docker.io"):
        name = (_HUB if "/" in rest else _OFFICIAL) + rest
    if name.partition("/")[2] != name.partition("/")[2].lower():
        return None
    return Reference(name=name, tag=tag or (None if digest else "latest"), digest=digest)


def check_image(image: str, path: str, policy: Policy, reasons: Reasons) -> None:
    """Note why ``image`` may not be used, if so."""
    if len(image) > _LONGEST or _BLANK.search(image):
        reasons.add(path, f"must be an image reference, without blanks and of at most {_LONGEST} characters")
        return
    if not (policy.require_digest or policy.images_allow or policy.images_deny):
        return
    reference = parse_reference(image)
    if reference is None:
        reasons.add(path, "not a valid image reference")
    elif policy.require_digest and reference.digest is None:
        reasons.add(path, "must be pinned by its digest (policy.require_digest)")
    elif any(matches_any(policy.images_deny, form) for form in reference.loose()):
        reasons.add(path, "this image is denied (policy.images_deny)")
    elif policy.images_allow and not any(matches_any(policy.images_allow, form) for form in reference.exact()):
        reasons.add(path, "only images that policy.images_allow names may be used")
