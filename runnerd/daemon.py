"""The daemon: everything put together, started in the order in which things depend on each other, ended in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from provisioners import base
from provisioners.offload import Offload
from runnerd import assets, config, errors, model, store
from runnerd.bootstrap import agent_archive
from runnerd.forges import base as forges
from runnerd.kit import clock, tasks
from runnerd.lifecycle import agent_sessions
from runnerd.model import InstanceState, Reason
from runnerd.reconcile import loop
from runnerd.runtime import alarms, durable_settings, ledger, providers, shared, tokens

log = logging.getLogger(__name__)

#: How long a first listing may take before the pools of other providers start without it.
FIRST_LISTING = 15.0
#: Seconds of cost that are kept in mind: the longest month and a day.
COST_MEMORY = 32 * 86400.0
#: Rows older than that are pruned from the state.
KEEP = 30 * 86400.0

ProvisionerFactory = Callable[[config.Provider, base.Context], base.Provisioner]
ForgeFactory = Callable[[str, config.AnyForge], forges.Forge]


class Daemon:
    """One running daemon.  ``start`` returns when it works; ``stop`` leaves instances with jobs alone."""

    def __init__(
        self,
        settings: config.Config,
        *,
        clock: clock.Clock,
        rng: random.Random,
        offload: Offload,
        make_provisioner: ProvisionerFactory,
        make_forge: ForgeFactory,
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
        self._watches: dict[str, asyncio.Task[Any]] = {}
        self._listings: dict[str, asyncio.Task[Any]] = {}
        self._bundle = agent_archive.build()
        self.store: store.Store
        self.runtime: shared.Runtime
        self.controller: loop.Controller
        self.reload_ok = True
        self.started_at = 0.0
        self.stopping = False
        #: The store of report images, where there is one; its owner sets it before the start.
        self.assets: assets.Assets | None = None
        #: The last words of instances, a bounded number of them.
        self.diagnostics: dict[model.InstanceId, str] = {}

    @property
    def bundle(self) -> agent_archive.Bundle:
        return self._bundle

    # -- start -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the state, meet the providers, then the forges; then reconcile."""
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
        bells = alarms.Alarms(now)
        self.runtime = shared.Runtime(
            config=settings,
            clock=self._clock,
            rng=self._rng,
            history=self.store,
            rows=rows,
            durable=durable_settings.DurableSettings(rows),
            tokens=tokens.Tokens(hashlib.sha256(settings.token_key().reveal().encode()).digest()),
            alarms=bells,
            background=self._background,
            wake=lambda: None,
        )
        bells.on_new.append(self._write_alarm)
        self.controller = loop.Controller(
            self.runtime,
            bundle=lambda: self._bundle.sha256,
            duty=self._duty,
            reanchor=self._reanchor,
        )
        self.controller.agents.on_log = self._keep_diagnostics
        await self._recall_costs()
        await self._settle_restart()
        for provider in settings.providers.values():
            await self._add_provider(provider)
        await self._add_retired_providers()
        await self._first_listings()
        for name, forge in settings.forges.items():
            self.runtime.forges[name] = self._make_forge(name, forge)
        self.runtime.specs = queue_specs(settings, self.runtime.forges)
        self._watch_forges()
        await self.controller.reaper.resume_proofs()
        self._background.spawn("reconcile", self.controller.run())
        self._background.spawn("housekeeping", self._keep_house())
        self._background.spawn("retries", self.controller.retrier.run())
        self._background.spawn("inquiry", self.controller.inquiry.run())
        self._background.spawn("runner sweep", self.controller.registrar.sweep_for_ever())
        self.started_at = now()

    async def _recall_costs(self) -> None:
        """What closed instances have cost, as far back as a budget looks."""
        since = 0.0 if _total_budget(self._settings) else self._clock.wall() - COST_MEMORY
        self.runtime.rows.count_costs(await self.store.costs(since))

    async def _settle_restart(self) -> None:
        """What was planned is dropped; what was being requested is unclear until a listing tells."""
        rows = self.runtime.rows
        for row in list(rows.instances.values()):
            if row.state is InstanceState.PLANNED:
                await rows.step(row.id, InstanceState.FAILED, reason=Reason.RESTART)
            elif row.state is InstanceState.REQUESTING and row.attempt is not None:
                attempt = rows.attempts.get(row.attempt)
                moved = None
                if attempt is not None and attempt.state is model.AttemptState.REQUESTING:
                    moved = dataclasses.replace(attempt, state=model.AttemptState.UNKNOWN, since=self._clock.now())
                await rows.step(
                    row.id, InstanceState.UNKNOWN, attempt_row=moved, detail="the daemon stopped while it was requested"
                )
            elif row.state in model.CLOSED:
                continue
            if not row.adopted and row.pool not in self._settings.pools:
                self.runtime.alarms.ring("pool", row.pool, "retired", "it left the configuration and has instances")

    # -- providers ---------------------------------------------------------------------------------------------

    async def _add_provider(self, settings: config.Provider, *, retired: bool = False) -> None:
        context = providers.context(self._settings, settings.name, clock=self._clock)
        provider = providers.Provider(
            name=settings.name,
            settings=settings,
            provisioner=self._make_provisioner(settings, context),
            clock=self._clock,
            retired=retired,
            problem="it has not been listed yet",
        )
        try:
            await provider.ensure_started()
        except base.ProvisionError as error:
            provider.problem = f"cannot start: {error}"
            self.runtime.alarms.ring("provider", settings.name, "start-failed", str(error))
        self.runtime.providers[settings.name] = provider

    async def _add_retired_providers(self) -> None:
        """A provider that left the configuration while the daemon was down still has instances to end."""
        for row in list(self.runtime.rows.instances.values()):
            name = row.provider
            if not name or name in self.runtime.providers:
                continue
            raw = self.runtime.durable.provider(name)
            if raw is None:
                self.runtime.alarms.ring("provider", name, "unknown", "it has instances and is not configured")
                continue
            await self._add_provider(config.Provider.model_validate_json(raw), retired=True)
        for provider in self.runtime.providers.values():
            if not provider.retired:
                await self.runtime.durable.write_provider(provider.name, _remembered(provider.settings))

    async def _first_listings(self) -> None:
        """See what exists before anything is bought; a provider that does not answer is closed, not waited for."""
        looks = {
            name: self._background.spawn(f"first look at {name}", self.controller.observer.look(provider))
            for name, provider in self.runtime.providers.items()
        }
        if looks:
            await asyncio.wait(looks.values(), timeout=FIRST_LISTING)
        for name, provider in self.runtime.providers.items():
            self._follow(name, provider, looks[name])

    def _follow(self, name: str, provider: providers.Provider, first: asyncio.Task[None]) -> None:
        async def follow() -> None:
            with contextlib.suppress(Exception):
                await first
            pause = 2.0 if provider.problem else self._settings.reconcile.list_interval
            await clock.sleep_or_wake(self._clock, pause, provider.listing_wanted)
            await self.controller.observer.follow(provider)

        self._listings[name] = self._background.spawn(f"listing {name}", follow())

    # -- forges ------------------------------------------------------------------------------------------------

    def _watch_forges(self) -> None:
        for name, forge in self.runtime.forges.items():
            specs = [spec for spec in self.runtime.specs if spec.queue.forge == name]
            if specs:
                self._watches[name] = self._background.spawn(
                    f"watch {name}", forge.watch(specs, self.controller.intake)
                )

    # -- what agents are told ----------------------------------------------------------------------------------

    def _duty(self, row: model.Instance) -> agent_sessions.Duty:
        settings = self.runtime.config
        pool = settings.pools.get(row.pool)
        # Agents speak as soon as the listeners are open, which is before the providers are met again.
        known = settings.providers.get(row.provider)
        met = self.runtime.providers.get(row.provider)
        kind = known.type if known is not None else met.settings.type if met is not None else ""
        commands: dict[str, tuple[str, ...]] = {"github": config.GITHUB_COMMAND, "gitlab": config.GITLAB_COMMAND}
        environment: dict[str, str] = {}
        if pool is not None and row.provider in settings.providers:
            for name, forge in settings.forges.items():
                start = settings.start(pool.name, provider=row.provider, forge=name)
                commands[forge.type] = start.command
                environment.update(start.env)
        if self.assets is not None:
            upload = self.assets.upload_url(row.id, base=settings.agent_address(row.provider))
            if upload:
                # The operator's own choice of a place wins.
                environment.setdefault("CML_ASSET_URL", upload)
        beside = met.provisioner.traits.beside_daemon if met is not None else kind in ("local", "fake")
        return agent_sessions.Duty(
            # Instances that are processes on this host have no hardware of their own to prove.
            gpus=-1 if beside else row.gpus,
            gpu=pool.gpu_model if pool else "",
            max_job=pool.max_job if pool else 12 * 3600.0,
            unclaimed=(pool.idle if pool else 600.0) + 60.0,
            commands=commands,
            environment=environment,
            user=pool.user if pool and not beside else "",
        )

    def _keep_diagnostics(self, id: model.InstanceId, text: str) -> None:
        self.diagnostics.pop(id, None)
        self.diagnostics[id] = text[-256 * 1024 :]
        while len(self.diagnostics) > 200:
            self.diagnostics.pop(next(iter(self.diagnostics)))
        self.controller.reaper.keep_words(id, text)

    # -- upkeep ------------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            await self._clock.sleep(3600.0)
            try:
                await self.runtime.rows.prune(before=self._clock.now() - KEEP)
                self.runtime.rows.forget_jobs(before=self._clock.now() - 86400.0)
                await self._close_retired_forges()
                if not _total_budget(self._settings):
                    self.runtime.rows.tally.forget(before=self._clock.wall() - COST_MEMORY)
            except errors.StoreError as error:
                self.runtime.alarms.ring("daemon", "store", "prune-failed", str(error))

    async def _close_retired_forges(self) -> None:
        """A forge that left the configuration is kept as long as runners of ours may be there."""
        needed = {one.queue.forge for one in self.runtime.rows.registrations.values()}
        for name in set(self.runtime.forges) - set(self._settings.forges) - needed:
            await self.runtime.forges.pop(name).close()

    def _write_alarm(self, alarm: alarms.Alarm) -> None:
        event = model.Event(alarm.since, alarm.subject, alarm.id, "alarm", alarm.reason, alarm.detail)

        async def write() -> None:
            # An alarm about the state itself cannot be written there; it stands in status, log and metrics.
            with contextlib.suppress(errors.StoreError):
                await self.runtime.rows.note(event)

        self._background.spawn("alarm", write())

    def _failed(self, name: str, error: BaseException) -> None:
        if hasattr(self, "runtime"):
            self.runtime.alarms.ring("daemon", name, "task-failed", f"{type(error).__name__}: {error}")

    # -- reload ------------------------------------------------------------------------------------------------

    async def reload(self) -> list[str]:
        """Read the configuration again and apply the difference; keep the old one if the new is bad.

        Returns what was done, in plain words.  Raises :class:`errors.ConfigInvalid`.
        """
        if self._load_settings is None:
            return ["there is no file to read again"]
        try:
            new = self._load_settings()
            return await self.apply(new)
        except errors.ConfigInvalid as error:
            self.reload_ok = False
            self.runtime.alarms.ring("daemon", "config", "reload-failed", str(error))
            raise

    async def apply(self, new: config.Config) -> list[str]:
        """Make the difference between the running configuration and ``new`` true."""
        old = self._settings
        change = config.compare(old, new)
        done = [f"{key} changes only at a restart; the old value stays" for key in sorted(change.needs_restart)]
        new = new.model_copy(update={key: getattr(old, key) for key in change.needs_restart})
        for name in change.providers.removed:
            self.runtime.providers[name].retired = True
            done.append(f"provider {name} retires: its instances end as their jobs do")
        for name in change.providers.added:
            await self._drop_provider(name)
            await self._add_provider(new.providers[name])
            done.append(f"provider {name} added")
        for name in change.providers.changed:
            await self._drop_provider(name)
            await self._add_provider(new.providers[name])
            done.append(f"provider {name} changed")
        self._settings = new
        self.runtime.config = new
        await self._add_retired_providers()
        for name in (*change.providers.added, *change.providers.changed):
            provider = self.runtime.providers[name]
            first = self._background.spawn(f"first look at {name}", self.controller.observer.look(provider))
            self._follow(name, provider, first)
        for name in change.forges.removed:
            await self._stop_watch(name)
            done.append(f"forge {name} retires: its runners are removed as their instances end")
        await self._close_retired_forges()
        for name in change.forges.changed:
            await self._stop_watch(name)
            await self.runtime.forges.pop(name).close()
            done.append(f"forge {name} left")
        for name in (*change.forges.added, *change.forges.changed):
            self.runtime.forges[name] = self._make_forge(name, new.forges[name])
            done.append(f"forge {name} added")
        specs = queue_specs(new, self.runtime.forges)
        if specs != self.runtime.specs or change.forges:
            for name in list(self._watches):
                await self._stop_watch(name)
            self.runtime.specs = specs
            self._watch_forges()
        # What was refused for the configuration's sake may work now.
        for pattern, found in list(self.runtime.rows.blocks.items()):
            if found.reason in (base.Kind.CONFIG, base.Kind.AUTH):
                await self.controller.blame.lift(pattern)
        done += [f"pool {name} added" for name in change.pools.added]
        done += [f"pool {name} changed" for name in change.pools.changed]
        done += [f"pool {name} removed: its idle instances end" for name in change.pools.removed]
        self.reload_ok = True
        self.runtime.alarms.clear("daemon", "config", "reload-failed")
        self.runtime.wake()
        return done or ["nothing changed"]

    async def _drop_provider(self, name: str) -> None:
        task = self._listings.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        provider = self.runtime.providers.pop(name, None)
        if provider is not None:
            await provider.provisioner.close()

    async def _stop_watch(self, name: str) -> None:
        task = self._watches.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # -- stop --------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Take no more work, say good-bye to forges and providers; instances with jobs go on by themselves."""
        self.stopping = True
        grace = self._settings.reconcile.drain
        for name in list(self._watches):
            await self._stop_watch(name)
        await self.controller.close(grace=grace)
        for forge in self.runtime.forges.values():
            try:
                async with asyncio.timeout(30):
                    await forge.close()
            except Exception as error:
                log.warning("%s: %s", forge.name, error)
        await self._background.close()
        for provider in self.runtime.providers.values():
            with contextlib.suppress(Exception):
                await provider.provisioner.close()
        await self.store.close()


