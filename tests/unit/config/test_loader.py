from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioners import base
from runnerd import config, errors, planner
from runnerd.config import plugins
from runnerd.kit import secrets, yamlfile

ROOT = Path(__file__).parents[3]

BASE: dict[str, Any] = {
    "controller": "acme-ci",
    "public_url": "https://runnerd.acme.example",
    "forges": {
        "acme": {"type": "github", "url": "https://github.com/acme", "app": {"id": 1, "key": "env:APP_KEY"}},
        "gl": {
            "type": "gitlab",
            "url": "https://gitlab.acme.example",
            "groups": ["ml"],
            "token": "env:GITLAB",
        },
    },
    "providers": {"boxes": {"type": "cloudy"}, "aws": {"type": "cloudy", "regions": {"us-east-1": {}}}},
    "limits": {"instances": 8, "dollars_per_day": 200},
    "defaults": {"market": "spot-then-on-demand", "idle": "5m"},
    "pools": {
        "gpu-t4": {"gpu": "t4", "from": ["aws"]},
        "gpu-a100": {"gpu": "a100-40 x 4", "from": ["boxes", "aws"]},
    },
}


class Cloudy:
    """A provider type that knows `regions` and `hosts`."""

    @classmethod
    def validate(cls, options: Mapping[str, Any]) -> list[str]:
        return [f"{key}: unknown key" for key in options if key not in ("regions", "hosts")]


#: The contract's other methods are of no matter to the configuration.
PROVISIONERS: Any = {"cloudy": Cloudy}


def changed(**paths: Any) -> dict[str, Any]:
    """BASE with values at `a__b__c` replaced; `...` removes a key; `-` in names is written `_1`."""
    data = copy.deepcopy(BASE)
    for path, value in paths.items():
        *blocks, last = path.replace("_1", "-").split("__")
        block = data
        for name in blocks:
            block = block.setdefault(name, {})
        if value is ...:
            block.pop(last, None)
        else:
            block[last] = value
    return data


def read(data: Mapping[str, Any], **options: Any) -> config.Config:
    return config.from_mapping(data, environ={}, provisioners=PROVISIONERS, **options)


def problems(data: Mapping[str, Any]) -> list[str]:
    with pytest.raises(errors.ConfigInvalid) as caught:
        read(data)
    return [str(problem).removeprefix("configuration: ") for problem in caught.value.problems]


def load(folder: Path, text: str, **options: Any) -> config.Config:
    path = folder / "runnerd.yaml"
    path.write_text(text)
    return config.load(path, **{"environ": {}, "provisioners": PROVISIONERS, "reveal": False} | options)


def loading_problems(folder: Path, text: str, **options: Any) -> list[str]:
    with pytest.raises(errors.ConfigInvalid) as caught:
        load(folder, text, **options)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def warned(settings: config.Config) -> dict[str, str]:
    return {finding.place: finding.message for finding in settings.warnings()}


# -- reading -------------------------------------------------------------------------------------------------------


def test_a_pool_inherits_what_it_does_not_set() -> None:
    pools = read(changed(pools__gpu_1t4__idle="1h")).pools
    assert pools["gpu-t4"].idle == 3600.0
    assert pools["gpu-a100"].idle == 300.0
    assert pools["gpu-t4"].market is config.MarketChoice.SPOT_THEN_ON_DEMAND
    assert pools["gpu-t4"].boot == 600.0


def test_maps_merge_key_by_key_so_that_a_pool_cannot_lose_a_restriction_by_accident() -> None:
    data = changed(defaults__allow={"repos": ["acme/*"]}, pools__gpu_1t4__allow={"protected_only": True})
    allow = read(data).pools["gpu-t4"].allow
    assert (allow.repos, allow.protected_only) == (("acme/*",), True)


def test_a_pool_serves_all_forges_from_all_providers_under_its_own_name_unless_told_otherwise() -> None:
    pool = read(changed(pools={"gpu": None})).pools["gpu"]
    assert (pool.name, pool.labels, pool.from_, pool.forges) == (
        "gpu",
        ("gpu",),
        ("boxes", "aws"),
        ("acme", "gl"),
    )


