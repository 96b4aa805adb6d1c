from __future__ import annotations

from tests.embedded.wire import Wire

MAPS = "/api/v1/namespaces/rec/configmaps"


async def fill(wire: Wire, count: int) -> None:
    for number in range(count):
        labels = {"parity": "odd" if number % 2 else "even", "all": "yes"}
        await wire.post(MAPS, {"metadata": {"name": f"m{number:02}", "labels": labels}})


def names(body: dict[str, list[dict[str, dict[str, str]]]]) -> list[str]:
    return [item["metadata"]["name"] for item in body["items"]]


async def test_pages_together_are_the_whole_list(wire: Wire) -> None:
    await fill(wire, 10)
    seen, query, remaining = [], "?limit=4", []
    while True:
        body = (await wire.get(MAPS + query)).body
        seen += names(body)
        remaining.append(body["metadata"].get("remainingItemCount"))
        if "continue" not in body["metadata"]:
            break
        query = f"?limit=4&continue={body['metadata']['continue']}"
    assert seen == [f"m{number:02}" for number in range(10)]
    assert remaining == [6, 2, None]


async def test_an_expired_page_is_410_and_offers_a_way_on(wire: Wire) -> None:
    await fill(wire, 4)
    token = (await wire.get(f"{MAPS}?limit=2")).body["metadata"]["continue"]
    await wire.post(MAPS, {"metadata": {"name": "later"}})
    wire.cluster.faults.compact()
    answer = await wire.get(f"{MAPS}?limit=2&continue={token}")
    assert (answer.status, answer.body["reason"]) == (410, "Expired")
    rest = await wire.get(f"{MAPS}?continue={answer.body['metadata']['continue']}")
    assert names(rest.body) == ["m02", "m03"]


async def test_a_continue_token_that_is_none_is_refused(wire: Wire) -> None:
    assert (await wire.get(f"{MAPS}?limit=2&continue=nonsense")).status == 400


async def test_label_selectors_select(wire: Wire) -> None:
    await fill(wire, 4)
    wanted = {
        "parity=odd": ["m01", "m03"],
        "parity!=odd": ["m00", "m02"],
        "parity in (odd, even),all": ["m00", "m01", "m02", "m03"],
        "parity notin (odd)": ["m00", "m02"],
        "!parity": [],
        "parity=odd,all=yes": ["m01", "m03"],
    }
    for selector, expected in wanted.items():
        answer = await wire.get(f"{MAPS}?labelSelector={selector.replace('=', '%3D').replace(' ', '%20')}")
        assert names(answer.body) == expected, selector
    assert (await wire.get(f"{MAPS}?labelSelector=a%20b%20c")).status == 400


async def test_field_selectors_select(wire: Wire) -> None:
    await wire.make_pod("here", nodeSelector={"no": "where"})
    await wire.make_pod("there")
    await wire.until_pod("there", lambda body: body["status"]["phase"] == "Running")
    pods = "/api/v1/namespaces/rec/pods"
    assert names((await wire.get(f"{pods}?fieldSelector=metadata.name=here")).body) == ["here"]
    assert names((await wire.get(f"{pods}?fieldSelector=status.phase!=Running")).body) == ["here"]
    assert names((await wire.get(f"{pods}?fieldSelector=spec.nodeName=")).body) == ["here"]
    refused = await wire.get(f"{pods}?fieldSelector=spec.color=red")
    assert refused.status == 400
    assert refused.message.endswith("field label not supported: spec.color")


async def test_unknown_paths_and_wrong_methods_are_refused(wire: Wire) -> None:
    assert (await wire.get("/api/v1/widgets")).body["reason"] == "NotFound"
    assert (await wire.get("/nowhere")).status == 404
    assert (await wire.call("POST", "/api/v1/namespaces/rec/pods/one", {})).status == 405
    assert (await wire.post("/api/v1/pods", {})).status == 405
    assert (await wire.get("/apis/networking.k8s.io/v1/namespaces/rec/networkpolicies")).status == 200


async def test_discovery_names_the_resources(wire: Wire) -> None:
    resources = (await wire.get("/api/v1")).body["resources"]
    assert {"pods", "services", "nodes"} <= {resource["name"] for resource in resources}
    groups = {group["name"] for group in (await wire.get("/apis")).body["groups"]}
    assert groups == {
        "admissionregistration.k8s.io",
        "coordination.k8s.io",
        "networking.k8s.io",
        "rbac.authorization.k8s.io",
    }
    assert (await wire.get("/readyz")).body == "ok"
