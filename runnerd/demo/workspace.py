"""The demo's input: its directory, the repositories, the jobs and the daemon's configuration.

The configuration is an ordinary one, so that users can read it, change it and run it again.  Nothing outside the
directory is changed.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from runnerd.demo import processes

POOL = "gpu-t4"
#: The limit of concurrent instances; lower than the number of jobs, so that it takes effect.
INSTANCES = 4
#: The daily budget in simulated dollars.
DOLLARS_PER_DAY = 5.0
#: The maximal length of the path of a Unix socket (unix(7): 108 bytes, the last is NUL).
_LONGEST_SOCKET = 107
_MARKER = "This directory belongs to `runnerd demo` and is emptied at its next start.\n"
_CONTENT = "runnerd.demo.content"


class Unusable(Exception):
    """The demo cannot start here; the message states the reason and a remedy."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository with its training script and workflow."""

    forge: str
    name: str
    #: A file of this package, and its path in the repository.
    workflow: str
    place: str

    def files(self) -> dict[str, bytes]:
        folder = resources.files(_CONTENT)
        return {
            "train.py": (folder / "train.py").read_bytes(),
            self.place: (folder / self.workflow).read_bytes(),
        }

    def job(self) -> tuple[list[str], list[str]]:
        """Return labels and script of the workflow's job, parsed as by the forge."""
        document: dict[Any, Any] = yaml.safe_load((resources.files(_CONTENT) / self.workflow).read_bytes())
        if self.forge == "gitlab":
            return list(document["train"]["tags"]), list(document["train"]["script"])
        job = document["jobs"]["train"]
        labels = job["runs-on"] if isinstance(job["runs-on"], list) else [job["runs-on"]]
        return labels, [line for step in job["steps"] for line in step.get("run", "").splitlines()]


@dataclass(frozen=True, slots=True)
class JobPlan:
    """One job that the demo queues: the workflow of a pull or merge request."""

    repository: Repository
    pull: int
    noise: float

    def request(self) -> dict[str, Any]:
        """Return the body of the simulator's `POST /_sim/jobs`."""
        labels, script = self.repository.job()
        variables = {"NOISE": f"{self.noise:g}", "SEED": str(self.pull)}
        kind = "variables" if self.repository.forge == "gitlab" else "env"
        return {
            "forge": self.repository.forge,
            "repo": self.repository.name,
            "labels": labels,
            "script": script,
            "name": "train",
            "pull_number": self.pull,
            kind: variables,
        }


_WORKFLOW = ".github/workflows/train.yml"
REPOSITORIES = (
    Repository("github", "acme/digits", "github-2020.yml", _WORKFLOW),
    Repository("github", "acme/postcodes", "github.yml", _WORKFLOW),
    Repository("gitlab", "acme/meters", "gitlab-ci.yml", ".gitlab-ci.yml"),
)
JOBS = tuple(JobPlan(repository, pull, noise) for pull, noise in ((1, 0.25), (2, 0.4)) for repository in REPOSITORIES)


@dataclass(frozen=True, slots=True)
class Cloud:
    """A simulated cloud."""

    name: str
    price: float
    #: The number of its machines; None for unlimited.
    capacity: int | None
    #: The answer to one create call is lost after the call was executed.
    loses_answer: bool


