"""Each sentence of the API's contract."""

from __future__ import annotations

import json
import re

import yaml

from stackd.version import VERSION
from tests.api.scenes import SEED
from tests.harness import KEY, Harness, seed

STACK_FIELDS = [
    "stack_id", "pod_id", "namespace", "node_id", "node_public_ip", "pod_spec", "ports", "service_name", "status",
    "ttl_expires_at", "created_at", "updated_at", "requested_cpu_milli", "requested_memory_bytes",
]  # fmt: skip
MORE_FIELDS = ["status_reason", "status_message", "labels", "ended", "addresses", "problem"]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z")

ENDPOINTS = [
    ("GET", "/healthz"), ("GET", "/stats"), ("POST", "/stacks"), ("GET", "/stacks"), ("GET", "/stacks/stack-0"),
    ("GET", "/stacks/stack-0/status"), ("GET", "/stacks/stack-0/timeline"), ("GET", "/stacks/stack-0/logs"),
    ("DELETE", "/stacks/stack-0"), ("POST", "/stacks/batch-delete"), ("GET", "/stacks/batch-delete/job-0"),
]  # fmt: skip


async def test_a_stack_is_created_read_counted_and_deleted_in_the_documented_fields(at: Harness) -> None:
    with at.no_pod_starting():
        reply = await at.call("POST", "/stacks", seed(), headers={"Content-Type": "text/plain"})
    assert (await at.get("/readyz")) == {"status": "ready", "version": VERSION}
    created, name = reply.json, reply.json["stack_id"]
    assert (reply.status, list(created)) == (201, [*STACK_FIELDS, *MORE_FIELDS])
    assert re.fullmatch(r"stack-[0-9a-f]{16}", name)
    node, port = created["node_id"], created["ports"][0]["node_port"]
    assert node in await at.objects("nodes")
    assert 31001 <= port <= 32767
    fixed = {
        "stack_id": name, "pod_id": name, "namespace": "stacks", "node_public_ip": "127.0.0.1", "pod_spec": SEED["sanitized"],
        "service_name": f"svc-{name}", "status": "creating", "requested_cpu_milli": 100, "requested_memory_bytes": 134217728,
    }  # fmt: skip
    assert created.items() >= fixed.items()
    assert json.dumps(created["ports"]) == f'[{{"container_port": 80, "protocol": "TCP", "node_port": {port}}}]'
    assert all(TIME.fullmatch(created[field]) for field in ("ttl_expires_at", "created_at", "updated_at"))
    assert created["created_at"] == created["updated_at"]
    await at.until_status(name, "running")
    alone = await at.stack(name)
    assert (list(alone), alone["updated_at"] > alone["created_at"]) == ([*STACK_FIELDS, *MORE_FIELDS], True)
    assert alone == created | {"status": "running", "updated_at": alone["updated_at"]}
    listed = (await at.call("GET", "/stacks")).json
    assert json.dumps(listed) == json.dumps({"stacks": [alone]})
    status = (await at.call("GET", f"/stacks/{name}/status")).json
    expected = {"stack_id": name, "status": "running", "ttl": created["ttl_expires_at"], "ports": created["ports"]}
    text = f"127.0.0.1:{port}"
    address = {"port": 80, "protocol": "TCP", "text": text, "url": f"http://{text}"}
    shown = {"addresses": [address], "problem": None}
    assert json.dumps(status) == json.dumps(expected | {"node_public_ip": "127.0.0.1"} | shown)
    assert alone.items() >= shown.items()
    await at.create()
    (_, other) = (await at.call("GET", "/stacks")).json["stacks"]
    assert other["created_at"] > created["created_at"]
    assert list((await at.call("GET", "/stats")).json.items()) == [
        ("total_stacks", 2), ("active_stacks", 2),
        ("node_distribution", {node: 1, other["node_id"]: 1} if node != other["node_id"] else {node: 2}),
        ("used_node_ports", 2), ("reserved_cpu_milli", 200), ("reserved_memory_bytes", 2 * 134217728),
        ("spare_services", 0),
    ]  # fmt: skip
    deleted = await at.call("DELETE", f"/stacks/{name}")
    assert (deleted.status, list(deleted.json.items())) == (200, [("deleted", True), ("stack_id", name)])
    assert [*await at.objects("pods")] == [other["stack_id"]]
    assert [*await at.objects("services")] == [other["service_name"]]
    assert await at.used_ports() == 1


