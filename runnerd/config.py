"""The whole configuration as typed models.

One YAML file becomes one frozen `Config`; everything else in runnerd reads that and nothing of the environment. Each
field states its unit and why its default is what it is. `defaults` is the only inheritance: pools are merged with it
before they are read, so a `Pool` here is complete. This module knows no cloud: a provider's own options pass as a
mapping to the provisioner that understands them.
"""

from __future__ import annotations

import datetime
import enum
import fnmatch
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from provisioners import base
from runnerd import configtypes, secrets
from runnerd.configtypes import (
    Command,
    Database,
    Dollars,
    Duration,
    Environment,
    FilePath,
    Flag,
    ForgeUrl,
    Gpu,
    Listening,
    MachineTypes,
    Model,
    Named,
    SecretRef,
    Share,
    Size,
    Span,
    Tags,
    Texts,
    Warm,
    WebUrl,
)

#: Counts of things; the ceiling is far above any fleet and catches a slip of the keyboard.
Count = Annotated[int, *configtypes.whole(0, 100_000)]

GITHUB_COMMAND = ("/opt/actions-runner/bin/Runner.Listener", "run")
GITLAB_COMMAND = ("/usr/bin/gitlab-runner", "run-single")


class MarketChoice(enum.StrEnum):
    """Which markets a pool buys in."""

    #: Only at the list price.
    ON_DEMAND = "on-demand"
    #: Only spot; jobs wait when there is none.
    SPOT = "spot"
    #: Spot first, the list price when no spot offer is left to try.
    SPOT_THEN_ON_DEMAND = "spot-then-on-demand"

    @property
    def markets(self) -> tuple[base.Market, ...]:
        """The markets in the order they are tried."""
        return {
            MarketChoice.ON_DEMAND: (base.Market.ON_DEMAND,),
            MarketChoice.SPOT: (base.Market.SPOT,),
            MarketChoice.SPOT_THEN_ON_DEMAND: (base.Market.SPOT, base.Market.ON_DEMAND),
        }[self]


class Order(enum.StrEnum):
    """How offers are ranked."""

    #: In the order of `from`.
    LISTED = "listed"
    #: By price over all of `from`.
    CHEAPEST = "cheapest"


class OnReached(enum.StrEnum):
    """What happens when a limit in dollars is reached."""

    #: No new instance; those with jobs go on.
    STOP = "stop"
    #: New instances only from the spot market.
    SPOT_ONLY = "spot-only"
    #: An alarm and nothing else.
    ALERT = "alert"


class Bootstrap(enum.StrEnum):
    """How an instance gets its agent and its runner configuration."""

    #: It fetches both from the daemon with a one-time token.
    FETCH = "fetch"
    #: Both are in the user-data, for instances without a path to the daemon.
    EMBEDDED = "embedded"


class Overlap(enum.StrEnum):
    """Whether another pool may match the same jobs."""

    #: The configuration is refused.
    REFUSED = "refused"
    #: The operator knows; needed on both pools.
    ALLOWED = "allowed"


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


class AssetsTo(enum.StrEnum):
    """Where images of reports go."""

    #: runnerd's own store, served at `public_url`.
    STORE = "store"
    #: The forge itself (GitLab only).
    NATIVE = "native"
    #: The summary of the job.
    SUMMARY = "summary"


class LogFormat(enum.StrEnum):
    """How the daemon writes its log."""

    #: For people.
    TEXT = "text"
    #: One JSON object per line.
    JSON = "json"


class LogLevel(enum.StrEnum):
    """The least severity that is logged."""

    #: Every step.
    DEBUG = "debug"
    #: Every transition.
    INFO = "info"
    #: What degrades.
    WARNING = "warning"
    #: What fails.
    ERROR = "error"


class Limits(Model):
    """Ceilings. One block, valid for the whole, a provider, a pool and a team; all that apply hold at once."""

    instances: Count | None = None
    """Instances that exist or are asked for at one time. Required at the top, so that no slip is unbounded."""

    gpus: Count | None = None
    """GPUs in those instances; none counted when absent."""

    dollars_per_hour: Dollars | None = None
    """US dollars per hour that all instances together may cost at launch prices."""

    dollars_per_day: Dollars | None = None
    """US dollars per calendar day, UTC. Counted as accrued plus what live instances may still run."""

    dollars_per_month: Dollars | None = None
    """US dollars per calendar month, UTC; counted like the day's."""

    dollars_total: Dollars | None = None
    """US dollars in all, until the day named by `until`."""

    until: datetime.date | None = None
    """The last day (UTC) of `dollars_total`, as YYYY-MM-DD; without it the total never starts afresh."""

    on_reached: OnReached = OnReached.STOP
    """What a reached limit in dollars does: `stop` (new instances), `spot-only` or `alert`. Instances with jobs are
    never ended for money. `stop`, because a budget that does not act is a wish."""

    @property
    def empty(self) -> bool:
        """True when nothing is limited."""
        names = ("instances", "gpus", "dollars_per_hour", "dollars_per_day", "dollars_per_month", "dollars_total")
        return all(getattr(self, name) is None for name in names)


