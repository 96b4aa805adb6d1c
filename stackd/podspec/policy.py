"""The operator's choices: section ``[policy]`` of the configuration.

Owns: the keys, their defaults, one line about each, and their validation, also of keys that contradict each other;
which labels and annotations are stackd's own. Other modules check pod specs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from stackd import quantity
from stackd.errors import ConfigError
from stackd.kinds import Annotations, Expects, Flag, Labels, OptionalDnsLabel, Quantity, Section, Strings, as_tuple, key
from stackd.names import did_you_mean, is_subdomain

RestartPolicy = Literal["Never", "OnFailure", "Always"]
RESTRICTED_CAPABILITIES = frozenset({"NET_BIND_SERVICE"})
_BASELINE = "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"
BASELINE_CAPABILITIES = RESTRICTED_CAPABILITIES.union(_BASELINE.split())
_OTHERS = (
    "ALL AUDIT_CONTROL AUDIT_READ BLOCK_SUSPEND BPF CHECKPOINT_RESTORE DAC_READ_SEARCH IPC_LOCK IPC_OWNER LEASE"
    " LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE NET_ADMIN NET_BROADCAST NET_RAW PERFMON SYSLOG SYS_ADMIN SYS_BOOT"
    " SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM"
)
DROPPABLE = BASELINE_CAPABILITIES.union(_OTHERS.split())
"""All capabilities of Linux. A runtime ignores an unknown one, so a misspelt name would drop nothing."""
_NOTHING: Mapping[str, str] = MappingProxyType({})


def _plain(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names as pods spell them; ``CAP_NET_RAW`` is what Linux calls ``NET_RAW``."""
    return tuple(dict.fromkeys(name.upper().removeprefix("CAP_") for name in names))


