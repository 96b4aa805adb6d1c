"""What the API says about itself: version, health, and enough discovery for kubectl. Pure."""

from __future__ import annotations

import orjson

from stackd.embedded.resources import ALL, Json

VERSION: Json = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.2+embedded",
    "gitCommit": "",
    "gitTreeState": "",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": "embedded",
}
_HEALTH = frozenset({"/healthz", "/livez", "/readyz"})
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def discover(path: str, method: str) -> tuple[int, bytes, str] | None:
    """The answer, if the path is one of these."""
    if method != "GET":
        return None
    if path in _HEALTH:
        return 200, b"ok", "text/plain"
    body = _documents().get(path.rstrip("/"))
    if body is not None:
        return 200, orjson.dumps(body), "application/json"
    if not path.startswith(("/api/", "/apis/")):
        return 404, b"404 page not found\n", "text/plain"
    return None


def _documents() -> dict[str, Json]:
    return _DOCUMENTS


def _resource_list(group: str, version: str) -> Json:
    resources = [
        {
            "name": one.plural,
            "singularName": one.kind.lower(),
            "namespaced": one.namespaced,
            "kind": one.kind,
            "verbs": _VERBS,
            "shortNames": list(one.short_names),
        }
        for one in ALL
        if (one.group, one.version) == (group, version)
    ]
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources}


def _groups() -> Json:
    found = sorted({(one.group, one.version) for one in ALL if one.group})
    groups = []
    for group, version in found:
        entry = {"groupVersion": f"{group}/{version}", "version": version}
        groups.append({"name": group, "versions": [entry], "preferredVersion": entry})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


_DOCUMENTS: dict[str, Json] = {
    "/version": VERSION,
    "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
    "/api/v1": _resource_list("", "v1"),
    "/apis": _groups(),
} | {f"/apis/{one.group}/{one.version}": _resource_list(one.group, one.version) for one in ALL if one.group}
