from __future__ import annotations

import ast
import os
import pathlib
import signal
import subprocess
import sys
import typing

import pytest

import runnerd.agent
from runnerd.bootstrap import agent_archive
from tests.unit.agent import agent_loopback, clouds_loopback

PACKAGE = pathlib.Path(runnerd.agent.__file__).parent
RUNNER = """
trap 'echo "Job x completed with result: Failed"; exit 0' TERM
echo 'Listening for Jobs'
echo 'Running job: x'
cml --help > cml.txt && echo 'cml works'
JOB
echo 'Job x completed with result: Succeeded'
"""


@pytest.fixture
def daemon() -> typing.Iterator[agent_loopback.Daemon]:
    with agent_loopback.daemon() as made:
        yield made


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("bundle") / "agent.pyz"
    path.write_bytes(agent_archive.build().data)
    return path


def start(pyz: pathlib.Path, home: pathlib.Path, *, python: str = sys.executable) -> subprocess.Popen[str]:
    # As on an instance: nothing of this environment, and not this directory.
    return subprocess.Popen(
        [python, str(pyz), "--config", "agent.json"],
        cwd=home,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_agent_imports_the_standard_library_and_itself_alone() -> None:
    foreign = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                names = [f"{node.module}.{one.name}" for one in node.names]
            else:
                continue
            for name in names:
                if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith("runnerd.agent."):
                    foreign.add((path.name, name))
    assert not foreign


def test_the_bundle_tells_its_version(pyz: pathlib.Path) -> None:
    done = subprocess.run([sys.executable, pyz, "--version"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
    assert done.stdout.startswith("runnerd agent, protocol 1, Python 3.")


def test_the_bundle_serves_cml(pyz: pathlib.Path) -> None:
    done = subprocess.run([sys.executable, pyz, "cml", "--help"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
    assert "comment" in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [[], ["--config", "/nowhere/agent.json"]])
def test_an_agent_that_is_called_wrongly_says_so(pyz: pathlib.Path, arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, pyz, *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "--config FILE is required" in done.stderr or "/nowhere/agent.json cannot be read" in done.stderr


def test_the_bundle_lives_a_whole_life_and_switches_off(
    pyz: pathlib.Path, tmp_path: pathlib.Path, daemon: agent_loopback.Daemon
) -> None:
    off = agent_loopback.script(tmp_path / "off", f"touch {tmp_path}/switched-off\n")
    agent_loopback.write_config(tmp_path, daemon.url, power_off=[off])
    daemon.run([agent_loopback.script(tmp_path / "runner", RUNNER.replace("JOB", "sleep 0.2"))])
    agent = start(pyz, tmp_path)
    said, _ = agent.communicate(timeout=20)
    assert agent.returncode == 0, said
    assert daemon.events() == [("started", ""), ("ended", "succeeded")]
    assert "cml works" in (tmp_path / "runner.log").read_text()
    assert (tmp_path / "switched-off").exists()
    for secret in (agent_loopback.TOKEN, agent_loopback.SESSION, agent_loopback.JIT):
        assert secret not in said
    phases = list(dict.fromkeys(body["phase"] for body in daemon.said("heartbeat")))
    assert [phase for phase in phases if phase in ("job", "finished", "ending")] == ["job", "finished", "ending"]


def test_sigterm_is_a_notice_and_the_job_fails_at_once(
    pyz: pathlib.Path, tmp_path: pathlib.Path, daemon: agent_loopback.Daemon
) -> None:
    agent_loopback.write_config(tmp_path, daemon.url)
    daemon.run([agent_loopback.script(tmp_path / "runner", RUNNER.replace("JOB", "sleep 60 & wait"))])
    agent = start(pyz, tmp_path)
    daemon.wait("heartbeat", lambda body: body["worker"])
    agent.send_signal(signal.SIGTERM)
    said, _ = agent.communicate(timeout=20)
    assert agent.returncode == 0, said
    assert daemon.events() == [("started", ""), ("ended", "failed")]
    assert daemon.said("heartbeat")[-1]["notice"] == "the agent was sent SIGTERM"


def test_the_bundle_hears_of_a_preemption_from_its_cloud(
    pyz: pathlib.Path, tmp_path: pathlib.Path, daemon: agent_loopback.Daemon
) -> None:
    gce = clouds_loopback.Gce()
    try:
        agent_loopback.write_config(tmp_path, daemon.url, cloud="gcp", metadata_url=gce.url, preemption_notice=2)
        daemon.run([agent_loopback.script(tmp_path / "runner", RUNNER.replace("JOB", "sleep 60 & wait"))])
        agent = start(pyz, tmp_path)
        daemon.wait("heartbeat", lambda body: body["worker"])
        gce.change(preempted="TRUE")
        said, _ = agent.communicate(timeout=20)
    finally:
        gce.close()
    assert agent.returncode == 0, said
    assert daemon.events() == [("started", ""), ("ended", "failed")]
    last = daemon.said("heartbeat")[-1]
    assert last["notice"] == "spot preemption"
    assert 20 < last["notice_left"] <= 32


def test_a_second_agent_in_the_same_directory_does_not_start(
    pyz: pathlib.Path, tmp_path: pathlib.Path, daemon: agent_loopback.Daemon
) -> None:
    agent_loopback.write_config(tmp_path, daemon.url)
    first = start(pyz, tmp_path)
    daemon.wait("register")
    second = start(pyz, tmp_path)
    said, _ = second.communicate(timeout=20)
    assert second.returncode == 2
    assert "another agent runs in" in said
    daemon.idle = "end"
    first.communicate(timeout=20)
    assert first.returncode == 0
