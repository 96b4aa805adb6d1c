"""On a machine with an installed stackd, each command finds its configuration, and requires and loads only what it uses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stackd.cli import installed, main, stackd
from stackd.clock import SystemClock
from stackd.config import load
from stackd.config.settings import toml
from stackd.keys import digest, new_key
from stackd.model import PortRange
from stackd.store import Store
from tests.harness import KEY
from tests.templates import PLAIN, WEB, folder_with
from tests.unit.cli.conftest import ROOT, SCRIPT, Shell


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare_environment: None) -> Path:
    """/etc/stackd as the README's installation leaves it: only with the configuration."""
    folder = tmp_path / "etc"
    folder.mkdir()
    monkeypatch.setattr(installed, "INSTALLED", folder / "config.toml")
    configure(folder)
    return folder


def configure(folder: Path, more: str = "") -> None:
    text = f'[stacks]\nnamespace = "arena"\n[state]\npath = "{folder}/stackd.db"\n{more}'
    (folder / "config.toml").write_text(text)


def run(*words: str) -> Result:
    return CliRunner().invoke(stackd, list(words))


def namespaces(printed: str) -> list[str]:
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(printed))
    return [one["metadata"]["name"] for one in documents if one["kind"] == "Namespace"]


@pytest.mark.parametrize("named", [True, False])
def test_manifests_need_neither_a_key_nor_a_cluster(etc: Path, named: bool) -> None:
    more = '[auth]\nkey_file = "/nowhere"\n[server]\ntls_cert = "/nowhere"\ntls_key = "/nowhere"\n'
    for cluster in ("", '[cluster]\nmode = "kubeconfig"\n', '[cluster]\nkubeconfig = "/nowhere"\n'):
        configure(etc, more + cluster)
        result = run("manifests", *(["--config", str(etc / "config.toml")] if named else []))
        assert (result.exit_code, result.stderr) == (0, "")
        assert namespaces(result.stdout) == ["arena", "stackd"]
    configure(etc, "[stack]\nttl = 1\n")
    assert "[stack]" in str(run("manifests").exception), "mistakes are reported by a command that needs little, too"


async def test_a_backup_needs_neither_a_key_nor_a_cluster(etc: Path) -> None:
    configure(etc, '[cluster]\nkubeconfig = "/nowhere"\n')
    store = await Store.open(etc / "stackd.db", clock=SystemClock(), node_ports=PortRange(31001, 31002))
    await store.close()
    result = run("backup", str(etc / "copy.db"))
    assert result.exit_code == 0, result.output
    with contextlib.closing(sqlite3.connect(etc / "copy.db")) as copy:
        assert copy.execute("SELECT count(*) FROM stacks").fetchone() == (0,)


