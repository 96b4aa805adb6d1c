"""``stackd templates from-compose``: a template that stackd takes, and a sentence for all that it lacks."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from stackd.cli.compose import template_of
from tests.unit.cli.conftest import Shell

SHOP = """\
services:
  web:
    image: registry.example/shop:1.4
    build: .
    command: python -m shop --name "a shop"
    ports: ["8080:8000"]
    environment:
      DATABASE_URL: postgres://db:5432/shop
      DEBUG: true
      TEAM: "${TEAM}"
    depends_on: [db]
    deploy: {resources: {limits: {cpus: "0.5", memory: 512M}}}
    restart: always
  db:
    image: postgres:17
    entrypoint: [docker-entrypoint.sh]
    expose: ["5432"]
    environment: ["POSTGRES_PASSWORD=a$$b"]
    volumes: ["data:/var/lib/postgresql/data"]
    healthcheck: {test: pg_isready}
    mem_limit: 256m
    cpus: 0.2
    user: postgres
    tmpfs: /tmp
  cache: {image: redis:8, expose: [6379]}
"""


async def test_a_compose_file_becomes_a_template_that_stackd_takes(shell: Shell) -> None:
    file, made = shell.home / "compose.yaml", shell.home / "made"
    assert (await shell.any_command("templates", "from-compose", str(file))).exit_code == 1, "there is none"
    file.write_text(SHOP)
    result = await shell.any_command("templates", "from-compose", str(file))
    assert result.exit_code == 0, result.output
    made.mkdir()
    (made / "shop.yaml").write_text(result.stdout)
    pushed = await shell.any_command("push", str(made))
    assert pushed.exit_code == 0, pushed.output
    stack = await shell.at.create({"template": "shop"})
    assert [one["name"] for one in stack["members"]] == ["db", "cache"]
    assert stack["ports"][0]["container_port"] == 8000
    said = "".join(result.stderr.split("\n"))
    for field in ("web.build", "web.depends_on", "db.volumes", "db.healthcheck", "db.user", "db.tmpfs"):
        assert f"services.{field}: left out" in said
    assert ("services.cache: no limits" in said, "services.web: a ${VARIABLE}" in said, "restart" in said) == (
        True, True, False,
    )  # fmt: skip


def test_a_service_is_carried_over_as_docker_runs_it() -> None:
    template, _ = template_of(yaml.safe_load(SHOP))
    (web,) = template["pod"]["spec"]["containers"]
    (db,) = template["members"]["db"]["pod"]["spec"]["containers"]
    assert web["args"] == ["python", "-m", "shop", "--name", "a shop"]
    assert (db["command"], db["env"]) == (["docker-entrypoint.sh"], [{"name": "POSTGRES_PASSWORD", "value": "a$b"}])
    assert {"name": "DEBUG", "value": "true"} in web["env"]
    assert web["resources"]["limits"] == {"cpu": "500m", "memory": "512Mi"}
    assert db["resources"]["limits"] == {"cpu": "200m", "memory": "256Mi"}


@pytest.mark.parametrize(
    ("web", "first", "why"),
    [
        ({}, "", "no service publishes a port"), ({"ports": ["80"]}, "shop", "no service shop"),
        ({"ports": ["8000-8010:8000-8010"]}, "", "8000-8010"), ({"ports": ["80"], "mem_limit": "much"}, "", "much"),
    ],
)  # fmt: skip
def test_what_is_no_template_is_refused(web: dict[str, Any], first: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        template_of({"services": {"web": {"image": "a"} | web}}, first)
    with pytest.raises(ValueError, match="no services"):
        template_of({})
