"""Each command, option and key that a page names exists in stackd, and each recipe for a network policy protects."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from stackd.cli import COMMANDS, stackd
from stackd.cli.provision import ManifestOptions, documents
from stackd.config.settings import settings
from stackd.kube import labels
from stackd.kube.policies import EGRESS, INGRESS, lets_through, opens, protects
from stackd.links import LINK, PLAYER
from tests.docs.markdown import PAGES, ROOT, blocks, is_printed
from tests.faults.plan import POINTS

KEYS = {setting.name for setting in settings()} | {"auth.keys"}
SECTIONS = {key.partition(".")[0] for key in KEYS}
PROGRAMS = {"stackd", "systemctl", "journalctl", "kubectl", "timedatectl", "top", "df", "iostat"}
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


def test_the_reference_of_the_commands_is_made_from_their_help() -> None:
    """After a change: make reference"""
    assert {*COMMANDS} <= {words[0] for page in PAGES for words in commands(page) if words}, "each is on some page"
    assert (ROOT / "docs" / "cli.md").read_text() == runpy.run_path(str(ROOT / "deb" / "manpage.py"))["markdown"]()


RECIPE = runpy.run_path(str(ROOT / "integrations" / "ctfd" / "stackd_instances" / "recipe.py"))
OF_PLUGIN: dict[str, str] = RECIPE["labels"]("a-site", "team-57-1767225600", "a-challenge", "a-name")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "config.example.toml"], ids=lambda page: page.name)
def test_a_label_that_a_page_filters_by_or_limits_is_one_that_stacks_get(page: Path) -> None:
    """From the plugin for CTFd, a link, or a tenant's key; a challenge is found by its template."""
    text = page.read_text()
    named = re.findall(r"(?:--label|[?&]label)[ =]'?([a-z]\w*)=", text)
    for table in re.findall(r"_per_label = \{([^}]*)\}", text):
        named += re.findall(r"(\w+) =", table)
    for names in re.findall(r"required_labels = \[([^\]]*)\]", text):
        named += re.findall(r'"(\w+)"', names)
    assert set(named) <= {*OF_PLUGIN, PLAYER, LINK, "event"}


def test_the_event_day_finds_a_team_of_ctfd_by_the_plugins_label() -> None:
    assert f"--label player={OF_PLUGIN['player']}`" in (ROOT / "docs" / "event-day.md").read_text()


def test_the_page_for_the_event_day_says_what_to_do_at_each_alert() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "monitoring" / "alerts.yaml").read_text())
    rows = re.findall(r"^\| (.*?) \| (.*?) \| (.*) \|$", (ROOT / "docs" / "event-day.md").read_text(), re.MULTILINE)
    answered = [(name, remedy) for names, _, remedy in rows for name in re.findall(r"`(Stackd\w+)`", names)]
    assert sorted(name for name, _ in answered) == sorted(alerts)
    assert [name for name, remedy in answered if not can_be_followed(remedy)] == []
    assert not can_be_followed("have a cup of tea now, `in the kitchen`")


def can_be_followed(remedy: str) -> bool:
    """Whether it names a command to run, a key to set, or the section that says more."""
    named = re.findall(r"`([\w.-]+)(?: [^`]*)?`", remedy)
    return bool(PROGRAMS.intersection(named) or KEYS.intersection(named) or "](troubleshooting.md#" in remedy)


# ---- everything that the page for developers of stackd names exists


INSIDE = (ROOT / "docs" / "inside.md").read_text()


def test_each_module_and_crash_point_that_is_named_exists() -> None:
    points = set(re.findall(r"`((?:create|delete|batch|stop|restart|release)\.\w+)`", INSIDE))
    assert {"create.reserved", "delete.confirmed"} <= points <= set(POINTS)
    named = re.findall(r"`((?:web|lifecycle|store|kube|podspec|jobs|config)/[\w/]*(?:\.py)?)(?::(\w+))?`", INSIDE)
    assert len(named) > 15
    for path, function in named:
        file = ROOT / "stackd" / path
        assert file.exists(), path
        assert not function or f"def {function}(" in file.read_text(), (path, function)


# ---- each symptom on the page is printed by stackd, and the messages that stackd prints most are on the page


TROUBLES = (ROOT / "docs" / "troubleshooting.md").read_text()
SYMPTOMS = re.findall(r"^### `(.*)`$", TROUBLES, re.MULTILINE)


def test_symptoms_read_as_they_are_printed_and_have_a_remedy() -> None:
    assert [one for one in SYMPTOMS if one != "node_public_ip: null" and not is_printed(one)] == []
    assert not is_printed("no node has space for the stack")
    for heading, text in re.findall(r"^### (.*)\n\n((?:(?!#).*\n)*)", TROUBLES, re.MULTILINE):
        assert len(text.split()) > 8, heading


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


def test_the_policies_of_the_page_are_those_that_manifests_prints() -> None:
    site = replace(SITE, dns=True, egress="internet")
    names = [one["metadata"]["name"] for one in documents(site) if one["kind"] == "NetworkPolicy"]
    assert names
    assert all(f"| `{name}` |" in PAGE.read_text() for name in names)
