"""Templates as ConfigMaps: what others write there, with whose rights, and what becomes of what is wrong, changed or gone."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Any

import pytest

from stackd.kube.template_maps import TEMPLATES, template_manifest
from stackd.lifecycle import templates
from stackd.model import Principal, StoredTemplate
from stackd.store import backup_file
from stackd.templates.sources import MOST_PROBLEMS
from tests.api.scenes import CI, POOLED, config, put
from tests.harness import Client, Harness, Machine, Reply, eventually, until
from tests.players import LAB, SECRET, browser, make_link
from tests.templates import BODY, PLAIN, WEB, folder_with, shown, until_pooled

NAME = "stackd-default-{}"
MORE = f"more than {MOST_PROBLEMS} texts are not in force; the first of them are listed"


@pytest.fixture
async def at(vm: Machine) -> Harness:
    settings = folder_with(vm.folder, filed=PLAIN)
    vm.options |= {"settings": settings, "config": config(vm.folder, vm.options.pop("limits", ""))}
    return await vm.start()


async def applied(at: Harness, name: str, text: str, **metadata: Any) -> None:
    """What ``kubectl apply`` does with a template."""
    labels = {"stackd.io/template": name, "stackd.io/instance": "default"}
    path = "/api/v1/namespaces/stacks/configmaps"
    body = {"metadata": {"name": NAME.format(name), "labels": labels} | metadata, "data": {"template.yaml": text}}
    answer = await at.kubectl("POST", path, body)
    if answer["kind"] == "Status":
        answer = await at.kubectl("PATCH", f"{path}/{NAME.format(name)}", body)
    assert answer["kind"] == "ConfigMap", answer


async def problems(at: Client) -> dict[str, tuple[str, str]]:
    """What is not in force: its kind and its sentence, by name."""
    seen = (await at.get("/templates")).get("problems", [])
    return {one["name"]: (one["problem"], one["message"]) for one in seen}


async def test_a_template_is_in_force_after_kubectl_apply(at: Harness) -> None:
    await applied(at, "web-1", POOLED)
    one = (await until(lambda: shown(at), lambda seen: seen.get("web-1", {}).get("ready") == 2))["web-1"]
    assert (one["source"], one["written_by"]) == ("cluster", "cluster")
    assert (await at.create(BODY))["template"] == "web-1"
    await applied(at, "web-1", POOLED.replace("ttl: 1h", "ttl: 2h"))
    await until(lambda: shown(at), lambda seen: seen["web-1"]["ttl"] == "2h")
    seen = await until(lambda: at.get("/activity?action=template"), lambda seen: len(seen["activity"]) == 2)
    assert {one["by"] for one in seen["activity"]} == {"cluster"}


async def test_what_others_write_has_a_tenants_rights_at_most(at: Harness) -> None:
    wrong = {
        "policy: {run_as_user: true}\n": "policy: only the operator may write this",
        "shared: true\n": "shared: only the operator may write this",
        "network: {egress: internet}\n": "network.egress",
        "pool: 21\n": "limits.pool_per_key",
        "# " + "x" * (1 << 17): "131072 bytes",
        "ttll: 1h\n": "ttll",
    }
    for number, more in enumerate(wrong):
        await applied(at, f"web-{number}", PLAIN + more)
    seen = await until(lambda: problems(at), lambda seen: len(seen) == len(wrong))
    for number, why in enumerate(wrong.values()):
        kind, message = seen[f"web-{number}"]
        assert (kind, why in message) == ("faulty", True), message
    assert list(await shown(at)) == ["filed"]
    await at.refused(400, 'there is no "web-1"', "/stacks", BODY)


async def test_what_others_write_is_read_after_a_rest_and_what_the_api_writes_at_once(
    vm: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "RESTS", math.inf)
    monkeypatch.setattr(templates, "LONGEST_REST_SECONDS", 60.0)
    vm.options |= {"settings": folder_with(vm.folder, filed=PLAIN), "config": config(vm.folder, "")}
    at = await vm.start()  # which reads the texts that are there
    await applied(at, "web-1", PLAIN)
    await eventually(lambda: NAME.format("web-1") in at.daemon.context.mirror.templates)
    assert "web-1" not in await shown(at)
    await put(at, "mine", PLAIN)
    assert {"mine", "web-1"} <= (await shown(at)).keys()


async def test_what_others_write_in_masses_neither_grows_nor_hides_what_is_there(
    at: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackd.kube.template_maps.MOST_BYTES_BY_OTHERS", 1 << 20)
    await put(at, "mine", PLAIN)
    await applied(at, "web-1", PLAIN)
    await until(lambda: shown(at), lambda seen: "web-1" in seen)
    large = "# " + "x" * 30_000
    names = [f"a{number}" for number in range(140)]
    for name in names:
        await applied(at, name, large)
    await applied(at, "z-last", PLAIN)
    kept = at.daemon.context.mirror.templates
    await eventually(lambda: len(kept) == len(names) + 3)
    assert sum(len(there.stored.text) for there in kept.values() if there.stored is not None) <= 1 << 20
    seen = await until(lambda: at.get("/templates"), lambda seen: seen.get("problems", [{}])[-1].get("message") == MORE)
    assert {"mine", "web-1", "filed"} <= {one["name"] for one in seen["templates"]}
    assert len(seen["problems"]) == MOST_PROBLEMS + 1
    assert sum("delete some" in one["message"] for one in seen["problems"]) > 50
    assert caplog.text.count(MORE) == 1
    for name in names:
        await at.delete_object("configmaps", NAME.format(name))
    await until(lambda: shown(at), lambda seen: "z-last" in seen)
    await until(lambda: problems(at), lambda seen: not seen)


async def test_a_faulty_text_leaves_the_last_good_one_in_force(
    at: Harness, vm: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await put(at, "web-1", POOLED)).status == 201
    await until(lambda: shown(at), lambda seen: seen["web-1"]["ready"] == 2)
    before = await at.pods_and_services()
    await at.patch("configmaps", NAME.format("web-1"), {"data": {"template.yaml": PLAIN + "shared: true\n"}})
    for start_again in (False, True):
        if start_again:
            at = await vm.start()
        kind, message = (await until(partial(problems, at), lambda seen: "web-1" in seen))["web-1"]
        assert (kind, message in caplog.text) == ("stale", True)
        assert (await shown(at))["web-1"]["pool"] == 2
        await at.passes(2)
        assert await at.pods_and_services() == before
    assert (await put(at, "web-1", POOLED)).status == 200, "the same text again is a change of what is there"
    assert not await problems(at)
    await at.patch("configmaps", NAME.format("web-1"), {"data": None})
    await until(lambda: problems(at), lambda seen: seen.get("web-1", ("", ""))[0] == "stale")


async def test_the_operator_may_trust_the_cluster_or_ignore_what_others_write_there(vm: Machine) -> None:
    at = await vm.start(templates__from_cluster="admin")
    await put(at, "web-2", PLAIN)
    await applied(at, "web-1", PLAIN + "shared: true\n")
    one = (await until(lambda: shown(at), lambda seen: "web-1" in seen))["web-1"]
    assert (one["source"], one["shared"]) == ("cluster", True)
    at = await vm.start(templates__from_cluster="tenant")
    assert "web-1" not in await shown(at), "what was trusted before is not trusted any more"
    assert (await problems(at))["web-1"][0] == "faulty"
    at = await vm.start(templates__from_cluster="none")
    await applied(at, "web-2", WEB)
    seen = await until(lambda: problems(at), lambda seen: "web-2" in seen)
    assert (seen["web-2"][0], list(seen), list(await shown(at))) == ("stale", ["web-2"], ["web-2"])


async def test_what_stackd_wrote_has_the_rights_of_its_writer_on_every_machine(at: Harness, vm: Machine) -> None:
    ci = Client(session=at.session, url=at.url, key=CI)
    assert (await put(ci, "web-1", PLAIN)).status == 201
    assert (await put(at, "notes", PLAIN + "shared: true\n")).status == 201
    await vm.lose_file()
    at = await vm.start()
    ci = Client(session=at.session, url=at.url, key=CI)
    seen = await shown(at)
    assert (seen["notes"]["shared"], seen["notes"]["source"], seen["web-1"]["written_by"]) == (True, "api", "ci")
    assert (await put(ci, "web-1", POOLED)).status == 200, "it is still its owner"


async def test_a_tenant_does_not_take_over_what_others_have_written_into_the_cluster(at: Harness) -> None:
    await applied(at, "web-1", PLAIN)
    await until(lambda: shown(at), lambda seen: "web-1" in seen)
    ci = Client(session=at.session, url=at.url, key=CI)
    assert (await put(ci, "web-1", POOLED)).status == 403
    assert (await ci.call("DELETE", "/templates/web-1")).status == 403
    assert (await put(at, "web-1", PLAIN)).json["source"] == "api", "an admin does"
    assert (await at.call("DELETE", "/templates/web-1")).status == 200
    assert NAME.format("web-1") not in await at.objects("configmaps")


async def test_a_config_map_of_another_name_is_named_and_gives_way(at: Harness) -> None:
    labels = {"stackd.io/template": "web-1", "stackd.io/instance": "default"}
    await at.apply("configmaps", "mine", labels=labels, data={"template.yaml": PLAIN})
    kind, message = (await until(lambda: problems(at), lambda seen: "web-1" in seen))["web-1"]
    assert (kind, "stackd-default-web-1" in message) == ("faulty", True)
    await put(at, "web-1", PLAIN)
    assert not await problems(at)
    await at.apply("configmaps", NAME.format("web-2"), data={})
    assert (await put(at, "web-2", PLAIN)).status == 409


async def test_a_change_names_the_version_that_it_is_of(at: Harness) -> None:
    async def written(text: str, match: str) -> Reply:
        return await at.call("PUT", "/templates/web-1", text.encode(), headers={"If-Match": match})

    assert (await written(PLAIN, "*")).code == "template_changed", "there is none"
    first = await put(at, "web-1", PLAIN)
    tag = first.headers["Etag"]
    assert tag == f'"{first.json["version"]}"' == (await at.call("GET", "/templates/web-1")).headers["Etag"]
    second = await written(POOLED, tag)
    assert (second.status, second.headers["Etag"] != tag) == (200, True)
    late = await written(WEB, tag)
    assert (late.status, late.code) == (412, "template_changed")
    assert (await written(WEB, f'"x", {second.headers["Etag"]}')).status == 200
    await applied(at, "web-1", PLAIN)
    assert (await written(WEB, second.headers["Etag"])).status == 412, "kubectl has changed it"
    assert (await written(WEB, "6804aa27d53fbbaf")).code == "invalid_request"
    gone = partial(at.call, "DELETE", "/templates/web-1")
    assert (await gone(headers={"If-Match": second.headers["Etag"]})).status == 412
    assert (await gone(headers={"If-Match": "W/" + first.headers["Etag"]})).status == 412
    assert (await gone(headers={"If-Match": first.headers["Etag"]})).status == 200


async def test_of_writers_at_the_same_time_none_is_overwritten_unseen(at: Harness) -> None:
    tag = (await put(at, "web-1", PLAIN)).headers["Etag"]
    texts = [PLAIN.replace("ttl: 1h", f"ttl: {minutes}m") for minutes in range(10, 20)]
    replies = await asyncio.gather(
        *(at.call("PUT", "/templates/web-1", text.encode(), headers={"If-Match": tag}) for text in texts)
    )
    assert sorted(reply.status for reply in replies) == [200] + [412] * 9


async def test_a_write_whose_answer_was_lost_is_there_once(at: Harness) -> None:
    for text, verb in ((PLAIN, "create"), (POOLED, "patch")):
        at.faults.add_fault(action="lost_reply", verb=verb, resource="configmaps", count=1)
        reply = await put(at, "web-1", text)
        assert reply.status in (200, 201), reply.text
        assert (await at.get("/templates/web-1"))["text"] == text
        at.faults.clear()
    at.faults.add_fault(action="lost_reply", verb="delete", resource="configmaps", count=1)
    assert (await at.call("DELETE", "/templates/web-1")).status == 200
    assert "web-1" not in await shown(at)


async def test_while_kubernetes_is_away_nothing_is_written_and_the_files_copy_is_in_force(
    at: Harness, vm: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackd.lifecycle.gate.FIRST_CONTACT_SECONDS", 0.3)
    await put(at, "web-1", PLAIN)
    await vm.stop()
    await vm.cluster.faults.refuse()
    at = await vm.start(wait=False)
    assert (await shown(at))["web-1"]["source"] == "api"
    for method, body in (("PUT", POOLED.encode()), ("DELETE", None)):
        reply = await at.call(method, "/templates/web-1", body)
        assert (reply.status, "Retry-After" in reply.headers) == (503, True), reply.text
    await vm.cluster.faults.listen()
    await at.until_ready()
    assert (await put(at, "web-1", POOLED)).status == 200


async def test_a_list_that_fails_is_not_taken_for_nothing(at: Harness) -> None:
    await put(at, "web-1", POOLED)
    await until(lambda: shown(at), lambda seen: seen["web-1"]["ready"] == 2)
    at.faults.add_fault(action="status", code=410, verb="watch", resource="configmaps", count=1)
    at.faults.add_fault(action="status", code=500, verb="list", resource="configmaps")
    at.faults.drop_watches()
    await eventually(lambda: at.counts.total("list", "configmaps") > 2)
    await at.passes(2)
    assert (await shown(at))["web-1"]["ready"] == 2
    assert not await problems(at)


async def test_two_instances_in_one_namespace_have_templates_of_their_own(at: Harness) -> None:
    theirs = StoredTemplate(name="web-1", text=PLAIN, by=Principal(id="key:x", name="x"), tenant=False, at=1)
    manifest = template_manifest(theirs, namespace="stacks", instance="blue")
    await at.daemon.context.cluster.create(TEMPLATES, manifest)
    assert (await put(at, "web-1", POOLED)).status == 201
    await at.passes(1)
    assert (await shown(at))["web-1"]["pool"] == 2
    assert (await at.call("DELETE", "/templates/web-1")).status == 200
    assert list(await at.objects("configmaps")) == ["stackd-blue-web-1"]


PLAY = {"STACKD_PLAY__URL": "http://stackd.example", "STACKD_PLAY__SECRET": SECRET}
LATER = "title: Another title\nshow: [TEAM_SECRET]\nextend: {by: 5m, times: 9}\n"


async def test_a_running_stack_keeps_what_it_took_from_its_template_and_a_renewal_brings_the_new(vm: Machine) -> None:
    at = await vm.start(settings=PLAY)
    await put(at, "lab-1", WEB + LAB)
    async with browser(at) as seat:
        await seat.enter(await make_link(at))
        name = (await seat.start())["name"]
        await seat.until("running")
        await put(at, "lab-1", WEB + LATER)
        entry = (await seat.look())["lab-1"]
        assert (entry["title"], entry["extension"], entry["extensions_left"]) == ("Lab one", "30m", 2)
        assert (await at.call("DELETE", "/templates/lab-1")).status == 200
        entry = (await seat.look())["lab-1"]
        assert (entry["title"], [one["name"] for one in entry["values"]]) == ("Lab one", ["FLAG"])
        assert (await seat.call("POST", f"/play/stacks/{name}/extend")).json["extensions_left"] == 1
        await put(at, "lab-1", WEB + LATER)
        await at.post(f"/stacks/{name}/restart", {"template": "latest"}, 200)
        entry = await seat.until("running")
        assert (entry["title"], entry["extension"], entry["extensions_left"]) == ("Another title", "5m", 8)
        assert [one["name"] for one in entry["values"]] == ["TEAM_SECRET"]


async def test_a_stack_of_a_pool_takes_what_the_template_says_when_somebody_gets_it(vm: Machine) -> None:
    at = await vm.start(settings=PLAY)
    await put(at, "lab-1", WEB + "title: At first\npool: 1\n")
    await until(lambda: shown(at), lambda seen: seen["lab-1"]["ready"] == 1)
    await put(at, "lab-1", WEB + LAB + "pool: 1\n")
    await until_pooled(at, "lab-1")
    async with browser(at) as seat:
        await seat.enter(await make_link(at))
        await seat.start()
        entry = await seat.until("running")
        assert (entry["title"], entry["extensions_left"]) == ("Lab one", 2)
        assert (await shown(at))["lab-1"]["hits"] == 1


def images(pods: dict[str, Any]) -> list[str]:
    return [pod["spec"]["containers"][0]["image"] for pod in pods.values()]


async def test_while_the_templates_cannot_be_read_an_older_file_changes_no_pool(
    at: Harness, vm: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("stackd.timing", "stackd.lifecycle.templates"):
        monkeypatch.setattr(f"{module}.TEMPLATES_LISTED_SECONDS", 0.2)
    await put(at, "web-1", POOLED)
    await until(lambda: shown(at), lambda seen: seen["web-1"]["ready"] == 2)
    backup_file(vm.folder / "stackd.db", vm.folder / "copy.db")
    newer = (await put(at, "web-1", POOLED.replace("nginx:stable", "nginx:mainline"))).json["version"]
    await until(lambda: at.objects("pods"), lambda seen: images(seen) == ["nginx:mainline"] * 2)
    await until(lambda: shown(at), lambda seen: seen["web-1"]["ready"] == 2)
    before = await at.pods_and_services()
    await vm.lose_file()
    (vm.folder / "copy.db").rename(vm.folder / "stackd.db")
    vm.cluster.faults.add_fault(action="status", code=500, verb="list", resource="configmaps")
    at = await vm.start()
    assert (await shown(at))["web-1"]["version"] != newer
    assert (await put(at, "web-1", PLAIN)).status == 503
    await at.passes(3)
    assert await at.pods_and_services() == before
    vm.cluster.faults.clear()
    await until(lambda: shown(at), lambda seen: seen["web-1"]["version"] == newer)
    await at.passes(3)
    assert await at.pods_and_services() == before
