from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runnerd import config
from runnerd.demo import workspace


@pytest.fixture
def play(tmp_path: Path) -> workspace.Workspace:
    return workspace.prepare(tmp_path / "demo")


def test_its_configuration_is_one_that_the_daemon_reads(play: workspace.Workspace) -> None:
    (play.directory / "app.pem").write_text("key")
    workspace.write_config(
        play,
        simulator="http://127.0.0.1:8460",
        credentials=workspace.Credentials("123456", play.directory / "app.pem", "glpat-x"),
        python=sys.executable,
        runner=Path("/opt/runner.py"),
        path="/usr/bin",
    )
    settings = config.load(play.config)
    assert settings.pools[workspace.POOL].from_ == tuple(cloud.name for cloud in workspace.CLOUDS)
    assert settings.limits.instances == workspace.INSTANCES < len(workspace.JOBS)
    assert settings.limits.dollars_per_day == workspace.DOLLARS_PER_DAY
    assert (play.directory / "gitlab.token").stat().st_mode & 0o077 == 0


def test_the_jobs_are_those_of_the_workflow_files_and_ask_for_the_pool() -> None:
    orders = [job.request() for job in workspace.JOBS]
    assert len(orders) == 6
    assert {order["forge"] for order in orders} == {"github", "gitlab"}
    assert all(order["labels"] == [workspace.POOL] for order in orders)
    scripts = ["\n".join(order["script"]) for order in orders]
    assert any(
        "cml-publish confusion_matrix.png --md >> report.md\ncml-send-comment report.md" in one for one in scripts
    )
    assert any("cml comment create report.md" in one for one in scripts)
    assert len({(order["forge"], order["repo"], order["pull_number"]) for order in orders}) == len(orders)


def test_the_training_script_learns_and_draws(play: workspace.Workspace) -> None:
    where = play.repository(workspace.REPOSITORIES[0])
    done = subprocess.run(
        [sys.executable, "-I", "train.py", "--epochs", "6", "--samples", "300"],
        cwd=where,
        capture_output=True,
        check=True,
    )
    losses = [float(line.split()[-1]) for line in done.stdout.decode().splitlines() if line.startswith("epoch")]
    assert len(losses) == 6
    assert losses[-1] < 0.7 * losses[0]
    assert (where / "metrics.txt").read_text().startswith("- Accuracy: **")
    assert (where / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_two_demos_do_not_share_a_stage(play: workspace.Workspace) -> None:
    with pytest.raises(workspace.Unusable, match="another demo is running"):
        workspace.prepare(play.directory)


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chapter.txt").write_text("years of work")
    with pytest.raises(workspace.Unusable, match="not of an earlier demo"):
        workspace.prepare(tmp_path)
    assert (tmp_path / "chapter.txt").exists()


def test_a_path_too_long_for_a_socket_gets_one_elsewhere(tmp_path: Path) -> None:
    play = workspace.prepare(tmp_path / ("long" * 25))
    try:
        assert len(str(play.socket)) < 107
        assert play.directory not in play.socket.parents
    finally:
        workspace.clear_socket(play)
    assert not play.socket.parent.exists()
