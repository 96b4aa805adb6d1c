"""The target of a client under test: a kubeconfig with an address."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from stackd.embedded.cluster import render_kubeconfig
from stackd.kube.credentials import ClusterTarget

FOLDER = Path(tempfile.mkdtemp(prefix="stackd-targets-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def target_at(url: str, *, token: str | None = None, **options: Any) -> ClusterTarget:
    """The API server at that address, with this token."""
    text = render_kubeconfig(url, token)
    path = FOLDER / hashlib.sha256(text.encode()).hexdigest()
    path.write_text(text)
    return ClusterTarget(kubeconfig=str(path), **options)
