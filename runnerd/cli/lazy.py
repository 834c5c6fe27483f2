"""A group of commands that imports a command's module only when the command is run.

Names and one-line helps are in a table, so that ``--help`` and shell completion import none of the modules either.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click
import click.shell_completion


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that has not been imported."""

    #: The module that holds it, and its name there.
    module: str
    attribute: str
    #: Its line in the list of commands; the same as the command's own.
    help: str


class LazyGroup(click.Group):
    """A group of the commands in a table and of those that were added as usual."""

    def __init__(self, *args: Any, table: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.table})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.table.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command), entry
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = self.list_commands(ctx)
        # As in click: the rest of a line beside the longest name.
        limit = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._help(name, limit)) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        commands = [click.shell_completion.CompletionItem(name, help=self._help(name, 45)) for name in names]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def _help(self, name: str, limit: int) -> str:
        entry = self.table.get(name)
        # A placeholder for a command of the table, so that click itself shortens the line.
        command = self.commands[name] if entry is None else click.Command(name, help=entry.help)
        return command.get_short_help_str(limit)
