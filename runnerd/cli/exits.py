"""What the exit status of a command means; ``docs/commands.md`` lists the same."""

from __future__ import annotations

import enum

from runnerd import errors


class Exit(enum.IntEnum):
    """Exit statuses."""

    #: Done; nothing is wrong.
    OK = 0
    #: Done, and something was found that needs a look (``check``, ``sweep``).
    PROBLEMS = 1
    #: The command line or the configuration is wrong.
    USAGE = 2
    #: No daemon answers at the socket.
    UNREACHABLE = 3
    #: The daemon refuses: the caller may not, or it would break a promise.
    REFUSED = 4
    #: There is no such job, instance or pool; or the name means several.
    NOT_FOUND = 5
    #: The state is in use by another daemon, or cannot be read or written.
    STATE = 6
    #: A port or the socket cannot be opened.
    LISTEN = 7
    #: A fault of runnerd itself.
    INTERNAL = 70
    #: Interrupted at the keyboard.
    INTERRUPTED = 130


class CommandFailed(errors.RunnerdError):
    """The command could not do what was asked."""

    def __init__(self, message: str, *, exit: Exit) -> None:
        super().__init__(message)
        #: The status to leave with.
        self.exit = exit


def of(error: errors.RunnerdError) -> Exit:
    """The exit status for an error that was raised on purpose."""
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