def test_a_shape_says_what_to_buy() -> None:
    data = changed(pools__gpu_1a100__types={"aws": ["p4d.24xlarge"]}, pools__gpu_1a100__memory="64GiB")
    pool = read(data).pools["gpu-a100"]
    assert pool.shape("aws") == base.Shape(
        gpu="a100-40",
        gpu_count=4,
        memory=64 * 2**30,
        types=("p4d.24xlarge",),
        markets=(base.Market.SPOT, base.Market.ON_DEMAND),
    )
    assert pool.shape("boxes").types == ()


def test_a_pool_lives_for_boot_wait_and_job_and_leaves_twice_the_slack_of_the_planner_for_both_clocks() -> None:
    pool = read(changed(defaults__boot="10m", defaults__idle="5m", defaults__max_job="1h")).pools["gpu-t4"]
    assert pool.lifetime == 600 + 300 + 3600 + 2 * planner.SLACK
    kept = read(
        changed(pools__gpu_1t4__warm=1, defaults__boot="10m", defaults__max_idle_age="2h", defaults__max_job="1h")
    )
    assert kept.pools["gpu-t4"].lifetime == 600 + 7200 + 3600 + 2 * planner.SLACK


@pytest.mark.parametrize(("text", "model", "count"), [("T4", "t4", 1), ("a100-40x4", None, 0), ("h100 x8", "h100", 8)])
def test_reads_gpus_with_a_count(text: str, model: str | None, count: int) -> None:
    data = changed(pools__gpu_1t4__gpu=text)
    if model is None:
        # Without a blank, `x4` belongs to the model's name.
        assert read(data).pools["gpu-t4"].gpu_model == text
    else:
        pool = read(data).pools["gpu-t4"]
        assert (pool.gpu_model, pool.gpu_count) == (model, count)


def test_a_provider_keeps_the_keys_of_its_type_as_options() -> None:
    provider = read(changed(providers__aws__tags={"cost": "ml"})).providers["aws"]
    assert provider.options == {"regions": {"us-east-1": {}}}
    assert (provider.name, provider.type, provider.tags) == ("aws", "cloudy", {"cost": "ml"})


@pytest.mark.parametrize(
    ("url", "kind", "scope"),
    [
        ("https://github.com/acme/", "organization", "acme"),
        ("https://github.com/acme/ml", "repository", "acme/ml"),
        ("https://ghes.acme.example:8443/acme", "organization", "acme"),
        ("https://acme.ghe.com/acme", "organization", "acme"),
        ("http://127.0.0.1:8080/acme", "organization", "acme"),
    ],
)
def test_reads_what_a_github_address_names(url: str, kind: str, scope: str) -> None:
    forge = read(changed(forges__acme__url=url)).forges["acme"]
    assert isinstance(forge, config.GitHubForge)
    assert (forge.kind, forge.scope) == (kind, scope)


def test_an_enterprise_takes_a_token() -> None:
    github = {"type": "github", "url": "https://github.com/enterprises/acme", "token": "env:T"}
    forge = read(changed(forges={"acme": github})).forges["acme"]
    assert isinstance(forge, config.GitHubForge)
    assert (forge.kind, forge.scope) == ("enterprise", "enterprises/acme")


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


# -- refusals ------------------------------------------------------------------------------------------------------


