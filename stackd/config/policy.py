"""The [policy] section: what pod specs may use beyond the default, and what the operator adds to every pod.

Owns the keys; the rules are ``podspec``'s, which gets them from ``policy_of``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field

from stackd.config.kinds import Annotations, Expects, Flag, Labels, OptionalDnsLabel, Quantity, Strings, as_tuple

if TYPE_CHECKING:
    from stackd.config.sections import Config
    from stackd.podspec.policy import Policy

NOTHING: Mapping[str, str] = MappingProxyType({})


class Toleration(BaseModel):
    """A taint that stacks tolerate, in Kubernetes' own words."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key: Annotated[str, Expects(what="a taint's key")] = ""
    operator: Annotated[Literal["Equal", "Exists"], Expects(what="an operator")] = "Equal"
    value: Annotated[str, Expects(what="a taint's value")] = ""
    effect: Annotated[Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"], Expects(what="an effect")] = ""
    tolerationSeconds: int | None = Field(default=None, description="a whole number of seconds")  # noqa: N815 - Kubernetes' name

    def manifest(self) -> dict[str, object]:
        """The toleration as it stands in a pod, without what is empty."""
        return {name: value for name, value in self.model_dump().items() if value not in ("", None)}


class PolicySection(BaseModel):
    """What pod specs may use beyond the default, and what is added to every pod."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    profile: Annotated[Literal["baseline", "restricted"], Expects(what="a Pod Security Standard")] = Field(
        default="baseline", description="restricted also drops all capabilities and refuses to run as root."
    )
    secrets: Strings = Field(default=(), description="Name patterns of Secrets that pods may use.")
    config_maps: Strings = Field(default=(), description="Name patterns of ConfigMaps that pods may use.")
    volume_claims: Strings = Field(
        default=(), description="Name patterns of PersistentVolumeClaims that pods may mount."
    )
    csi_drivers: Strings = Field(default=(), description="CSI drivers that pods may use for inline volumes.")
    extended_resources: Strings = Field(
        default=(), description='Resources beyond CPU and memory, as patterns: "nvidia.com/gpu".'
    )
    pull_secrets: Strings = Field(default=(), description="Name patterns of image pull secrets that pods may name.")
    images_allow: Strings = Field(default=(), description="Image patterns that may run; empty allows all.")
    images_deny: Strings = Field(default=(), description="Image patterns that may not run, whatever images_allow says.")
    require_digest: Flag = Field(
        default=False, description="Images must be named by digest, which cannot change as a tag can."
    )
    add_capabilities: Strings = Field(default=(), description="Capabilities that containers may add.")
    max_containers: Annotated[int, Ge(1), Le(100), Expects(what="a whole number from 1 to 100")] = Field(
        default=16, description="Containers of a pod, init containers included."
    )
    max_cpu: Quantity = Field(
        default="", description="Largest sum of CPU of a pod; empty leaves it to LimitRange and quota."
    )
    max_memory: Quantity = Field(default="", description="Largest sum of memory of a pod.")
    max_ephemeral_storage: Quantity = Field(default="", description="Largest sum of ephemeral storage of a pod.")
    run_as_root: Flag = Field(default=True, description="Containers may run as user 0, as most challenge images do.")
    run_as_user: Flag = Field(default=False, description="Pod specs may choose runAsUser, runAsGroup and fsGroup.")
    empty_dir_size: Quantity = Field(
        default="1Gi", description="Size limit of an emptyDir that names none, and the largest."
    )
    empty_dir_memory: Flag = Field(default=False, description="emptyDirs may live in memory.")
    runtime_class: OptionalDnsLabel = Field(
        default="", description="Put on every pod: a sandbox such as gvisor or kata."
    )
    tolerations: Annotated[
        tuple[Toleration, ...],
        as_tuple,
        Expects(what='a list of tables such as [{ key = "stacks", operator = "Exists" }]'),
    ] = Field(default=(), description="Put on every pod: the taints of your stack nodes.")
    add_pull_secrets: Strings = Field(default=(), description="Put on every pod: secrets for your own registry.")
    drop_capabilities: Strings = Field(
        default=(), description='Put on every container: ["ALL"] unless challenges need some.'
    )
    labels: Labels = Field(default_factory=lambda: NOTHING, description="Put on every pod, for your own tools.")
    annotations: Annotations = Field(default_factory=lambda: NOTHING, description="Put on every pod, as labels are.")


def policy_of(config: Config) -> Policy:
    """The pod policy that this configuration asks for; ConfigError where its keys contradict each other."""
    from stackd.podspec.policy import Policy

    keys = {name: getattr(config.policy, name) for name in PolicySection.model_fields if name != "tolerations"}
    tolerations = tuple(toleration.manifest() for toleration in config.policy.tolerations)
    return Policy(**keys, tolerations=tolerations, restart_policy=config.stacks.restart_policy)
