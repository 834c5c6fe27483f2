from __future__ import annotations

import random

import pytest

from runnerd.agent import client, watchdog
from runnerd.agent.watchdog import Facts, Limits, Verdict

LIMITS = Limits(unclaimed=600, unreachable=1200, max_job=3600)


@pytest.mark.parametrize(
    ("facts", "now", "verdict"),
    [
        pytest.param(Facts(0, 0), 599, Verdict.GO_ON, id="young"),
        pytest.param(Facts(0, 590), 600, Verdict.ASK, id="an unclaimed instance asks first"),
        pytest.param(Facts(0, 600, asked=600), 610, Verdict.GO_ON, id="it does not ask at every look"),
        pytest.param(Facts(0, 600, asked=600), 615, Verdict.ASK, id="it goes on asking"),
        pytest.param(Facts(0, 86000, asked=86390), 86400, Verdict.GO_ON, id="a wanted instance stays for days"),
        pytest.param(Facts(0, 100), 1299, Verdict.ASK, id="nearly unreachable"),
        pytest.param(Facts(0, 100), 1300, Verdict.END_UNREACHABLE, id="unreachable"),
        pytest.param(Facts(0, 100, job_at=50), 1300, Verdict.GO_ON, id="unreachable with a job"),
        pytest.param(Facts(0, 0, job_at=50), 3649, Verdict.GO_ON, id="unreachable and unclaimed with a job"),
        pytest.param(Facts(0, 3600, job_at=50), 3650, Verdict.END_MAX_JOB, id="max_job"),
        pytest.param(Facts(0, 0, job_at=0), 3600, Verdict.END_MAX_JOB, id="max_job from the first second"),
        pytest.param(Facts(0, 0, job_at=50, over_at=3640), 3700, Verdict.GO_ON, id="max_job counts no finished job"),
        pytest.param(Facts(0, 0, job_at=50, over_at=3640), 4240, Verdict.END_LEFT, id="finished and forgotten"),
    ],
)
def test_the_rules_say(facts: Facts, now: float, verdict: Verdict) -> None:
    assert watchdog.decide(facts, LIMITS, now) is verdict


@pytest.mark.parametrize("facts", [Facts(0, 0), Facts(0, 0, job_at=1)])
def test_a_limit_of_zero_is_no_limit(facts: Facts) -> None:
    assert watchdog.decide(facts, Limits(0, 0, 0), 1e9) is Verdict.GO_ON


def test_pauses_double_with_jitter_up_to_their_limit_and_begin_afresh_after_a_success() -> None:
    backoff = client.Backoff(0.5, 30, random.Random(3))
    pauses = [backoff.pause() for _ in range(12)]
    for pause, step in zip(pauses, [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30], strict=True):
        assert step / 2 <= pause <= step
    assert len(set(pauses)) == len(pauses)
    backoff.reset()
    assert backoff.pause() <= 0.5
