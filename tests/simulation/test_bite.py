"""The checks bite: with one rule broken on purpose, some seed fails.

Each break is what a plausible mistake would do.  A break that no seed notices means that the promise is not checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from provisioners import base
from runnerd import daemon
from runnerd.forges import base as forges
from runnerd.model import InstanceState
from tests.simulation import worlds

Break = Callable[[daemon.Daemon], None]


def _believe_the_forge_alone(made: daemon.Daemon) -> None:
    """The second witness is skipped: a removal that succeeded is enough."""

    async def release(id: str, *, forced: bool) -> None:
        reaper = made.controller.reaper
        busy = False
        for registration in made.station.rows.registrations_of(id):  # type: ignore[arg-type]
            outcome = await made.controller.registrar.try_remove(registration)
            busy = busy or outcome is not forges.Removal.REMOVED
        if not busy:
            await reaper._end(id)  # type: ignore[arg-type]

    made.controller.reaper.release = release  # type: ignore[method-assign,assignment]


def _ignore_busy(made: daemon.Daemon) -> None:
    """An idle instance is ended without asking anybody."""

    async def release(id: str, *, forced: bool) -> None:
        await made.controller.reaper._end(id)  # type: ignore[arg-type]

    made.controller.reaper.release = release  # type: ignore[method-assign,assignment]


def _with_traits(made: daemon.Daemon, **changes: object) -> None:
    for provider in made.station.providers.values():
        seam = provider.provisioner
        traits = dataclasses.replace(seam.traits, **changes)  # type: ignore[arg-type]
        type(seam).traits = property(lambda self: self.__dict__.get("broken") or self._inner.traits)  # type: ignore[assignment,method-assign]
        seam.__dict__["broken"] = traits


def _replay_without_looking(made: daemon.Daemon) -> None:
    """An unclear request is sent again without a listing first, inside its window or not."""
    launcher = made.controller.launcher

    async def resolve(id: str, *, wanted: bool) -> None:
        row = made.station.rows.instances.get(id)  # type: ignore[call-overload]
        if row is not None and row.state is InstanceState.UNKNOWN and row.attempt in made.station.rows.attempts:
            attempt = made.station.rows.attempts[row.attempt]
            await launcher._replay(row.id, attempt, made.station.providers[row.provider])

    launcher.resolve = resolve  # type: ignore[method-assign,assignment]


def _expect_at_once(made: daemon.Daemon) -> None:
    """What a listing does not show yet counts as absent."""
    _with_traits(made, visibility_grace=-1000.0)


def _take_partial_as_complete(made: daemon.Daemon) -> None:
    """A partial listing counts as complete."""

    class Whole(frozenset[str]):
        def __contains__(self, scope: object) -> bool:
            return True

    for provider in made.station.providers.values():
        seam = provider.provisioner
        listed = seam.list_owned

        async def list_owned(listed: Callable[[], object] = listed) -> base.Listing:
            return dataclasses.replace(await listed(), complete_scopes=Whole())  # type: ignore[misc,type-var]

        seam.__dict__["list_owned"] = list_owned


def _spend_freely(made: daemon.Daemon) -> None:
    """Dollars are not counted before they are spent."""
    made.controller.admission.refusal = lambda *_, **__: ""  # type: ignore[method-assign,assignment]


def _give_up_deleting(made: daemon.Daemon) -> None:
    """A delete call is believed without a look whether the instance is gone."""
    reaper = made.controller.reaper
    whole = reaper.delete

    async def delete(id: str) -> None:
        await whole(id)  # type: ignore[arg-type]
        row = made.station.rows.instances.get(id)  # type: ignore[call-overload]
        if row is not None and row.state is InstanceState.ENDING:
            await reaper.close(row.id, row.reason)

    reaper.delete = delete  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        pytest.param(_believe_the_forge_alone, "murder", id="second-witness-skipped"),
        pytest.param(_ignore_busy, "murder", id="busy-test-skipped"),
        pytest.param(_replay_without_looking, "double", id="replay-outside-its-window"),
        pytest.param(_expect_at_once, "blind", id="visibility-grace-ignored"),
        pytest.param(_take_partial_as_complete, "blind", id="partial-list-as-complete"),
        pytest.param(_spend_freely, "overspend", id="dollars-not-committed"),
        pytest.param(_give_up_deleting, "blind", id="delete-not-confirmed"),
    ],
)
def test_a_broken_rule_fails_some_seed(broken: Break, promise: str) -> None:
    seen: list[str] = []
    for seed in range(400):
        try:
            worlds.play(seed, broken)
        except AssertionError as error:
            seen.append(str(error).splitlines()[1])
            if promise in str(error):
                return
        except Exception as error:
            seen.append(repr(error))
    pytest.fail(f"no seed noticed; other failures: {seen[:5]}")
