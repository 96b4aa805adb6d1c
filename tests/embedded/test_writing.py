from __future__ import annotations

from typing import Any

import pytest

from tests.embedded.wire import Wire, fast, pod, running

PODS = "/api/v1/namespaces/rec/pods"
SERVICES = "/api/v1/namespaces/rec/services"
MERGE = "application/merge-patch+json"


async def test_a_patch_changes_labels_and_annotations_of_a_pod(wire: Wire) -> None:
    await wire.make_pod(labels={"a": "1", "b": "2"})
    answer = await wire.call("PATCH", f"{PODS}/one", {"metadata": {"labels": {"a": None, "c": "3"}}}, kind=MERGE)
    assert answer.body["metadata"]["labels"] == {"b": "2", "c": "3"}
    answer = await wire.call("PATCH", f"{PODS}/one", {"metadata": {"annotations": {"x": "y"}}}, kind=MERGE)
    assert answer.body["metadata"]["annotations"] == {"x": "y"}
    listed = await wire.get(f"{PODS}?labelSelector=c%3D3")
    assert len(listed.body["items"]) == 1


async def test_a_patch_that_changes_nothing_makes_no_new_version(wire: Wire) -> None:
    await wire.make_pod(labels={"a": "1"}, nodeSelector={"no": "where"})
    before = await wire.until_pod("one", lambda body: "conditions" in body["status"])
    after = await wire.patch(f"{PODS}/one", {"metadata": {"labels": {"a": "1"}}})
    assert after.body["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_a_pods_spec_stays_as_it_is(wire: Wire) -> None:
    await wire.make_pod()
    answer = await wire.patch(f"{PODS}/one", {"spec": {"hostname": "other"}})
    assert (answer.status, answer.body["reason"]) == (422, "Invalid")


async def test_an_update_of_an_old_version_is_a_conflict(wire: Wire) -> None:
    created = (await wire.post("/api/v1/namespaces/rec/configmaps", {"metadata": {"name": "m"}})).body
    path = "/api/v1/namespaces/rec/configmaps/m"
    assert (await wire.call("PUT", path, created | {"data": {"k": "1"}})).body["data"] == {"k": "1"}
    answer = await wire.call("PUT", path, created | {"data": {"k": "2"}})
    assert (answer.status, answer.body["reason"]) == (409, "Conflict")


@pytest.mark.parametrize("kind", ["application/json", "application/json-patch+json"])
async def test_a_patch_of_another_kind_is_refused(wire: Wire, kind: str) -> None:
    await wire.make_pod()
    assert (await wire.call("PATCH", f"{PODS}/one", {}, kind=kind)).status == 415


async def test_bodies_that_are_no_objects_are_refused(wire: Wire) -> None:
    assert (await wire.post(PODS, [1])).status == 400
    wrong = pod("one") | {"kind": "Service"}
    assert (await wire.post(PODS, wrong)).status == 400


async def test_all_that_is_wrong_is_named(wire: Wire) -> None:
    body = pod("one", "", container={"name": "A"}, restartPolicy="Sometimes", resources={"requests": {"cpu": "2"}})
    body["spec"]["containers"][0]["resources"]["limits"] = {"cpu": "1"}
    answer = await wire.post(PODS, body)
    fields = [cause["field"] for cause in answer.body["details"]["causes"]]
    assert answer.status == 422
    assert fields == [
        "spec.containers[0].name",
        "spec.containers[0].image",
        "spec.containers[0].resources.requests",
        "spec.restartPolicy",
    ]
    assert answer.message.startswith('Pod "one" is invalid: [spec.containers[0].name: Invalid value: "A": ')


async def test_fields_that_nobody_knows_are_dropped_unless_strict(wire: Wire) -> None:
    body: dict[str, Any] = pod("one", bogus=1)
    assert (await wire.post(f"{PODS}?fieldValidation=Strict", body)).status == 400
    created = await wire.post(PODS, body)
    assert "bogus" not in created.body["spec"]


async def test_quantities_are_answered_in_canonical_form(wire: Wire) -> None:
    given = {"cpu": "0.5", "memory": "1024Mi", "ephemeral-storage": "1000000"}
    body = await wire.make_pod(resources={"limits": given})
    expected = {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1M"}
    assert body["spec"]["containers"][0]["resources"] == {"limits": expected, "requests": expected}
    assert (await wire.post(PODS, pod("two", resources={"limits": {"cpu": "lots"}}))).status == 400


async def test_a_dry_run_checks_and_keeps_nothing(wire: Wire) -> None:
    assert (await wire.post(f"{PODS}?dryRun=All", pod("one"))).status == 201
    assert (await wire.get(f"{PODS}/one")).status == 404
    await wire.make_pod()
    assert (await wire.post(f"{PODS}?dryRun=All", pod("one"))).status == 409
    await wire.delete(f"{PODS}/one?dryRun=All")
    assert (await wire.get(f"{PODS}/one")).status == 200


async def test_a_generated_name_is_completed(wire: Wire) -> None:
    body = pod("x")
    body["metadata"] = {"generateName": "auto-"}
    created = await wire.post(PODS, body)
    assert created.body["metadata"]["name"].startswith("auto-")
    assert len(created.body["metadata"]["name"]) == len("auto-") + 5


async def test_a_collection_is_deleted_by_selector(wire: Wire) -> None:
    await wire.make_pod("a", labels={"x": "1"})
    await wire.make_pod("b", labels={"x": "2"})
    await wire.delete(f"{PODS}?labelSelector=x%3D1&gracePeriodSeconds=0")
    assert [item["metadata"]["name"] for item in (await wire.get(PODS)).body["items"]] == ["b"]


async def test_a_finalizer_holds_an_object_back(wire: Wire) -> None:
    path = "/api/v1/namespaces/rec/configmaps"
    await wire.post(path, {"metadata": {"name": "m", "finalizers": ["x/y"]}})
    deleted = await wire.delete(f"{path}/m")
    held = await wire.get(f"{path}/m")
    assert "deletionTimestamp" in held.body["metadata"]
    assert deleted.body == held.body, "a Status would say that it is gone"
    await wire.call("PATCH", f"{path}/m", {"metadata": {"finalizers": None}}, kind=MERGE)
    assert (await wire.get(f"{path}/m")).status == 404


async def test_a_namespace_takes_everything_with_it() -> None:
    async with running(fast(stop_delay=0.02)) as wire:
        await wire.make_pod()
        await wire.make_service()
        await wire.until_pod("one", lambda body: body["status"]["phase"] == "Running")
        deleted = await wire.delete("/api/v1/namespaces/rec")
        assert deleted.body["status"]["phase"] == "Terminating"
        assert (await wire.delete("/api/v1/namespaces/rec")).status == 409
        await wire.until_gone("/api/v1/namespaces/rec")
        assert (await wire.get("/api/v1/pods")).body["items"] == []
        assert (await wire.get("/api/v1/services")).body["items"] == []


async def test_a_namespace_that_enforces_restricted_says_all_that_is_missing(wire: Wire) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await wire.patch("/api/v1/namespaces/rec", {"metadata": {"labels": labels}})
    answer = await wire.post(PODS, pod("one"))
    assert answer.status == 403
    for part in ("allowPrivilegeEscalation != false", "unrestricted capabilities", "runAsNonRoot != true", "seccomp"):
        assert part in answer.message
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    context["seccompProfile"] = {"type": "RuntimeDefault"}
    assert (await wire.post(PODS, pod("one", container={"securityContext": context}))).status == 201


async def test_parts_that_are_no_objects_are_refused(wire: Wire) -> None:
    for spec in ({"affinity": "x"}, {"volumes": [{"name": "v", "secret": "x"}]}, {"container": {"env": ["x"]}}):
        answer = await wire.post(PODS, pod("one", **spec))
        assert answer.status == 400
        assert "json: cannot unmarshal string into Go struct field" in answer.message
    assert (await wire.post("/api/v1/namespaces/rec/configmaps", {"metadata": [1]})).status == 400
    assert (await wire.call("DELETE", f"{PODS}/one", [1])).status == 404
    await wire.make_pod()
    assert (await wire.call("DELETE", f"{PODS}/one", [1])).status == 400
