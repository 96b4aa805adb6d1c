"""``stackd stacks …`` in a pipe: lines of fields, the API's own JSON and error texts, and exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.api.scenes import three
from tests.harness import harness, request_for, seed, until
from tests.templates import PLAIN, WEB, folder_with
from tests.unit.cli.conftest import Shell

POD = seed()["pod_spec"]


async def test_create_takes_a_pod_or_a_complete_request(shell: Shell) -> None:
    options = ("--ttl", "30m", "--label", "team=7", "--label", "player=3", "--wait")
    stack_id, status, address = (await shell.good("create", "-f", "-", *options, stdin=POD)).rstrip("\n").split("\t")
    stack = await shell.at.stack(stack_id)
    assert (status, address) == ("running", f"{stack['node_public_ip']}:{stack['ports'][0]['node_port']}")
    assert (stack["labels"], stack["ports"][0]["container_port"]) == ({"team": "7", "player": "3"}, 80)
    made = json.loads(await shell.good("create", "-f", "-", "-p", "80/tcp", "--json", stdin=POD))
    assert [port["container_port"] for port in made["ports"]] == [80]
    again = json.loads(await shell.good("create", "-f", "-", "--json", stdin=json.dumps(seed())))
    assert again["pod_spec"] == made["pod_spec"]
    assert "automountServiceAccountToken: false" in await shell.good("create", "-f", "-", "--dry-run", stdin=POD)
    assert len(await shell.at.listed()) == 3


async def test_usage_errors_have_code_2_and_ask_nothing(shell: Shell) -> None:
    for words, complaint in (
        ("create -f /nowhere/pod.yaml", "cannot be read"), ("create -f - -p eighty", "--port must be like"),
        ("create -f - -p 80 -l team", "--label must be like"), ("create -f - --ttl soon", "write it like 30m"),
        ("create", "either --file or --template"), ("create --template web-1 --file pod.yaml", "either --file or --template"),
        ("create --template web-1 --port 80", "--port goes with --file"), ("show ../stats", "not a stack's id"),
        ("create -f - --players -", "goes with --template"), ("restart --all --yes --member db", "about one stack"),
        ("label stack-1 player", "a label must be like"), ("batch-delete stack-1 --all", "name stacks, choose them"),
    ):  # fmt: skip
        assert complaint in await shell.failing(2, *words.split(), stdin="kind: Pod\nspec: {containers: [{name: a}]}")
    assert await shell.at.listed() == []


async def test_a_job_that_deletes_needs_a_yes_where_nobody_can_be_asked(shell: Shell) -> None:
    for team in ("7", "7", "8", "9"):
        await shell.at.create(seed() | {"labels": {"team": team}})
    text = await shell.good("batch-delete", "-", stdin=await shell.good("list", "--label", "team=7"))
    assert text.rstrip("\n").split("\t")[1:] == ["2 deleted", "0 not found", "0 failed"]
    assert "this would delete 1 stack" in await shell.failing(2, "batch-delete", "--label", "team=8")
    assert "1 deleted" in await shell.good("batch-delete", "--label", "team=8", "--yes")
    job_id = (await shell.good("batch-delete", "--all", "--yes", "--no-wait")).strip()
    assert (await shell.at.finished_job(job_id))["deleted"] == 1
    assert await shell.good("batch-delete", "--all", "--yes") == ""


async def test_more_are_deleted_than_one_job_takes(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_BATCH_DELETE__MAX_IDS": "2"}) as at:
        shell = Shell(at=at, home=tmp_path)
        for chosen, jobs in ((("--label", "team=7", "--yes"), 1), (("-",), 2)):
            for _ in range(3):
                await at.create(seed() | {"labels": {"team": "7"}})
            text = await shell.good("batch-delete", *chosen, stdin=await shell.good("list"))
            assert text.count("job-") == jobs
            assert sum(int(line.split("\t")[1].split()[0]) for line in text.splitlines()) == 3
            assert await at.listed() == []


# ---- templates


PLAYERS = 'Name;Player;Mail\nMia Meier;seat-1;mia@school.example\n\n"Li; Wei";seat-2;\n'


async def test_a_file_of_players_gets_a_stack_each(tmp_path: Path) -> None:
    (tmp_path / "players.csv").write_text("\ufeff" + PLAYERS)
    async with harness(tmp_path, folder_with(tmp_path, lab_1=WEB)) as at:
        shell = Shell(at=at, home=tmp_path)
        words = ("create", "--template", "lab-1", "--label", "room=b12", "--players", str(tmp_path / "players.csv"))
        lines = [line.split("\t") for line in (await shell.good(*words, "--wait")).splitlines()]
        listed = (await at.get("/stacks?fields=stack_id,labels"))["stacks"]
        stacks = {one["labels"]["player"]: one for one in listed}
        assert [line[:3] for line in lines] == [[name, stacks[name]["stack_id"], "running"] for name in stacks]
        for _, stack_id, _, address, values in lines:
            stack = await at.stack(stack_id)
            assert address == f"{stack['node_public_ip']}:{stack['ports'][0]['node_port']}"
            assert "FLAG=flag{" in values
            assert stack["labels"]["room"] == "b12"
        at.reload("limits", stacks_per_label={"player": 1})
        await at.create({"template": "lab-1", "labels": {"player": "seat-9", "room": "c1"}})
        result = await shell.run(*words[:-1], "-", stdin="player\nseat-3\nseat-9\n")
        assert result.exit_code == 1
        assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["seat-3", "seat-9"]
        assert "-:3: label player=seat-9 has 1 of 1 stacks" in result.stderr
        document = json.loads(await shell.good(*words[:-1], "-", "--json", stdin="player\nseat-4\n"))
        assert [(one["player"], one["outcome"]) for one in document["results"]] == [("seat-4", "done")]
        assert (await shell.good(*words[:-1], "-", "-o", "name", stdin="player\nseat-5\n")).startswith("stack-")
        assert "- has no players" in await shell.failing(2, *words[:-1], "-", stdin="player\n")
        assert "-:3: player ''" in await shell.failing(2, *words[:-1], "-", stdin="name,player\nA,x\nB,\n")
        (tmp_path / "templates" / "lab-1.yaml").write_text(WEB.replace("nginx:stable", "nginx:alpine"))
        await at.reload_templates()
        (named, *_) = stacks.values()
        assert (await shell.good("renew", named["stack_id"])).startswith(f"{named['stack_id']}\t")
        assert "6 renewed\t0 not found\t0 failed" in await shell.good("renew", "--template", "lab-1", "--yes")
        assert "nginx:alpine" in (await at.stack(named["stack_id"]))["pod_spec"]
        assert len(await at.listed()) == 6


async def test_who_has_a_stack_of_the_template_is_skipped(tmp_path: Path) -> None:
    """A student uses it: a second one would hide it on the page."""
    async with harness(tmp_path, folder_with(tmp_path, lab_1=WEB, lab_2=PLAIN)) as at:
        shell, table = Shell(at=at, home=tmp_path), "player\nseat-1\nseat-2\nseat-3\nseat-4\n"
        own = (await at.create({"template": "lab-1", "labels": {"player": "seat-1"}}))["stack_id"]
        await at.create({"template": "lab-2", "labels": {"player": "seat-2"}})
        await at.create({"template": "lab-1", "labels": {"player": "seat-2", "room": "c1"}})
        ended = (await at.create({"template": "lab-1", "labels": {"player": "seat-3"}}))["stack_id"]
        await at.delete_object("pods", ended)
        await until(lambda: at.stack(ended), lambda seen: seen["ended"])
        words = ("create", "--template", "lab-1", "--label", "room=b12", "--players", "-")
        first = await shell.run(*words, stdin=table)
        assert [line.split("\t")[0] for line in first.stdout.splitlines()] == ["seat-2", "seat-3", "seat-4"]
        assert "skipped seat-1" in first.stderr
        document = json.loads(await shell.good(*words, "--json", stdin=table))
        assert (document["results"], document["skipped"]["seat-1"], len(document["skipped"])) == ([], own, 4)
        assert len(await at.listed()) == 7


async def test_json_is_json_whatever_happens(shell: Shell) -> None:
    assert json.loads(await shell.good("list", "--label", "team=7", "--json")) == {"stacks": []}
    for words, code in ((("delete", "--all", "--yes"), 0), (("extend", "--status", "stopped", "1m"), 1)):
        result = await shell.run(*words, "--json")
        assert (result.exit_code, json.loads(result.stdout)) == (code, {"jobs": []})
        assert "no stack matches: nothing to " in result.stderr
    matching = await shell.run("extend", "--label", "team=7", "1m", "--json")
    assert (matching.exit_code, json.loads(matching.stdout)["total"]) == (1, 0)
    made = [(await shell.at.create(seed() | {"labels": {"team": "7"}}))["stack_id"] for _ in range(2)]
    job = json.loads(await shell.good("extend", "--label", "team=7", "1m", "--no-wait", "--json"))
    assert (job["action"], job["total"]) == ("extend", 2)
    job = json.loads(await shell.good("delete", *made, "--no-wait", "--json"))
    assert (await shell.at.finished_job(job["job_id"]))["deleted"] == 2


async def test_what_was_created_is_printed_also_if_it_does_not_run(tmp_path: Path) -> None:
    """Its flag is shown to nobody a second time."""
    fails = WEB.replace("nginx:stable", "registry.example/badname")
    async with harness(tmp_path, folder_with(tmp_path, web_1=fails)) as at:
        result = await Shell(at=at, home=tmp_path).run("create", "-t", "web-1", "--wait", "--json")
        stack = json.loads(result.stdout)
        assert (result.exit_code, stack["status"], "FLAG" in stack["values"]) == (1, "failed", True)
        assert stack["stack_id"] in result.stderr


async def test_labels_are_set_and_removed(shell: Shell) -> None:
    stack_id = (await shell.at.create(request_for("nginx") | {"labels": {"player": "7", "seat": "3"}}))["stack_id"]
    assert await shell.good("label", stack_id, "player=8", "seat-") == f"{stack_id}\tplayer=8\n"
    assert (await shell.at.stack(stack_id))["labels"] == {"player": "8"}


async def test_a_member_is_shown_and_restarted_and_its_log_read(shell: Shell) -> None:
    stack_id = await shell.at.running(three())
    assert re.search(r"member\s+db on \S+", await shell.good("show", stack_id))
    assert await shell.good("logs", stack_id, "--member", "db") == "starting\nready\n"
    assert "has no member 'cache'" in await shell.failing(1, "logs", stack_id, "--member", "cache")
    before = (await shell.at.objects("pods"))[f"{stack_id}-db"]["metadata"]["uid"]
    await shell.good("restart", stack_id, "--member", "db")
    assert (await shell.at.objects("pods"))[f"{stack_id}-db"]["metadata"]["uid"] != before
