"""The Pod Security Standards `baseline` and `restricted`, as chosen by the namespace's label. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from stackd.embedded.defaults import containers
from stackd.embedded.resources import Json

LABEL = "pod-security.kubernetes.io/enforce"

_BASELINE_CAPABILITIES = frozenset(
    [
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
    ]
)
_RESTRICTED_VOLUMES = frozenset(
    [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ]
)
Check = Callable[[Json], str | None]


def violation(pod: Json, namespace_labels: Json) -> str | None:
    """Why the namespace's level refuses the pod, or None."""
    level = namespace_labels.get(LABEL, "privileged")
    checks = {"baseline": _BASELINE, "restricted": _RESTRICTED}.get(level, ())
    found = [problem for check in checks if (problem := check(pod["spec"]))]
    if not found:
        return None
    version = namespace_labels.get(f"{LABEL}-version", "latest")
    return f'violates PodSecurity "{level}:{version}": {", ".join(found)}'


def _contexts(spec: Json) -> Iterator[tuple[str, Json]]:
    for container in containers(spec):
        yield container.get("name", ""), container.get("securityContext", {})


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _containers(names: list[str]) -> str:
    return f"container{'s' if len(names) > 1 else ''} {_quoted(names)}"


def _escalation(spec: Json) -> str | None:
    bad = [name for name, context in _contexts(spec) if context.get("allowPrivilegeEscalation") is not False]
    must = "must set securityContext.allowPrivilegeEscalation=false"
    return f"allowPrivilegeEscalation != false ({_containers(bad)} {must})" if bad else None


def _capabilities(spec: Json) -> str | None:
    bad, added = [], set()
    for name, context in _contexts(spec):
        more = set(context.get("capabilities", {}).get("add", ())) - _BASELINE_CAPABILITIES
        if more:
            bad.append(name)
            added |= more
    must = f"must not include {_quoted(sorted(added))} in securityContext.capabilities.add"
    return f"non-default capabilities ({_containers(bad)} {must})" if bad else None


def _capabilities_restricted(spec: Json) -> str | None:
    keeps, adds, added = [], [], set()
    for name, context in _contexts(spec):
        capabilities = context.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", ()):
            keeps.append(name)
        more = set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}
        if more:
            adds.append(name)
            added |= more
    parts = []
    if keeps:
        parts.append(f'{_containers(keeps)} must set securityContext.capabilities.drop=["ALL"]')
    if adds:
        parts.append(
            f"{_containers(adds)} must not include {_quoted(sorted(added))} in securityContext.capabilities.add"
        )
    return f"unrestricted capabilities ({'; '.join(parts)})" if parts else None


def _host_namespaces(spec: Json) -> str | None:
    shared = [f"{field}=true" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    return f"host namespaces ({', '.join(shared)})" if shared else None


def _host_path(spec: Json) -> str | None:
    bad = [volume["name"] for volume in spec.get("volumes", ()) if "hostPath" in volume]
    return f"hostPath volumes (volume{'s' if len(bad) > 1 else ''} {_quoted(bad)})" if bad else None


def _host_ports(spec: Json) -> str | None:
    bad, ports = [], set()
    for container in containers(spec):
        used = {port["hostPort"] for port in container.get("ports", ()) if port.get("hostPort")}
        if used:
            bad.append(container.get("name", ""))
            ports |= used
    uses = "use" if len(bad) > 1 else "uses"
    listed = ", ".join(str(port) for port in sorted(ports))
    return f"hostPort ({_containers(bad)} {uses} hostPort{'s' if len(ports) > 1 else ''} {listed})" if bad else None


def _host_probes(spec: Json) -> str | None:
    bad = [container.get("name", "") for container in containers(spec) if _reaches_host(container)]
    return f"probe or lifecycle host ({_containers(bad)} must not set host)" if bad else None


def _reaches_host(container: Json) -> bool:
    handlers = [container.get(probe, {}) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    handlers += [container.get("lifecycle", {}).get(hook, {}) for hook in ("postStart", "preStop")]
    actions = [handler.get(action, {}) for handler in handlers for action in ("httpGet", "tcpSocket")]
    return any(action.get("host") for action in actions)


def _privileged(spec: Json) -> str | None:
    bad = [name for name, context in _contexts(spec) if context.get("privileged")]
    return f"privileged ({_containers(bad)} must not set securityContext.privileged=true)" if bad else None


def _proc_mount(spec: Json) -> str | None:
    bad = [name for name, context in _contexts(spec) if context.get("procMount", "Default") != "Default"]
    return f'procMount ({_containers(bad)} must not set securityContext.procMount to "Unmasked")' if bad else None


def _volume_types(spec: Json) -> str | None:
    bad, types = [], set()
    for volume in spec.get("volumes", ()):
        kinds = set(volume) - {"name"} - _RESTRICTED_VOLUMES
        if kinds:
            bad.append(volume["name"])
            types |= kinds
    text = f"volume{'s' if len(bad) > 1 else ''} {_quoted(bad)}"
    return f"restricted volume types ({text} uses restricted volume type {_quoted(sorted(types))})" if bad else None


def _non_root(spec: Json) -> str | None:
    default = spec["securityContext"].get("runAsNonRoot")
    bad = [name for name, context in _contexts(spec) if not context.get("runAsNonRoot", default)]
    must = "must set securityContext.runAsNonRoot=true"
    return f"runAsNonRoot != true (pod or {_containers(bad)} {must})" if bad else None


def _root_user(spec: Json) -> str | None:
    who = ["pod"] if spec["securityContext"].get("runAsUser") == 0 else []
    bad = [name for name, context in _contexts(spec) if context.get("runAsUser") == 0]
    who += [_containers(bad)] if bad else []
    return f"runAsUser=0 ({' and '.join(who)} must not set runAsUser=0)" if who else None


def _seccomp(spec: Json) -> str | None:
    who = ["pod"] if _profile(spec["securityContext"]) == "Unconfined" else []
    bad = [name for name, context in _contexts(spec) if _profile(context) == "Unconfined"]
    who += [_containers(bad)] if bad else []
    must = 'must not set securityContext.seccompProfile.type to "Unconfined"'
    return f"seccompProfile ({' and '.join(who)} {must})" if who else None


def _seccomp_restricted(spec: Json) -> str | None:
    default = _profile(spec["securityContext"])
    allowed = {"RuntimeDefault", "Localhost"}
    bad = [name for name, context in _contexts(spec) if (_profile(context) or default) not in allowed]
    must = 'must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return f"seccompProfile (pod or {_containers(bad)} {must})" if bad else None


def _profile(context: Json) -> str | None:
    kind: str | None = context.get("seccompProfile", {}).get("type")
    return kind


def _host_process(spec: Json) -> str | None:
    contexts = [spec["securityContext"], *(context for _, context in _contexts(spec))]
    bad = any((context.get("windowsOptions") or {}).get("hostProcess") for context in contexts)
    return "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)" if bad else None


_BASELINE: tuple[Check, ...] = (
    _capabilities,
    _host_namespaces,
    _host_path,
    _host_ports,
    _host_probes,
    _privileged,
    _proc_mount,
    _seccomp,
    _host_process,
)
_RESTRICTED: tuple[Check, ...] = (
    _escalation,
    _capabilities_restricted,
    _host_namespaces,
    _host_ports,
    _host_probes,
    _privileged,
    _proc_mount,
    _volume_types,
    _non_root,
    _root_user,
    _seccomp_restricted,
    _host_process,
)
