"""The blocks for the sources of jobs.

They hold the operator's choices; facts that the forge has itself (runner groups, visibility, protected refs) are
requested from it and not repeated here.
"""

from __future__ import annotations

import enum
import urllib.parse
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from runnerd.config import fields
from runnerd.config.fields import AppId, FilePath, Flag, ForgeUrl, Model, Named, Number, SecretRef, Share, Span, Texts


class Mode(enum.StrEnum):
    """The interface through which GitHub reports jobs."""

    #: One runner scale set per queue; GitHub counts and pushes.
    SCALE_SET = "scale-set"
    #: REST with just-in-time runners, for hosts without scale sets.
    REST = "rest"


class Acquire(enum.StrEnum):
    """The condition for acquiring the jobs that a scale set offers."""

    #: If the host requires it: GitHub Enterprise Server does, github.com does not.
    AUTO = "auto"
    #: Always.
    ALWAYS = "always"
    #: Never.
    NEVER = "never"


class RunnerRecords(enum.StrEnum):
    """The number of runner records at GitLab."""

    #: One per instance.
    INSTANCE = "instance"
    #: One per pool, with one manager per instance.
    FLAVOUR = "flavour"
    #: Per instance until `runner_cap` comes near, then per pool.
    AUTO = "auto"


class GitHubApp(Model):
    """A GitHub App installed for the organisation or repository."""

    id: AppId
    """The App's number, or its client id."""

    key: SecretRef
    """The App's private key (PEM)."""

    installation: Number | None = None
    """The number of the installation; looked up when absent."""


class Audit(Model):
    """The search for jobs that no message announced."""

    interval: Span = 600.0
    """Interval. 10 minutes, because stranded jobs are rare and a search costs requests."""

    share: Share = 0.1
    """The fraction of the hourly request quota that it may use."""


class Retry(Model):
    """Re-runs of jobs that a preemption interrupted."""

    preempted: Annotated[int, *fields.whole(0, 3)] = 0
    """The number of times that an interrupted job is re-run, 0 to 3. 0, because a re-run may publish twice."""


class Forge(Named):
    """Keys that both kinds of forge have."""

    ca: FilePath | None = None
    """A file of certificate authorities to trust in addition to the system's."""

    retry: Retry = Retry()
    """Re-runs of interrupted jobs."""


class GitHubForge(Forge):
    """An organisation, a repository or an enterprise on GitHub or GitHub Enterprise Server."""

    type: Literal["github"]
    """`github`."""

    url: ForgeUrl
    """`https://github.com/acme`, `…/acme/repo`, `…/enterprises/x`, or the same on your own host."""

    app: GitHubApp | None = None
    """A GitHub App: recommended, because its tokens expire within an hour. Not possible for an enterprise."""

    token: SecretRef | None = None
    """A personal access token instead of an App."""

    webhook_secret: SecretRef | None = None
    """The secret of the webhook; without it webhooks are refused and runnerd relies on polling."""

    runner_group: Annotated[str, Field(min_length=1)] = "Default"
    """The runner group that runners join. GitHub's default group."""

    mode: Mode = Mode.SCALE_SET
    """`scale-set` or `rest`. Scale sets, because GitHub then pushes jobs as they are queued."""

    repos: Texts = ()
    """Repositories (`acme/ml`) to poll in `rest` mode and to audit first; repositories with jobs are added."""

    poll: Span = 30.0
    """Interval of polls in `rest` mode. 30 seconds stay within the quota for dozens of repositories."""

    audit: Audit = Audit()
    """The search for stranded jobs."""

    public_repositories: Flag = False
    """Permission for the runner group to serve public repositories. Off, because strangers could run code."""

    acquire: Acquire = Acquire.AUTO
    """Acquire the jobs that a scale set offers: `auto` (if the host requires it), `always` or `never`."""

    @property
    def host(self) -> str:
        """Return the host and port, for example `github.com`."""
        return urllib.parse.urlsplit(self.url).netloc

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the parts of the URL's path."""
        return tuple(part for part in urllib.parse.urlsplit(self.url).path.split("/") if part)

    @property
    def scope(self) -> str:
        """Return the owner that the URL names: `acme`, `acme/ml` or `enterprises/x`."""
        return "/".join(self.parts)

    @property
    def kind(self) -> Literal["organization", "repository", "enterprise"]:
        """Return the kind of that owner."""
        if len(self.parts) == 1:
            return "organization"
        return "enterprise" if self.parts[0].lower() == "enterprises" else "repository"

    @pydantic.field_validator("url")
    @classmethod
    def _names_a_scope(cls, url: str) -> str:
        parts = [part for part in urllib.parse.urlsplit(url).path.split("/") if part]
        if not parts:
            raise ValueError("the URL names no organisation; write https://github.com/acme or …/acme/repo")
        if len(parts) > 2 or (len(parts) == 1 and parts[0].lower() == "enterprises"):
            raise ValueError("write …/acme for an organisation, …/acme/repo or …/enterprises/acme")
        return url.removesuffix(".git")

    @pydantic.model_validator(mode="after")
    def _one_credential(self) -> GitHubForge:
        if self.app is not None and self.token is not None:
            raise ValueError("has both app and token; keep one, the app if you can")
        if self.app is None and self.token is None:
            raise ValueError("has no credential; add app: {id: …, key: file:…} or token: file:…")
        if self.app is not None and self.kind == "enterprise":
            raise ValueError("GitHub refuses Apps for an enterprise; use a token with manage_runners:enterprise")
        return self


class GitLabForge(Forge):
    """Groups and projects on gitlab.com or your own GitLab."""

    type: Literal["gitlab"]
    """`gitlab`."""

    url: ForgeUrl = "https://gitlab.com"
    """The URL of the GitLab server, without a group."""

    token: SecretRef
    """An access token with the scopes `api` and `create_runner`, of an owner or maintainer of everything that is
    listed."""

    groups: Texts = ()
    """Groups by full path, with their subgroups."""

    projects: Texts = ()
    """Single projects by full path."""

    webhook_token: SecretRef | None = None
    """The webhook's secret token (`X-Gitlab-Token`)."""

    signing_token: SecretRef | None = None
    """The webhook's signing token (`whsec_…`), if the server signs webhooks."""

    poll: Span = 15.0
    """Interval of polls of a project with recent jobs. 15 seconds, because webhooks do not cover every case."""

    idle_poll: Span = 60.0
    """Interval of polls of a quiet project."""

    requests_per_minute: Annotated[int, *fields.whole(1, 100_000)] = 300
    """The highest number of requests per minute. 300, half of the lowest limit documented for gitlab.com."""

    registration: RunnerRecords = RunnerRecords.AUTO
    """Runner records: `instance` (one each), `flavour` (one for each pool) or `auto` (shared when `runner_cap` is
    near)."""

    runner_cap: Annotated[int, *fields.whole(1, 100_000)] = 50
    """The number of runners that the plan allows. 50, the free plan's limit for active runners of a group."""

    @pydantic.model_validator(mode="after")
    def _names_something(self) -> GitLabForge:
        if not self.groups and not self.projects:
            raise ValueError("watches nothing; add groups: [ml] or projects: [ml/train]")
        return self


AnyForge = Annotated[GitHubForge | GitLabForge, Field(discriminator="type")]