async def test_a_batch_delete_counts_each_id_once(at: Harness) -> None:
    ids = [(await at.create())["stack_id"] for _ in range(2)]
    reply = await at.call("POST", "/stacks/batch-delete", {"stack_ids": [f" {ids[0]} ", ids[1], ids[0], "stack-none"]})
    assert (reply.status, list(reply.json)) == (202, ["job_id"])
    assert re.fullmatch(r"job-[0-9a-f]{16}", reply.json["job_id"])
    job = await at.finished_job(reply.json["job_id"])
    counts = {"status": "completed", "total": 3, "deleted": 2, "not_found": 1, "failed": 0}
    assert list(job.items())[1:-2] == list(counts.items())
    assert [*job][-2:] == ["created_at", "updated_at"]
    assert not await at.objects("pods")


async def test_a_wrong_body_says_what_is_wrong(at: Harness) -> None:
    for path, body, words in (
        ("/stacks/batch-delete", b"", "not JSON"),
        ("/stacks/batch-delete", b"[]", "a JSON object"),
        ("/stacks/batch-delete", b"{}", "stack_ids: "),
        ("/stacks/batch-delete", b'{"stack_ids": []}', "stack_ids: "),
        ("/stacks/batch-delete", b'{"stack_ids": ["a", "  "]}', "stack_ids[1]: "),
        ("/stacks", b"\xff\xfe", "not JSON"),
        ("/stacks", b'{"pod_spec": "x"}', "invalid pod spec: (root)"),
        ("/stacks", b'{"target_port": []}', "target_port: "),
    ):
        await at.refused(400, words, path, body)


def declaring(*containers: str, **more: str) -> dict[str, str]:
    """The example without ``target_port``; its container and others have these ports, and ``more`` init containers."""
    pod = yaml.safe_load(str(seed()["pod_spec"]))
    (app,) = pod["spec"]["containers"]

    declare = {f"c{number}": ports for number, ports in enumerate(containers)} | more
    declared = [{**app, "name": name, "ports": yaml.safe_load(ports)} for name, ports in declare.items()]
    declared[-1]["restartPolicy"] = "Always"
    pod["spec"] |= {"containers": declared[: len(containers)], "initContainers": declared[len(containers) :]}
    return {"pod_spec": json.dumps(pod)}


async def test_without_target_port_all_ports_that_the_running_containers_declare_are_published(at: Harness) -> None:
    first = "[{containerPort: 80}, {containerPort: 53, protocol: UDP}, {containerPort: 9, protocol: SCTP}]"
    body = declaring(first, "[{containerPort: 443}]", ends="[{containerPort: 81}]", runs="[{containerPort: 82}]")
    ports = (await at.create(body))["ports"]
    found = [(port["container_port"], port["protocol"]) for port in ports]
    assert found == [(80, "TCP"), (53, "UDP"), (443, "TCP"), (82, "TCP")]
    assert (await at.call("POST", "/capacity", body)).json["requested_ports"] == 4
    for path in ("/stacks", "/stacks?dry_run=true", "/capacity"):
        reply = await at.call("POST", path, declaring("[]", ends="[{containerPort: 81}]", runs="[]"))
        assert (reply.status, reply.reasons[0][0]) == (400, "target_port")


