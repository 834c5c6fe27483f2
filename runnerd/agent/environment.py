"""The runner's surroundings: directories, user, environment variables.

Secrets reach the runner through its environment only.  The agent's own directory stays closed to other users; the
files that such a user needs are copied to a separate directory, which it can read but, except for its work, not change.
"""

from __future__ import annotations

import os
import pathlib
import pwd
import shutil
import sys
from dataclasses import dataclass

from runnerd.agent import cml, hooks, processes


class Unusable(Exception):
    """The runner's surroundings cannot be prepared."""


@dataclass(frozen=True)
class Account:
    """The user that the runner runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True)
class Place:
    """The runner's surroundings."""

    #: Its working directory.
    work: pathlib.Path
    #: First on its PATH.
    bin: pathlib.Path
    hooks: hooks.Hooks
    #: None for the agent's own user.
    account: Account | None


def account(user: str) -> Account | None:
    """Return the account that runs the runner: ``user`` where the agent may choose, else None for its own user.

    Raises :class:`Unusable` when there is no such user.
    """
    if not user or os.geteuid() != 0:
        return None
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise Unusable(f'the user "{user}" for jobs does not exist on this instance') from None
    if found.pw_uid == os.geteuid():
        return None
    groups = tuple(os.getgrouplist(found.pw_name, found.pw_gid))
    return Account(found.pw_name, found.pw_uid, found.pw_gid, groups, found.pw_dir)


def prepare(home: pathlib.Path, shared: pathlib.Path, who: Account | None) -> Place:
    """Create the directories and the ``cml`` commands.  Raises :class:`Unusable`."""
    base = home if who is None else shared
    try:
        source = bundle()
        if who is not None:
            base.mkdir(parents=True, exist_ok=True)
            base.chmod(0o755)
            source = _copy(source, base)
        place = Place(
            work=base / "work",
            bin=base / "bin",
            hooks=hooks.Hooks(base / "hooks", base / "marks", base / "hooks" / "gpu.txt"),
            account=who,
        )
        # An earlier job may have left marks here; they would be mistaken for this one's.
        shutil.rmtree(place.hooks.marks, ignore_errors=True)
        place.hooks.facts.unlink(missing_ok=True)
        for path, mode in ((place.bin, 0o755), (place.hooks.directory, 0o755)):
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        for path in (place.work, place.hooks.marks):
            path.mkdir(exist_ok=True)
            path.chmod(0o700)
            if who is not None:
                os.chown(path, who.uid, who.gid)
        cml.install(place.bin, sys.executable, source)
    except OSError as error:
        raise Unusable(f"the runner's directories cannot be created: {error}") from error
    return place


def bundle() -> pathlib.Path:
    """Return the path of the agent's zip archive, or of the directory that contains its package."""
    here = pathlib.Path(__file__).absolute()
    for above in here.parents:
        if above.is_file():
            return above
    return here.parents[2]


def _copy(source: pathlib.Path, base: pathlib.Path) -> pathlib.Path:
    if source.is_dir():
        return source
    target = base / "agent.pyz"
    fresh = base / ".agent.pyz.new"
    shutil.copyfile(source, fresh)
    fresh.chmod(0o644)
    fresh.replace(target)
    return target


def variables(
    given: dict[str, str], place: Place, *, kind: str, instance: str, mark: str, base: dict[str, str]
) -> dict[str, str]:
    """Return the runner's environment: the agent's own as ``base``, then the daemon's, then the agent's settings.

    Writes the hooks of a GitHub runner.
    """
    made = {**base, **given}
    if place.account is not None:
        made.update(HOME=place.account.home, USER=place.account.name, LOGNAME=place.account.name)
    made.setdefault("HOME", str(place.work))
    made.setdefault("LANG", "C.UTF-8")
    path = made.get("PATH") or "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    made["PATH"] = f"{place.bin}{os.pathsep}{path}"
    made["ITERATIVE_DO_NOT_TRACK"] = "1"
    made["DVC_NO_ANALYTICS"] = "1"
    made[processes.MARK] = mark
    made.setdefault("RUNNERD_INSTANCE", instance)
    if kind == "github":
        made.update(place.hooks.write(instance, made))
        # run.sh forwards signals to its listener only with this; the listener itself ignores it.
        made.setdefault("RUNNER_MANUALLY_TRAP_SIG", "1")
        if place.account is None and os.geteuid() == 0:
            # The operator named no user; the runner would refuse to run as root.
            made.setdefault("RUNNER_ALLOW_RUNASROOT", "1")
    return made
