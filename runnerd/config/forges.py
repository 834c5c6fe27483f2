"""The blocks of the configuration that say where jobs come from.

Whatever a forge's client needs to know of the operator's wishes is here; what the forge itself knows
(runner groups, visibility, protected refs) is asked there and not repeated.
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
    """How GitHub tells runnerd about jobs."""

    #: One runner scale set per queue; GitHub counts and pushes.
    SCALE_SET = "scale-set"
    #: REST with just-in-time runners, for hosts without scale sets.
    REST = "rest"


class Acquire(enum.StrEnum):
    """Whether messages of a scale set must be answered by acquiring the job."""

    #: As the host asks: GitHub Enterprise Server does, github.com does not.
    AUTO = "auto"
    #: Always.
    ALWAYS = "always"
    #: Never.
    NEVER = "never"


class RunnerRecords(enum.StrEnum):
    """How many runner records GitLab gets."""

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
    """Its private key (PEM)."""

    installation: Number | None = None
    """The installation's number; looked up when absent."""


class Audit(Model):
    """The search for jobs that no message announced."""

    interval: Span = 600.0
    """How often. 10 minutes: a stranded job is rare and a search costs requests."""

    share: Share = 0.1
    """The part of the hourly request quota it may use. A tenth leaves the rest to work."""


class Retry(Model):
    """Re-running of jobs that a cloud interrupted."""

    preempted: Annotated[int, *fields.whole(0, 3)] = 0
    """How often an interrupted job is re-run, 0 to 3. 0, because a re-run may publish twice."""


class Forge(Named):
    """What both kinds of forge have."""

    ca: FilePath | None = None
    """A file of certificate authorities to trust beside the system's."""

    retry: Retry = Retry()
    """Re-running of interrupted jobs."""


class GitHubForge(Forge):
    """An organisation, a repository or an enterprise on GitHub or GitHub Enterprise Server."""

    type: Literal["github"]
    """`github`."""

    url: ForgeUrl
    """`https://github.com/acme`, `…/acme/repo`, `…/enterprises/x`, or the same on one's own host."""

    app: GitHubApp | None = None
    """A GitHub App: preferred, its tokens live an hour. Not possible for an enterprise."""

    token: SecretRef | None = None
    """A personal access token instead of an App."""

    webhook_secret: SecretRef | None = None
    """The secret of the webhook; without it webhooks are refused and runnerd relies on asking."""

    runner_group: Annotated[str, Field(min_length=1)] = "Default"
    """The runner group that its runners join. GitHub's own default group."""

    mode: Mode = Mode.SCALE_SET
    """`scale-set` or `rest`. Scale sets, because GitHub then counts the jobs itself."""

    repos: Texts = ()
    """Repositories (`acme/ml`) to ask in `rest` mode and to audit first; those seen at work are added."""

    poll: Span = 30.0
    """How often jobs are asked for in `rest` mode. 30 seconds stay within the quota for dozens of
    repositories."""

    audit: Audit = Audit()
    """The search for stranded jobs."""

    public_repositories: Flag = False
    """Whether the runner group may serve public repositories. Off: strangers could run code."""

    acquire: Acquire = Acquire.AUTO
    """`auto`, `always` or `never`: whether scale set messages are answered by acquiring jobs."""

    @property
    def host(self) -> str:
        """The host and port, for example `github.com`."""
        return urllib.parse.urlsplit(self.url).netloc

    @property
    def parts(self) -> tuple[str, ...]:
        """The path of the URL, taken apart."""
        return tuple(part for part in urllib.parse.urlsplit(self.url).path.split("/") if part)

    @property
    def scope(self) -> str:
        """What the URL names: `acme`, `acme/ml` or `enterprises/x`."""
        return "/".join(self.parts)

    @property
    def kind(self) -> Literal["organization", "repository", "enterprise"]:
        """What sort of scope that is."""
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
    """Groups and projects on gitlab.com or one's own GitLab."""

    type: Literal["gitlab"]
    """`gitlab`."""

    url: ForgeUrl = "https://gitlab.com"
    """The address of the GitLab, without the group."""

    token: SecretRef
    """An access token with `api` and `create_runner`, of an owner or maintainer of all that is listed."""

    groups: Texts = ()
    """Groups by full path; their subgroups belong to them."""

    projects: Texts = ()
    """Single projects by full path."""

    webhook_token: SecretRef | None = None
    """The webhook's secret token (`X-Gitlab-Token`)."""

    signing_token: SecretRef | None = None
    """The webhook's signing token (`whsec_…`), where the GitLab has signed webhooks."""

    poll: Span = 15.0
    """How often a project with recent jobs is asked. 15 seconds, because GitLab has no push for all cases."""

    idle_poll: Span = 60.0
    """How often a quiet project is asked."""

    requests_per_minute: Annotated[int, *fields.whole(1, 100_000)] = 300
    """The ceiling of requests per minute. 300: half of the tightest limit documented for gitlab.com."""

    registration: RunnerRecords = RunnerRecords.AUTO
    """`instance`, `flavour` or `auto`."""

    runner_cap: Annotated[int, *fields.whole(1, 100_000)] = 50
    """How many runners the plan allows. 50: the limit of the free plan for active runners of a group."""

    @pydantic.model_validator(mode="after")
    def _names_something(self) -> GitLabForge:
        if not self.groups and not self.projects:
            raise ValueError("watches nothing; add groups: [ml] or projects: [ml/train]")
        return self


AnyForge = Annotated[GitHubForge | GitLabForge, Field(discriminator="type")]
