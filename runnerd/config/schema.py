"""The whole configuration as typed models.

One YAML file becomes one frozen `Config`; everything else in runnerd reads that and nothing of the
environment. Each field states its unit and why its default is what it is. `defaults` is the only
inheritance: pools are merged with it before they are read, so a `Pool` here is complete. This module knows
no cloud: a provider's own options pass as a mapping to the provisioner that understands them.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import enum
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from pydantic import Field

from provisioners import base
from runnerd import errors
from runnerd.config import fields, messages, plugins, reference_page, rules
from runnerd.config.fields import Database, Duration, FilePath, Listening, Model, SecretRef, Size, Span, Tags, WebUrl
from runnerd.config.forges import (
    Acquire,
    AnyForge,
    Audit,
    Forge,
    GitHubApp,
    GitHubForge,
    GitLabForge,
    Mode,
    Retry,
    RunnerRecords,
)
from runnerd.config.plugins import Provisioners, provisioner_class, provisioner_types
from runnerd.config.pools import (
    Allow,
    Bootstrap,
    Defaults,
    Limits,
    MarketChoice,
    OnReached,
    Order,
    Overlap,
    Pool,
    Provider,
    Runner,
    RunnerCommand,
    Team,
    matches,
)
from runnerd.kit import secrets, yamlfile

__all__ = [
    "Acquire",
    "Allow",
    "AnyForge",
    "Assets",
    "AssetsTo",
    "Audit",
    "Bootstrap",
    "Config",
    "ConfigChange",
    "Defaults",
    "Difference",
    "Forge",
    "GitHubApp",
    "GitHubForge",
    "GitLabForge",
    "Limits",
    "Listen",
    "Log",
    "LogFormat",
    "LogLevel",
    "MarketChoice",
    "Mode",
    "OnReached",
    "Order",
    "Overlap",
    "Pool",
    "Provider",
    "Provisioners",
    "Reconcile",
    "Retry",
    "Runner",
    "RunnerCommand",
    "RunnerRecords",
    "Start",
    "Team",
    "compare",
    "dump",
    "from_mapping",
    "json_schema",
    "load",
    "matches",
    "provisioner_class",
    "provisioner_types",
    "reference",
    "show",
]

#: How the runners are started where the file says nothing.
GITHUB_COMMAND = ("/opt/actions-runner/bin/Runner.Listener", "run")
GITLAB_COMMAND = ("/usr/bin/gitlab-runner", "run-single")

#: Keys of the top that a running daemon cannot change: they are where it lives.
AT_START_ONLY = ("controller", "state", "database", "secret", "listen")


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

    types: tuple[Literal["png", "jpeg", "gif", "webp", "svg", "pdf"], ...] = (
        "png",
        "jpeg",
        "gif",
        "webp",
        "svg",
    )
    """Which kinds are taken, judged by content. SVG is served so that no script in it can run."""


class Reconcile(Model):
    """The rhythm of the control loop."""

    interval: Span = 15.0
    """How often everything is derived anew although no event came. 15 seconds bound what a lost event
    costs."""

    list_interval: Span = 30.0
    """How often each provider is asked for its instances."""

    drain: Duration = 30.0
    """How long the daemon finishes work under way when told to stop."""


class Log(Model):
    """The daemon's log, on standard error."""

    level: LogLevel = LogLevel.INFO
    """`debug`, `info`, `warning` or `error`."""

    format: LogFormat = LogFormat.TEXT
    """`text` or `json`."""


