"""runnerd as it is installed from a wheel and from a source distribution, away from the tree, by an ordinary user.

Every other test runs the tree itself, where a file that a package leaves out is never missed.  Both artefacts are built
from a copy of the tracked files, compared with them, and installed into an environment of their own that has what
runnerd declares to need and nothing else.  The directories have a blank in their names, and the commands run as a user
who cannot write to the environment.  Packages come from the index, as for everyone who installs.
"""

from __future__ import annotations

import configparser
import email
import functools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.tree import ROOT

PACKAGES = ("runnerd", "provisioners")
#: What a build needs beside the packages.
BUILD_FILES = ("LICENSE", "README.md", "pyproject.toml", "setup.cfg")
#: What editors, interpreters and people leave in a working tree.
STRAYS = ("notes.txt", ".env", "old.py~", "old.py.orig", ".old.py.swp", "state.db", "__pycache__/old.cpython-311.pyc")
#: Seconds for one command: installing takes longest.
PATIENCE = 300.0
#: The numbers that belong to no user, for commands when the tests run as root.
NOBODY = 65534

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2 * PATIENCE)]

# What runs inside the environment names modules of runnerd, which move: here and nowhere else in this file.

AGENT = """
import sys
from runnerd.bootstrap import agent_archive
with open(sys.argv[1], "wb") as file:
    file.write(agent_archive.build().data)
"""

MIGRATIONS = """
import sys
from alembic import autogenerate, runtime
from runnerd import store
from runnerd.store import engine, tables
url = "sqlite:///" + sys.argv[1]
applied = store.migrate(url)
with engine.make(engine.parse(url)).connect() as connection:
    options = {"version_table": tables.VERSION_TABLE, "compare_type": True, "compare_server_default": True}
    context = runtime.migration.MigrationContext.configure(connection, opts=options)
    found = autogenerate.compare_metadata(context, tables.metadata)
assert applied, "there are no migrations"
assert found == [], found
"""

IMPORTED = """
import json, sys, provisioners, runnerd
print(json.dumps({"files": [runnerd.__file__, provisioners.__file__], "path": sys.path}))
"""

IMPORTS = """
import importlib, json, sys
failed = {}
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
print(json.dumps(failed))
"""

CONFIGURATION = """\
controller: my-ci
state: state
listen: {socket: runnerd.sock}
forges:
  gitlab: {type: gitlab, url: "http://127.0.0.1:9", groups: [ml], token: "env:GITLAB_TOKEN"}
providers:
  cloud: {type: fake}
limits: {instances: 2}
pools:
  gpu-t4: {gpu: t4, allow: {repos: ["ml/*"]}}
"""


# -- what is installed ---------------------------------------------------------------------------------------------


def _done(
    *command: str | Path,
    cwd: Path,
    environment: dict[str, str] | None = None,
    stdin: str = "",
    status: int = 0,
    **identity: Any,
) -> str:
    """Standard output of a command that ended with this status, and with the umask of most systems."""
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment if environment is not None else _without_python(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        umask=0o022,
        **identity,
    )
    assert ran.returncode == status, f"{command} ended with {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return str(ran.stdout)