class Toleration(Section):
    """A taint that stacks tolerate, in Kubernetes' own words."""

    key: Annotated[str, Expects(what="a taint's key")] = ""
    operator: Annotated[Literal["Equal", "Exists"], Expects(what="an operator")] = "Equal"
    value: Annotated[str, Expects(what="a taint's value")] = ""
    effect: Annotated[Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"], Expects(what="an effect")] = ""
    tolerationSeconds: int | None = Field(default=None, description="a whole number of seconds")  # noqa: N815 - Kubernetes' name

    def manifest(self) -> dict[str, object]:
        """The toleration as a pod has it, without empty fields."""
        return {name: value for name, value in self.model_dump().items() if value not in ("", None)}


class PolicySection(Section):
    """What pod specs may use beyond the default, and what is added to every pod."""

    profile: Annotated[Literal["baseline", "restricted"], Expects(what="a Pod Security Standard")] = key(
        "baseline", "restricted also drops all capabilities and refuses to run as root."
    )
    secrets: Strings = key((), "Name patterns of Secrets that pods may use.")
    config_maps: Strings = key((), "Name patterns of ConfigMaps that pods may use.")
    volume_claims: Strings = key((), "Name patterns of PersistentVolumeClaims that pods may mount.")
    csi_drivers: Strings = key((), "CSI drivers that pods may use for inline volumes.")
    extended_resources: Strings = key((), 'Resources beyond CPU and memory, as patterns: "nvidia.com/gpu".')
    pull_secrets: Strings = key((), "Name patterns of image pull secrets that pods may name.")
    allow_annotations: Strings = key(
        (), "Annotations that pods may have, as patterns; runtimes and networks obey some."
    )
    node_labels: Strings = key(
        (), 'Patterns of the cluster\'s labels by which pods may choose nodes: "topology.kubernetes.io/*".'
    )
    images_allow: Strings = key((), "Image patterns that may run; empty allows all.")
    images_deny: Strings = key((), "Image patterns that may not run, whatever images_allow says.")
    require_digest: Flag = key(False, "Images must be named by digest, which cannot change as a tag can.")
    add_capabilities: Strings = key((), "Capabilities that containers may add.")
    max_containers: Annotated[int, Field(ge=1, le=100), Expects(what="a whole number from 1 to 100")] = key(
        16, "Containers of a pod, init containers included."
    )
    max_cpu: Quantity = key("", "Largest sum of CPU of a pod; empty leaves it to LimitRange and quota.")
    max_memory: Quantity = key("", "Largest sum of memory of a pod, emptyDirs in memory included.")
    max_ephemeral_storage: Quantity = key(
        "", "Largest sum of disk of a pod, emptyDirs included, and what it gets if it names none."
    )
    max_volumes: Annotated[int, Field(ge=0, le=1000), Expects(what="a whole number from 0 to 1000")] = key(
        16, "Volumes of a pod."
    )
    run_as_root: Flag = key(True, "Containers may run as user 0, as most challenge images do.")
    run_as_user: Flag = key(False, "Pod specs may choose runAsUser, runAsGroup and fsGroup.")
    empty_dir_size: Quantity = key("1Gi", "Size limit of an emptyDir that names none, and the largest.")
    empty_dir_memory: Flag = key(False, "emptyDirs may live in memory.")
    runtime_class: OptionalDnsLabel = key("", "Put on every pod: a sandbox such as gvisor or kata.")
    tolerations: Annotated[
        tuple[Toleration, ...],
        as_tuple,
        Expects(what='a list of tables such as [{ key = "stacks", operator = "Exists" }]'),
    ] = key((), "Put on every pod: the taints of your stack nodes.")
    add_pull_secrets: Strings = key(
        (), "Put on every pod: secrets for your own registry; in a template's policy, on its pods only."
    )
    drop_capabilities: Annotated[Strings, AfterValidator(_plain)] = key(
        ("NET_RAW",), 'Dropped from every container that does not add them; "ALL" unless challenges need some.'
    )
    labels: Labels = key(_NOTHING, "Put on every pod, for your own tools.")
    annotations: Annotations = key(_NOTHING, "Put on every pod, as labels are.")


class Policy(PolicySection):
    """The section, and what other sections say about pod specs. Raises ConfigError if keys contradict each other."""

    restart_policy: RestartPolicy = "Never"
    """Restart policy of every pod (stacks.restart_policy)."""
    egress: str = ""
    """Which NetworkPolicy says what its pods reach (a template's network.egress); empty: the one for all stacks."""
    host_names: tuple[str, ...] = ()
    """Names of the pod's own machine (a template's names)."""
    max_text: int = 64 << 10
    """Most bytes of a pod spec's text, as sent and as stored (limits.pod_spec)."""

    def model_post_init(self, context: Any, /) -> None:
        """Raise ConfigError for values that are not possible."""
        if mistakes := list(self._mistakes()):
            raise ConfigError(mistakes)

    @property
    def restricted(self) -> bool:
        """Whether pods meet the restricted standard."""
        return self.profile == "restricted"

    @property
    def non_root(self) -> bool:
        """Whether no container may run as root."""
        return self.restricted or not self.run_as_root

    def amount(self, key: str) -> quantity.Quantity | None:
        """The amount under this key, CPU in thousandths of a core and the rest in whole bytes; None for no limit."""
        text: str = getattr(self, key)
        amount = quantity.parse(text) if text else None
        return amount and (amount.in_milli() if key == "max_cpu" else amount.in_ones())

    def _mistakes(self) -> Iterator[str]:
        for name in ("max_cpu", "max_memory", "max_ephemeral_storage", "empty_dir_size"):
            if (amount := self.amount(name)) is not None and amount.nanos <= 0:
                yield f"policy.{name}: must be more than zero, or empty"
        possible = RESTRICTED_CAPABILITIES if self.restricted else BASELINE_CAPABILITIES
        for name in self.add_capabilities:
            if name not in possible:
                standard = f"{self.profile} standard ({', '.join(sorted(possible))})"
                yield f"policy.add_capabilities: {name} is not within the {standard}"
        for name in self.drop_capabilities:
            if name not in DROPPABLE:
                yield f"policy.drop_capabilities: {name} is not a capability{did_you_mean(name, DROPPABLE)}"
        for name in self.add_pull_secrets:
            if not is_subdomain(name):
                yield f"policy.add_pull_secrets: {name} is not a valid name of a Secret"


def is_reserved(key: str) -> bool:
    """Whether a label or annotation of this name is stackd's own."""
    prefix = key.rpartition("/")[0]
    return key == "app.kubernetes.io/managed-by" or prefix == "stackd.io" or prefix.endswith(".stackd.io")
