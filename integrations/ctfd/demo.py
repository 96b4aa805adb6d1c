"""A CTFd with the plugin and stackd's demo beside it, with a tenant key, three challenges, an admin and two players.

``CTFD`` names a checkout of CTFd 3.7 or 3.8, and ``CTFD_PYTHON`` a Python with its requirements.txt (without it:
``.venv/bin/python`` in the checkout). Without ``CTFD``, Docker runs CTFd. Ctrl-C ends both, and deletes what they have written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

STACKD = Path(__file__).parents[2]
PLUGIN, NAME = STACKD / "stackd" / "cli" / "ctfd.plugin", "stackd_instances"
IMAGE = "ctfd/ctfd:3.8.7"
WAIT = 180
"""Seconds that CTFd may take to answer: the first time, Docker pulls its image."""
PASSWORD, PLAYERS = "password", ("alice", "bob")
CHALLENGES = (("Web 1", "web-1", "stack"), ("Bad image", "bad-image", "ctfd"), ("Crashing", "crashing", "ctfd"))


def free_port(preferred: int) -> int:
    """The port, or any that is free."""
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", preferred)) as probe:
        return int(probe.getsockname()[1])
    return free_port(0)


class Site:
    """CTFd as an admin's browser sees it."""

    def __init__(self, url: str) -> None:
        self.url = url
        # No proxy: both are on this machine.
        self._browser = httpx2.Client(base_url=url, follow_redirects=True, timeout=30, trust_env=False)
        self._nonce = ""

    def get(self, path: str) -> None:
        """Open a page."""
        text = self._browser.get(path).raise_for_status().text
        if found := re.search(r"csrfNonce['\"]?: \"([^\"]+)\"|name=\"nonce\"[^>]*value=\"([^\"]+)\"", text):
            self._nonce = found.group(1) or found.group(2)

    def submit(self, path: str, **fields: str) -> None:
        """Fill in a form."""
        self.get(path)
        self._browser.post(path, data={"nonce": self._nonce, **fields}).raise_for_status()
        self.get("/")

    def post(self, path: str, body: object) -> None:
        """Ask the API for something."""
        self._browser.post(path, json=body, headers={"CSRF-Token": self._nonce}).raise_for_status()

    def until_it_answers(self, path: str, process: subprocess.Popen[bytes], log: Path) -> None:
        """Return once a page is there."""
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx2.HTTPError):
                self.get(path)
                return
            time.sleep(0.5)
        raise SystemExit(f"{self.url} does not answer:\n{log.read_text()[-4000:]}")


def stackd_command(folder: Path, port: int, key: str) -> subprocess.Popen[bytes]:
    """stackd's demo, with a tenant key that only its hash names."""
    tenant = {
        "name": "ctfd", "sha256": hashlib.sha256(key.encode()).hexdigest(), "scope": "tenant",
        "labels": {"event": "demo"}, "templates": [template for _, template, _ in CHALLENGES],
    }  # fmt: skip
    environment = os.environ | {"STACKD_SERVER__PORT": str(port), "STACKD_AUTH__KEYS": json.dumps([tenant])}
    with (folder / "stackd.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(STACKD / "stackd.py"), "demo"], env=environment, stdout=log, stderr=log
        )


