"""Loading: all problems with their places, secrets, and data of any shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd import errors
from tests.unit.config.sample import BASE, changed, load, loading_problems, problems, read


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
        "runnerd.yaml:7: limits.instances: is missing; add instances: 8, so that no mistake is unbounded",
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


@pytest.mark.parametrize("value", ["ghp_" + "s3cret" * 6, "glpat-s3cret-s3cret-s3cret", "s3cret", "env: s3cret s3cret"])
@pytest.mark.parametrize("path", ["forges__acme__webhook_secret", "forges__gl__token", "secret"])
def test_an_inline_secret_is_not_echoed(path: str, value: str) -> None:
    assert "s3cret" not in "\n".join(problems(changed(**{path: value})))


def test_a_token_pasted_in_the_wrong_place_is_not_echoed() -> None:
    token = "ghp_" + "s3cret" * 6
    for path in ("defaults__market", "public_url", "pools__gpu_1t4__from", "log__level", "defaults__user"):
        value = [token] if path.endswith("from") else token
        assert "s3cret" not in "\n".join(problems(changed(**{path: value})))


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
