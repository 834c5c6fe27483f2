from __future__ import annotations

import logging
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

import pytest

from runnerd.agent import (
    client,
    diagnostics,
    environment,
    hooks,
    processes,
    runner,
    shutdown_notices,
    state,
    state_directory,
)
from tests.unit.agent import agent_loopback

# -- diagnostics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "secret",
    [
        agent_loopback.TOKEN,
        agent_loopback.SESSION,
        "ghp_" + "a" * 36,
        "github_pat_" + "a" * 30,
        "glrt-" + "a" * 20,
        "glpat-" + "a" * 20,
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "Bearer abcdefgh12345",
    ],
)
def test_known_forms_of_credentials_are_redacted(secret: str) -> None:
    assert secret not in diagnostics.Secrets().redact(f"x {secret} y")


def test_learnt_secrets_are_redacted_the_longest_first() -> None:
    secrets = diagnostics.Secrets()
    secrets.learn({"CI_SERVER_TOKEN": "abcdefgh", "LONG_TOKEN": "abcdefgh-and-more", "PLAIN": "visible", "A_TOKEN": ""})
    assert secrets.redact("abcdefgh-and-more abcdefgh visible") == "*** *** visible"


def test_a_traceback_in_the_log_holds_no_secret_and_the_log_is_private(tmp_path: pathlib.Path) -> None:
    secrets = diagnostics.Secrets()
    secrets.add("the-secret-1")
    log = diagnostics.start_log(tmp_path / "agent.log", secrets)
    try:
        raise ValueError("the-secret-1 is wrong")
    except ValueError:
        log.exception("failed with %s", "the-secret-1")
    diagnostics.stop_log()
    text = (tmp_path / "agent.log").read_text()
    assert "the-secret-1" not in text
    assert "ValueError: *** is wrong" in text
    assert stat.S_IMODE((tmp_path / "agent.log").stat().st_mode) == 0o600
    assert not logging.getLogger("agent").handlers


def test_diagnostics_are_bounded_and_hold_the_ends_of_the_logs(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_text("x" * 1_000_000 + "END OF AGENT")
    (tmp_path / "r").write_bytes(b"\xff" * 1_000_000 + b"END OF RUNNER")
    (tmp_path / "_diag").mkdir()
    (tmp_path / "_diag" / "Runner_1.log").write_text("OLD")
    (tmp_path / "_diag" / "Runner_2.log").write_text("y" * 1_000_000 + "END OF LISTENER")
    (tmp_path / "_diag" / "Worker_1.log").write_text("THE JOB")
    text = diagnostics.collect("t", tmp_path / "a", tmp_path / "r", diagnostics.Secrets(), runner_root=str(tmp_path))
    assert len(text) <= diagnostics.LIMIT
    for end in (b"END OF RUNNER", b"END OF LISTENER"):
        assert end in text
    assert b"THE JOB" not in text


# -- notices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason", "left"),
    [
        ("", "notice", None),
        ("taken back\n", "taken back", None),
        ('{"seconds": 120, "reason": "spot"}', "spot", 120),
        ('{"seconds": 120}', "notice", 120),
        ('{"seconds": "x"}', '{"seconds": "x"}', None),
        ('{"seconds": -1}', "notice", None),
        ('{"seconds": NaN}', "notice", None),
    ],
)
def test_a_file_is_a_notice(tmp_path: pathlib.Path, text: str, reason: str, left: float | None) -> None:
    path = tmp_path / "notice"
    source = shutdown_notices.File(path)
    assert source.poll() is None
    path.write_text(text)
    found = source.poll()
    assert found is not None
    assert found.text == reason
    if left is None:
        assert found.act_at(35) < 0
    else:
        assert found.act_at(35) == pytest.approx(time.monotonic() + left - 35, abs=5)


def test_the_soonest_notice_counts() -> None:
    own = state.State(0)
    own.warn(shutdown_notices.Notice("spot", at=100.0))
    own.warn(shutdown_notices.Notice("later", at=200.0))
    assert own.notice == shutdown_notices.Notice("spot", at=100.0)
    own.warn(shutdown_notices.Notice("shutdown"))
    assert own.notice == shutdown_notices.Notice("shutdown")


