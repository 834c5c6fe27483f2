"""The difference between two configurations, by value: a reload touches only what has changed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from runnerd.config.schema import Config

#: Top-level keys that a running daemon cannot change: they say where its state is.
AT_START_ONLY = ("controller", "state", "database", "secret", "listen")


@dataclass(frozen=True, slots=True)
class Difference:
    """The entries of a map that were added, removed or changed."""

    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """The changes that a reload brings, by value."""

    forges: Difference
    providers: Difference
    pools: Difference
    teams: Difference
    #: Top-level keys, beside the maps, with another value.
    top: frozenset[str]

    @property
    def needs_restart(self) -> frozenset[str]:
        """Return the changed keys that need a restart; a running daemon keeps their old values and says so."""
        return self.top & frozenset(AT_START_ONLY)

    def __bool__(self) -> bool:
        return any(bool(getattr(self, field.name)) for field in dataclasses.fields(self))


def compare(old: Config, new: Config) -> ConfigChange:
    """Compare two configurations by value; entries that are equal are left alone."""
    maps = ("forges", "providers", "pools", "teams")
    runner_changed = old.defaults.runner != new.defaults.runner
    differences = {}
    for section in maps:
        before, after = getattr(old, section), getattr(new, section)
        changed = {
            name
            for name in before.keys() & after.keys()
            # The default runner command is not merged into pools, and still theirs.
            if before[name] != after[name] or (section == "pools" and runner_changed)
        }
        differences[section] = Difference(
            frozenset(after.keys() - before.keys()),
            frozenset(before.keys() - after.keys()),
            frozenset(changed),
        )
    top = frozenset(
        name for name in Config.model_fields if name not in maps and getattr(old, name) != getattr(new, name)
    )
    return ConfigChange(**differences, top=top)
