"""Values and combinations that are refused, with the message for each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.config.sample import changed, problems


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
            "limits: is missing; add limits: {instances: 8}, so that no mistake is unbounded",
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
            "pools.gpu-t4.labels: expected a list of strings; 8 is not a string: quote it",
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
            {"pools__gpu_1t4__from": ["aws", "aws"]}, "pools.gpu-t4.from[1]: aws is listed twice", id="from-twice"
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
            "forges.acme.url: a URL here must not contain a user name or password",
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
            'forges.more: watches the same jobs as forge "gl"; each would be counted twice',
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
            {"limits__until": "2027-01-31"}, "limits.until: needs dollars_total, which is missing", id="until"
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
