"""Apply the difference between the running configuration and another: what has not changed is not touched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from provisioners import base
from runnerd import config, connections, errors, read_model
from runnerd.reconcile import housekeeping
from runnerd.runtime import shared


class Reload:
    """Replaces the configuration of a running daemon."""

    def __init__(
        self,
        runtime: shared.Runtime,
        connected: connections.Connections,
        progress: read_model.Progress,
        *,
        load_settings: Callable[[], config.Config] | None,
        lift_block: Callable[[str], Awaitable[None]],
    ) -> None:
        self._runtime = runtime
        self._connected = connected
        self._progress = progress
        #: Reads the configuration file; None when there is none.
        self._load_settings = load_settings
        #: Removes a pattern from the blocklist.
        self._lift_block = lift_block

    async def reload(self) -> list[str]:
        """Read the configuration again and apply the difference; keep the old one if the new is bad.

        Returns the changes, in sentences.  Raises :class:`errors.ConfigInvalid`.
        """
        if self._load_settings is None:
            return ["there is no configuration file to reload"]
        try:
            return await self.apply(self._load_settings())
        except errors.ConfigInvalid as error:
            self._progress.reload_ok = False
            self._runtime.alarms.ring("daemon", "config", "reload-failed", str(error))
            raise

    async def apply(self, new: config.Config) -> list[str]:
        """Replace the running configuration by ``new``; return the changes, in sentences."""
        old = self._runtime.config
        change = config.compare(old, new)
        done = [
            f"{key} takes effect only at a restart; the old value stays in force"
            for key in sorted(change.needs_restart)
        ]
        new = new.model_copy(update={key: getattr(old, key) for key in change.needs_restart})
        for name in change.providers.removed:
            self._runtime.providers[name].retired = True
            done.append(f"provider {name} removed: its instances end when their jobs finish")
        for names, what in ((change.providers.added, "added"), (change.providers.changed, "changed")):
            for name in names:
                await self._connected.drop_provider(name)
                await self._connected.add_provider(new.providers[name])
                done.append(f"provider {name} {what}")
        self._runtime.config = new
        await self._connected.add_retired_providers()
        for name in (*change.providers.added, *change.providers.changed):
            self._connected.list_provider(name)
        done += await self._apply_forges(change.forges, new)
        await self._lift_refusals()
        done += [f"pool {name} added" for name in change.pools.added]
        done += [f"pool {name} changed" for name in change.pools.changed]
        done += [f"pool {name} removed: its idle instances end" for name in change.pools.removed]
        self._progress.reload_ok = True
        self._runtime.alarms.clear("daemon", "config", "reload-failed")
        self._runtime.wake()
        return done or ["nothing changed"]

    async def _apply_forges(self, change: config.Difference, new: config.Config) -> list[str]:
        done = []
        for name in change.removed:
            await self._connected.stop_watch(name)
            done.append(f"forge {name} removed: its runners are deregistered when their instances end")
        await housekeeping.close_retired_forges(self._runtime)
        for name in change.changed:
            await self._connected.drop_forge(name)
            done.append(f"forge {name} closed")
        for name in (*change.added, *change.changed):
            self._connected.add_forge(name, new.forges[name])
            done.append(f"forge {name} added")
        await self._connected.watch(anew=bool(change))
        return done

    async def _lift_refusals(self) -> None:
        """Lift what was blocked for the configuration's sake: it may work now."""
        for pattern, block in list(self._runtime.rows.blocks.items()):
            if block.reason in (base.Kind.CONFIG, base.Kind.AUTH):
                await self._lift_block(pattern)
