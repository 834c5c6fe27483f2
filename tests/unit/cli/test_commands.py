"""Commands without a daemon: what they print, what they leave with, and that nobody ever sees a trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click.testing
import pytest

from runnerd import config, store
from runnerd.cli import client, exits
from runnerd.cli.exits import Exit
from runnerd.cli.main import cli
from tests.support import small_daemon

TEXT = """\
controller: acme-ci
state: state
public_url: https://runnerd.example
forges:
  hub: {type: github, url: "http://127.0.0.1:1/acme", token: "file:pat"}
providers:
  sky: {type: fake}
limits: {instances: 2}
pools:
  gpu-t4: {gpu: t4}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "pat").write_text("a-token-for-tests\n")
    (tmp_path / "pat").chmod(0o600)
    path = tmp_path / "runnerd.yaml"
    path.write_text(TEXT)
    return path


def run(*words: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, list(words))


def test_help_names_every_command_and_loads_no_server() -> None:
    code = "import sys; from runnerd.cli.main import main; sys.argv = ['runnerd', '--help']\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print([name for name in ('aiohttp', 'sqlalchemy', 'pydantic', 'rich') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    commands = (
        "run check status jobs instances pools offers explain events logs drain undrain reap hold sweep reload "
        "cost prices config schema db demo version"
    )
    assert all(f"  {word} " in done.stdout or f"  {word}\n" in done.stdout for word in commands.split())
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_and_schema_are_for_programs_too() -> None:
    assert json.loads(run("version", "--json").stdout)["version"]
    assert "pools" in json.loads(run("schema").stdout)["properties"]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("no-such-command",), id="no command"),
        pytest.param(("explain",), id="no job"),
        pytest.param(("hold", "x"), id="hold without a time"),
        pytest.param(("hold", "x", "--for", "2"), id="no unit"),
        pytest.param(("hold", "x", "--for", "0s"), id="no time at all"),
        pytest.param(("hold", "x", "--for", "2h", "--release"), id="both"),
        pytest.param(("jobs", "--limit", "0"), id="no limit"),
        pytest.param(("cost", "--by", "colour"), id="no such sum"),
        pytest.param(("cost", "--since", "yesterday"), id="no time"),
        pytest.param(("cost", "--since", "2026-11-02", "--until", "2026-11-01"), id="a span that ends first"),
        pytest.param(("cost", "--offline", "--config", "/nowhere/runnerd.yaml"), id="no file to read"),
        pytest.param(("prices", "refresh", "--config", "/nowhere/runnerd.yaml"), id="no file to renew for"),
        pytest.param(("status", "--config", "/nowhere/runnerd.yaml"), id="no file"),
        pytest.param(("check", "--config", "/nowhere/runnerd.yaml"), id="no file to check"),
        pytest.param(("run", "--config", "/nowhere/runnerd.yaml"), id="no file to run"),
    ],
)
def test_bad_usage_leaves_with_2_and_words(words: tuple[str, ...]) -> None:
    result = run(*words)
    assert result.exit_code == Exit.USAGE, result.output
    assert result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize(
    "words",
    [("status",), ("jobs",), ("explain", "x"), ("drain", "x"), ("sweep",), ("reload",), ("cost",), ("prices", "show")],
)
def test_no_daemon_leaves_with_3_and_says_where_it_looked(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = run(*words, "--socket", str(tmp_path / "no.sock"))
    assert result.exit_code == Exit.UNREACHABLE
    assert str(tmp_path / "no.sock") in result.stderr and "runnerd run" in result.stderr


def test_the_socket_is_found_by_option_by_file_or_by_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert client.socket_path(socket="/a/b", config=str(file)) == Path("/a/b")
    assert client.socket_path(socket=None, config=str(file)) == Path(client.DEFAULT_SOCKET)
    # A file that would not load still tells the one key.
    file.write_text("listen: {socket: here.sock}\npools: {}\n")
    assert client.socket_path(socket=None, config=str(file)) == tmp_path / "here.sock"
    monkeypatch.setenv("RUNNERD_CONFIG", str(file))
    assert str(tmp_path / "here.sock") in run("status").stderr


def test_the_defaults_of_client_and_configuration_are_the_same(file: Path) -> None:
    assert config.load(file).listen.socket == client.DEFAULT_SOCKET


def test_a_fault_of_our_own_is_one_line_with_its_own_status(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "json_schema", lambda: 1 / 0)
    result = run("schema")
    assert result.exit_code == Exit.INTERNAL
    assert result.stderr.count("\n") == 1 and "ZeroDivisionError" in result.stderr


def test_check_lists_every_problem_of_the_file_with_its_line(file: Path) -> None:
    file.write_text(TEXT.replace("limits:", "limit:").replace("gpu: t4", "gpuu: t4"))
    result = run("check", "--config", str(file), "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == Exit.PROBLEMS and found["errors"] >= 2
    assert any("runnerd.yaml:10" in one["place"] and "gpuu" in one["message"] for one in found["findings"])
    text = run("check", "--config", str(file))
    assert text.exit_code == Exit.PROBLEMS and 'did you mean "gpu"' in text.stdout


def test_check_asks_forges_and_providers_and_leaves_nothing_behind(file: Path, tmp_path: Path) -> None:
    # In a process of its own, because a real forge client is at work; nothing listens at its address.
    line = [sys.executable, "-m", "runnerd.cli", "check", "--config", str(file), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=25, check=False)
    assert done.returncode == Exit.PROBLEMS, done.stderr
    found = json.loads(done.stdout)["findings"]
    assert any(one["level"] == "error" and one["place"] == "forges.hub" for one in found)
    assert any(one["level"] == "ok" and one["place"] == "pools.gpu-t4" and "$0.53" in one["message"] for one in found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pat", "runnerd.yaml"]


def test_config_show_fills_in_defaults_and_hides_secrets(file: Path) -> None:
    result = run("config", "show", "--config", str(file), "--json")
    assert json.loads(result.stdout)["forges"]["hub"]["token"] == "file:pat"
    assert "a-token-for-tests" not in result.output
    assert "idle: 10m" in run("config", "show", "gpu-t4", "--config", str(file)).stdout
    assert run("config", "show", "nothing", "--config", str(file)).exit_code == Exit.NOT_FOUND


def test_db_upgrade_makes_the_state_once(file: Path) -> None:
    first = json.loads(run("db", "upgrade", "--config", str(file), "--json").stdout)
    assert first["applied"] and first["current"] == first["applied"][-1]
    assert "up to date" in run("db", "upgrade", "--config", str(file)).stdout


async def test_db_upgrade_is_refused_while_a_daemon_has_the_state(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path / "state") as small:
        with pytest.raises(Exception, match="in use") as caught:
            store.migrate(small.daemon.store.where)
        assert exits.of(caught.value) is Exit.STATE  # type: ignore[arg-type]
