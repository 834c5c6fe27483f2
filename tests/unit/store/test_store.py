from __future__ import annotations

import dataclasses
import time
from types import MappingProxyType
from typing import Any

import pytest

from runnerd import errors, model, store
from runnerd.store import commit, prune, rows

from . import facts
from .conftest import Opener

S = model.InstanceState


@pytest.fixture
async def state(url: str, opened: Opener) -> store.Store:
    return await opened(url)


def test_every_field_of_the_facts_has_a_value_of_its_own() -> None:
    known = (facts.INSTANCE, facts.ATTEMPT, facts.REGISTRATION, facts.JOB, facts.CONSOLE, facts.EVENT, facts.BLOCK)
    for fact in known:
        for each in dataclasses.fields(fact):
            assert getattr(fact, each.name) != each.default, f"{type(fact).__name__}.{each.name}"


@pytest.mark.parametrize(
    "codec",
    [*commit.CODECS, rows.EVENT],
    ids=lambda codec: codec.kind.__name__,
)
def test_every_field_has_a_column(codec: Any) -> None:
    assert set(codec.columns) <= set(codec.table.c.keys())
    assert set(codec.table.c.keys()) - set(codec.columns) <= {"rowid"}


class TestRoundTrip:
    async def test_everything_comes_back_as_it_was_written(self, state: store.Store) -> None:
        cursor = store.Cursor(str(facts.QUEUE), {"message": 7, "deep": [1, {"a": None}], "name": "ü"})
        await state.write(
            facts.REGISTRATION,
            facts.ATTEMPT,
            facts.INSTANCE,
            facts.BARE,
            facts.JOB,
            facts.CONSOLE,
            facts.EVENT,
            facts.BLOCK,
            cursor,
            store.Setting("drained/gpu-t4", "yes"),
        )
        loaded = await state.load()
        assert loaded.instances == (facts.BARE, facts.INSTANCE)
        assert loaded.attempts == (facts.ATTEMPT,)
        assert loaded.registrations == (facts.REGISTRATION,)
        assert loaded.jobs == (facts.JOB,)
        assert loaded.blocks == (facts.BLOCK,)
        assert loaded.cursors == {str(facts.QUEUE): cursor.value}
        assert loaded.settings == {"drained/gpu-t4": "yes"}
        assert await state.events() == [facts.EVENT]
        assert await state.consoles("rd-1") == [facts.CONSOLE]

    async def test_types_come_back_exactly(self, state: store.Store) -> None:
        await state.write(facts.INSTANCE, facts.ATTEMPT, facts.JOB)
        loaded = await state.load()
        for written, read in ((facts.INSTANCE, loaded.instances[0]), (facts.ATTEMPT, loaded.attempts[0])):
            for each in dataclasses.fields(written):
                assert type(getattr(read, each.name)) is type(getattr(written, each.name)), each.name
        assert type(loaded.jobs[0].labels) is tuple

    async def test_every_state_and_reason_may_be_stored(self, state: store.Store) -> None:
        await state.write(
            *(facts.instance(f"s-{each.value}", each) for each in S),
            *(facts.instance(f"r-{each.value}", S.ENDING, reason=each) for each in model.Reason),
        )
        assert {each.state for each in await state.instances()} == set(S)
        assert {each.reason for each in await state.instances()} == set(model.Reason)

    async def test_a_queue_may_be_named_with_any_characters(self, state: store.Store) -> None:
        odd = model.Queue("a:b", "enterprises/x:y|z", "gpu:t4")
        await state.write(dataclasses.replace(facts.JOB, queue=odd))
        assert (await state.load()).jobs[0].queue == odd

    async def test_odd_bytes_in_free_text_do_not_keep_a_state_from_being_written(self, state: store.Store) -> None:
        await state.write(dataclasses.replace(facts.INSTANCE, detail="cut\x00here \ud800 ok"))
        found = await state.instance("rd-1")
        assert found is not None
        assert found.detail.startswith("cut\ufffdhere") and found.detail.endswith(" ok")

    async def test_what_is_not_there_is_none_or_empty(self, state: store.Store) -> None:
        assert await state.instance("nobody") is None
        assert await state.job("nobody") == []
        assert await state.load() == store.State()


class TestWrite:
    async def test_a_later_fact_replaces_the_earlier_one(self, state: store.Store) -> None:
        await state.write(facts.INSTANCE, facts.BLOCK, store.Setting("a", "1"))
        later = dataclasses.replace(facts.INSTANCE, state=S.DRAINING, queue=None, detail="")
        await state.write(later, dataclasses.replace(facts.BLOCK, until=5.0), store.Setting("a", "2"))
        loaded = await state.load()
        assert loaded.instances == (later,)
        assert loaded.blocks[0].until == 5.0
        assert loaded.settings == {"a": "2"}

    async def test_of_one_row_the_last_change_of_a_call_wins_and_all_events_stay(self, state: store.Store) -> None:
        changes: list[Any] = []
        for number, each in enumerate((S.PLANNED, S.REQUESTING, S.BOOTING)):
            changes += [facts.instance("rd-2", each), model.Event(float(number), "instance", "rd-2", each.value)]
        await state.write(*changes)
        found = await state.instance("rd-2")
        assert found is not None and found.state == S.BOOTING
        assert [each.what for each in await state.events()] == ["planned", "requesting", "booting"]

    async def test_a_block_and_its_end_take_effect_in_order(self, state: store.Store) -> None:
        unblock = store.Unblock(facts.BLOCK.pattern)
        await state.write(facts.BLOCK, unblock)
        assert (await state.load()).blocks == ()
        await state.write(unblock, facts.BLOCK)
        assert (await state.load()).blocks == (facts.BLOCK,)
        await state.write(unblock, store.Unblock("never/there"))
        assert (await state.load()).blocks == ()

    async def test_nothing_to_write_writes_nothing(self, state: store.Store) -> None:
        await state.write()
        assert state.commits == 0

    async def test_a_change_is_kept_as_it_was_when_written(self, state: store.Store) -> None:
        value = {"n": 1}
        written = state.write(store.Cursor("q", MappingProxyType(value)))
        await written
        value["n"] = 2
        assert (await state.load()).cursors == {"q": {"n": 1}}

    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param("a word", id="not a fact"),
            pytest.param(store.Cursor("q", {"x": object()}), id="not JSON"),
            pytest.param(dataclasses.replace(facts.JOB, queue=None), id="no queue"),  # type: ignore[arg-type]
            pytest.param(dataclasses.replace(facts.BARE, state="busily"), id="no state"),  # type: ignore[arg-type]
            pytest.param(dataclasses.replace(facts.BARE, pool=None), id="no pool"),  # type: ignore[arg-type]
            pytest.param(dataclasses.replace(facts.ATTEMPT, instance=model.InstanceId("who")), id="no instance"),
            pytest.param(dataclasses.replace(facts.BARE, id=model.InstanceId("\ud800")), id="no text"),
            pytest.param(dataclasses.replace(facts.BARE, gpus=2**70), id="too large"),
        ],
    )
    async def test_what_cannot_be_stored_is_refused_whole_and_harms_nothing(self, state: store.Store, bad: Any) -> None:
        with pytest.raises(errors.StoreError) as refused:
            await state.write(store.Setting("beside", "it"), bad)
        assert type(refused.value) is errors.StoreError
        assert (await state.load()).settings == {}
        await state.write(facts.BARE)
        assert (await state.load()).instances == (facts.BARE,)

    async def test_two_registrations_never_share_a_runner_name(self, state: store.Store) -> None:
        await state.write(facts.INSTANCE, facts.REGISTRATION)
        with pytest.raises(errors.StoreError):
            await state.write(dataclasses.replace(facts.REGISTRATION, id=model.RegistrationId("other")))

    async def test_a_closed_store_refuses(self, state: store.Store) -> None:
        await state.close()
        with pytest.raises(errors.StoreError, match="closed"):
            await state.write(facts.BARE)
        with pytest.raises(errors.StoreError, match="closed"):
            await state.load()

    async def test_a_thousand_instances_with_their_events_are_one_quick_transaction(self, state: store.Store) -> None:
        many = [dataclasses.replace(facts.INSTANCE, id=model.InstanceId(f"i{n}")) for n in range(1000)]
        events = [model.Event(1.0, "instance", each.id, "planned") for each in many]
        began = time.process_time()
        await state.write(*many, *events)
        spent = time.process_time() - began
        assert state.commits == 1
        # 0.02 s on SQLite; the bound is wide for a busy machine.
        assert spent < 0.5
        assert len((await state.load()).instances) == 1000
        assert len(await state.events(limit=5000)) == 1000


class TestConsoles:
    async def test_one_text_of_each_kind_is_kept_and_the_newest_wins(self, state: store.Store) -> None:
        later = dataclasses.replace(facts.CONSOLE, at=9.0, text="more\x00of it", problem="")
        words = model.Console(facts.INSTANCE.id, model.ConsoleKind.AGENT, 3.0, "no disk left")
        await state.write(facts.INSTANCE, facts.CONSOLE)
        await state.write(later, words)
        kept = await state.consoles("rd-1")
        assert [(each.kind.value, each.at, each.text) for each in kept] == [
            ("agent", 3.0, "no disk left"),
            ("console", 9.0, "more\ufffdof it"),
        ]
        assert await state.consoles("rd-2") == []

    async def test_they_go_before_their_instances_and_with_them(self, opened: Opener, url: str) -> None:
        now = 100 * 86400.0
        state = await opened(url, at=now)
        live, lately, long_ago = facts.instance("live", S.BUSY), facts.instance("lately", S.GONE, since=now), None
        long_ago = facts.instance("long ago", S.GONE, since=1.0, gone_at=1.0)
        old, new = now - prune.CONSOLES_S - 1, now - prune.CONSOLES_S + 60
        await state.write(
            live,
            lately,
            long_ago,
            model.Console(live.id, model.ConsoleKind.CONSOLE, new, "new"),
            model.Console(lately.id, model.ConsoleKind.CONSOLE, old, "old"),
            model.Console(lately.id, model.ConsoleKind.AGENT, new, "new"),
            model.Console(long_ago.id, model.ConsoleKind.CONSOLE, new, "new"),
        )
        # The old text by itself; the text of the closed instance, and the instance.
        assert await state.prune(before=now - 30 * 86400.0) == 1 + 1 + 1
        assert [each.kind.value for each in await state.consoles("lately")] == ["agent"]
        assert len(await state.consoles("live")) == 1
        assert await state.consoles("long ago") == []

    async def test_no_more_than_a_number_of_them_is_kept(
        self, state: store.Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(prune, "MOST_CONSOLES", 3)
        monkeypatch.setattr(prune, "ROWS_PER_STEP", 2)
        many = [facts.instance(f"i{n}", S.BUSY) for n in range(8)]
        texts = [model.Console(each.id, model.ConsoleKind.CONSOLE, 999_000.0 + n, "x") for n, each in enumerate(many)]
        await state.write(*many, *texts)
        assert await state.prune(before=1.0) == 5
        left = [each.id for each in many if await state.consoles(each.id)]
        assert left == ["i5", "i6", "i7"]


class TestLoad:
    async def test_closed_instances_stay_while_the_forge_may_have_their_runner(self, state: store.Store) -> None:
        gone, forgotten = facts.instance("gone", S.GONE), facts.instance("forgotten", S.GONE)
        held = dataclasses.replace(facts.REGISTRATION, instance=gone.id, state=model.RegistrationState.REMOVING)
        done = dataclasses.replace(
            facts.REGISTRATION,
            id=model.RegistrationId("r2"),
            runner_name="r2",
            instance=forgotten.id,
            state=model.RegistrationState.GONE,
        )
        await state.write(gone, forgotten, held, done)
        loaded = await state.load()
        assert loaded.instances == (gone,)
        assert loaded.registrations == (held,)

    async def test_an_open_attempt_is_loaded_whatever_its_instance_says(self, state: store.Store) -> None:
        failed, gone = facts.instance("failed", S.FAILED), facts.instance("gone", S.GONE)
        open_one = dataclasses.replace(facts.ATTEMPT, instance=failed.id, state=model.AttemptState.REQUESTING)
        closed = dataclasses.replace(
            facts.ATTEMPT, key=model.AttemptKey("k2"), instance=gone.id, state=model.AttemptState.CREATED
        )
        await state.write(failed, gone, open_one, closed)
        loaded = await state.load()
        assert loaded.attempts == (open_one,)
        assert loaded.instances == (failed,)

    async def test_all_attempts_of_a_live_instance_are_loaded(self, state: store.Store) -> None:
        live = facts.instance("live", S.BOOTING)
        tries = [
            dataclasses.replace(facts.ATTEMPT, key=model.AttemptKey(f"live/{n}"), instance=live.id, state=each)
            for n, each in enumerate((model.AttemptState.FAILED, model.AttemptState.CREATED))
        ]
        await state.write(live, *tries)
        assert (await state.load()).attempts == tuple(tries)

    async def test_jobs_completed_a_day_ago_are_left_out(self, opened: Opener, url: str) -> None:
        state = await opened(url, at=200_000.0)

        def job(name: str, kind: model.JobState, finished: float) -> model.Job:
            return dataclasses.replace(facts.JOB, key=model.JobKey(name), state=kind, finished_at=finished)

        queued = job("queued", model.JobState.QUEUED, 0.0)
        fresh = job("fresh", model.JobState.COMPLETED, 200_000.0 - 86_000)
        await state.write(queued, fresh, job("stale", model.JobState.COMPLETED, 200_000.0 - 87_000))
        assert {each.key for each in (await state.load()).jobs} == {"queued", "fresh"}


class TestQuestions:
    async def test_events_are_found_by_what_they_are_about(self, state: store.Store) -> None:
        await state.write(
            *(model.Event(float(n), "instance", "rd-1", f"n{n}") for n in range(5)),
            model.Event(9.0, "job", "rd-1", "other subject"),
            model.Event(9.0, "instance", "rd-9", "other id"),
        )

        async def words(**about: Any) -> list[str]:
            return [each.what for each in await state.events(**about)]

        mine: dict[str, Any] = {"subject": "instance", "id": "rd-1"}
        assert await words(**mine) == ["n0", "n1", "n2", "n3", "n4"]
        assert await words(**mine, limit=2) == ["n3", "n4"]
        assert await words(**mine, since=3.0) == ["n3", "n4"]
        assert await words(id="rd-1", since=4.0) == ["n4", "other subject"]
        assert await words(subject="job") == ["other subject"]

    async def test_a_follower_misses_no_event_and_sees_none_twice(self, state: store.Store) -> None:
        await state.write(model.Event(1.0, "daemon", "d", "before"))
        [(last, _)] = await state.trail()
        seen: list[str] = []

        async def follow() -> bool:
            nonlocal last
            found = await state.trail(after_rowid=last, limit=2)
            seen.extend(each.what for _, each in found)
            last = found[-1][0] if found else last
            return bool(found)

        for number in range(7):
            await state.write(*(model.Event(1.0, "daemon", "d", f"{number}.{n}") for n in range(3)))
            await follow()
        while await follow():
            pass
        assert seen == [f"{number}.{n}" for number in range(7) for n in range(3)]

    async def test_instances_are_listed_newest_first_by_pool_and_life(self, state: store.Store) -> None:
        await state.write(
            facts.instance("old", S.GONE, created_at=1.0),
            facts.instance("mid", S.READY, created_at=2.0),
            facts.instance("new", S.PLANNED, created_at=3.0, pool="other"),
        )

        async def ids(**wanted: Any) -> list[str]:
            return [each.id for each in await state.instances(**wanted)]

        assert await ids() == ["new", "mid", "old"]
        assert await ids(limit=1) == ["new"]
        assert await ids(live=True) == ["new", "mid"]
        assert await ids(live=False) == ["old"]
        assert await ids(pool="gpu-t4") == ["mid", "old"]

    async def test_a_job_is_found_by_key_alias_run_and_name(self, state: store.Store) -> None:
        other = dataclasses.replace(
            facts.JOB, key=model.JobKey("k2"), run="78", name="lint", aliases=("9020", 'we"ird_%'), queued_at=9.0
        )
        await state.write(facts.JOB, other)
        assert await state.job(facts.JOB.key) == [facts.JOB]
        assert await state.job("902") == [facts.JOB]
        assert await state.job("77") == [facts.JOB]
        assert await state.job("lint") == [other]
        assert await state.job('we"ird_%') == [other]
        assert await state.job("we%") == []

    async def test_jobs_are_listed_by_state_and_pool(self, state: store.Store) -> None:
        done = dataclasses.replace(facts.JOB, key=model.JobKey("k2"), state=model.JobState.COMPLETED, queued_at=9.0)
        await state.write(facts.JOB, done)
        assert await state.jobs() == [done, facts.JOB]
        assert await state.jobs(state=model.JobState.RUNNING) == [facts.JOB]
        assert await state.jobs(pool="gpu-t4", limit=1) == [done]
        assert await state.jobs(pool="other") == []

    async def test_attempts_and_registrations_of_an_instance_are_oldest_first(self, state: store.Store) -> None:
        second = dataclasses.replace(facts.ATTEMPT, key=model.AttemptKey("a"), created_at=9.0)
        again = dataclasses.replace(facts.REGISTRATION, id=model.RegistrationId("a"), runner_name="a", created_at=9.0)
        await state.write(facts.INSTANCE, facts.BARE, second, facts.ATTEMPT, again, facts.REGISTRATION)
        assert await state.attempts("rd-1") == [facts.ATTEMPT, second]
        assert await state.registrations("rd-1") == [facts.REGISTRATION, again]
        assert await state.attempts("rd-2") == []

    async def test_costs_are_of_closed_instances_that_ran(self, state: store.Store) -> None:
        ran = facts.instance("ran", S.GONE, running_at=100.0, gone_at=3700.0, price=0.5, repo="acme/ml", provider="aws")
        await state.write(
            ran,
            facts.instance("early", S.GONE, running_at=1.0, gone_at=50.0, price=9.0),
            facts.instance("never ran", S.FAILED, gone_at=3700.0, price=9.0),
            facts.instance("runs", S.BUSY, running_at=100.0, price=9.0),
        )
        costs = await state.costs(since=3700.0)
        assert costs == [store.Cost(ran.id, "gpu-t4", "aws", "", "acme/ml", 100.0, 3700.0, 0.5)]
        assert costs[0].dollars == pytest.approx(0.5)

    async def test_unexplained_are_gone_instances_whose_provider_has_not_said_why(self, state: store.Store) -> None:
        late = facts.instance("late", S.GONE, gone_at=3800.0, end="unknown")
        soon = facts.instance("soon", S.GONE, gone_at=3700.0, end="unknown")
        await state.write(
            late,
            soon,
            facts.instance("early", S.GONE, gone_at=3600.0, end="unknown"),
            facts.instance("known", S.GONE, gone_at=3800.0, end="preempted"),
            facts.instance("runs", S.BUSY),
        )
        assert await state.unexplained(since=3700.0) == [soon, late]

    async def test_a_healthy_store_passes_its_probe(self, state: store.Store) -> None:
        await state.probe()


class TestPrune:
    async def test_old_history_goes_and_what_matters_stays(self, state: store.Store) -> None:
        old = facts.instance("old", S.GONE, since=10.0, gone_at=10.0)
        failed = facts.instance("failed", S.FAILED, since=10.0)
        young = facts.instance("young", S.GONE, since=90.0, gone_at=90.0)
        live = facts.instance("live", S.BUSY, since=1.0)
        registered = facts.instance("registered", S.GONE, since=10.0, gone_at=10.0)
        unknown = facts.instance("unknown", S.GONE, since=10.0, gone_at=10.0)
        everyone = [old, failed, young, live, registered, unknown]
        attempts = [
            dataclasses.replace(
                facts.ATTEMPT, key=model.AttemptKey(f"{each.id}/1"), instance=each.id, state=model.AttemptState.CREATED
            )
            for each in (old, live)
        ]
        open_attempt = dataclasses.replace(facts.ATTEMPT, key=model.AttemptKey("unknown/1"), instance=unknown.id)

        def registration(name: str, instance: model.Instance, kind: model.RegistrationState) -> model.Registration:
            return dataclasses.replace(
                facts.REGISTRATION,
                id=model.RegistrationId(name),
                runner_name=name,
                instance=instance.id,
                state=kind,
            )

        def job(name: str, kind: model.JobState, finished: float) -> model.Job:
            return dataclasses.replace(facts.JOB, key=model.JobKey(name), state=kind, finished_at=finished)

        await state.write(
            *everyone,
            *attempts,
            open_attempt,
            registration("old", old, model.RegistrationState.GONE),
            registration("registered", registered, model.RegistrationState.REMOVING),
            job("done", model.JobState.COMPLETED, 10.0),
            job("lately", model.JobState.COMPLETED, 90.0),
            job("queued", model.JobState.QUEUED, 0.0),
            dataclasses.replace(facts.BLOCK, pattern="lapsed", until=10.0),
            dataclasses.replace(facts.BLOCK, pattern="stands", until=90.0),
            *(model.Event(5.0, "instance", each.id, "planned") for each in everyone),
            *(model.Event(5.0, "attempt", each.key, "created") for each in attempts),
            model.Event(5.0, "job", "queued", "queued"),
            model.Event(5.0, "job", "done", "queued"),
            model.Event(5.0, "daemon", "d", "started"),
            model.Event(60.0, "daemon", "d", "stopped"),
        )
        assert await state.prune(before=50.0) == 2 + 1 + 1 + 1 + 1 + 5
        assert {each.id for each in await state.instances()} == {"young", "live", "registered", "unknown"}
        assert {each.key for each in await state.jobs()} == {"lately", "queued"}
        assert await state.attempts("old") == [] and await state.registrations("old") == []
        assert len(await state.attempts("live")) == 1
        assert {each.pattern for each in (await state.load()).blocks} == {"stands"}
        left = {(each.subject, each.id) for each in await state.events()}
        assert left == {
            *(("instance", id) for id in ("young", "live", "registered", "unknown")),
            ("attempt", "live/1"),
            ("job", "queued"),
            ("daemon", "d"),
        }
        assert await state.prune(before=50.0) == 0

    async def test_more_than_one_step_is_pruned(self, state: store.Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("runnerd.store.prune.ROWS_PER_STEP", 10)
        gone = [facts.instance(f"i{n}", S.GONE, since=1.0, gone_at=1.0) for n in range(25)]
        await state.write(*gone, *(model.Event(1.0, "instance", each.id, "gone") for each in gone))
        assert await state.prune(before=2.0) == 50
        assert await state.instances() == [] and await state.events() == []

    async def test_row_ids_of_pruned_events_are_not_used_again(self, state: store.Store) -> None:
        await state.write(model.Event(1.0, "daemon", "d", "one"))
        [(first, _)] = await state.trail()
        await state.prune(before=2.0)
        await state.write(model.Event(3.0, "daemon", "d", "two"))
        [(second, _)] = await state.trail()
        assert second > first
