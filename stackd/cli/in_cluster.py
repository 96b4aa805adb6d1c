"""The objects with which stackd itself runs in the cluster: for ``stackd manifests --run``. Pure.

The daemon is the one of the VM. Its folder ``/etc/stackd`` has the configuration and the keys, as there; what a pod does
otherwise is in its environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stackd.cli.provision import Manifest, ManifestOptions
from stackd.config import Config
from stackd.config.sources import variable
from stackd.kube.manifests import DUAL_STACK
from stackd.kube.wire import KINDS
from stackd.timing import STOP_EXTRA_SECONDS

USER = 10001
VOLUME_SIZE = "1Gi"
ETC, STATE = "/etc/stackd", "/var/lib/stackd"
CONFIG = "config.toml"
# For how long the pod may be bound to a node that is lost. Kubernetes' own five minutes would leave one replica without a
# second, or two without a standby; a node that comes back finds that another pod has the Lease.
LOST_NODE_SECONDS = 30


def run_documents(
    config: Config, site: ManifestOptions, image: str, files: Mapping[str, str], *, replicas: int, volume: bool
) -> Iterator[Manifest]:
    """What runs ``image`` with these files in ``/etc/stackd``; if only the configuration is given, somebody makes the Secret.

    Of several replicas one owns the stacks, by the Lease, and only that one is ready: so the Service leads to it, and the
    PodDisruptionBudget may hold back no eviction.
    """
    name, port = site.account, config.server.port
    ours = {"app.kubernetes.io/name": name}

    def manifest(kind: str, version: str, **fields: Any) -> Manifest:
        where = {"name": name, "namespace": site.account_namespace, "labels": ours}
        return {"apiVersion": version, "kind": kind, "metadata": where, **fields}

    yield manifest("ConfigMap", "v1", data={CONFIG: files[CONFIG]})
    if secrets := {key: text for key, text in files.items() if key != CONFIG}:
        yield manifest("Secret", "v1", stringData=secrets)
    if volume:
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": VOLUME_SIZE}}}
        yield manifest("PersistentVolumeClaim", "v1", spec=claim)
    ports = [{"name": "api", "port": port, "targetPort": port}]
    yield manifest("Service", "v1", spec={"selector": ours, "ports": ports, **DUAL_STACK})
    rules = {"ingress": [{"ports": [{"protocol": "TCP", "port": port}]}], "egress": [{}]}
    policy = {"podSelector": {"matchLabels": ours}, "policyTypes": ["Ingress", "Egress"], **rules}
    yield manifest("NetworkPolicy", KINDS["networkpolicies"].api_version, spec=policy)
    budget = {
        "maxUnavailable": replicas,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": ours},
    }
    yield manifest("PodDisruptionBudget", "policy/v1", spec=budget)
    pod = {"metadata": {"labels": ours}, "spec": _pod(config, site, image, ours, volume=volume)}
    spec = {"replicas": replicas, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": ours}, "template": pod}
    yield manifest("Deployment", "apps/v1", spec=spec)


def _pod(config: Config, site: ManifestOptions, image: str, ours: Mapping[str, str], *, volume: bool) -> dict[str, Any]:
    environment = {
        "CREDENTIALS_DIRECTORY": ETC,
        variable("cluster", "mode"): "in-cluster",
        variable("server", "host"): "::",  # the NetworkPolicy limits it
        variable("state", "path"): f"{STATE}/stackd.db",
    }
    owner = ["stackd", "owner"]
    container = {
        "name": "stackd",
        "image": image,
        "args": ["serve", "--config", f"{ETC}/{CONFIG}"],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "ports": [{"name": "api", "containerPort": config.server.port}],
        "livenessProbe": {"exec": {"command": owner}, "periodSeconds": 30, "timeoutSeconds": 10, "initialDelaySeconds": 30},
        "readinessProbe": {
            "exec": {"command": [*owner, "--is", "owner"]}, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 1,
        },
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in (("etc", ETC), ("state", STATE), ("tmp", "/tmp"))],  # noqa: S108
    }  # fmt: skip
    sources = [{kind: {"name": site.account}} for kind in ("configMap", "secret")]
    state = (
        {"persistentVolumeClaim": {"claimName": site.account}} if volume else {"emptyDir": {"sizeLimit": VOLUME_SIZE}}
    )
    lost = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LOST_NODE_SECONDS}
    away = {"labelSelector": {"matchLabels": ours}, "topologyKey": "kubernetes.io/hostname"}
    return {
        "serviceAccountName": site.account,
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": round(config.server.shutdown_timeout + STOP_EXTRA_SECONDS),
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": away}]
            }
        },
        "tolerations": [{"key": f"node.kubernetes.io/{state}", **lost} for state in ("not-ready", "unreachable")],
        "containers": [container],
        "volumes": [
            {"name": "etc", "projected": {"sources": [*sources], "defaultMode": 0o440}},
            {"name": "state", **state},
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        ],
    }  # fmt: skip
