"""The blocks of the configuration that say what is bought, how much of it, and for whom.

`defaults` is the only inheritance. A `Pool` is read after the merge, so each of its fields is the value
that holds.
"""

from __future__ import annotations

import enum
import fnmatch
from typing import Annotated, Any, Literal

from pydantic import Field

from provisioners import base
from runnerd.config import fields
from runnerd.config.fields import (
    Command,
    Dollars,
    Duration,
    Environment,
    Flag,
    Gpu,
    MachineTypes,
    Model,
    Named,
    Size,
    Span,
    Tags,
    Texts,
    Warm,
    WebUrl,
)
from runnerd.config.limits import Limits

#: Seconds between the latest end of a job and the deadline: for clocks that differ and for the job's clean-up.
DEADLINE_MARGIN_S = 600.0


class MarketChoice(enum.StrEnum):
    """The markets that a pool buys in."""

    #: Only at the list price.
    ON_DEMAND = "on-demand"
    #: Only spot; jobs wait when there is none.
    SPOT = "spot"
    #: Spot first, the list price when no spot offer is left to try.
    SPOT_THEN_ON_DEMAND = "spot-then-on-demand"

    @property
    def markets(self) -> tuple[base.Market, ...]:
        """Return the markets in the order they are tried."""
        return {
            MarketChoice.ON_DEMAND: (base.Market.ON_DEMAND,),
            MarketChoice.SPOT: (base.Market.SPOT,),
            MarketChoice.SPOT_THEN_ON_DEMAND: (base.Market.SPOT, base.Market.ON_DEMAND),
        }[self]


class Order(enum.StrEnum):
    """The ranking of offers."""

    #: In the order of `from`.
    LISTED = "listed"
    #: By price over all of `from`.
    CHEAPEST = "cheapest"


class Bootstrap(enum.StrEnum):
    """The way in which an instance gets its agent and its runner configuration."""

    #: It fetches both from the daemon with a one-time token.
    FETCH = "fetch"
    #: Both are in the user-data, for instances without a path to the daemon.
    EMBEDDED = "embedded"


class Overlap(enum.StrEnum):
    """Permission for another pool to match the same jobs."""

    #: The configuration is refused.
    REFUSED = "refused"
    #: The operator knows; needed on both pools.
    ALLOWED = "allowed"


class RunnerCommand(Model):
    """The command that starts a forge's runner on an instance."""

    command: Command
    """The program and its arguments, one entry each; no shell reads them."""


class Runner(Model):
    """Start of runners. May stand in `defaults`, at a provider and at a pool; the nearest to the
    pool wins."""

    github: RunnerCommand | None = None
    """GitHub's runner; by default `/opt/actions-runner/bin/Runner.Listener run`, where our images have it."""

    gitlab: RunnerCommand | None = None
    """GitLab's runner; by default `/usr/bin/gitlab-runner run-single`, where its packages put it."""

    env: Environment = Field(default_factory=dict)
    """Variables that the runner, and so every job, sees. Merged key by key; never for secrets."""


class Allow(Model):
    """The jobs that may use a pool, beyond what the forge and its runner groups already decide."""

    repos: Texts = ()
    """Repositories or projects as globs (`acme/nlp-*`), compared without regard to case; empty means every
    one that the forge shows. `*` also crosses a slash."""

    protected_only: Flag = False
    """Only jobs of protected branches and tags (GitLab's protected runners)."""

    public: Flag = False
    """Public repositories too. Off, because strangers could run code on the instance."""

    forks: Flag = False
    """Pull requests from forks too. Off for the same reason."""

    def repository(self, name: str) -> bool:
        """Return True when a repository or project of that full name may use the pool."""
        return not self.repos or matches(name, self.repos)


def matches(name: str, globs: tuple[str, ...]) -> bool:
    """Return True when the name fits one of the globs, without regard to case."""
    return any(fnmatch.fnmatchcase(name.lower(), glob.lower()) for glob in globs)