def _without_python() -> dict[str, str]:
    """The environment without what would let the tree or the caller's own environment in."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**mine, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}


@functools.cache
def _tracked() -> frozenset[str]:
    """Paths of all files that git tracks and that are still there; the worktree may belong to another user."""
    listed = _done("git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", cwd=ROOT)
    return frozenset(path for path in listed.split("\0") if path and (ROOT / path).is_file())


def _packaged() -> dict[str, bytes]:
    """Every tracked file of the packages with its content."""
    return {path: (ROOT / path).read_bytes() for path in _tracked() if path.split("/")[0] in PACKAGES}


def _modules() -> list[str]:
    """Names of all tracked modules, without those that run on import or only under Alembic."""
    paths = [Path(path) for path in _packaged() if path.endswith(".py")]
    parts = [path.with_suffix("").parts for path in paths if "migrations" not in path.parts]
    names = {".".join(part for part in each if part != "__init__") for each in parts if each[-1] != "__main__"}
    assert len(names) > 100, "the packages have moved: PACKAGES"
    return sorted(names)


@dataclass(frozen=True)
class Account:
    """A user to run commands as, and an interpreter that this user can run."""

    python: Path
    identity: dict[str, Any]

    def can_run(self) -> bool:
        probe = "import sys, venv; sys.exit(sys.version_info < (3, 11))"
        try:
            ran = subprocess.run(
                [self.python, "-I", "-c", probe], cwd="/", capture_output=True, timeout=30, **self.identity
            )
        except OSError:
            return False
        return ran.returncode == 0


def _account() -> Account:
    """Choose an account that is not root's.

    An interpreter below root's own home can only be run by root; then one of the system's is taken, and where there
    is none that is new enough the commands run as root.
    """
    own = Path(sys.executable).resolve()
    if os.geteuid() != 0:
        return Account(own, {})
    other = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    names = ["python3", *(f"python3.{minor}" for minor in range(11, 20))]
    system = [Path(directory) / name for directory in ("/usr/local/bin", "/usr/bin") for name in names]
    candidates = [Account(python, other) for python in (own, *system)]
    return next((one for one in candidates if one.can_run()), Account(own, {}))


@dataclass(frozen=True)
class Place:
    """A directory with a blank in its name that any user can enter, with a home for the account."""

    directory: Path
    account: Account

    @property
    def home(self) -> Path:
        return self.directory / "a home"

    def environment(self, name: str) -> Path:
        """Make an empty virtual environment; the path of its interpreter."""
        target = self.directory / name
        _done(self.account.python, "-I", "-m", "venv", "--without-pip", target, cwd=self.directory)
        return target / "bin" / "python"

    def pip(self, python: Path, *arguments: str | Path) -> str:
        """Run this interpreter's pip on another environment, which has none."""
        own = [sys.executable, "-I", "-m", "pip"]
        return _done(*own, "--python", python, *arguments, cwd=self.directory)


@dataclass(frozen=True)
class Built:
    """The two artefacts."""

    wheel: Path
    sdist: Path

    def in_wheel(self) -> dict[str, bytes]:
        with zipfile.ZipFile(self.wheel) as archive:
            return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}

    def in_sdist(self) -> dict[str, bytes]:
        """Files by their path below the one directory that the archive has."""
        with tarfile.open(self.sdist) as archive:
            files = [(member, archive.extractfile(member)) for member in archive if not member.isdir()]
            return {member.name.partition("/")[2]: file.read() for member, file in files if file is not None}

    def metadata(self) -> email.message.Message:
        [text] = [data for name, data in self.in_wheel().items() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(text)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="runnerd installed ") as made:
        directory = Path(made)
        directory.chmod(0o755)
        found = Place(directory, _account())
        found.home.mkdir()
        if found.account.identity:
            os.chown(found.home, NOBODY, NOBODY)
        yield found


@pytest.fixture(scope="module")
def built(place: Place) -> Built:
    """Wheel and source distribution of the tracked files, from a tree in which other files lie about."""
    source = place.directory / "a tree"
    folders = {source}
    for path in _tracked():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
        if path.split("/")[0] in PACKAGES:
            folders.add(target.parent)
    for folder in folders:
        for name in STRAYS:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("not for others")
    system = tomllib.loads((source / "pyproject.toml").read_text())["build-system"]
    python = place.environment("a builder")
    place.pip(python, "install", "--quiet", *system["requires"])
    target = place.directory / "dist"
    target.mkdir()
    for kind in ("sdist", "wheel"):
        code = f"import {system['build-backend']} as backend, sys; backend.build_{kind}(sys.argv[1])"
        _done(python, "-I", "-c", code, target, cwd=source)
    [wheel], [sdist] = target.glob("*.whl"), target.glob("*.tar.gz")
    return Built(wheel, sdist)


