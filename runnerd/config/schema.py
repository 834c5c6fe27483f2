"""The whole configuration as typed models.

One YAML file becomes one frozen `Config`; everything else in runnerd reads that and nothing of the
environment. Each field states its unit and why its default is what it is. `defaults` is the only
inheritance: pools are merged with it before they are read, so a `Pool` here is complete. No cloud is known
here: a provider's own options pass as a mapping to the provisioner that understands them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pydantic
from pydantic import Field

from runnerd.config import fields
from runnerd.config.fields import Database, Duration, FilePath, Listening, Model, SecretRef, Size, Span, Tags, WebUrl
from runnerd.config.forges import AnyForge
from runnerd.config.limits import Limits
from runnerd.config.pools import Defaults, Pool, Provider, Team, matches
from runnerd.kit import secrets, yamlfile

#: By the type of the forge, the command that starts a runner unless `runner` sets another.
RUNNER_COMMANDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "github": ("/opt/actions-runner/bin/Runner.Listener", "run"),
        "gitlab": ("/usr/bin/gitlab-runner", "run-single"),
    }
)


class AssetsTo(enum.StrEnum):
    """Destination of the images of reports."""

    #: runnerd's own store, served at `public_url`.
    STORE = "store"
    #: The forge itself (GitLab only).
    NATIVE = "native"
    #: The summary of the job.
    SUMMARY = "summary"


class LogFormat(enum.StrEnum):
    """Format of the daemon's log."""

    #: For people.
    TEXT = "text"
    #: One JSON object per line.
    JSON = "json"


class LogLevel(enum.StrEnum):
    """The lowest severity that is logged."""

    #: Every step.
    DEBUG = "debug"
    #: Every transition.
    INFO = "info"
    #: Degraded operation.
    WARNING = "warning"
    #: Failures.
    ERROR = "error"


class Listen(Model):
    """The addresses that the daemon listens on."""

    ops: Listening | None = "127.0.0.1:9477"
    """Metrics, health and the status page; null turns it off. Loopback, because it has no authentication."""

    public: Listening | None = "127.0.0.1:8477"
    """Webhooks, agents and report images; null turns it off. Loopback, because a TLS proxy belongs in front."""

    socket: str = "/run/runnerd/runnerd.sock"
    """The Unix socket that the commands use."""


class Assets(Model):
    """Images of reports."""

    to: AssetsTo = AssetsTo.STORE
    """`store` (served at `public_url`), `native` (uploaded to GitLab) or `summary` (in the job's summary). Never a
    third party."""

    max_bytes: Size = 10 * 2**20
    """The largest image. 10MiB, the most that GitHub's image proxy shows."""

    total_bytes: Size = 10 * 2**30
    """The size of the whole store. When it is full, new images are refused and an alarm is raised."""

    retention: Span = 90 * 86400.0
    """Retention of an image. 90 days, like GitHub's logs."""

    types: tuple[Literal["png", "jpeg", "gif", "webp", "svg", "pdf"], ...] = (
        "png",
        "jpeg",
        "gif",
        "webp",
        "svg",
    )
    """Accepted formats, detected from the content. SVG is served with a policy that blocks scripts."""


class Reconcile(Model):
    """Intervals of the control loop."""

    interval: Span = 15.0
    """The longest time between two passes of the control loop. Events wake it earlier; 15 seconds bound the
    delay when one is lost."""

    list_interval: Span = 30.0
    """Interval at which each provider's instances are listed."""

    drain: Duration = 30.0
    """Grace period for calls in progress when the daemon stops."""


class Log(Model):
    """The daemon's log, on standard error."""

    level: LogLevel = LogLevel.INFO
    """`debug`, `info`, `warning` or `error`."""

    format: LogFormat = LogFormat.TEXT
    """`text` or `json`."""


