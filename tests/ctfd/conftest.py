"""A real CTFd with the plugin, on a whole stackd or on a server that misbehaves.

STACKD_TEST_CTFD names a checkout of CTFd 3.7 or 3.8, and STACKD_TEST_CTFD_PYTHON the Python of a virtual environment
with its requirements.txt (without it: .venv/bin/python in the checkout).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from stackd.keys import ApiKey, digest
from tests.harness import KEY, Harness, eventually, harness
from tests.ports import free_port
from tests.templates import WEB, folder_with
from tests.ui.conftest import chromium

PLUGIN = Path(__file__).parents[2] / "integrations" / "ctfd" / "stackd_instances"
API = "/api/v1/stackd/admin"
PASSWORD = "password1"
Source = tuple[Path, Path]
SECONDS = 20_000.0
TENANT = "sk-tenant-0123456789abcdef0123456789"
"""CTFd's own key."""
OF_CTFD: dict[str, Any] = {"labels": {"event": "a"}, "templates": ("web-*",), "templates_write": True}
KEYS = (
    ApiKey(name="admin", sha256=digest(KEY)),
    ApiKey(name="ctfd", sha256=digest(TENANT), scope="tenant", **OF_CTFD),
)
CHALLENGE = {
    "name": "Web", "category": "web", "description": "Find it.", "value": 100, "state": "visible", "type": "stackd",
    "function": "static", "stackd_template": "web-1", "stackd_ttl": "30m", "stackd_extension": "10m",
    "stackd_extensions": 2, "stackd_connection": "80 http://{host}:{port}", "stackd_flag_source": "stack",
    "stackd_value": "FLAG", "stackd_stop_when_solved": "true",
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Person:
    """Somebody who is logged in to CTFd."""

    session: aiohttp.ClientSession
    nonce: str

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """A request as the pages send it; returns the status and the JSON."""
        headers = {"CSRF-Token": self.nonce, "Content-Type": "application/json", "Accept": "application/json"}
        async with self.session.request(method, path, json=body, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.json(content_type=None)

    async def data(self, method: str, path: str, body: object = None) -> Any:
        status, answer = await self.call(method, path, body)
        assert (status, answer["success"]) == (200, True), answer
        return answer["data"]

    async def press(self, challenge: int, what: str = "look") -> dict[str, Any]:
        """Press one of the buttons of the challenge's window, or only look at it."""
        path = f"/api/v1/stackd/challenges/{challenge}"
        instance = "/api/v1/stackd/instances/"
        if what not in ("look", "start"):
            instance += (await self.data("GET", path))["name"]
        calls = {"look": ("GET", path), "start": ("POST", path), "stop": ("DELETE", instance)}
        method, path = calls.get(what, ("POST", f"{instance}/{what}"))
        shown: dict[str, Any] = await self.data(method, path, None if what == "look" else {})
        return shown

    async def start(self, challenge: int) -> dict[str, Any]:
        """Press "Start"; return what the window shows once the instance runs."""
        await self.press(challenge, "start")
        return await self.until(challenge, status="running")

    async def until(self, challenge: int, **wanted: object) -> dict[str, Any]:
        """What the window shows, once it is as wanted; ``problem`` and ``doing`` name a key."""
        seen: dict[str, Any] = {}

        def is_now(key: str) -> object:
            return (seen[key] or {}).get("key") if key in ("problem", "doing") else seen[key]

        async def check() -> bool:
            seen.update(await self.press(challenge))
            return all(is_now(key) == value for key, value in wanted.items())

        await eventually(check, lambda: str(seen), pause=0.1)
        return seen

    async def submit(self, challenge: int, answer: str) -> str:
        data = await self.data("POST", "/api/v1/challenges/attempt", {"challenge_id": challenge, "submission": answer})
        return str(data["status"])


@dataclass(slots=True, kw_only=True)
class Ctfd:
    """A CTFd that runs; ``admin`` has set it up."""

    url: str
    folder: Path
    process: asyncio.subprocess.Process
    admin: Person = field(init=False)
    sessions: list[aiohttp.ClientSession] = field(default_factory=list)

    def log(self) -> str:
        return (self.folder / "ctfd.log").read_text()

    async def person(self, path: str, **form: str) -> Person:
        """Send one of CTFd's forms, as somebody new."""
        connector = aiohttp.TCPConnector(force_close=True)  # gunicorn closes idle connections after two seconds
        session = aiohttp.ClientSession(self.url, connector=connector, cookie_jar=aiohttp.CookieJar(unsafe=True))
        self.sessions.append(session)
        person = Person(session=session, nonce=await nonce(session, path))
        async with session.post(path, data={"nonce": person.nonce, **form}) as answer:
            assert answer.status == 200, await answer.text()
        person.nonce = await nonce(session, "/")
        return person

    async def player(self, name: str) -> Person:
        user = {"name": name, "email": f"{name}@example.com", "password": PASSWORD, "verified": True}
        await self.admin.data("POST", "/api/v1/users", user)
        return await self.person("/login", name=name, password=PASSWORD)

    async def team(self, name: str, *members: Person) -> int:
        """A new team of these players; returns its id."""
        fields = {"name": name, "email": f"{name}@example.com", "password": PASSWORD}
        team = int((await self.admin.data("POST", "/api/v1/teams", fields))["id"])
        for member in members:
            user = (await member.data("GET", "/api/v1/users/me"))["id"]
            await self.admin.data("POST", f"/api/v1/teams/{team}/members", {"user_id": user})
        return team

    async def configure(self, **settings: object) -> None:
        await self.admin.data("PATCH", f"{API}/settings", settings)

    async def act(self, action: str, *names: str) -> None:
        """Do this with instances on the organisers' page."""
        done = await self.admin.data("POST", f"{API}/instances", {"action": action, "names": names})
        assert done == {"count": len(names)}

    async def challenge(self, **fields: object) -> int:
        return int((await self.admin.data("POST", "/api/v1/challenges", {**CHALLENGE, **fields}))["id"])


async def nonce(session: aiohttp.ClientSession, path: str) -> str:
    """The token that CTFd wants with each change."""
    async with session.get(path) as answer:
        match = re.search(r"""['"]?csrfNonce['"]?: "([^"]+)"|name="nonce"[^>]*value="([^"]+)\"""", await answer.text())
        assert match is not None, answer.url
        return match.group(1) or match.group(2)


async def page_of(browser: Browser, ctfd: Ctfd, name: str, **options: Any) -> Page:
    """A page of somebody who is logged in."""
    context = await browser.new_context(
        base_url=ctfd.url, viewport={"width": 1200, "height": 900}, reduced_motion="reduce", **options
    )
    context.set_default_timeout(SECONDS)
    expect.set_options(timeout=SECONDS)
    page = await context.new_page()
    page.on("pageerror", lambda error: (_ for _ in ()).throw(AssertionError(str(error))))
    await page.goto("/login")
    await page.fill("input[name=name]", name)
    await page.fill("input[name=password]", PASSWORD)
    await page.press("input[name=password]", "Enter")
    await page.wait_for_url("**/challenges*")
    return page


async def open_challenge(page: Page, name: str = "Web") -> Locator:
    """Open the challenge's window; returns the box."""
    await page.goto("/challenges")
    await page.get_by_role("button", name=name).click()
    box = page.get_by_role("region", name="Instance")
    await expect(box).to_be_visible()
    return box


async def flag_of(stackd: Harness, stack_id: str) -> str:
    """The flag in the stack's pod: what a player finds."""
    pod = (await stackd.objects("pods"))[stack_id]
    environment = pod["spec"]["containers"][0]["env"]
    return str(next(one["value"] for one in environment if one["name"] == "FLAG"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """CTFd takes up to a minute to start on a busy machine, and some tests start it twice."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    """A copy of CTFd with the plugin in it, and the Python that runs it."""
    checkout = os.environ.get("STACKD_TEST_CTFD")
    if not checkout:
        pytest.skip("STACKD_TEST_CTFD does not name a checkout of CTFd 3.7 or 3.8")
    python = Path(os.environ.get("STACKD_TEST_CTFD_PYTHON") or Path(checkout, ".venv/bin/python"))
    if not python.exists():
        pytest.skip(f"{python} does not exist; STACKD_TEST_CTFD_PYTHON names a Python with CTFd's requirements.txt")
    copy = tmp_path_factory.mktemp("ctfd") / "source"
    leave = shutil.ignore_patterns(".git", ".venv", "tests", "__pycache__", "node_modules", ".data")
    shutil.copytree(checkout, copy, ignore=leave)
    shutil.copytree(PLUGIN, copy / "CTFd" / "plugins" / PLUGIN.name, ignore=shutil.ignore_patterns("__pycache__"))
    yield copy, python
    shutil.rmtree(copy, ignore_errors=True)


@asynccontextmanager
async def ctfd_running(
    source: Source,
    folder: Path,
    *,
    stackd: str,
    key: str = TENANT,
    gunicorn: tuple[str, ...] = ("--worker-class", "gevent"),
    imported: Path | None = None,
    **variables: str,
) -> AsyncIterator[Ctfd]:
    """CTFd as its container runs it, with ``stackd`` as the address of stackd, and with what was ``imported``."""
    copy, python = source
    folder.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "SECRET_KEY": "of-a-test", "UPDATE_CHECK": "false",
        "DATABASE_URL": f"sqlite:///{folder}/ctfd.db", "UPLOAD_FOLDER": f"{folder}/uploads", "LOG_FOLDER": f"{folder}/logs",
        "PYTHONDONTWRITEBYTECODE": "1", "STACKD_URL": stackd, "STACKD_KEY": key, **variables,
    }  # fmt: skip
    for name in ("uploads", "logs"):
        (folder / name).mkdir(exist_ok=True)
    shutil.rmtree(copy / ".data", ignore_errors=True)  # the cache of an earlier CTFd
    port = free_port()
    with (folder / "ctfd.log").open("a") as log:
        upgrade = [] if environment["DATABASE_URL"].startswith("sqlite") else [["-m", "flask", "db", "upgrade"]]
        for words in (*upgrade, *([["import.py", str(imported)]] if imported else [])):
            step = await asyncio.create_subprocess_exec(
                python, *words, cwd=copy, env={**environment, "FLASK_APP": "CTFd:create_app()"}, stdout=log, stderr=log
            )
            assert await step.wait() == 0, (folder / "ctfd.log").read_text()[-4000:]
        process = await asyncio.create_subprocess_exec(
            python, "-m", "gunicorn", "CTFd:create_app()", "--bind", f"127.0.0.1:{port}", *gunicorn,
            cwd=copy, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    ctfd = Ctfd(url=f"http://127.0.0.1:{port}", folder=folder, process=process)
    try:
        await eventually(lambda: responds(ctfd), ctfd.log, 60, pause=0.2)
        yield ctfd
    finally:
        for session in ctfd.sessions:
            await session.close()
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()


async def responds(ctfd: Ctfd) -> bool:
    assert ctfd.process.returncode is None, ctfd.log()
    try:
        async with aiohttp.ClientSession() as session, session.get(ctfd.url, allow_redirects=False) as answer:
            return answer.status in (200, 302)
    except aiohttp.ClientError:
        return False


async def set_up(ctfd: Ctfd, mode: str = "users") -> None:
    """Fill in CTFd's first form."""
    ctfd.admin = await ctfd.person(
        "/setup", ctf_name="Test", ctf_description="A test", user_mode=mode, name="admin", email="admin@example.com",
        password=PASSWORD, ctf_theme="core", challenge_visibility="private", account_visibility="public",
        score_visibility="public", registration_visibility="public", verify_emails="", team_size="", start="", end="",
    )  # fmt: skip
    await ctfd.admin.call("PATCH", "/api/v1/configs", {"stackd_starts_per_minute": 1000})


@pytest_asyncio.fixture
async def mariadb(source: object, tmp_path: Path) -> AsyncIterator[str]:
    server = shutil.which("mariadbd", path="/usr/sbin:/usr/bin")
    if server is None:
        pytest.skip("MariaDB is not installed (Debian: apt-get install mariadb-server)")
    folder, port = tmp_path / "mariadb", free_port()
    options, quiet = ["--no-defaults", f"--datadir={folder}", "--user=root"], asyncio.subprocess.DEVNULL
    create = await asyncio.create_subprocess_exec(
        "mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db", stdout=quiet, stderr=quiet
    )  # fmt: skip
    assert await create.wait() == 0
    (first := tmp_path / "first.sql").write_text(
        "CREATE DATABASE ctfd;\nCREATE USER ctfd@'%' IDENTIFIED BY 'ctfd';\nGRANT ALL ON ctfd.* TO ctfd@'%';\n"
    )
    process = await asyncio.create_subprocess_exec(
        server, *options, f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/sock", "--skip-log-bin",
        "--loose-innodb-snapshot-isolation=OFF",  # as in the releases that CTFd is made for; with it CTFd's own tracking fails
        "--character-set-server=utf8mb4", "--collation-server=utf8mb4_unicode_ci", f"--init-file={first}",
        stdout=quiet, stderr=quiet,
    )  # fmt: skip

    async def listens() -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    await eventually(listens, lambda: "MariaDB does not start", 60, pause=0.2)
    yield f"mysql+pymysql://ctfd:ctfd@127.0.0.1:{port}/ctfd"
    process.kill()
    await process.wait()


@pytest_asyncio.fixture
async def stackd(tmp_path: Path) -> AsyncIterator[Harness]:
    """A whole stackd with the template web-1."""
    (tmp_path / "stackd").mkdir()
    templates = {
        "web_1": WEB,
        "web_name": WEB.replace("nginx:stable", "registry.example/badname:1"),
        "web_pull": WEB.replace("nginx:stable", "registry.invalid/app:1"),
        "web_fail": WEB.replace("nginx:stable", "registry.example/fail-3:1"),
    }
    async with harness(tmp_path / "stackd", folder_with(tmp_path, **templates)) as running:
        running.put_keys_in_force(*KEYS)
        yield running


@pytest_asyncio.fixture
async def ctfd(source: Source, stackd: Harness, tmp_path: Path) -> AsyncIterator[Ctfd]:
    """CTFd for single users on that stackd."""
    async with ctfd_running(source, tmp_path / "ctfd", stackd=stackd.url) as running:
        await set_up(running)
        yield running


@pytest_asyncio.fixture
async def two_workers(source: Source, mariadb: str, stackd: Harness, tmp_path: Path) -> AsyncIterator[Ctfd]:
    """CTFd with two workers on MariaDB, as an event runs it; it is not set up."""
    gunicorn = ("--worker-class", "gevent", "--workers", "2")
    async with ctfd_running(
        source, tmp_path / "ctfd", stackd=stackd.url, gunicorn=gunicorn, DATABASE_URL=mariadb
    ) as running:
        yield running


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser
