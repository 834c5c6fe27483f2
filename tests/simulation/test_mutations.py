"""Mutation tests: with one rule broken on purpose, some seed fails.

Each mutation is a plausible mistake.  One that no seed notices means that an invariant is not checked.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from provisioners import base
from provisioners.support import ratelimit
from runnerd import daemon, model
from runnerd.forges import base as forges
from runnerd.model import InstanceState
from runnerd.offers import request as launch_request
from tests.simulation import cloud_scenarios, scenarios

Break = Callable[[daemon.Daemon], None]


def _believe_the_forge_alone(made: daemon.Daemon) -> None:
    """The second witness is skipped: a removal that succeeded is enough."""

    async def release(id: str, *, forced: bool) -> None:
        reaper = made.controller.reaper
        busy = False
        for registration in made.runtime.rows.registrations_of(id):  # type: ignore[arg-type]
            outcome = await made.controller.registrar.try_remove(registration)
            busy = busy or outcome is not forges.Removal.REMOVED
        if not busy:
            await reaper._end(id)  # type: ignore[arg-type]

    made.controller.reaper.release = release  # type: ignore[method-assign]


def _ignore_busy(made: daemon.Daemon) -> None:
    """An idle instance is ended without asking anybody."""

    async def release(id: str, *, forced: bool) -> None:
        await made.controller.reaper._end(id)  # type: ignore[arg-type]

    made.controller.reaper.release = release  # type: ignore[method-assign]


def _with_traits(made: daemon.Daemon, **changes: object) -> None:
    for provider in made.runtime.providers.values():
        seam = provider.provisioner
        traits = dataclasses.replace(seam.traits, **changes)  # type: ignore[arg-type]
        type(seam).traits = property(lambda self: self.__dict__.get("broken") or self._inner.traits)  # type: ignore[assignment,method-assign]
        seam.__dict__["broken"] = traits


def _replay_without_looking(made: daemon.Daemon) -> None:
    """An unclear request is sent again without a listing first, inside its window or not."""
    creates = made.controller.unknown_creates

    async def resolve(id: str, *, wanted: bool) -> None:
        row = made.runtime.rows.instances.get(id)  # type: ignore[call-overload]
        if row is not None and row.state is InstanceState.UNKNOWN and row.attempt in made.runtime.rows.attempts:
            attempt = made.runtime.rows.attempts[row.attempt]
            offer = launch_request.unseal(attempt.sealed, "").offer
            await creates._replay(row.id, attempt, made.runtime.providers[row.provider], offer)

    creates.resolve = resolve  # type: ignore[method-assign]


def _expect_at_once(made: daemon.Daemon) -> None:
    """Count an instance that a listing does not show yet as absent."""
    _with_traits(made, visibility_grace=-1000.0)


def _take_partial_as_complete(made: daemon.Daemon) -> None:
    """A partial listing counts as complete."""

    class Whole(frozenset[base.Scope]):
        def __contains__(self, scope: object) -> bool:
            return True

    for provider in made.runtime.providers.values():
        seam = provider.provisioner
        listed = seam.list_owned

        async def list_owned(*also: Any, listed: Callable[..., Any] = listed) -> base.Listing:
            return dataclasses.replace(await listed(*also), complete_scopes=Whole())

        seam.__dict__["list_owned"] = list_owned


def _spend_freely(made: daemon.Daemon) -> None:
    """Dollars are not counted before they are spent."""
    made.controller.admission.refusal = lambda *_, **__: ""  # type: ignore[method-assign]


def _give_up_deleting(made: daemon.Daemon) -> None:
    """A delete call is believed without a look whether the instance is gone."""
    reaper = made.controller.reaper
    whole = reaper.delete

    async def delete(id: str) -> None:
        await whole(id)  # type: ignore[arg-type]
        row = made.runtime.rows.instances.get(id)  # type: ignore[call-overload]
        if row is not None and row.state is InstanceState.ENDING:
            await reaper.close(row.id, row.reason)

    reaper.delete = delete  # type: ignore[method-assign]


def _over(made: daemon.Daemon, name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put another method in the place of one of each provisioner's."""
    for provider in made.runtime.providers.values():
        seam = provider.provisioner
        seam.__dict__[name] = change(getattr(seam, name))


def _forget_the_token(made: daemon.Daemon) -> None:
    """Give a request that is sent again a token of its own, which is not derived from the attempt."""
    count = itertools.count()

    def change(create: Callable[..., Any]) -> Callable[..., Any]:
        async def changed(request: base.CreateRequest) -> base.InstanceView:
            attempt = made.runtime.rows.attempts[request.key]  # type: ignore[index]
            if attempt.sends > 1:
                request = dataclasses.replace(request, key=f"{request.key[:20]}{next(count):06d}")
            view: base.InstanceView = await create(request)
            return view

        return changed

    _over(made, "create", change)


