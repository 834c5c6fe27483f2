from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from provisioners.base import TOKEN_PLACEHOLDER
from runnerd import bootstrap


def test_the_script_carries_a_placeholder_where_the_token_goes() -> None:
    script = bootstrap.render(url="https://runnerd.example", instance="vm-1", bundle="ab" * 32, lifetime=3600)
    assert script.startswith("#!/bin/sh\n")
    assert script.count(TOKEN_PLACEHOLDER) == 1
    assert len(script) < 12_000, "user-data is small: some clouds take 16 KiB"
    settings = json.loads(script.split("agent.json <<'RUNNERD_END'\n", 1)[1].split("\nRUNNERD_END\n", 1)[0])
    assert (settings["url"], settings["token"], settings["instance"]) == (
        "https://runnerd.example",
        TOKEN_PLACEHOLDER,
        "vm-1",
    )


def _played(tmp_path: Path, **tools: str) -> tuple[list[str], str]:
    """Run the script of a machine of its own with stand-ins for the system's tools; what they were called with."""
    calls, shims = tmp_path / "calls", tmp_path / "bin"
    shims.mkdir()
    for name in ("systemd-run", "systemctl", "poweroff", "lsblk", "mkfs.ext4", "mount", "nohup"):
        body = tools.get(name.replace("-", "_"), "exit 0")
        (shims / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n{body}\n')
        (shims / name).chmod(0o755)
    script = bootstrap.render(
        url="https://x",
        instance="vm-1",
        bundle="ab" * 32,
        lifetime=4321.0,
        power_off=("sh", "-c", "echo 'it ends'\nexit 0"),
        python="/bin/true",
    )
    environment = {"HOME": str(tmp_path), "PATH": f"{shims}:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environment, timeout=10, check=True)
    for _ in range(200):
        if calls.exists():
            break
        time.sleep(0.01)
    time.sleep(0.05)
    return calls.read_text().splitlines(), (tmp_path / "runnerd-agent" / "end.sh").read_text()


def test_a_machine_ends_by_itself_when_its_time_is_over(tmp_path: Path) -> None:
    calls, end = _played(tmp_path)
    (timer,) = (line for line in calls if line.startswith("systemd-run"))
    assert "--on-active=4321" in timer and timer.endswith("/runnerd-agent/end.sh")
    told = subprocess.run(["sh", "-c", end], capture_output=True, text=True, timeout=10, check=True)
    assert told.stdout == "it ends\n"


def test_without_systemd_the_end_is_waited_for_in_the_background(tmp_path: Path) -> None:
    calls, _ = _played(tmp_path, systemd_run="exit 1")
    assert any(line.startswith("nohup setsid sh -c sleep 4321") for line in calls)


def test_a_machine_without_disks_of_its_own_is_left_as_it_is(tmp_path: Path) -> None:
    calls, _ = _played(tmp_path)
    assert not any(line.startswith(("mkfs", "mount")) for line in calls)


def test_a_process_beside_the_daemon_gets_neither_timer_nor_disks() -> None:
    script = bootstrap.render(url="https://x", instance="vm-1", bundle="ab" * 32, lifetime=60, power_off=())
    assert "systemd-run" not in script and "mkfs" not in script


def test_a_value_that_would_leave_its_place_is_refused() -> None:
    with pytest.raises(ValueError, match="break out"):
        bootstrap.render(url="u", instance="vm-1", bundle="ab", lifetime=1, python="python3'; rm -rf /; '")


@pytest.mark.parametrize("url", ["https://x/$(touch pwned)", "https://x/`touch pwned`", 'https://x/"; touch pwned; "'])
def test_the_shell_reads_no_command_out_of_an_address(tmp_path: Path, url: str) -> None:
    script = bootstrap.render(url=url, instance="vm-1", bundle="ab" * 32, lifetime=60, power_off=(), python="/bin/true")
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env={"HOME": str(tmp_path)}, timeout=10, check=True)
    assert not list(tmp_path.rglob("pwned"))


AGENT = b"import sys\nprint('the agent runs', sys.argv[1:])\n"


@pytest.mark.parametrize("honest", [True, False], ids=["the right bytes", "other bytes"])
def test_the_agent_is_run_only_when_its_hash_is_right(tmp_path: Path, honest: bool) -> None:
    digest = hashlib.sha256(AGENT).hexdigest()

    class Files(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(AGENT if honest else b"print('something else')")

        def log_message(self, *arguments: object) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Files)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        script = bootstrap.render(
            url=url, instance="vm-1", bundle=digest, lifetime=60, power_off=(), python=sys.executable
        )
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        running = subprocess.Popen(
            ["sh", "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            told, _ = running.communicate(timeout=10 if honest else 2)
        except subprocess.TimeoutExpired:
            running.kill()
            told, complaint = running.communicate()
            assert not honest and "another hash" in complaint
        assert ("the agent runs" in told) is honest and "something else" not in told
    finally:
        server.shutdown()
        server.server_close()
