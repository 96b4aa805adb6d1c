"""Kubeconfig files that lead to an embedded cluster. Pure."""

from __future__ import annotations

import json


def render_kubeconfig(url: str, token: str | None) -> str:
    """One cluster, one user, one context. (JSON is YAML.)"""
    name = "embedded"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url}}],
        "users": [{"name": name, "user": {"token": token} if token else {}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return json.dumps(config, indent=2) + "\n"
