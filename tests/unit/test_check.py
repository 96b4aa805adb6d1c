"""``stackd check``, as an operator runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackd.cli import main
from tests.api.test_templates import PLAIN, WEB, folder_with

KEY = "sk-0123456789abcdef0123456789abcdef"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = 0
    try:
        main(list(arguments))
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder as ``make install`` leaves it, with its credentials beside the file."""
    for name in ("CREDENTIALS_DIRECTORY", "KUBECONFIG", "STACKD_AUTH__KEY", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text('[stacks]\nttl = "1h"\n')
    (tmp_path / "api-key").write_text(KEY + "\n")
    (tmp_path / "kubeconfig").write_text("{}")
    return tmp_path


def test_what_systemd_hands_over_counts_where_it_lies_beside_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "check", "--config", str(folder / "config.toml"), "--effective")
    assert (code, err) == (0, "")
    assert "# credential api-key" in out
    assert f"# {folder}/config.toml:2" in out
    assert KEY not in out


def test_a_key_that_can_be_guessed_is_refused_by_its_place_and_not_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "api-key").write_text("sk-short-key\n")
    code, out, err = run(capsys, "check", "--config", str(folder / "config.toml"))
    assert (code, out) == (2, "")
    assert "[auth] keys: credential api-key holds a key of fewer than 16 characters" in err
    assert "sk-short-key" not in err


def test_all_mistakes_are_told_at_once_with_line_and_nearest_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.toml").write_text('[stacks]\nttll = "1h"\n[log]\nlevel = "loud"\n')
    code, out, err = run(capsys, "check", "--config", str(folder / "config.toml"))
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert f"{folder}/config.toml:2: [stacks] ttll: unknown key" in first
    assert 'did you mean "ttl"' in first
    assert f"{folder}/config.toml:4: [log] level" in second


def test_for_a_reload_missing_credentials_are_no_mistake_and_others_are(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("api-key", "kubeconfig"):
        (folder / name).unlink()
    assert run(capsys, "check", "--config", str(folder / "config.toml"))[0] == 2
    assert run(capsys, "check", "--for-reload", "--config", str(folder / "config.toml")) == (0, "", "")
    (folder / "config.toml").write_text("[stacks]\nttll = 1\n")
    assert run(capsys, "check", "--for-reload", "--config", str(folder / "config.toml")) == (2, "", "")


def test_a_credential_that_the_unit_leaves_unset_counts_as_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "api-key").write_text("#unset")
    code, _, err = run(capsys, "check", "--config", str(folder / "config.toml"))
    assert code == 2
    assert "no API key is configured" in err


def test_check_tells_what_is_wrong_with_a_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kubeconfig").write_text("{}")
    settings = folder_with(tmp_path, web_1=WEB) | {
        "STACKD_AUTH__KEY": KEY,
        "STACKD_CLUSTER__KUBECONFIG": str(tmp_path / "kubeconfig"),
        "STACKD_STATE__PATH": str(tmp_path / "stackd.db"),
    }
    for name, text in settings.items():
        monkeypatch.setenv(name, text)
    config = tmp_path / "config.toml"
    config.write_text("")
    assert run(capsys, "check", "--config", str(config)) == (0, "the configuration is valid\n", "")
    folder_with(tmp_path, web_1=WEB + "ttll: 1h\n", plain=PLAIN + "pool: 1.5\n")
    told = (
        f"{tmp_path}/templates/plain.yaml:19: pool: a whole number from 0 to 10000 is expected",
        f'{tmp_path}/templates/web-1.yaml:20: ttll: there is no such field (did you mean "ttl"?)',
    )
    code, _, errors = run(capsys, "check", "--config", str(config))
    assert (code, [line for line in told if line not in errors]) == (2, []), errors
    assert run(capsys, "check", "--for-reload", "--config", str(config))[0] == 2
    monkeypatch.delenv("STACKD_AUTH__KEY")
    assert run(capsys, "check", "--for-reload", "--config", str(config))[0] == 2, "systemd gives it no credentials"
