"""What a comment needs from a forge, and how a job's repository, token and forge are found.

The order of the sources is upstream's. Two things are added: where there is no git checkout (containers
without git), the repository is taken from the job's own variables, and a repository may be given as
``owner/name``.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import typing
import urllib.parse

from runnerd.agent.cml import context as contexts
from runnerd.agent.cml import failures

GITHUB = "github"
GITLAB = "gitlab"

#: Variables that hold a token, first come first served; CI_JOB_TOKEN is none of them, it may not comment.
_TOKENS = ("REPO_TOKEN", "repo_token", "GITHUB_TOKEN", "GITLAB_TOKEN")


@dataclasses.dataclass(frozen=True)
class Target:
    """What a report is posted to."""

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
        """The commit of the job; empty if the environment does not tell."""

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
        """Say a warning where people of this forge see it."""

    def pull_requests_of(self, sha: str) -> list[str]:
        """Return the numbers of the open pull requests that have this commit."""

    def newest(self, target: Target, wanted: typing.Callable[[str], bool]) -> str | None:
        """Return the id of the newest comment whose text is wanted."""

    def create(self, target: Target, report: str) -> str:
        """Post a comment and return its URL."""

    def update(self, target: Target, comment: str, report: str) -> str:
        """Replace a comment and return its URL."""

    def probe(self) -> None:
        """Find the API's address anew, where that takes requests."""

    def upload(self, upload: Upload) -> str:
        """Keep a file on the forge and return the address to use in markdown."""


def token(context: contexts.Context, given: str) -> str:
    """Return the token to use, or raise; it is masked from now on."""
    found = given or next((context.env[name] for name in _TOKENS if context.env.get(name)), "")
    if not found:
        raise failures.Failure(
            "token not found",
            "set REPO_TOKEN: on GitHub to ${{ secrets.GITHUB_TOKEN }}, "
            "on GitLab to a project access token with scope api (CI_JOB_TOKEN may not post comments)",
        )
    found = found.strip()
    context.keep_secret(found)
    return found


def repository(context: contexts.Context, given: str) -> str:
    """Return the URL of the repository, without user, password, trailing slash and ``.git``."""
    env = context.env
    found = given or context.git("config", "--get", "remote.origin.url") or ""
    if not found and env.get("GITHUB_SERVER_URL") and env.get("GITHUB_REPOSITORY"):
        found = f"{env['GITHUB_SERVER_URL'].rstrip('/')}/{env['GITHUB_REPOSITORY']}"
    found = found or env.get("CI_PROJECT_URL", "")
    if not found:
        raise failures.Failure(
            "repo not found: no --repo, and git knows no remote named origin here",
            "give the address of the repository with --repo or CML_REPO, or check the repository out first",
        )
    if "://" not in found and re.fullmatch(r"[\w.-]+(/[\w.-]+)+", found):
        server = env.get("GITHUB_SERVER_URL") or env.get("CI_SERVER_URL")
        if not server:
            raise failures.Failure(f"--repo {found} does not say on which server", "give the whole URL")
        found = f"{server.rstrip('/')}/{found}"
    return _web_address(found)


def _web_address(url: str) -> str:
    short = re.fullmatch(r"(?:[^@/]+@)?(?P<host>[^:/]+):(?!//)(?P<path>.+)", url)
    if short:
        url = f"https://{short['host']}/{short['path'].lstrip('/')}"
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or not parts.path.strip("/"):
        raise failures.Failure("the repository's address has no host or no path", "give its URL with --repo")
    scheme = "http" if parts.scheme == "http" else "https"
    # The port of an ssh address says nothing about the web server.
    keep_port = port is not None and parts.scheme in ("http", "https")
    named = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    address = f"{scheme}://{named}{f':{port}' if keep_port else ''}/{parts.path.strip('/')}"
    return address.removesuffix(".git")


def forge(context: contexts.Context, given: str, repo: str) -> str:
    """Return which forge serves the repository."""
    name = given or _by_host(repo)
    if not name and context.env.get("GITHUB_REPOSITORY"):
        name = GITHUB
    if not name and context.env.get("CI_PROJECT_URL"):
        name = GITLAB
    if name in (GITHUB, GITLAB):
        return name
    if not name:
        raise failures.Failure(f"driver not set: {repo} may be any forge", "give --driver=github or --driver=gitlab")
    raise failures.Failure(f"driver {name} is not built in", "github and gitlab are; for others use upstream's cml")


def _by_host(repo: str) -> str:
    named = urllib.parse.urlsplit(repo).hostname or ""
    if re.search(r"bitbucket\.(com|org)", named):
        return "bitbucket"
    return {"github.com": GITHUB, "gitlab.com": GITLAB}.get(named, "")


def event(context: contexts.Context) -> dict[str, typing.Any]:
    """Return the payload of the GitHub event that started the job; empty if there is none to read."""
    path = context.env.get("GITHUB_EVENT_PATH", "")
    try:
        payload = json.loads(pathlib.Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError) as error:
        context.warn(f"the event at GITHUB_EVENT_PATH={path} cannot be read: {error}")
        return {}
    return payload if isinstance(payload, dict) else {}
