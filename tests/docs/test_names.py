"""Each command, option and key that a page names exists in stackd, and each recipe for a network policy protects."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from stackd.cli import stackd
from stackd.cli.provision import ManifestOptions, documents
from stackd.config.settings import settings
from stackd.kube import labels
from stackd.kube.policies import EGRESS, INGRESS, lets_through, opens, protects
from tests.docs.markdown import PAGES, ROOT, blocks, is_printed

KEYS = {setting.name for setting in settings()} | {"auth.keys"}
SECTIONS = {key.partition(".")[0] for key in KEYS}
ENDS = re.compile(r"[|;&<>)`]|\s#\s|…|\$\(")


def code(page: Path) -> Iterator[str]:
    """The lines of shell blocks, and the code within sentences."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    yield from (re.sub(r"\s+", " ", one) for one in re.findall(r"`([^`]+)`", text))
    for block in blocks(page):
        if block.language in ("", "sh"):
            yield from re.sub(r"\\\n\s*", " ", block.text).splitlines()


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each call of stackd on the page, without shell syntax and placeholders at the end."""
    for line in code(page):
        for call in re.split(r"(?:^|[|(;&] *|-- )stackd (?=[a-z-])", line)[1:]:
            try:
                yield shlex.split(ENDS.split(call)[0].replace("[", " ").replace("]", " "))
            except ValueError:
                continue


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words name, and the remaining words."""
    command: click.Command = stackd
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        with click.Context(command) as context:
            found = command.get_command(context, words[0])
        assert found is not None, f"stackd has no {words[0]}"
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_command_and_option_that_a_page_names_exists(page: Path) -> None:
    for words in commands(page):
        command, rest = command_of(words)
        known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
        named = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert named <= known, (words, named - known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_key_that_a_page_names_exists(page: Path) -> None:
    spans = re.findall(r"`((?:" + "|".join(sorted(SECTIONS)) + r")\.[a-z_]+)\b[^`]*`", page.read_text())
    files = {"stacks.py", "stackd.py", "log.py"}
    assert {name for name in spans if name not in files and not name.endswith((".py", ".db"))} <= KEYS


def test_the_page_for_the_event_day_says_what_to_do_at_each_alert() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "monitoring" / "alerts.yaml").read_text())
    rows = re.findall(r"^\| (`Stackd.*?) \|", (ROOT / "docs" / "event-day.md").read_text(), re.MULTILINE)
    assert sorted(re.findall(r"`(Stackd\w+)`", " ".join(rows))) == sorted(alerts)


# ---- each symptom on the page is printed by stackd


TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()
SYMPTOMS = re.findall(r"^### `(.*)`$", TROUBLES, re.MULTILINE)


def test_symptoms_read_as_they_are_printed() -> None:
    assert [one for one in SYMPTOMS if one != "node_public_ip: null" and not is_printed(one)] == []
    assert not is_printed("no node has space for the stack")


# ---- the recipes for network policies protect as well as the policies that they are added to

PAGE = ROOT / "docs" / "network.md"
RECIPES: list[dict[str, Any]] = [yaml.safe_load(one.text) for one in blocks(PAGE) if "policy" in one.marks]
assert len(RECIPES) == 3
CLUSTER = ("10.244.0.0/16", "10.96.0.0/12")
SITE = ManifestOptions(
    namespace="stacks", profile="baseline", account="stackd", account_namespace="stackd", stacks=10,
    cluster_cidrs=CLUSTER,
)  # fmt: skip
METADATA = ("169.254.169.254/32",)


def applied() -> list[dict[str, Any]]:
    return [one for one in documents(SITE) if one["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: one["metadata"]["name"])
def test_a_recipe_keeps_stacks_apart_from_the_cluster_and_its_metadata(recipe: dict[str, Any]) -> None:
    together = [*applied(), recipe]
    assert recipe["metadata"]["namespace"] == SITE.namespace
    selected = {key for one in RECIPES for key in one["spec"]["podSelector"]["matchLabels"]}
    assert selected == {labels.MANAGED_BY, f"{labels.CLIENT_LABEL_PREFIX}challenge"}, "labels of a create"
    for direction in (INGRESS, EGRESS):
        assert protects(together, "default", direction)
        assert not opens(recipe, direction)
    everybody = recipe | {"spec": recipe["spec"] | {"podSelector": {}}}  # as if the recipe selected every pod
    for networks in (CLUSTER, METADATA):
        assert not list(lets_through([*applied(), everybody], "default", networks, EGRESS))
