"""Labels of stacks: filters, deletes by label, and at most one stack for each value of a label."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from stackd.errors import NO_ROOM
from tests.api.test_openapi import matches
from tests.harness import Harness, harness, request_for, seed

ONE_EACH = {"STACKD_LIMITS__STACKS_PER_LABEL": "{ player = 1 }"}


def labelled(**labels: str) -> dict[str, Any]:
    return seed() | {"labels": labels}


async def ids(at: Harness, query: str) -> list[str]:
    reply = await at.call("GET", f"/stacks?{query}")
    assert reply.status == 200, reply.text
    return [stack["stack_id"] for stack in reply.json["stacks"]]


async def test_labels_are_kept_and_stand_on_pod_and_service_under_our_prefix(at: Harness) -> None:
    created = await at.create(labelled(team="7", challenge="web-1"))
    assert (await at.stack(created["stack_id"]))["labels"] == {"team": "7", "challenge": "web-1"}
    for kind, name in (("pods", created["pod_id"]), ("services", created["service_name"])):
        found = (await at.objects(kind))[name]["metadata"]["labels"]
        assert found["label.stackd.io/team"] == "7"
        assert found["label.stackd.io/challenge"] == "web-1"


REFUSED_LABELS = [
    ["team"],
    None,
    {"team": 7},
    {"team": None},
    {"a/b": "x"},
    {"-a": "x"},
    {"": "x"},
    {"team": "x" * 64},
    {"x" * 64: "y"},
    {"team": "two words"},
    {f"k{number}": "v" for number in range(17)},
]


async def test_labels_that_kubernetes_would_not_take_are_refused(at: Harness) -> None:
    for labels in REFUSED_LABELS:
        reply = await at.call("POST", "/stacks", seed() | {"labels": labels})
        assert (reply.status, reply.error.startswith("invalid request body: ")) == (400, True)
        assert "label" in reply.error


async def test_stacks_are_found_by_labels_status_and_node(at: Harness) -> None:
    first = await at.create(labelled(team="7", role="web"))
    second = await at.create(labelled(team="7"))
    other = await at.create(labelled(team="8"))
    plain = await at.create()
    a, b, c, d = (stack["stack_id"] for stack in (first, second, other, plain))
    for stack_id in (a, b, c, d):
        await at.until_status(stack_id, "running")
    failed = (await at.create(request_for("registry.example/fail") | {"labels": {"team": "7"}}))["stack_id"]
    await at.until_status(failed, "failed")
    assert await ids(at, "label=team=7") == [a, b, failed]
    assert await ids(at, "label=team=7&label=role=web") == [a]
    assert await ids(at, "label=team") == [a, b, c, failed]
    assert await ids(at, "label=team=9") == []
    assert await ids(at, "label=team=7&status=running") == [a, b]
    assert await ids(at, "status=failed&status=creating") == [failed]
    node = first["node_id"]
    there = [stack["stack_id"] for stack in (first, second, other, plain) if stack["node_id"] == node]
    assert await ids(at, f"node={node}&status=running") == there
    assert await ids(at, "node=nowhere") == []


async def test_chosen_fields_come_in_the_documented_order_and_leave_the_bulk_out(at: Harness) -> None:
    created = await at.create(labelled(team="7"))
    reply = await at.call("GET", "/stacks?fields=labels,status,stack_id,ended")
    assert list(reply.json["stacks"][0].items()) == [
        ("stack_id", created["stack_id"]),
        ("status", reply.json["stacks"][0]["status"]),
        ("labels", {"team": "7"}),
        ("ended", False),
    ]


async def test_every_field_chosen_reads_as_it_does_alone(at: Harness) -> None:
    created = await at.create(labelled(team="7"))
    alone = await at.until_status(created["stack_id"], "running")
    (listed,) = (await at.call("GET", f"/stacks?fields={','.join(alone)}")).json["stacks"]
    assert list(listed.items()) == list(alone.items())


async def test_pages_hold_each_stack_once_although_others_come_and_go(at: Harness) -> None:
    made = [(await at.create(labelled(team="7")))["stack_id"] for _ in range(7)]
    first = (await at.call("GET", "/stacks?label=team=7&limit=3")).json
    assert [stack["stack_id"] for stack in first["stacks"]] == made[:3]
    assert list(first) == ["stacks", "next_cursor"]
    assert (await at.call("DELETE", f"/stacks/{made[2]}")).status == 200
    assert (await at.call("DELETE", f"/stacks/{made[3]}")).status == 200
    late = (await at.create(labelled(team="7")))["stack_id"]
    second = (await at.call("GET", f"/stacks?label=team=7&limit=3&cursor={first['next_cursor']}")).json
    assert [stack["stack_id"] for stack in second["stacks"]] == made[4:7]
    third = (await at.call("GET", f"/stacks?label=team=7&cursor={second['next_cursor']}")).json
    assert [stack["stack_id"] for stack in third["stacks"]] == [late]
    assert third["next_cursor"] is None


REFUSED_FILTERS = [
    ("lable=team=7", '(did you mean "label"?)'),
    ("sort=status", "'sort'; stacks are always ordered by created_at, then stack_id"),
    ("page=2", "'page'; use limit and cursor"),
    ("q=x", "'q'; filter by label, status, node or template"),
    ("limit=1001", "limit must be a whole number from 1 to 1000"),
    ("limit=1&limit=2", "the parameter limit is given more than once"),
    ("status=ready", "status must be one of creating, running, stopped, failed, node_deleted"),
    ("cursor=nonsense!", "cursor must be the next_cursor"),
    ("fields=stack_id,sttus", "there is no field 'sttus'"),
    ("label==7", "label must be key=value"),
    ("node=", "node must be the name of a node"),
    ("&".join(f"label=a{n}" for n in range(17)), "the parameter label has more than 16 different values"),
]


async def test_a_filter_that_cannot_be_is_refused_and_never_ignored(at: Harness) -> None:
    for query, words in REFUSED_FILTERS:
        reply = await at.call("GET", f"/stacks?{query}")
        assert reply.status == 400
        assert words in reply.error


async def test_all_stacks_of_a_label_are_deleted_by_one_job(at: Harness) -> None:
    mine = [(await at.create(labelled(team="7")))["stack_id"] for _ in range(3)]
    other = (await at.create(labelled(team="8")))["stack_id"]
    assert (await at.call("DELETE", "/stacks")).status == 400
    assert (await at.call("DELETE", "/stacks?status=running")).status == 400
    reply = await at.call("DELETE", "/stacks?label=team=7")
    assert (reply.status, list(reply.json), reply.json["total"]) == (202, ["job_id", "total"], 3)
    job = await at.finished_job(reply.json["job_id"])
    assert (job["status"], job["deleted"]) == ("completed", 3)
    assert await ids(at, "limit=1000") == [other]
    assert mine[0] not in await at.objects("pods")
    nobody = (await at.call("DELETE", "/stacks?label=team=7")).json
    assert nobody["total"] == 0
    assert (await at.finished_job(nobody["job_id"]))["status"] == "completed"


async def test_a_double_click_makes_one_stack_and_names_it_to_the_other(tmp_path: Path) -> None:
    async with harness(tmp_path, ONE_EACH) as at:
        replies = await asyncio.gather(*(at.call("POST", "/stacks", labelled(player="7")) for _ in range(8)))
        made = [reply for reply in replies if reply.status == 201]
        refused = [reply for reply in replies if reply.status == 409]
        assert (len(made), len(refused)) == (1, 7)
        stack_id = made[0].json["stack_id"]
        for reply in refused:
            assert list(reply.json) == ["error", "stack_id", "player_message"]
            assert reply.json["stack_id"] == stack_id
            assert reply.json["error"].startswith("label player=7 has 1 of 1 stacks")
        assert list(await at.objects("pods")) == [stack_id]
        assert (await at.call("POST", "/stacks", labelled(player="8"))).status == 201
        assert (await at.call("POST", "/stacks", seed())).status == 201


async def test_an_existing_stack_stays_the_answer_to_its_key(tmp_path: Path) -> None:
    """Before, the key created another stack once the first was deleted, and accepted another body."""
    async with harness(tmp_path, ONE_EACH) as at:
        existing = await at.create(labelled(player="7"))
        body = labelled(player="7") | {"if_exists": "return"}
        first = await at.call("POST", "/stacks", body, headers={"Idempotency-Key": "k"})
        assert (first.status, first.json["stack_id"]) == (200, existing["stack_id"])
        assert (await at.call("DELETE", f"/stacks/{existing['stack_id']}")).status == 200
        again = await at.call("POST", "/stacks", body, headers={"Idempotency-Key": "k"})
        assert (again.status, again.text, again.headers["Idempotency-Replayed"]) == (200, first.text, "true")
        other = await at.call("POST", "/stacks", body | {"ttl": "5m"}, headers={"Idempotency-Key": "k"})
        assert other.status == 422


async def test_a_double_click_with_if_exists_return_gives_the_one_stack_to_all(tmp_path: Path) -> None:
    async with harness(tmp_path, ONE_EACH) as at:
        body = labelled(player="7") | {"if_exists": "return"}
        replies = await asyncio.gather(*(at.call("POST", "/stacks", body) for _ in range(8)))
        assert sorted(reply.status for reply in replies) == [200] * 7 + [201]
        assert len({reply.json["stack_id"] for reply in replies}) == 1
        assert {tuple(reply.json) for reply in replies} == {tuple(replies[0].json)}
        assert len(await at.objects("pods")) == 1
        wrong = await at.call("POST", "/stacks", body | {"if_exists": "maybe"})
        assert (wrong.status, "if_exists" in wrong.error) == (400, True)


@pytest.mark.parametrize("limits", ["{ player = 2, instance = 1 }", "{ instance = 1, player = 2 }"])
async def test_if_exists_return_returns_the_stack_with_all_labels_whichever_limit_is_reached(
    tmp_path: Path, limits: str
) -> None:
    """Before, the first limit of the configuration chose it: the player got the stack of another challenge."""
    async with harness(tmp_path, {"STACKD_LIMITS__STACKS_PER_LABEL": limits}) as at:
        web, pwn = [await at.create(labelled(player="7", instance=name)) for name in ("web-7", "pwn-7")]
        for stack, instance in ((web, "web-7"), (pwn, "PWN-7")):
            reply = await at.call("POST", "/stacks", labelled(player="7", instance=instance) | {"if_exists": "return"})
            assert (reply.status, reply.json["stack_id"]) == (200, stack["stack_id"])
        other = await at.call("POST", "/stacks", labelled(player="7", instance="rev-7") | {"if_exists": "return"})
        assert (other.status, other.json["stack_id"]) == (409, web["stack_id"])


@pytest.mark.parametrize("labels", [{"player": "7a"}, {"Player": "7A"}, {"player": "8", "PLAYER": "7a"}])
async def test_another_spelling_of_a_player_is_the_same_player(tmp_path: Path, labels: dict[str, str]) -> None:
    async with harness(tmp_path, ONE_EACH) as at:
        await at.create(labelled(player="7A", Player="7a"))
        assert (await at.call("POST", "/stacks", labelled(**labels))).status == 409


async def test_the_place_is_free_again_once_the_stack_is_going_or_its_pod_has_ended(tmp_path: Path) -> None:
    async with harness(tmp_path, ONE_EACH) as at:
        first = (await at.create(labelled(player="7")))["stack_id"]
        assert (await at.call("DELETE", f"/stacks/{first}")).status == 200
        ended = (await at.create(request_for("registry.example/exit0") | {"labels": {"player": "7"}}))["stack_id"]
        await at.until_status(ended, "stopped")
        await at.create(labelled(player="7"))


async def test_who_waits_for_a_create_that_fails_makes_the_stack_itself(tmp_path: Path) -> None:
    async with harness(tmp_path, ONE_EACH) as at:
        at.cluster.faults.pause()
        first = asyncio.create_task(at.call("POST", "/stacks", labelled(player="7")))
        (stack_id,) = await at.until_listed(1)
        second = asyncio.create_task(at.call("POST", "/stacks", labelled(player="7") | {"if_exists": "return"}))
        await at.until_metric("stackd_waiting_requests", 1)
        gone = asyncio.create_task(at.call("DELETE", f"/stacks/{stack_id}"))
        await at.until_metric("stackd_deletes_pending", 1)
        at.cluster.faults.resume()
        assert (await first).status == 503
        assert (await gone).status == 200
        reply = await second
        assert reply.status == 201
        assert reply.json["stack_id"] != stack_id


async def test_an_ended_stack_does_not_come_back_into_a_place_that_is_taken(tmp_path: Path) -> None:
    async with harness(tmp_path, ONE_EACH) as at:
        ended = (await at.create(request_for("registry.example/exit0") | {"labels": {"player": "7"}}))["stack_id"]
        await at.until_status(ended, "stopped")
        other = await at.create(labelled(player="7"))
        reply = await at.call("POST", f"/stacks/{ended}/restart")
        assert (reply.status, reply.json["stack_id"]) == (409, other["stack_id"])
        assert (await at.stack(ended))["status"] == "stopped"


async def test_players_get_a_sentence_of_their_own_where_a_limit_or_the_room_is_the_reason(tmp_path: Path) -> None:
    settings = {
        "STACKD_LIMITS__STACKS_PER_LABEL": "player=1",
        "STACKD_LIMITS__CREATES_PER_LABEL": "team=1/min",
        "STACKD_STACKS__NODE_PORT_MIN": "31001",
        "STACKD_STACKS__NODE_PORT_MAX": "31002",
        "STACKD_STACKS__MAX_TTL": "3h",
    }
    async with harness(tmp_path, settings) as at:
        stack_id = (await at.create(seed() | {"labels": {"player": "1", "team": "1"}}))["stack_id"]
        same = await at.call("POST", "/stacks", seed() | {"labels": {"player": "1"}})
        often = await at.call("POST", "/stacks", seed() | {"labels": {"team": "1"}})
        assert (same.status, same.for_players[:31]) == (409, "You have as many instances as y")
        assert (often.status, often.for_players[:49]) == (429, "You have started instances too often. Try again i")
        await at.create()
        no_port = await at.call("POST", "/stacks", seed())
        at.reload("limits", max_stacks=2)
        full = await at.call("POST", "/stacks", seed())
        assert [one.status for one in (no_port, full)] == [503, 503]
        assert full.for_players == no_port.for_players == NO_ROOM
        far = await at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "2h"})
        assert (far.status, far.for_players) == (409, "This instance can be extended by 1h at most.")
        for reply in (same, often, no_port, full, far):
            matches("Error", reply.json)
            assert not re.search(r"limits\.|stacks\.|label|node port|stack", reply.for_players)
        assert (await at.call("GET", "/stacks/stack-none")).json.keys() == {"error"}
