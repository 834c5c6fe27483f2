"""The facts that a CI job's variables state: forge, server, API, repository and working folder.

They are set by the forge itself, so they take precedence over git: the directory of a job may lie in a
checkout of another repository.
"""

from __future__ import annotations

import dataclasses
import typing

GITHUB = "github"
GITLAB = "gitlab"

#: Variables that only a job of the forge has; GITHUB_ACTIONS and GITLAB_CI come on top.
_SIGNS = {
    GITHUB: ("GITHUB_REPOSITORY", "GITHUB_SERVER_URL", "GITHUB_WORKSPACE"),
    GITLAB: ("CI_PROJECT_URL", "CI_SERVER_URL", "CI_PROJECT_DIR"),
}
#: Variables that name the repository, the folder of the checkout and the commit, for messages.
REPOSITORY_NAMED_BY = {GITHUB: "GITHUB_SERVER_URL and GITHUB_REPOSITORY", GITLAB: "CI_PROJECT_URL"}
WORKSPACE_NAMED_BY = {GITHUB: "GITHUB_WORKSPACE", GITLAB: "CI_PROJECT_DIR"}
COMMIT_NAMED_BY = {GITHUB: "GITHUB_SHA", GITLAB: "CI_COMMIT_SHA"}


@dataclasses.dataclass(frozen=True)
class Job:
    """A CI job by its variables, as they are; a fact that they do not state is empty."""

    #: :data:`GITHUB` or :data:`GITLAB`.
    forge: str
    #: Web address of the forge, with port and path.
    server: str
    #: Address of its API.
    api: str
    #: Web address of the repository.
    repository: str
    #: Folder in which the repository is checked out.
    workspace: str


def read(env: typing.Mapping[str, str]) -> Job | None:
    """Return the job that these variables belong to; None outside the jobs of GitHub and GitLab."""
    marked = {GITHUB: env.get("GITHUB_ACTIONS") == "true", GITLAB: env.get("GITLAB_CI") == "true"}
    likely = [forge for forge, names in _SIGNS.items() if marked[forge] or any(env.get(name) for name in names)]
    if not likely:
        return None
    # A job of one forge may be given single variables of the other; the mark is set by the runner alone.
    forge = next((forge for forge in likely if marked[forge]), likely[0])
    return _github(env) if forge == GITHUB else _gitlab(env)


def _github(env: typing.Mapping[str, str]) -> Job:
    server = env.get("GITHUB_SERVER_URL", "").rstrip("/")
    name = env.get("GITHUB_REPOSITORY", "")
    return Job(
        forge=GITHUB,
        server=server,
        api=env.get("GITHUB_API_URL", "").rstrip("/"),
        repository=f"{server}/{name}" if server and name else "",
        workspace=env.get("GITHUB_WORKSPACE", ""),
    )


def _gitlab(env: typing.Mapping[str, str]) -> Job:
    server = env.get("CI_SERVER_URL", "").rstrip("/")
    path = env.get("CI_PROJECT_PATH", "")
    named = env.get("CI_PROJECT_URL", "").rstrip("/")
    if not server and path and named.endswith("/" + path):
        server = named[: -len(path) - 1]
    return Job(
        forge=GITLAB,
        server=server,
        api=env.get("CI_API_V4_URL", "").rstrip("/"),
        repository=named or (f"{server}/{path}" if server and path else ""),
        workspace=env.get("CI_PROJECT_DIR", ""),
    )