@dataclass(frozen=True)
class Installed:
    """runnerd in an environment, used from a directory of its own by an account that cannot change it."""

    python: Path
    directory: Path
    account: Account

    def run(self, *command: str | Path, stdin: str = "", status: int = 0) -> str:
        bin_ = self.python.parent
        environment = {
            "HOME": str(self.directory.parent),
            "PATH": f"{bin_}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "GITLAB_TOKEN": "a token of no forge",
        }
        words = [bin_ / command[0], *command[1:]]
        identity = self.account.identity
        return _done(*words, cwd=self.directory, environment=environment, stdin=stdin, status=status, **identity)

    def site(self) -> Path:
        """The directory that holds the packages."""
        return Path(self.run("python", "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())


@pytest.fixture(scope="module")
def needs(place: Place, built: Built) -> Path:
    """The directory of what the wheel declares to need without any extra, installed once for both environments."""
    wanted = [one for one in built.metadata().get_all("Requires-Dist", []) if "extra ==" not in one]
    python = place.environment("its needs")
    place.pip(python, "install", "--quiet", *wanted)
    [site] = python.parent.parent.glob("lib/python3*/site-packages")
    return site


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(request: pytest.FixtureRequest, place: Place, built: Built, needs: Path) -> Installed:
    python = place.environment(f"from {request.param}")
    place.pip(python, "install", "--quiet", "--no-deps", getattr(built, request.param))
    [site] = python.parent.parent.glob("lib/python3*/site-packages")
    (site / "needs.pth").write_text(f"{needs}\n")
    directory = place.home / f"my {request.param}"
    directory.mkdir()
    (directory / "runnerd.yaml").write_text(CONFIGURATION)
    if place.account.identity:
        os.chown(directory, NOBODY, NOBODY)
    return Installed(python, directory, place.account)


# -- what the artefacts hold ---------------------------------------------------------------------------------------


def _assert_same(found: dict[str, bytes], wanted: dict[str, bytes]) -> None:
    assert sorted(wanted.keys() - found.keys()) == [], "left out: see package_data in setup.cfg"
    assert sorted(found.keys() - wanted.keys()) == [], "in it, but not tracked by git"
    assert [path for path in wanted if found[path] != wanted[path]] == [], "changed on the way"


def test_the_wheel_holds_every_tracked_file_of_the_packages_and_no_other(built: Built) -> None:
    files = built.in_wheel()
    generated = {path for path in files if path.split("/")[0].endswith(".dist-info")}
    assert generated
    _assert_same({path: data for path, data in files.items() if path not in generated}, _packaged())


def test_the_source_distribution_holds_the_same_and_what_a_build_needs_and_nothing_untracked(built: Built) -> None:
    files = built.in_sdist()
    _assert_same({path: data for path, data in files.items() if path.split("/")[0] in PACKAGES}, _packaged())
    assert set(BUILD_FILES) - files.keys() == set()
    generated = {path for path in files if path == "PKG-INFO" or path.split("/")[0].endswith(".egg-info")}
    assert sorted(files.keys() - generated - _tracked()) == []


def test_the_metadata_says_what_setup_cfg_says(built: Built) -> None:
    declared = configparser.ConfigParser(interpolation=None)
    declared.read(ROOT / "setup.cfg")
    metadata = built.metadata()
    for field in ("name", "version"):
        assert metadata[field] == declared["metadata"][field]
    assert metadata["Requires-Python"] == declared["options"]["python_requires"]
    assert set(metadata.get_all("Provides-Extra", [])) == set(declared["options.extras_require"])


# -- what is installed works ---------------------------------------------------------------------------------------


def test_what_is_installed_is_what_is_tracked(installed: Installed) -> None:
    site = installed.site()
    files = {path.relative_to(site): path for package in PACKAGES for path in (site / package).rglob("*")}
    found = {
        path.as_posix(): full.read_bytes()
        for path, full in files.items()
        if full.is_file() and path.parent.name != "__pycache__"
    }
    _assert_same(found, _packaged())


def test_the_environment_has_what_is_declared_and_nothing_of_the_tree(installed: Installed, place: Place) -> None:
    assert "No broken requirements" in place.pip(installed.python, "check")
    found = json.loads(installed.run("python", "-c", IMPORTED))
    assert {Path(file).parents[1] for file in found["files"]} == {installed.site()}
    assert [entry for entry in found["path"] if Path(entry).is_relative_to(ROOT)] == []
    named = installed.run("python", "-c", "import os; print(os.geteuid())").strip()
    assert named != "0" or not place.account.identity


def test_every_module_can_be_imported_or_names_the_extra_that_it_needs(installed: Installed) -> None:
    failed: dict[str, str] = json.loads(installed.run("python", "-I", "-c", IMPORTS, stdin=json.dumps(_modules())))
    # The contract's suite for authors of providers runs under their pytest.
    failed.pop("provisioners.testing", None)
    assert {name: words for name, words in failed.items() if "install runnerd[" not in words} == {}


@pytest.mark.parametrize("command", [("runnerd",), ("python", "-m", "runnerd")], ids=" ".join)
def test_version(installed: Installed, built: Built, command: tuple[str, ...]) -> None:
    version = built.metadata()["Version"]
    assert installed.run(*command, "version").startswith(f"runnerd {version}, Python 3.")
    assert installed.run(*command, "--version").startswith("runnerd, version ")
    assert "Usage: runnerd " in installed.run(*command, "--help")


def test_check_goes_through_a_configuration_and_finds_only_the_forge_that_is_not_there(installed: Installed) -> None:
    found = json.loads(installed.run("runnerd", "check", "--config", "runnerd.yaml", "--json", status=1))["findings"]
    assert {one["place"] for one in found if one["level"] == "error"} == {"forges.gitlab.token"}, found
    assert any(one["place"] == "pools.gpu-t4" and "has 1 offer," in one["message"] for one in found), found


def test_schema(installed: Installed) -> None:
    schema = json.loads(installed.run("runnerd", "schema"))
    assert {"forges", "providers", "pools"} <= schema["properties"].keys()


def test_db_upgrade_migrates_an_empty_state_once(installed: Installed) -> None:
    upgrade = ("runnerd", "db", "upgrade", "--config", "runnerd.yaml")
    assert installed.run(*upgrade).startswith("applied 0001")
    assert "applied" not in installed.run(*upgrade)
    assert (installed.directory / "state" / "runnerd.db").stat().st_uid == installed.directory.stat().st_uid


def test_the_migrations_lead_to_the_tables_of_the_code(installed: Installed) -> None:
    installed.run("python", "-I", "-c", MIGRATIONS, installed.directory / "compared.db")


def test_the_agent_archive_runs_alone_with_the_standard_library(installed: Installed, place: Place) -> None:
    archive = installed.directory / "agent.pyz"
    installed.run("python", "-I", "-c", AGENT, archive)
    bare = place.account.python
    identity = place.account.identity

    def run(*arguments: str, status: int = 0) -> str:
        words: list[str | Path] = [bare, "-I", "-S", archive, *arguments]
        return _done(*words, cwd=place.home, environment={}, status=status, **identity)

    assert run("--version").startswith("runnerd agent, protocol ")
    assert "comment" in run("cml", "--help")
    run("--config", "no such file", status=2)


# From one of them: a test above compares the files, and the demo takes half a minute.
@pytest.mark.parametrize("installed", ["wheel"], indirect=True)
def test_the_demo_tells_its_whole_story(installed: Installed) -> None:
    told = json.loads(installed.run("runnerd", "demo", "--once", "--json").splitlines()[-1])
    assert told["jobs"]["queued"] == told["jobs"]["succeeded"] > 0
    assert told["instances"]["left"] == 0
