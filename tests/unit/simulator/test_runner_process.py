"""The simulator as a process, over TLS, with the stand-in runner as another process."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import ssl
import sys
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import pytest

PAT = "ghp_simulated0000000000000000000000000000"


class Simulator:
    """A running simulator, asked by plain urllib."""

    def __init__(self, facts: dict[str, Any], process: asyncio.subprocess.Process) -> None:
        self.facts = facts
        self.process = process
        self._tls = ssl.create_default_context(cafile=facts["ca"])

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        def ask() -> Any:
            request = urllib.request.Request(self.facts["url"] + path, method=method)
            request.add_header("Authorization", f"token {PAT}")
            data = None if body is None else json.dumps(body).encode()
            with urllib.request.urlopen(request, data=data, timeout=20, context=self._tls) as answer:
                text = answer.read()
                return json.loads(text) if answer.headers.get_content_type() == "application/json" else text.decode()

        return await asyncio.to_thread(ask)

    async def jit(self, name: str) -> str:
        body = {"name": name, "runner_group_id": 1, "labels": ["gpu-t4"]}
        answer = await self.call("POST", "/api/v3/orgs/acme/actions/runners/generate-jitconfig", body)
        config: str = answer["encoded_jit_config"]
        return config

    async def runner(self, name: str, directory: pathlib.Path, **env: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "runnerd.simulator.runner",
            "github",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                **os.environ,
                "SSL_CERT_FILE": self.facts["ca"],
                "ACTIONS_RUNNER_INPUT_JITCONFIG": await self.jit(name),
                "SIMULATED_RUNNER_ROOT": str(directory),
                **env,
            },
        )

    async def job(self, id: int) -> dict[str, Any]:
        state = await self.call("GET", "/_sim/state")
        return next(job for job in state["jobs"] if job["id"] == id)


async def line_with(process: asyncio.subprocess.Process, text: str) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        while line := (await process.stdout.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"the runner ended without saying {text!r}")


@pytest.fixture
async def simulator(tmp_path: pathlib.Path) -> AsyncIterator[Simulator]:
    files = tmp_path / "files"
    files.mkdir()
    (files / "train.py").write_text("print('accuracy: 0.93')\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "runnerd.simulator",
        *("--listen", "127.0.0.1:0", "--tls", "--json"),
        *("--cert-dir", str(tmp_path / "certs"), "--repo", f"acme/ml={files}"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        line = await process.stdout.readline()
    try:
        yield Simulator(json.loads(line), process)
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(10):
            assert await process.wait() == 0


async def test_a_queued_job_runs_once_with_its_files_and_environment(
    simulator: Simulator, tmp_path: pathlib.Path
) -> None:
    hook = tmp_path / "completed.sh"
    hook.write_text('echo "cost: 0.12" >> "$GITHUB_STEP_SUMMARY"\n')
    script = [
        f"{sys.executable} train.py",
        'echo "ref=$GITHUB_REF ci=$CI repo=$GITHUB_REPOSITORY"',
        f"""{sys.executable} -c 'import json, os; e = json.load(open(os.environ["GITHUB_EVENT_PATH"])); """
        """print("number", e["pull_request"]["number"])'""",
        'grep "url = " .git/config',
        'test "$REPO_TOKEN" = "$GITHUB_TOKEN"',
        'test -z "$ACTIONS_RUNNER_INPUT_JITCONFIG"',
    ]
    body = {"forge": "github", "repo": "acme/ml", "labels": ["gpu-t4"], "script": script}
    [id] = (await simulator.call("POST", "/_sim/jobs", body))["ids"]
    runner = await simulator.runner("r1", tmp_path / "root", ACTIONS_RUNNER_HOOK_JOB_COMPLETED=str(hook))
    output = (await asyncio.wait_for(runner.communicate(), 25))[0].decode()
    log = await simulator.call("GET", f"/_sim/jobs/{id}/log")
    assert "completed with result: Succeeded" in output, (output, log)
    assert "Listening for Jobs" in output
    assert "Running job: train" in output
    assert runner.returncode == 0
    job = await simulator.job(id)
    assert (job["status"], job["conclusion"], job["starts"], job["runner"]) == ("completed", "success", 1, "r1")
    assert "accuracy: 0.93" in log
    assert "ref=refs/pull/1/merge ci=true repo=acme/ml" in log
    assert "number 1" in log
    assert f"url = {simulator.facts['url']}/acme/ml" in log
    page = await simulator.call("GET", f"/_sim/page/jobs/{id}")
    assert "cost: 0.12" in page
    listed = await simulator.call("GET", "/api/v3/orgs/acme/actions/runners")
    assert listed["total_count"] == 0