def ctfd_command(folder: Path, port: int, stackd: str, key: str) -> tuple[list[str], dict[str, str], Path]:
    """How to run CTFd: the command, its environment and its folder."""
    variables = {"STACKD_URL": stackd, "STACKD_KEY": key, "SECRET_KEY": secrets.token_hex(16), "UPDATE_CHECK": "false"}
    checkout = os.environ.get("CTFD")
    if not checkout:
        if shutil.which("docker") is None:
            raise SystemExit("name a checkout of CTFd 3.7 or 3.8 (make demo-ctfd CTFD=…), or install Docker")
        passed = [word for name in variables for word in ("--env", name)]
        command = ["docker", "run", "--rm", "--network", "host", "--entrypoint", "sh", *passed]
        command += ["--volume", f"{PLUGIN.resolve()}:/opt/CTFd/CTFd/plugins/{NAME}:ro", IMAGE]
        serve = f"gunicorn 'CTFd:create_app()' --bind 127.0.0.1:{port} --worker-class gevent"
        return [*command, "-c", f"flask db upgrade && exec {serve}"], os.environ | variables, folder
    source = folder / "ctfd"
    leave = shutil.ignore_patterns(".git", ".venv", "tests", "__pycache__", "node_modules", ".data")
    shutil.copytree(checkout, source, ignore=leave)
    shutil.copytree(PLUGIN, source / "CTFd" / "plugins" / NAME, dirs_exist_ok=True)
    python = os.environ.get("CTFD_PYTHON") or str(Path(checkout, ".venv", "bin", "python").absolute())
    if not Path(python).exists():
        raise SystemExit(f"{python} does not exist; CTFD_PYTHON names a Python with CTFd's requirements.txt")
    variables |= {
        "DATABASE_URL": f"sqlite:///{folder}/ctfd.db",
        "UPLOAD_FOLDER": str(folder),
        "LOG_FOLDER": str(folder),
    }
    serve = f"'{python}' -m gunicorn 'CTFd:create_app()' --bind 127.0.0.1:{port} --worker-class gevent"
    words = ["sh", "-c", f"FLASK_APP='CTFd:create_app()' '{python}' -m flask db upgrade && exec {serve}"]
    return words, os.environ | variables, source


def fill(site: Site) -> None:
    """Set CTFd up, with challenges and people."""
    site.submit(
        "/setup", ctf_name="Demo", ctf_description="stackd's demo", user_mode="users", name="admin",
        email="admin@example.com", password=PASSWORD, ctf_theme="core", challenge_visibility="private",
        account_visibility="public", score_visibility="public", registration_visibility="public", verify_emails="",
        team_size="", start="", end="",
    )  # fmt: skip
    for name, template, source in CHALLENGES:
        challenge = {
            "name": name, "category": "demo", "description": f"From the template {template}.", "value": 100,
            "state": "visible", "type": "stackd", "stackd_template": template, "stackd_flag_source": source,
            "stackd_connection": "http://{host}:{port}",
        }  # fmt: skip
        site.post("/api/v1/challenges", challenge)
    for name in PLAYERS:
        user = {"name": name, "email": f"{name}@example.com", "password": PASSWORD, "verified": True}
        site.post("/api/v1/users", user)


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, until the end of the block."""
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    key, port, ctfd = f"sk-{secrets.token_hex(16)}", free_port(8081), free_port(8000)
    stackd, site = f"http://127.0.0.1:{port}", Site(f"http://127.0.0.1:{ctfd}")
    with tempfile.TemporaryDirectory(prefix="stackd-demo-ctfd-") as name:
        folder = Path(name)
        command, environment, at = ctfd_command(folder, ctfd, stackd, key)
        log = folder / "ctfd.log"
        with log.open("wb") as output, ended(stackd_command(folder, port, key)) as demo:
            Site(stackd).until_it_answers("/docs", demo, folder / "stackd.log")
            with ended(subprocess.Popen(command, cwd=at, env=environment, stdout=output, stderr=output)) as process:
                site.until_it_answers("/setup", process, log)
                fill(site)
                print(
                    f"\nCTFd with instances of stackd's demo\n\n  CTFd     {site.url}   (organisers: {site.url}/admin/stackd)\n"
                    f"  admin    name admin, password {PASSWORD}\n"
                    + "".join(f"  player   name {name}, password {PASSWORD}\n" for name in PLAYERS)
                    + f"  stackd   {stackd}   (its key and commands: {folder}/stackd.log)\n\nStop with Ctrl-C.",
                    flush=True,
                )
                process.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
