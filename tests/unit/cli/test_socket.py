"""Commands over a real Unix socket, against a small real daemon."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
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

from provisioners import base, fake
from runnerd import errors, model
from runnerd.cli import client, exits, money, pricing
from runnerd.cli.exits import Exit
from runnerd.cli.main import cli
from runnerd.forges.base import JobEvent
from runnerd.web import unixsocket
from tests.support import small_daemon


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
        listening = small.admin(tmp_path / "run" / "a.sock")
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
            ("logs", row.id): {"instance", "console", "diagnostics", "events", "end", "end_detail"},
            ("cost",): {"groups", "total", "by", "since", "until", "now", "notes"},
            ("prices", "show"): {"offers", "problems", "now"},
        }
        for words, keys in shapes.items():
            assert keys <= set(await at.json(*words)), words
            text = await at.run(*words)
            assert text.exit_code == 0, text.output
            assert text.stdout.strip() and "{" not in text.stdout, text.stdout
        told = (await at.run("explain", "train")).stdout
        assert row.id in told and "running for" in told


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
        assert "running job" in words and "--force" in words
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
        at.small.daemon.runtime.observations.heard(row.id, worker=True)
        assert "running a job" in await at.refused("reap", row.id, exit=Exit.REFUSED)


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
        del at.small.daemon.runtime.rows._instances[row.id]
        found = await at.json("sweep", "--dry-run", exit=Exit.PROBLEMS)
        assert found["unaccounted"] == 1 and row.id not in at.small.rows
        await at.json("sweep", exit=Exit.PROBLEMS)
        async with asyncio.timeout(10):
            while row.id not in at.small.rows:
                await asyncio.sleep(0.01)
        assert at.small.rows[row.id].adopted


async def test_a_sweep_by_the_daemon_shows_side_resources_with_their_tags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(tmp_path) as at:
        sky = at.small.daemon.runtime.providers["sky"].provisioner
        tags = {"runnerd-instance": "gone-1", "runnerd-deadline": "1790000000", "runnerd-price": "0.5"}

        async def list_owned(also: frozenset[base.Scope] = frozenset()) -> base.Listing:
            return base.Listing((), sky.scopes(), (base.Residue("disk", "d-1", base.Scope("sky/x/east/a"), tags, 5.0),))

        monkeypatch.setattr(sky, "list_owned", list_owned)
        found = await at.json("sweep", "--dry-run")
        (one,) = found["providers"][0]["residues"]
        assert (one["instance"], one["deadline"], one["price"], one["tags"]) == ("gone-1", 1_790_000_000.0, 0.5, tags)
        text = (await at.run("sweep", "--dry-run")).stdout
        assert "d-1" in text and "gone-1" in text and "1 disk" in text


async def _spent(at: Desk) -> model.Instance:
    """Two closed instances and one that lives, with repositories and regions."""
    now = at.small.clock.now()
    key = await at.small.queue("train")
    row = await at.small.busy(key)
    old = model.Instance(
        model.InstanceId("old-1"),
        "gpu",
        model.InstanceState.GONE,
        now - 90_000,
        now - 80_000,
        model.Reason.PREEMPTED,
        provider="sky",
        region="east",
        market="spot",
        repo="acme/ml",
        gpus=4,
        price=2.0,
        running_at=now - 83_600,
        gone_at=now - 80_000,
        busy_at=now - 83_000,
        end="preempted",
        end_detail="Server.SpotInstanceTermination",
    )
    other = dataclasses.replace(old, id=model.InstanceId("old-2"), repo="", market="on-demand", region="", price=1.0)
    await at.small.daemon.store.write(old, other)
    return row


async def test_costs_are_told_by_what_they_are_asked_for_and_alike_without_the_daemon(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        row = await _spent(at)
        at.small.clock.added += 1800
        found = await at.json("cost", "--by", "repo", "--since", "2d")
        named = {one["name"]: one for one in found["groups"]}
        assert set(named) == {"acme/ml", "no repository"} or row.repo in named
        assert found["total"]["instances"] == 3 and found["total"]["jobs"] == 3
        assert found["total"]["dollars"] == pytest.approx(3.0 + row.price / 2, rel=0.05)
        assert found["total"]["committed"] > row.price
        for by in money.BY:
            each = await at.json("cost", "--by", by, "--since", "2d")
            assert sum(one["dollars"] for one in each["groups"]) == pytest.approx(each["total"]["dollars"])
            text = (await at.run("cost", "--by", by, "--since", "2d")).stdout
            assert by.upper() in text and "total" in text and "{" not in text
        regions = {one["name"] for one in (await at.json("cost", "--by", "region"))["groups"]}
        assert regions == {"sky/east", "sky/west", "sky, no region"}

        config_file = tmp_path / "runnerd.yaml"
        config_file.write_text(json.dumps(_document(tmp_path / "state")))
        line = ["cost", "--by", "market", "--offline", "--config", str(config_file), "--until", "2026-01-01"]
        result = await asyncio.to_thread(click.testing.CliRunner().invoke, cli, [*line, "--since", "2025-01-01"])
        assert result.exit_code == 0 and "nothing ran" in result.stdout and "no longer in the state" in result.stdout
        line = ["cost", "--by", "repo", "--offline", "--config", str(config_file), "--json"]
        beside = json.loads((await asyncio.to_thread(click.testing.CliRunner().invoke, cli, line)).stdout)
        assert [one["name"] for one in beside["groups"]] == [one["name"] for one in found["groups"]]
        assert beside["total"]["instances"] == 3


def _document(state: Path) -> dict[str, Any]:
    """A configuration of the small daemon's state as a file has it."""
    forge = {"type": "github", "url": "https://github.com/acme", "token": "file:not-here"}
    return {
        "controller": "small",
        "state": str(state),
        "public_url": "https://runnerd.example",
        "forges": {"hub": forge},
        "providers": {"sky": {"type": "fake"}},
        "limits": {"instances": 4},
        "pools": {"gpu": {"gpu": "t4"}},
    }