class Config(Model):
    """The configuration of one daemon."""

    controller: str
    """The name in the tags of everything this daemon makes; at most 40 of a-z, 0-9 and -. Explicit and
    constant, so that a lost database loses no machine."""

    public_url: WebUrl | None = None
    """The address under which the public listener is reached from outside."""

    agent_url: WebUrl | None = None
    """The address under which instances reach it; `public_url` when absent."""

    state: FilePath = Path("/var/lib/runnerd")
    """The directory of everything durable."""

    database: Database = None
    """A SQLAlchemy URL (PostgreSQL) without password, or a reference to a whole URL; SQLite in `state`
    when absent."""

    secret: SecretRef | None = None
    """The key that instance tokens are derived from; made in `state/secret.key` at the first start when
    absent."""

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

    teams: dict[str, Team] = Field(default_factory=dict)
    """Repositories that share ceilings and tags."""

    tags: Tags = Field(default_factory=dict)
    """Tags on every instance."""

    assets: Assets = Assets()
    """Images of reports."""

    reconcile: Reconcile = Reconcile()
    """The rhythm of the control loop."""

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
        """The SQLAlchemy URL of the state; reads the secret when it is one.

        Raises errors.SecretMissing.
        """
        if self.database is None:
            return f"sqlite:///{self.state / 'runnerd.db'}"
        return self.database.reveal() if isinstance(self.database, secrets.Secret) else self.database

    def token_key(self) -> secrets.Secret:
        """The secret that instance tokens are derived from; made in the state directory when none is configured.

        Raises errors.StoreUnwritable.
        """
        return self.secret or secrets.make_key(self.state / "secret.key")

    def secret_of(self, reference: str, *, place: str) -> secrets.Secret:
        """The secret behind a reference in a provider's options; a relative path starts at the file's directory."""
        return secrets.Secret(reference, base=self._folder, place=place)

    def agent_address(self, provider: str) -> str:
        """The address under which instances of a provider reach the daemon; empty when there is none."""
        entry = self.providers.get(provider)
        listening = f"http://{self.listen.public}" if self.listen.public else ""
        return (entry and entry.agent_url) or self.agent_url or self.public_url or listening

    def start(self, pool: str, *, provider: str, forge: str) -> Start:
        """How the runner of a forge is started on an instance of a provider: pool before provider before
        defaults."""
        kind = self.forges[forge].type
        levels = [self.defaults.runner, self.providers[provider].runner, self.pools[pool].runner]
        found = [command for level in levels if (command := getattr(level, kind)) is not None]
        command = found[-1].command if found else (GITHUB_COMMAND if kind == "github" else GITLAB_COMMAND)
        env: dict[str, str] = {}
        for level in levels:
            env |= level.env
        return Start(command=command, env=env)

    def team_of(self, repo: str) -> Team | None:
        """The first team of the file that names a repository; None for none."""
        return next((team for team in self.teams.values() if matches(repo, team.repos)), None)

    def tags_for(self, pool: str, *, provider: str, repo: str = "") -> dict[str, str]:
        """The operator's tags of an instance: top, provider, team, pool; the later wins."""
        team = self.team_of(repo) if repo else None
        return {
            **self.tags,
            **self.providers[provider].tags,
            **(team.tags if team else {}),
            **self.pools[pool].tags,
        }

    def secrets(self) -> Iterator[tuple[yamlfile.Place, secrets.Secret]]:
        """Every secret of the configuration with its key path."""
        yield from _secrets(self, ())

    def warnings(self) -> list[base.Finding]:
        """What works but deserves a second look; `check` prints it. Looks at the modes of secret files."""
        return rules.findings(self)


@dataclass(frozen=True, slots=True)
class Start:
    """How a runner is started."""

    command: tuple[str, ...]
    env: Mapping[str, str]


def load(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    reveal: bool = True,
    provisioners: Provisioners | None = None,
) -> Config:
    """Read a configuration file.

    Relative paths in it start at its directory. With `reveal`, each secret is read once to prove that it
    is there. `provisioners` are known beside (and before) the installed ones. Raises errors.ConfigInvalid
    with every problem found, each with file, line and key.
    """
    file = Path(path)
    document = yamlfile.read(file)
    return _build(
        document,
        folder=file.resolve().parent,
        environ=environ,
        reveal=reveal,
        provisioners=provisioners or {},
    )


def from_mapping(
    data: Mapping[str, Any],
    *,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
    reveal: bool = False,
    provisioners: Provisioners | None = None,
) -> Config:
    """The same from data in memory; relative paths start at `folder`. Raises errors.ConfigInvalid, without
    lines."""
    document = yamlfile.Document("configuration", copy.deepcopy(dict(data)))
    return _build(
        document, folder=folder or Path.cwd(), environ=environ, reveal=reveal, provisioners=provisioners or {}
    )


def _build(
    document: yamlfile.Document,
    *,
    folder: Path,
    environ: Mapping[str, str] | None,
    reveal: bool,
    provisioners: Provisioners,
) -> Config:
    context = {"base": folder, "environ": os.environ if environ is None else environ}
    data = _prepared(document.data)
    problems = [*_named(document), *plugins.complaints(document, data, provisioners)]
    settings: Config | None = None
    try:
        settings = Config.model_validate(data, context=context)
    except pydantic.ValidationError as error:
        problems += messages.translate(error, Config, document)
    problems += [
        document.problem(one.place, one.message, nearest=one.nearest)
        for one in rules.complaints(_names(document.data), **_readable(data, context))
    ]
    if settings is not None:
        settings._folder = folder
        settings = _with_places(settings, document)
        if reveal:
            problems += _unreadable(settings, document)
    if problems or settings is None:
        seen: dict[tuple[str, str], errors.Problem] = {}
        for problem in sorted(problems, key=lambda problem: (problem.line, problem.column)):
            # A message may quote what stands in the file; a token pasted in the wrong place must not reach a log.
            safe = dataclasses.replace(problem, message=secrets.redact(problem.message))
            seen.setdefault((safe.path, safe.message), safe)
        raise errors.ConfigInvalid(list(seen.values()))
    return settings


