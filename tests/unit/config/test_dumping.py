"""A configuration shown as data and as YAML."""

from __future__ import annotations

import json

import pytest
import yaml

from runnerd import config
from runnerd.kit import secrets
from tests.unit.config.sample import BASE, PROVISIONERS, changed, read


def test_what_is_shown_reads_back_as_the_same_configuration() -> None:
    data = changed(
        pools__gpu_1t4__warm={"08:00-09:00": 1},
        pools__gpu_1t4__memory="64GB",
        providers__aws__limits={"dollars_total": 5, "until": "2027-01-31"},
        teams={"nlp": {"repos": ["acme/nlp-*"]}},
    )
    settings = read(data)
    again = read(yaml.safe_load(config.show(settings)))
    assert not config.compare(settings, again)


def test_a_shown_pool_says_where_its_values_come_from() -> None:
    lines = config.show(read(BASE), "gpu-t4").splitlines()
    assert "idle: 5m  # as in defaults" in lines
    assert "boot: 10m  # built in" in lines
    assert "gpu: t4" in lines


def test_showing_an_unknown_pool_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        config.dump(read(BASE), "gpu-t5")


def test_nothing_shown_of_a_configuration_holds_a_secret() -> None:
    data = changed(secret="env:KEY", forges__gl__signing_token="env:SIGN")
    environ = {"KEY": "key-s3cret", "APP_KEY": "app-s3cret", "GITLAB": "git-s3cret", "SIGN": "sign-s3cret"}
    settings = config.from_mapping(data, environ=environ, provisioners=PROVISIONERS, reveal=True)
    shown = repr(settings) + json.dumps(config.dump(settings)) + config.show(settings) + settings.model_dump_json()
    assert "s3cret" not in shown
    assert isinstance(settings.secret, secrets.Secret)
    assert settings.secret.reveal() == "key-s3cret"