@pytest.mark.parametrize(
    ("words", "sink"), [("manifests", "head -n 1"), ("check --effective", "true"), ("--help", "(sleep 0.2; head -c 1)")]
)
def test_a_reader_that_leaves_ends_a_command_without_a_word(tmp_path: Path, words: str, sink: str) -> None:
    (tmp_path / "config.toml").write_text('[cluster]\nmode = "embedded"\n')
    environment = {**os.environ, "STACKD_CONFIG": str(tmp_path / "config.toml"), "STACKD_AUTH__KEY": KEY}
    command = ["sh", "-c", f"{sys.executable} {SCRIPT} {words} | {sink} >/dev/null"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""


# ---- ``stackd check``


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = 0
    try:
        main(["check", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_a_check_also_looks_at_what_lies_beside_it(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sha256 = new_key()[1]
    configure(
        etc,
        f'[[auth.keys]]\nname = "ctfd"\nsha256 = "{sha256}"\nscope = "tenant"\nlabels = {{ event = "a" }}\n'
        'templates = ["web_*"]\n',
    )
    (etc / "kubeconfig").write_text("{}")
    code, out, err = checked(capsys, "--effective")
    assert (code, 'stacks.namespace = "arena"' in out) == (0, True)
    assert 'warning: the templates of the API key "ctfd" match none that there is (templates.directory)' in err
    assert 'scope = "tenant", labels = { event = "a" }, templates = ["web_*"] }]' in out
    configure(etc)
    (etc / "api-key").write_text("#unset")  # a credential that the unit leaves unset
    code, _, err = checked(capsys)
    assert (code, "no API key is configured" in err) == (2, True)


def test_for_a_reload_missing_credentials_are_no_mistake(
    etc: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checked(capsys)[0] == 2
    assert checked(capsys, "--for-reload") == (0, "", "")
    for name, text in folder_with(etc, web_1=WEB).items():
        monkeypatch.setenv(name, text)
    (etc / "api-key").write_text(KEY + "\n")
    (etc / "kubeconfig").write_text("{}")
    assert checked(capsys) == (0, "the configuration is valid\n", "")
    folder_with(etc, web_1=WEB + "ttll: 1h\n", plain=PLAIN + "pool: 1.5\n")
    code, _, err = checked(capsys)
    assert code == 2
    for mistake in (
        f"{etc}/templates/plain.yaml:19: pool: a whole number from 0 to 10000 is expected",
        f'{etc}/templates/web-1.yaml:20: ttll: there is no such field (did you mean "ttl"?)',
    ):
        assert mistake in err
    assert checked(capsys, "--for-reload") == (2, "", "")
    folder_with(etc, web_1=WEB, plain=PLAIN)
    configure(etc, "[server]\nprot = 1\n")
    assert checked(capsys, "--for-reload") == (2, "", "")


# ---- ``stackd key new`` prints lines that can be put into the configuration unchanged


CHARACTERS = st.characters(codec="utf-8")


@settings(deadline=None, max_examples=30)  # the first example loads the command
@given(st.text(CHARACTERS | st.sampled_from("\"'\\\x00\x1f\x7f\x85\n\r\t #={}[]\u2028\ufeff"), max_size=80))
@example('a"b c')
@example("a\\u0041")
@example("équipe 7 \U0001f600")
def test_any_name_is_printed_so_that_the_configuration_takes_it_or_refused(name: str) -> None:
    result = run("key", "new", f"--name={name}")
    if result.exit_code == 0:
        (read,) = tomllib.loads(result.stderr)["auth"]["keys"]
        assert (read["name"], read["sha256"]) == (name, digest(result.stdout.strip()).hex())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.toml"
            path.write_text(result.stderr, encoding="utf-8")
            (accepted,) = load(path, {"STACKD_CLUSTER__MODE": "embedded"}).config.auth.keys
        assert accepted.name == name
    else:
        assert (result.exit_code, result.stdout) == (2, "")
        assert "cannot be used; a name of at most 64 printable characters" in result.stderr
        assert not name.isprintable() or not 0 < len(name) <= 64 or name != " ".join(name.split())


@given(st.text(CHARACTERS))
def test_any_text_is_written_as_toml_and_read_back_as_it_was(text: str) -> None:
    assert tomllib.loads(f"value = {toml({text: text})}") == {"value": {text: text}}
    assert tomllib.loads(f"value = {toml('a' + chr(0xDCFF))}") == {"value": "a\ufffd"}, "TOML has no half of a pair"


@pytest.mark.parametrize(
    "more",
    [["admin"], ["read"], ["metrics"], ["tenant", "-l", "event=a", "--template", "web-*"], ["admin", "--no-pod-specs"]],
)
def test_the_printed_table_is_accepted_and_belongs_to_the_printed_key(tmp_path: Path, more: list[str]) -> None:
    result = run("key", "new", "--name", "grafana", "--scope", *more)
    (tmp_path / "config.toml").write_text(result.stderr)
    (accepted,) = load(tmp_path / "config.toml", {}).config.auth.keys
    assert (accepted.name, accepted.scope, accepted.sha256) == ("grafana", more[0], digest(result.stdout.strip()))
    assert accepted.tenant == (dict(accepted.labels) == {"event": "a"}) == (accepted.templates == ("web-*",))
    assert accepted.pod_specs != ("--no-pod-specs" in more)
    plain = run("key", "new", "--plain")  # KEY=$(stackd key new --plain)
    assert (plain.stdout[:3], plain.stdout.count("\n"), plain.stderr) == ("sk-", 1, "")


@pytest.mark.parametrize("more", [("-l", "event"), ("-l", "a/b=c")])
def test_a_tenant_without_labels_that_it_can_have_is_refused(more: tuple[str, ...]) -> None:
    result = run("key", "new", "--name=ctfd", "--scope=tenant", *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert 'a table of labels such as { event = "a" }, with scope = "tenant", is expected' in result.stderr


# ---- TAB, ``--version`` and ``--help`` load nothing that is slow to import; each command has a line of help that fits

HEAVY = (
    "asyncio", "aiohttp", "kubernetes", "pydantic", "apscheduler", "prometheus_client", "rich", "yaml", "orjson",
    "sqlite3",
)  # fmt: skip
PROGRAM = f"""
import atexit, sys
atexit.register(lambda: print(*sorted({{*{HEAVY!r}}} & sys.modules.keys()), file=sys.stderr))
import os, pathlib
from stackd.cli import installed, main
installed.INSTALLED = pathlib.Path(os.environ.get("TEST_INSTALLED", "/nowhere"))
main(sys.argv[1:])
"""


async def loaded(*words: str, program: str = PROGRAM, **environment: str) -> tuple[str, str]:
    """What the command prints, and which of the slow modules it has loaded."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ | environment, cwd=ROOT,
    )  # fmt: skip
    out, err = await process.communicate()
    return out.decode(), err.decode().strip()


async def completed(line: str, **environment: str) -> tuple[str, str]:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - (not line.endswith(" ")))}
    return await loaded(_STACKD_COMPLETE="bash_complete", **words, **environment)


async def test_a_check_of_the_configuration_loads_nothing_that_talks_to_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[auth]\nenabled = false\n[cluster]\nmode = 'embedded'\n")
    out, heavy = await loaded("check", "--config", str(tmp_path / "config.toml"))
    assert out == "the configuration is valid\n"
    assert not {"aiohttp", "kubernetes", "apscheduler"} & {*heavy.split()}
    _, heavy = await loaded("reload", PATH="/nowhere")  # a request to systemd, which runs here or not
    assert not {"asyncio", "pydantic"} & {*heavy.split()}


@pytest.mark.parametrize("line", ["stackd ", "stackd stacks create --", "--version", "stacks --help"])
async def test_no_completion_version_or_help_loads_anything_heavy(line: str) -> None:
    out, heavy = await (completed(line) if line.startswith("stackd") else loaded(*line.split()))
    assert heavy == ""
    assert ("plain," in out) is line.startswith("stackd")


@pytest.mark.parametrize("installed", [False, True])
async def test_ids_are_completed_with_nothing_heavy(shell: Shell, installed: bool) -> None:
    stack_id = (await shell.at.create())["stack_id"]
    given = {"HOME": str(shell.home), "STACKD_URL": shell.at.url, "STACKD_API_KEY": KEY}
    if installed:
        given |= {"STACKD_URL": "", "STACKD_API_KEY": ""}
        config = shell.home / "config.toml"
        config.write_text(f'[server]\nhost = "0.0.0.0"\nport = {shell.at.daemon.port}\n')
        (shell.home / "api-key").write_text(f"# of the platform\n{KEY}\n")
        given["TEST_INSTALLED"] = str(config)
    out, heavy = await completed("stackd stacks show stack-", **given)
    assert heavy == ""
    assert stack_id in out


CLIENT_ALONE = """
import sys
sys.modules |= dict.fromkeys({daemon!r})
from stackd.cli import main
main(sys.argv[1:])
"""


async def test_a_command_of_the_daemon_says_what_to_install_and_one_of_the_client_needs_nothing_else(
    shell: Shell,
) -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["server"]
    names = [requirement.partition(">")[0].replace("-", "_") for requirement in extra]
    program = CLIENT_ALONE.format(daemon=["markdown_it" if name == "markdown_it_py" else name for name in names])
    for command in ("serve", "demo", "check", "doctor", "rehearse -n 1 --burst --template x"):
        _, err = await loaded(*command.split(), program=program)
        assert 'pip install "stackd[server]"' in err, command
    folder = shell.home / "pushed"
    folder.mkdir()
    (folder / "web-1.yaml").write_text(PLAIN)
    given = {"HOME": str(shell.home), "STACKD_URL": shell.at.url, "STACKD_API_KEY": KEY}
    for words in ("stats", "capacity", "templates", "stacks list", "owner", "activity", f"push {folder}", "key --help"):
        _, err = await loaded(*words.split(), program=program, **given)
        assert err in ("", "there are no stacks"), words
