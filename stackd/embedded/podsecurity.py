"""The Pod Security Standards `baseline` and `restricted`, as chosen by the namespace's label. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from stackd.embedded.defaults import containers
from stackd.embedded.resources import Json

LABEL = "pod-security.kubernetes.io/enforce"
_BASELINE = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"
)
_CAPABILITIES = {"baseline": frozenset(_BASELINE.split()), "restricted": frozenset({"NET_BIND_SERVICE"})}
_TYPES = "name configMap csi downwardAPI emptyDir ephemeral image persistentVolumeClaim projected secret"
_VOLUMES = frozenset(_TYPES.split())
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def violation(pod: Json, namespace_labels: Json) -> str | None:
    """Why the namespace's level refuses the pod, or None."""
    level = namespace_labels.get(LABEL, "privileged")
    if level not in _CAPABILITIES or not (found := list(_problems(pod["spec"], level))):
        return None
    version = namespace_labels.get(f"{LABEL}-version", "latest")
    return f'violates PodSecurity "{level}:{version}": {", ".join(found)}'


def _problems(spec: Json, level: str) -> Iterator[str]:
    """The violations, in Kubernetes' order and words."""
    restricted, default = level == "restricted", spec["securityContext"]

    def bad(test: Callable[[Json], object]) -> str:
        """The containers whose security context fails the test; empty if there are none."""
        return _named(
            "container", [one.get("name", "") for one in containers(spec) if test(one.get("securityContext", {}))]
        )

    if restricted and (who := bad(lambda one: one.get("allowPrivilegeEscalation") is not False)):
        yield f"allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
    yield from _capabilities(spec, level, bad)
    if shared := [f"{field}=true" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]:
        yield f"host namespaces ({', '.join(shared)})"
    volumes = spec.get("volumes", ())
    if not restricted and (who := _named("volume", [one["name"] for one in volumes if "hostPath" in one])):
        yield f"hostPath volumes ({who})"
    using = {one.get("name", ""): [port["hostPort"] for port in one.get("ports", ()) if port.get("hostPort")]
             for one in containers(spec)}  # fmt: skip
    if names := [name for name, ports in using.items() if ports]:
        ports = sorted({port for ports in using.values() for port in ports})
        uses = f"use{'' if len(names) > 1 else 's'} hostPort{'s' if len(ports) > 1 else ''}"
        yield f"hostPort ({_named('container', names)} {uses} {', '.join(map(str, ports))})"
    if who := _named("container", [one.get("name", "") for one in containers(spec) if _reaches_host(one)]):
        yield f"probe or lifecycle host ({who} must not set host)"
    if who := bad(lambda one: one.get("privileged")):
        yield f"privileged ({who} must not set securityContext.privileged=true)"
    if who := bad(lambda one: one.get("procMount", "Default") != "Default"):
        yield f'procMount ({who} must not set securityContext.procMount to "Unmasked")'
    if restricted:
        yield from _restrictions(spec, bad)
    elif who := _pod_and(bad(lambda one: _profile(one) == "Unconfined"), pod=_profile(default) == "Unconfined"):
        yield f'seccompProfile ({who} must not set securityContext.seccompProfile.type to "Unconfined")'
    windows = [default, *(one.get("securityContext", {}) for one in containers(spec))]
    if any((one.get("windowsOptions") or {}).get("hostProcess") for one in windows):
        yield "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)"


def _capabilities(spec: Json, level: str, bad: Callable[[Callable[[Json], object]], str]) -> Iterator[str]:
    def added(context: Json) -> set[str]:
        return set(context.get("capabilities", {}).get("add", ())) - _CAPABILITIES[level]

    parts, title = [], "non-default capabilities"
    if level == "restricted":
        title = "unrestricted capabilities"
        if who := bad(lambda one: "ALL" not in one.get("capabilities", {}).get("drop", ())):
            parts.append(f'{who} must set securityContext.capabilities.drop=["ALL"]')
    if who := bad(added):
        more = sorted(set[str]().union(*(added(one.get("securityContext", {})) for one in containers(spec))))
        parts.append(f"{who} must not include {_quoted(more)} in securityContext.capabilities.add")
    if parts:
        yield f"{title} ({'; '.join(parts)})"


def _restrictions(spec: Json, bad: Callable[[Callable[[Json], object]], str]) -> Iterator[str]:
    """What only `restricted` asks for, after what it has in common with `baseline`."""
    default = spec["securityContext"]
    kinds = {volume["name"]: set(volume) - _VOLUMES for volume in spec.get("volumes", ())}
    if who := _named("volume", [name for name, more in kinds.items() if more]):
        types = _quoted(sorted(set[str]().union(*kinds.values())))
        yield f"restricted volume types ({who} uses restricted volume type {types})"
    if who := bad(lambda one: not one.get("runAsNonRoot", default.get("runAsNonRoot"))):
        yield f"runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"
    if who := _pod_and(bad(lambda one: one.get("runAsUser") == 0), pod=default.get("runAsUser") == 0):
        yield f"runAsUser=0 ({who} must not set runAsUser=0)"
    if who := bad(lambda one: (_profile(one) or _profile(default)) not in {"RuntimeDefault", "Localhost"}):
        must = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
        yield f"seccompProfile (pod or {who} {must})"


def _reaches_host(container: Json) -> bool:
    handlers = [container.get(probe, {}) for probe in _PROBES]
    handlers += [container.get("lifecycle", {}).get(hook, {}) for hook in ("postStart", "preStop")]
    return any(handler.get(action, {}).get("host") for handler in handlers for action in ("httpGet", "tcpSocket"))


def _profile(context: Json) -> str | None:
    kind: str | None = context.get("seccompProfile", {}).get("type")
    return kind


def _pod_and(who: str, *, pod: bool) -> str:
    return " and ".join([*(["pod"] if pod else []), *([who] if who else [])])


def _named(what: str, names: list[str]) -> str:
    return f"{what}{'s' if len(names) > 1 else ''} {_quoted(names)}" if names else ""


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
