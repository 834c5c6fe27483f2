"""The exit statuses of commands, as listed in ``docs/commands.md``."""

from __future__ import annotations

import enum

from runnerd import errors


class Exit(enum.IntEnum):
    """Exit statuses."""

    #: Done; nothing is wrong.
    OK = 0
    #: Done, and something needs attention (``check``, ``sweep``).
    PROBLEMS = 1
    #: The command line or the configuration is wrong.
    USAGE = 2
    #: No daemon answers at the socket.
    UNREACHABLE = 3
    #: The daemon refuses: the caller lacks the permission, or a guarantee would be violated.
    REFUSED = 4
    #: There is no such job, instance or pool; or the name is ambiguous.
    NOT_FOUND = 5
    #: The state is in use by another daemon, or cannot be read or written.
    STATE = 6
    #: A port or the socket cannot be opened.
    LISTEN = 7
    #: A bug in runnerd.
    INTERNAL = 70
    #: Interrupted at the keyboard.
    INTERRUPTED = 130


class CommandFailed(errors.RunnerdError):
    """The command failed."""

    def __init__(self, message: str, *, exit: Exit) -> None:
        super().__init__(message)
        #: The exit status.
        self.exit = exit


def of(error: errors.RunnerdError) -> Exit:
    """Return the exit status for an expected error."""
    match error:
        case CommandFailed():
            return error.exit
        case errors.ConfigInvalid() | errors.SecretMissing():
            return Exit.USAGE
        case errors.StoreError():
            return Exit.STATE
        case errors.ListenFailed():
            return Exit.LISTEN
        case errors.Refused():
            return Exit.NOT_FOUND if error.status == 404 else Exit.REFUSED
        case _:
            return Exit.PROBLEMS
