from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

from runnerd.bootstrap import agent_archive


def test_the_same_source_gives_the_same_bytes() -> None:
    first, second = agent_archive.build(), agent_archive.build()
    assert first == second
    assert hashlib.sha256(first.data).hexdigest() == first.sha256


def test_the_archive_holds_the_agent_and_nothing_else_of_runnerd() -> None:
    with zipfile.ZipFile(io.BytesIO(agent_archive.build().data)) as archive:
        names = archive.namelist()
    assert {"__main__.py", "runnerd/__init__.py", "runnerd/agent/__init__.py"} <= set(names)
    others = [name for name in names if not name.startswith("runnerd/agent/")]
    assert others == ["__main__.py", "runnerd/__init__.py"]
    assert not any("__pycache__" in name for name in names)


def test_any_python_runs_it_without_anything_installed(tmp_path: Path) -> None:
    path = tmp_path / "agent.pyz"
    path.write_bytes(agent_archive.build().data)
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(path), "--help"], capture_output=True, timeout=20, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"--config" in done.stdout