async def test_a_refused_pod_spec_has_a_reason_for_each_mistake_in_the_order_of_the_lines(at: Harness) -> None:
    text = str(seed()["pod_spec"]).replace("kind: Pod", "kind: Job")
    text = text.replace("spec:\n", "spec:\n  colour: red\n  hostPID: true\n")
    reply = await at.call("POST", "/stacks", seed() | {"pod_spec": text})
    assert (reply.status, list(reply.json)) == (400, ["error", "code", "reasons", "player_message"])
    assert [list(reason) for reason in reply.json["reasons"]] == [["path", "line", "text"]] * 3
    assert [(path, line) for path, line, _ in reply.reasons] == [("kind", 2), ("spec.colour", 6), ("spec.hostPID", 7)]


async def test_the_reason_names_the_field_that_is_wrong(at: Harness) -> None:
    wrong: list[tuple[dict[str, object], str, int | None]] = [
        ({"target_port": [{"container_port": 0, "protocol": "TCP"}]}, "target_port[0].container_port", None),
        ({"target_port": [{"container_port": 81, "protocol": "TCP"}]}, "target_port[0]", None),
        ({"ttl": "never"}, "ttl", None),
        ({"labels": {"team": "a b"}}, "labels.team", None),
        ({"pod_spec": "kind: Pod\nmetadata:\n  name: [a\n"}, "", 4),
    ]
    for more, path, line in wrong:
        reply = await at.call("POST", "/stacks", seed() | more)
        assert (reply.status, [one[:2] for one in reply.reasons]) == (400, [(path, line)])


async def test_what_only_the_cluster_refuses_has_its_line_too(at: Harness) -> None:
    cause = {"reason": "FieldValueInvalid", "message": "Invalid value", "field": "spec.containers[0].ports[0].name"}
    details = {"kind": "Pod", "name": "x", "causes": [cause]}
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422}
    body = json.dumps(status | {"metadata": {}, "message": 'Pod "x" is invalid', "details": details})
    for path in ("/stacks", "/stacks?dry_run=true"):
        at.cluster.faults.add_fault(action="reply", verb="create", resource="pods", code=422, body=body, count=1)
        reply = await at.call("POST", path, seed())
        assert (reply.status, reply.reasons) == (400, [("spec.containers[0].ports[0].name", 10, "Invalid value")])


async def test_every_endpoint_needs_the_key_and_takes_it_from_headers_or_query(at: Harness) -> None:
    for method, path in ENDPOINTS:
        for query, headers, accepted in (
            ("", {}, False), ("", {"X-API-KEY": "sk-wrong"}, False), ("?api_key=sk-wrong", {}, False),
            ("", {"Authorization": "Bearer sk-wrong"}, False), ("", {"Authorization": KEY}, False),
            ("", {"X-API-KEY": KEY}, True), (f"?api_key={KEY}", {}, True),
            ("", {"Authorization": f"bearer  {KEY} "}, True),
            ("", {"X-API-KEY": KEY, "Authorization": "Basic bWU6aXQ="}, True),
        ):  # fmt: skip
            reply = await at.call(method, path + query, b"{}", key=None, headers=headers)
            assert (reply.status != 401) is accepted, (path, query, headers)
            assert accepted or "key" in reply.error


async def test_unknown_ids_and_methods_are_named(at: Harness) -> None:
    for method, path in ENDPOINTS:
        if "-0" in path:
            assert (await at.call(method, path)).code in ("stack_not_found", "job_not_found")
    for method, path, allowed in (
        ("PUT", "/stacks", "DELETE, GET, HEAD, POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("PUT", "/stacks/stack-1", "DELETE, GET, HEAD, PATCH"),
        ("DELETE", "/stacks/batch-delete/job-1", "GET, HEAD"),
        ("GET", "/stacks/batch", "POST"),
    ):
        reply = await at.call(method, path)
        assert (reply.status, reply.headers["Allow"], method in reply.error) == (405, allowed, True)
    for path, named in (("/stacks/%7Bstack_id%7D", "/stacks/{stack_id}"), ("/stacks/a%2Fb", "stack not found: a/b")):
        assert named in (await at.call("GET", path)).error, "the name of a part is none, and %2F is no slash"
