"""Labels of stacks: filters, deletes by label, and at most one stack, and so many creates, for each value of a label."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from typing import Any

import pytest

from stackd.kube.labels import CLIENT_LABEL_PREFIX
from stackd.web.bodies import encoder, renderer
from tests.harness import Harness, Machine, Reply, eventually, request_for, seed
from tests.streams import follow
from tests.templates import PLAIN, folder_with

one_each = pytest.mark.stackd(limits__stacks_per_label="{ player = 1 }")
twice = pytest.mark.stackd(limits__creates_per_label="{ player = '2/min' }")


def labelled(**labels: str) -> dict[str, Any]:
    return seed() | {"labels": labels}


RETURN = {"if_exists": "return"}
OF_7 = labelled(player="7")


async def ids(at: Harness, query: str) -> list[str]:
    return [stack["stack_id"] for stack in (await at.get(f"/stacks?{query}"))["stacks"]]


async def test_labels_are_kept_and_stand_on_pod_and_service_under_our_prefix(at: Harness) -> None:
    for labels in (
        ["team"], {"team": 7}, {"a/b": "x"}, {"": "x"}, {"team": "x" * 64}, {"x" * 64: "y"}, {"team": "two words"},
        {f"k{number}": "v" for number in range(17)},
    ):  # fmt: skip
        await at.refused(400, "label", "/stacks", seed() | {"labels": labels})
    mine = {"team": "7", "challenge": "web-1"}
    created = await at.create(labels=mine)
    assert (await at.stack(created["stack_id"]))["labels"] == mine
    for kind, name in (("pods", created["pod_id"]), ("services", created["service_name"])):
        assert await _carries(at, kind, name, mine)


async def test_stacks_are_found_by_labels_status_and_node_and_shown_with_the_fields_chosen(at: Harness) -> None:
    bodies = (labelled(team="7", role="web"), labelled(team="7"), labelled(team="8"), seed())
    a, b, c, d = [await at.running(body) for body in bodies]
    failed = (await at.create(request_for("registry.example/fail") | {"labels": {"team": "7"}}))["stack_id"]
    await at.until_status(failed, "failed")
    stacks = [await at.stack(stack_id) for stack_id in (a, b, c, d)]
    node = stacks[0]["node_id"]
    for query, expected in {
        "label=team=7&label=role=web": [a],
        "label=team": [a, b, c, failed],
        "label=team=7&status=running": [a, b],
        "status=failed&status=creating": [failed],
        f"node={node}&status=running": [stack["stack_id"] for stack in stacks if stack["node_id"] == node],
        "node=nowhere": [],
    }.items():
        assert await ids(at, query) == expected, query
    listed = (await at.get("/stacks?fields=labels,status,stack_id,ended"))["stacks"][1]
    expected = [("stack_id", b), ("status", "running"), ("labels", {"team": "7"}), ("ended", False)]
    assert list(listed.items()) == expected, "in the documented order"
    listed = (await at.get(f"/stacks?fields={','.join(stacks[0])}"))["stacks"][0]
    assert list(listed.items()) == list(stacks[0].items())
    for chosen in itertools.islice(itertools.combinations(stacks[0], 3), 150):
        await at.get(f"/stacks?label=team=9&fields={','.join(chosen)}")
    assert max(one.cache_info().currsize for one in (encoder, renderer)) <= 128, "not one for each choice ever made"


async def test_pages_hold_each_stack_once_although_others_come_and_go(at: Harness) -> None:
    made = [(await at.create(labelled(team="7")))["stack_id"] for _ in range(7)]
    first = await at.get("/stacks?label=team=7&limit=3")
    assert [stack["stack_id"] for stack in first["stacks"]] == made[:3]
    assert list(first) == ["stacks", "next_cursor"]
    for stack_id in made[2:4]:
        await at.delete(stack_id)
    late = (await at.create(labelled(team="7")))["stack_id"]
    second = await at.get(f"/stacks?label=team=7&limit=3&cursor={first['next_cursor']}")
    assert [stack["stack_id"] for stack in second["stacks"]] == made[4:7]
    third = await at.get(f"/stacks?label=team=7&cursor={second['next_cursor']}")
    assert ([stack["stack_id"] for stack in third["stacks"]], third["next_cursor"]) == ([late], None)


async def test_all_stacks_of_a_label_are_deleted_by_one_job(at: Harness) -> None:
    *_, other = [(await at.create(labels={"team": team}))["stack_id"] for team in "7778"]
    for query in ("", "?status=running"):
        await at.refused(400, "", f"/stacks{query}", method="DELETE")
    for total in (3, 0):
        reply = await at.call("DELETE", "/stacks?label=team=7")
        assert (reply.status, list(reply.json), reply.json["total"]) == (202, ["job_id", "total"], total)
        job = await at.finished_job(reply.json["job_id"])
        assert (job["status"], job["deleted"]) == ("completed", total)
    assert await at.listed() == list(await at.objects("pods")) == [other]


@one_each
async def test_a_double_click_makes_one_stack_and_names_it_to_the_other(at: Harness) -> None:
    replies = await asyncio.gather(*(at.call("POST", "/stacks", OF_7) for _ in range(8)))
    assert sorted(reply.status for reply in replies) == [201] + [409] * 7
    (stack_id,) = await at.objects("pods")
    assert {reply.json["stack_id"] for reply in replies} == {stack_id}
    assert {reply.code for reply in replies if reply.status == 409} == {"label_limit_reached"}
    await at.create()
    body = labelled(player="8") | RETURN
    replies = await asyncio.gather(*(at.call("POST", "/stacks", body) for _ in range(8)))
    assert sorted(reply.status for reply in replies) == [200] * 7 + [201]
    assert len({(reply.json["stack_id"], *reply.json) for reply in replies}) == 1
    assert len(await at.objects("pods")) == 3
    await at.refused(400, "if_exists", "/stacks", body | {"if_exists": "maybe"})


async def test_if_exists_return_returns_the_stack_with_all_labels_whichever_limit_is_reached(at: Harness) -> None:
    """The order of the limits in the configuration must not choose the stack of another challenge."""
    web, pwn = [await at.create(labelled(player="7", instance=name)) for name in ("web-7", "pwn-7")]
    for limits in ({"player": 2, "instance": 1}, {"instance": 1, "player": 2}):
        at.reload("limits", stacks_per_label=limits)
        for stack, instance in ((web, "web-7"), (pwn, "PWN-7")):
            same = await at.post("/stacks", labelled(player="7", instance=instance) | RETURN)
            assert same["stack_id"] == stack["stack_id"]
        other = await at.refused(409, "", "/stacks", labelled(player="7", instance="rev-7") | RETURN)
        assert other.json["stack_id"] == web["stack_id"]


@one_each
async def test_a_place_is_taken_in_every_spelling_until_its_stack_is_gone_or_has_ended(at: Harness) -> None:
    first = (await at.create(labelled(player="7A", Player="7a")))["stack_id"]
    for labels in ({"player": "7a"}, {"Player": "7A"}, {"player": "8", "PLAYER": "7a"}):
        await at.refused(409, "", "/stacks", labelled(**labels))
    await at.delete(first)
    ended = (await at.create(request_for("registry.example/exit0") | {"labels": {"player": "7A"}}))["stack_id"]
    await at.until_status(ended, "stopped")
    other = await at.create(labelled(player="7A"))
    reply = await at.refused(409, "", f"/stacks/{ended}/restart")
    assert reply.json["stack_id"] == other["stack_id"], "an ended stack does not come back into a place that is taken"
    assert (await at.stack(ended))["status"] == "stopped"


@pytest.mark.stackd(limits__required_labels='["player"]')
async def test_a_create_without_a_required_label_is_a_400_that_names_it(at: Harness) -> None:
    for body in (seed(), labelled(team="7"), labelled(player=""), labelled(Player="7")):
        await at.refused(400, "labels: player must be given (limits.required_labels)", "/stacks", body)
    await at.post("/capacity", seed())
    await at.create(OF_7)
    assert "labels" in (await at.get("/openapi.json"))["components"]["schemas"]["Create"]["required"]


@twice
async def test_one_create_too_many_of_a_player_is_a_429(at: Harness) -> None:
    await at.create(labelled(player="alice"))
    await at.create(labelled(Player="ALICE"))
    reply = await at.refused(429, "limits.creates_per_label", "/stacks", labelled(player="alice"))
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    await at.refused(429, "limits.creates_per_label", "/stacks?dry_run=true", labelled(player="alice"))
    for labels in ({"player": "Alice"}, {"PLAYER": "alice", "player": "bob"}, {"pLayer": "aLICE"}):
        await at.refused(429, "", "/stacks", labelled(**labels))
    for blank in (" alice", "alice ", "alice\t", "alice\u00a0"):
        await at.refused(400, "", "/stacks", labelled(player=blank))
    assert len(await at.objects("pods")) == 2
    await at.create(labelled(player="8"))
    await at.create()
    body = request_for("nginx", cpu="2000") | {"labels": {"player": "7"}}
    assert [(await at.call("POST", "/stacks", body)).status for _ in range(3)] == [503, 503, 429]


@twice
async def test_restarts_and_starts_count_as_creates_of_their_stacks_label(at: Harness) -> None:
    stack_id, other = await at.running(OF_7), await at.running(labelled(player="8"))
    await at.do("start", stack_id)  # it runs already: nothing is created
    await at.do("restart", stack_id)
    for verb in ("restart", "start"):
        await at.refused(429, "player=7", f"/stacks/{stack_id}/{verb}")
    await at.refused(429, "", "/stacks", OF_7)
    await at.do("stop", other)
    await at.do("start", other)
    await at.refused(429, "", f"/stacks/{other}/restart")
    await at.refused(404, "", "/stacks/stack-0000000000000000/start")


@pytest.mark.stackd(limits__creates_per_label="{ player = '2/min' }", limits__stacks_per_label="{ player = 1 }")
async def test_an_answer_that_was_given_before_or_a_stack_that_is_there_is_no_create(at: Harness) -> None:
    key = {"Idempotency-Key": "k"}
    first = (await at.post("/stacks", OF_7, 201, headers=key))["stack_id"]
    for _ in range(5):
        assert (await at.post("/stacks", OF_7, 201, headers=key))["stack_id"] == first
        await at.refused(409, "", "/stacks", OF_7)
        assert (await at.post("/stacks", OF_7 | RETURN))["stack_id"] == first
    await at.delete(first)
    await at.create(OF_7)
    await at.refused(429, "", "/stacks", OF_7 | RETURN)


async def relabelled(at: Harness, stack_id: str, **labels: str | None) -> dict[str, str]:
    reply = await at.call("PATCH", f"/stacks/{stack_id}", {"labels": labels})
    assert reply.status == 200, reply.text
    kept: dict[str, str] = reply.json["labels"]
    return kept


async def label_refused(at: Harness, status: int, words: str, stack_id: str, **labels: object) -> Reply:
    return await at.refused(status, words, f"/stacks/{stack_id}", {"labels": labels}, method="PATCH")


async def test_a_change_sets_and_removes_labels_wherever_they_are_and_the_rest_stays(at: Harness) -> None:
    stack_id = await at.running(labelled(player="7", seat="3", lab="1"))
    before = await at.stack(stack_id)
    async with follow(at, "/events?label=seat") as stream:
        assert await relabelled(at, stack_id, player="8", seat=None) == {"player": "8", "lab": "1"}
        assert (await stream.until("left")).data == {"stack_id": stack_id}
    after = await at.stack(stack_id)
    assert {name for name, value in after.items() if value != before[name]} == {"labels", "updated_at"}
    for kind, name in (("pods", stack_id), ("services", f"svc-{stack_id}")):
        await eventually(partial(_carries, at, kind, name, {"player": "8", "lab": "1"}))
    assert (await ids(at, "label=player=8"), await ids(at, "label=player=7")) == ([stack_id], [])
    (line,) = [one for one in await at.timeline(stack_id) if one["kind"] == "labelled"]
    (entry,) = (await at.get(f"/activity?action=label&stack={stack_id}"))["activity"]
    assert line["message"] == entry["message"] == "player=8 seat-"
    assert (line["by"], entry["status"], entry["labels"]) == ("environment", "completed", after["labels"])
    shown, patches = (await at.stack(stack_id), await at.timeline(stack_id)), at.counts.total("patch", "services")
    await relabelled(at, stack_id, player="8", seat=None)
    assert (await at.stack(stack_id), await at.timeline(stack_id)) == shown, "the same again changes nothing"
    assert at.counts.total("patch", "services") == patches


async def _carries(at: Harness, kind: str, name: str, labels: dict[str, str]) -> bool:
    theirs = (await at.objects(kind))[name]["metadata"]["labels"].items()
    return {key: value for key, value in theirs if key.startswith(CLIENT_LABEL_PREFIX)} == {
        CLIENT_LABEL_PREFIX + key: value for key, value in labels.items()
    }


async def test_a_change_that_cannot_be_says_which_label_and_why(at: Harness) -> None:
    at.reload("limits", required_labels=("player",))
    stack_id = await at.running(labelled(player="7", **{f"k{number}": "v" for number in range(15)}))
    before = await at.stack(stack_id)
    for labels, words in (
        ({"team": 7}, "labels.team: "),
        ({"-a": "x"}, "the name must be"),
        ({"team": "x"}, "at most 16 labels"),
        ({"player": None}, "player must be given"),
        ({"Link": "link-1"}, "Link is the label of open links"),
    ):
        await label_refused(at, 400, words, stack_id, **labels)
    await at.refused(400, "labels: is required", f"/stacks/{stack_id}", {"labels": None}, method="PATCH")
    await label_refused(at, 404, "", "stack-0000000000000000", player="8")
    assert await at.stack(stack_id) == before


@one_each
async def test_a_label_that_is_new_to_a_stack_counts_for_its_limit(at: Harness) -> None:
    of_7, of_8 = await at.running(OF_7), await at.running(labelled(player="8"))
    reply = await label_refused(at, 409, "", of_7, player="8")
    assert (reply.code, reply.json["stack_id"]) == ("label_limit_reached", of_8)
    await label_refused(at, 409, "", of_7, Player="8")
    await relabelled(at, of_8, player="9")
    await relabelled(at, of_7, player="8", seat="3")
    await at.refused(409, "label player=9", "/stacks", labelled(player="9"))
    await at.running(OF_7)
    at.reload("limits", stacks_per_label={"player": 0})
    await relabelled(at, of_7, seat="4")


@twice
async def test_a_label_that_is_new_to_a_stack_counts_as_a_create_for_its_rate(at: Harness) -> None:
    """Otherwise a stack of nobody, relabelled, would be one more than a player may create in that time."""
    first, second, third = [await at.running() for _ in range(3)]
    await relabelled(at, first, player="7")
    await relabelled(at, first, player="7", seat="1")
    await relabelled(at, second, player="7")
    assert (await label_refused(at, 429, "", third, player="7")).code == "label_rate_exceeded"
    await at.refused(429, "", "/stacks", OF_7)


async def test_labels_that_the_cluster_may_lack_are_kept_and_written_later(at: Harness) -> None:
    stack_id = await at.running(labelled(player="7"))
    at.faults.add_fault(action="status", verb="patch", resource="pods|services", code=403)
    await label_refused(at, 503, f"{stack_id} has its new labels", stack_id, player="8")
    assert (await at.stack(stack_id))["labels"] == {"player": "8"}
    at.faults.clear()
    await eventually(partial(_carries, at, "services", f"svc-{stack_id}", {"player": "8"}))
    assert await relabelled(at, stack_id, player="8") == {"player": "8"}


async def test_somebody_elses_change_of_a_label_in_the_cluster_is_undone(at: Harness) -> None:
    stack_id = await at.running(labelled(player="7"))
    for kind, name in (("pods", stack_id), ("services", f"svc-{stack_id}")):
        await at.patch(kind, name, {"metadata": {"labels": {"label.stackd.io/player": "8", "label.stackd.io/x": "y"}}})
        await eventually(partial(_carries, at, kind, name, {"player": "7"}))


async def test_a_change_back_is_written_although_the_answer_to_the_change_was_lost(at: Harness) -> None:
    """What stackd knows of the Service is as it should be, and the Service is not."""
    stack_id = await at.running(labelled(player="7"))
    at.give_kubernetes(timeout=2.0)
    at.faults.freeze_watches()
    at.faults.add_fault(action="lost_reply", verb="patch", resource="services")
    await label_refused(at, 503, "has its new labels", stack_id, player="8")
    assert await _carries(at, "services", f"svc-{stack_id}", {"player": "8"})
    at.faults.end("lost_reply")
    at.give_kubernetes(timeout=10.0)
    assert await relabelled(at, stack_id, player="7") == {"player": "7"}
    assert await _carries(at, "services", f"svc-{stack_id}", {"player": "7"})


async def test_the_stacks_of_a_player_cost_no_more_than_they_may_also_once_the_file_is_lost(vm: Machine) -> None:
    costs = {name: f"cost: {cost}\n{PLAIN}" for name, cost in {"small": 2, "dear": 5, "huge": 9}.items()}
    settings = folder_with(vm.folder, plain=PLAIN, **costs) | {"STACKD_LIMITS__COST_PER_LABEL": "player=10"}
    at = await vm.start(settings=settings)

    async def made(template: str, player: str = "7") -> str:
        return str((await at.create({"template": template, "labels": {"player": player}}))["stack_id"])

    async def refused(template: str, in_the_way: str) -> str:
        body = {"template": template, "labels": {"Player": "7"}}
        reply = await at.refused(409, "", "/stacks", body)
        assert (reply.code, reply.json.get("stack_id", "")) == ("label_cost_reached", in_the_way)
        assert (await at.refused(409, "", "/stacks?dry_run=true", body)).code == "label_cost_reached"
        return reply.for_players

    small, dear = await made("small"), await made("dear")
    await made("plain"), await made("dear", player="8")
    assert await refused("huge", "") == "You use 8 of 10; this one costs 9."
    await at.do("stop", small)
    await refused("dear", dear)
    await vm.lose_file()
    at = await vm.start(settings=settings)
    await refused("dear", dear)
    broken = (await at.create(request_for("registry.example/badname") | {"labels": {"player": "7"}}))["stack_id"]
    await at.until_status(broken, "failed")
    await made("small")
    await refused("plain", small)
    reply = await at.call("PATCH", f"/stacks/{await made('plain', '9')}", {"labels": {"player": "7"}})
    assert reply.code == "label_cost_reached"
    await at.delete(dear)
    await made("dear")