def test_a_failing_source_does_not_silence_the_others(tmp_path: pathlib.Path) -> None:
    class Broken(shutdown_notices.Source):
        def poll(self) -> shutdown_notices.Notice | None:
            raise RuntimeError("no metadata service")

    told: list[shutdown_notices.Notice] = []
    (tmp_path / "notice").write_text("")
    watch = shutdown_notices.Watch([Broken(), shutdown_notices.File(tmp_path / "notice")], told.append, interval=0.01)
    watch.start()
    deadline = time.monotonic() + 5
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    watch.stop()
    assert [one.text for one in told] == ["notice"]


# -- orders ------------------------------------------------------------------------------------------------------------


def test_an_order_about_another_state_of_affairs_is_not_obeyed() -> None:
    own = state.State(0)
    own.start_job()
    own.obey(state.Order("end", "idle for too long", worker=False), now=1)
    assert own.order is None
    own.obey(state.Order("end", "max-job", worker=True), now=2)
    assert own.order is not None


def test_an_order_is_void_when_a_job_comes_before_it_was_carried_out() -> None:
    own = state.State(0)
    own.obey(state.Order("stop", "drain", worker=False), now=1)
    own.start_job()
    assert own.order is None


# -- hooks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: pathlib.Path) -> hooks.Hooks:
    for name in ("hooks it's", "marks"):
        (tmp_path / name).mkdir()
    return hooks.Hooks(tmp_path / "hooks it's", tmp_path / "marks", tmp_path / "hooks it's" / "gpu.txt")


def call(path: str, **environment: str) -> int:
    return subprocess.run(["bash", "-e", path], env={"PATH": os.environ["PATH"], **environment}, check=False).returncode


def test_hooks_leave_marks_and_write_the_summary(made: hooks.Hooks, tmp_path: pathlib.Path) -> None:
    variables = made.write("acme-ci-1", {})
    assert (made.started, made.completed) == (False, False)
    assert call(variables[hooks.STARTED]) == 0
    assert (made.started, made.completed) == (True, False)
    made.facts.write_text("75 % busy\n")
    (made.marks / "started").write_text(str(int(time.time()) - 125))
    summary = tmp_path / "summary.md"
    summary.write_text("# Report\n")
    assert call(variables[hooks.COMPLETED], GITHUB_STEP_SUMMARY=str(summary)) == 0
    assert made.completed
    text = summary.read_text()
    assert text.startswith("# Report\n\n| Instance | Job time | GPU |\n|---|---|---|\n| acme-ci-1 | 2 min 0")
    assert text.endswith(" s | 75 % busy |\n")


def test_hooks_never_fail_a_job_by_themselves(made: hooks.Hooks) -> None:
    variables = made.write("acme-ci-1", {})
    made.marks.rmdir()
    made.marks.write_text("in the way")
    assert call(variables[hooks.STARTED]) == 0
    assert call(variables[hooks.COMPLETED], GITHUB_STEP_SUMMARY="/nowhere/at/all") == 0


def test_the_operators_hook_is_called_and_its_failure_counts(made: hooks.Hooks, tmp_path: pathlib.Path) -> None:
    own = tmp_path / "own hook.sh"
    own.write_text('touch "$0.called"\nfalse\ntrue\n')
    variables = made.write("acme-ci-1", {hooks.STARTED: str(own)})
    assert call(variables[hooks.STARTED]) == 1
    assert (tmp_path / "own hook.sh.called").exists()
    assert made.started


# -- environment -------------------------------------------------------------------------------------------------------


def test_the_runner_finds_cml_first_on_its_path_and_no_telemetry(tmp_path: pathlib.Path) -> None:
    place = environment.prepare(tmp_path, tmp_path / "unused", None)
    made = environment.variables(
        {"CML_ASSET_URL": "http://assets", "PATH": "/opt/bin"},
        place,
        kind="gitlab",
        instance="acme-ci-1",
        mark="of-the-path-test",
        base={"HTTPS_PROXY": "http://proxy", "HOME": "/root"},
    )
    assert made["PATH"] == f"{tmp_path}/bin:/opt/bin"
    assert (made["ITERATIVE_DO_NOT_TRACK"], made["DVC_NO_ANALYTICS"]) == ("1", "1")
    assert (made["CML_ASSET_URL"], made["HTTPS_PROXY"]) == ("http://assets", "http://proxy")
    assert not any(name.startswith("ACTIONS_") for name in made)
    done = subprocess.run([tmp_path / "bin" / "cml", "--help"], env=made, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "unused").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose another user")
