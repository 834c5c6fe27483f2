"""Warnings about a valid configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from runnerd import config
from tests.unit.config.sample import PROVISIONERS, Cloudy, changed, load, read, warned


def test_a_sound_configuration_has_no_warning() -> None:
    settings = read(changed(forges__acme__webhook_secret="env:W"))
    assert warned(settings) == {}


@pytest.mark.parametrize(
    ("paths", "place", "part"),
    [
        ({"pools__gpu_1t4__labels": ["self-hosted", "gpu-t4"]}, "pools.gpu-t4.labels", "any job that asks only for"),
        ({"pools__gpu_1t4__allow": {"forks": True}}, "pools.gpu-t4.allow.forks", "strangers"),
        ({"pools__gpu_1t4__warm": 9}, "pools.gpu-t4.warm", "asks for 9 warm instances, but limits allow 8"),
        ({"pools__gpu_1t4__warm": {"0 8 * * *": 1}}, "pools.gpu-t4.warm", "no cron entry sets the count to 0"),
        ({"pools__gpu_1t4__idle": "2d"}, "pools.gpu-t4.idle", "max_idle_age"),
        (
            {"pools__gpu_1t4__forges": ["acme"], "pools__gpu_1t4__allow": {"protected_only": True}},
            "pools.gpu-t4.allow.protected_only",
            "only GitLab",
        ),
        ({"listen": {"ops": "0.0.0.0:9477"}}, "listen.ops", "no authentication"),
        (
            {"listen": {"public": "0.0.0.0:8477"}, "public_url": "http://runnerd.acme.example"},
            "listen.public",
            "in the clear",
        ),
        ({"public_url": "http://runnerd.acme.example"}, "public_url", "is not encrypted"),
        ({"public_url": ...}, "assets.to", "without public_url"),
        ({"public_url": ...}, "providers.aws", "cannot reach the daemon"),
        ({"assets": {"to": "native"}}, "assets.to", "GitHub does not host images"),
        ({"forges__acme__retry": {"preempted": 1}}, "forges.acme.retry.preempted", "repeats"),
        ({"forges__acme__mode": "rest"}, "forges.acme.repos", "the REST API lists no jobs"),
        ({"forges__acme__public_repositories": True}, "forges.acme.public_repositories", "pull request"),
        ({"forges__acme__webhook_secret": ...}, "forges.acme.webhook_secret", "webhooks are refused"),
        (
            {"providers__aws__regions": {"r": {"key": "ghp_0123456789abcdefghij"}}},
            "providers.aws.regions.r.key",
            "looks like a secret",
        ),
    ],
)
def test_warns_of_what_works_but_deserves_a_second_look(paths: dict[str, Any], place: str, part: str) -> None:
    data = changed(forges__acme__webhook_secret="env:W")
    sound = set(warned(read(data)))
    data = changed(**{"forges__acme__webhook_secret": "env:W"} | paths)
    found = warned(read(data))
    assert part in found[place]
    assert place not in sound


def test_local_instances_are_said_to_be_unisolated() -> None:
    data = changed(providers={"here": {"type": "local"}}, pools={"gpu": {}})
    settings = config.from_mapping(data, environ={}, provisioners=PROVISIONERS | {"local": Cloudy})
    assert "not isolated" in warned(settings)["providers.here"]


def test_a_secret_file_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("token-token\n")
    (tmp_path / "t").chmod(0o644)
    settings = load(tmp_path, yaml.safe_dump(changed(forges__gl__token="file:t")))
    assert warned(settings)["forges.gl.token"].endswith("may be read or written by every user of this host (mode 0644)")
