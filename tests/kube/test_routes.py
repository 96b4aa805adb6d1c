"""The objects that give ports names: stored as they are wanted, and what a Gateway says of them."""

from __future__ import annotations

from typing import Any

import pytest

from stackd.config import RoutesSection
from stackd.kube.routes import names_of, route_state, stack_of, wanted_routes
from stackd.model import PortMapping, Route, RoutedPort
from tests.kube.wire import recording
from tests.unit.lifecycle.situations import stack

CONFIG = RoutesSection(domain="example.org", gateway="gateways/public", https_listener="https", tls_listener="tls")
PARENT = {"namespace": "gateways", "name": "public", "sectionName": "https"}
GOOD = {"Accepted": "True", "ResolvedRefs": "True"}


def routed(route: Route = Route.HTTPS) -> RoutedPort:
    return RoutedPort(container_port=80, protocol="TCP", route=route, host="web-1.example.org")


def with_ports(*ports: PortMapping, **changes: Any) -> Any:
    return stack(stack_id="ok", ports=ports, **changes)


@pytest.mark.parametrize(("route", "kind"), [(Route.HTTPS, "httproute"), (Route.TLS, "tlsroute")])
def test_what_an_api_server_stores_is_what_was_wanted(route: Route, kind: str) -> None:
    (wanted,) = wanted_routes(with_ports(routed(route)), CONFIG, "default")
    recorded = recording(f"{kind}-create-201")
    assert (wanted.resource, wanted.manifest["spec"]) == (f"{kind}s", recorded["request"]["body"]["spec"])
    assert route_state(f"{kind}s", recorded["response"]["body"]).content == wanted.content


def test_a_stack_with_node_ports_has_a_service_for_its_names() -> None:
    both = with_ports(routed(), PortMapping(container_port=22, protocol="TCP", node_port=31001))
    route, behind = wanted_routes(both, CONFIG, "default")
    assert route.manifest["spec"]["rules"][0]["backendRefs"][0]["name"] == behind.name == "rt-ok"
    assert behind.manifest["spec"]["type"] == "ClusterIP"
    assert [port["port"] for port in behind.manifest["spec"]["ports"]] == [80]
    assert {one.resource for one in (route, behind)} == {resource for resource, _ in names_of(both)}
    assert {stack_of(*one) for one in names_of(both)} == {"ok"}


@pytest.mark.parametrize("nothing", [{"domain": ""}, {"https_listener": ""}, {}])
def test_there_is_nothing_where_no_name_is_held_or_configured(nothing: dict[str, str]) -> None:
    held = with_ports(routed(), ports_held=bool(nothing))
    assert wanted_routes(held, CONFIG.model_copy(update=nothing), "default") == ()


@pytest.mark.parametrize(
    ("entries", "ready", "reason"),
    [
        ([], False, ""),
        ([(PARENT, GOOD, 2)], True, ""),
        ([(PARENT, GOOD, 1)], False, ""),  # it speaks of an earlier version of the route
        ([(PARENT, {"Accepted": "True"}, 2)], False, ""),
        ([(PARENT, GOOD | {"ResolvedRefs": "False"}, 2)], False, "BecauseResolvedRefs"),
        ([(PARENT | {"sectionName": "other"}, GOOD, 2)], False, ""),
        ([(PARENT | {"name": "other"}, {"Accepted": "False"}, 2), (PARENT, GOOD, 2)], True, ""),
        ([(PARENT, GOOD, 2), (PARENT, {"Accepted": "False"}, 2)], False, "BecauseAccepted"),  # another controller
    ],
)
def test_what_the_gateway_says(entries: list[tuple[Any, dict[str, str], int]], ready: bool, reason: str) -> None:
    raw = recording("httproute-create-201")["response"]["body"]
    raw["metadata"]["generation"] = 2
    raw["status"] = {
        "parents": [
            {
                "parentRef": parent,
                "conditions": [
                    {"type": kind, "status": status, "reason": f"Because{kind}", "observedGeneration": generation}
                    for kind, status in said.items()
                ],
            }
            for parent, said, generation in entries
        ]
    }
    state = route_state("httproutes", raw)
    assert (state.ready, state.reason) == (ready, reason)