def test_a_problem_names_file_line_key_and_the_nearest_key(tmp_path: Path) -> None:
    text = """\
controller: acme-ci
forges:
  acme: {type: github, url: https://github.com/acme, token: "env:T"}
providers:
  aws: {type: cloudy}
limits: {instances: 8}
pools:
  gpu-t4:
    gpu: t4
    idel: 10m
"""
    assert loading_problems(tmp_path, text) == ['runnerd.yaml:10: pools.gpu-t4.idel: unknown key; did you mean "idle"?']


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
controller: Acme CI
forges:
  acme: {type: github, url: https://github.com/acme, token: "env:T", ca: 5}
  gl: {type: gitlab, groups: [ml], token: ghp_0123456789abcdef}
providers:
  aws: {type: clowdy}
limits: {dollars_per_day: 200}
defaults: {idle: 10}
pools:
  gpu-t4: {from: [asw], max_job: "12"}
  gpu: {labels: [GPU-T4], limits: {instances: 0}}
"""
    assert loading_problems(tmp_path, text) == [
        "runnerd.yaml:1: controller: a controller's name has 1 to 40 of a-z, 0-9 and -, "
        "and neither begins nor ends with -",
        "runnerd.yaml:3: forges.acme.ca: expected a path",
        "runnerd.yaml:4: forges.gl.token: a secret in the file; write file:/path, env:NAME or credential:NAME",
        'runnerd.yaml:6: providers.aws.type: there is no provider type "clowdy"; did you mean "cloudy"?',
        "runnerd.yaml:7: limits.instances: is missing; add instances: 8, so that no slip is without bound",
        'runnerd.yaml:8: defaults.idle: "10" has no unit; write 10s, 10m or 10h',
        'runnerd.yaml:10: pools.gpu-t4.from[0]: there is no provider "asw"; did you mean "aws"?',
        'runnerd.yaml:10: pools.gpu-t4.max_job: "12" has no unit; write 12s, 12m or 12h',
        'runnerd.yaml:11: pools.gpu.labels: overlaps with pool "gpu-t4" on forge "acme": '
        "a job for [gpu-t4] matches both; change the labels, or set overlap: allowed on both",
        "runnerd.yaml:11: pools.gpu.limits.instances: "
        "a pool that may have no instance serves no job; remove it or drain it",
    ]


def test_rules_are_checked_on_what_can_be_read_although_another_part_cannot() -> None:
    data = changed(log={"level": "loud"}, pools__gpu_1t4__from=["asw"], pools__gpu_1a100__limits={"instances": 0})
    assert set(problems(data)) == {
        'log.level: "loud" is not one of debug, info, warning, error',
        "pools.gpu-a100.limits.instances: a pool that may have no instance serves no job; remove it or drain it",
        'pools.gpu-t4.from[0]: there is no provider "asw"; did you mean "aws"?',
    }


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        pytest.param({"pool": {}}, 'pool: unknown key; did you mean "pools"?', id="top-key"),
        pytest.param(
            {"defaults__Idle": "1m"}, 'defaults.Idle: unknown key; did you mean "idle"?', id="key-in-capitals"
        ),
        pytest.param(
            {"defaults__max-job": "1h"}, 'defaults.max-job: unknown key; did you mean "max_job"?', id="key-dash"
        ),
        pytest.param(
            {"forges__gl__group": ["ml"]}, 'forges.gl.group: unknown key; did you mean "groups"?', id="forge-key"
        ),
        pytest.param(
            {"forges__acme__app": {"id": 1, "key": "env:K", "instalation": 2}},
            'forges.acme.app.instalation: unknown key; did you mean "installation"?',
            id="deep",
        ),
        pytest.param(
            {"pools__gpu_1t4__name": "x"}, 'pools.gpu-t4.name: unknown key; the name is "gpu-t4" already', id="name"
        ),
        pytest.param({"pools__gpu_1t4__zzz": 1}, "pools.gpu-t4.zzz: unknown key", id="nothing-near"),
        pytest.param({"providers__aws__regoins": {}}, "providers.aws.regoins: unknown key", id="option"),
        pytest.param(
            {"pools__gpu_1t4__max": 0},
            "pools.gpu-t4.max: unknown key; a pool that may have no instance serves no job; remove it or drain it; "
            "for a ceiling write limits: {instances: N}",
            id="max-0",
        ),
        pytest.param(
            {"pools__gpu_1t4__max": 3}, "pools.gpu-t4.max: unknown key; write limits: {instances: N}", id="max-3"
        ),
        pytest.param(
            {"pools__gpu_1t4__limits": {"instances": 0}},
            "pools.gpu-t4.limits.instances: a pool that may have no instance serves no job; remove it or drain it",
            id="pool-0",
        ),
        pytest.param(
            {"limits__instances": 0},
            "limits.instances: a daemon that may have no instance serves no job; drain the pools instead",
            id="top-0",
        ),
        pytest.param(
            {"providers__aws__limits": {"instances": 0}},
            "providers.aws.limits.instances: a provider that may have no instance is never used; remove it",
            id="provider-0",
        ),
        pytest.param(
            {"pools__gpu_1a100__limits": {"gpus": 3}},
            "pools.gpu-a100.limits.gpus: is 3, and each instance has 4: the pool could have none",
            id="gpus-too-few",
        ),
        pytest.param(
            {"limits": ...},
            "limits: is missing; add limits: {instances: 8}, so that no slip is without bound",
            id="no-limits",
        ),
        pytest.param(
            {"controller": ...},
            "controller: is missing; add a name that never changes, such as controller: acme-ci",
            id="no-controller",
        ),
        pytest.param({"controller": "x" * 41}, None, id="long-controller"),
        pytest.param({"pools": {}}, "pools: is empty; name at least one", id="no-pools"),
        pytest.param({"pools": ["gpu"]}, "pools: expected a map of keys and values, not a list", id="pools-list"),
        pytest.param(
            {"pools__gpu_1t4": "t4"}, 'pools.gpu-t4: expected a map of keys and values, not "t4"', id="pool-text"
        ),
        pytest.param(
            {"pools__GPU": {}},
            "pools.GPU: a name has 1 to 40 of a-z, 0-9, _ and -, and begins and ends with a letter or digit",
            id="pool-name",
        ),
        pytest.param(
            {"pools__gpu_1t4__idle": 10}, 'pools.gpu-t4.idle: "10" has no unit; write 10s, 10m or 10h', id="no-unit"
        ),
        pytest.param(
            {"pools__gpu_1t4__max_job": 0},
            "pools.gpu-t4.max_job: 0 is too short; write a duration such as 10m",
            id="no-time",
        ),
        pytest.param(
            {"pools__gpu_1t4__disk": "100G"}, 'pools.gpu-t4.disk: "G" is not a unit of size; write 100GB', id="size"
        ),
        pytest.param(
            {"pools__gpu_1t4__cpu": "4"}, "pools.gpu-t4.cpu: expected a whole number from 1 to 1024", id="number-text"
        ),
        pytest.param(
            {"pools__gpu_1t4__untagged": "yes"},
            'pools.gpu-t4.untagged: expected true or false, not "yes"; write true',
            id="flag",
        ),
        pytest.param({"pools__gpu_1t4__labels": "gpu"}, "pools.gpu-t4.labels: expected a list; write [gpu]", id="list"),
        pytest.param(
            {"pools__gpu_1t4__labels": [8]},
            "pools.gpu-t4.labels: expected a list of texts; 8 is not a text, quote it",
            id="list-number",
        ),
        pytest.param(
            {"pools__gpu_1t4__market": "spot-than-on-demand"},
            'pools.gpu-t4.market: "spot-than-on-demand" is not one of on-demand, spot, spot-then-on-demand; '
            'did you mean "spot-then-on-demand"?',
            id="word",
        ),
        pytest.param(
            {"assets": {"types": ["jpg"]}},
            'assets.types[0]: "jpg" is not one of png, jpeg, gif, webp, svg, pdf; did you mean "jpeg"?',
            id="word-in-list",
        ),
        pytest.param(
            {"pools__gpu_1t4__gpu": "4 x t4 x"},
            'pools.gpu-t4.gpu: expected a GPU model with an optional count, such as t4 or "a100-40 x 4"',
            id="gpu",
        ),
        pytest.param(
            {"pools__gpu_1t4__gpu": "t4 x 99"},
            "pools.gpu-t4.gpu: 99 GPUs in one machine; from 1 to 16 are possible",
            id="gpus",
        ),
        pytest.param({"pools__gpu_1t4__warm": {"Mon 8-9": 1}}, None, id="warm"),
        pytest.param(
            {"pools__gpu_1t4__from": ["aws", "aws"]}, "pools.gpu-t4.from[1]: aws stands here twice", id="from-twice"
        ),
        pytest.param(
            {"pools__gpu_1t4__from": []},
            "pools.gpu-t4.from: is empty; name at least one provider, or leave the key out for all",
            id="from-empty",
        ),
        pytest.param(
            {"pools__gpu_1t4__from": ["azure"]},
            'pools.gpu-t4.from[0]: there is no provider "azure"; there are boxes, aws',
            id="from",
        ),
        pytest.param(
            {"pools__gpu_1t4__forges": ["acmee"]},
            'pools.gpu-t4.forges[0]: there is no forge "acmee"; did you mean "acme"?',
            id="forge",
        ),
        pytest.param(
            {"pools__gpu_1t4__types": {"asw": ["x"]}},
            'pools.gpu-t4.types.asw: there is no provider "asw"; did you mean "aws"?',
            id="types",
        ),
        pytest.param(
            {"pools__gpu_1t4__untagged": True, "pools__gpu_1t4__forges": ["acme"]},
            "pools.gpu-t4.untagged: jobs without tags are GitLab's, and this pool serves no GitLab",
            id="untagged",
        ),
        pytest.param(
            {"forges__acme__app": ...},
            "forges.acme: has no credential; add app: {id: …, key: file:…} or token: file:…",
            id="no-credential",
        ),
        pytest.param(
            {"forges__acme__token": "env:T"},
            "forges.acme: has both app and token; keep one, the app if you can",
            id="two-credentials",
        ),
        pytest.param(
            {"forges__acme__url": "https://github.com/enterprises/acme"},
            "forges.acme: GitHub refuses Apps for an enterprise; use a token with manage_runners:enterprise",
            id="enterprise-app",
        ),
        pytest.param(
            {"forges__acme__url": "http://github.com/acme"},
            "forges.acme.url: a token would travel in the clear; write https://… (http is for loopback only)",
            id="http",
        ),
        pytest.param(
            {"forges__acme__url": "https://github.com"},
            "forges.acme.url: the URL names no organisation; write https://github.com/acme or …/acme/repo",
            id="no-org",
        ),
        pytest.param(
            {"forges__acme__url": "https://u:p@github.com/acme"},
            "forges.acme.url: a secret in the file; a URL here has no user name and no password",
            id="userinfo",
        ),
        pytest.param(
            {"forges__acme__url": "https://[x/acme"},
            "forges.acme.url: this is not a URL; check host and port",
            id="bad-url",
        ),
        pytest.param(
            {"forges__acme__type": "githup"},
            'forges.acme.type: "githup" is not one of github, gitlab; did you mean "github"?',
            id="type",
        ),
        pytest.param(
            {"forges__acme__type": ...},
            "forges.acme.type: is missing; write type: github or type: gitlab",
            id="no-type",
        ),
        pytest.param(
            {"forges__gl__groups": ...},
            "forges.gl: watches nothing; add groups: [ml] or projects: [ml/train]",
            id="no-group",
        ),
        pytest.param(
            {"forges__gl__token": "glpat-0123456789abcdefghij"},
            "forges.gl.token: a secret in the file; write file:/path, env:NAME or credential:NAME",
            id="inline",
        ),
        pytest.param(
            {"forges__acme__retry": {"preempted": 4}}, "forges.acme.retry.preempted: 4 is not within 0 to 3", id="retry"
        ),
        pytest.param(
            {
                "forges__more": {
                    "type": "gitlab",
                    "url": "https://gitlab.acme.example",
                    "projects": ["ml/x"],
                    "token": "env:T",
                }
            },
            'forges.more: watches what forge "gl" watches; each job would be counted twice',
            id="same-forge",
        ),
        pytest.param({"providers__aws__type": ...}, "providers.aws.type: is missing", id="no-provider-type"),
        pytest.param(
            {"database": "postgresql://u:pw@db/x"},
            "database: a secret in the file; put the URL elsewhere and write file:/path, env:NAME or credential:NAME",
            id="db",
        ),
        pytest.param(
            {"listen": {"ops": "9477"}},
            "listen.ops: expected an address and a port, such as 127.0.0.1:9477 or [::1]:9477",
            id="listen",
        ),
        pytest.param(
            {"tags": {"runnerd-pool": "x"}},
            "tags: runnerd-pool: tags that begin with runnerd- are runnerd's own",
            id="tags",
        ),
        pytest.param(
            {"limits__until": "2027-01-31"}, "limits.until: belongs to dollars_total, which is missing", id="until"
        ),
        pytest.param(
            {"limits__dollars_per_day": "200 EUR"},
            'limits.dollars_per_day: "200 EUR" is not an amount; write US dollars, such as 200 or 0.50',
            id="euro",
        ),
        pytest.param(
            {"public_url": "runnerd.acme.example"},
            'public_url: "runnerd.acme.example" is not a web address; write https://…',
            id="url",
        ),
        pytest.param(
            {"defaults__runner": {"env": {"T": "ghp_0123456789abcdefghij"}}},
            "defaults.runner.env: a secret in the file: every job would see T; give it to the job through its forge",
            id="env",
        ),
        pytest.param({"defaults__user": "Root User"}, 'defaults.user: "Root User" is not a valid name here', id="user"),
    ],
)
def test_refuses_and_says_what_to_write(paths: dict[str, Any], message: str | None) -> None:
    found = problems(changed(**paths))
    assert len(found) == 1
    assert message is None or found == [message]


@pytest.mark.parametrize("value", ["ghp_" + "s3cret" * 6, "glpat-s3cret-s3cret-s3cret", "s3cret", "env: s3cret s3cret"])
@pytest.mark.parametrize("path", ["forges__acme__webhook_secret", "forges__gl__token", "secret"])
def test_an_inline_secret_is_not_echoed(path: str, value: str) -> None:
    assert "s3cret" not in "\n".join(problems(changed(**{path: value})))


def test_a_token_pasted_in_the_wrong_place_is_not_echoed() -> None:
    token = "ghp_" + "s3cret" * 6
    for path in ("defaults__market", "public_url", "pools__gpu_1t4__from", "log__level", "defaults__user"):
        value = [token] if path.endswith("from") else token
        assert "s3cret" not in "\n".join(problems(changed(**{path: value})))


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("a,b", "a comma parts labels"),
        ("gpu t4", "it has a blank or a control character"),
        ("gpu\u200b", "it has a blank or a control character"),
        ("x" * 257, "it is longer than 256 characters"),
    ],
)
def test_refuses_labels_that_no_job_can_match(label: str, why: str) -> None:
    found = problems(changed(pools__gpu_1t4__labels=["ok", label]))
    assert found == [f"pools.gpu-t4.labels[1]: no job can match this label: {why}"]


def test_refuses_an_empty_set_of_labels_and_an_empty_label() -> None:
    assert problems(changed(pools__gpu_1t4__labels=[])) == [
        "pools.gpu-t4.labels: is empty, so no job can match; name a label, or leave the key out for the pool's name"
    ]
    assert problems(changed(pools__gpu_1t4__labels=[" "])) == ["pools.gpu-t4.labels: an entry of the list is empty"]


def test_github_labels_differ_by_more_than_case() -> None:
    found = problems(changed(pools__gpu_1t4__labels=["gpu", "GPU"]))
    assert found == ['pools.gpu-t4.labels[1]: "GPU" stands here twice (GitHub does not tell upper from lower case)']
    read(changed(pools__gpu_1t4__labels=["gpu", "GPU"], pools__gpu_1t4__forges=["gl"]))


def test_gitlab_takes_fifty_tags() -> None:
    found = problems(changed(pools__gpu_1t4__labels=[f"l{n}" for n in range(51)]))
    assert found == ["pools.gpu-t4.labels: has 51 labels; gitlab takes at most 50"]


# -- overlap -------------------------------------------------------------------------------------------------------


def overlapping(first: list[str], second: list[str], **more: Any) -> dict[str, Any]:
    return changed(pools={"a": {"labels": first} | more.get("a", {}), "b": {"labels": second} | more.get("b", {})})


@pytest.mark.parametrize(
    ("first", "second"),
    [(["x"], ["x"]), (["x"], ["x", "y"]), (["x", "y"], ["y"]), (["x", "y"], ["y", "x"]), (["X"], ["x"])],
)
def test_pools_that_match_the_same_job_are_refused(first: list[str], second: list[str]) -> None:
    found = problems(overlapping(first, second))
    asked = ", ".join(sorted(first if len(first) <= len(second) else second))
    assert found == [
        f'pools.b.labels: overlaps with pool "a" on forge "acme": a job for [{asked.lower()}] matches both; '
        "change the labels, or set overlap: allowed on both"
    ]


def test_an_overlap_is_named_with_its_line(tmp_path: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in BASE.items() if key != "pools"}, sort_keys=False)
    line = text.count("\n") + 1
    text += "pools:\n  a: {labels: [x]}\n  b:\n    gpu: t4\n    labels: [x, y]\n"
    assert loading_problems(tmp_path, text)[0].startswith(f"runnerd.yaml:{line + 4}: pools.b.labels: overlaps")


def test_an_overlap_needs_the_consent_of_both_pools() -> None:
    allowed = {"overlap": "allowed"}
    assert problems(overlapping(["x"], ["x"], a=allowed))
    read(overlapping(["x"], ["x"], a=allowed, b=allowed))


def test_pools_on_different_forges_do_not_overlap() -> None:
    read(overlapping(["x"], ["x"], a={"forges": ["acme"]}, b={"forges": ["gl"]}))


def test_an_organisation_and_its_repository_see_the_same_jobs() -> None:
    data = overlapping(["x"], ["x"], a={"forges": ["acme"]}, b={"forges": ["repo"]})
    data["forges"]["repo"] = {"type": "github", "url": "https://github.com/ACME/ml", "token": "env:T"}
    assert 'overlaps with pool "a"' in problems(data)[0]
    data["forges"]["repo"]["url"] = "https://github.com/acme-labs/ml"
    read(data)


def test_gitlab_tells_upper_from_lower_case() -> None:
    read(overlapping(["x"], ["X"], a={"forges": ["gl"]}, b={"forges": ["gl"]}))


def test_two_pools_for_untagged_jobs_overlap() -> None:
    untagged = {"untagged": True, "forges": ["gl"]}
    assert "both take jobs without tags" in problems(overlapping(["x"], ["y"], a=untagged, b=untagged))[0]


def test_labels_that_are_shared_in_part_are_a_warning() -> None:
    found = warned(read(overlapping(["x", "a"], ["x", "b"])))
    assert found["pools.b.labels"] == "a job that asks only for [x] matches pool a too"


# -- secrets -------------------------------------------------------------------------------------------------------


def test_a_missing_secret_is_told_with_its_line(tmp_path: Path) -> None:
    text = "controller: acme-ci\n" + yaml.safe_dump(
        changed(controller=..., forges__acme__app={"id": 1, "key": f"file:{tmp_path}/app.pem"})
    )
    line = text.splitlines().index(f"      key: file:{tmp_path}/app.pem") + 1
    assert loading_problems(tmp_path, text, reveal=True, environ={"GITLAB": "x"}) == [
        f"runnerd.yaml:{line}: forges.acme.app.key: no secret at file:{tmp_path}/app.pem: there is no such file; "
        f"write the secret to {tmp_path}/app.pem, readable by the user of the daemon alone (mode 0600)"
    ]
    load(tmp_path, text, reveal=False)


def test_a_secret_that_goes_missing_later_still_names_its_line(tmp_path: Path) -> None:
    settings = load(tmp_path, yaml.safe_dump(BASE))
    places = {secret.place.removeprefix(f"{tmp_path}/") for _, secret in settings.secrets()}
    assert places == {"runnerd.yaml:9: forges.acme.app.key", "runnerd.yaml:15: forges.gl.token"}


def test_a_secret_file_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("token-token\n")
    (tmp_path / "t").chmod(0o644)
    settings = load(tmp_path, yaml.safe_dump(changed(forges__gl__token="file:t")))
    assert warned(settings)["forges.gl.token"].endswith("may be read or written by every user of this host (mode 0644)")


def test_nothing_shown_of_a_configuration_holds_a_secret() -> None:
    data = changed(secret="env:KEY", forges__gl__signing_token="env:SIGN")
    environ = {"KEY": "key-s3cret", "APP_KEY": "app-s3cret", "GITLAB": "git-s3cret", "SIGN": "sign-s3cret"}
    settings = config.from_mapping(data, environ=environ, provisioners=PROVISIONERS, reveal=True)
    shown = repr(settings) + json.dumps(config.dump(settings)) + config.show(settings) + settings.model_dump_json()
    assert "s3cret" not in shown
    assert isinstance(settings.secret, secrets.Secret)
    assert settings.secret.reveal() == "key-s3cret"


# -- warnings ------------------------------------------------------------------------------------------------------


def test_a_sound_configuration_has_no_warning() -> None:
    settings = read(changed(forges__acme__webhook_secret="env:W"))
    assert warned(settings) == {}


@pytest.mark.parametrize(
    ("paths", "place", "part"),
    [
        ({"pools__gpu_1t4__labels": ["self-hosted", "gpu-t4"]}, "pools.gpu-t4.labels", "a stray job"),
        ({"pools__gpu_1t4__allow": {"forks": True}}, "pools.gpu-t4.allow.forks", "strangers"),
        ({"pools__gpu_1t4__warm": 9}, "pools.gpu-t4.warm", "asks for 9 warm instances, and limits allow 8"),
        ({"pools__gpu_1t4__warm": {"0 8 * * *": 1}}, "pools.gpu-t4.warm", "no cron entry ever"),
        ({"pools__gpu_1t4__idle": "2d"}, "pools.gpu-t4.idle", "max_idle_age"),
        (
            {"pools__gpu_1t4__forges": ["acme"], "pools__gpu_1t4__allow": {"protected_only": True}},
            "pools.gpu-t4.allow.protected_only",
            "only GitLab",
        ),
        ({"listen": {"ops": "0.0.0.0:9477"}}, "listen.ops", "no log-in"),
        (
            {"listen": {"public": "0.0.0.0:8477"}, "public_url": "http://runnerd.acme.example"},
            "listen.public",
            "in the clear",
        ),
        ({"public_url": "http://runnerd.acme.example"}, "public_url", "is not encrypted"),
        ({"public_url": ...}, "assets.to", "without public_url"),
        ({"public_url": ...}, "providers.aws", "cannot reach the daemon"),
        ({"assets": {"to": "native"}}, "assets.to", "GitHub takes no images"),
        ({"forges__acme__retry": {"preempted": 1}}, "forges.acme.retry.preempted", "repeats"),
        ({"forges__acme__mode": "rest"}, "forges.acme.repos", "REST has no queue"),
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
    assert "unisolated" in warned(settings)["providers.here"]


# -- showing, comparing, describing --------------------------------------------------------------------------------


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


def test_comparing_finds_only_what_differs() -> None:
    old = read(BASE)
    assert not config.compare(old, read(copy.deepcopy(BASE)))
    new = read(
        changed(
            pools__gpu_1t4__idle="1h",
            pools__gpu_1v100={"gpu": "v100"},
            providers__boxes=...,
            pools__gpu_1a100__from=["aws"],
            log={"level": "debug"},
            state="/srv/runnerd",
        )
    )
    change = config.compare(old, new)
    assert change.pools == config.Difference(added=frozenset({"gpu-v100"}), changed=frozenset({"gpu-t4", "gpu-a100"}))
    assert change.providers == config.Difference(removed=frozenset({"boxes"}))
    assert not change.forges
    assert change.top == {"log", "state"}
    assert change.needs_restart == {"state"}


def test_a_changed_default_changes_the_pools_that_inherit_it() -> None:
    old = read(changed(pools__gpu_1t4__idle="1h"))
    new = read(changed(pools__gpu_1t4__idle="1h", defaults__idle="7m"))
    assert config.compare(old, new).pools.changed == {"gpu-a100"}
    new = read(changed(pools__gpu_1t4__idle="1h", defaults__runner={"env": {"A": "1"}}))
    assert config.compare(old, new).pools.changed == {"gpu-t4", "gpu-a100"}


def test_the_reference_in_the_documentation_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == config.reference()


def test_every_key_is_described() -> None:
    assert "|  |\n" not in config.reference().replace("| Default | Meaning |", "")


EXAMPLES = sorted((ROOT / "config").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_shipped_examples_are_valid(path: Path) -> None:
    settings = config.load(path, environ={}, reveal=False)
    assert settings.pools
    jsonschema.validate(yamlfile.read(path).data, config.json_schema())


def test_the_minimal_example_has_at_most_twelve_lines() -> None:
    assert len((ROOT / "config" / "minimal.yaml").read_text().splitlines()) <= 12


@pytest.mark.parametrize(
    "paths",
    [
        {"pool": {}},
        {"defaults__idle": 10},
        {"pools__gpu_1t4__market": "cheap"},
        {"forges__gl__token": "glpat-x"},
        {"limits": ...},
        {"pools__gpu_1t4__name": "x"},
        {"providers__aws__type": 3},
    ],
)
def test_the_schema_refuses_what_the_daemon_refuses(paths: dict[str, Any]) -> None:
    schema = config.json_schema()
    jsonschema.validate(BASE, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(**paths), schema)


def test_names_of_the_installed_provisioner_types_include_the_shipped_ones() -> None:
    assert {"fake", "local"} <= config.provisioner_types().keys()


def test_a_provider_whose_package_is_broken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.BUILT_IN, "broken", "provisioners.no_such_module:Nothing")
    found = problems(changed(providers__aws={"type": "broken"}))
    assert found == [
        "providers.aws.type: the package behind the provider type broken cannot be used: "
        "No module named 'provisioners.no_such_module'"
    ]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SPOTS = [
    "forges", "forges__acme", "forges__acme__app", "forges__acme__url", "providers", "providers__aws", "limits",
    "defaults", "defaults__runner", "defaults__allow", "pools", "pools__gpu_1t4", "pools__gpu_1t4__warm",
    "pools__gpu_1t4__from", "pools__gpu_1t4__labels", "pools__gpu_1t4__types", "teams", "tags", "assets", "listen",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(spot=st.sampled_from(SPOTS), junk=JUNK)
def test_junk_anywhere_is_read_or_refused_with_problems(spot: str, junk: Any) -> None:
    try:
        read(changed(**{spot: junk}))
    except errors.ConfigInvalid as error:
        assert error.problems
        assert all(problem.message for problem in error.problems)
