"""The CTFd plugin against a whole stackd; of CTFd and Flask there is only what the plugin imports."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from stackd.client.attempts import Retries
from tests.harness import Harness

PLUGIN = Path(__file__).parents[2] / "examples" / "ctfd"
PATH = "/api/v1/stackd/<int:challenge_id>"
View = Callable[[int], Any]


class Ctfd:
    """A fake CTFd: the account that is logged in, the challenges, and what the plugin has registered."""

    def __init__(self) -> None:
        self.account: int | None = 7
        self.challenges = {1: "visible", 2: "visible", 3: "hidden", 4: "visible"}
        self.flags: dict[str, Any] = {}
        self.views: dict[tuple[str, str], View] = {}
        self.blueprints: list[Any] = []
        self.guards: dict[str, list[str]] = {}

    def modules(self) -> dict[str, ModuleType]:
        """Fake modules of CTFd and Flask with the names that the plugin imports."""
        return {
            "flask": _module("flask", Blueprint=self._blueprint, Flask=object, jsonify=lambda body: body),
            "CTFd": _module("CTFd"),
            "CTFd.models": _module("CTFd.models", Challenges=SimpleNamespace(query=self)),
            "CTFd.plugins": _module("CTFd.plugins"),
            "CTFd.plugins.flags": _module("CTFd.plugins.flags", FLAG_CLASSES=self.flags, BaseFlag=object),
            "CTFd.utils": _module("CTFd.utils"),
            "CTFd.utils.decorators": _module(
                "CTFd.utils.decorators",
                authed_only=self._guard("authed_only"),
                during_ctf_time_only=self._guard("during_ctf_time_only"),
                ratelimit=lambda **_: self._guard("ratelimit"),
            ),
            "CTFd.utils.user": _module(
                "CTFd.utils.user", get_current_user=lambda: SimpleNamespace(account_id=self.account)
            ),
        }

    def filter_by(self, *, id: int) -> Any:  # noqa: A002 - as SQLAlchemy has it
        """The challenges with this id."""
        state = self.challenges.get(id)
        return SimpleNamespace(first=lambda: None if state is None else SimpleNamespace(state=state))

    def register_blueprint(self, blueprint: Any) -> None:
        """Keep the blueprint, as a Flask application would."""
        self.blueprints.append(blueprint)

    async def press(self, method: str, challenge: int) -> tuple[int, Any]:
        """Press a button; return status and body of the response."""
        answer = await asyncio.to_thread(self.views[method, PATH], challenge)
        return (answer[1], answer[0]) if isinstance(answer, tuple) else (200, answer)

    def _blueprint(self, *_: str) -> Any:
        def route(path: str, *, methods: list[str]) -> Callable[[View], View]:
            def add(view: View) -> View:
                self.views[methods[0], path] = view
                return view

            return add

        return SimpleNamespace(route=route)

    def _guard(self, name: str) -> Callable[[View], View]:
        def guarded(view: View) -> View:
            self.guards.setdefault(view.__name__, []).append(name)
            return view

        return guarded


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


@pytest.fixture
def ctfd(one_each: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ctfd]:
    """The fake CTFd once it has loaded the plugin."""
    pods = tmp_path / "pods"
    pods.mkdir()
    for number in (1, 2, 3):
        (pods / f"{number}.yaml").write_text((PLUGIN / "pods" / "1.yaml").read_text())
    monkeypatch.setenv("STACKD_PODS", str(pods))
    ctfd, name = Ctfd(), "CTFd.plugins.stackd_instances"
    for each, module in ctfd.modules().items():
        monkeypatch.setitem(sys.modules, each, module)
    spec = importlib.util.spec_from_file_location(name, PLUGIN / "stackd_instances" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    plugin = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, plugin)
    spec.loader.exec_module(plugin)
    plugin.load(ctfd)
    yield ctfd
    for each in [each for each in sys.modules if each.startswith(name + ".")]:
        del sys.modules[each]


async def test_the_buttons_start_extend_and_stop_a_stack(one_each: Harness, ctfd: Ctfd) -> None:
    assert await ctfd.press("GET", 1) == (404, {"success": False, "errors": {"": ["no instance runs"]}})
    with one_each.no_pod_starting():
        status, started = await ctfd.press("POST", 1)
    assert (status, started["success"], started["data"]["status"]) == (200, True, "creating")
    (stack_id,) = await one_each.listed()
    await one_each.until_status(stack_id, "running")
    _, seen = await ctfd.press("GET", 1)
    port = (await one_each.stack(stack_id))["ports"][0]["node_port"]
    assert seen["data"] == {**started["data"], "status": "running", "addresses": [f"127.0.0.1:{port}"]}
    _, longer = await ctfd.press("PATCH", 1)
    assert longer["data"]["until"] > seen["data"]["until"]
    assert await ctfd.press("DELETE", 1) == (200, {"success": True, "data": None})
    await one_each.until_listed(0)
    assert (await ctfd.press("DELETE", 1))[0] == 200, "twice is not once too often"


async def test_an_account_has_one_stack_however_often_it_presses(one_each: Harness, ctfd: Ctfd) -> None:
    answers = [await ctfd.press("POST", 1) for _ in range(3)]
    assert [status for status, _ in answers] == [200, 200, 200]
    assert len(await one_each.listed()) == 1
    status, refused = await ctfd.press("POST", 2)
    assert (status, refused["errors"]) == (409, {"": ["your instance of another challenge runs: stop it first"]})
    ctfd.account = 8
    assert (await ctfd.press("POST", 2))[0] == 200
    assert len(await one_each.listed()) == 2


async def test_the_flag_of_an_account_is_taken_from_it_alone_and_ends_its_stack(one_each: Harness, ctfd: Ctfd) -> None:
    await ctfd.press("POST", 1)
    (stack_id,) = await one_each.listed()
    pod = (await one_each.objects("pods"))[stack_id]
    (flag,) = [one["value"] for one in pod["spec"]["containers"][0]["env"] if one["name"] == "FLAG"]
    compare, saved = ctfd.flags["stackd"].compare, SimpleNamespace(challenge_id=1, content="")
    ctfd.account = 8
    assert not await asyncio.to_thread(compare, saved, flag)
    ctfd.account = 7
    assert not await asyncio.to_thread(compare, SimpleNamespace(challenge_id=2, content=""), flag)
    assert await one_each.listed() == [stack_id]
    assert await asyncio.to_thread(compare, saved, f" {flag}\n")
    await one_each.until_listed(0)


async def test_what_cannot_be_has_a_sentence_for_the_player(
    one_each: Harness, ctfd: Ctfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    for challenge, text in (
        (3, "there is no such challenge"),
        (9, "there is no such challenge"),
        (4, "this challenge has no instances"),
    ):
        assert await ctfd.press("POST", challenge) == (404, {"success": False, "errors": {"": [text]}})
    ctfd.account = None
    assert (await ctfd.press("POST", 1))[0] == 403
    ctfd.account = 7
    monkeypatch.setattr(Retries, "pause", lambda *_: 0.0)
    with one_each.stopping():
        status, refused = await ctfd.press("POST", 1)
    assert (status, refused["success"]) == (503, False)
    monkeypatch.setenv("STACKD_API_KEY", "sk-another-0123456789abcdef0123456789")
    assert await ctfd.press("POST", 1) == (
        502,
        {"success": False, "errors": {"": ["the instance cannot be had; tell the organisers"]}},
    )
    assert await one_each.listed() == []


async def test_every_button_is_for_players_and_what_costs_is_limited(ctfd: Ctfd) -> None:
    assert len(ctfd.blueprints) == 1
    assert set(ctfd.views) == {(method, PATH) for method in ("GET", "POST", "PATCH", "DELETE")}
    assert all("authed_only" in ctfd.guards[view] for view in ("look", "start", "extend", "stop"))
    assert all("ratelimit" in ctfd.guards[view] for view in ("start", "extend"))