def test_another_user_reaches_what_it_needs_and_nothing_of_the_agents_own(tmp_path: pathlib.Path) -> None:
    with pytest.raises(environment.Unusable, match='"no-such-user"'):
        environment.account("no-such-user")
    who = environment.account("nobody")
    assert who is not None
    shared = tmp_path / "shared"
    place = environment.prepare(tmp_path / "own", shared, who)
    assert place.work.stat().st_uid == who.uid
    assert (shared / "bin" / "cml").stat().st_uid == 0
    assert stat.S_IMODE((shared / "bin").stat().st_mode) == 0o755
    assert not (tmp_path / "own").exists()


# -- processes ---------------------------------------------------------------------------------------------------------

# Forks twice, leaves session and parent, drops the mark, ignores TERM: as hard to find as a job can make it.
_STUBBORN = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.execve("/bin/sh", ["sh", "-c", "trap '' TERM; echo $$ > " + sys.argv[1] + "; sleep 60"], dict(KEEP))
    os._exit(0)
time.sleep(60)
"""


@pytest.mark.parametrize("keeps_mark", [True, False])
def test_a_stubborn_descendant_is_found_and_ended(tmp_path: pathlib.Path, keeps_mark: bool) -> None:
    # In a process of its own, because adopting orphans is for the whole process.
    keep = "os.environ" if keeps_mark else "{}"
    (tmp_path / "stubborn.py").write_text(_STUBBORN.replace("KEEP", keep))
    (tmp_path / "agent.py").write_text(
        "import os, subprocess, sys, time\n"
        f"sys.path.insert(0, {str(pathlib.Path(processes.__file__).parents[2])!r})\n"
        "from runnerd.agent import processes\n"
        "processes.adopt_orphans()\n"
        f"child = subprocess.Popen([sys.executable, {str(tmp_path / 'stubborn.py')!r}, {str(tmp_path / 'pid')!r}],\n"
        f"    env=dict(os.environ, RUNNERD_AGENT_RUN='mark-{os.getpid()}-{keeps_mark}'), start_new_session=True)\n"
        f"while not os.path.exists({str(tmp_path / 'pid')!r}): time.sleep(0.01)\n"
        f"look = lambda: processes.members('mark-{os.getpid()}-{keeps_mark}', session=child.pid, adopted=True)\n"
        "print(len(look()) >= 2, processes.clear(look, grace=0.1, patience=10))\n"
        "child.wait(); processes.collect_orphans()\n"
        "print([one for one in processes.table().values() if one.parent == os.getpid()])\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "agent.py"], capture_output=True, text=True, timeout=20)
    assert done.stdout == "True []\n[]\n", done.stderr
    pid = int((tmp_path / "pid").read_text())
    assert processes.identify(pid) is None


def test_a_reused_pid_is_not_signalled() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        found = processes.identify(child.pid)
        assert found is not None
        assert not processes.send(processes.Process(found.pid, found.started - 1), signal.SIGKILL)
        assert processes.alive(found)
        assert processes.send(found, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    assert not processes.send(found, signal.SIGKILL)


def test_the_agent_and_those_above_it_are_never_members() -> None:
    found = {one.pid for one in processes.members("no-such-mark", session=os.getsid(0))}
    assert not found & {os.getpid(), os.getppid()}


# -- the runner's record -----------------------------------------------------------------------------------------------


def test_the_runner_is_on_record_before_it_is_started(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*args: object, **more: object) -> None:
        raise Killed

    assignment = client.Assignment(
        "run", name="acme-ci-1", kind="gitlab", command=("/bin/true",), environment={"T": "hidden"}
    )
    place = environment.prepare(tmp_path, tmp_path, None)
    at = state_directory.StateDirectory(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", killed)
    with pytest.raises(Killed):
        runner.Runner.start(assignment, place, at, instance="i", base={"PATH": "/bin"})
    record = at.runner()
    assert record is not None
    assert (record.pid, record.kind, record.name) == (0, "gitlab", "acme-ci-1")
    assert "hidden" not in (tmp_path / "runner.json").read_text()