@pytest.mark.parametrize("event", ["pull_request", "push"])
async def test_the_workspace_is_a_checkout_with_the_token_beside_its_origin(
    simulator: Simulator, tmp_path: pathlib.Path, event: Any
) -> None:
    basic = """$(printf 'x-access-token:%s' "$GITHUB_TOKEN" | base64 -w0)"""
    script = [
        'test "$(git rev-parse --show-toplevel)" = "$GITHUB_WORKSPACE"',
        'test "$(git config --get remote.origin.url)" = "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY"',
        f'test "$(git config --get "http.$GITHUB_SERVER_URL/.extraheader")" = "AUTHORIZATION: basic {basic}"',
        'test "$(git rev-parse HEAD)" = "$GITHUB_SHA"',
        'echo "head: $(git symbolic-ref -q HEAD || echo detached)"',
    ]
    body = {"forge": "github", "repo": "acme/ml", "labels": ["gpu-t4"], "script": script, "event": event}
    [id] = (await simulator.call("POST", "/_sim/jobs", body))["ids"]
    runner = await simulator.runner("r1", tmp_path / "root")
    output = (await asyncio.wait_for(runner.communicate(), 25))[0].decode()
    log = await simulator.call("GET", f"/_sim/jobs/{id}/log")
    assert "completed with result: Succeeded" in output, (output, log)
    assert ("head: detached" if event == "pull_request" else "head: refs/heads/main") in log


async def test_a_runner_that_is_terminated_fails_its_job_and_kills_the_script(
    simulator: Simulator, tmp_path: pathlib.Path
) -> None:
    mark = tmp_path / "survived"
    body = {"forge": "github", "repo": "acme/ml", "labels": ["gpu-t4"], "script": ["sleep 1.5", f"touch {mark}"]}
    [id] = (await simulator.call("POST", "/_sim/jobs", body))["ids"]
    runner = await simulator.runner("r1", tmp_path / "root")
    await line_with(runner, "Running job")
    await asyncio.sleep(0.3)
    runner.send_signal(signal.SIGTERM)
    await line_with(runner, "completed with result: Failed")
    assert await asyncio.wait_for(runner.wait(), 10) == 0
    assert (await simulator.job(id))["conclusion"] == "failure"
    await asyncio.sleep(1.5)
    assert not mark.exists()


async def test_lost_answers_do_not_make_a_job_run_twice(simulator: Simulator, tmp_path: pathlib.Path) -> None:
    lost = [
        {"path": f"/_sim/runner/sessions{tail}", "method": "POST", "drop": "after", "count": 1}
        for tail in ("", "/{session}/jobs/{job}/start", "/{session}/jobs/{job}/finish")
    ]
    await simulator.call("POST", "/_sim/faults", {"faults": lost})
    count = tmp_path / "count"
    body = {"forge": "github", "repo": "acme/ml", "labels": ["gpu-t4"], "script": [f"echo x >> {count}"]}
    [id] = (await simulator.call("POST", "/_sim/jobs", body))["ids"]
    runner = await simulator.runner("r1", tmp_path / "root")
    output = (await asyncio.wait_for(runner.communicate(), 25))[0].decode()
    assert "completed with result: Succeeded" in output
    job = await simulator.job(id)
    assert (job["conclusion"], job["starts"], count.read_text()) == ("success", 1, "x\n")
    used = (await simulator.call("GET", "/_sim/faults"))["faults"]
    assert [fault["hits"] for fault in used] == [1, 1, 1]


async def test_an_idle_runner_that_is_terminated_keeps_its_registration(
    simulator: Simulator, tmp_path: pathlib.Path
) -> None:
    runner = await simulator.runner("idle", tmp_path / "root")
    await line_with(runner, "Listening for Jobs")
    runner.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(runner.wait(), 10) == 0
    [left] = (await simulator.call("GET", "/api/v3/orgs/acme/actions/runners"))["runners"]
    assert (left["name"], left["status"]) == ("idle", "offline")


async def test_a_signal_in_the_middle_of_a_line_ends_a_runner_as_any_other(
    simulator: Simulator, tmp_path: pathlib.Path
) -> None:
    for number in range(12):  # about one in three hit the line while its writer was a buffered one
        runner = await simulator.runner(f"idle-{number}", tmp_path / f"root-{number}")
        await line_with(runner, "Listening for Jobs")
        runner.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(runner.wait(), 10) == 0


async def test_a_runner_whose_registration_is_removed_says_so(simulator: Simulator, tmp_path: pathlib.Path) -> None:
    runner = await simulator.runner("gone", tmp_path / "root")
    await line_with(runner, "Listening for Jobs")
    [listed] = (await simulator.call("GET", "/api/v3/orgs/acme/actions/runners"))["runners"]
    await simulator.call("DELETE", f"/api/v3/orgs/acme/actions/runners/{listed['id']}")
    await line_with(runner, "The runner no longer exists on the server")
    assert await asyncio.wait_for(runner.wait(), 10) == 0


async def test_a_cancelled_job_ends_as_canceled(simulator: Simulator, tmp_path: pathlib.Path) -> None:
    body = {"forge": "github", "repo": "acme/ml", "labels": ["gpu-t4"], "script": ["sleep 30"]}
    [id] = (await simulator.call("POST", "/_sim/jobs", body))["ids"]
    runner = await simulator.runner("r1", tmp_path / "root")
    await line_with(runner, "Running job")
    await simulator.call("POST", f"/_sim/jobs/{id}/cancel")
    await line_with(runner, "completed with result: Canceled")
    await asyncio.wait_for(runner.wait(), 10)
    assert (await simulator.job(id))["conclusion"] == "cancelled"
