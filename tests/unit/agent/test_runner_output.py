from __future__ import annotations

import pytest

from runnerd.agent import runner_output
from runnerd.agent.runner_output import Event, Kind


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("2026-11-23 10:00:00Z: Listening for Jobs", Event(Kind.READY)),
        ("2026-11-23 10:00:01Z: Running job: train (gpu)", Event(Kind.STARTED, "train (gpu)")),
        ("Running job: train", Event(Kind.STARTED, "train")),
        ("2026-11-23 10:00:09Z: Job train completed with result: Succeeded", Event(Kind.ENDED, "succeeded")),
        ("2026-11-23 10:00:09Z: Job a b completed with result: Canceled", Event(Kind.ENDED, "canceled")),
        ("Job x completed with result: SucceededWithIssues\r", Event(Kind.ENDED, "succeeded")),
        ("2026-11-23 10:00:09Z: Job x completed with result: Abandoned", Event(Kind.ENDED, "abandoned")),
        ("The runner no longer exists on the server. Cleaning up local configuration.", Event(Kind.GONE)),
        ("Registration 5d1f0f7e was not found.", Event(Kind.GONE)),
        ("my script says: Running job: nothing", None),
        ("√ Connected to GitHub", None),
        ("", None),
    ],
)
def test_the_listener_tells(line: str, seen: Event | None) -> None:
    assert runner_output.read("github", line) == seen


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (
            '{"job":42,"level":"info","msg":"Checking for jobs... received","repo_url":"x"}',
            Event(Kind.STARTED, "42"),
        ),
        (
            "\x1b[0;mChecking for jobs... received              \x1b[0;m  \x1b[0;mjob\x1b[0;m=42 runner=abc",
            Event(Kind.STARTED, "42"),
        ),
        ('{"duration_s":1.5,"job":42,"level":"info","msg":"Job succeeded"}', Event(Kind.ENDED, "succeeded")),
        ("Job succeeded      duration_s=1.5 job=42 project=1 runner=abc", Event(Kind.ENDED, "succeeded")),
        (
            '{"duration_s":1,"job":42,"msg":"Job failed: exit status 1, Job succeeded"}',
            Event(Kind.ENDED, "failed"),
        ),
        ("WARNING: Job failed: exit status 1", None),
        ("Job failed: canceled        duration_s=3 job=42", Event(Kind.ENDED, "canceled")),
        ('{"duration_s":1,"job":42,"msg":"Job failed (system failure): aborted"}', Event(Kind.ENDED, "failed")),
        (
            '{"level":"info","msg":"Starting runner for https://gitlab.example with token abc ..."}',
            Event(Kind.READY),
        ),
        ('{"level":"error","msg":"Checking for jobs... forbidden","status":"403"}', Event(Kind.GONE)),
        ('{"level":"error","msg":"Checking for jobs... failed","job":3}', None),
        ('{"broken', None),
        ("[1, 2]", None),
    ],
)
def test_run_single_tells(line: str, seen: Event | None) -> None:
    assert runner_output.read("gitlab", line) == seen
