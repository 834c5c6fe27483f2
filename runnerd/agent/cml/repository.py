"""The repository that a report goes to; a token is sent to no other server than the job's.

An explicit ``--repo`` decides, as in upstream. In a CI job the job's variables come next; git's remote counts
only where they do not name the repository, only from a checkout inside the job's folder, and only on the job's
server. Outside CI, git's remote ``origin`` is the repository, as in upstream.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import urllib.parse

from runnerd.agent.cml import context as contexts
from runnerd.agent.cml import failures
from runnerd.agent.cml import job as jobs

#: Schemes of remotes whose host may serve the forge's web pages too.
_SCHEMES = ("https", "http", "ssh", "git", "git+ssh", "ssh+git")
_DEFAULT_PORTS = {"http": 80, "https": 443}
#: Hosts that take git's traffic for a forge under another name.
_WEB_HOSTS = {
    "ssh.github.com": "github.com",
    "www.github.com": "github.com",
    "altssh.gitlab.com": "gitlab.com",
}
#: Remotes of git that are no address: files, drives of Windows, and `HELPER::ADDRESS`.
_NO_ADDRESS = re.compile(r"[./~\\]|[A-Za-z]:[/\\]|[A-Za-z0-9+.-]+::")
#: ``user@host:path``, with the brackets of an IPv6 host.
_SHORT = re.compile(r"(?:[^@/]+@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^:/\[\]@]+):(?P<path>.+)")
#: ``owner/name`` without a server.
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)+")
#: Variables by which git takes another repository than the one around its folder; hooks of git set them.
_GIT_VARIABLES = frozenset(
    (
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_COMMON_DIR",
        "GIT_CONFIG",
        "GIT_CONFIG_PARAMETERS",
        "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_PREFIX",
    )
)
#: Submodules in submodules that are climbed out of.
_MOST_NESTED = 16


@dataclasses.dataclass(frozen=True)
class Repository:
    """A repository on a forge."""

    #: Web address, without user, password, trailing slash and ``.git``.
    address: str
    #: Web address of the forge, where the job states it; otherwise empty, and the driver finds it.
    server: str = ""
    #: Address of the forge's API, where the job states it; otherwise empty.
    api: str = ""


def find(context: contexts.Context, given: str) -> Repository:
    """Return the repository to report to.

    :param given: the value of ``--repo``; empty if there is none.
    :raises failures.Failure: there is none that may be used, with what was looked at.
    """
    job = jobs.read(context.env)
    if given:
        address = _given(given, job)
    elif job is None:
        address = _origin(context, "no --repo")
    elif job.repository:
        address = _stated(job, job.repository, jobs.REPOSITORY_NAMED_BY[job.forge])
    else:
        address = _checked_out(_by_folder(context), job)
    return _on_job(address, job, given=bool(given))


def commit(context: contexts.Context) -> str:
    """Return the commit that git has checked out here; empty if there is none, or none of the job's.

    In a job, a submodule stands for the repository that has it, and a checkout outside the job's folder is not
    the job's.
    """
    job = jobs.read(context.env)
    if job is None:
        return context.git("rev-parse", "HEAD") or ""
    context = _by_folder(context)
    folder = _outermost(context)
    if folder is None or (job.workspace and not _inside(folder, job.workspace)):
        return ""
    return context.git("-C", folder, "rev-parse", "HEAD") or ""


def web_address(url: str) -> str | None:
    """Return the web address that belongs to a remote of git; None for one that names no server."""
    split = _split(url)
    if split is None or not split[1]:
        return None
    return "/".join(split).removesuffix(".git")


def _split(url: str) -> tuple[str, str] | None:
    """Return a remote's web server and the path on it, without slashes between the two."""
    if _NO_ADDRESS.match(url):
        return None
    if "://" not in url:
        short = _SHORT.fullmatch(url)
        if short is None:
            return None
        url = f"ssh://{short['host']}/{short['path'].lstrip('/')}"
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _SCHEMES or not parts.hostname:
        return None
    scheme = "http" if parts.scheme == "http" else "https"
    host = _WEB_HOSTS.get(parts.hostname, parts.hostname)
    host = f"[{host}]" if ":" in host else host
    # The port of an ssh address says nothing about the web server.
    if port is not None and parts.scheme in _DEFAULT_PORTS and port != _DEFAULT_PORTS[parts.scheme]:
        host = f"{host}:{port}"
    return f"{scheme}://{host}", parts.path.strip("/")


def _given(given: str, job: jobs.Job | None) -> str:
    if _NAME.fullmatch(given) and not given.startswith("."):
        if job is None or not job.server:
            raise failures.Failure(f"--repo {given} does not say on which server", "give the whole URL")
        given = f"{job.server}/{given}"
    address = web_address(given)
    if address is None:
        raise failures.Failure(
            f"--repo {_shown(given)} is not the address of a repository on a web server",
            "give the URL that a browser shows for the repository",
        )
    return address