def _total_budget(settings: config.Config) -> bool:
    """True when some level has a limit for all time."""
    limits = [settings.limits, *(pool.limits for pool in settings.pools.values())]
    limits += [provider.limits for provider in settings.providers.values()]
    limits += [team.limits for team in settings.teams.values()]
    return any(limit.dollars_total is not None for limit in limits)


def queue_specs(settings: config.Config, known: Mapping[str, forges.Forge]) -> tuple[forges.QueueSpec, ...]:
    """Every queue: each pool at each scope of each forge that it serves."""
    specs = []
    for pool in settings.pools.values():
        for name, forge in known.items():
            if name not in settings.forges or (pool.forges and name not in pool.forges):
                continue
            kind = settings.forges[name]
            for scope in forge.scopes():
                specs.append(
                    forges.QueueSpec(
                        queue=model.Queue(name, scope, pool.name),
                        labels=pool.labels,
                        runner_group=kind.runner_group if isinstance(kind, config.GitHubForge) else "",
                        repos=pool.allow.repos,
                        untagged=pool.untagged,
                        protected_only=pool.allow.protected_only,
                        public=pool.allow.public,
                        forks=pool.allow.forks,
                        max_job=pool.max_job,
                    )
                )
    return tuple(specs)


def _remembered(settings: config.Provider) -> str:
    """Return the durable form of a provider's block: what ends its instances once it left the file."""
    # The name is the map's key and so no part of the block itself.
    block = settings.model_dump(mode="json") | {"name": settings.name}
    return json.dumps(block, ensure_ascii=False, separators=(",", ":"))


def provisioner(settings: config.Provider, context: base.Context) -> base.Provisioner:
    """The provisioner of a configured provider."""
    made: base.Provisioner = config.provisioner_class(settings.type)(context, settings.options)
    return made
