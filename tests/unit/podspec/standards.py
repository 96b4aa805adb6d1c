"""The Pod Security Standards, checked on a manifest: written from the standards' text, not from the policy's code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BASELINE_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Every container of the pod, of each kind."""
    return [one for kind in ("initContainers", "containers", "ephemeralContainers") for one in spec.get(kind) or []]


def baseline(pod: dict[str, Any]) -> Iterator[str]:
    """What the pod violates of the baseline standard."""
    spec = pod["spec"]
    own = spec.get("securityContext") or {}
    contexts = [own, *(one.get("securityContext") or {} for one in containers(spec))]
    yield from (field for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field))
    yield from ("hostPath" for volume in spec.get("volumes") or [] if "hostPath" in volume)
    yield from ("sysctls" for _ in own.get("sysctls") or [])
    for one in containers(spec):
        yield from ("hostPort" for port in one.get("ports") or [] if port.get("hostPort"))
        yield from (f"{hook}.host" for hook, action in actions(one) if action.get("host"))
    for context in contexts:
        if (context.get("windowsOptions") or {}).get("hostProcess"):
            yield "hostProcess"
        if context.get("privileged"):
            yield "privileged"
        if set((context.get("capabilities") or {}).get("add") or []) - BASELINE_CAPABILITIES:
            yield "capabilities"
        if (context.get("seccompProfile") or {}).get("type") not in (None, "RuntimeDefault", "Localhost"):
            yield "seccomp"
        if (context.get("appArmorProfile") or {}).get("type") not in (None, "RuntimeDefault", "Localhost"):
            yield "apparmor"
        if context.get("procMount") not in (None, "Default"):
            yield "procMount"
        selinux = context.get("seLinuxOptions") or {}
        if selinux.get("user") or selinux.get("role") or selinux.get("type"):
            yield "selinux"
    annotations = pod["metadata"].get("annotations") or {}
    yield from ("apparmor" for key in annotations if key.startswith("container.apparmor.security.beta.kubernetes.io/"))


def restricted(pod: dict[str, Any]) -> Iterator[str]:
    """What the pod violates of the restricted standard."""
    spec = pod["spec"]
    own = spec.get("securityContext") or {}
    yield from baseline(pod)
    yield from ("volume" for volume in spec.get("volumes") or [] if set(volume) - {"name"} - RESTRICTED_VOLUMES)
    if own.get("runAsUser") == 0:
        yield "runAsUser"
    for one in containers(spec):
        context = one.get("securityContext") or {}
        capabilities = context.get("capabilities") or {}
        if context.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if not context.get("runAsNonRoot", own.get("runAsNonRoot")):
            yield "runAsNonRoot"
        if context.get("runAsUser") == 0:
            yield "runAsUser"
        if (context.get("seccompProfile") or own.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
            yield "seccomp"
        if "ALL" not in (capabilities.get("drop") or []):
            yield "drop"
        if set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
            yield "add"


def actions(container: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every probe's and hook's HTTP or TCP action."""
    lifecycle = container.get("lifecycle") or {}
    owners = {
        **{kind: container.get(kind) for kind in ("livenessProbe", "readinessProbe", "startupProbe")},
        **lifecycle,
    }
    for name, owner in owners.items():
        for kind in ("httpGet", "tcpSocket"):
            if owner and kind in owner:
                yield f"{name}.{kind}", owner[kind]