async def test_a_cost_that_cannot_be_summed_is_refused_by_the_daemon_too(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        for query in ("by=colour", "since=nan", "since=5&until=4", "since=soon"):

            def ask(query: str = query) -> None:
                client.Client(at.path).get(f"/v1/cost?{query}")

            with pytest.raises(errors.RunnerdError) as caught:
                await asyncio.to_thread(ask)
            assert exits.of(caught.value) == Exit.USAGE, query


def test_offline_says_that_there_is_no_state(tmp_path: Path) -> None:
    file = tmp_path / "runnerd.yaml"
    file.write_text(json.dumps(_document(tmp_path / "state")))
    result = click.testing.CliRunner().invoke(cli, ["cost", "--offline", "--config", str(file)])
    assert result.exit_code == Exit.STATE and "there is no state at" in result.stderr
    assert not (tmp_path / "state").exists()


async def test_prices_are_told_with_their_source_for_a_pool_and_a_provider(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        known = at.small.daemon.runtime.providers["sky"]._offers
        await at.small.until(lambda: {"gpu", "big"} <= set(known))
        asked_at, question, told = known["gpu"]
        sourced = [dataclasses.replace(one, price_source="catalogue 2026-07-20") for one in told]
        known["gpu"] = (asked_at, question, sourced)
        found = await at.json("prices", "show", "gpu")
        assert {one["price_source"] for one in found["offers"]} == {"catalogue 2026-07-20"}
        assert len((await at.json("prices", "show", "--provider", "sky"))["offers"]) > len(found["offers"])
        assert "catalogue 2026-07-20" in (await at.run("prices", "show")).stdout
        assert "catalogue 2026-07-20" in (await at.run("offers", "gpu")).stdout
        assert "pools are" in await at.refused("prices", "show", "gpx", exit=Exit.NOT_FOUND)
        assert "providers are sky" in await at.refused("prices", "show", "--provider", "sea", exit=Exit.NOT_FOUND)
        known["gpu"] = (asked_at, question, [])
        assert "pool gpu, provider sky" in (await at.run("prices", "show", "gpu")).stdout


async def test_prices_are_renewed_in_the_running_daemon_and_reach_its_offers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(tmp_path) as at:
        provider = at.small.daemon.runtime.providers["sky"]
        plain = await at.json("prices", "refresh")
        assert plain["errors"] == 0 and "no price list" in plain["findings"][0]["message"]

        async def refresh_prices(self: Any) -> list[base.Finding]:
            monkeypatch.setattr(fake.Fake, "offers", offers)
            return [base.Finding(base.Level.OK, "providers.sky", "7 prices of east")]

        async def offers(self: Any, shape: base.Shape, options: Any = base.NO_OPTIONS) -> list[base.Offer]:
            return [base.Offer("sky", "a", "east", "z", "m", base.Market.SPOT, 7.0, price_source="renewed")]

        monkeypatch.setattr(fake.Fake, "refresh_prices", refresh_prices)
        found = await at.json("prices", "refresh", "--provider", "sky")
        assert [one["message"] for one in found["findings"]] == ["7 prices of east"]
        assert {one.price for pool in ("gpu", "big") for one in provider._offers[pool][2]} == {7.0}

        async def broken(self: Any) -> list[base.Finding]:
            raise base.ProvisionError(base.Kind.AUTH, "may not ask for prices")

        monkeypatch.setattr(fake.Fake, "refresh_prices", broken)
        result = await at.run("prices", "refresh")
        assert result.exit_code == Exit.PROBLEMS and "may not ask for prices" in result.stdout
        assert "providers are sky" in await at.refused("prices", "refresh", "--provider", "x", exit=Exit.NOT_FOUND)


def test_prices_are_renewed_without_a_daemon_into_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "runnerd.yaml"
    document = _document(tmp_path / "state")
    document["listen"] = {"socket": str(tmp_path / "no.sock")}
    file.write_text(json.dumps(document))

    async def refresh_prices(self: Any) -> list[base.Finding]:
        Path(self._context.directory, "prices.json").write_text("{}")
        return [base.Finding(base.Level.OK, "providers.sky", "7 prices of east")]

    line = ["prices", "refresh", "--config", str(file)]
    plain = click.testing.CliRunner().invoke(cli, line)
    assert plain.exit_code == 0 and "no price list" in plain.stdout and "at its next start" in plain.stdout
    assert not list((tmp_path / "state").iterdir()), "a provider without a list is not started"
    monkeypatch.setattr(fake.Fake, "refresh_prices", refresh_prices)
    owned: list[str] = []
    monkeypatch.setattr(os, "chown", lambda path, *_, **__: owned.append(Path(path).name))
    if os.geteuid() == 0:
        monkeypatch.setattr(pricing, "_owner", lambda state: (12345, 12345))
    done = click.testing.CliRunner().invoke(cli, line)
    assert done.exit_code == 0 and "7 prices of east" in done.stdout, done.output
    assert (tmp_path / "state" / "providers" / "sky" / "prices.json").exists()
    if os.geteuid() == 0:
        assert {"prices.json", "sky", "providers"} <= set(owned)
    unknown = click.testing.CliRunner().invoke(cli, [*line, "--provider", "sea"])
    assert unknown.exit_code == Exit.NOT_FOUND


async def test_ended_instances_are_listed_with_what_their_provider_says(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        row = await _spent(at)
        await at.small.daemon.runtime.rows.amend(row.id, image="ami-1", price_source="catalogue 2026-07-20")
        text = (await at.run("instances", "--all")).stdout
        assert "reported by the provider: Server.SpotInstanceTermination" in text
        assert "ami-1" in text and "/h, catalogue 2026-07-20" in text
        told = await at.json("explain", "train")
        assert any("catalogue 2026-07-20" in line and "ami-1" in line for line in told["why"])
        (one,) = [each for each in (await at.json("instances", "--all"))["instances"] if each["id"] == "old-1"]
        assert (one["end"], one["end_detail"]) == ("preempted", "Server.SpotInstanceTermination")


async def test_events_follow_goes_on_until_the_reader_leaves(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.small.queue("train")
        await at.small.booting()

        def read() -> list[dict[str, Any]]:
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

        at.small.daemon._reload._load_settings = bad
        assert "runnerd.yaml:3" in await at.refused("reload", exit=Exit.USAGE)
        assert at.small.daemon.progress.reload_ok is False


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
        monkeypatch.setattr(unixsocket, "_peer", lambda request: (1, os.geteuid() + 4000))
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
    living, _ = unixsocket.bind(path)
    with living, pytest.raises(FileExistsError, match="another process is listening on"):
        unixsocket.bind(path)


def test_what_is_not_a_socket_and_an_unsafe_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="not a socket"):
        unixsocket.bind(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(PermissionError, match="any user"):
        unixsocket.bind(open_to_all / "a.sock")
    with pytest.raises(OSError, match="cannot be created"):
        unixsocket.bind(tmp_path / ("x" * 120))


def test_a_directory_that_cannot_be_created_is_named_with_the_key_that_moves_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "run" / "r.sock"
    with pytest.raises(OSError, match=r"r\.sock cannot be created: .*set listen\.socket"):
        unixsocket.bind(path)


async def test_a_socket_that_somebody_else_made_meanwhile_is_not_removed(tmp_path: Path) -> None:
    async with small_daemon.running(tmp_path / "state") as small:
        path = tmp_path / "a.sock"
        listening = small.admin(path)
        await listening.start()
        path.unlink()
        other, _ = unixsocket.bind(path)
        await listening.close()
        with other:
            assert path.exists()
