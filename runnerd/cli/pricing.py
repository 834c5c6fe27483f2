"""``runnerd prices refresh`` without the daemon: writes files that the daemon reads at its next start."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from provisioners import base
from provisioners.base import Finding, Level
from runnerd import config, daemon, errors
from runnerd.admin import documents, prices
from runnerd.cli import run
from runnerd.kit import clock
from runnerd.runtime import providers


async def refresh(settings: config.Config, only: str, *, system: clock.Clock | None = None) -> documents.Renewal:
    """Refresh the price lists of all configured providers, or of one, and store them in the state.

    Raises :class:`errors.Refused` for an unknown provider and :class:`errors.StoreUnwritable` when the state directory
    cannot be used.
    """
    asked = prices.chosen(settings, only)
    run.make_state(settings.state)
    now = system or clock.SystemClock()
    answers = await asyncio.gather(*(_refresh(settings, one, now) for one in asked))
    findings = {one.name: answer for one, answer in zip(asked, answers, strict=True)}
    return prices.renewal(findings, "no daemon is running; it uses the new prices at its next start")


async def _refresh(settings: config.Config, one: config.Provider, now: clock.Clock) -> list[Finding]:
    context = providers.context(settings, one.name, clock=now)
    try:
        provisioner = daemon.provisioner(one, context)
    except (base.ProvisionError, errors.RunnerdError, ImportError, OSError, ValueError) as error:
        return [Finding(Level.ERROR, f"providers.{one.name}", f"cannot start: {error}")]
    if not prices.has_list(provisioner):
        # Not started: only the daemon may create its files in the state.
        return [prices.no_list(one.name)]
    try:
        return await prices.renew(one.name, provisioner, start=provisioner.start)
    finally:
        await provisioner.close()
        _give_to_owner(settings.state, Path(context.directory))


def _give_to_owner(state: Path, directory: Path) -> None:
    """Give files that root created in the state to its owner, so that the daemon can use them."""
    user, group = _owner(state)
    if os.geteuid() != 0 or user == 0:
        return
    made = [directory, *directory.rglob("*")] if directory.is_dir() else []
    made += [parent for parent in directory.parents if state in parent.parents]
    for path in made:
        if path.lstat().st_uid == 0:
            os.chown(path, user, group, follow_symlinks=False)


def _owner(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid
