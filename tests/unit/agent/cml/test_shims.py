"""The executables on a job's PATH, from a zipapp and from a directory."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import typing
import zipapp

import pytest

import runnerd
from runnerd.agent import cml
from tests.unit.agent.cml import loopback
from tests.unit.agent.cml.loopback import PNG, reply

ROOT = pathlib.Path(runnerd.__file__).parents[1]


@pytest.fixture(params=["zipapp", "directory"])
def bundle(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    """The agent's code as an instance has it, with nothing else of runnerd."""
    content = tmp_path / "it's a bundle"
    package = content / "runnerd" / "agent"
    package.mkdir(parents=True)
    (content / "runnerd" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    shutil.copytree(pathlib.Path(cml.__file__).parent, package / "cml", ignore=shutil.ignore_patterns("__pycache__"))
    if request.param == "directory":
        return content
    (content / "__main__.py").write_text(
        "import sys\nfrom runnerd.agent import cml\n"
        "assert sys.argv[1] == 'cml'\nsys.exit(cml.main(['cml', *sys.argv[2:]]))\n"
    )
    target = tmp_path / "agent.pyz"
    zipapp.create_archive(content, target)
    return target


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> typing.Iterator[loopback.Bench]:
    job = tmp_path / "job"
    job.mkdir()
    with loopback.bench(job) as made:
        yield made


def call(bench: loopback.Bench, bin: pathlib.Path, line: str) -> subprocess.CompletedProcess[str]:
    # What a job may do to Python: its own modules in the working directory and in PYTHONPATH.
    bench.write("json.py", "raise SystemExit('the module of the job was imported')\n")
    env = {
        **bench.env,
        "PATH": f"{bin}:{os.environ['PATH']}",
        "PYTHONPATH": str(bench.directory),
        "PYTHONHOME": "/nowhere",
        "no_proxy": "*",
    }
    return subprocess.run(
        ["sh", "-c", line], cwd=bench.directory, env=env, capture_output=True, text=True, timeout=30, check=False
    )


def test_a_job_of_the_old_article_reports_through_the_shims(
    bench: loopback.Bench, bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    written = cml.install(tmp_path / "bin", sys.executable, bundle)
    assert [path.name for path in written] == list(cml.NAMES)
    bench.on_github(CML_PUBLISH_URL=bench.store.url)
    bench.in_pull_request()
    bench.store.on("POST", "/", reply(200, "https://asset.example/1"))
    bench.forge.on("POST", "/api/v3/repos/acme/nst/issues/5/comments", reply(201, {"html_url": "https://c.example/1"}))
    bench.write("confusion_matrix.png", PNG)
    done = call(
        bench,
        tmp_path / "bin",
        "echo '# Métriques' > report.md && cml-publish confusion_matrix.png --md >> report.md "
        "&& cml-send-comment report.md",
    )
    assert (done.returncode, done.stdout) == (0, "https://c.example/1\n"), done.stderr
    body = json.loads(bench.forge.asked[-1].body)["body"]
    assert body.startswith("# Métriques\n![](https://asset.example/1?cml=png&cache-bypass=")


def test_every_name_runs_and_fails_with_1_when_it_must(
    bench: loopback.Bench, bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for path in cml.install(tmp_path / "bin", sys.executable, bundle):
        done = call(bench, tmp_path / "bin", f"{path.name} 'no such' 'second file'")
        assert done.returncode == 1
        assert done.stderr.startswith("cml: error: ")
        assert "Traceback" not in done.stderr


def test_installing_again_replaces_what_is_there(tmp_path: pathlib.Path) -> None:
    cml.install(tmp_path / "bin", "/usr/bin/python3", "/opt/old.pyz")
    cml.install(tmp_path / "bin", "/usr/bin/python3", "/opt/new.pyz")
    assert sorted(path.name for path in (tmp_path / "bin").iterdir()) == sorted(cml.NAMES)
    assert (tmp_path / "bin" / "cml").read_text() == '#!/bin/sh\nexec /usr/bin/python3 -I /opt/new.pyz cml "$@"\n'
    assert os.access(tmp_path / "bin" / "cml-publish", os.X_OK)


def test_the_module_runs_as_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runnerd.agent.cml", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("0.20.6")