class Defaults(Model):
    """Settings that pools inherit. Every key may also stand at a pool; maps are merged key by key, lists are
    replaced."""

    market: MarketChoice = MarketChoice.ON_DEMAND
    """`on-demand`, `spot` or `spot-then-on-demand`. On demand, because a job must know that it may be
    interrupted."""

    order: Order = Order.LISTED
    """`listed` (the order of `from`) or `cheapest`. Listed, so that the file says what happens."""

    max_price: Dollars | None = None
    """The most that an instance may cost, in US dollars per hour; dearer offers are not bought. No cap when absent."""

    max_job: Span = 12 * 3600.0
    """The longest a job may run; then its instance is ended. 12 hours: longer than most, short of a lost
    weekend."""

    idle: Duration = 600.0
    """How long an instance waits for its first job before it is given back. 10 minutes: a re-run finds it
    warm."""

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
    """`fetch`: from the daemon, with a one-time token. `embedded` (in user-data) is not available yet."""

    spill_after: Duration = 0.0
    """How long a job waits for the first provider of `from` before the next is tried; 0 tries at once. For
    one's own boxes in front of a cloud."""

    allow: Allow = Allow()
    """Who may use the pool."""


class Pool(Named, Defaults):
    """One kind of machine and the labels that ask for it. Keys of `defaults` that it does not set are
    inherited."""

    gpu: Gpu = None
    """The GPU model, with a count for several: `t4`, `"a100-40 x 4"`; none when absent."""

    cpu: Annotated[int, *fields.whole(1, 1024)] | None = None
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
    """The labels (GitHub) or tags (GitLab) of the runners: a job matches when all that it asks for are
    here. The name of the pool when absent, the same word on both forges."""

    warm: Warm = 0
    """Instances kept ready without a job: a number, or a map from periods or cron expressions to numbers.
    0, because a warm machine costs money."""

    limits: Limits = Limits()
    """Ceilings of this pool."""

    tags: Tags = Field(default_factory=dict)
    """Tags on the pool's instances, beside those of the top, the provider and the team."""

    forges: Texts = ()
    """Forges whose jobs it serves; all when absent."""

    overlap: Overlap = Overlap.REFUSED
    """`allowed` when another pool may match the same jobs; both pools must say so. Refused, because the
    forge then decides which machine a job gets."""

    untagged: Flag = False
    """Take GitLab jobs without tags too. Off, because most of them need no GPU."""

    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options for single providers (a map from provider to its own keys), passed on as they are."""

    @property
    def gpu_model(self) -> str:
        """Return the GPU's catalogue name, empty for none."""
        return (self.gpu or "").partition(" x ")[0]

    @property
    def gpu_count(self) -> int:
        """Return the number of GPUs per instance."""
        if not self.gpu:
            return 0
        return int(self.gpu.partition(" x ")[2] or 1)

    @property
    def lifetime(self) -> float:
        """Return the seconds from launch to the deadline that ends an instance in any case."""
        wait = self.max_idle_age if self.warm else self.idle
        return self.boot + wait + self.max_job + DEADLINE_MARGIN_S

    def types_for(self, provider: str) -> tuple[str, ...]:
        """Return the exact machine types to buy from a provider; empty for any that fits."""
        if isinstance(self.types, dict):
            return self.types.get(provider, ())
        return self.types or ()

    def shape(self, provider: str) -> base.Shape:
        """Return the shape to ask a provider for."""
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
    """Which provisioner: `aws`, `gcp` and `azure` (each an extra of the package), `fake` and `local` are built in;
    others register themselves under the entry point group `runnerd.provisioners`."""

    limits: Limits = Limits()
    """Ceilings of this provider."""

    tags: Tags = Field(default_factory=dict)
    """Tags on its instances."""

    runner: Runner = Runner()
    """How runners are started on its instances."""

    agent_url: WebUrl | None = None
    """Where its instances reach the daemon; the top's `agent_url` when absent."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Every other key, unread here; the provisioner's `validate` judges them."""


class Team(Named):
    """Some repositories that share ceilings and tags."""

    repos: Texts
    """Repositories or projects as globs. A repository belongs to the first team of the file that names it."""

    limits: Limits = Limits()
    """Ceilings of the team over all pools."""

    tags: Tags = Field(default_factory=dict)
    """Tags on instances bought for the team's jobs."""
