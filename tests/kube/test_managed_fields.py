"""``managedFields`` are cut out before an object is read, and nothing else is, whatever the object holds."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from stackd.kube.wire import KubeResponse, read_json
from tests.kube.recorded import recording

MARKS = ',"managedFields":[{"a":1}]},"spec":{"b":2}'


def stripped(value: Any) -> Any:
    """The value without the managedFields of its objects."""
    if isinstance(value, dict):
        return {key: stripped(one) for key, one in value.items() if key != "managedFields"}
    return [stripped(one) for one in value] if isinstance(value, list) else value


def pod(**metadata: Any) -> dict[str, Any]:
    """A pod as Kubernetes orders it: managedFields at the end of its metadata, then the spec."""
    managed = [{"manager": "stackd", "fieldsV1": {"f:spec": {"f:containers": {'k:{"name":"app"}': {}}}}}]
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "a", **metadata, "managedFields": managed},
        "spec": {"containers": [{"name": "app", "env": [{"name": "X", "value": MARKS}]}]},
        "status": {"message": MARKS},
    }


def test_an_object_is_read_without_them() -> None:
    assert read_json(orjson.dumps(pod())) == stripped(pod())
    event = {"type": "MODIFIED", "object": pod()}
    assert read_json(orjson.dumps(event)) == stripped(event)
    assert KubeResponse(status=200, body=orjson.dumps(pod())).document == stripped(pod())


@pytest.mark.parametrize("text", [MARKS, MARKS * 2, json.dumps(MARKS), MARKS[:20], MARKS[20:]])
def test_text_that_looks_like_them_stays(text: str) -> None:
    hostile = pod(annotations={"a": text, "b": text}, labels={"c": text})
    assert read_json(orjson.dumps(hostile)) == stripped(hostile)


def test_of_what_a_real_api_server_sends_nothing_else_is_lost() -> None:
    for event in recording("watch-managed-fields")["events"]:
        assert event["object"]["metadata"]["managedFields"]
        assert read_json(orjson.dumps(event)) == stripped(event)


def test_no_item_of_a_list_is_lost() -> None:
    bare = {key: value for key, value in pod().items() if key != "spec"}
    document = {"kind": "PodList", "metadata": {}, "items": [bare, pod(), {**bare, "spec": {}}]}
    assert stripped(read_json(orjson.dumps(document))) == stripped(document)


def test_an_object_of_another_order_is_read_as_a_whole() -> None:
    template = {"metadata": {"ownerReferences": [{}]}, "spec": {"accessModes": []}}
    later = pod()
    later["metadata"]["newField"] = 1
    later["spec"]["volumes"] = [{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]
    assert read_json(orjson.dumps(later)) == later
    without_spec = {"kind": "ConfigMap", "metadata": {"name": "a", "managedFields": [{}]}, "data": {}}
    assert read_json(orjson.dumps(without_spec)) == without_spec


@pytest.mark.parametrize("text", [b"", b"{", b',"managedFields":[]},"spec":{', b'{"a":1,"managedFields":[]},"spec":{'])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        read_json(text)
