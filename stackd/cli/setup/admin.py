"""Find an administrator's kubeconfig, and make stackd's kubeconfig from it.

Owns: reading the cluster's entry (address and authority), and the text of stackd's kubeconfig. The administrator's
credentials are never copied into it.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stackd.errors import ConfigError

USUAL = ("/etc/kubernetes/admin.conf", "/etc/rancher/k3s/k3s.yaml")
"""Where kubeadm and k3s put the administrator's kubeconfig."""

KEPT = ("server", "certificate-authority-data", "tls-server-name", "insecure-skip-tls-verify", "proxy-url")


def kubeconfig_of(environ: Mapping[str, str]) -> Path | None:
    """The first readable kubeconfig: $KUBECONFIG, ~/.kube/config, then those in ``USUAL``."""
    named = [part for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part][:1]
    places = [*named, str(Path(environ.get("HOME") or "/") / ".kube/config"), *USUAL]
    return next((Path(place) for place in places if os.access(place, os.R_OK)), None)


def cluster_entry(path: Path, context: str = "") -> dict[str, Any]:
    """The cluster's address and authority, without credentials. Raises ConfigError."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        name = context or config["current-context"]
        cluster = _named(config["contexts"], name)["context"]["cluster"]
        entry = dict(_named(config["clusters"], cluster)["cluster"])
        if file := entry.pop("certificate-authority", ""):
            authority = (path.parent / file).read_bytes()
            entry.setdefault("certificate-authority-data", base64.b64encode(authority).decode())
        return {key: entry[key] for key in KEPT if key in entry}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ConfigError([f"{path}: its cluster cannot be read: {type(error).__name__}: {error}"]) from error


def render(cluster: Mapping[str, Any], token: str) -> str:
    """The text of stackd's kubeconfig."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "stackd",
        "clusters": [{"name": "stacks", "cluster": dict(cluster)}],
        "users": [{"name": "stackd", "user": {"token": token}}],
        "contexts": [{"name": "stackd", "context": {"cluster": "stacks", "user": "stackd"}}],
    }
    return yaml.safe_dump(config, sort_keys=False)


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)
