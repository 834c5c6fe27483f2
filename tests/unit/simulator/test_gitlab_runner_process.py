from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runnerd.simulator import gitlab_runner
from tests.unit.simulator import gitlab_lab


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("repository")
    (made / "train.sh").write_text("echo accuracy 0.9 > metrics.txt\n")
    (made / "data").mkdir()
    (made / "data" / "x.csv").write_text("1,2\n")
    return made


@pytest.fixture(scope="module")
def forge(files: Path) -> Iterator[gitlab_lab.Served]:
    with gitlab_lab.Served("--repo", f"acme/ml={files}") as made:
        yield made


@pytest.fixture
def tag(request: pytest.FixtureRequest) -> str:
    """A tag of its own for each test, so that they do not take each other's jobs."""
    return str(request.node.name)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_job_runs_once_with_its_files_and_variables(forge: gitlab_lab.Served, tag: str, tmp_path: Path) -> None:
    script = [
        "sh train.sh && cat metrics.txt data/x.csv",
        'echo "$CI $GITLAB_CI $CI_PROJECT_URL $CI_MERGE_REQUEST_IID $CI_COMMIT_SHA $EPOCHS"',
        'echo "token $CI_JOB_TOKEN"; test -n "$REPO_TOKEN"',
        "python3 -c 'import os; print(\"session\", os.getsid(0), os.getpgid(0) in (os.getpid(), os.getppid()))'",
    ]
    [id] = forge.queue(tag, script=script, variables={"EPOCHS": "3"})
    process = forge.start(forge.runner(tag), tmp_path)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    shown = forge.job(id)
    assert shown["status"] == "success"
    log = forge.log(id)
    assert "accuracy 0.9\n1,2\n" in log and "token [MASKED]" in log
    assert f"true true {forge.url}/acme/ml 1 {shown['commit']['id']} 3\n" in log
    assert f"session {os.getsid(0)} True\n" in log
    messages = lines(errors)
    assert messages[0]["msg"].startswith(f"Starting runner for {forge.url} with token")
    [received] = [line for line in errors.splitlines() if '"msg":"Checking for jobs... received"' in line]
    assert f'"job":{id}' in received and received.index('"job"') < received.index("received")
    [ended] = [one for one in messages if one["msg"] == "Job succeeded"]
    assert ended["duration_s"] > 0 and ended["job"] == id
    [state] = [job for job in forge.call("GET", "/_sim/state")["jobs"] if job["id"] == id]
    assert (state["starts"], state["status"], state["conclusion"]) == (1, "completed", "success")


