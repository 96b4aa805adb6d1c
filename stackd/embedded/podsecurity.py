"""The Pod Security Standards `baseline` and `restricted`, as chosen by the namespace's label, as far as stackd's pods and
the recordings can break them. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from stackd.embedded.resources import Json
from stackd.embedded.schema import containers

LABEL = "pod-security.kubernetes.io/enforce"
_BASELINE = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"
)
_CAPABILITIES = {"baseline": frozenset(_BASELINE.split()), "restricted": frozenset({"NET_BIND_SERVICE"})}


def violation(pod: Json, namespace_labels: Json) -> str | None:
    """Why the namespace's level refuses the pod, or None."""
    level = namespace_labels.get(LABEL, "privileged")
    if level not in _CAPABILITIES or not (found := list(_problems(pod["spec"], level))):
        return None
    version = namespace_labels.get(f"{LABEL}-version", "latest")
    return f'violates PodSecurity "{level}:{version}": {", ".join(found)}'


def _problems(spec: Json, level: str) -> Iterator[str]:
    """The violations, in Kubernetes' words."""

    def bad(test: Callable[[Json], object]) -> str:
        """The containers whose security context fails the test; empty if there are none."""
        return _named("container", [one["name"] for one in containers(spec) if test(one.get("securityContext", {}))])

    if who := bad(lambda one: set(one.get("capabilities", {}).get("add", ())) - _CAPABILITIES[level]):
        yield f"non-default capabilities ({who} must not include others in securityContext.capabilities.add)"
    if shared := [f"{field}=true" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]:
        yield f"host namespaces ({', '.join(shared)})"
    if who := _named("volume", [one["name"] for one in spec.get("volumes", ()) if "hostPath" in one]):
        yield f"hostPath volumes ({who})"
    for one in containers(spec):
        for port in one.get("ports", ()):
            if port.get("hostPort"):
                yield f"hostPort ({_named('container', [one['name']])} uses hostPort {port['hostPort']})"
    if who := bad(lambda one: one.get("privileged")):
        yield f"privileged ({who} must not set securityContext.privileged=true)"
    if level == "restricted":
        yield from _restrictions(spec["securityContext"], bad)


def _restrictions(default: Json, bad: Callable[[Callable[[Json], object]], str]) -> Iterator[str]:
    """What only `restricted` asks for; ``default`` is the pod's security context."""
    if who := bad(lambda one: one.get("allowPrivilegeEscalation") is not False):
        yield f"allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
    if who := bad(lambda one: "ALL" not in one.get("capabilities", {}).get("drop", ())):
        yield f'unrestricted capabilities ({who} must set securityContext.capabilities.drop=["ALL"])'
    if who := bad(lambda one: not one.get("runAsNonRoot", default.get("runAsNonRoot"))):
        yield f"runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"
    if who := bad(lambda one: not one.get("seccompProfile", default.get("seccompProfile"))):
        yield f'seccompProfile (pod or {who} must set securityContext.seccompProfile.type to "RuntimeDefault")'


def _named(what: str, names: list[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"{what}{'s' if len(names) > 1 else ''} {quoted}" if names else ""
