"""Commands over a real Unix socket, against a small real daemon."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click.testing
import pytest
import small_daemon

from runnerd import errors, model
from runnerd.cli.exits import Exit
from runnerd.cli.main import cli
from runnerd.forges.base import JobEvent
from runnerd.web import admin


class Desk:
    """A daemon with its socket, and a person at the command line."""

    def __init__(self, small: small_daemon.Small, path: Path) -> None:
        self.small = small
        self.path = path

    async def run(self, *arguments: str) -> click.testing.Result:
        words = [*arguments, "--socket", str(self.path)]
        return await asyncio.to_thread(click.testing.CliRunner().invoke, cli, words)

    async def json(self, *arguments: str, exit: Exit = Exit.OK) -> Any:
        result = await self.run(*arguments, "--json")
        assert result.exit_code == exit, result.output
        return json.loads(result.stdout)

    async def refused(self, *arguments: str, exit: Exit) -> str:
        result = await self.run(*arguments)
        assert result.exit_code == exit, result.output
        assert result.stderr.startswith("runnerd: ") and "Traceback" not in result.output
        return result.stderr


@contextlib.asynccontextmanager
async def desk(tmp_path: Path, **more: Any) -> AsyncIterator[Desk]:
    async with small_daemon.running(tmp_path / "state", **more) as small:
        listening = admin.Admin(small.daemon, tmp_path / "run" / "a.sock")
        await listening.start()
        try:
            yield Desk(small, tmp_path / "run" / "a.sock")
        finally:
            await listening.close()


async def test_every_looking_command_answers_with_json_and_with_text(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        key = await at.small.queue("train")
        row = await at.small.busy(key)
        shapes: dict[tuple[str, ...], set[str]] = {
            ("status",): {"controller", "pools", "forges", "providers", "budgets", "alarms", "pid", "socket"},
            ("jobs",): {"jobs", "now", "more"},
            ("instances",): {"instances", "now", "more"},
            ("pools",): {"pools", "retired"},
            ("offers", "gpu"): {"pool", "offers", "problems", "held_back"},
            ("explain", "train"): {"job", "summary", "why", "next", "timeline", "cost"},
            ("events",): {"events", "next"},
            ("logs", row.id): {"instance", "console", "diagnostics", "events"},
        }
        for words, keys in shapes.items():
            assert keys <= set(await at.json(*words)), words
            text = await at.run(*words)
            assert text.exit_code == 0, text.output
            assert text.stdout.strip() and "{" not in text.stdout, text.stdout
        told = (await at.run("explain", "train")).stdout
        assert row.id in told and "it runs since" in told


async def test_drain_survives_in_the_state_and_undrain_takes_it_back(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        assert (await at.json("drain", "gpu"))["changed"] is True
        assert (await at.json("drain", "gpu"))["changed"] is False
        assert dict((await at.small.daemon.store.load()).settings)["drained/gpu"] == "yes"
        await at.small.queue("train")
        await at.small.until(lambda: "drained by an operator" in at.small.daemon.controller.notes.get("gpu", ()))
        assert not at.small.rows
        await at.json("undrain", "gpu")
        await at.small.booting()
        trail = (await at.json("events", "--subject", "pool"))["events"]
        assert [line["what"] for line in trail] == ["drained", "undrained"]
        assert f"user id {os.geteuid()}" in trail[0]["detail"]
        assert "pools are" in await at.refused("drain", "gpx", exit=Exit.NOT_FOUND)


async def test_reap_without_force_refuses_a_busy_instance_and_with_force_ends_it(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        key = await at.small.queue("train")
        row = await at.small.busy(key)
        words = await at.refused("reap", row.id, exit=Exit.REFUSED)
        assert "runs job" in words and "--force" in words
        assert at.small.rows[row.id].state is model.InstanceState.BUSY
        await at.json("reap", row.id, "--force")
        await at.small.until(lambda: row.id not in at.small.rows)
        gone = await at.small.daemon.store.instance(row.id)
        assert gone is not None and gone.reason is model.Reason.OPERATOR
        assert "gone" in await at.refused("reap", row.id, exit=Exit.REFUSED)
        await at.refused("reap", "nobody", exit=Exit.NOT_FOUND)


async def test_reap_of_an_idle_instance_goes_through_the_gate(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.small.queue("train")
        row = await at.small.booting()
        await at.small.tell(JobEvent.COMPLETED, "train", conclusion="cancelled")
        at.small.forge.demands.clear()
        assert (await at.json("reap", row.id))["instance"] == row.id
        await at.small.until(lambda: row.id not in at.small.rows)
        gone = await at.small.daemon.store.instance(row.id)
        assert gone is not None and gone.reason is not model.Reason.OPERATOR
        assert "user id" in gone.detail


async def test_an_agent_that_sees_a_worker_counts_as_a_job(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.small.queue("train")
        row = await at.small.booting()
        witness = at.small.daemon.station.witness(row.id)
        witness.agent_at, witness.worker = at.small.clock.now(), True
        assert "runs a job" in await at.refused("reap", row.id, exit=Exit.REFUSED)


async def test_a_held_instance_is_kept_until_released(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.small.queue("train")
        row = await at.small.booting()
        found = await at.json("hold", row.id, "--for", "2h")
        assert found["hold_until"] == pytest.approx(at.small.clock.now() + 7200, abs=5)
        assert at.small.rows[row.id].hold_until == found["hold_until"]
        assert "held" in await at.refused("reap", row.id, exit=Exit.REFUSED)
        await at.json("hold", row.id, "--release")
        assert at.small.rows[row.id].hold_until == 0
        assert "deadline" in (await at.json("hold", row.id, "--for", "6d"))["message"]
        assert "at most" in await at.refused("hold", row.id, "--for", "8d", exit=Exit.USAGE)


async def test_explain_of_an_ambiguous_name_lists_what_it_may_mean(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.small.queue("train", run="1")
        await at.small.queue("train", run="2", waiting=2)
        found = await at.json("explain", "train", exit=Exit.NOT_FOUND)
        assert {one["id"] for one in found["ambiguous"]} == {"1-train", "2-train"}
        result = await at.run("explain", "train")
        assert "1-train" in result.stdout and "2 jobs" in result.stderr


async def test_sweep_lists_what_has_no_row_and_the_daemon_takes_it_in(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.small.queue("train")
        row = await at.small.booting()
        found = await at.json("sweep", "--dry-run")
        assert [one["row"] for each in found["providers"] for one in each["instances"]] == ["booting"]
        assert found["unaccounted"] == 0
        del at.small.rows[row.id]
        found = await at.json("sweep", "--dry-run", exit=Exit.PROBLEMS)
        assert found["unaccounted"] == 1 and row.id not in at.small.rows
        await at.json("sweep", exit=Exit.PROBLEMS)
        async with asyncio.timeout(10):
            while row.id not in at.small.rows:
                await asyncio.sleep(0.01)
        assert at.small.rows[row.id].adopted


async def test_events_follow_goes_on_until_the_reader_leaves(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.small.queue("train")
        await at.small.booting()

        def read() -> list[dict[str, Any]]:
            from runnerd.cli import client

            seen: list[dict[str, Any]] = []
            for answer in client.Client(at.path).follow("/v1/events", subject="job"):
                seen += answer["events"]
                if len(seen) >= 2:
                    return seen
            return seen

        reader = asyncio.create_task(asyncio.to_thread(read))
        await asyncio.sleep(0.05)
        await at.small.queue("second", run="2", waiting=2)
        seen = await asyncio.wait_for(reader, 10)
        assert [line["id"].rpartition("|")[2] for line in seen] == ["train", "second"]


async def test_a_reload_that_fails_names_every_problem(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:

        def bad() -> Any:
            raise errors.ConfigInvalid([errors.Problem("runnerd.yaml", 3, 1, "pools.x", "is wrong", "gpu")])

        at.small.daemon._load_settings = bad
        assert "runnerd.yaml:3" in await at.refused("reload", exit=Exit.USAGE)
        assert at.small.daemon.reload_ok is False


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        pytest.param("GET", "/v1/nothing", b"", 404, id="unknown path"),
        pytest.param("POST", "/v1/status", b"", 405, id="wrong method"),
        pytest.param("GET", "/v1/events?limit=many", b"", 400, id="not a number"),
        pytest.param("POST", "/v1/sweep", b"[1", 400, id="not JSON"),
        pytest.param("POST", "/v1/sweep", b"[1]", 400, id="not an object"),
        pytest.param("POST", "/v1/instances/x/hold", b'{"seconds": true}', 400, id="not seconds"),
        pytest.param("POST", "/v1/instances/x/hold", b'{"seconds": NaN}', 400, id="no number of seconds"),
        pytest.param("POST", "/v1/sweep", b" " * 70_000, 413, id="huge"),
    ],
)
async def test_a_bad_request_gets_words_and_a_status(
    tmp_path: Path, method: str, path: str, body: bytes, status: int
) -> None:
    async with desk(tmp_path) as at:

        def ask() -> tuple[int, dict[str, Any]]:
            connection = http.client.HTTPConnection("runnerd", timeout=10)
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.connect(str(at.path))
            try:
                connection.request(method, path, body=body or None)
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())
            finally:
                connection.close()

        found, words = await asyncio.to_thread(ask)
        assert found == status and words["error"]


async def test_another_user_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(tmp_path) as at:
        monkeypatch.setattr(admin, "_peer", lambda request: (1, os.geteuid() + 4000))
        assert "may not command" in await at.refused("status", exit=Exit.REFUSED)


async def test_the_socket_is_for_its_owner_alone_and_goes_with_the_daemon(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        assert stat.S_IMODE(at.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(at.path.parent.stat().st_mode) == 0o700
        path = at.path
    assert not path.exists()


async def test_a_dead_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(path))
    dead.close()
    living, _ = admin.bind(path)
    with living, pytest.raises(FileExistsError, match="another process listens"):
        admin.bind(path)


def test_what_is_not_a_socket_and_an_unsafe_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="not a socket"):
        admin.bind(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(PermissionError, match="every user"):
        admin.bind(open_to_all / "a.sock")
    with pytest.raises(OSError, match="cannot be made"):
        admin.bind(tmp_path / ("x" * 120))


async def test_a_socket_that_somebody_else_made_meanwhile_is_not_removed(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path / "state") as small:
        path = tmp_path / "a.sock"
        listening = admin.Admin(small.daemon, path)
        await listening.start()
        path.unlink()
        other, _ = admin.bind(path)
        await listening.close()
        with other:
            assert path.exists()
