"""The set-up that every target of the Makefile begins with: what is missing is named, and no failure is for ever."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tree import ROOT

PYTHON = shlex.quote(sys.executable)
VERSION = ".".join(map(str, sys.version_info[:2]))
#: What Python says on Debian where python3-venv is not installed, after it has made bin/python.
DEBIAN = "The virtual environment was not created successfully because ensurepip is not available."

#: An interpreter with which an environment can be made; there, pip only writes down that it was called.
GOOD = f"""#!/bin/sh
case "$*" in
"-m venv .venv")
    {PYTHON} -I -m venv --without-pip .venv
    rm .venv/bin/python
    cp "$(dirname "$0")/inside" .venv/bin/python
    ;;
*) exec {PYTHON} "$@" ;;
esac
"""
INSIDE = """#!/bin/sh
case "$*" in
"-m pip install "*) echo "$*" >> pip.log; exit $(cat pip.status) ;;
"-c import pip") exit 0 ;;
*) exec .venv/bin/python3 "$@" ;;
esac
"""
WITHOUT_ENSUREPIP = f"""#!/bin/sh
case "$*" in
"-m venv .venv") {PYTHON} -I -m venv --without-pip .venv; echo "{DEBIAN}"; exit 1 ;;
*) exec {PYTHON} "$@" ;;
esac
"""
OLD = f"""#!/bin/sh
[ "$1" = -c ] || exit 99
exec {PYTHON} -c 'import sys; code, sys.version_info = sys.argv[1], (3, 10, 13); exec(code)' "$2"
"""


class Tree:
    """A clone with the real Makefile and some interpreters beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "a clone"
        self.environment = self.directory / ".venv"
        self.interpreters = directory
        self.directory.mkdir()
        for name in ("Makefile", "setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, self.directory)
        scripts = {"good": GOOD, "inside": INSIDE, "without-ensurepip": WITHOUT_ENSUREPIP, "old": OLD}
        for name, text in scripts.items():
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)
        self.pip_ends_with(0)

    def pip_ends_with(self, status: int) -> None:
        (self.directory / "pip.status").write_text(str(status))

    def make(self, interpreter: str = "good", target: str = "install") -> tuple[int, str]:
        """Exit status of make, and all that was said."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        ran = subprocess.run(
            ["make", target, f"PYTHON={self.interpreters / interpreter}"],
            cwd=self.directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return ran.returncode, ran.stdout

    def installs(self) -> int:
        """How often pip was called."""
        log = self.directory / "pip.log"
        return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize("target", ["install", "install-dev"])
def test_the_environment_is_made_and_filled_once(tree: Tree, target: str) -> None:
    assert tree.make(target=target)[0] == 0
    assert tree.make(target=target)[0] == 0
    assert tree.installs() == 1


def test_without_ensurepip_the_package_to_install_is_named_each_time_until_it_is_there(tree: Tree) -> None:
    for _ in range(2):
        status, said = tree.make("without-ensurepip")
        assert status != 0
        assert DEBIAN in said
        assert f"apt install python{VERSION}-venv" in said
        assert not tree.environment.exists()
    assert tree.make()[0] == 0
    assert tree.installs() == 1


@pytest.mark.parametrize("interpreter", ["old", "not-there"])
def test_without_a_new_enough_python_nothing_is_made_and_the_way_to_name_one_is_said(
    tree: Tree, interpreter: str
) -> None:
    for _ in range(2):
        status, said = tree.make(interpreter)
        assert status != 0
        assert "Python 3.11 or newer" in said
        assert "make PYTHON=" in said
        assert not tree.environment.exists()


@pytest.mark.parametrize("target", ["install", "install-dev"])
def test_an_installation_that_failed_is_tried_again(tree: Tree, target: str) -> None:
    tree.pip_ends_with(1)
    assert tree.make(target=target)[0] != 0
    tree.pip_ends_with(0)
    assert tree.make(target=target)[0] == 0
    assert tree.installs() == 2


@pytest.mark.parametrize("target", ["install", "install-dev"])
def test_an_environment_without_pip_is_left_alone_and_the_way_on_is_said(tree: Tree, target: str) -> None:
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", tree.environment], check=True, timeout=60)
    status, said = tree.make(target=target)
    assert status != 0
    assert "has no pip" in said
    assert "make clean" in said
    assert tree.environment.exists()
    assert tree.make(target="clean")[0] == 0
    assert tree.make(target=target)[0] == 0


@pytest.mark.parametrize("target", ["install", "install-dev"])
def test_an_environment_whose_interpreter_is_gone_is_made_anew(tree: Tree, target: str) -> None:
    assert tree.make(target=target)[0] == 0
    interpreter = tree.environment / "bin" / "python"
    interpreter.unlink()
    interpreter.symlink_to("/usr/bin/python-of-last-year")
    assert tree.make(target=target)[0] == 0
    assert tree.installs() == 2


def test_an_environment_whose_interpreter_became_another_version_is_made_anew(tree: Tree) -> None:
    assert tree.make()[0] == 0
    packages = tree.environment / "lib" / f"python{VERSION}"
    packages.rename(packages.with_name("python3.2"))
    assert tree.make()[0] == 0
    assert tree.installs() == 2
