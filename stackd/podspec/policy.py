"""The operator's choices: section ``[policy]`` of the configuration.

Owns: the keys, their defaults, one line about each, and what is wrong with them. Does not apply them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from stackd.errors import ConfigError
from stackd.podspec import quantity
from stackd.podspec.names import is_key, is_label_value, is_subdomain

PROFILES = ("baseline", "restricted")
RESTART_POLICIES = ("Never", "OnFailure", "Always")
BASELINE_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
RESTRICTED_CAPABILITIES = frozenset({"NET_BIND_SERVICE"})
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a pod spec may ask for beyond the default, and what is added to every pod. Raises ``ConfigError``."""

    profile: str = "baseline"
    """Pod Security Standard that every pod meets: "baseline", or "restricted"."""
    secrets: tuple[str, ...] = ()
    """Name patterns of the Secrets that pods may read."""
    config_maps: tuple[str, ...] = ()
    """Name patterns of the ConfigMaps that pods may read."""
    volume_claims: tuple[str, ...] = ()
    """Name patterns of the PersistentVolumeClaims that pods may mount."""
    csi_drivers: tuple[str, ...] = ()
    """Name patterns of the CSI drivers whose inline volumes pods may mount."""
    extended_resources: tuple[str, ...] = ()
    """Patterns of further resources, such as "nvidia.com/gpu"."""
    pull_secrets: tuple[str, ...] = ()
    """Name patterns of the image pull secrets that pods may name."""
    images_allow: tuple[str, ...] = ()
    """Image patterns ("ghcr.io/acme/**") to which pods are limited; none: any."""
    images_deny: tuple[str, ...] = ()
    """Image patterns that are refused even if allowed above."""
    require_digest: bool = False
    """Whether each image must be pinned by its digest."""
    add_capabilities: tuple[str, ...] = ()
    """Capabilities that containers may ask for, of those the profile allows."""
    max_containers: int = 16
    """Most containers in one pod, init containers included."""
    max_cpu: str = ""
    """Most CPU for one pod, such as "2"; empty: no limit."""
    max_memory: str = ""
    """Most memory for one pod, such as "4Gi"; empty: no limit."""
    max_ephemeral_storage: str = ""
    """Most ephemeral storage for one pod, such as "8Gi"; empty: no limit."""
    run_as_root: bool = True
    """Whether containers may run as root; false adds runAsNonRoot to every pod."""
    run_as_user: bool = False
    """Whether a pod spec may choose user and groups (runAsUser, runAsGroup, fsGroup)."""
    empty_dir_size: str = "1Gi"
    """Size limit of an emptyDir: the largest allowed, and the default; empty: none."""
    empty_dir_memory: bool = False
    """Whether an emptyDir may be in memory (medium: Memory)."""
    runtime_class: str = ""
    """Runtime class of every pod, such as "gvisor" or "kata"."""
    tolerations: tuple[Mapping[str, Any], ...] = ()
    """Tolerations added to every pod."""
    add_pull_secrets: tuple[str, ...] = ()
    """Image pull secrets added to every pod."""
    drop_capabilities: tuple[str, ...] = ()
    """Capabilities dropped from every container, such as "ALL"."""
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """Labels added to every pod."""
    annotations: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """Annotations added to every pod."""
    restart_policy: str = "Never"
    """Restart policy of every pod (set by stacks.restart_policy)."""
    max_cpu_milli: int | None = field(init=False, repr=False)
    max_memory_bytes: int | None = field(init=False, repr=False)
    max_ephemeral_bytes: int | None = field(init=False, repr=False)
    empty_dir_quantity: quantity.Quantity | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mistakes = [*_choices(self), *_capabilities(self), *_additions(self)]
        amounts = {}
        for key in ("max_cpu", "max_memory", "max_ephemeral_storage", "empty_dir_size"):
            try:
                amounts[key] = _amount(getattr(self, key))
            except ValueError as exc:
                mistakes.append(f"policy.{key}: {exc}")
        if mistakes:
            raise ConfigError(mistakes)
        cpu, memory = amounts["max_cpu"], amounts["max_memory"]
        storage, directory = amounts["max_ephemeral_storage"], amounts["empty_dir_size"]
        object.__setattr__(self, "max_cpu_milli", cpu.milli if cpu else None)
        object.__setattr__(self, "max_memory_bytes", memory.whole if memory else None)
        object.__setattr__(self, "max_ephemeral_bytes", storage.whole if storage else None)
        object.__setattr__(self, "empty_dir_quantity", directory.in_whole() if directory else None)

    @property
    def restricted(self) -> bool:
        """Whether pods meet the restricted standard."""
        return self.profile == "restricted"

    @property
    def non_root(self) -> bool:
        """Whether no container may run as root."""
        return self.restricted or not self.run_as_root


def _amount(text: str) -> quantity.Quantity | None:
    if not text:
        return None
    amount = quantity.parse(text)
    if amount.nanos <= 0:
        raise ValueError("must be more than zero, or empty")
    return amount


def _choices(policy: Policy) -> list[str]:
    mistakes = []
    if policy.profile not in PROFILES:
        mistakes.append(f"policy.profile: must be one of {', '.join(PROFILES)}")
    if policy.restart_policy not in RESTART_POLICIES:
        mistakes.append(f"stacks.restart_policy: must be one of {', '.join(RESTART_POLICIES)}")
    if policy.max_containers < 1:
        mistakes.append("policy.max_containers: must be at least 1")
    return mistakes


def _capabilities(policy: Policy) -> list[str]:
    possible = RESTRICTED_CAPABILITIES if policy.restricted else BASELINE_CAPABILITIES
    return [
        f"policy.add_capabilities: {name} is not within the {policy.profile} standard ({', '.join(sorted(possible))})"
        for name in policy.add_capabilities
        if name not in possible
    ]


def _additions(policy: Policy) -> list[str]:
    mistakes = []
    if policy.runtime_class and not is_subdomain(policy.runtime_class):
        mistakes.append("policy.runtime_class: not the name of a RuntimeClass")
    mistakes += [
        f"policy.add_pull_secrets: {name} is not a name" for name in policy.add_pull_secrets if not is_subdomain(name)
    ]
    for section, entries in (("labels", policy.labels), ("annotations", policy.annotations)):
        mistakes += [f"policy.{section}: {key} is not a valid key" for key in entries if not is_key(key)]
    mistakes += [
        f"policy.labels: {key} has no valid value" for key, value in policy.labels.items() if not is_label_value(value)
    ]
    return mistakes


DEFAULT_POLICY = Policy()
"""What the design promises with an empty ``[policy]``."""