class Config(Model):
    """The configuration of one daemon."""

    controller: str
    """The controller's name, in the tags of every instance that this daemon creates; at most 40 of a-z, 0-9 and -.
    Never change it: after the database is lost, instances are found by this tag."""

    public_url: WebUrl | None = None
    """The public URL of the public listener."""

    agent_url: WebUrl | None = None
    """The URL at which instances reach the public listener; `public_url` when absent."""

    state: FilePath = Path("/var/lib/runnerd")
    """The state directory: database, keys and report images."""

    database: Database = None
    """A SQLAlchemy URL (PostgreSQL) without a password, or a reference to a complete URL; SQLite in `state`
    when absent."""

    secret: SecretRef | None = None
    """The key that instance tokens are derived from; created in `state/secret.key` at the first start when
    absent."""

    listen: Listen = Listen()
    """The addresses that the daemon listens on."""

    forges: dict[str, AnyForge] = Field(min_length=1)
    """The sources of jobs, by name."""

    providers: dict[str, Provider] = Field(min_length=1)
    """The sources of instances, by name."""

    limits: Limits
    """Ceilings for all pools and providers together; `instances` is required."""

    defaults: Defaults = Defaults()
    """Settings that every pool inherits."""

    pools: dict[str, Pool] = Field(min_length=1)
    """The kinds of machines, by name; the name is the default label."""

    teams: dict[str, Team] = Field(default_factory=dict)
    """Groups of repositories that share ceilings and tags."""

    tags: Tags = Field(default_factory=dict)
    """Tags for every instance."""

    assets: Assets = Assets()
    """Images of reports."""

    reconcile: Reconcile = Reconcile()
    """Intervals of the control loop."""

    log: Log = Log()
    """The daemon's log."""

    _folder: Path | None = pydantic.PrivateAttr(default=None)

    @pydantic.field_validator("controller")
    @classmethod
    def _controller_is_a_host_label(cls, value: str) -> str:
        if not fields.DNS_LABEL.match(value):
            raise ValueError("a controller's name has 1 to 40 of a-z, 0-9 and -, and neither begins nor ends with -")
        return value

    @property
    def database_url(self) -> str:
        """Return the SQLAlchemy URL of the state; reads the secret when it is one.

        Raises errors.SecretMissing.
        """
        if self.database is None:
            return f"sqlite:///{self.state / 'runnerd.db'}"
        return self.database.reveal() if isinstance(self.database, secrets.Secret) else self.database

    def token_key(self) -> secrets.Secret:
        """Return the key of instance tokens; creates it in the state directory when none is configured.

        Raises errors.StoreUnwritable.
        """
        return self.secret or secrets.make_key(self.state / "secret.key")

    def secret_of(self, reference: str, *, place: str) -> secrets.Secret:
        """Return the secret behind a reference in a provider's options; a relative path starts at the file."""
        return secrets.Secret(reference, base=self._folder, place=place)

    def agent_address(self, provider: str) -> str:
        """Return the address at which instances of a provider reach the daemon; empty when there is none."""
        entry = self.providers.get(provider)
        listening = f"http://{self.listen.public}" if self.listen.public else ""
        return (entry and entry.agent_url) or self.agent_url or self.public_url or listening

    def start(self, pool: str, *, provider: str, forge: str) -> Start:
        """Return command and environment of a forge's runner: the pool's before the provider's before the defaults'."""
        kind = self.forges[forge].type
        levels = [self.defaults.runner, self.providers[provider].runner, self.pools[pool].runner]
        commands = [command for level in levels if (command := getattr(level, kind)) is not None]
        command = commands[-1].command if commands else RUNNER_COMMANDS[kind]
        env: dict[str, str] = {}
        for level in levels:
            env |= level.env
        return Start(command=command, env=env)

    def team_of(self, repo: str) -> Team | None:
        """Return the first team of the file that names a repository; None for none."""
        return next((team for team in self.teams.values() if matches(repo, team.repos)), None)

    def tags_for(self, pool: str, *, provider: str, repo: str = "") -> dict[str, str]:
        """Return the operator's tags for an instance: top, provider, team, pool; the later wins."""
        team = self.team_of(repo) if repo else None
        return {
            **self.tags,
            **self.providers[provider].tags,
            **(team.tags if team else {}),
            **self.pools[pool].tags,
        }

    def secrets(self) -> Iterator[tuple[yamlfile.Place, secrets.Secret]]:
        """Yield every secret of the configuration with its key path."""
        yield from _secrets(self, ())


@dataclass(frozen=True, slots=True)
class Start:
    """Command and environment that start a runner."""

    command: tuple[str, ...]
    env: Mapping[str, str]


def _secrets(value: Any, place: yamlfile.Place) -> Iterator[tuple[yamlfile.Place, secrets.Secret]]:
    if isinstance(value, secrets.Secret):
        yield place, value
    elif isinstance(value, pydantic.BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _secrets(getattr(value, name), (*place, field.alias or name))
    elif isinstance(value, Mapping) and not (place and place[-1] == "options"):
        for key, item in value.items():
            yield from _secrets(item, (*place, key))