def _prepared(data: Mapping[str, Any]) -> dict[str, Any]:
    """The file's data as the models read it: named entries, pools merged with defaults, providers' options
    apart."""
    ready: dict[str, Any] = copy.deepcopy(dict(data))
    for section in ("forges", "providers", "pools", "teams"):
        entries = ready.get(section)
        if not isinstance(entries, dict):
            continue
        for name, entry in entries.items():
            if entry is None and section == "pools":
                entries[name] = entry = {}
            if isinstance(entry, dict):
                entry.pop("name", None)
                entry["name"] = name
    shared = ready.get("defaults")
    # Runner commands are merged when one is asked for: the provider stands between defaults and pool.
    shared = {key: value for key, value in shared.items() if key != "runner"} if isinstance(shared, dict) else {}
    inherited = {field.alias or name for name, field in Defaults.model_fields.items()}
    for name, pool in (ready.get("pools") or {}).items() if isinstance(ready.get("pools"), dict) else ():
        if isinstance(pool, dict):
            merged = _merged({key: value for key, value in shared.items() if key in inherited}, pool)
            merged.setdefault("labels", [name])
            for key, section in (("from", "providers"), ("forges", "forges")):
                merged.setdefault(key, list(ready[section]) if isinstance(ready.get(section), dict) else [])
            ready["pools"][name] = merged
    if isinstance(ready.get("providers"), dict):
        for name, provider in ready["providers"].items():
            if isinstance(provider, dict):
                own = {
                    key: value for key, value in provider.items() if key in Provider.model_fields and key != "options"
                }
                options = {key: value for key, value in provider.items() if key not in own}
                ready["providers"][name] = {**own, "options": options}
    return ready


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Maps key by key, everything else replaced."""
    result = copy.deepcopy(dict(below))
    for key, value in above.items():
        under = result.get(key)
        result[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result


def _names(data: Mapping[str, Any]) -> rules.Names:
    def keys(section: str) -> tuple[str, ...]:
        entries = data.get(section)
        return tuple(entries) if isinstance(entries, Mapping) else ()

    return rules.Names(keys("forges"), keys("providers"), keys("pools"), keys("teams"))


def _named(document: yamlfile.Document) -> Iterator[errors.Problem]:
    """Entries that say their name again: the key is the name."""
    for section in ("forges", "providers", "pools", "teams"):
        entries = document.data.get(section)
        for name, entry in entries.items() if isinstance(entries, Mapping) else ():
            if isinstance(entry, Mapping) and "name" in entry:
                yield document.problem((section, name, "name"), f'unknown key; the name is "{name}" already')


def _readable(data: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that can be read although others cannot, so that all problems show at once."""

    def entries(section: str, kind: Any) -> dict[str, Any]:
        adapter = pydantic.TypeAdapter[Any](kind)
        found = {}
        section_data = data.get(section)
        for name, entry in section_data.items() if isinstance(section_data, Mapping) else ():
            try:
                found[name] = adapter.validate_python(entry, context=dict(context))
            except pydantic.ValidationError as error:
                # Without the keys that are wrong; what is left may break a rule too.
                # (A forge's errors begin with its type.)
                at = 1 if section == "forges" else 0
                wrong = {detail["loc"][at] for detail in error.errors() if len(detail["loc"]) > at}
                if not isinstance(entry, Mapping) or wrong & {"labels", "from", "forges", "name", "type"}:
                    continue
                left = {key: value for key, value in entry.items() if key not in wrong}
                with contextlib.suppress(pydantic.ValidationError):
                    found[name] = adapter.validate_python(left, context=dict(context))
        return found

    limits: Limits | None = None
    with contextlib.suppress(pydantic.ValidationError):
        limits = Limits.model_validate(data.get("limits"))
    return {
        "limits": limits,
        "forges": entries("forges", AnyForge),
        "providers": entries("providers", Provider),
        "pools": entries("pools", Pool),
        "teams": entries("teams", Team),
    }


