from __future__ import annotations

import pytest

from runnerd.agent import lines
from runnerd.agent.lines import Sight, Sighting


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("2026-11-23 10:00:00Z: Listening for Jobs", Sighting(Sight.READY)),
        ("2026-11-23 10:00:01Z: Running job: train (gpu)", Sighting(Sight.STARTED, "train (gpu)")),
        ("Running job: train", Sighting(Sight.STARTED, "train")),
        ("2026-11-23 10:00:09Z: Job train completed with result: Succeeded", Sighting(Sight.ENDED, "succeeded")),
        ("2026-11-23 10:00:09Z: Job a b completed with result: Canceled", Sighting(Sight.ENDED, "canceled")),
        ("Job x completed with result: SucceededWithIssues\r", Sighting(Sight.ENDED, "succeeded")),
        ("2026-11-23 10:00:09Z: Job x completed with result: Abandoned", Sighting(Sight.ENDED, "abandoned")),
        ("The runner no longer exists on the server. Cleaning up local configuration.", Sighting(Sight.GONE)),
        ("Registration 5d1f0f7e was not found.", Sighting(Sight.GONE)),
        ("my script says: Running job: nothing", None),
        ("√ Connected to GitHub", None),
        ("", None),
    ],
)
def test_the_listener_tells(line: str, seen: Sighting | None) -> None:
    assert lines.read("github", line) == seen


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (
            '{"job":42,"level":"info","msg":"Checking for jobs... received","repo_url":"x"}',
            Sighting(Sight.STARTED, "42"),
        ),
        (
            "\x1b[0;mChecking for jobs... received              \x1b[0;m  \x1b[0;mjob\x1b[0;m=42 runner=abc",
            Sighting(Sight.STARTED, "42"),
        ),
        ('{"duration_s":1.5,"job":42,"level":"info","msg":"Job succeeded"}', Sighting(Sight.ENDED, "succeeded")),
        ("Job succeeded      duration_s=1.5 job=42 project=1 runner=abc", Sighting(Sight.ENDED, "succeeded")),
        (
            '{"duration_s":1,"job":42,"msg":"Job failed: exit status 1, Job succeeded"}',
            Sighting(Sight.ENDED, "failed"),
        ),
        ("WARNING: Job failed: exit status 1", None),
        ("Job failed: canceled        duration_s=3 job=42", Sighting(Sight.ENDED, "canceled")),
        ('{"duration_s":1,"job":42,"msg":"Job failed (system failure): aborted"}', Sighting(Sight.ENDED, "failed")),
        (
            '{"level":"info","msg":"Starting runner for https://gitlab.example with token abc ..."}',
            Sighting(Sight.READY),
        ),
        ('{"level":"error","msg":"Checking for jobs... forbidden","status":"403"}', Sighting(Sight.GONE)),
        ('{"level":"error","msg":"Checking for jobs... failed","job":3}', None),
        ('{"broken', None),
        ("[1, 2]", None),
    ],
)
def test_run_single_tells(line: str, seen: Sighting | None) -> None:
    assert lines.read("gitlab", line) == seen
