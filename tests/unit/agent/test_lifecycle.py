from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import stat
import sys
import threading
import time
import typing

import pytest

from runnerd.agent import processes, runner_output, shutdown_notices
from tests.unit.agent import agent_loopback
from tests.unit.agent.agent_loopback import FAST, Agent, Daemon, script

GITHUB = r"""
[ -n "$ACTIONS_RUNNER_INPUT_JITCONFIG" ] || exit 9
echo "Current runner version: '2.336.0'"
echo "2026-11-23 10:00:00Z: Listening for Jobs"
echo "2026-11-23 10:00:01Z: Running job: train"
bash -e "$ACTIONS_RUNNER_HOOK_JOB_STARTED"
JOB
bash -e "$ACTIONS_RUNNER_HOOK_JOB_COMPLETED"
echo "2026-11-23 10:00:02Z: Job train completed with result: Succeeded"
"""
IDLE = """
trap 'echo "Runner shutdown requested."; kill $!; exit 0' TERM
echo "Listening for Jobs"
sleep 60 & wait
"""


@pytest.fixture
def daemon() -> typing.Iterator[Daemon]:
    with agent_loopback.daemon() as made:
        yield made


@pytest.fixture
def room(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "home"


def github(path: pathlib.Path, job: str = "sleep 0.2") -> str:
    return script(path, GITHUB.replace("JOB", job))


def everything_on_disk(directory: pathlib.Path) -> str:
    return "".join(
        path.read_text(errors="replace") for path in directory.rglob("*") if path.is_file() and "bin" not in path.parts
    )


# -- session -----------------------------------------------------------------------------------------------------------


def test_hello_is_repeated_with_the_same_nonce_until_it_is_answered(daemon: Daemon, room: pathlib.Path) -> None:
    daemon.script["hello"] = [None, (500, {}), (409, {"error": "not yet"}), (200, daemon.welcome())]
    daemon.script["register"] = [(200, {"action": "end", "reason": "not wanted"})]
    assert Agent(room, daemon.url).start().join() == 0
    said = daemon.said("hello")
    assert len(said) == 4
    assert len({body["nonce"] for body in said}) == 1
    assert said[0]["protocol"] == 1
    assert daemon.said("heartbeat")[-1]["phase"] == "ending"


def test_an_agent_that_died_before_the_answer_repeats_its_nonce(daemon: Daemon, room: pathlib.Path) -> None:
    daemon.script["hello"] = [(403, {"error": "used"})]
    assert Agent(room, daemon.url).start().join() == 1
    daemon.script["hello"] = [(200, daemon.welcome())]
    daemon.script["register"] = [(200, {"action": "end", "reason": ""})]
    assert Agent(room, daemon.url).start().join() == 0
    first, second = daemon.said("hello")
    assert first["nonce"] == second["nonce"]


@pytest.mark.parametrize("status", [401, 403, 426])
def test_a_refused_agent_gives_up(daemon: Daemon, room: pathlib.Path, status: int) -> None:
    daemon.script["hello"] = [(status, {"error": "no"})]
    assert Agent(room, daemon.url).start().join() == 1
    assert len(daemon.asked) == 1


def test_patience_with_a_daemon_that_never_answers_ends(daemon: Daemon, room: pathlib.Path) -> None:
    daemon.script["hello"] = [(500, {})]
    assert Agent(room, daemon.url, patience=0.3).start().join() == 1


def test_the_token_is_gone_after_the_exchange_and_the_session_is_kept_private(
    daemon: Daemon, room: pathlib.Path
) -> None:
    daemon.script["register"] = [(200, {"action": "end", "reason": ""})]
    Agent(room, daemon.url).start().join()
    assert "token" not in json.loads((room / "agent.json").read_text())
    assert stat.S_IMODE((room / "session.json").stat().st_mode) == 0o600
    assert daemon.asked[0].bearer == agent_loopback.TOKEN
    assert {one.bearer for one in daemon.asked[1:]} == {agent_loopback.SESSION}
    # Started again it needs no token.
    Agent(room, daemon.url).start().join()
    assert len(daemon.said("hello")) == 1


# -- gate --------------------------------------------------------------------------------------------------------------


def test_wrong_hardware_is_reported_and_never_registers(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    script(tools / "nvidia-smi", 'echo "GPU 0: NVIDIA L4 (UUID: GPU-1)"\n')
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    daemon.gate = {"gpus": 1, "gpu": "t4"}
    assert Agent(room, daemon.url).start().join() == 0
    assert daemon.events() == [("gate", 'the GPU is "NVIDIA L4", t4 is required')]
    assert not daemon.said("register")
    assert b"NVIDIA L4" in daemon.said("diagnostics")[0]


def test_proven_hardware_registers(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    script(tools / "nvidia-smi", 'echo "GPU 0: Tesla T4 (UUID: GPU-1)"\n')
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    daemon.gate = {"gpus": 1, "gpu": "t4"}
    daemon.script["register"] = [(200, {"action": "end", "reason": ""})]
    Agent(room, daemon.url).start().join()
    assert daemon.events() == []
    assert daemon.said("register")


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_a_lost_register_answer_is_asked_for_again_and_starts_one_runner(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    order = daemon.run([github(tmp_path / "runner", f"echo ran >> {tmp_path}/ran")])
    daemon.script["register"] = [(200, {"action": "wait", "after": 0.01}), None, (503, {}), (200, order)]
    assert Agent(room, daemon.url).start().join() == 0
    assert len(daemon.said("register")) == 4
    assert (tmp_path / "ran").read_text() == "ran\n"
    assert all(body == {"runner_started": False} for body in daemon.said("register"))


def test_a_waiting_instance_leaves_when_a_heartbeat_says_so(daemon: Daemon, room: pathlib.Path) -> None:
    agent = Agent(room, daemon.url).start()
    daemon.wait("heartbeat", lambda body: body["phase"] == "waiting")
    daemon.idle = "end"
    assert agent.join() == 0
    assert daemon.events() == []
    assert daemon.said("heartbeat")[-1] == {"phase": "ending", "worker": False, "runner": "", "job_started": False}


def test_a_credential_that_may_not_register_any_more_leaves(daemon: Daemon, room: pathlib.Path) -> None:
    daemon.script["register"] = [(403, {"error": "a runner has been started"})]
    assert Agent(room, daemon.url).start().join() == 0
    assert len(daemon.said("register")) == 1


def test_an_unreachable_daemon_ends_a_waiting_instance_only_after_the_limit(daemon: Daemon, room: pathlib.Path) -> None:
    daemon.limits = {"unclaimed": 0.2, "unreachable": 0.6, "max_job": 60}
    daemon.script["register"] = daemon.script["heartbeat"] = [(500, {})]
    pace = dataclasses.replace(FAST, farewell=0.1)
    began = time.monotonic()
    assert Agent(room, daemon.url, pace=pace).start().join() == 0
    assert time.monotonic() - began >= 0.6


def test_an_unclaimed_instance_stays_while_the_daemon_wants_it(daemon: Daemon, room: pathlib.Path) -> None:
    daemon.limits = {"unclaimed": 0.1, "unreachable": 5, "max_job": 60}
    agent = Agent(room, daemon.url).start()
    time.sleep(0.6)
    assert agent.code is None
    daemon.idle = "end"
    assert agent.join() == 0


def test_a_notice_ends_a_waiting_instance_in_the_middle_of_a_held_request(daemon: Daemon, room: pathlib.Path) -> None:
    released = threading.Event()

    def hold(body: object) -> agent_loopback.Answer:
        released.wait(5)
        return 200, {"action": "wait", "after": 0}

    room.mkdir()
    notice = room / "notice"
    agent = Agent(room, daemon.url, sources=[shutdown_notices.File(notice)])
    daemon.script["register"] = hold
    agent.start()
    daemon.wait("register")
    began = time.monotonic()
    notice.write_text('{"seconds": 120, "reason": "spot"}')
    assert agent.join() == 0
    assert time.monotonic() - began < 2
    released.set()
    assert daemon.said("heartbeat")[-1]["notice"] == "spot"


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_a_github_job_is_seen_to_start_and_to_end(daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path) -> None:
    daemon.run([github(tmp_path / "runner", f"env > {tmp_path}/env; sleep 0.3; pwd")], EXTRA="given")
    assert Agent(room, daemon.url).start().join() == 0
    assert daemon.events() == [("started", ""), ("ended", "succeeded")]
    beats = daemon.said("heartbeat")
    with_job = [body for body in beats if body["worker"]]
    assert with_job and all(
        body == {"phase": "job", "worker": True, "runner": "acme-ci-1", "job_started": True} for body in with_job
    )
    after = [body for body in beats if body["phase"] == "finished"]
    assert after and all(not body["worker"] and body["job_started"] for body in after)
    names = [one.name for one in daemon.asked if one.name in ("job", "diagnostics")]
    assert names == ["job", "job", "diagnostics"]
    seen = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert seen["EXTRA"] == "given"
    assert seen["PATH"].startswith(f"{room}/bin:")
    assert pathlib.Path(seen["PWD"]) == room / "work"


def test_the_hook_alone_is_enough_to_see_a_job(daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = 'bash "$ACTIONS_RUNNER_HOOK_JOB_STARTED"; sleep 0.3; bash "$ACTIONS_RUNNER_HOOK_JOB_COMPLETED"; exit 3\n'
    daemon.run([script(tmp_path / "runner", text)])
    Agent(room, daemon.url).start().join()
    assert daemon.events() == [("started", ""), ("ended", "unknown: the runner ended with status 3")]


def test_a_job_that_is_over_before_it_was_seen_is_reported_with_start_and_end(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    daemon.run([script(tmp_path / "runner", 'printf "Running job: x\\nJob x completed with result: Failed"\n')])
    Agent(room, daemon.url).start().join()
    assert daemon.events() == [("started", ""), ("ended", "failed")]


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("result", ["succeeded", "failed"])
def test_a_gitlab_job_is_seen_to_start_and_to_end(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path, as_json: bool, result: str
) -> None:
    if as_json:
        said = [
            '{"level":"info","msg":"Starting runner for https://gitlab.example with token abc ..."}',
            '{"job":7,"level":"info","msg":"Checking for jobs... received","runner":"abc"}',
            f'{{"duration_s":0.2,"job":7,"msg":"Job {result}","runner":"abc"}}',
        ]
    else:
        said = ["Starting runner for https://gitlab.example", "Checking for jobs... received  job=7", f"Job {result}"]
    text = f"[ -n \"$CI_SERVER_TOKEN\" ] || exit 9\necho '{said[0]}' >&2\necho '{said[1]}' >&2\nsleep 0.2\n"
    daemon.run([script(tmp_path / "runner", text + f"echo '{said[2]}' >&2\n"), "--max-builds", "1"], kind="gitlab")
    Agent(room, daemon.url).start().join()
    assert daemon.events() == [("started", ""), ("ended", result)]


def test_reports_that_are_lost_are_repeated_in_their_order(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    daemon.script["job"] = [None, (503, {}), (200, {}), None, (200, {})]
    daemon.run([github(tmp_path / "runner")])
    Agent(room, daemon.url).start().join()
    assert [body["event"] for body in daemon.said("job")] == ["started"] * 3 + ["ended"] * 2


def test_a_daemon_that_is_away_for_all_of_a_job_does_not_disturb_it(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    daemon.limits = {"unclaimed": 0.1, "unreachable": 0.2, "max_job": 60}
    answer = daemon.script["heartbeat"]
    daemon.run([github(tmp_path / "runner", f"sleep 1; touch {tmp_path}/done")])
    agent = Agent(room, daemon.url).start()
    daemon.wait("heartbeat", lambda body: body["worker"])
    daemon.script["heartbeat"] = daemon.script["job"] = [(500, {})]
    deadline = time.monotonic() + 5
    while not (tmp_path / "done").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    daemon.script["heartbeat"], daemon.script["job"] = answer, [(200, {})]
    assert agent.join() == 0
    assert daemon.events()[-1] == ("ended", "succeeded")


def test_nothing_secret_is_on_disk_in_arguments_or_in_diagnostics(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    job = f"echo leaked $ACTIONS_RUNNER_INPUT_JITCONFIG; cat /proc/*/cmdline > {tmp_path}/cmdlines 2>/dev/null || :"
    daemon.run([github(tmp_path / "runner", job)])
    Agent(room, daemon.url).start().join()
    told = b"".join(daemon.said("diagnostics")).decode()
    assert "leaked ***" in told
    for secret in (agent_loopback.JIT, agent_loopback.TOKEN, agent_loopback.SESSION):
        assert secret not in told
        assert secret not in (tmp_path / "cmdlines").read_text()
        assert secret not in (room / "agent.log").read_text()
        assert secret not in (room / "runner.json").read_text()
    assert agent_loopback.TOKEN not in everything_on_disk(room)


def test_no_heartbeat_tells_of_the_end_before_it_was_reported(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    daemon.run([github(tmp_path / "runner")])
    Agent(room, daemon.url).start().join()
    words = [one.body.get("event") or one.body["phase"] for one in daemon.asked if one.name in ("job", "heartbeat")]
    ended = words.index("ended")
    assert not {"finished", "ending"} & set(words[:ended])
    assert not {"job", "idle"} & set(words[ended:])


def test_marks_of_another_time_are_not_taken_for_a_job(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (room / "marks").mkdir(parents=True)
    (room / "marks" / "started").touch()
    daemon.run([script(tmp_path / "runner", "sleep 0.2; exit 4\n")])
    Agent(room, daemon.url).start().join()
    assert daemon.events() == [("runner", "the runner ended with status 4 and without a job")]


# -- runners that do not behave ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/nowhere/Runner.Listener", "/nowhere/Runner.Listener does not exist on this instance"),
        ("no-such-runner", '"no-such-runner" does not exist on this instance'),
        (__file__, f"{__file__} is not executable"),
    ],
)
def test_a_runner_that_is_not_there_is_a_failure(daemon: Daemon, room: pathlib.Path, command: str, said: str) -> None:
    daemon.run([command])
    assert Agent(room, daemon.url).start().join() == 0
    ((stage, detail),) = daemon.events()
    assert stage == "runner"
    assert said in detail
    assert daemon.said("diagnostics")


def test_a_runner_that_leaves_without_a_job_is_a_failure(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    daemon.run([script(tmp_path / "runner", f"echo 'An error occurred: bad {agent_loopback.JIT}'; exit 1\n")])
    Agent(room, daemon.url).start().join()
    said = "the runner ended with status 1 and without a job: An error occurred: bad ***"
    assert daemon.events() == [("runner", said)]


def test_a_runner_that_the_forge_has_removed_is_no_failure(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    daemon.run([script(tmp_path / "runner", "echo 'The runner no longer exists on the server. Cleaning up'\n")])
    Agent(room, daemon.url).start().join()
    assert daemon.events() == [("ended", "deregistered")]


def test_a_runner_that_lingers_after_its_job_is_ended(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    text = "echo 'Running job: x'; echo 'Job x completed with result: Succeeded'\ntrap '' TERM\nsleep 60 & wait\nwait\n"
    daemon.run([script(tmp_path / "runner", text)])
    Agent(room, daemon.url).start().join()
    assert daemon.events() == [("started", ""), ("ended", "succeeded")]
    assert_no_runner_left(room)


def test_what_a_job_leaves_behind_is_ended_before_the_end_is_reported(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    left = f"setsid sh -c 'trap \"\" TERM; echo $$ > {tmp_path}/pid; while :; do sleep 1; done' & sleep 0.2"
    daemon.run([github(tmp_path / "runner", left)])
    states = []

    def job(body: dict[str, str]) -> agent_loopback.Answer:
        if body["event"] == "ended":
            states.append(processes.identify(int((tmp_path / "pid").read_text())))
        return 200, {}

    daemon.script["job"] = job
    Agent(room, daemon.url).start().join()
    assert states == [None]


def assert_no_runner_left(room: pathlib.Path) -> None:
    record = json.loads((room / "runner.json").read_text())
    assert processes.members(record["mark"]) == []


# -- orders ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["stop", "end"])
def test_an_idle_runner_is_stopped_gently(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path, action: str
) -> None:
    daemon.run([script(tmp_path / "runner", IDLE)])
    agent = Agent(room, daemon.url).start()
    daemon.wait("heartbeat", lambda body: body["phase"] == "idle")
    wait_for(room / "runner.log", "Listening")
    daemon.idle = action
    assert agent.join() == 0
    assert daemon.events() == [("ended", "none")]
    assert "shutdown requested" in (room / "runner.log").read_text()
    assert_no_runner_left(room)


def test_an_idle_gitlab_runner_is_told_by_sigquit_and_finishes_a_job_that_came_that_moment(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    text = """
trap 'got=1' QUIT
trap 'echo TERM; exit 1' TERM
echo "Starting runner for x"
until [ -n "$got" ]; do sleep 0.05; done
echo "Checking for jobs... received job=7"
sleep 1.2
echo "Job succeeded duration_s=1"
"""
    daemon.run([script(tmp_path / "runner", text)], kind="gitlab")
    agent = Agent(room, daemon.url).start()
    daemon.wait("heartbeat", lambda body: body["phase"] == "idle")
    wait_for(room / "runner.log", "Starting")
    daemon.idle = "end"
    assert agent.join() == 0
    assert daemon.events() == [("started", ""), ("ended", "succeeded")]


def test_stop_lets_a_job_end(daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path) -> None:
    daemon.busy = "stop"
    daemon.run([github(tmp_path / "runner", "sleep 1")])
    Agent(room, daemon.url).start().join()
    assert daemon.events() == [("started", ""), ("ended", "succeeded")]


def test_end_with_a_job_ends_the_job(daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = "trap 'echo \"Job x completed with result: Failed\"; kill $!; exit 0' TERM; echo 'Running job: x'\n"
    daemon.run([script(tmp_path / "runner", text + "sleep 60 & wait\n")])
    agent = Agent(room, daemon.url).start()
    daemon.wait("heartbeat", lambda body: body["worker"])
    daemon.busy = "end"
    assert agent.join() == 0
    assert daemon.events() == [("started", ""), ("ended", "failed")]
    assert_no_runner_left(room)


def test_end_with_a_job_that_ignores_it_kills_the_tree(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    daemon.run([script(tmp_path / "runner", "trap '' TERM; echo 'Running job: x'\nwhile :; do sleep 1; done\n")])
    agent = Agent(room, daemon.url).start()
    daemon.wait("heartbeat", lambda body: body["worker"])
    daemon.busy = "end"
    assert agent.join() == 0
    assert daemon.events() == [("started", ""), ("ended", "interrupted: the daemon says end: test")]
    assert_no_runner_left(room)


def test_max_job_ends_a_job_without_the_daemon(daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path) -> None:
    daemon.limits["max_job"] = 0.3
    daemon.run([script(tmp_path / "runner", "echo 'Running job: x'\nexec sleep 60\n")])
    Agent(room, daemon.url).start().join()
    assert daemon.events() == [("started", ""), ("ended", "interrupted: max_job")]


def test_a_finished_instance_that_nobody_comes_for_leaves(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    daemon.script["heartbeat"] = [(200, {"action": "continue", "heartbeat": 0.05, "reason": ""})]
    daemon.run([github(tmp_path / "runner")])
    assert Agent(room, daemon.url).start().join() == 0
    phases = [body["phase"] for body in daemon.said("heartbeat")]
    assert phases.count("finished") > 3
    assert phases[-1] == "ending"


# -- notices -----------------------------------------------------------------------------------------------------------

BUSY = """
trap 'echo "Job x completed with result: Failed"; kill $!; exit 0' TERM
echo 'Running job: x'
sleep 60 & wait
"""


def test_a_notice_lets_a_job_run_until_the_reserve_is_reached(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    notice = tmp_path / "notice"
    daemon.run([script(tmp_path / "runner", BUSY)])
    agent = Agent(room, daemon.url, sources=[shutdown_notices.File(notice)], notice_reserve=4).start()
    daemon.wait("heartbeat", lambda body: body["worker"])
    notice.write_text('{"seconds": 5, "reason": "spot interruption"}')
    began = time.monotonic()
    daemon.wait("heartbeat", lambda body: body.get("notice") == "spot interruption" and body["worker"])
    assert agent.join() == 0
    assert 0.7 < time.monotonic() - began < 4
    assert daemon.events() == [("started", ""), ("ended", "failed")]


# -- an agent that is started again ------------------------------------------------------------------------------------


def test_an_agent_started_again_takes_up_the_running_job(
    daemon: Daemon, room: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    room.mkdir()
    (tmp_path / "first.py").write_text(
        f"import sys; sys.path[:0] = [{str(pathlib.Path(runner_output.__file__).parents[2])!r}]\n"
        "from runnerd.agent.__main__ import main\nsys.exit(main(['--config', sys.argv[1]]))\n"
    )
    path = agent_loopback.write_config(room, daemon.url)
    daemon.run([github(tmp_path / "runner", f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done")])
    first = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, str(tmp_path / "first.py"), str(path)])
    daemon.wait("job", lambda body: body["event"] == "started")
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    before = len(daemon.said("register"))
    agent = Agent(room, daemon.url).start()
    beats = len(daemon.said("heartbeat"))
    daemon.wait("heartbeat", lambda body: len(daemon.said("heartbeat")) > beats and body["worker"])
    (tmp_path / "go").touch()
    assert agent.join() == 0
    assert daemon.events() == [("started", ""), ("ended", "succeeded")]
    assert len(daemon.said("register")) == before
    assert len(daemon.said("hello")) == 1


def test_an_agent_that_died_while_starting_the_runner_never_registers_again(daemon: Daemon, room: pathlib.Path) -> None:
    room.mkdir()
    record = {"kind": "github", "name": "x", "mark": "no-such-mark", "boot": processes.boot_id()}
    (room / "runner.json").write_text(json.dumps(record))
    assert Agent(room, daemon.url).start().join() == 0
    assert daemon.events() == [("runner", "the agent was restarted while it started the runner")]
    assert not daemon.said("register")


def test_a_job_that_a_reboot_ended_is_reported(daemon: Daemon, room: pathlib.Path) -> None:
    room.mkdir()
    record = {
        "kind": "github",
        "name": "x",
        "mark": "of-the-reboot-test",
        "boot": "earlier",
        "pid": os.getpid(),
        "job_at": 5.0,
    }
    (room / "runner.json").write_text(json.dumps(record))
    assert Agent(room, daemon.url).start().join() == 0
    assert daemon.events() == [("started", ""), ("ended", "unknown")]


def wait_for(path: pathlib.Path, text: str) -> None:
    deadline = time.monotonic() + 5
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{text} does not come"
        time.sleep(0.01)