#: In the order in which the pool tries them.
CLOUDS = (
    Cloud("thrifty", price=0.35, capacity=1, loses_answer=False),
    Cloud("roomy", price=0.53, capacity=None, loses_answer=True),
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of the simulated forges."""

    app_id: str
    #: Private key of the GitHub App.
    app_key: Path
    gitlab_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Workspace:
    """The demo's directory and the addresses inside it."""

    directory: Path
    ops: str
    public: str
    socket: Path

    @property
    def config(self) -> Path:
        return self.directory / "runnerd.yaml"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def calls(self, cloud: str) -> Path:
        """Return the path of that cloud's log of calls."""
        return self.directory / f"{cloud}.jsonl"

    def machines(self, cloud: str) -> Path:
        """Return the directory of that cloud's instances, one directory each."""
        return self.state / "providers" / cloud / "processes" / "instances"

    def repository(self, repository: Repository) -> Path:
        return self.directory / "repositories" / repository.name


def prepare(directory: Path) -> Workspace:
    """Create an empty workspace.  Raises :class:`Unusable`."""
    if not Path("/proc/self/environ").exists():
        raise Unusable("it needs Linux: instances are processes that are identified through /proc")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        directory = directory.resolve()
        known = directory / "ABOUT"
        if any(directory.iterdir()) and not known.exists():
            raise Unusable(f"{directory} exists and is not of an earlier demo; choose another with --directory")
        # Held until this process ends: two demos would empty each other's directory.
        lock = os.open(directory / "ABOUT", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Unusable(f"another demo is running in {directory}; choose another with --directory") from None
        processes.end_leftovers(directory)
        for path in directory.iterdir():
            if path != known:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        known.write_text(_MARKER, encoding="utf-8")
    except OSError as error:
        raise Unusable(f"{directory} cannot be used: {error.strerror or error}; try --directory") from error
    socket = directory / "runnerd.sock"
    if len(os.fsencode(socket)) > _LONGEST_SOCKET:
        socket = Path(tempfile.mkdtemp(prefix="runnerd-demo-")) / "runnerd.sock"
    ops, public = processes.free_ports(2)
    workspace = Workspace(directory, f"127.0.0.1:{ops}", f"127.0.0.1:{public}", socket)
    workspace.state.mkdir(mode=0o700)
    for repository in REPOSITORIES:
        for name, data in repository.files().items():
            path = workspace.repository(repository) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return workspace


def clear_socket(workspace: Workspace) -> None:
    """Remove the socket's directory if it is outside the workspace."""
    if workspace.socket.parent != workspace.directory:
        shutil.rmtree(workspace.socket.parent, ignore_errors=True)


def write_config(
    workspace: Workspace, *, simulator: str, credentials: Credentials, python: str, runner: Path, path: str
) -> None:
    """Write the daemon's configuration and the files of its secrets."""
    token = workspace.directory / "gitlab.token"
    token.touch(mode=0o600)
    token.write_text(credentials.gitlab_token, encoding="utf-8")
    lines = _lines(workspace, credentials, simulator, python, runner, path)
    workspace.config.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(
    workspace: Workspace, credentials: Credentials, simulator: str, python: str, runner: Path, path: str
) -> Iterator[str]:
    def quoted(text: object) -> str:
        # A JSON string is a YAML string.
        return json.dumps(str(text))

    def command(forge: str) -> str:
        return json.dumps([python, str(runner), forge])

    yield "# Written by `runnerd demo`. An ordinary configuration; forges and clouds are simulated."
    yield "controller: demo"
    yield f"public_url: http://{workspace.public}"
    yield f"state: {quoted(workspace.state)}"
    ops, public, socket = (quoted(each) for each in (workspace.ops, workspace.public, workspace.socket))
    yield f"listen: {{ops: {ops}, public: {public}, socket: {socket}}}"
    yield ""
    yield "forges:"
    key = quoted(f"file:{credentials.app_key}")
    yield f"  github: {{type: github, url: {quoted(simulator + '/acme')},"
    yield f"           app: {{id: {credentials.app_id}, key: {key}}}}}"
    yield f'  gitlab: {{type: gitlab, url: {quoted(simulator)}, token: "file:gitlab.token",'
    yield "           groups: [acme], poll: 2s, idle_poll: 5s}"
    yield ""
    yield "providers:                 # in the order in which they are tried"
    for cloud in CLOUDS:
        capacity = "" if cloud.capacity is None else f", capacity: {cloud.capacity}"
        yield f"  {cloud.name}:"
        yield "    type: fake             # a simulated cloud ..."
        yield "    backing: local         # ... whose instances are processes on this machine"
        yield "    boot: [1s, 2s]"
        yield f"    machine_types: {{sim-t4: {{gpu: t4, price: {cloud.price}}}}}"
        yield f"    regions: {{north: {{zones: [north-a]{capacity}}}}}"
        if cloud.loses_answer:
            yield "    faults:                # the third create call succeeds, but its answer is lost"
            yield "      - {call: create, kind: timeout, applied: true, delay: 0.5s, after: 2, times: 1}"
        yield f"    log: {quoted(workspace.calls(cloud.name))}"
    yield ""
    yield f"limits: {{instances: {INSTANCES}, dollars_per_day: {DOLLARS_PER_DAY:g}}}"
    yield "defaults:"
    yield "  max_job: 10m"
    yield "  idle: 1m"
    yield "  boot: 2m"
    yield "  runner:                  # stand-ins for the runner programs of GitHub and GitLab"
    yield f"    github: {{command: {command('github')}}}"
    yield f"    gitlab: {{command: {command('gitlab')}}}"
    yield f"    env: {{PATH: {quoted(path)}}}"
    yield "pools:"
    yield f"  {POOL}: {{gpu: t4}}"
    yield ""
    yield "reconcile: {interval: 1s, list_interval: 2s, drain: 5s}      # short, for a demo"
