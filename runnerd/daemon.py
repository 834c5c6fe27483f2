"""The daemon: composes the layers below, and starts and stops them in order.

The process around it (signals, listeners, systemd) is :mod:`runnerd.cli.run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable

from provisioners import base
from provisioners.offload import Offload
from runnerd import assets, config, connections, errors, model, read_model, reload, store
from runnerd.admin import commands
from runnerd.bootstrap import agent_archive
from runnerd.kit import clock, tasks
from runnerd.lifecycle import agent_assignment
from runnerd.reconcile import housekeeping, loop
from runnerd.runtime import alarms, durable_settings, ledger, observations, shared, tokens

log = logging.getLogger(__name__)

#: Seconds that a forge may take to close its sessions.
CLOSE_S = 30.0
#: How many instances' last output is kept in memory, and characters of each.
DIAGNOSTICS, DIAGNOSTICS_CHARACTERS = 200, 256 * 1024


class Daemon:
    """One running daemon.  ``start`` returns when it works; ``stop`` leaves instances with jobs alone."""

    def __init__(
        self,
        settings: config.Config,
        *,
        clock: clock.Clock,
        rng: random.Random,
        offload: Offload,
        make_provisioner: connections.ProvisionerFactory,
        make_forge: connections.ForgeFactory,
        reanchor: Callable[[], None] = lambda: None,
        load_settings: Callable[[], config.Config] | None = None,
        open_store: Callable[..., Awaitable[store.Store]] = store.Store.open,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._offload = offload
        self._make_provisioner = make_provisioner
        self._make_forge = make_forge
        self._reanchor = reanchor
        self._load_settings = load_settings
        self._open_store = open_store
        self._background = tasks.Group("daemon", on_failure=self._failed)
        self.progress = read_model.Progress()
        #: What the listeners serve; they may open before the start.
        self.served = read_model.Served(self.progress, agent_archive.build())
        #: The store of report images, where there is one; its owner sets it before the start.
        self.assets: assets.Assets | None = None
        self.store: store.Store
        self.runtime: shared.Runtime
        self.controller: loop.Controller
        self.reading: read_model.ReadModel
        self.hooks: read_model.Hooks
        self.commands: commands.Commands
        self._connected: connections.Connections
        self._reload: reload.Reload
        self._diagnostics: dict[model.InstanceId, str] = {}

    # -- start -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the state, start and list the providers, then watch the forges and reconcile."""
        settings = self._settings
        now = self._clock.now
        self.store = await self._open_store(settings.database_url, offload=self._offload, now=now)
        state = await self.store.load()
        rows = ledger.Ledger(self.store, now)
        rows.load(
            instances=state.instances,
            attempts=state.attempts,
            registrations=state.registrations,
            jobs=state.jobs,
            blocks=state.blocks,
            settings=state.settings,
            cursors=state.cursors,
        )
        self._compose(rows)
        # Costs of closed instances, as far back as a budget counts.
        rows.count_costs(await self.store.costs(housekeeping.costs_from(settings, self._clock.wall())))
        await self._settle_restart()
        for provider in settings.providers.values():
            await self._connected.add_provider(provider)
        await self._connected.add_retired_providers()
        await self._connected.first_listings()
        for name, forge in settings.forges.items():
            self._connected.add_forge(name, forge)
        await self._connected.watch()
        await self.controller.end_reasons.resume()
        self._background.spawn("reconcile", self.controller.run())
        self._background.spawn("housekeeping", housekeeping.run(self.runtime))
        self._background.spawn("retries", self.controller.reruns.run())
        self._background.spawn("inquiry", self.controller.stuck_jobs.run())
        self._background.spawn("runner sweep", self.controller.orphan_runners.run())
        self.progress.started_at = now()

    def _compose(self, rows: ledger.Ledger) -> None:
        """Make the rooms around the rows, and what the rooms above are given."""
        settings = self._settings
        key = hashlib.sha256(settings.token_key().reveal().encode()).digest()
        self.runtime = runtime = shared.Runtime(
            config=settings,
            clock=self._clock,
            rng=self._rng,
            history=self.store,
            rows=rows,
            durable=durable_settings.DurableSettings(rows),
            observations=observations.Observations(self._clock.now),
            tokens=tokens.Tokens(key),
            alarms=alarms.Alarms(self._clock.now),
            background=self._background,
        )
        runtime.alarms.on_new.append(self._write_alarm)
        bundle = self.served.bundle
        self.controller = controller = loop.Controller(
            runtime, bundle=lambda: bundle.sha256, assign=self._assign, reanchor=self._reanchor
        )
        controller.agents.on_diagnostics.append(self._keep_diagnostics)
        self._connected = connections.Connections(
            runtime,
            inventory=controller.inventory,
            sink=controller.job_updates,
            make_provisioner=self._make_provisioner,
            make_forge=self._make_forge,
        )
        self._reload = reload.Reload(
            runtime,
            self._connected,
            self.progress,
            load_settings=self._load_settings,
            lift_block=controller.blocklist.lift,
        )
        self.commands = commands.Commands(runtime, history=self.store, drain=controller.reaper.drain)
        self.reading = read_model.ReadModel(
            progress=self.progress,
            state=runtime,
            history=self.store,
            loop=controller,
            clock_guard=controller.deadlines,
            rank=controller.selection.for_next,
            totals=controller.admission.totals,
            console=controller.consoles.ask,
            diagnostics=self._diagnostics,
        )
        self.hooks = read_model.Hooks(
            on_step=rows.on_step,
            on_attempt=rows.on_attempt,
            on_proof=rows.on_proof,
            on_job=controller.job_updates.on_job,
            on_rerun=controller.reruns.on_outcome,
            on_pass=controller.on_pass,
        )
        self.served.tokens = runtime.tokens
        self.served.agents = controller.agents
        self.served.forges = runtime.forges
        self.served.reading = self.reading

    async def _settle_restart(self) -> None:
        """Settle what the last process left, and alarm the pools that have instances and left the configuration."""
        await self.controller.unknown_creates.settle_restart()
        for row in self.runtime.rows.instances.values():
            if row.live and not row.adopted and row.pool not in self._settings.pools:
                self.runtime.alarms.ring(
                    "pool", row.pool, "retired", "it is no longer configured and still has instances"
                )

    # -- agents ------------------------------------------------------------------------------------------------

    def _assign(self, row: model.Instance) -> agent_assignment.Assignment:
        asset_url = ""
        if self.assets is not None:
            asset_url = self.assets.upload_url(row.id, base=self.runtime.config.agent_address(row.provider)) or ""
        return agent_assignment.compose(self.runtime, row, asset_url=asset_url)

    def _keep_diagnostics(self, id: model.InstanceId, text: str) -> None:
        self._diagnostics.pop(id, None)
        self._diagnostics[id] = text[-DIAGNOSTICS_CHARACTERS:]
        while len(self._diagnostics) > DIAGNOSTICS:
            self._diagnostics.pop(next(iter(self._diagnostics)))

    # -- alarms -------------------------------------------------------------------------------------------------

    def _write_alarm(self, alarm: alarms.Alarm) -> None:
        event = model.Event(alarm.since, alarm.subject, alarm.id, "alarm", alarm.reason, alarm.detail)

        async def write() -> None:
            # An alarm about the state itself cannot be written there; status, log and metrics show it.
            with contextlib.suppress(errors.StoreError):
                await self.runtime.rows.note(event)

        self._background.spawn("alarm", write())

    def _failed(self, name: str, error: BaseException) -> None:
        if hasattr(self, "runtime"):
            self.runtime.alarms.ring("daemon", name, "task-failed", f"{type(error).__name__}: {error}")

    # -- reload and stop ---------------------------------------------------------------------------------------

    async def reload(self) -> list[str]:
        """Read the configuration again and apply the difference; keep the old one if the new is bad.

        Returns the changes, in sentences.  Raises :class:`errors.ConfigInvalid`.
        """
        return await self._reload.reload()

    async def apply(self, new: config.Config) -> list[str]:
        """Replace the running configuration by ``new``; return the changes, in sentences."""
        return await self._reload.apply(new)

    async def stop(self) -> None:
        """Take no more work and close forges and providers; instances with jobs go on by themselves."""
        self.progress.stopping = True
        await self._connected.stop_watches()
        await self.controller.close(grace=self.runtime.config.reconcile.drain)
        for forge in self.runtime.forges.values():
            try:
                async with asyncio.timeout(CLOSE_S):
                    await forge.close()
            except Exception as error:
                log.warning("%s: %s", forge.name, error)
        await self._background.close()
        for provider in self.runtime.providers.values():
            with contextlib.suppress(Exception):
                await provider.provisioner.close()
        await self.store.close()


def provisioner(settings: config.Provider, context: base.Context) -> base.Provisioner:
    """Create the provisioner of a configured provider."""
    made: base.Provisioner = config.provisioner_class(settings.type)(context, settings.options)
    return made
