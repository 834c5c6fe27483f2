from __future__ import annotations

from runnerd import model
from runnerd.forges import base
from runnerd.forges.github.client import GitHub
from runnerd.forges.gitlab.client import GitLab

METHODS = [name for name in vars(base.Forge) if not name.startswith("_")]


def test_a_secret_does_not_show_when_a_configuration_is_printed() -> None:
    config = base.RunnerConfig("github", "7", {"ACTIONS_RUNNER_INPUT_JITCONFIG": "top-secret"})
    assert "top-secret" not in repr(config) and "top-secret" not in str([config])


def test_an_update_is_keyed_by_where_its_job_is() -> None:
    queue = model.Queue("hub", "acme", "gpu")
    first = base.JobUpdate(base.JobEvent.QUEUED, queue, "acme/ml", "7", "train", alias="1")
    again = base.JobUpdate(base.JobEvent.STARTED, queue, "acme/ml", "7", "train", alias="2")
    assert first.key == again.key == model.job_key("hub", "acme/ml", "7", "train")


def test_both_clients_keep_the_whole_contract() -> None:
    for client in (GitHub, GitLab):
        assert [name for name in METHODS if not hasattr(client, name)] == []