def _secrets(value: Any, place: yamlfile.Place) -> Iterator[tuple[yamlfile.Place, secrets.Secret]]:
    if isinstance(value, secrets.Secret):
        yield place, value
    elif isinstance(value, pydantic.BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _secrets(getattr(value, name), (*place, field.alias or name))
    elif isinstance(value, Mapping) and not (place and place[-1] == "options"):
        for key, item in value.items():
            yield from _secrets(item, (*place, key))


def _with_places(value: Any, document: yamlfile.Document, place: yamlfile.Place = ()) -> Any:
    """The same configuration, each secret knowing the line that names it."""
    if isinstance(value, secrets.Secret):
        at = document.position(place)
        line = f"{document.file}:{at.line}" if document.keys else document.file
        return value.at(f"{line}: {yamlfile.dotted(place)}")
    if isinstance(value, pydantic.BaseModel):
        changed = {}
        for name, field in type(value).model_fields.items():
            old = getattr(value, name)
            new = _with_places(old, document, (*place, field.alias or name))
            if new is not old:
                changed[name] = new
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, dict) and any(isinstance(item, pydantic.BaseModel) for item in value.values()):
        new_items = {key: _with_places(item, document, (*place, key)) for key, item in value.items()}
        return new_items if any(new_items[key] is not value[key] for key in value) else value
    return value


def _unreadable(settings: Config, document: yamlfile.Document) -> Iterator[errors.Problem]:
    for place, secret in settings.secrets():
        try:
            secret.reveal()
        except errors.SecretMissing as error:
            yield document.problem(place, str(error).removeprefix(f"{secret.place}: "))


def dump(settings: Config, pool: str | None = None) -> dict[str, Any]:
    """The configuration as plain data in the shape of the file, defaults resolved, secrets as references.

    With `pool`, that pool alone. Raises KeyError for an unknown pool.
    """
    if pool is not None:
        return _plain(settings.pools[pool])
    data = _plain(settings)
    data["providers"] = {name: _flat(entry) for name, entry in data["providers"].items()}
    return data


def _plain(model: pydantic.BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _flat(provider: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in provider.items() if key != "options"}
    return {**own, **provider.get("options", {})}


def show(settings: Config, pool: str | None = None) -> str:
    """`dump` as YAML for people; at each key of a pool stands whether it came from `defaults` or is built
    in."""
    data = dump(settings, pool)
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)
    if pool is None:
        return text
    lines = []
    for line in text.splitlines():
        key = line.partition(":")[0]
        origin = _origin(settings, pool, key) if key and not key.startswith((" ", "-")) else ""
        lines.append(f"{line}  # {origin}" if origin else line)
    return "\n".join(lines) + "\n"


def _origin(settings: Config, pool: str, key: str) -> str:
    name = "from_" if key == "from" else key
    if name not in settings.pools[pool].model_fields_set:
        return "built in"
    if name in Defaults.model_fields and name in settings.defaults.model_fields_set:
        same = getattr(settings.defaults, name) == getattr(settings.pools[pool], name)
        return "as in defaults" if same else ""
    return ""


@dataclass(frozen=True, slots=True)
class Difference:
    """Which entries of a map came, went or changed."""

    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """What a reload brings, by value."""

    forges: Difference
    providers: Difference
    pools: Difference
    teams: Difference
    #: Keys of the top, beside the maps, whose value is another one.
    top: frozenset[str]

    @property
    def needs_restart(self) -> frozenset[str]:
        """Changed keys that a running daemon cannot take over; it keeps the old value and says so."""
        return self.top & frozenset(AT_START_ONLY)

    def __bool__(self) -> bool:
        return any(bool(getattr(self, field.name)) for field in dataclasses.fields(self))


def compare(old: Config, new: Config) -> ConfigChange:
    """What differs between two configurations, by value; what is the same needs no touch."""
    maps = ("forges", "providers", "pools", "teams")
    runner_changed = old.defaults.runner != new.defaults.runner
    differences = {}
    for section in maps:
        before, after = getattr(old, section), getattr(new, section)
        changed = {
            name
            for name in before.keys() & after.keys()
            # The default runner command is not merged into pools, and still theirs.
            if before[name] != after[name] or (section == "pools" and runner_changed)
        }
        differences[section] = Difference(
            frozenset(after.keys() - before.keys()),
            frozenset(before.keys() - after.keys()),
            frozenset(changed),
        )
    top = frozenset(
        name for name in Config.model_fields if name not in maps and getattr(old, name) != getattr(new, name)
    )
    return ConfigChange(**differences, top=top)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    return reference_page.schema(Config, open_blocks=(Provider,), title="runnerd configuration")


def reference() -> str:
    """docs/configuration.md, written from the models."""
    return reference_page.reference(Config)
