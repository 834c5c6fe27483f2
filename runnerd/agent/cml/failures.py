"""The errors that users of ``cml`` see: what happened, where, and what to do.

Every expected error of the package is a :class:`Failure`; it ends the command with exit code 1.
"""

from __future__ import annotations


class Failure(Exception):
    """A command that cannot continue, explained to the author of the workflow.

    :param what: what happened, and where.
    :param remedy: what to do about it; empty if there is nothing useful to say.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n  what to do: {self.remedy}" if self.remedy else self.what


class Refused(Failure):
    """A refusal by a forge.

    :param status: the HTTP status code.
    """

    def __init__(self, what: str, remedy: str = "", *, status: int) -> None:
        super().__init__(what, remedy)
        self.status = status
