"""Answers of a configuration: commands, tags, paths, keys and addresses."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest
import yaml

from runnerd import config
from tests.unit.config.sample import BASE, PROVISIONERS, changed, load, read


def test_a_runner_is_started_as_the_pool_says_before_the_provider_before_the_defaults() -> None:
    data = changed(
        defaults__runner={"github": {"command": ["default"]}, "env": {"A": "1", "B": "1"}},
        providers__aws__runner={"github": {"command": ["provider"]}, "env": {"B": "2", "C": "2"}},
        pools__gpu_1a100__runner={"gitlab": {"command": ["pool"]}, "env": {"C": "3"}},
    )
    settings = read(data)
    assert settings.start("gpu-t4", provider="boxes", forge="acme").command == ("default",)
    found = settings.start("gpu-a100", provider="aws", forge="acme")
    assert found == config.Start(command=("provider",), env={"A": "1", "B": "2", "C": "3"})
    assert settings.start("gpu-a100", provider="aws", forge="gl").command == ("pool",)
    assert settings.start("gpu-t4", provider="aws", forge="gl").command == (
        "/usr/bin/gitlab-runner",
        "run-single",
    )


def test_tags_of_the_nearer_level_win() -> None:
    data = changed(
        tags={"a": "top", "b": "top"},
        providers__aws__tags={"b": "provider"},
        teams={"nlp": {"repos": ["acme/nlp-*"], "tags": {"c": "team"}}},
        pools__gpu_1t4__tags={"d": "pool"},
    )
    settings = read(data)
    assert settings.tags_for("gpu-t4", provider="aws", repo="acme/NLP-x") == {
        "a": "top", "b": "provider", "c": "team", "d": "pool",
    }  # fmt: skip
    assert settings.team_of("acme/vision") is None


def test_paths_start_at_the_file_and_the_database_in_the_state(tmp_path: Path) -> None:
    (tmp_path / "app.pem").write_text("key-of-the-app\n")
    (tmp_path / "db.url").write_text("postgresql+psycopg://runnerd:pw@db/runnerd\n")
    text = yaml.safe_dump(changed(forges__acme__app={"id": 1, "key": "file:app.pem"}, state="state"))
    settings = load(tmp_path, text)
    assert settings.database_url == f"sqlite:///{tmp_path}/state/runnerd.db"
    forge = settings.forges["acme"]
    assert isinstance(forge, config.GitHubForge) and forge.app is not None
    assert forge.app.key.reveal() == "key-of-the-app"
    settings = load(tmp_path, text + "database: file:db.url\n")
    assert settings.database_url == "postgresql+psycopg://runnerd:pw@db/runnerd"
    assert "pw" not in repr(settings)


def test_tokens_are_derived_from_the_configured_secret_or_from_a_key_in_the_state(tmp_path: Path) -> None:
    data = changed(state=str(tmp_path))
    assert len(read(data).token_key().reveal()) == 64
    settings = config.from_mapping(data | {"secret": "env:KEY"}, environ={"KEY": "own"}, provisioners=PROVISIONERS)
    assert settings.token_key().reveal() == "own"


def test_instances_reach_the_daemon_at_the_nearest_address() -> None:
    settings = read(changed(providers__aws__agent_url="https://inside.acme.example"))
    assert settings.agent_address("aws") == "https://inside.acme.example"
    assert settings.agent_address("boxes") == "https://runnerd.acme.example"
    assert read(changed(public_url=...)).agent_address("aws") == "http://127.0.0.1:8477"


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError):
        read(BASE).controller = "other"  # type: ignore[misc]  # that is the point
