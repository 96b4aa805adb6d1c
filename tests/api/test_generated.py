"""A client that openapi-python-client generates from /openapi.json talks to stackd. `make api` runs openapi-typescript."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from stackd.web.routes import ROUTES
from tests.harness import KEY, Harness, seed


async def generate(at: Harness, folder: Path) -> str:
    """Generate the package ``generated``; returns what the generator says."""
    document = folder / "openapi.json"
    document.write_text((await at.call("GET", "/openapi.json")).text)
    generator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document)),
        *("--output-path", str(folder / "generated"), "--meta", "none"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        said = (await generator.communicate())[0].decode()
    assert generator.returncode == 0, said
    return said


async def test_a_generated_client_has_all_operations_and_creates_reads_and_deletes(
    at: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = await generate(at, tmp_path)
    assert "WARNING parsing" not in said
    monkeypatch.syspath_prepend(tmp_path)

    def part(name: str) -> Any:
        return importlib.import_module(f"generated.{name}")

    names = {path.stem.replace("_", "") for path in (tmp_path / "generated/api").rglob("*.py")}
    assert names >= {route.doc.id.lower() for route in ROUTES if route.doc is not None}
    async with part("client").AuthenticatedClient(
        base_url=at.url, token=KEY, httpx_args={"trust_env": False}
    ) as client:
        body = part("models").Create.from_dict(seed() | {"ttl": "1h"})
        created = await part("api.stacks.create_stack").asyncio(client=client, body=body)
        assert isinstance(created, part("models").StackCreated), created
        listed = await part("api.stacks.list_stacks").asyncio(client=client)
        assert [stack.stack_id for stack in listed.stacks] == [created.stack_id]
        deleted = await part("api.stacks.delete_stack").asyncio(created.stack_id, client=client)
        assert deleted.deleted is True
    for name in [name for name in sys.modules if name.partition(".")[0] == "generated"]:
        del sys.modules[name]