def test_the_folder_of_a_job_is_a_repository_of_its_own(forge: gitlab_lab.Served, tag: str, tmp_path: Path) -> None:
    """With the job's credentials in origin, inside a checkout of something else as well."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    script = [
        'test "$(git rev-parse --show-toplevel)" = "$CI_PROJECT_DIR"',
        'test "$(git config --get remote.origin.url)" = "$CI_REPOSITORY_URL"',
        'echo "$CI_REPOSITORY_URL" | grep -q "//gitlab-ci-token:$CI_JOB_TOKEN@"',
        'test "$(git rev-parse HEAD)" = "$CI_COMMIT_SHA"',
        "git symbolic-ref -q HEAD || echo detached",
        'echo "origin $(git config --get remote.origin.url)"',
    ]
    [id] = forge.queue(tag, script=script)
    forge.start(forge.runner(tag), tmp_path).communicate(timeout=20)
    log = forge.log(id)
    assert forge.job(id)["status"] == "success", log
    assert "\ndetached\n" in log and "Created fresh repository." in log
    assert f"origin {forge.url.replace('://', '://gitlab-ci-token:[MASKED]@')}/acme/ml.git\n" in log


def test_the_repository_of_a_job_needs_no_git(tmp_path: Path) -> None:
    for origin, sha in (("https://h/a.git", "1" * 40), ("https://h/b.git", "2" * 40)):
        gitlab_runner.write_repository(tmp_path, origin=origin, sha=sha)
        assert f"url = {origin}\n" in (tmp_path / ".git" / "config").read_text()
        assert (tmp_path / ".git" / "HEAD").read_text() == f"{sha}\n"


def test_the_exit_code_never_tells_how_the_job_went(forge: gitlab_lab.Served, tag: str, tmp_path: Path) -> None:
    [id] = forge.queue(tag, script=["echo before", "exit 7", "echo after"])
    process = forge.start(forge.runner(tag), tmp_path)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0 and '"duration_s"' in errors
    shown = forge.job(id)
    assert (shown["status"], shown["failure_reason"]) == ("failed", "script_failure")
    assert "\nbefore\n" in forge.log(id) and "\nafter\n" not in forge.log(id)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        pytest.param((), "runner_interrupted", id="19.1"),
        pytest.param(("--before-19-1",), "runner_system_failure", id="19.0"),
    ],
)
def test_term_fails_the_job_at_once(
    forge: gitlab_lab.Served, tag: str, tmp_path: Path, flags: tuple[str, ...], reason: str
) -> None:
    [id] = forge.queue(tag, script=["echo begun", "sleep 60"])
    process = forge.start(forge.runner(tag), tmp_path, *flags)
    forge.until(id, "running")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0 and time.monotonic() - began < 5
    shown = forge.job(id)
    assert (shown["status"], shown["failure_reason"]) == ("failed", reason)


def test_quit_lets_the_job_finish(forge: gitlab_lab.Served, tag: str, tmp_path: Path) -> None:
    [id] = forge.queue(tag, script=["sleep 1", "echo done"])
    process = forge.start(forge.runner(tag), tmp_path, "--max-builds", "0", "--wait-timeout", "0")
    forge.until(id, "running")
    process.send_signal(signal.SIGQUIT)
    process.communicate(timeout=10)
    assert process.returncode == 0 and forge.job(id)["status"] == "success"


def test_an_idle_runner_goes_at_once_on_term(forge: gitlab_lab.Served, tag: str, tmp_path: Path) -> None:
    process = forge.start(forge.runner(tag), tmp_path, "--wait-timeout", "0")
    assert process.stderr is not None
    process.stderr.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == 0


def test_a_canceled_job_ends_gracefully(forge: gitlab_lab.Served, tag: str, tmp_path: Path) -> None:
    [id] = forge.queue(tag, script=["while true; do echo tick; sleep 0.1; done"])
    process = forge.start(forge.runner(tag), tmp_path)
    forge.until(id, "running")
    forge.call("POST", f"/api/v4/projects/acme%2Fml/jobs/{id}/cancel")
    process.communicate(timeout=15)
    assert process.returncode == 0 and forge.job(id)["status"] == "canceled"


def test_a_forbidden_runner_is_unhealthy_and_outlives_its_wait(
    forge: gitlab_lab.Served, tag: str, tmp_path: Path
) -> None:
    process = forge.start("glrt-nobody", tmp_path, "--wait-timeout", "1", "--unhealthy-interval", "2.5")
    began = time.monotonic()
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 0 and time.monotonic() - began > 2.4
    assert "Checking for jobs... forbidden" in errors and "Runner is not healthy!" in errors


def test_without_url_or_token_it_exits_1(forge: gitlab_lab.Served, tmp_path: Path) -> None:
    process = forge.start("", tmp_path)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 1 and "Missing Token" in errors


def test_it_trusts_the_ca_that_the_environment_names(tmp_path: Path) -> None:
    with gitlab_lab.Served("--tls", "--cert-dir", str(tmp_path / "certs")) as forge:
        [id] = forge.queue("tls", script=["echo over tls"])
        process = forge.start(forge.runner("tls"), tmp_path)
        process.communicate(timeout=20)
        assert "over tls" in forge.log(id)