class RunnerCommand(Model):
    """How the forge's runner is started on an instance."""

    command: Command
    """The program and its arguments, one entry each; no shell reads them."""

    work: str | None = None
    """The directory for the jobs' checkouts on the instance; the runner's own default when absent."""


class Runner(Model):
    """How runners are started. May stand in `defaults`, at a provider and at a pool; the nearest to the pool wins."""

    github: RunnerCommand | None = None
    """GitHub's runner; by default `/opt/actions-runner/bin/Runner.Listener run`, where our images have it."""

    gitlab: RunnerCommand | None = None
    """GitLab's runner; by default `/usr/bin/gitlab-runner run-single`, where its packages put it."""

    env: Environment = {}
    """Variables that the runner, and so every job, sees. Merged key by key; never for secrets."""


class Allow(Model):
    """Who may use a pool, beyond what the forge and its runner groups already decide."""

    repos: Texts = ()
    """Repositories or projects as globs (`acme/nlp-*`), compared without regard to case; empty means every one that
    the forge shows. `*` also crosses a slash."""

    protected_only: Flag = False
    """Only jobs of protected branches and tags (GitLab's protected runners)."""

    public: Flag = False
    """Public repositories too. Off, because strangers could run code on the instance."""

    forks: Flag = False
    """Pull requests from forks too. Off for the same reason."""

    def repository(self, name: str) -> bool:
        """True when a repository or project of that full name may use the pool."""
        return not self.repos or matches(name, self.repos)


def matches(name: str, globs: tuple[str, ...]) -> bool:
    """True when the name fits one of the globs, without regard to case."""
    return any(fnmatch.fnmatchcase(name.lower(), glob.lower()) for glob in globs)


class Defaults(Model):
    """What pools inherit. Every key may also stand at a pool; maps are merged key by key, lists are replaced."""

    market: MarketChoice = MarketChoice.ON_DEMAND
    """`on-demand`, `spot` or `spot-then-on-demand`. On demand, because a job must know that it may be interrupted."""

    order: Order = Order.LISTED
    """`listed` (the order of `from`) or `cheapest`. Listed, so that the file says what happens."""

    max_job: Span = 12 * 3600.0
    """The longest a job may run; then its instance is ended. 12 hours: longer than most, short of a lost weekend."""

    idle: Duration = 600.0
    """How long an instance waits for its first job before it is given back. 10 minutes: a re-run finds it warm."""

    max_idle_age: Span = 24 * 3600.0
    """The age at which an idle instance is replaced, warm ones too. A day: images and drivers grow stale."""

    boot: Span = 600.0
    """How long an instance may take until its agent reports. 10 minutes: GPU drivers load slowly."""

    disk: Size | None = None
    """Size of the boot disk; the image's own when absent."""

    runner: Runner = Runner()
    """How runners are started."""

    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "runner"
    """The Unix user that runs jobs on an instance; never root."""

    bootstrap: Bootstrap = Bootstrap.FETCH
    """`fetch` (from the daemon, with a one-time token) or `embedded` (in user-data; weaker, see the guide)."""

    spill_after: Duration = 0.0
    """How long a job waits for the first provider of `from` before the next is tried; 0 tries at once. For one's own
    boxes in front of a cloud."""

    allow: Allow = Allow()
    """Who may use the pool."""


