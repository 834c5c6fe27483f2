"""The blocks for machines: pools, providers, teams, and the defaults that pools inherit.

`defaults` is the only inheritance. A `Pool` is read after the merge, so each of its fields is the value that applies.
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

    #: Only on demand.
    ON_DEMAND = "on-demand"
    #: Only spot; jobs wait when there is none.
    SPOT = "spot"
    #: Spot first, on demand when no spot offer is left to try.
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
    #: Both are in the user data, for instances without a route to the daemon.
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
    """The program and its arguments, one entry each; not read by a shell."""


class Runner(Model):
    """Commands and environment of runners. Allowed in `defaults`, at a provider and at a pool; the pool's wins,
    then the provider's."""

    github: RunnerCommand | None = None
    """GitHub's runner; `/opt/actions-runner/bin/Runner.Listener run` when absent."""

    gitlab: RunnerCommand | None = None
    """GitLab's runner; `/usr/bin/gitlab-runner run-single` when absent."""

    env: Environment = Field(default_factory=dict)
    """Environment variables of the runner and so of every job. Merged key by key; never for secrets."""


class Allow(Model):
    """The jobs that may use a pool, beyond what the forge and its runner groups already decide."""

    repos: Texts = ()
    """Repositories or projects as globs (`acme/nlp-*`), not case-sensitive; `*` also matches a slash. Empty allows
    every repository of the forge."""

    protected_only: Flag = False
    """Only jobs of protected branches and tags (GitLab's protected runners)."""

    public: Flag = False
    """Public repositories too. Off, because strangers could run code on an instance."""

    forks: Flag = False
    """Pull requests from forks too. Off for the same reason."""

    def repository(self, name: str) -> bool:
        """Return True when a repository or project of that full name may use the pool."""
        return not self.repos or matches(name, self.repos)


def matches(name: str, globs: tuple[str, ...]) -> bool:
    """Return True when the name fits one of the globs, without regard to case."""
    return any(fnmatch.fnmatchcase(name.lower(), glob.lower()) for glob in globs)


class Defaults(Model):
    """Settings that pools inherit. A pool may set every key itself; maps are merged key by key, lists are replaced."""

    market: MarketChoice = MarketChoice.ON_DEMAND
    """`on-demand`, `spot` or `spot-then-on-demand`. On demand, because jobs should not be interrupted unless you
    opt in."""

    order: Order = Order.LISTED
    """`listed` (the order of `from`) or `cheapest`. Listed, so that the order can be read from the file."""

    max_price: Dollars | None = None
    """The highest price of an instance in US dollars per hour; unlimited when absent."""

    max_job: Span = 12 * 3600.0
    """The longest time that a job may run before its instance is ended. 12 hours covers most jobs and bounds the cost
    of a hung one."""

    idle: Duration = 600.0
    """The longest time that an instance waits for its job before it is ended. 10 minutes, so that a re-run finds it
    ready."""

    max_idle_age: Span = 24 * 3600.0
    """The age at which an idle instance is replaced, warm ones too. A day, because images and drivers become
    outdated."""

    boot: Span = 600.0
    """The longest time until an instance's agent reports. 10 minutes, because GPU drivers load slowly."""

    disk: Size | None = None
    """Size of the boot disk; the image's size when absent."""

    runner: Runner = Runner()
    """Commands and environment of runners."""

    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "runner"
    """The Unix user that runs jobs on an instance; never root."""

    bootstrap: Bootstrap = Bootstrap.FETCH
    """`fetch`: from the daemon, with a one-time token. `embedded` (in the user data) is not available yet."""

    spill_after: Duration = 0.0
    """The time that a job waits for the first provider of `from` before it spills to the next; 0 spills at once. For
    machines of your own in front of a cloud."""

    allow: Allow = Allow()
    """Jobs that may use the pool."""


class Pool(Named, Defaults):
    """One kind of machine and the labels that ask for it. Keys of `defaults` that it does not set are inherited."""

    gpu: Gpu = None
    """The GPU model, with a count for several: `t4`, `"a100-40 x 4"`; no GPU when absent."""

    cpu: Annotated[int, *fields.whole(1, 1024)] | None = None
    """The minimum number of vCPUs."""

    memory: Size | None = None
    """The minimum memory, for example `64GiB`."""

    types: MachineTypes = None
    """Exact machine types instead of a shape: a list, or a map from provider to list."""

    arch: Literal["x86_64", "arm64"] = "x86_64"
    """The processor architecture: `x86_64` or `arm64`."""

    from_: Texts = Field(default=(), alias="from")
    """Providers in the order in which they are tried; all, in the order of the file, when absent."""

    labels: Texts = ()
    """The labels (GitHub) or tags (GitLab) of the runners. A job matches when the pool has all of the job's. The
    pool's name when absent."""

    warm: Warm = 0
    """Instances kept ready without a job: a number, or a map from periods or cron expressions to numbers. 0, because a
    warm instance costs money."""

    limits: Limits = Limits()
    """Ceilings of this pool."""

    tags: Tags = Field(default_factory=dict)
    """Tags for the pool's instances, in addition to those of the top, the provider and the team."""

    forges: Texts = ()
    """Forges that it serves; all when absent."""

    overlap: Overlap = Overlap.REFUSED
    """`allowed` if another pool may match the same jobs; both pools must set it. Refused, because the forge then
    decides which machine a job gets."""

    untagged: Flag = False
    """Accept GitLab jobs without tags. Off, because most of them need no GPU."""

    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options for one provider each: a map from provider to that provider's own keys."""

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
    """A source of instances. All other keys belong to the provisioner of that `type`."""

    type: Annotated[str, Field(min_length=1)]
    """The provisioner: `local`, `fake`, or a cloud (an extra of the package), such as `aws`. Packages register others
    under the entry point group `runnerd.provisioners`."""

    limits: Limits = Limits()
    """Ceilings of this provider."""

    tags: Tags = Field(default_factory=dict)
    """Tags for its instances."""

    runner: Runner = Runner()
    """Commands and environment of runners on its instances."""

    agent_url: WebUrl | None = None
    """The URL at which its instances reach the daemon; the top-level `agent_url` when absent."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Every other key, for the provisioner, whose `validate` checks them."""


class Team(Named):
    """Repositories that share ceilings and tags."""

    repos: Texts
    """Repositories or projects as globs. A repository belongs to the first team that matches it."""

    limits: Limits = Limits()
    """Ceilings of the team across all pools."""

    tags: Tags = Field(default_factory=dict)
    """Tags for instances that are bought for the team's jobs."""
