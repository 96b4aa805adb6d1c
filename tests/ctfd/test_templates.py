"""Templates of challenges: a corrected one reaches the instances, and the form writes new ones."""

from __future__ import annotations

from pathlib import Path

from tests.ctfd.conftest import API, Ctfd, flag_of
from tests.harness import Harness, eventually
from tests.templates import WEB, folder_with


async def images(stackd: Harness) -> list[str]:
    return [pod["spec"]["containers"][0]["image"] for pod in (await stackd.objects("pods")).values()]


async def test_a_restart_takes_the_corrected_template_and_keeps_the_flag(
    ctfd: Ctfd, stackd: Harness, tmp_path: Path
) -> None:
    challenge = await ctfd.challenge()
    players = [await ctfd.player(name) for name in ("ada", "bob")]
    before = [await player.start(challenge) for player in players]
    flags = {one: await flag_of(stackd, one) for one in await stackd.listed()}
    folder_with(tmp_path, web_1=WEB.replace("nginx:stable", "nginx:1.27").replace("kind: web", "kind: mended"))
    await stackd.reload_templates()
    await ctfd.admin.data("PATCH", f"/api/v1/challenges/{challenge}", {"stackd_connection": "80 curl {host}:{port}"})

    async def replaced(count: int) -> bool:
        return (await images(stackd)).count("nginx:1.27") == count

    await players[0].press(challenge, "restart")
    await eventually(lambda: replaced(1), ctfd.log)
    key = (await ctfd.admin.data("GET", f"{API}/instances"))["instances"][0]["challenge_key"]
    await players[0].until(challenge, status="running", pending=False)
    wanted = {"action": "restart", "filter": {"challenge": key}}
    assert await ctfd.admin.data("POST", f"{API}/instances", wanted) == {"count": 2}, "all of the challenge"
    await eventually(lambda: replaced(2), ctfd.log)
    for player, earlier in zip(players, before, strict=True):
        now = await player.until(challenge, status="running", pending=False)
        address = earlier["addresses"][0]["text"].removeprefix("http://")
        assert now["addresses"][0]["text"] == f"curl {address}"
        assert now["extensions_left"] == earlier["extensions_left"]
    assert {one: await flag_of(stackd, one) for one in await stackd.listed()} == flags
    (tmp_path / "templates" / "web-1.yaml").unlink()
    await stackd.reload_templates()
    await players[0].press(challenge, "restart")
    await players[0].until(challenge, status="running", pending=False, problem=None)


async def test_the_form_writes_a_template_and_shows_its_mistakes(ctfd: Ctfd, stackd: Harness) -> None:
    text = WEB.replace("labels: {challenge: web-1, kind: web}\n", "title: Größer → besser\n")
    offered = await ctfd.admin.data("GET", f"{API}/templates?now=1")
    assert offered["may_write"] is True
    wrong = {"text": text.replace("kind: Pod", "kind: Job")}
    status, answer = await ctfd.admin.call("PUT", f"{API}/templates/web-2", wrong)
    assert (status, "line " in answer["errors"][""][0]) == (400, True), answer
    outside = await ctfd.admin.call("PUT", f"{API}/templates/other-1", {"text": text})
    assert outside[0] == 400, "not within the key's patterns"
    await ctfd.admin.data("PUT", f"{API}/templates/web-2", {"text": text})
    offered = await ctfd.admin.data("GET", f"{API}/templates")
    titles = {one["name"]: one["title"] for one in offered["templates"]}
    assert titles["web-2"] == "Größer → besser", "at once"
    challenge, player = await ctfd.challenge(stackd_template="web-2"), await ctfd.player("ada")
    await player.start(challenge)
    (stack_id,) = await stackd.listed()
    assert await player.submit(challenge, await flag_of(stackd, stack_id)) == "correct"
    status, _ = await player.call("PUT", f"{API}/templates/web-3", {"text": text})
    assert status == 403
