"""What a command loads before it answers: a look at the daemon must not wait for the daemon's own libraries."""

from __future__ import annotations

import http.server
import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from runnerd.cli import main

#: Packages that a command which asks the daemon may load besides the standard library.
LIGHT = {"click", "yaml", "cython_runtime", "runnerd", "provisioners"}
#: Our own modules that load the world, or are for the daemon alone.
HEAVY = ("runnerd.config", "runnerd.daemon", "runnerd.store", "runnerd.web", "runnerd.forges", "runnerd.planner",
         "runnerd.runtime", "runnerd.views", "runnerd.metrics", "runnerd.kit.http", "provisioners.base")  # fmt: skip

#: Serves every command that the tests run: each reads what it needs of it.
DOCUMENT = {"message": "", "incomplete": [], "state_read": True, "unaccounted": 0, "errors": 0, "events": [], "next": 0}

SCRIPT = """\
import sys
from runnerd.cli.main import main
sys.argv = ["runnerd", *sys.argv[1:]]
status = 0
try:
    main()
except SystemExit as error:
    status = error.code
print()
print(status, *sorted(sys.modules))
"""

ASKING = [
    "cost",
    "cost --by day --since 7d",
    "drain gpu",
    "events --since 2h",
    "explain train",
    "hold rd-1 --for 2h",
    "hold rd-1 --release",
    "instances",
    "jobs",
    "logs train",
    "offers gpu",
    "pools",
    "prices refresh",
    "prices show",
    "reap rd-1 --force",
    "reload",
    "status",
    "sweep",
    "sweep --dry-run",
    "undrain gpu",
]


class _Answer(http.server.BaseHTTPRequestHandler):
    """Every request has the same answer."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps(DOCUMENT).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def address_string(self) -> str:
        return "a command"

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def socket_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "runnerd.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield path
        server.shutdown()
        thread.join()


def loaded(*words: str, status: int = 0) -> set[str]:
    """Run a command in an interpreter of its own; return the modules that it has loaded."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    found, *modules = done.stdout.splitlines()[-1].split()
    assert found == str(status), done.stdout + done.stderr
    return set(modules)


def heavy(modules: set[str]) -> set[str]:
    """Return the modules that are neither of the standard library nor light."""
    foreign = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - LIGHT
    # Names with an underscore are of the interpreter and of an editable install, not of a library.
    foreign = {name for name in foreign if not name.startswith("_") and name not in ("sitecustomize", "usercustomize")}
    ours = {name for name in modules if any(name == one or name.startswith(f"{one}.") for one in HEAVY)}
    return foreign | ours


@pytest.mark.parametrize("command", ASKING)
def test_a_command_that_asks_the_daemon_loads_neither_daemon_nor_servers(command: str, socket_file: Path) -> None:
    modules = loaded(*command.split(), "--json", "--socket", str(socket_file))
    assert "http.client" in modules and heavy(modules) == set()


def test_the_socket_of_a_configuration_is_found_without_the_configuration_model(
    socket_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "runnerd.yaml"
    file.write_text(f"listen: {{socket: {socket_file.name}}}\n")
    modules = loaded("drain", "gpu", "--config", str(file))
    assert "yaml" in modules and heavy(modules) == set()


@pytest.mark.parametrize("command", ["--help", "--version", "version", "version --json", "no-such"])
def test_what_asks_nothing_loads_no_client_either(command: str) -> None:
    modules = loaded(*command.split(), status=2 if command == "no-such" else 0)
    assert heavy(modules) == set() and "http.client" not in modules and "yaml" not in modules


@pytest.mark.parametrize(
    "command", ["status --help", "sweep --help", "cost --help", "prices refresh --help", "hold -h"]
)
def test_the_help_of_a_command_loads_no_more_than_the_command(command: str) -> None:
    assert heavy(loaded(*command.split())) == set()


def test_the_shell_completes_commands_without_loading_them() -> None:
    code = "import sys; from runnerd.cli.main import cli; import click.shell_completion as shell\n"
    code += "made = shell.BashComplete(cli, {}, 'runnerd', '_RUNNERD_COMPLETE')\n"
    code += "print(*(item.value for item in made.get_completions([], 'r')))\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    names, modules = done.stdout.splitlines()
    assert names.split() == ["reap", "reload", "run"] and heavy(set(modules.split())) == set()


@pytest.mark.parametrize("name", main.TABLE)
def test_the_table_says_of_a_command_what_its_own_help_says(name: str) -> None:
    command = main.cli.get_command(click.Context(main.cli), name)
    assert command is not None and command.name == name
    assert main.TABLE[name].help == command.get_short_help_str(500)


@pytest.mark.parametrize("module", ["runnerd", "runnerd.cli"])
def test_the_command_runs_as_a_module_too(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "version"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stdout.startswith("runnerd "), done.stderr
