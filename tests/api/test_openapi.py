"""The OpenAPI document describes what the code does, and nothing else."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from stackd.play import ROUTES
from tests.harness import KEY, Harness, harness, request_for, seed
from tests.templates import ABOUT, WEB, folder_with

FUZZING = Path(__file__).parent / "fuzzing"


@pytest.mark.timeout(180)
async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    few = {"STACKD_STACKS__NODE_PORT_MIN": "30000", "STACKD_BATCH_DELETE__MAX_IDS": "20"}
    settings = few | folder_with(tmp_path, web_1=WEB + ABOUT)
    async with harness(tmp_path, settings) as at:
        for image in ("nginx:stable", "registry.example/exit0"):
            await at.create(request_for(image))
        # End streams and waiting reads at once, as during a stop: they would take up all the time.
        at.end_waits()
        code, output = await schemathesis(at, tmp_path)
        assert code == 0, output
        assert "Tested: " in output
        assert (await at.call("GET", "/healthz")).status == 200


async def schemathesis(at: Harness, folder: Path) -> tuple[int | None, str]:
    """Run all checks (the default) with few examples, the same each time; the output contains what it finds."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        f"--config-file={FUZZING / 'schemathesis.toml'}",
        "run",
        f"{at.url}/openapi.json",
        "--mode=all",
        "--phases=examples,coverage,stateful",
        "--max-examples=3",
        "--no-color",
        "--seed=1",
        "--generation-deterministic",
        f"--header=X-API-KEY: {KEY}",
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": os.pathsep.join((str(FUZZING), *sys.path))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


# ---- a client that openapi-python-client generates from /openapi.json talks to stackd. `make api` runs


async def generate(at: Harness, folder: Path) -> str:
    document = folder / "openapi.json"
    document.write_text((await at.call("GET", "/openapi.json")).text)
    generator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document)),
        *("--output-path", str(folder / "generated"), "--meta", "none"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
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
    assert names >= {route.id.lower() for route in ROUTES if route.id}
    options = {"base_url": at.url, "token": KEY, "httpx_args": {"trust_env": False}}
    async with part("client").AuthenticatedClient(**options) as client:
        body = part("models").Create.from_dict(seed() | {"ttl": "1h"})
        created = await part("api.stacks.create_stack").asyncio(client=client, body=body)
        assert isinstance(created, part("models").StackCreated), created
        listed = await part("api.stacks.list_stacks").asyncio(client=client)
        assert [stack.stack_id for stack in listed.stacks] == [created.stack_id]
        deleted = await part("api.stacks.delete_stack").asyncio(created.stack_id, client=client)
        assert deleted.deleted is True
    for name in [name for name in sys.modules if name.partition(".")[0] == "generated"]:
        del sys.modules[name]