class Pool(Named, Defaults):
    """One kind of machine and the labels that ask for it. Keys of `defaults` that it does not set are inherited."""

    gpu: Gpu = None
    """The GPU model, with a count for several: `t4`, `"a100-40 x 4"`; none when absent."""

    cpu: Annotated[int, *configtypes.whole(1, 1024)] | None = None
    """The least number of vCPUs."""

    memory: Size | None = None
    """The least main memory, for example `64GiB`."""

    types: MachineTypes = None
    """Exact machine types instead of a shape: a list, or a map from provider to list."""

    arch: Literal["x86_64", "arm64"] = "x86_64"
    """The processor: `x86_64` or `arm64`."""

    from_: Texts = Field(default=(), alias="from")
    """Providers in the order they are tried; all of them in the order of the file when absent."""

    labels: Texts = ()
    """The labels (GitHub) or tags (GitLab) of the runners: a job matches when all that it asks for are here. The name
    of the pool when absent, the same word on both forges."""

    warm: Warm = 0
    """Instances kept ready without a job: a number, or a map from periods or cron expressions to numbers. 0, because
    a warm machine costs money."""

    limits: Limits = Limits()
    """Ceilings of this pool."""

    tags: Tags = {}
    """Tags on the pool's instances, beside those of the top, the provider and the team."""

    forges: Texts = ()
    """Forges whose jobs it serves; all when absent."""

    overlap: Overlap = Overlap.REFUSED
    """`allowed` when another pool may match the same jobs; both pools must say so. Refused, because the forge then
    decides which machine a job gets."""

    untagged: Flag = False
    """Take GitLab jobs without tags too. Off, because most of them need no GPU."""

    options: dict[str, dict[str, Any]] = {}
    """Options for single providers (a map from provider to its own keys), passed on as they are."""

    @property
    def gpu_model(self) -> str:
        """The GPU's catalogue name, empty for none."""
        return (self.gpu or "").partition(" x ")[0]

    @property
    def gpu_count(self) -> int:
        """GPUs per instance."""
        if not self.gpu:
            return 0
        return int(self.gpu.partition(" x ")[2] or 1)

    def types_for(self, provider: str) -> tuple[str, ...]:
        """The exact machine types to buy from a provider; empty for any that fits."""
        if isinstance(self.types, dict):
            return self.types.get(provider, ())
        return self.types or ()

    def shape(self, provider: str) -> base.Shape:
        """What to ask a provider for."""
        return base.Shape(
            gpu=self.gpu_model,
            gpu_count=self.gpu_count,
            cpus=self.cpu or 0,
            memory=self.memory or 0,
            arch=self.arch,
            types=self.types_for(provider),
            markets=self.market.markets,
        )


class Provider(Named):
    """A source of instances. Keys that are not listed here belong to the provisioner of that `type`."""

    type: Annotated[str, Field(min_length=1)]
    """Which provisioner: `fake` and `local` are built in; others register themselves under the entry point group
    `runnerd.provisioners`."""

    limits: Limits = Limits()
    """Ceilings of this provider."""

    tags: Tags = {}
    """Tags on its instances."""

    runner: Runner = Runner()
    """How runners are started on its instances."""

    agent_url: WebUrl | None = None
    """Where its instances reach the daemon; the top's `agent_url` when absent."""

    options: dict[str, Any] = {}
    """Every other key, unread here; the provisioner's `validate` judges them."""


class Team(Named):
    """Some repositories that share ceilings and tags."""

    repos: Texts
    """Repositories or projects as globs. A repository belongs to the first team of the file that names it."""

    limits: Limits = Limits()
    """Ceilings of the team over all pools."""

    tags: Tags = {}
    """Tags on instances bought for the team's jobs."""


class GitHubApp(Model):
    """A GitHub App installed for the organisation or repository."""

    id: Annotated[int, Field(strict=True, gt=0)] | Annotated[str, Field(min_length=1)]
    """The App's number, or its client id."""

    key: SecretRef
    """Its private key (PEM)."""

    installation: Annotated[int, Field(strict=True, gt=0)] | None = None
    """The installation's number; looked up when absent."""


class Audit(Model):
    """The search for jobs that no message announced."""

    interval: Span = 600.0
    """How often. 10 minutes: a stranded job is rare and a search costs requests."""

    share: Share = 0.1
    """The part of the hourly request quota it may use. A tenth leaves the rest to work."""


class Retry(Model):
    """Re-running of jobs that a cloud interrupted."""

    preempted: Annotated[int, *configtypes.whole(0, 3)] = 0
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
    """How often jobs are asked for in `rest` mode. 30 seconds stay within the quota for dozens of repositories."""

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

    @property
    def hosted(self) -> bool:
        """True for github.com and GitHub's own other hosts, False for an Enterprise Server."""
        name = urllib.parse.urlsplit(self.url).hostname or ""
        return name in ("github.com", "www.github.com") or name.endswith(".ghe.com")

    @property
    def api_url(self) -> str:
        """The root of the REST API."""
        parts = urllib.parse.urlsplit(self.url)
        if self.hosted:
            return f"https://api.{(parts.hostname or '').removeprefix('www.')}"
        return f"{parts.scheme}://{parts.netloc}/api/v3"

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

    requests_per_minute: Annotated[int, *configtypes.whole(1, 100_000)] = 300
    """The ceiling of requests per minute. 300: half of the tightest limit documented for gitlab.com."""

    registration: RunnerRecords = RunnerRecords.AUTO
    """`instance`, `flavour` or `auto`."""

    runner_cap: Annotated[int, *configtypes.whole(1, 100_000)] = 50
    """How many runners the plan allows. 50: the limit of the free plan for active runners of a group."""

    @pydantic.model_validator(mode="after")
    def _names_something(self) -> GitLabForge:
        if not self.groups and not self.projects:
            raise ValueError("watches nothing; add groups: [ml] or projects: [ml/train]")
        return self


