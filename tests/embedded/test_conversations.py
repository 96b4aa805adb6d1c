"""Leases and ConfigMaps, compared with a real API server: whole conversations are replayed, request by request.

Uids and versions are those of the server that responds. The test compares whether a version is equal to an earlier one
or new.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.embedded.scenes import options
from tests.embedded.wire import Wire, running
from tests.kube.wire import recording

_LEASES = (
    "lease-get-404 leases-list-empty lease-create-201 lease-create-409 lease-get-200 lease-update-200 "
    "lease-update-409 lease-update-422-no-version lease-update-409-uid lease-update-200-unchanged lease-patch-200 "
    "lease-patch-409 lease-patch-200-released leases-list leases-list-selected lease-create-422-duration "
    "lease-create-400-type lease-create-500-version lease-create-201-empty lease-create-201-offset "
    "lease-delete-409-version lease-delete-200 lease-delete-404 lease-update-409-gone lease-update-201-gone "
    "lease-update-201-new watch-lease lease-create-201-dryrun lease-update-200-dryrun lease-update-200-less "
    "lease-update-400-name"
)
_CONFIG_MAPS = (
    "configmap-create-201 configmap-create-409 configmap-get-200 configmap-get-404 configmaps-list-labels "
    "configmap-create-201-immutable configmap-create-201-data configmap-update-200-no-version "
    "configmap-update-200-less configmap-delete-409-uid configmap-delete-200 configmap-delete-404 "
    "configmap-update-404 watch-configmaps"
)
LEASES, CONFIG_MAPS = _LEASES.split(), _CONFIG_MAPS.split()
WITHOUT_A_NAMESPACE = ["lease-create-404-namespace", "lease-create-403-terminating"]
REPLAYED = [*LEASES, *CONFIG_MAPS, *WITHOUT_A_NAMESPACE]
LEASES_PATH = "/apis/coordination.k8s.io/v1/namespaces/rec/leases"
MAPS_PATH = "/api/v1/namespaces/rec/configmaps"


class Conversation:
    """A recorded sequence of requests; maps each recorded uid and version to the one of the embedded cluster."""

    def __init__(self, wire: Wire, before: str) -> None:
        self._wire = wire
        self._before = before
        self._uids: dict[str, str] = {}
        self._versions: dict[str, str] = {}

    async def replay(self, name: str) -> None:
        recorded = recording(name)
        request = recorded["request"]
        path = re.sub(
            r"resourceVersion=(\d+)", lambda found: f"resourceVersion={self._version(found[1])}", request["path"]
        )
        if "events" in recorded:
            events = await self._wire.watch_all(path.replace("timeoutSeconds=2", "timeoutSeconds=1"))
            self._compare(name, recorded["events"], [event for event in events if event["type"] != "BOOKMARK"])
            return
        kind = request.get("content_type", "application/json")
        answer = await self._wire.call(request["method"], path, self._ours(request["body"]), kind=kind)
        assert answer.status == recorded["response"]["status"], (name, answer.body)
        self._compare(name, recorded["response"]["body"], answer.body)

    def _compare(self, name: str, expected: Any, found: Any) -> None:
        self._learn(expected, found)
        assert _settled(found) == _settled(self._ours(expected)), name

    def _learn(self, expected: Any, found: Any) -> None:
        """Remember the uids and versions of objects that are new in the conversation."""
        if isinstance(expected, list) and isinstance(found, list):
            for one, other in zip(expected, found, strict=False):
                self._learn(one, other)
        if not isinstance(expected, dict) or not isinstance(found, dict):
            return
        if "uid" in expected and "resourceVersion" in expected:
            assert self._uids.setdefault(expected["uid"], found["uid"]) == found["uid"]
            known = self._versions.setdefault(expected["resourceVersion"], found["resourceVersion"])
            assert known == found["resourceVersion"]
            assert len(set(self._versions.values())) == len(self._versions)
        elif "uid" in expected and "creationTimestamp" in expected:
            self._uids.setdefault(expected["uid"], found["uid"])
        for key, part in expected.items():
            self._learn(part, found.get(key))

    def _version(self, recorded: str) -> str:
        return self._versions.get(recorded, self._before)

    def _ours(self, recorded: Any) -> Any:
        """The recorded JSON with the embedded cluster's uids and versions."""
        if isinstance(recorded, dict):
            return {
                key: self._versions.get(part, part) if key == "resourceVersion" else self._ours(part)
                for key, part in recorded.items()
            }
        if isinstance(recorded, list):
            return [self._ours(part) for part in recorded]
        if isinstance(recorded, str):
            for uid, ours in self._uids.items():
                recorded = recorded.replace(uid, ours)
            return re.sub(r"\((\d+)\)", lambda found: f"({self._versions.get(found[1], found[1])})", recorded)
        return recorded


def _settled(value: Any) -> Any:
    """The JSON without creation times and without the version of a list, which are the server's own."""
    if isinstance(value, dict):
        whole = {key: _settled(part) for key, part in value.items() if key != "creationTimestamp"}
        if isinstance(value.get("items"), list):
            whole["metadata"] = {}
        return whole
    if isinstance(value, list):
        return [_settled(part) for part in value]
    return value


@pytest.mark.parametrize(("path", "names"), [(LEASES_PATH, LEASES), (MAPS_PATH, CONFIG_MAPS)], ids=["leases", "maps"])
async def test_a_conversation_goes_as_recorded(path: str, names: list[str]) -> None:
    async with running(options()) as wire:
        before = (await wire.get(path)).body["metadata"]["resourceVersion"]
        conversation = Conversation(wire, before)
        for name in names:
            await conversation.replay(name)


@pytest.mark.parametrize("name", WITHOUT_A_NAMESPACE)
async def test_without_its_namespace_there_is_no_lease(name: str) -> None:
    recorded = recording(name)
    async with running(options()) as wire:
        if name.endswith("terminating"):
            await wire.post(MAPS_PATH, {"metadata": {"name": "held", "finalizers": ["test/hold"]}})
        await wire.delete("/api/v1/namespaces/rec")
        if not name.endswith("terminating"):
            await wire.until_gone("/api/v1/namespaces/rec")
        answer = await wire.post(LEASES_PATH, recorded["request"]["body"])
    assert (answer.status, answer.body) == (recorded["response"]["status"], recorded["response"]["body"])
