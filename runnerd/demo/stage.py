"""What the demo is played with: its directory, the repositories, the jobs and the daemon's configuration.

The configuration has the shape that any other has, so that a person can read it, change it and run it again.  Nothing
outside the directory is touched.
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

from runnerd.demo import children

POOL = "gpu-t4"
#: At most so many instances at one time; fewer than jobs, so that the limit is seen to hold.
INSTANCES = 4
#: The budget in simulated dollars.
DOLLARS_PER_DAY = 5.0
#: The longest path that a Unix socket may have (unix(7): 108 bytes, the last is NUL).
_LONGEST_SOCKET = 107
_MARKER = "This directory belongs to `runnerd demo` and is emptied at its next start.\n"
_CONTENT = "runnerd.demo.content"


class Unplayable(Exception):
    """The demo cannot start here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository with the files of the article."""

    forge: str
    name: str
    #: File of this package, and its place in the repository.
    workflow: str
    place: str

    def files(self) -> dict[str, bytes]:
        folder = resources.files(_CONTENT)
        return {
            "train.py": (folder / "train.py").read_bytes(),
            self.place: (folder / self.workflow).read_bytes(),
        }

    def job(self) -> tuple[list[str], list[str]]:
        """Labels and script of the workflow's job, read from its file as the forge would read it."""
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

    def order(self) -> dict[str, Any]:
        """The body of the simulator's `POST /_sim/jobs`."""
        labels, script = self.repository.job()
        given = {"NOISE": f"{self.noise:g}", "SEED": str(self.pull)}
        kind = "variables" if self.repository.forge == "gitlab" else "env"
        return {
            "forge": self.repository.forge,
            "repo": self.repository.name,
            "labels": labels,
            "script": script,
            "name": "train",
            "pull_number": self.pull,
            kind: given,
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
    #: Machines that it has; None for no end of them.
    capacity: int | None
    #: The answer to one create call gets lost after the call was carried out.
    loses_answer: bool


#: In the order in which the pool tries them.
CLOUDS = (
    Cloud("thrifty", price=0.35, capacity=1, loses_answer=False),
    Cloud("roomy", price=0.53, capacity=None, loses_answer=True),
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the simulated forges gave out."""

    app_id: str
    #: Private key of the GitHub App.
    app_key: Path
    gitlab_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Stage:
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
        """Where that cloud writes down every call that it gets."""
        return self.directory / f"{cloud}.jsonl"

    def machines(self, cloud: str) -> Path:
        """Where that cloud keeps its instances: one directory each."""
        return self.state / "providers" / cloud / "processes" / "instances"

    def repository(self, one: Repository) -> Path:
        return self.directory / "repositories" / one.name


def prepare(directory: Path) -> Stage:
    """An empty stage.  Raises :class:`Unplayable`."""
    if not Path("/proc/self/environ").exists():
        raise Unplayable("it needs Linux: instances are processes that are told apart by /proc")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        directory = directory.resolve()
        known = directory / "ABOUT"
        if any(directory.iterdir()) and not known.exists():
            raise Unplayable(f"{directory} exists and is not of an earlier demo; name another with --directory")
        # Held until this process ends: two demos would empty each other's stage.
        lock = os.open(directory / "ABOUT", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Unplayable(f"another demo runs in {directory}; name another place with --directory") from None
        children.end_leftovers(directory)
        for path in directory.iterdir():
            if path != known:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        known.write_text(_MARKER, encoding="utf-8")
    except OSError as error:
        raise Unplayable(f"{directory} cannot be used: {error.strerror or error}; try --directory") from error
    socket = directory / "runnerd.sock"
    if len(os.fsencode(socket)) > _LONGEST_SOCKET:
        socket = Path(tempfile.mkdtemp(prefix="runnerd-demo-")) / "runnerd.sock"
    ops, public = children.free_ports(2)
    stage = Stage(directory, f"127.0.0.1:{ops}", f"127.0.0.1:{public}", socket)
    stage.state.mkdir(mode=0o700)
    for repository in REPOSITORIES:
        for name, data in repository.files().items():
            path = stage.repository(repository) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return stage


def clear_socket(stage: Stage) -> None:
    """Remove a socket's directory outside the stage."""
    if stage.socket.parent != stage.directory:
        shutil.rmtree(stage.socket.parent, ignore_errors=True)


def write_config(
    stage: Stage, *, simulator: str, credentials: Credentials, python: str, runner: Path, path: str
) -> None:
    """Write the daemon's configuration and the files of its secrets."""
    token = stage.directory / "gitlab.token"
    token.touch(mode=0o600)
    token.write_text(credentials.gitlab_token, encoding="utf-8")
    lines = _lines(stage, credentials, simulator, python, runner, path)
    stage.config.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(
    stage: Stage, credentials: Credentials, simulator: str, python: str, runner: Path, path: str
) -> Iterator[str]:
    def quoted(text: object) -> str:
        # A JSON text is a YAML text.
        return json.dumps(str(text))

    def command(forge: str) -> str:
        return json.dumps([python, str(runner), forge])

    yield "# Written by `runnerd demo`. The shape is that of any configuration; forges and clouds are simulated."
    yield "controller: demo"
    yield f"public_url: http://{stage.public}"
    yield f"state: {quoted(stage.state)}"
    yield f"listen: {{ops: {quoted(stage.ops)}, public: {quoted(stage.public)}, socket: {quoted(stage.socket)}}}"
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
            yield "    faults:                # the third create call is carried out, and its answer lost"
            yield "      - {call: create, kind: timeout, applied: true, delay: 0.5s, after: 2, times: 1}"
        yield f"    log: {quoted(stage.calls(cloud.name))}"
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
    yield "reconcile: {interval: 1s, list_interval: 2s, drain: 5s}      # a demo is in a hurry"
