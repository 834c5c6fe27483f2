"""``runnerd run``: the daemon's process, with signals, listeners and notifications to systemd.

After SIGTERM or SIGINT it finishes calls under way and exits; a second signal makes it exit at once, which is as safe
as a crash.  SIGHUP reloads the configuration.  Nothing here polls: an idle daemon sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

import runnerd
from provisioners.offload import Offload
from runnerd import assets, config, daemon, errors, logs, model, store
from runnerd.cli import options
from runnerd.cli.exits import CommandFailed, Exit
from runnerd.forges import registry
from runnerd.kit import clock, sdnotify, tasks
from runnerd.metrics import counters
from runnerd.web import admin, listeners

log = logging.getLogger(__name__)

#: Seconds in addition to ``reconcile.drain`` for closing sessions with forges and providers.
CLOSE_TIMEOUT_S = 45.0
#: Seconds without a pass of the controller after which the watchdog is no longer fed; far above any real pass.
STUCK_S = 600.0
#: Seconds between two sweeps of the store of report images.
ASSET_SWEEP_INTERVAL_S = 3600.0


@click.command("run")
@options.config_option
def command(config_file: str | None) -> None:
    """Run the daemon until SIGTERM.  SIGHUP reloads the configuration."""
    click.get_current_context().exit(run(options.config_path(config_file)))


def run(path: Path) -> Exit:
    """Run the daemon until a signal stops it.

    Raises :class:`errors.ConfigInvalid`, :class:`errors.StoreError` or :class:`CommandFailed` when it cannot start.
    """
    settings = config.load(path)
    # The journal adds the time itself.
    set_up = functools.partial(logs.set_up, stamped="JOURNAL_STREAM" not in os.environ)
    set_up(level=settings.log.level.value, format=settings.log.format.value)
    make_state(settings.state)
    service = Service(path, settings, set_up_log=set_up)
    return asyncio.run(service.run())


def make_state(state: Path) -> None:
    """Create the state directory (mode 0700) if its parent exists.

    Raises :class:`errors.StoreUnwritable`.
    """
    if state.is_dir():
        if not os.access(state, os.W_OK | os.X_OK, effective_ids=True):
            raise errors.StoreUnwritable(f"the state directory {state} is not writable for user id {os.geteuid()}")
        return
    if not state.parent.is_dir():
        raise errors.StoreUnwritable(
            f"the state directory {state} cannot be created: {state.parent} does not exist; create it, or set `state`"
        )
    try:
        state.mkdir(mode=0o700)
    except OSError as error:
        reason = error.strerror or str(error)
        raise errors.StoreUnwritable(f"the state directory {state} cannot be created: {reason}") from error


class Service:
    """One run of the daemon's process."""

    def __init__(
        self,
        path: Path,
        settings: config.Config,
        *,
        set_up_log: Callable[..., Any],
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        self._path = path
        self._folder = path.resolve().parent
        self._settings = settings
        self._set_up_log = set_up_log
        self._leave = leave
        self._notify = sdnotify.Notify()
        self._asked: list[str] = []
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()
        self._hangup = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._clock = clock.SystemClock()
        self._offload = Offload(1, name="store")
        self._tasks = tasks.Group("process")
        self._metrics = counters.Metrics()
        self._listeners: listeners.Listeners | None = None
        self._admin: admin.Admin | None = None
        self._daemon = self._make()

    def _make(self) -> daemon.Daemon:
        rng = random.SystemRandom()
        return daemon.Daemon(
            self._settings,
            clock=self._clock,
            rng=rng,
            offload=self._offload,
            make_provisioner=daemon.provisioner,
            make_forge=registry.factory(
                self._settings.controller, clock=self._clock, rng=rng, on_request=self._metrics.on_request
            ),
            reanchor=self._clock.reanchor,
            load_settings=lambda: config.load(self._path),
            open_store=self._open_store,
        )

    async def _open_store(self, url: str, **keywords: Any) -> store.Store:
        """Open the state, then the listeners.

        So a port in use is reported before anything is bought, and a second daemon fails on the state first.
        """
        opened = await store.Store.open(url, **keywords)
        try:
            self._daemon.assets = kept = self._make_assets()
            self._listeners = await listeners.start(
                self._daemon.served, self._metrics, assets=kept, settings=self._settings, clock=self._clock
            )
        except BaseException:
            await opened.close()
            raise
        return opened

    def _make_assets(self) -> assets.Assets:
        settings = self._settings
        return assets.Assets(
            settings.assets,
            settings.state / "assets",
            settings.token_key().reveal().encode(),
            self._clock.now,
            public_url=settings.public_url,
            alive=self._alive,
            offload=self._offload,
        )

    def _alive(self, instance: model.InstanceId) -> bool:
        """Return True if an instance may upload.  Raises :class:`errors.Refused` while the state is not loaded."""
        if not self._daemon.progress.started_at:
            raise errors.Refused("the daemon is starting; try again", status=503)
        row = self._daemon.runtime.rows.instances.get(instance)
        return row is not None and row.live

    async def _sweep_assets(self) -> None:
        while True:
            await asyncio.sleep(ASSET_SWEEP_INTERVAL_S)
            if self._daemon.assets is not None:
                try:
                    await self._daemon.assets.sweep()
                except errors.StoreError as error:
                    log.warning("%s", error)

    # -- run ---------------------------------------------------------------------------------------------------

    async def run(self) -> Exit:
        """Start, work, stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        try:
            if not await self._unless_stopped(self._start()):
                log.info("stopped while starting")
                await self._abandon()
                return Exit.OK
        except BaseException:
            await self._abandon()
            raise
        self._tasks.spawn("reload", self._reload_on_hangup())
        self._tasks.spawn("assets", self._sweep_assets())
        if self._notify.watchdog:
            self._tasks.spawn("watchdog", self._feed_watchdog())
        await self._stop.wait()
        return await self._end()

    def _asked_to_stop(self, name: str) -> None:
        self._asked.append(name)
        (self._at_once if self._stop.is_set() else self._stop).set()

    async def _unless_stopped(self, work: Awaitable[None]) -> bool:
        """Run ``work`` and return True, or cancel it and return False when a signal stops the daemon."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return False
        task.result()
        return True

    async def _start(self) -> None:
        settings = self._settings
        log.info("runnerd %s starts as controller %s", runnerd.__version__, settings.controller)
        await self._daemon.start()
        self._metrics.attach(self._daemon.reading, self._daemon.hooks)
        logs.follow(self._daemon.hooks)
        # A relative path starts at the directory of the file, as all paths in it do.
        socket_file = self._folder / settings.listen.socket
        self._admin = admin.Admin(self._daemon.reading, self._daemon.commands, socket_file, reload=self.reload)
        try:
            await self._admin.start()
        except OSError as error:
            raise CommandFailed(_message(error), exit=Exit.LISTEN) from error
        self._notify.ready(self._status())
        log.info("ready: %s", self._status(), extra={"action": "ready"})

    def _status(self) -> str:
        settings = self._daemon.runtime.config
        return f"{len(settings.pools)} pools, {len(settings.providers)} providers, {len(settings.forges)} forges"

    async def _end(self) -> Exit:
        drain = self._daemon.runtime.config.reconcile.drain
        log.info("%s: stopping; instances with jobs continue on their own", self._asked[0], extra={"action": "stop"})
        self._notify.stopping("finishing calls under way")
        ending = asyncio.ensure_future(self._close())
        at_once = asyncio.ensure_future(self._at_once.wait())
        await asyncio.wait({ending, at_once}, timeout=drain + CLOSE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            why = "signalled twice" if self._at_once.is_set() else f"not done after {drain + CLOSE_TIMEOUT_S:.0f} s"
            log.warning("%s: exiting at once; the next start resolves what is unclear", why)
            # Threads may hang in a call, and a normal exit would wait for them.
            self._daemon.store.abandon()
            logging.shutdown()
            self._leave(Exit.PROBLEMS)
            return Exit.PROBLEMS
        at_once.cancel()
        ending.result()
        log.info("stopped", extra={"action": "stopped"})
        return Exit.OK

    async def _close(self) -> None:
        await self._tasks.close()
        # Listeners close last: agents and `status` get answers while calls under way finish.
        await self._daemon.stop()
        await self._close_listeners()
        self._offload.close()

    async def _close_listeners(self) -> None:
        if self._listeners is not None:
            await self._listeners.close()
        if self._admin is not None:
            await self._admin.close()

    async def _abandon(self) -> None:
        """Release what a failed start has acquired."""
        await self._close_listeners()
        if self._daemon.progress.started_at:
            with contextlib.suppress(errors.RunnerdError):
                await self._daemon.stop()
        elif hasattr(self._daemon, "store"):
            self._daemon.store.abandon()
        self._offload.close()

    # -- reload ------------------------------------------------------------------------------------------------

    async def _reload_on_hangup(self) -> None:
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            try:
                await self.reload()
            except errors.ConfigInvalid:
                # Each problem has been logged.
                continue
            except Exception as error:
                log.exception("reload failed: %s", error)

    async def reload(self) -> list[str]:
        """Reload the configuration; an invalid one changes nothing.  Raises :class:`errors.ConfigInvalid`."""
        async with self._reloading:
            self._notify.reloading()
            try:
                done = await self._daemon.reload()
            except errors.ConfigInvalid as error:
                for problem in error.problems:
                    log.error("the new configuration is invalid: %s", problem, extra={"action": "reload-failed"})
                log.error("the previous configuration stays in force", extra={"action": "reload-failed"})
                raise
            finally:
                self._notify.ready(self._status())
            if self._daemon.assets is not None:
                new = self._daemon.runtime.config
                self._daemon.assets.configure(new.assets, new.public_url)
            settings = self._daemon.runtime.config.log
            self._set_up_log(level=settings.level.value, format=settings.format.value)
            for line in done:
                log.info("reload: %s", line, extra={"action": "reload"})
            return done

    # -- watchdog ----------------------------------------------------------------------------------------------

    async def _feed_watchdog(self) -> None:
        """Feed systemd's watchdog while the controller makes its passes."""
        started = asyncio.get_running_loop().time()
        while True:
            controller = self._daemon.controller
            last = controller.last_pass_at or self._daemon.progress.started_at
            silent = self._daemon.runtime.clock.now() - last
            if silent < STUCK_S + self._daemon.runtime.config.reconcile.interval:
                self._notify.alive()
            else:
                alive = asyncio.get_running_loop().time() - started
                log.error("no pass for %.0f s (up %.0f s): the watchdog is not fed", silent, alive)
            await asyncio.sleep(self._notify.watchdog / 2)


def _message(error: BaseException) -> str:
    message = getattr(error, "strerror", None) or str(error)
    return str(message) or type(error).__name__
