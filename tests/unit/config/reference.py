"""Prints the example file: ``python -m tests.unit.config.reference``."""

from __future__ import annotations

from typing import Final

from stackd.config.sections import SECTIONS
from stackd.config.settings import settings

_HEADER: Final = """\
# stackd's configuration: every key with its default. Delete what you do not change.
#
# Each key can be set from the environment, which wins over this file: STACKD_<SECTION>__<KEY>, such as
# STACKD_STACKS__TTL=30m or STACKD_STACKS__NODE_SELECTOR=role=stack,zone=a. Durations are written "1h30m", sizes "1MiB".
# `stackd check` reports all mistakes at once. Keys marked (live) take effect at a reload, the others at a restart.
"""
_KEYS: Final = """\
# [[auth.keys]]
# name = "platform"
# sha256 = "<64 hex digits>"
# scope = "admin"  # or "read", or "metrics": /metrics, /healthz, /readyz and /owner only
#
# [[auth.keys]]  # a tenant: its stacks get these labels, and it knows of no others
# name = "ctfd-a"
# sha256 = "<64 hex digits>"
# scope = "tenant"
# labels = { event = "a" }
# templates = ["web-*"]  # those that it may use; without this line, all
# pod_specs = false  # it creates from templates only
# templates_write = true  # it may write these templates over the API
"""
_OIDC: Final = """\
# [auth.oidc]
# issuer = "https://id.example.org"  # as its own description has it, to the last slash
# client_id = "stackd"
# client_secret_file = "/etc/stackd/oidc-secret"  # without this line, the client is a public one, with PKCE
# url = "https://stackd.example.org"  # register <url>/auth/callback at the issuer
# admins = ["ops", "ada@example.org"]  # groups, and e-mail addresses that the issuer has verified
# readers = ["helpers"]
# groups = "groups"  # the claim with a person's groups
"""
_TABLES: Final = {"auth.keys": _KEYS, "auth.oidc": _OIDC}


def example() -> str:
    """The text of ``config.example.toml``."""
    return _HEADER + "".join(_example_section(name, model.__doc__ or "") for name, model in SECTIONS.items())


def _example_section(section: str, doc: str) -> str:
    text = f"\n# {doc.strip()}\n[{section}]\n"
    for setting in settings():
        if setting.section != section:
            continue
        live = " (live)" if setting.live else ""
        body = _TABLES.get(setting.name) or f"{setting.key} = {setting.default}\n"
        text += f"# {setting.why}{live}\n{body}"
    return text


if __name__ == "__main__":
    print(example(), end="")
