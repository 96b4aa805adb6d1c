"""Which cluster is meant: turns ``mode = "auto"`` and an empty ``kubeconfig`` into a decision.

Owns the order of places. Reads no kubeconfig: that is ``kube``'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from stackd.config.credentials import credential
from stackd.config.sections import ClusterSection, Config
from stackd.errors import ConfigError

CREDENTIAL: Final = "kubeconfig"
NO_CLUSTER: Final = (
    f"no cluster is configured; set cluster.kubeconfig, $KUBECONFIG or the systemd credential {CREDENTIAL} "
    '(/etc/stackd/kubeconfig), or cluster.mode to "in-cluster" or "embedded"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The section with the decision in it, and where that came from; ``mistake`` if there is none to make."""

    cluster: ClusterSection
    origin: str = ""
    mistake: str = ""


def choose(cluster: ClusterSection, environ: Mapping[str, str], credentials: Path | None) -> Choice:
    """Decide. In mode auto with no cluster in sight the section stays as it is."""
    if cluster.mode in ("in-cluster", "embedded"):
        return Choice(cluster=cluster)
    if cluster.kubeconfig:
        return _explicit(cluster)
    if (file := credential(credentials, CREDENTIAL)) is not None:
        return _file(cluster, str(file), f"credential {CREDENTIAL}")
    if cluster.mode == "auto" and environ.get("KUBERNETES_SERVICE_HOST"):
        return Choice(cluster=_decided(cluster, "in-cluster", ""), origin="environment KUBERNETES_SERVICE_HOST")
    if _readable(environ.get("KUBECONFIG", "")):
        return _file(cluster, environ["KUBECONFIG"], "environment KUBECONFIG")
    home = os.path.join(environ["HOME"], ".kube", "config") if environ.get("HOME") else ""
    if _readable(home):
        return _file(cluster, home, "~/.kube/config")
    return Choice(cluster=cluster, mistake=NO_CLUSTER if cluster.mode == "kubeconfig" else "")


def require_cluster(config: Config) -> None:
    """Raise ConfigError unless it is decided which cluster is meant; for commands that talk to one."""
    if config.cluster.mode == "auto":
        raise ConfigError([f"[cluster] kubeconfig: {NO_CLUSTER}"])


def _explicit(cluster: ClusterSection) -> Choice:
    if not _readable(cluster.kubeconfig):
        return Choice(cluster=cluster, mistake="there is no such file, or it cannot be read; a kubeconfig is expected")
    return Choice(cluster=_decided(cluster, "kubeconfig", cluster.kubeconfig))


def _file(cluster: ClusterSection, path: str, origin: str) -> Choice:
    return Choice(cluster=_decided(cluster, "kubeconfig", path), origin=origin)


def _decided(cluster: ClusterSection, mode: Literal["kubeconfig", "in-cluster"], path: str) -> ClusterSection:
    return cluster.model_copy(update={"mode": mode, "kubeconfig": path})


def _readable(paths: str) -> bool:
    """Whether one of the files, which stand in a row as in $KUBECONFIG, can be read."""
    return any(os.path.isfile(path) and os.access(path, os.R_OK) for path in paths.split(os.pathsep) if path)
