from __future__ import annotations

import dataclasses
import json
import logging
import math
import pathlib
import random
import threading
import time
import typing

import pytest

from runnerd.agent import cloud_notices, config, metadata, shutdown_notices, state
from tests.unit.agent import agent_loopback, clouds_loopback
from tests.unit.agent.agent_loopback import Agent, script

GITHUB = 'echo "Running job: x"\nsleep 0.5\necho "Job x completed with result: Succeeded"\n'
BUSY = """
trap 'echo "Job x completed with result: Failed"; kill $!; exit 0' TERM
echo 'Running job: x'
sleep 60 & wait
"""
STUBBORN = "trap 'touch told' TERM\necho 'Running job: x'\nwhile :; do sleep 0.05; done\n"


@pytest.fixture
def ec2() -> typing.Iterator[clouds_loopback.Ec2]:
    made = clouds_loopback.Ec2()
    yield made
    made.close()


@pytest.fixture
def gce() -> typing.Iterator[clouds_loopback.Gce]:
    made = clouds_loopback.Gce()
    yield made
    made.close()


@pytest.fixture
def arm() -> typing.Iterator[clouds_loopback.Arm]:
    made = clouds_loopback.Arm()
    yield made
    made.close()


@pytest.fixture
def said() -> typing.Iterator[list[str]]:
    """The lines that the sources log."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.levelname} {record.getMessage()}")

    log, handler = logging.getLogger("agent.cloud_notices"), Keep()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.fixture
def daemon() -> typing.Iterator[agent_loopback.Daemon]:
    with agent_loopback.daemon() as made:
        yield made


def watch(service: clouds_loopback.Service, *, timeout: float = 0.2, **more: typing.Any) -> cloud_notices.Watcher:
    """The watcher of that cloud, in a hurry."""
    line = metadata.Service(service.url, timeout=timeout)
    if isinstance(service, clouds_loopback.Ec2):
        return cloud_notices.Aws(line, interval=0.01)
    if isinstance(service, clouds_loopback.Arm):
        return cloud_notices.Azure(line, interval=0.01, **{"first": timeout, **more})
    return cloud_notices.Gcp(line, "preempted", cloud_notices.preempted(0), **{"hold": 0.1, "floor": 0.01, **more})


def poll(watcher: cloud_notices.Watcher) -> cloud_notices.Poller:
    return cloud_notices.Poller("the cloud", watcher, first=0.01, most=0.02, rng=random.Random(1))


def until(look: typing.Callable[[], typing.Any], what: str = "nothing came") -> typing.Any:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.005)
    pytest.fail(what)


def left(notice: shutdown_notices.Notice | None) -> float:
    assert notice is not None
    assert notice.at > 0, "no time is told"
    return notice.at - time.monotonic()


# -- which cloud this is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "cloud"),
    [
        pytest.param({}, metadata.Cloud.NONE, id="no firmware tables, as in a container"),
        pytest.param(
            {"sys_vendor": "Amazon EC2", "product_name": "g5.xlarge", "bios_vendor": "Amazon EC2"},
            metadata.Cloud.AWS,
            id="EC2 on Nitro",
        ),
        pytest.param(
            {"sys_vendor": "Xen", "product_name": "HVM domU", "bios_version": "4.11.amazon"},
            metadata.Cloud.AWS,
            id="EC2 on Xen",
        ),
        pytest.param({"sys_vendor": "Xen", "bios_version": "4.17"}, metadata.Cloud.NONE, id="somebody's Xen"),
        pytest.param(
            {"sys_vendor": "Google", "product_name": "Google Compute Engine"}, metadata.Cloud.GCP, id="Compute Engine"
        ),
        pytest.param({"sys_vendor": "Google", "product_name": "Eve"}, metadata.Cloud.NONE, id="Google's laptop"),
        pytest.param(
            {
                "sys_vendor": "Microsoft Corporation",
                "product_name": "Virtual Machine",
                "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77",
            },
            metadata.Cloud.AZURE,
            id="Azure",
        ),
        pytest.param(
            {"sys_vendor": "Microsoft Corporation", "product_name": "Virtual Machine", "chassis_asset_tag": "1-2-3"},
            metadata.Cloud.NONE,
            id="somebody's Hyper-V",
        ),
        pytest.param({"sys_vendor": "Dell Inc.", "product_name": "PowerEdge"}, metadata.Cloud.NONE, id="an own box"),
    ],
)
def test_the_firmware_tells_the_cloud(tmp_path: pathlib.Path, files: dict[str, str], cloud: metadata.Cloud) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert metadata.detect(tmp_path) is cloud


def test_firmware_that_cannot_be_read_is_no_cloud(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sys_vendor").mkdir()
    (tmp_path / "product_name").write_bytes(b"\xff" * 5000)
    assert metadata.detect(tmp_path) is metadata.Cloud.NONE


def test_a_gpu_is_found_without_its_driver(tmp_path: pathlib.Path) -> None:
    assert not metadata.has_gpu(tmp_path / "nowhere")
    (tmp_path / "0000:00:01.0").mkdir()
    (tmp_path / "0000:00:01.0" / "vendor").write_text("0x8086\n")
    assert not metadata.has_gpu(tmp_path)
    (tmp_path / "0000:00:04.0").mkdir()
    (tmp_path / "0000:00:04.0" / "vendor").write_text("0x10de\n")
    assert metadata.has_gpu(tmp_path)


def test_outside_of_a_cloud_nothing_is_asked() -> None:
    assert cloud_notices.sources(metadata.Cloud.NONE) == []


@pytest.mark.parametrize(("text", "cloud"), [("aws", "AWS"), ("gcp", "GCP"), ("azure", "AZURE"), ("", "NONE")])
def test_the_configuration_has_the_last_word_on_the_cloud(tmp_path: pathlib.Path, text: str, cloud: str) -> None:
    path = agent_loopback.write_config(tmp_path, "http://127.0.0.1:1", cloud=text, metadata_url="http://127.0.0.1:9/")
    settings = config.load(path)
    assert settings.cloud is metadata.Cloud[cloud]
    assert settings.metadata_url == "http://127.0.0.1:9"


def test_without_a_word_the_firmware_is_asked(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "agent.json"
    path.write_text('{"url": "http://127.0.0.1:1"}')
    assert config.load(path).cloud is None


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"cloud": "oracle"}, id="a cloud that is not known"),
        pytest.param({"cloud": ["aws"]}, id="a cloud that is no text"),
        pytest.param({"metadata_url": "https://127.0.0.1"}, id="TLS, which no cloud has"),
        pytest.param({"metadata_url": "http://127.0.0.1:port"}, id="a port that is none"),
        pytest.param({"metadata_url": "http://127.0.0.1/latest"}, id="a path"),
        pytest.param({"metadata_url": "169.254.169.254"}, id="no scheme"),
        pytest.param({"preemption_notice": -1}, id="a time before now"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: pathlib.Path, wrong: dict[str, typing.Any]) -> None:
    path = agent_loopback.write_config(tmp_path, "http://127.0.0.1:1", **wrong)
    with pytest.raises(config.Invalid, match=f'"{next(iter(wrong))}" must be'):
        config.load(path)


# -- AWS ---------------------------------------------------------------------------------------------------------------


def test_ec2_says_nothing_until_the_interruption_and_then_its_time(ec2: clouds_loopback.Ec2) -> None:
    watcher = watch(ec2)
    assert watcher.step().notice is None
    ec2.interrupt(118)
    notice = watcher.step().notice
    assert notice is not None
    assert notice.text == "spot interruption: terminate"
    assert left(notice) == pytest.approx(118, abs=2)


def test_ec2_is_asked_every_five_seconds_with_one_token(ec2: clouds_loopback.Ec2) -> None:
    watcher = cloud_notices.Aws(metadata.Service(ec2.url))
    assert [watcher.step().pause for _ in range(3)] == [5.0] * 3
    assert [method for method, _, _ in ec2.asked].count("PUT") == 1


def test_an_expired_token_of_ec2_is_renewed_within_the_same_look(ec2: clouds_loopback.Ec2) -> None:
    watcher = watch(ec2)
    watcher.step()
    ec2.tokens.clear()
    ec2.interrupt(60)
    assert left(watcher.step().notice) == pytest.approx(60, abs=2)


def test_a_token_of_ec2_is_renewed_before_it_expires(ec2: clouds_loopback.Ec2, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = watch(ec2, timeout=5)
    watcher.step()
    began = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: began() + 21600 / 2 + 1)
    watcher.step()
    assert [method for method, _, _ in ec2.asked].count("PUT") == 2


def test_a_rebalance_recommendation_of_ec2_is_noted_once_and_never_acted_on(
    ec2: clouds_loopback.Ec2, said: list[str]
) -> None:
    ec2.rebalance = True
    watcher = watch(ec2)
    assert [watcher.step().notice for _ in range(20)] == [None] * 20
    assert len([line for line in said if "recommends rebalancing" in line]) == 1
    assert len([path for path in ec2.paths() if path.endswith("rebalance")]) == 1


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        pytest.param({"action": "hibernate", "time": "2099-01-01T00:00:00Z"}, 0, id="hibernation begins at once"),
        pytest.param({"action": "terminate", "time": "2000-01-01T00:00:00Z"}, 0, id="a time that is over"),
        pytest.param({"action": "terminate", "time": "soon"}, 0, id="a time that cannot be read"),
        pytest.param({"action": "stop"}, 0, id="no time"),
        pytest.param({"action": "stop", "time": "2099-01-01T00:00:00Z"}, 120, id="never more than two minutes"),
    ],
)
def test_times_of_ec2_that_make_no_sense(ec2: clouds_loopback.Ec2, action: dict[str, str], expected: float) -> None:
    ec2.action = json.dumps(action)
    notice = watch(ec2).step().notice
    assert notice is not None
    if expected:
        assert left(notice) == pytest.approx(expected, abs=2)
    else:
        assert notice.at == 0


@pytest.mark.parametrize("text", ["[]", "null", '{"action": "dance", "time": "2026-11-25T10:00:00Z"}', "terminate"])
def test_what_is_not_an_interruption_is_none(ec2: clouds_loopback.Ec2, text: str) -> None:
    ec2.action = text
    with pytest.raises(metadata.NoAnswer):
        watch(ec2).step()


def test_a_token_that_would_forge_a_request_is_not_used(
    ec2: clouds_loopback.Ec2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ec2, "answer", lambda *given: (200, {}, "a\r\nX-Evil: yes"))
    with pytest.raises(metadata.NoAnswer, match="an invalid token"):
        watch(ec2).step()
    assert len(ec2.asked) == 1


@pytest.mark.parametrize("clock", [-86400.0, 86400.0])
def test_a_machine_whose_clock_is_wrong_still_knows_the_time_that_is_left(
    ec2: clouds_loopback.Ec2, arm: clouds_loopback.Arm, clock: float
) -> None:
    ec2.clock = arm.clock = clock
    ec2.interrupt(90)
    arm.schedule("Preempt", 30)
    assert left(watch(ec2).step().notice) == pytest.approx(90, abs=2)
    assert left(watch(arm).step().notice) == pytest.approx(30, abs=2)


# -- Google ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lead", "expected"), [(0.0, 30.0), (120.0, 150.0)])
def test_a_preemption_leaves_the_asked_for_notice_and_thirty_seconds(
    gce: clouds_loopback.Gce, lead: float, expected: float
) -> None:
    watcher = cloud_notices.Gcp(metadata.Service(gce.url), "preempted", cloud_notices.preempted(lead), hold=0.05)
    assert watcher.step().notice is None
    gce.change(preempted="TRUE")
    notice = watcher.step().notice
    assert left(notice) == pytest.approx(expected, abs=2)
    assert notice == shutdown_notices.Notice("spot preemption", at=notice.at if notice else 0)


def test_a_held_request_is_answered_the_moment_that_the_value_changes(gce: clouds_loopback.Gce) -> None:
    source = poll(watch(gce, hold=20, floor=0.0))
    assert source.poll() is None
    gce.wait(2)
    began = time.monotonic()
    gce.change(preempted="TRUE")
    until(source.poll)
    assert time.monotonic() - began < 2
    assert len(gce.asked) == 2
    assert gce.paths()[1].endswith("last_etag=" + b"FALSE".hex())


@pytest.mark.parametrize("holds", [True, False])
def test_a_service_that_answers_at_once_is_not_flooded(gce: clouds_loopback.Gce, holds: bool) -> None:
    gce.holds = holds
    watcher = watch(gce, hold=0.05, floor=0.5)
    pauses = [watcher.step().pause for _ in range(3)]
    assert all(0.3 < pause <= 0.5 for pause in pauses)


@pytest.mark.parametrize(
    ("gpu", "expected"), [pytest.param(True, 3600, id="an hour with a GPU"), pytest.param(False, 60, id="a minute")]
)
def test_maintenance_that_ends_the_machine_is_a_notice(gce: clouds_loopback.Gce, gpu: bool, expected: float) -> None:
    watcher = cloud_notices.Gcp(
        metadata.Service(gce.url), "maintenance-event", cloud_notices.Maintenance(3600.0 if gpu else 60.0), hold=0.05
    )
    assert watcher.step().notice is None
    gce.change(event="TERMINATE_ON_HOST_MAINTENANCE")
    assert left(watcher.step().notice) == pytest.approx(expected, abs=2)


def test_a_live_migration_is_noted_once_and_never_acted_on(gce: clouds_loopback.Gce, said: list[str]) -> None:
    read = cloud_notices.Maintenance(60)
    watcher = cloud_notices.Gcp(metadata.Service(gce.url), "maintenance-event", read, hold=0.02)
    gce.change(event="MIGRATE_ON_HOST_MAINTENANCE")
    assert [watcher.step().notice for _ in range(3)] == [None] * 3
    assert len(said) == 1


def test_an_answer_without_googles_mark_is_not_believed(gce: clouds_loopback.Gce) -> None:
    gce.change(preempted="TRUE", flavour="")
    with pytest.raises(metadata.NoAnswer, match="not Google's"):
        watch(gce).step()


def test_both_keys_of_google_are_watched(gce: clouds_loopback.Gce) -> None:
    both = cloud_notices.sources(metadata.Cloud.GCP, url=gce.url, gpu=True)
    try:
        for source in both:
            assert source.poll() is None
        gce.wait(4)
        gce.change(event="TERMINATE_ON_HOST_MAINTENANCE", preempted="TRUE")
        found = [until(source.poll) for source in both]
    finally:
        for source in both:
            source.stop()
    assert [round(left(notice), -1) for notice in found] == [30, 3600]


# -- Azure -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "text"), [("Preempt", "spot eviction"), ("Terminate", "termination")])
def test_azure_tells_what_happens_and_not_before_when(arm: clouds_loopback.Arm, kind: str, text: str) -> None:
    watcher = watch(arm)
    assert watcher.step().notice is None
    arm.schedule(kind, 30)
    notice = watcher.step().notice
    assert notice is not None
    assert notice.text == text
    assert left(notice) == pytest.approx(30, abs=2)


def test_azure_is_asked_every_second_and_nothing_is_ever_acknowledged(arm: clouds_loopback.Arm) -> None:
    watcher = cloud_notices.Azure(metadata.Service(arm.url))
    assert watcher.step().pause == 1.0
    arm.schedule("Preempt", 30)
    assert watcher.step().notice is not None
    assert {method for method, _, _ in arm.asked} == {"GET"}


@pytest.mark.parametrize("kind", ["Freeze", "Reboot", "Redeploy", "SomethingNew"])
def test_other_events_of_azure_are_not_acted_on(arm: clouds_loopback.Arm, said: list[str], kind: str) -> None:
    arm.schedule(kind, 30)
    watcher = watch(arm)
    assert [watcher.step().notice for _ in range(3)] == [None] * 3
    assert len(said) == (kind != "SomethingNew")


def test_the_eviction_of_a_neighbour_is_not_ours(arm: clouds_loopback.Arm) -> None:
    watcher = watch(arm)
    arm.schedule("Preempt", 30, "runnerd-b2", "runnerd-a11")
    assert watcher.step().notice is None
    arm.schedule("Preempt", 30, "runnerd-b2", "RUNNERD-A1")
    assert watcher.step().notice is not None


def test_an_eviction_that_has_started_may_happen_at_any_moment(arm: clouds_loopback.Arm) -> None:
    arm.schedule("Terminate", 300)
    arm.schedule("Preempt", None)
    assert watch(arm).step().notice == shutdown_notices.Notice("spot eviction")


def test_the_soonest_event_of_azure_counts(arm: clouds_loopback.Arm) -> None:
    arm.schedule("Terminate", 600)
    arm.schedule("Preempt", 30)
    arm.schedule("Terminate", 300)
    assert left(watch(arm).step().notice) == pytest.approx(30, abs=2)


def test_events_that_make_no_sense_do_not_hide_the_one_that_does(arm: clouds_loopback.Arm) -> None:
    arm.change(events=[None, 7, {}, {"EventType": "Preempt"}, {"EventType": "Preempt", "Resources": "runnerd-a1"}])
    assert watch(arm).step().notice is None
    arm.schedule("Preempt", 45)
    assert left(watch(arm).step().notice) == pytest.approx(45, abs=2)


def test_the_first_answer_of_azure_may_take_its_time_and_later_ones_may_not(
    arm: clouds_loopback.Arm, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, slow = arm.answer, threading.Event()

    def answer(method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> clouds_loopback.Answer:
        if path.endswith("scheduledevents"):
            slow.wait(0.4)
        return honest(method, path, query, headers)

    monkeypatch.setattr(arm, "answer", answer)
    watcher = watch(arm, timeout=0.2, first=5.0)
    assert watcher.step().notice is None
    with pytest.raises(metadata.NoAnswer, match=r"no answer within 0\.2 seconds"):
        watcher.step()


# -- services that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cloud", ["ec2", "gce", "arm"])
@pytest.mark.parametrize("trouble", clouds_loopback.TROUBLES)
def test_a_service_in_trouble_gives_no_notice_and_one_line_and_is_asked_until_it_is_well(
    request: pytest.FixtureRequest, said: list[str], cloud: str, trouble: str
) -> None:
    service: typing.Any = request.getfixturevalue(cloud)
    source = poll(watch(service, timeout=0.1))
    assert source.poll() is None
    until(lambda: said)
    service.change(trouble=trouble)
    before = len(service.asked)
    until(lambda: len(said) == 2)
    service.wait(before + 3)
    assert source.poll() is None
    assert "/elsewhere" not in service.paths()
    service.change(trouble="")
    until(lambda: len(said) == 3)
    service.change(action='{"action": "terminate"}', preempted="TRUE")
    if cloud == "arm":
        service.schedule("Preempt", None)
    assert until(source.poll)
    assert said[0] == "INFO the cloud: the metadata service answers"
    assert said[1].startswith("WARNING the cloud: the metadata service does not answer: ")
    assert said[2:] == ["INFO the cloud: the metadata service answers again"]


@pytest.mark.parametrize("cloud", ["ec2", "gce", "arm"])
def test_a_service_that_vanishes_is_found_again(request: pytest.FixtureRequest, said: list[str], cloud: str) -> None:
    service: typing.Any = request.getfixturevalue(cloud)
    source = poll(watch(service))
    service.vanish()
    assert source.poll() is None
    until(lambda: said)
    service.start()
    until(lambda: len(said) == 2)
    source.stop()
    assert said == [
        "WARNING the cloud: the metadata service does not answer: Connection refused; a notice may be missed",
        "INFO the cloud: the metadata service answers again",
    ]


@pytest.mark.parametrize("trouble", ["hang", "drip"])
def test_a_request_ends_within_its_time(ec2: clouds_loopback.Ec2, trouble: str) -> None:
    ec2.trouble = trouble
    began = time.monotonic()
    with pytest.raises(metadata.NoAnswer, match=r"no answer within 0\.3 seconds"):
        metadata.Service(ec2.url).ask("/", {}, timeout=0.3)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("huge", "an answer that is too large"),
        ("cut", "an answer that was cut off"),
        ("noise", "an answer that is not HTTP"),
        ("close", "RemoteDisconnected"),
    ],
)
def test_an_answer_that_is_none_is_named(ec2: clouds_loopback.Ec2, trouble: str, words: str) -> None:
    ec2.trouble = trouble
    with pytest.raises(metadata.NoAnswer, match=words):
        metadata.Service(ec2.url).ask("/", {})


def test_no_exception_leaves_a_source_and_its_words_are_not_logged(said: list[str]) -> None:
    class Broken:
        def step(self) -> cloud_notices.Step:
            raise RuntimeError("the words of somebody else")

    source = poll(Broken())
    assert source.poll() is None
    until(lambda: said)
    time.sleep(0.1)
    assert source.poll() is None
    source.stop()
    assert len(said) == 1
    assert "RuntimeError" in said[0]
    assert "somebody" not in said[0]


def test_a_silent_service_is_asked_with_growing_pauses_up_to_ten_seconds() -> None:
    source = cloud_notices.Poller("x", watch_nothing(), rng=random.Random(1))
    pauses = [source._fail("x") for _ in range(8)]
    assert all(0.5 <= pause <= 1 for pause in pauses[:1])
    assert all(5 <= pause <= 10 for pause in pauses[4:])


def watch_nothing() -> cloud_notices.Watcher:
    class Nothing:
        def step(self) -> cloud_notices.Step:
            return cloud_notices.Step(None, 10)

    return Nothing()


def test_a_source_that_is_stopped_asks_no_more(ec2: clouds_loopback.Ec2) -> None:
    source = poll(watch(ec2))
    source.poll()
    ec2.wait(3)
    source.stop()
    assert source._thread is not None
    source._thread.join(5)
    assert not source._thread.is_alive()


@pytest.mark.parametrize("cloud", ["ec2", "gce", "arm"])
def test_no_proxy_is_asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, cloud: str) -> None:
    service: typing.Any = request.getfixturevalue(cloud)
    proxy = clouds_loopback.Ec2()
    try:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        watch(service).step()
        assert service.asked
        assert not proxy.asked
    finally:
        proxy.close()


# -- what the agent does of it -----------------------------------------------------------------------------------------


def test_the_time_that_is_left_is_told_with_the_notice() -> None:
    own = state.State(0)
    assert "notice_left" not in own.body()
    own.warn(shutdown_notices.Notice("the agent was sent SIGTERM"))
    assert own.body()["notice"] == "the agent was sent SIGTERM"
    assert "notice_left" not in own.body()
    assert own.gone_at == math.inf
    own.warn(shutdown_notices.Notice("spot", at=time.monotonic() + 100))
    own.warn(shutdown_notices.Notice("maintenance", at=time.monotonic() + 3000))
    assert own.body()["notice_left"] in (99, 100)
    assert own.body()["notice"] == "the agent was sent SIGTERM"


def test_two_minutes_of_ec2_are_used_for_the_job_until_the_reserve(
    daemon: agent_loopback.Daemon, tmp_path: pathlib.Path, ec2: clouds_loopback.Ec2
) -> None:
    daemon.run([script(tmp_path / "runner", BUSY)])
    agent = Agent(tmp_path / "home", daemon.url, sources=[poll(watch(ec2))], notice_reserve=2).start()
    daemon.wait("heartbeat", lambda body: body["worker"])
    ec2.interrupt(4)
    told = daemon.wait("heartbeat", lambda body: "notice" in body)
    began = time.monotonic()
    assert told["worker"]
    assert told["notice"] == "spot interruption: terminate"
    assert told["notice_left"] <= 4
    assert agent.join() == 0
    assert 0.5 < time.monotonic() - began < 5
    assert daemon.events() == [("started", ""), ("ended", "failed")]


@pytest.mark.parametrize("cloud", ["gce", "arm"])
def test_thirty_seconds_are_for_the_failure_alone(
    request: pytest.FixtureRequest, daemon: agent_loopback.Daemon, tmp_path: pathlib.Path, cloud: str
) -> None:
    service: typing.Any = request.getfixturevalue(cloud)
    daemon.run([script(tmp_path / "runner", BUSY)])
    agent = Agent(tmp_path / "home", daemon.url, sources=[poll(watch(service))]).start()
    daemon.wait("heartbeat", lambda body: body["worker"])
    if cloud == "arm":
        service.schedule("Preempt", 30)
    service.change(preempted="TRUE")
    began = time.monotonic()
    assert agent.join() == 0
    assert time.monotonic() - began < 5
    assert daemon.events() == [("started", ""), ("ended", "failed")]
    assert daemon.said("heartbeat")[-1]["notice"] in ("spot preemption", "spot eviction")


def test_a_stubborn_job_is_killed_while_there_is_time_to_report_it(
    daemon: agent_loopback.Daemon, tmp_path: pathlib.Path
) -> None:
    notice = tmp_path / "notice"
    pace = dataclasses.replace(agent_loopback.FAST, grace=30.0, parting=3.0)
    daemon.run([script(tmp_path / "runner", STUBBORN)])
    agent = Agent(tmp_path / "home", daemon.url, pace=pace, sources=[shutdown_notices.File(notice)]).start()
    daemon.wait("heartbeat", lambda body: body["worker"])
    notice.write_text('{"seconds": 4, "reason": "spot"}')
    began = time.monotonic()
    daemon.wait("job", lambda body: body["event"] == "ended")
    assert 0.8 < time.monotonic() - began < 3.9
    assert agent.join() == 0
    assert daemon.events() == [("started", ""), ("ended", "interrupted: notice: spot")]


def test_a_notice_that_comes_after_the_daemons_order_still_shortens_the_grace(
    daemon: agent_loopback.Daemon, tmp_path: pathlib.Path
) -> None:
    notice = tmp_path / "notice"
    pace = dataclasses.replace(agent_loopback.FAST, grace=30.0, parting=0.5)
    daemon.run([script(tmp_path / "runner", STUBBORN)])
    agent = Agent(tmp_path / "home", daemon.url, pace=pace, sources=[shutdown_notices.File(notice)]).start()
    daemon.wait("heartbeat", lambda body: body["worker"])
    daemon.busy = "end"
    until(lambda: list(tmp_path.rglob("told")), "the runner was not told to end")
    notice.write_text('{"seconds": 1.5, "reason": "spot"}')
    began = time.monotonic()
    daemon.wait("job", lambda body: body["event"] == "ended")
    assert time.monotonic() - began < 5
    assert agent.join() == 0
    assert daemon.events()[-1] == ("ended", "interrupted: the daemon says end: test")


def test_an_idle_instance_leaves_at_once_however_long_it_has(
    daemon: agent_loopback.Daemon, tmp_path: pathlib.Path, gce: clouds_loopback.Gce
) -> None:
    gce.change(event="TERMINATE_ON_HOST_MAINTENANCE")
    source = cloud_notices.sources(metadata.Cloud.GCP, url=gce.url, gpu=True)
    began = time.monotonic()
    assert Agent(tmp_path / "home", daemon.url, sources=source).start().join() == 0
    assert time.monotonic() - began < 5
    assert daemon.said("heartbeat")[-1]["notice"] == "host maintenance: terminate"
    assert daemon.said("heartbeat")[-1]["notice_left"] > 3500
    assert not daemon.said("job")


@pytest.mark.parametrize("cloud", ["ec2", "gce", "arm"])
def test_a_job_ends_well_beside_a_service_that_goes_through_every_trouble(
    request: pytest.FixtureRequest, daemon: agent_loopback.Daemon, tmp_path: pathlib.Path, cloud: str
) -> None:
    service: typing.Any = request.getfixturevalue(cloud)
    daemon.run([script(tmp_path / "runner", GITHUB)])
    agent = Agent(tmp_path / "home", daemon.url, sources=[poll(watch(service, timeout=0.03))]).start()
    for trouble in clouds_loopback.TROUBLES:
        service.change(trouble=trouble)
        time.sleep(0.05)
    assert agent.join() == 0
    assert daemon.events() == [("started", ""), ("ended", "succeeded")]
    assert all("notice" not in body for body in daemon.said("heartbeat"))


def test_what_a_job_puts_in_the_services_place_reaches_the_daemon_as_fixed_words_alone(
    daemon: agent_loopback.Daemon, tmp_path: pathlib.Path, arm: clouds_loopback.Arm
) -> None:
    arm.schedule("Preempt", 30)
    arm.events[0].update(Description="evil\r\n" * 500, EventSource="evil", EventId="evil", EventStatus="evil")
    daemon.run([script(tmp_path / "runner", BUSY)])
    assert Agent(tmp_path / "home", daemon.url, sources=[poll(watch(arm))]).start().join() == 0
    assert {body["notice"] for body in daemon.said("heartbeat") if "notice" in body} == {"spot eviction"}
    assert "evil" not in (tmp_path / "home" / "agent.log").read_text()