class Listen(Model):
    """Where the daemon listens."""

    ops: Listening | None = "127.0.0.1:9477"
    """Metrics, health and the page; null for none. Loopback, because it has no log-in."""

    public: Listening | None = "127.0.0.1:8477"
    """Webhooks, agents and report images; null for none. Loopback: a TLS proxy belongs in front."""

    socket: str = "/run/runnerd/runnerd.sock"
    """The Unix socket of the commands."""


class Assets(Model):
    """Images of reports."""

    to: AssetsTo = AssetsTo.STORE
    """`store`, `native` or `summary`. Never a public third party."""

    max_bytes: Size = 10 * 2**20
    """The largest image. 10MiB: what GitHub's image proxy still shows."""

    total_bytes: Size = 10 * 2**30
    """The size of the whole store; then new images are refused and an alarm is raised."""

    retention: Span = 90 * 86400.0
    """How long an image is kept. 90 days: as long as GitHub keeps logs."""

    types: tuple[Literal["png", "jpeg", "gif", "webp", "svg", "pdf"], ...] = ("png", "jpeg", "gif", "webp", "svg")
    """Which kinds are taken, judged by content. SVG is served so that no script in it can run."""


class Reconcile(Model):
    """The rhythm of the control loop."""

    interval: Span = 15.0
    """How often everything is derived anew although no event came. 15 seconds bound what a lost event costs."""

    list_interval: Span = 30.0
    """How often each provider is asked for its instances."""

    stale_after: Span = 120.0
    """The age at which a forge's word about demand counts as unknown and shrinks nothing."""

    drain: Duration = 30.0
    """How long the daemon finishes work under way when told to stop."""


class Log(Model):
    """The daemon's log, on standard error."""

    level: LogLevel = LogLevel.INFO
    """`debug`, `info`, `warning` or `error`."""

    format: LogFormat = LogFormat.TEXT
    """`text` or `json`."""


AnyForge = Annotated[GitHubForge | GitLabForge, Field(discriminator="type")]


class Config(Model):
    """The configuration of one daemon."""

    controller: str
    """The name in the tags of everything this daemon makes; at most 40 of a-z, 0-9 and -. Explicit and constant, so
    that a lost database loses no machine."""

    public_url: WebUrl | None = None
    """The address under which the public listener is reached from outside."""

    agent_url: WebUrl | None = None
    """The address under which instances reach it; `public_url` when absent."""

    state: FilePath = Path("/var/lib/runnerd")
    """The directory of everything durable."""

    database: Database = None
    """A SQLAlchemy URL (PostgreSQL) without password, or a reference to a whole URL; SQLite in `state` when absent."""

    secret: SecretRef | None = None
    """The key that instance tokens are derived from; made in `state/secret.key` at the first start when absent."""

    listen: Listen = Listen()
    """Where the daemon listens."""

    forges: dict[str, AnyForge] = Field(min_length=1)
    """Where jobs come from, by a name of one's own."""

    providers: dict[str, Provider] = Field(min_length=1)
    """Where instances come from, by a name of one's own."""

    limits: Limits
    """Ceilings of the whole; at least `instances`."""

    defaults: Defaults = Defaults()
    """What every pool inherits."""

    pools: dict[str, Pool] = Field(min_length=1)
    """The kinds of machines, by the name that jobs ask for."""

    teams: dict[str, Team] = {}
    """Repositories that share ceilings and tags."""

    tags: Tags = {}
    """Tags on every instance."""

    assets: Assets = Assets()
    """Images of reports."""

    reconcile: Reconcile = Reconcile()
    """The rhythm of the control loop."""

    log: Log = Log()
    """The daemon's log."""

    @pydantic.field_validator("controller")
    @classmethod
    def _controller_is_a_host_label(cls, value: str) -> str:
        if not configtypes.DNS_LABEL.match(value):
            raise ValueError("a controller's name has 1 to 40 of a-z, 0-9 and -, and neither begins nor ends with -")
        return value
