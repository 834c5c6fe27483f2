"""The part of a forge that reports need, and the choice of the forge and its token."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import typing
import urllib.parse

from runnerd.agent.cml import context as contexts
from runnerd.agent.cml import failures
from runnerd.agent.cml import job as jobs

#: Variables that hold a token, in order of precedence; CI_JOB_TOKEN is not one of them, it may not comment.
_TOKENS = ("REPO_TOKEN", "repo_token", "GITHUB_TOKEN", "GITLAB_TOKEN")
#: The variable whose name belongs to the other forge, and which is not sent to this one.
_TOKEN_OF_THE_OTHER = {jobs.GITHUB: "GITLAB_TOKEN", jobs.GITLAB: "GITHUB_TOKEN"}


@dataclasses.dataclass(frozen=True)
class Target:
    """The object that a report is posted to."""

    #: ``commit``, ``pr`` or ``issue``.
    kind: str
    #: Commit hash or number.
    id: str


@dataclasses.dataclass(frozen=True)
class Upload:
    """A file to be uploaded."""

    name: str
    mime: str
    data: bytes


class Driver(typing.Protocol):
    """A forge, as far as reports need it."""

    @property
    def name(self) -> str:
        """``github`` or ``gitlab``."""

    @property
    def sha(self) -> str:
        """The commit of the job; empty if the environment does not name it."""

    @property
    def pull_request(self) -> str:
        """Number of the pull or merge request that the job runs for; empty if it runs for none."""

    @property
    def workflow(self) -> str: ...

    @property
    def run(self) -> str: ...

    @property
    def can_upload(self) -> bool: ...

    def greet(self) -> None:
        """Send what upstream sends before any command."""

    def warn(self, text: str) -> None:
        """Print a warning where users of this forge see it."""

    def pull_requests_of(self, sha: str) -> list[str]:
        """Return the numbers of the open pull requests that have this commit."""

    def newest(self, target: Target, wanted: typing.Callable[[str], bool]) -> str | None:
        """Return the id of the newest comment whose text satisfies ``wanted``."""

    def create(self, target: Target, report: str) -> str:
        """Post a comment and return its URL."""

    def update(self, target: Target, comment: str, report: str) -> str:
        """Replace a comment and return its URL."""

    def probe(self) -> None:
        """Find the API's address anew, where that takes requests."""

    def upload(self, upload: Upload) -> str:
        """Keep a file on the forge and return the address to use in markdown."""


def token(context: contexts.Context, given: str, forge: str) -> str:
    """Return the token for this forge, or raise; it is masked from now on.

    :param given: the value of ``--token``; empty if there is none.
    :param forge: ``github`` or ``gitlab``.
    """
    foreign = _TOKEN_OF_THE_OTHER[forge]
    names = [name for name in _TOKENS if name != foreign]
    found = given or next((context.env[name] for name in names if context.env.get(name)), "")
    if not found:
        unused = f": {foreign} is set, and is not sent to {forge}" if context.env.get(foreign) else ""
        raise failures.Failure(
            f"token not found{unused}",
            "set REPO_TOKEN: on GitHub to ${{ secrets.GITHUB_TOKEN }}, "
            "on GitLab to a project access token with scope api (CI_JOB_TOKEN may not post comments)",
        )
    found = found.strip()
    context.keep_secret(found)
    return found


def forge(context: contexts.Context, given: str, repo: str) -> str:
    """Return which forge serves the repository."""
    name = given or _by_host(repo)
    job = jobs.read(context.env)
    if not name and job is not None:
        name = job.forge
    if name in (jobs.GITHUB, jobs.GITLAB):
        return name
    if not name:
        raise failures.Failure(f"driver not set: {repo} may be any forge", "give --driver=github or --driver=gitlab")
    raise failures.Failure(f"driver {name} is not built in", "github and gitlab are; for others use upstream's cml")


def _by_host(repo: str) -> str:
    named = urllib.parse.urlsplit(repo).hostname or ""
    if re.search(r"bitbucket\.(com|org)", named):
        return "bitbucket"
    if named.endswith(".ghe.com"):
        return jobs.GITHUB
    return {"github.com": jobs.GITHUB, "gitlab.com": jobs.GITLAB}.get(named, "")


def event(context: contexts.Context) -> dict[str, typing.Any]:
    """Return the payload of the GitHub event that started the job; empty if there is none to read."""
    path = context.env.get("GITHUB_EVENT_PATH", "")
    try:
        payload = json.loads(pathlib.Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError) as error:
        context.warn(f"the event at GITHUB_EVENT_PATH={path} cannot be read: {error}")
        return {}
    return payload if isinstance(payload, dict) else {}