def _stated(job: jobs.Job, value: str, named_by: str) -> str:
    """Return an address from the job's variables in its plain form."""
    address = web_address(value) if value.startswith(("https://", "http://")) else None
    if address is None:
        raise failures.Failure(
            f"{named_by} of this job give {_shown(value)!r}, which is not an http or https address",
            "correct the variable, or give the repository's URL with --repo",
        )
    return address


def _origin(context: contexts.Context, before: str) -> str:
    """Return the web address of git's remote here, and raise with what was looked at ``before`` it."""
    remote = context.git("config", "--get", "remote.origin.url")
    if remote is None:
        raise failures.Failure(
            f"repo not found: {before}, and git names no remote origin in {context.directory}",
            "give the address of the repository with --repo or CML_REPO",
        )
    address = web_address(remote)
    if address is None:
        raise failures.Failure(
            f"repo not found: {before}, and git's remote origin in {context.directory} is {_shown(remote)}, "
            "which names no web server",
            "give the address of the repository with --repo or CML_REPO",
        )
    return address


def _checked_out(context: contexts.Context, job: jobs.Job) -> str:
    """Return the address of the job's own checkout, for jobs whose variables do not name the repository."""
    unset = f"no --repo, and this job's environment lacks {jobs.REPOSITORY_NAMED_BY[job.forge]}"
    remedy = "pass the job's variables on to where cml runs, or give the repository's URL with --repo"
    variable = jobs.WORKSPACE_NAMED_BY[job.forge]
    top = context.git("rev-parse", "--show-toplevel")
    if not job.workspace:
        raise failures.Failure(f"repo not found: {unset}, and lacks {variable}", remedy)
    if top is None or not _inside(top, job.workspace):
        found = f"is in the checkout {top}" if top else "is in no git checkout"
        raise failures.Failure(
            f"repo not found: {unset}; {context.directory} {found}, and only one inside "
            f"{variable}={job.workspace} is the job's",
            remedy,
        )
    address = _origin(context, unset)
    if job.server:
        if not _lies_on(address, job.server):
            raise failures.Failure(
                f"repo not found: {unset}, and git's remote origin in {context.directory} is {address}, "
                f"which is not on the job's server {_shown(job.server)}",
                "give the repository's URL with --repo",
            )
    elif not _inside(job.workspace, top):
        raise failures.Failure(
            f"repo not found: {unset}; the checkout {top} is not the one of {variable}={job.workspace}, "
            "and the job's server is not known to compare with",
            remedy,
        )
    return address


def _on_job(address: str, job: jobs.Job | None, *, given: bool) -> Repository:
    """Add the job's server and API where the repository is on that server.

    Upstream asks each prefix of a GitLab's address for its API; a repository that is ``given`` keeps that unless
    the job states the API.
    """
    if job is None or not job.server or not _lies_on(address, job.server):
        return Repository(address)
    split = _split(job.server)
    assert split is not None
    server = "/".join(split).rstrip("/")
    api = job.api
    name = {jobs.GITHUB: "GITHUB_API_URL", jobs.GITLAB: "CI_API_V4_URL"}[job.forge]
    if api and not (api.startswith(("https://", "http://")) and _split(api)):
        raise failures.Failure(f"{name} is {_shown(api)!r}, which is not an http or https address", "correct it")
    if api and not _serves(api, job.server):
        raise failures.Failure(
            f"{name} is {_shown(api)}, which is not the API of the job's server {_shown(job.server)}", "correct it"
        )
    if not api and job.forge == jobs.GITLAB and not given:
        api = f"{server}/api/v4"
    return Repository(address, server, api)


def _lies_on(address: str, server: str) -> bool:
    """Return true if a repository's address is one of that forge: scheme, host, port and path agree."""
    split = _split(server)
    return split is not None and address.startswith("/".join(split).rstrip("/") + "/")


def _serves(api: str, server: str) -> bool:
    """Return true if an API is on the forge's host, or on its ``api`` subdomain: the token goes there."""
    at, of = _split(api), _split(server)
    return at is not None and of is not None and at[0] in (of[0], of[0].replace("://", "://api.", 1))


def _by_folder(context: contexts.Context) -> contexts.Context:
    """Return a context in which the folder alone says which repository git takes."""
    env = {name: value for name, value in context.env.items() if name not in _GIT_VARIABLES}
    return dataclasses.replace(context, env=env)


def _inside(folder: str, outer: str) -> bool:
    resolved, limit = pathlib.Path(folder).resolve(), pathlib.Path(outer).resolve()
    return limit in (resolved, *resolved.parents)


def _outermost(context: contexts.Context) -> str | None:
    """Return the top level of the checkout here, climbing out of submodules."""
    top = context.git("rev-parse", "--show-toplevel")
    for _ in range(_MOST_NESTED):
        parent = context.git("-C", top, "rev-parse", "--show-superproject-working-tree") if top else None
        if parent is None:
            return top
        top = parent
    return top


def _shown(url: str) -> str:
    """Return a URL for a message, without user and password."""
    return re.sub(r"//[^/]*@", "//", url)