def _overlook_failures(made: daemon.Daemon) -> None:
    """A machine whose launch failed counts as one that starts."""

    def blind(view: base.InstanceView) -> base.InstanceView:
        if view.status is not base.InstanceStatus.FAILED:
            return view
        return dataclasses.replace(view, status=base.InstanceStatus.PENDING, failure=None)

    def listing(listed: Callable[..., Any]) -> Callable[..., Any]:
        async def changed(*also: Any) -> base.Listing:
            found: base.Listing = await listed(*also)
            return dataclasses.replace(found, views=tuple(blind(view) for view in found.views))

        return changed

    def one(asked: Callable[..., Any]) -> Callable[..., Any]:
        async def changed(what: Any) -> base.InstanceView | None:
            view = await asked(what)
            return None if view is None else blind(view)

        return changed

    _over(made, "list_owned", listing)
    _over(made, "create", one)
    _over(made, "describe", one)


class _NoBlocks(dict[Any, Any]):
    """Keeps what was refused and shows it to nobody."""

    def values(self) -> Any:
        return ()


def _ignore_blocks(made: daemon.Daemon) -> None:
    """Ask again for an offer that was refused a moment ago."""
    made.runtime.rows.blocks = _NoBlocks(made.runtime.rows.blocks)


def _forget_blocks(made: daemon.Daemon) -> None:
    """Keep blocks in memory alone, so that a crash forgets them."""

    store = made.runtime.rows._store
    write = store.write

    async def forgetful(*changes: Any) -> None:
        await write(*(change for change in changes if not isinstance(change, model.Block)))

    store.write = forgetful  # type: ignore[method-assign]


def _count_no_flights(made: daemon.Daemon) -> None:
    """A quota is compared with what the cloud said last: what is on its way since is not counted."""
    ledger = made.controller.admission._quotas
    count = ledger.count
    ledger.count = lambda reported, rows: count(reported, ())  # type: ignore[method-assign]
    ledger.add = lambda offer, count: None  # type: ignore[method-assign]


def _hurry(made: daemon.Daemon) -> None:
    """Creates do not wait for their bucket."""

    class Bottomless(ratelimit.Bucket):
        async def take(self, *, unless: Callable[[], bool] = lambda: False) -> bool:
            return not unless()

    for provider in made.runtime.providers.values():
        made_of = {"rate": 1.0, "burst": 1, "now": made.runtime.clock.now, "sleep": made.runtime.clock.sleep}
        bucket = Bottomless(**made_of)  # type: ignore[arg-type]
        provider._buckets = _All(bucket)


class _All(dict[str, Any]):
    """One for every key."""

    def __init__(self, one: Any) -> None:
        super().__init__()
        self._one = one

    def get(self, key: str, default: Any = None) -> Any:
        return self._one


def _leave_residues(made: daemon.Daemon) -> None:
    """Side resources of machines that are gone stay."""

    async def sweep(*_: Any) -> None:
        return None

    made.controller.inventory._sweep_orphans = sweep  # type: ignore[method-assign, assignment]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("broken", "promise", "near"),
    [
        pytest.param(_believe_the_forge_alone, "murder", 22, id="second-witness-skipped"),
        pytest.param(_ignore_busy, "murder", 5, id="busy-test-skipped"),
        pytest.param(_replay_without_looking, "double", 0, id="replay-outside-its-window"),
        pytest.param(_expect_at_once, "blind", 1, id="visibility-grace-ignored"),
        pytest.param(_take_partial_as_complete, "blind", 0, id="partial-list-as-complete"),
        pytest.param(_spend_freely, "overspend", 19, id="dollars-not-committed"),
        pytest.param(_give_up_deleting, "blind", 12, id="delete-not-confirmed"),
    ],
)
def test_a_broken_rule_fails_some_seed(broken: Break, promise: str, near: int) -> None:
    """``near``: where a seed is known to notice, so that the search is short; it goes on from there."""
    _bites(scenarios.play, range(near, near + 400), broken, promise)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("broken", "promise", "near"),
    [
        pytest.param(_forget_the_token, "double", 2, id="token-not-of-the-attempt"),
        pytest.param(_take_partial_as_complete, "blind", 55, id="partial-list-as-complete"),
        pytest.param(_expect_at_once, "blind", 2, id="visibility-grace-ignored"),
        pytest.param(_give_up_deleting, "blind", 3, id="delete-not-confirmed"),
        pytest.param(_overlook_failures, "failed", 1, id="failed-launch-overlooked"),
        pytest.param(_ignore_blocks, "blocked", 0, id="block-ignored"),
        pytest.param(_forget_blocks, "blocked", 0, id="block-not-durable"),
        pytest.param(_count_no_flights, "quota", 1, id="quota-without-what-is-on-its-way"),
        pytest.param(_hurry, "pace", 0, id="bucket-ignored"),
        pytest.param(_leave_residues, "untracked", 37, id="side-resources-left"),
    ],
)
def test_a_broken_rule_fails_some_seed_of_the_clouds(broken: Break, promise: str, near: int) -> None:
    _bites(cloud_scenarios.play, range(near, near + 120), broken, promise)


def _bites(play: Callable[[int, Break], object], seeds: Iterable[int], broken: Break, promise: str) -> None:
    seen: list[str] = []
    for seed in seeds:
        try:
            play(seed, broken)
        except AssertionError as error:
            seen.append(str(error).splitlines()[1])
            if f"{promise}: " in str(error):
                print(f"noticed by seed {seed}")
                return
        except Exception as error:
            seen.append(repr(error))
    pytest.fail(f"no seed noticed; other failures: {seen[:5]}")
